"""Fake distributions can be installed here."""

from tests.helpers.installing import install

__all__ = ["install"]
