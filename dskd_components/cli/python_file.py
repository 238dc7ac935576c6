"""The components that a Python file defines. The file is run, so only a user's own word names one."""

from __future__ import annotations

import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING

from dskd_components.components.component import Component
from dskd_components.errors import ConfigurationError, class_and_message

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def components_in_file(path: Path) -> list[type[Component]]:
    """Run a Python file and return the component classes that it defines itself and that have a name.

    Args:
        path: the file.

    Raises:
        ConfigurationError: it cannot be read or run, or defines none.
    """
    module = _run(path)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Component) and value.__module__ == module.__name__
    ]
    concrete = [cls for cls in dict.fromkeys(found) if not inspect.isabstract(cls)]
    if not concrete:
        unfinished = "".join(
            f" {cls.__name__} must still define {', '.join(sorted(cls.__abstractmethods__))}." for cls in found
        )
        raise ConfigurationError(
            f"{path} defines no component: expected a subclass of Distance, Aligner, Projector, Space or Schedule."
            f"{unfinished}"
        )
    for cls in concrete:
        try:
            cls.component_name()
        except TypeError as error:
            raise ConfigurationError(f"{path}: {error}") from error
    return concrete


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file.")
    # A name that nothing else has: the file must neither hide a module nor be hidden by one.
    name = f"dskd_checked_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file: expected a name that ends in .py.")
    module = module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks types up there
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigurationError(f"{path} cannot be run: {class_and_message(error)}") from error
    return module
