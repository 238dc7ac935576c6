"""The papers' own experiments, a row of their tables at a time: ``python -m examples.paper --help``."""
