"""Cases as text: few digits, one argument a line."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping


def number(value: Tensor | float) -> str:
    """Return a number with four significant digits.

    Examples:
        >>> import torch
        >>> number(torch.tensor(0.69314718)), number(-2.0), number(float("-inf"))
        ('0.6931', '-2', '-inf')
    """
    plain = value.item() if isinstance(value, Tensor) else value
    return str(plain) if isinstance(plain, bool | int) else f"{plain:.4g}"


def numbers_apart(found: Tensor | float, expected: Tensor | float) -> tuple[str, str]:
    """Return two different numbers with as many significant digits, four or more, as it takes to tell them apart.

    Examples:
        >>> numbers_apart(0.25, 0.5)
        ('0.25', '0.5')
        >>> numbers_apart(1 / 3, 1 / 3 + 1e-6)
        ('0.333333', '0.333334')
    """
    plain = [value.item() if isinstance(value, Tensor) else value for value in (found, expected)]
    if any(isinstance(value, bool | int) for value in plain):
        return number(plain[0]), number(plain[1])
    texts = (tuple(f"{value:.{digits}g}" for value in plain) for digits in range(4, 18))
    first, second = next((pair for pair in texts if pair[0] != pair[1]), (f"{plain[0]:.17g}", f"{plain[1]:.17g}"))
    return first, second


def tensor_as_text(tensor: Tensor) -> str:
    """Return a tensor as nested lists of numbers with four significant digits.

    Examples:
        >>> import torch
        >>> tensor_as_text(torch.tensor([[0.5, 2 / 3], [1e4, -float("inf")]]))
        '[[0.5, 0.6667], [1e+04, -inf]]'
    """
    if tensor.ndim == 0:
        return number(tensor)
    return "[" + ", ".join(tensor_as_text(row) for row in tensor.detach()) + "]"


def case_as_text(case: Mapping[str, Any], *, indent: str = "  ") -> str:
    """Return a law's further arguments, one a line.

    Args:
        case: the arguments by name: tensors, numbers, states, batches.
        indent: what stands before each line.

    Examples:
        >>> import torch
        >>> print(case_as_text({"student_logits": torch.tensor([[0.0, 1.0]]), "shift": 3.0}))
          student_logits = [[0, 1]]
          shift = 3
    """
    return "\n".join(line for name, value in case.items() for line in _lines(name, value, indent))


def _lines(name: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Tensor):
        return [f"{indent}{name} = {tensor_as_text(value)}"]
    if is_dataclass(value) and any(isinstance(getattr(value, field.name), Tensor) for field in fields(value)):
        return [
            f"{indent}{name}.{part} = {tensor_as_text(found)}"
            for part, found in _small_tensors(value, deep="." in name)
        ]
    if is_dataclass(value):
        return [
            line
            for field in fields(value)
            for line in _lines(f"{name}.{field.name}", getattr(value, field.name), indent)
        ]
    shown = number(value) if isinstance(value, float) else repr(value)
    return [f"{indent}{name} = {shown}"]


def _small_tensors(value: Any, *, deep: bool) -> list[tuple[str, Tensor]]:
    """The tensors that a reader can take in: those of integers and flags, and short ones of floats, not too deep."""
    tensors = [(field.name, getattr(value, field.name)) for field in fields(value)]
    return [
        (name, tensor)
        for name, tensor in tensors
        if isinstance(tensor, Tensor) and (not tensor.is_floating_point() or (tensor.numel() <= 24 and not deep))
    ]


def digits_are_left_out(case: Mapping[str, Any]) -> bool:
    """Return whether the text of a case is rounded, so that it may not show what the case itself shows.

    Examples:
        >>> import torch
        >>> digits_are_left_out({"x": torch.tensor([0.5])}), digits_are_left_out({"x": torch.tensor([1 / 3])})
        (False, True)
    """
    tensors = [value.double() for value in case.values() if isinstance(value, Tensor)]
    return any(
        float(number(entry)) != entry.item() for tensor in tensors for entry in tensor[tensor.isfinite()].flatten()
    ) or any(is_dataclass(value) for value in case.values())
