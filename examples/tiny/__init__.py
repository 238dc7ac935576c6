"""A tiny student and teacher with real tokenizers and real text, for examples that run in seconds."""

from examples.tiny.pair import Pair, tiny_pair

__all__ = ["Pair", "tiny_pair"]
