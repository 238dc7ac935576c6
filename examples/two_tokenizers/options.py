"""The command line."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from examples.two_tokenizers.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_options(arguments: Sequence[str] | None) -> tuple[Path, Settings]:
    """Return the output folder and the settings.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m examples.distil_two_tokenizers",
        description="Distil a language model into one with another tokenizer, and compare with no teacher at all.",
    )
    parser.add_argument("--output", type=_writable, default="output", help="folder of the results (default: output)")
    parser.add_argument("--steps", type=_positive, help="optimizer steps of each student")
    parser.add_argument("--teacher-steps", type=_positive, help="optimizer steps of the teacher")
    parser.add_argument("--seeds", type=int, nargs="+", help="one student of every arm for each, e.g. --seeds 1 2 3")
    parser.add_argument("--quick", action="store_true", help="tiny models, for seconds, to see that everything works")
    options = parser.parse_args(arguments)

    settings = Settings.quick() if options.quick else Settings()
    given = {"steps": options.steps, "teacher_steps": options.teacher_steps}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    if options.seeds:
        settings = replace(settings, seeds=tuple(dict.fromkeys(options.seeds)))
    return options.output, settings


def _writable(text: str) -> Path:
    """Make the folder now: what takes minutes is not to be lost for want of one."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"expected a folder to write to, got {text}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a folder to write to, got {text}, which may not be written")
    return folder


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number of steps, got {text}")
    return value
