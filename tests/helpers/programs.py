"""Programs in interpreters of their own, in which nothing is imported but torch: for tests of what imports bring along.

As a program it is where they are forked from, so that torch is imported once for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def run_program(program: str, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program as ``python -c`` does.

    Args:
        program: Python code.
        *arguments: what it finds in ``sys.argv[1:]``.
        path: where it looks for modules and distributions first, as with ``PYTHONPATH``.

    Returns:
        Its exit code and what it has written.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"program": program, "arguments": arguments, "path": [] if path is None else [str(path)]}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return subprocess.CompletedProcess(program, *json.loads(server.stdout.readline()))


@cache
def _server() -> subprocess.Popen[str]:
    # It ends when its input does, which is when this process ends.
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _run_forked(program: str, arguments: list[str], path: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            sys.argv[1:] = arguments
            sys.path[:1] = ["", *path]
            os._exit(_exit_code(program))
        _, status = os.waitpid(child, 0)
        written = []
        for file in (output, errors):
            file.seek(0)
            written.append(file.read().decode())
        return os.waitstatus_to_exitcode(status), written[0], written[1]


def _exit_code(program: str) -> int:
    """Run a program to its end, and return what an interpreter would exit with."""
    code: Any = None
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        sys.stderr.write(f"{code}\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


if __name__ == "__main__":
    import torch  # noqa: F401

    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run_forked(**json.loads(line))) + "\n")
        sys.stdout.flush()
