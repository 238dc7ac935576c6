"""Fake distributions can be installed here."""

from installing import install

__all__ = ["install"]
