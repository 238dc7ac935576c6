"""Processes that are there at once: forked from one that has imported what tests need, and done nothing else."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext, ForkServerProcess

# A new interpreter would import these for seconds, and so would each of its processes.
PRELOADED = (
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.nn.parallel",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "dskd_components",
    "dskd_components.builtin",
    "dskd_components.testing",
    "pytest",
)
TIMEOUT = 120


def forkserver() -> ForkServerContext:
    """Where such processes come from, as a context of `multiprocessing`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def started(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Call a function in a process of its own, on one thread; arguments and function are pickled."""
    process: ForkServerProcess = forkserver().Process(target=_call, args=(function, arguments))
    process.start()
    return process


def exit_code(function: Callable[..., None], *arguments: Any) -> int | None:
    """Call a function in a process of its own and wait for its end; return the exit code, that of a signal below 0."""
    process = started(function, *arguments)
    process.join(timeout=TIMEOUT)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{function.__name__} has not ended within {TIMEOUT} seconds")
    return process.exitcode


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    function(*arguments)
