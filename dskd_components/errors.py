"""The errors and warnings that the library raises.

Every error says what was expected, what came, and what to do. All of them are `ValueError`s too, so that
pydantic can attach the path of the offending field when one is raised while a spec is read.
"""


class DSKDError(Exception):
    """Base class of every error that `dskd_components` raises itself."""


class InputError(DSKDError, ValueError):
    """A tensor, model or batch handed to the library does not fit; the message names it."""


class ConfigurationError(DSKDError, ValueError):
    """A spec asks for something that the rest of the set-up cannot give; the message names the field."""


class CheckpointError(DSKDError, ValueError):
    """Saved projectors cannot be written, read, or used with these models; the message says what differs."""


class UnknownComponentError(DSKDError, LookupError, ValueError):
    """No installed plugin registers a component of this kind under this name."""


class PluginError(DSKDError, ValueError):
    """A plugin broke the contract; the message names the plugin and its distribution."""


class PluginWarning(UserWarning):
    """A plugin was left out because it is broken; everything else keeps working."""


class DSKDWarning(UserWarning):
    """Something is legal but very likely not what was meant."""
