"""A built projection, hidden states, and the heads at both ends: what the laws of projectors are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st

from dskd_components.components.projector import ProjectorHeads
from dskd_components.models.head import Head
from dskd_components.testing.strategies.logits import SEEDS

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.projector import Projection, Projector
    from dskd_components.testing.law import Cases


@dataclass(frozen=True, eq=False)
class Ends:
    """The two ends of a projection.

    Args:
        hidden_states: ``[B, T, d_source]``: what comes in.
        heads: the heads at both ends.
    """

    hidden_states: Tensor
    heads: ProjectorHeads

    @property
    def source_size(self) -> int:
        """Width that comes in."""
        return self.heads.source.hidden_size

    @property
    def target_size(self) -> int:
        """Width that goes out."""
        return self.heads.target.hidden_size

    def to(self, dtype: torch.dtype) -> Ends:
        """Return the same ends in another dtype."""
        source, target = self.heads.source.weight.to(dtype), self.heads.target.weight.to(dtype)
        heads = ProjectorHeads(
            source=Head(source),
            target=Head(target),
            source_ids=self.heads.source_ids,
            target_ids=self.heads.target_ids,
        )
        return Ends(self.hidden_states.to(dtype), heads)


@st.composite
def ends(draw: st.DrawFn, *, narrowest: int = 1, different_vocabularies: bool = False) -> Ends:
    """Ends of one width or another, float64.

    Args:
        draw: given by hypothesis.
        narrowest: the least width.
        different_vocabularies: whether the heads share some tokens only, at least one; else all of them.
    """
    generator = torch.Generator(torch.get_default_device()).manual_seed(draw(SEEDS))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    source_size, target_size = draw(st.integers(narrowest, 5)), draw(st.integers(narrowest, 5))
    source_vocabulary = draw(st.integers(6, 9))
    target_vocabulary = draw(st.integers(6, 9)) if different_vocabularies else source_vocabulary
    shared = draw(st.integers(1, 6))
    ids = [torch.randperm(size, generator=generator)[:shared] for size in (source_vocabulary, target_vocabulary)]
    heads = ProjectorHeads(
        source=Head(random(source_vocabulary, source_size)),
        target=Head(random(target_vocabulary, target_size)),
        source_ids=ids[0] if different_vocabularies else None,
        target_ids=ids[1] if different_vocabularies else None,
    )
    return Ends(random(draw(st.integers(1, 2)), draw(st.integers(1, 3)), source_size), heads)


def end_cases(*, narrowest: int = 1, different_vocabularies: bool = False, **others: st.SearchStrategy[Any]) -> Cases:
    """Cases of ``ends``, a ``seed`` for the parameters, and further arguments.

    Args:
        narrowest: as in `ends`.
        different_vocabularies: as in `ends`.
        **others: strategies of the further arguments.
    """
    drawn = ends(narrowest=narrowest, different_vocabularies=different_vocabularies)
    return lambda _projector: st.fixed_dictionaries({"ends": drawn, "seed": SEEDS, **others})


TRIES: Final = 12
"""How many projections of other seeds are looked at before something counts as dead: an activation may be flat."""


def built(projector: Projector, ends: Ends, seed: int) -> Projection:
    """Return the projection between two ends, with seeded parameters in their precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = projector.build(source_size=ends.source_size, target_size=ends.target_size, heads=ends.heads)
    return projection.to(ends.hidden_states.dtype)
