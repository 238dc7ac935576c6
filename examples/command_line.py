"""The command line of an example: ``--help`` says what it shows, and what it has no option for is an error."""

from __future__ import annotations

import argparse
import sys


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser without options; add those that the example has.

    Args:
        description: the example's ``__doc__``.

    Examples:
        >>> command_line("Ten % of it.").parse_args([])
        Namespace()
    """
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return argparse.ArgumentParser(
        prog=None if started is None else f"python -m {started.name.removesuffix('.__main__')}",
        description=None if description is None else description.replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
