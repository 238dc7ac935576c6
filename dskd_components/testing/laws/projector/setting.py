"""A built projection, hidden states, and the heads at both ends: what the laws of projectors are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st

from dskd_components.components.projector import ProjectorHeads
from dskd_components.models.head import Head
from dskd_components.testing.laws.component import trained
from dskd_components.testing.strategies.logits import SEEDS

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def make_ends(
    seed: int,
    *,
    sizes: tuple[int, int] = (4, 3),
    vocabularies: tuple[int, int] = (7, 7),
    shared: int | None = None,
    shape: tuple[int, ...] = (2, 3),
) -> Ends:
    """Return random ends, float64.

    Args:
        seed: the same seed gives the same ends.
        sizes: widths of source and target.
        vocabularies: rows of their heads.
        shared: how many tokens both have; None: the two vocabularies are one.
        shape: how many hidden states there are.

    Examples:
        >>> make_ends(0, sizes=(5, 2)).heads.target.weight.shape
        torch.Size([7, 2])
    """
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ids = [None if shared is None else torch.randperm(size, generator=generator)[:shared] for size in vocabularies]
    source, target = (Head(random(*of_head)) for of_head in zip(vocabularies, sizes, strict=True))
    heads = ProjectorHeads(source=source, target=target, source_ids=ids[0], target_ids=ids[1])
    return Ends(random(*shape, sizes[0]), heads)


@st.composite
def ends(
    draw: st.DrawFn,
    *,
    narrowest: int = 1,
    different_vocabularies: bool = False,
    sizes: tuple[tuple[int, int], ...] = (),
) -> Ends:
    """Ends of one width or another, float64.

    Args:
        draw: given by hypothesis.
        narrowest: the least width.
        different_vocabularies: whether the heads share some tokens only, at least one; else all of them.
        sizes: the pairs of widths to choose from; none: any.
    """
    width, tokens = st.integers(narrowest, 5), st.integers(6, 9)
    own = draw(tokens)
    return make_ends(
        draw(SEEDS),
        sizes=draw(st.sampled_from(sizes) if sizes else st.tuples(width, width)),
        vocabularies=(own, draw(tokens) if different_vocabularies else own),
        shared=draw(st.integers(1, 6)) if different_vocabularies else None,
        shape=(draw(st.integers(1, 2)), draw(st.integers(1, 3))),
    )


def end_cases(*, narrowest: int = 1, different_vocabularies: bool = False, **others: st.SearchStrategy[Any]) -> Cases:
    """Cases of ``ends``, a ``seed`` for the parameters, and further arguments.

    Args:
        narrowest: as in `ends`.
        different_vocabularies: as in `ends`.
        **others: strategies of the further arguments.
    """

    def of(projector: Projector) -> st.SearchStrategy[Mapping[str, Any]]:
        # A projector's own widths are what it can do, however narrow they are.
        drawn = ends(narrowest=narrowest, different_vocabularies=different_vocabularies, sizes=projector.example_sizes)
        return st.fixed_dictionaries({"ends": drawn, "seed": SEEDS, **others})

    return of


TRIES: Final = 12
"""How many projections of other seeds are looked at before something counts as dead: an activation may be flat."""


def built(projector: Projector, ends: Ends, seed: int, *, fresh: bool = False) -> Projection:
    """Return the projection between two ends, with seeded parameters in their precision.

    Args:
        projector: what builds it.
        ends: what it is between.
        seed: the same seed gives the same projection.
        fresh: leave the parameters as they are at first; else they are moved, as if they had been trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = projector.build(source_size=ends.source_size, target_size=ends.target_size, heads=ends.heads)
    projection = projection.to(ends.hidden_states.dtype)
    if not fresh:
        trained(projection, seed)
    return projection
