"""Text-level alignment of the tokens of two tokenizers: no tensors, no models."""
