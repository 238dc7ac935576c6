"""Plugin of pytest that comes with `dskd_components`: an option, and failures of laws as plain text.

Pytest loads it wherever the distribution is installed, so it imports nothing but pytest: neither torch nor the library.
"""

from __future__ import annotations

import argparse
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--dskd-max-examples`` and ``--dskd-device``.

    Args:
        parser: pytest's.
    """
    group = parser.getgroup("dskd", "laws of dskd_components")
    group.addoption(
        "--dskd-max-examples",
        type=_examples,
        metavar="N",
        help="try each law of laws_of(...) on N cases, whatever the test says",
    )
    group.addoption(
        "--dskd-device",
        metavar="DEVICE",
        help="make tensors on this device unless a test says otherwise: cuda, for example",
    )


def _examples(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer, 1 or more, got {text!r}")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Set the default device of torch, if ``--dskd-device`` asks for one.

    Args:
        config: pytest's.

    Raises:
        UsageError: this PyTorch has no such device.
    """
    device = config.getoption("--dskd-device")
    if device:
        import torch

        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            expected = "a device that this PyTorch can use, such as cpu or cuda"
            raise pytest.UsageError(f"--dskd-device {device}: expected {expected}: {error}".splitlines()[0]) from error
        torch.set_default_device(device)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a broken law as its message, which says everything, in place of the code that found it.

    Args:
        item: the test.
        call: how it went.
    """
    report = yield
    error = None if call.excinfo is None else call.excinfo.value
    # By name: importing the class would import torch into every run of pytest.
    if type(error).__name__ == "LawViolationError" and type(error).__module__.startswith("dskd_components."):
        assert error is not None
        cause = error.__cause__
        shown = [] if cause is None else ["", *"".join(traceback.format_exception(cause)).splitlines()]
        report.longrepr = "\n".join([str(error), *shown])
    return report
