"""`LossWeights`: what the terms are multiplied with in the loss, as plain numbers of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, eq=False, kw_only=True)
class LossWeights:
    """``loss = cross_entropy * ce + distillation * (sum of by_term[name] * (the term's own weight) * term)``.

    Args:
        cross_entropy: weight of the student's own cross entropy. None: it is not computed, because another call has it.
        distillation: weight of all other terms together.
        by_term: further weights by name of a term, 1 for others.

    Examples:
        >>> LossWeights(cross_entropy=0.5, distillation=0.5, by_term={"t2s_kd": 2.0}).of("t2s_kd", 3.0)
        6.0
    """

    cross_entropy: float | None
    distillation: float
    by_term: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str, own: float) -> float:
        """Return the weight of a term among those of distillation.

        Args:
            name: of the term.
            own: the weight that it brings along.
        """
        return own * self.by_term.get(name, 1.0)
