"""`HostWaits`: how often a step would wait for an accelerator, told without one, and how many operations it starts.

Tensors on the CPU are taken to be on a device, unless they have come from it by one of the copies that are counted, or
were made from Python values without a device. So what is noted is the same on every machine.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZED_BY_VALUES = {
    "_linalg_eigh",
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "item",
    "masked_select",
    "multinomial",
    "nonzero",
    "nonzero_numpy",
    "unique_consecutive",
    "unique_dim",
}
"""Operations whose outcome, or its shape, the host must know: they wait on every device."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
HOST = torch.device("cpu", 0)
"""What a tensor on the host calls its device, unlike those that are taken to be on another."""

MAKERS = {"arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "ones", "rand", "tensor", "zeros"}
COPIED_FROM_LISTS = {"torch.tensor", "torch.as_tensor", "torch.Tensor.new_tensor"}


class HostWaits:
    """Notes the lines at which the host waits for a device within a block; `operations` counts what the device is told.

    Examples:
        >>> with HostWaits() as found:
        ...     values = torch.ones(3)
        ...     positive = bool(values.sum() > 0)
        >>> found.lines
        []
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.operations = 0
        self._on_host: dict[int, Tensor] = {}
        self._modes = (_Calls(self), _Operations(self))

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def note(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/dskd_" in frame.filename]
        at = f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else "the backward pass"
        self.lines.append(f"{what} at {at}")

    def is_on_host(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._on_host

    def put_on_host(self, made: Any) -> None:
        for tensor in tensors_in(made):
            self._on_host[tensor.untyped_storage().data_ptr()] = tensor

    def put_on_device(self, tensor: Tensor) -> None:
        self._on_host.pop(tensor.untyped_storage().data_ptr(), None)


class _Calls(TorchFunctionMode):
    """Sees the calls that copy between host and device, which on a CPU are none."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        waits, name = self._waits, resolve_name(func) or getattr(func, "__name__", "")
        short = name.rpartition(".")[2]
        own = next((arg for arg in args if isinstance(arg, Tensor)), None)
        if name.endswith("device.__get__") and own is not None:
            return HOST if waits.is_on_host(own) else func(*args, **kwargs)
        if short in ("cpu", "tolist", "numpy") and own is not None:
            if own.numel() and not waits.is_on_host(own):
                waits.note(short)
            if short == "cpu":
                copy = own.detach().clone()
                waits.put_on_host(copy)
                return copy
        if short == "to" and own is not None and waits.is_on_host(own):
            target = kwargs.get("device", next((arg for arg in args if isinstance(arg, torch.device)), None))
            if target not in (None, HOST):
                if not kwargs.get("non_blocking"):
                    waits.note("to(device) without non_blocking")
                copy = func(*args, **{**kwargs, "copy": True})
                waits.put_on_device(copy)
                return copy
        made = func(*args, **kwargs)
        if kwargs.get("device") in (None, "cpu", HOST) and short in MAKERS and own is None:
            waits.put_on_host(made)
        elif name in COPIED_FROM_LISTS:
            waits.note(short)
        return made


class _Operations(TorchDispatchMode):
    """Sees every operation, those of the backward pass included."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        waits = self._waits
        given = list(tensors_in((args, kwargs)))
        on_host = [tensor for tensor in given if waits.is_on_host(tensor)]
        # A number in a call is a tensor here, without dimensions and of no place.
        elsewhere = [tensor for tensor in given if tensor.ndim and not waits.is_on_host(tensor)]
        if (any(tensor.ndim for tensor in on_host) and not elsewhere) or (on_host and len(on_host) == len(given)):
            made = func(*args, **kwargs)
            waits.put_on_host(made)
            return made
        name = func.overloadpacket.__name__
        if not given:
            pass  # made from no tensor, or from empty ones, which hold nothing to wait for
        elif name in SIZED_BY_VALUES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            waits.note(name)
        elif name in INDEXING and any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1])):
            waits.note(f"{name} by a mask")
        elif any(tensor.ndim for tensor in on_host):
            waits.note(f"{name} of tensors of which some are on the host")
        waits.operations += not func.is_view
        return func(*args, **kwargs)


def tensors_in(values: Any) -> Iterator[Tensor]:
    yield from (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor) and leaf.numel())
