"""From token values to the loss: what terms are multiplied with, sums and counts, and the one division last."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsFloat

import torch
from torch import Tensor

from dskd_components.components.schedule import is_weight
from dskd_components.components.terms import Tally
from dskd_components.errors import InputError
from dskd_components.models.host_reads import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from dskd_components.components.terms import Denominator, TokenTerm


@dataclass(frozen=True, eq=False, kw_only=True)
class LossWeights:
    """``loss = cross_entropy * ce + distillation * (sum of by_term[name] * (the term's own weight) * term)``.

    Args:
        cross_entropy: weight of the student's own cross entropy. None: it is not computed, because another call has it.
        distillation: weight of all other terms together.
        by_term: further weights by name of a term, 1 for others.

    Raises:
        InputError: a weight is not a plain number, finite and not negative.

    Examples:
        >>> LossWeights(cross_entropy=0.5, distillation=0.5, by_term={"t2s_kd": 2.0}).of("t2s_kd", 3.0)
        6.0
    """

    cross_entropy: float | None
    distillation: float
    by_term: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: dict[str, object] = {"cross_entropy": self.cross_entropy, "distillation": self.distillation}
        if self.cross_entropy is None:
            del given["cross_entropy"]
        for name, weight in (given | {f"by_term[{name!r}]": weight for name, weight in self.by_term.items()}).items():
            if not is_weight(weight):
                raise InputError(
                    f"LossWeights.{name}: expected a plain number, finite and not negative, got {weight!r}. Weights "
                    "are constants, which nothing learns."
                )

    def of(self, name: str, own: float) -> float:
        """Return the weight of a term among those of distillation.

        Args:
            name: of the term.
            own: the weight that it brings along.
        """
        return own * self.by_term.get(name, 1.0)

    def in_loss(self, name: str, own: float) -> float:
        """Return what a term of distillation is multiplied with in the loss; at 0 it has no part in it.

        Args:
            name: of the term.
            own: the weight that it brings along.
        """
        return self.distillation * self.of(name, own)


@dataclass(frozen=True, eq=False)
class Reduction:
    """How the terms of one batch are reduced.

    Args:
        kind: ``"mean"`` or ``"sum"``.
        scored: scalar, integer: the scored student tokens of this batch.
        num_items: scalar: what a mean divides by. Over micro-batches and ranks it is the same number, the scored
            student tokens of all of them, so that their gradients add up to the gradient of the whole.
        checks: what must hold for ``num_items``, to be read with other checks.
    """

    kind: Literal["mean", "sum"]
    scored: Tensor
    num_items: Tensor
    checks: Sequence[Check] = ()

    @classmethod
    def of(cls, kind: Literal["mean", "sum"], scored: Tensor, num_items_in_batch: Tensor | float | None) -> Reduction:
        """Return the reduction of a batch.

        Args:
            kind: ``"mean"`` or ``"sum"``.
            scored: scalar, integer: the scored student tokens of this batch.
            num_items_in_batch: the caller's denominator, a number of any type; or None for ``scored``.

        Raises:
            InputError: a denominator is given for a sum, or is not a single number. That a tensor of one is not
                negative, and finite, and not 0 where tokens are scored, is left to `checks`.
        """
        if num_items_in_batch is None:
            return cls(kind, scored, scored)
        if kind == "sum":
            raise InputError(
                'num_items_in_batch: the spec has reduction="sum", which divides by nothing. Leave it out, or use '
                'reduction="mean".'
            )

        def complain() -> NoReturn:
            raise InputError(
                "num_items_in_batch: expected the number of scored student tokens of all micro-batches and ranks, got "
                f"{num_items_in_batch!r}."
            )

        num_items = _as_tensor(num_items_in_batch, scored.device)
        if num_items is None or num_items.numel() != 1:
            complain()
        num_items = num_items.reshape(())
        # A count of 0 is of a window in which nothing is scored. Others may be smaller than a batch's own, as parts of
        # averages are, but not this one: it would leave a sum in the place of a mean.
        uncounted = (num_items == 0) & (scored > 0)
        return cls(kind, scored, num_items, [Check(~num_items.isfinite() | (num_items < 0) | uncounted, complain)])

    def reduced(self, total: Tensor, denominator: Denominator, count: Tensor) -> Tensor:
        """Return a term's value, or the part of it that a part of its sum makes.

        Args:
            total: scalar: the sum of the values of the tokens that count, or of some of them.
            denominator: what the term's mean divides by.
            count: scalar, integer: how many tokens count in the whole batch.
        """
        if self.kind == "sum":
            return total
        # Nothing scored anywhere leaves 0 / 1: a zero that keeps its graph.
        divisor = self._divisor.to(total.dtype)
        if denominator == "scored":
            return total / divisor
        return total / count.clamp_min(1) * (self.scored.to(total.dtype) / divisor)

    def of_batch(self, value: Tensor) -> Tensor:
        """Return what a number that stands for the whole batch, as a mean over its tokens, adds to the loss.

        It counts as often as the batch has scored tokens, so that over micro-batches and ranks a mean over all is left.

        Args:
            value: one number.
        """
        total = value.reshape(()).to(self.scored.device) * self.scored
        return self.reduced(total, "scored", self.scored)

    @cached_property
    def _divisor(self) -> Tensor:
        return self.num_items.where(self.num_items > 0, 1)

    def values(self, terms: Mapping[str, TokenTerm]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the values of all terms, part of the graph, and the numbers of tokens that count in them, by name."""
        values, counts = {}, {}
        for name, term in terms.items():
            tally = TermCounts.of(term).tally(term)
            values[name] = self.reduced(tally.total, term.denominator, tally.count)
            counts[name] = tally.count
        return values, counts


def weighted_sum(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor | None:
    """Return the sum of values times weights, without those of weight 0, which may be infinite; None without any.

    Args:
        values: by name, scalars.
        weights: by the same names.
    """
    parts = [weights[name] * value for name, value in values.items() if weights[name] != 0]
    return torch.stack(parts).sum() if parts else None


def _as_tensor(number: object, device: torch.device) -> Tensor | None:
    """Return a number of any type in the widest precision of a device; None if it is no real number."""
    # Halves would round a count, and a wide scalar would widen the loss: terms narrow it to their own type.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if isinstance(number, Tensor):
        return (
            None if number.is_complex() else number.detach().to(device, dtype, non_blocking=number.device.type == "cpu")
        )
    if isinstance(number, str | bytes) or not isinstance(number, SupportsFloat):
        return None
    try:
        return torch.full((), float(number), device=device, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return None


@dataclass(frozen=True, eq=False)
class TermCounts:
    """How many rows of a term count, of all rows that its batch has.

    Args:
        kept: scalar, integer: the eligible rows that are kept.
        eligible: scalar, integer: the rows among which they are chosen.
        widen_above: the fraction of the eligible rows above which all of them count; None: never.
    """

    kept: Tensor
    eligible: Tensor
    widen_above: float | None

    @classmethod
    def of(cls, term: TokenTerm) -> Self:
        """Return the numbers of one term's rows."""
        if _takes_all(term):
            everything = _rows(term)
            return cls(everything, everything, term.widen_above)
        keep, eligible = masks(term)
        return cls(keep.sum(), eligible.sum(), term.widen_above)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.kept + other.kept, self.eligible + other.eligible, self.widen_above)

    @property
    def widened(self) -> Tensor:
        """Scalar, bool: whether all eligible rows count."""
        if self.widen_above is None:
            return torch.zeros_like(self.kept, dtype=torch.bool)
        # Compared strictly, and in float64: at the threshold itself the filter still holds.
        return self.kept.double() / self.eligible.clamp_min(1) > self.widen_above

    @property
    def count(self) -> Tensor:
        """Scalar, integer: the rows that count."""
        return self.eligible.where(self.widened, self.kept)

    def tally(self, term: TokenTerm) -> Tally:
        """Return the sum of a term's values over those of its rows that count, with their number.

        Args:
            term: all rows of the batch or a part of them.
        """
        if _takes_all(term):
            return Tally(term.values.sum(), _rows(term))
        keep, eligible = masks(term)
        counting = keep if self.widen_above is None else keep | (eligible & self.widened)
        return Tally(term.values.where(counting, 0.0).sum(), counting.sum())


def _takes_all(term: TokenTerm) -> bool:
    return term.keep is None and term.eligible is None


def _rows(term: TokenTerm) -> Tensor:
    return term.values.new_full((), len(term.values), dtype=torch.int64)


def masks(term: TokenTerm) -> tuple[Tensor, Tensor]:
    """Return ``[N]`` and ``[N]``, bool: the rows that a term keeps, and those among which it chooses."""
    everything = torch.ones_like(term.values, dtype=torch.bool)
    eligible = everything if term.eligible is None else term.eligible
    return (eligible if term.keep is None else term.keep & eligible), eligible


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, *inputs: Tensor) -> Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs[1:]]

    @staticmethod
    def jvp(ctx: Any, of_value: Tensor, *of_inputs: Tensor) -> Tensor:  # noqa: ARG004
        return of_value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        # Expanded: they take no memory.
        return upstream, *(torch.zeros((), dtype=dtype, device=at).expand(shape) for shape, dtype, at in ctx.like)


def with_zero_gradients(value: Tensor, tensors: Iterable[Tensor | None]) -> Tensor:
    """Return the value, with a graph through which each tensor gets a gradient of zero besides what it gets otherwise.

    A term of weight 0 is no part of the loss, since 0 times infinity is no number. Data parallelism still waits for the
    gradients of all parameters.

    Args:
        value: scalar.
        tensors: those that need no gradient are passed over.

    Examples:
        >>> x = torch.tensor([torch.inf], requires_grad=True)
        >>> with_zero_gradients(torch.tensor(1.0), [x]).backward()
        >>> x.grad
        tensor([0.])
    """
    learning = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    if not learning:
        return value
    found: Tensor = _ZeroGradients.apply(value, *learning)  # type: ignore[no-untyped-call]
    return found
