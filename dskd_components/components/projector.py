"""`Projector`: maps hidden states of one model into the hidden space of the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import is_parametrized

from dskd_components.components.component import Component
from dskd_components.components.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dskd_components.models.head import Head
    from dskd_components.models.host_reads import Check
    from dskd_components.models.states import Side


@dataclass(frozen=True, eq=False, kw_only=True)
class ProjectorHeads:
    """The heads at both ends of a projection, and which of their rows are the same tokens.

    What is built for both models alike, as spaces and distances are, is given those from teacher to student, and finds
    each model's by `side`.

    Args:
        source: head of the model whose hidden states come in.
        target: head of the model whose space they go to.
        source_ids: ``[K]``, int64: tokens of the source vocabulary that the target has too. None: the two
            vocabularies are one.
        target_ids: ``[K]``, int64: the same tokens in the target's vocabulary.
        source_embedding: ``[V, width]``: the input embedding of the model at the source, where `build` is given it and
            it is known; else None.
        target_embedding: ``[V, width]``: the same of the model at the target.
        are_checked: whether somebody sees to `Projection.checks` of these heads. Otherwise a projection looks itself.
        source_side: whose head the source is.
        vocabularies: by side, what is known of the tokens, where something is built; see `vocabulary`.
    """

    source: Head
    target: Head
    source_ids: Tensor | None = None
    target_ids: Tensor | None = None
    source_embedding: Tensor | None = None
    target_embedding: Tensor | None = None
    are_checked: bool = False
    source_side: Side = "student"
    vocabularies: Mapping[Side, Vocabulary] | None = None

    def side(self, side: Side) -> Head:
        """Return the head of one model."""
        return self.source if side == self.source_side else self.target

    def shared_ids(self, side: Side) -> Tensor | None:
        """Return ``[K]``, int64: one model's ids of the tokens that both have. None: the two vocabularies are one."""
        return self.source_ids if side == self.source_side else self.target_ids

    def vocabulary(self, side: Side) -> Vocabulary:
        """Return one model's tokens: how many there are, and what they stand for where a tokenizer is known."""
        known = (self.vocabularies or {}).get(side)
        return Vocabulary(size=self.side(side).vocabulary_size) if known is None else known

    def shared_weights(self) -> tuple[Tensor, Tensor]:
        """Return ``[K, d_source]`` and ``[K, d_target]``: the head rows of the tokens that both sides have."""
        return self._shared(self.source.valid_weight, self.target.valid_weight)

    def shared_embeddings(self) -> tuple[Tensor, Tensor] | None:
        """Return ``[K, source width]`` and ``[K, target width]``: the input embeddings of the tokens that both have.

        None: an embedding is not known.
        """
        if self.source_embedding is None or self.target_embedding is None:
            return None
        return self._shared(
            self.source_embedding[: self.source.vocabulary_size], self.target_embedding[: self.target.vocabulary_size]
        )

    def _shared(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of the tokens that both sides have."""
        if self.source_ids is None or self.target_ids is None:
            size = min(len(source), len(target))
            return source[:size], target[:size]
        return source[self.source_ids], target[self.target_ids]


HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where a module keeps its hooks."""

GLOBAL_HOOKS: Final = tuple(f"_global{name}" for name in HOOKS)
"""Where PyTorch keeps the hooks of all modules."""


class Affine(NamedTuple):
    """An affine map ``h W^T + b``.

    Args:
        weight: ``[d_target, d_source]``, part of the graph.
        bias: ``[d_target]``, part of the graph, or None.
    """

    weight: Tensor
    bias: Tensor | None


class Projection(nn.Module, ABC):
    """The built projector, a part of the loss module; its parameters are trained and saved with it."""

    @abstractmethod
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        """Project hidden states.

        Args:
            hidden_states: ``[..., d_source]``, float32 or float64.
            heads: both heads as they are at this step, for projections that are a function of them.

        Returns:
            ``[..., d_target]``, same dtype.
        """

    def affine(self, heads: ProjectorHeads) -> Affine | None:
        """Return weight and bias if this projection is ``h W^T + b``, None if it is anything else.

        An engine that knows them may join the projection with the head behind it, where that is cheaper. It costs
        nothing to leave this out. It is not asked for where something else than this class decides what a call gives:
        hooks, parametrisations, or a subclass with a ``forward`` of its own and no ``affine``.

        Args:
            heads: as in `forward`.
        """
        del heads
        return None

    def checks(self, heads: ProjectorHeads) -> Sequence[Check]:  # noqa: ARG002
        """Return what must hold for heads, for the loss to read with other checks before it calls with them.

        A loss calls with heads of which ``are_checked`` is true; with others, `forward` and `affine` see to it.

        Args:
            heads: as in `forward`.
        """
        return ()

    @property
    def constant_bytes(self) -> int:
        """Memory of the tensors that the module holds besides its parameters and buffers, which preflight counts."""
        return 0

    def is_as_written(self) -> bool:
        """Return whether a call gives what the class says, and leaves nothing behind: nobody has changed this module.

        Hooks on it, on a module inside or on all modules, parametrisations, norms of `torch.nn.utils`, and methods that
        are assigned or overridden may do anything. An engine then calls it as often as the method is written down.
        """
        return not (
            any(getattr(torch_module, name) for name in GLOBAL_HOOKS)
            or any(_is_changed(module) for module in self.modules())
            or type(self).__call__ is not Projection.__call__
            or _owner(self, "forward") < _owner(self, "affine")
        )

    def __call__(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        """Project hidden states; see `forward`."""
        projected: Tensor = super().__call__(hidden_states, heads)
        return projected


def _is_changed(module: nn.Module) -> bool:
    assigned = module.__dict__
    return any(assigned[name] for name in HOOKS) or "forward" in assigned or is_parametrized(module)


def _owner(projection: Projection, method: str) -> int:
    """Return which of a projection's classes a method is of: 0 is its own, a base class has a larger number."""
    return next(number for number, base in enumerate(type(projection).__mro__) if method in vars(base))


class Projector(Component, ABC):
    """Options of a projector; `build` makes the module that does the work."""

    kind: ClassVar[str] = "projector"

    needs_heads: ClassVar[bool] = False
    """Whether `build` needs the two heads and the tokens that they share (an initialisation that is computed from
    them)."""

    uses_shared_tokens: ClassVar[bool] = False
    """Whether `build` makes use of the tokens that two vocabularies share where they are known, and can do without.
    `DSKDLoss.from_models` then looks for them; one that ``needs_heads`` need not say so."""

    needs_frozen_target: ClassVar[bool] = False
    """Whether what `build` makes holds only while the target's head stays as it was. The student's head is trained, so
    a spec refuses such a projector as its ``t2s_projector``."""

    example_sizes: ClassVar[tuple[tuple[int, int], ...]] = ()
    """The pairs ``(source_size, target_size)`` that the laws are tried with, for a projector that is not made for any
    two widths. Small ones will do. None given: any."""

    @abstractmethod
    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        """Return the module that maps width ``source_size`` to width ``target_size``.

        Args:
            source_size: width of the hidden states that come in.
            target_size: width of the space that they go to.
            heads: the heads at both ends, always given if ``needs_heads``; with no shared ids at all where it is not
                known which tokens two vocabularies share.
        """
