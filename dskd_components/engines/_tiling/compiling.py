"""Functions over blocks of logits, compiled when they are first called, checked, and left as written where need be.

The operations on single logits are some twenty passes over a block, each of which an accelerator makes in a kernel of
its own. Compiled they are a few. Nothing depends on it: what cannot be traced or compiled, or gives other numbers, is
called as it is written.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from torch import Tensor

    from dskd_components.engines._tiling.row_functions import RowFunction

BACKEND: Final = "inductor"
"""What compiles."""

ROWS: Final = 9
"""Rows that a function is traced with and checked on, at most."""

TOLERANCE: Final = 1e-4
"""How far a compiled function may be off, as a share of the largest number of each result."""

MOST_VALUES: Final = 4
"""How many functions are compiled that differ in the options of their components alone. An option that follows a
schedule has another value in each step, and all would be compiled anew."""


PARTS: Final = 4
"""In how many parts rows are taken where a function is called as it is written."""

_functions: dict[Hashable, Callable[..., tuple[Tensor, ...]] | None] = {}
"""By function and kind of arguments what was compiled; None: it is called as it is written."""

_of_kind: Counter[Hashable] = Counter()


def compiles_on(device: torch.device) -> bool:
    """Return whether something is gained on a device: not on a CPU, whose caches keep a block from pass to pass."""
    return device.type == "cuda"


def description() -> str:
    """Return how many functions were compiled in this process, for reports; nothing if none was to be."""
    if not _functions:
        return ""
    compiled = sum(found is not None for found in _functions.values())
    left = len(_functions) - compiled
    return f"{compiled} compiled functions" + (f", {left} that could not be compiled" if left else "")


def call(function: RowFunction, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Call a function, compiled; it is compiled once in a process for each type and width of its arguments.

    Args:
        function: what is called.
        tensors: ``[n, ...]`` each.

    Returns:
        What the function returns.
    """
    if len(tensors[0]) == 0 or torch._C._len_torch_dispatch_stack():  # somebody counts or records operations
        return _as_written(function, tensors)
    rows = _rows_for_any(tensors)
    of_rows = tuple((tensor.shape[1:], tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
    arguments = (of_rows, 0 if rows else len(tensors[0]))
    try:
        is_known = (function, arguments) in _functions
    except TypeError:
        _say_once(function, arguments, "an option cannot be hashed, as a list or a dictionary cannot; make it a tuple")
        return _as_written(function, tensors)
    if not is_known:
        kind = (function.kind, arguments)
        if _of_kind[kind] >= MOST_VALUES:
            _say_once(function, arguments, f"{MOST_VALUES} of it with other options were compiled in this process")
            return _as_written(function, tensors)
        _of_kind[kind] += 1
        _functions[function, arguments] = None
        return _first_call(function, arguments, tensors, rows)
    found = _functions[function, arguments]
    return _as_written(function, tensors) if found is None else found(*tensors)


def _say_once(function: RowFunction, arguments: Hashable, why: str) -> None:
    """Warn that a function is called as it is written, once for each kind of function and arguments."""
    key = (function.kind, arguments, why)
    if not _of_kind[key]:
        _of_kind[key] = 1
        warnings.warn(
            f'The engine\'s option "compiled" has no effect on {function.kind}: {why}. Results are the same, steps are '
            "slower.",
            stacklevel=3,
        )


def _as_written(function: RowFunction, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Call a function a part of the rows at a time: it makes more tensors than one that is compiled."""
    size = max(1, -(-len(tensors[0]) // PARTS))
    parts = zip(*(tensor.split(size) for tensor in tensors), strict=True)
    return tuple(torch.cat(found) for found in zip(*(function(*part) for part in parts), strict=True))


def _rows_for_any(tensors: Sequence[Tensor]) -> int:
    """Return a number of rows that stands for any: a size that nothing else has. 0: the rows are too few."""
    others = {size for tensor in tensors for size in tensor.shape[1:]}
    return next((rows for rows in range(min(ROWS, len(tensors[0])), 2, -1) if rows not in others), 0)


def _first_call(function: RowFunction, arguments: Hashable, tensors: Sequence[Tensor], rows: int) -> tuple[Tensor, ...]:
    """Compile a function for arguments of a kind, and call it; as it is written, if that fails."""
    before = {place: tensors[place].clone() for place in function.written}
    checked = slice(-(rows or len(tensors[0])), None)
    few = [before.get(place, tensor)[checked].clone() for place, tensor in enumerate(tensors)]
    traced_with = [tensor.clone() for tensor in few]
    expected = [*function(*few), *(few[place] for place in function.written)]
    try:
        # What is compiled is fitted to the size of its first arguments: these are all rows.
        given = [tensor.detach() for tensor in tensors]
        traced = _traced(function, traced_with, any_rows=rows > 0)
        if rows:
            for tensor in given:
                torch._dynamo.mark_dynamic(tensor, 0)
        compiled: Callable[..., tuple[Tensor, ...]] = torch.compile(traced.forward, backend=BACKEND, fullgraph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how the compiler does it
            found = compiled(*given)
        made = [*found, *(tensors[place] for place in function.written)]
        _require_equal([tensor[checked] for tensor in made], expected)
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # a compiler may raise anything, and the step goes on without it
        first_line = f"{type(problem).__name__}: {problem}".splitlines()[0]
        warnings.warn(
            f'The engine\'s option "compiled" has no effect on {function.kind}, which could not be compiled. Results '
            f'are the same, steps are slower. "compiled": false does without the attempt. {first_line[:300]}',
            stacklevel=2,
        )
        for place, values in before.items():
            tensors[place].copy_(values)
        return _as_written(function, tensors)
    _functions[function, arguments] = compiled
    return found


def _traced(function: RowFunction, few: Sequence[Tensor], *, any_rows: bool) -> torch.fx.GraphModule:
    """Return the operations of a function.

    Raises:
        ValueError: they are not the same for any number of rows.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # loads what no other step needs

    traced = make_fx(lambda *given: function(*given), tracing_mode="symbolic")(*few)
    if any_rows:
        first = next(node for node in traced.graph.nodes if node.op == "placeholder")
        rows: Any = first.meta["val"].shape[0].node
        is_any = rows.expr.is_symbol and not any(
            rows.expr in guard.expr.free_symbols for guard in rows.shape_env.guards
        )
        if not is_any:
            raise ValueError("it looks at the number of rows")
    return traced


def _require_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        most = float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 0.0
        if not torch.allclose(ours, theirs, rtol=0.0, atol=TOLERANCE * most + 1e-6, equal_nan=True):
            raise ValueError("it gave other numbers")
