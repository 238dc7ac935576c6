"""The exceptions this library raises."""


class DSKDError(Exception):
    """Base of every error that the library raises on purpose."""


class InputError(DSKDError, ValueError):
    """An argument or a batch that the library cannot work with; the message says what was expected."""
