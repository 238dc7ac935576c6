"""The vocabulary that both models share: distillation without projection."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dskd_components.components.fields import AnyDistance
from dskd_components.components.space import ComparedRows, Direction, Space, SpaceResult
from dskd_components.components.terms import Denominator, TokenTerm
from dskd_components.errors import InputError
from dskd_components.models.states import Side


class SharedVocabularySpace(Space):
    """Each model's own logits meet, token by token: classical distillation of two models with one tokenizer.

    One term, ``kd``. Added tokens that only one of the two has are left out of both distributions.

    Examples:
        >>> SharedVocabularySpace().weight
        1.0
    """

    side: ClassVar[Side] = "student"
    projector: ClassVar[Direction | None] = None
    one_vocabulary: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("kd",)
    reads_logits: ClassVar[bool] = False
    distance_terms: ClassVar[tuple[str, ...]] = ("kd",)
    source: ClassVar[str] = "Hinton et al. 2015, arXiv 1503.02531"

    name: Literal["shared_vocabulary"] = "shared_vocabulary"
    distance: AnyDistance | None = None
    """Distance of ``kd``; None: the spec's."""
    denominator: Denominator = "scored"
    """What the mean of ``kd`` divides by: the scored student tokens, or the tokens that it runs over."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``kd``."""

    def compare(self, rows: ComparedRows) -> SpaceResult:
        """Return ``kd``.

        Raises:
            InputError: the two heads have different numbers of tokens.
        """
        ours, theirs = rows.student_logits.shape[-1], rows.teacher_logits.shape[-1]
        if ours != theirs:
            raise InputError(
                f"The space 'shared_vocabulary' compares logits token by token, but the student's head has {ours} "
                f"tokens and the teacher's {theirs}. If one of them is padded, give both heads the tokenizer's size: "
                "Head(weight, valid_vocabulary_size=...). If the tokenizers differ, use a preset for two, such as "
                "'recommended-two-vocabularies' or 'dskd-cma'."
            )
        term = TokenTerm(values=rows.divergence(self.distance), denominator=self.denominator, weight=self.weight)
        return SpaceResult(terms={"kd": term})
