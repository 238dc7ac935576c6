"""Real tokenizers that installable packages ship, for tests and benchmarks that have no network."""
