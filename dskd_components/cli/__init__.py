"""``dskd``, the command line: one command a file, named as the command is.

`app` puts the commands together, `terminal` writes, `pretrained`, `python_file` and `sample_files` load what a command
is given, `options` describes components. Nothing but `main` is imported from elsewhere.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: what follows ``dskd``; None: what the user typed.

    Raises:
        SystemExit: always; 0 if all is well, 1 if the answer is no (a spec is not valid, a law does not hold, a name is
            unknown), 2 if the command was not understood.
    """
    try:
        from dskd_components.cli.app import run
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        sys.exit(
            f"dskd: the command line needs {error.name!r}, which comes with dskd-components but is not installed here. "
            "Install it with `pip install typer rich`."
        )
    run(arguments)
