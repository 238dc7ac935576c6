"""`Aligner`: builds the alignment of a batch, with parameters of its own if it needs any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, Literal, get_args

from torch import nn

from dskd_components.components.column_reader import ColumnReader
from dskd_components.models.host_reads import require
from dskd_components.models.states import with_small_segment_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.components.alignment import Alignment
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups


TextMethod = Literal["exact_match", "span", "min_edit"]
"""How the tokens of two tokenizations of one text are brought together beforehand."""

TEXT_METHODS: Final[tuple[TextMethod | None, ...]] = (None, *get_args(TextMethod))
"""All methods; a number in a column of a batch or a data set holds the place in this row."""

ALIGNMENT_RULES: Final = 1
"""The version of the rules by which samples become tokens, labels and groups. It goes up with each change of what they
come to, so that what was made by older rules is not taken for what these make."""

PER_VERSION: Final = 100
"""By how much the number of a method goes up from one version of the rules to the next."""


def method_number(method: TextMethod | None) -> int:
    """Return the number that says how tokens were brought together, by these rules.

    Args:
        method: how; None: they were not.

    Examples:
        >>> method_number("span") - method_number(None)
        2
    """
    return PER_VERSION * ALIGNMENT_RULES + TEXT_METHODS.index(method)


def method_of_number(number: int) -> tuple[TextMethod | None, int] | None:
    """Return the method that a number stands for, and the version of the rules; None if it stands for none.

    Args:
        number: of `method_number`, of any version.

    Examples:
        >>> method_of_number(302), method_of_number(99)
        (('span', 3), None)
    """
    version, place = divmod(number, PER_VERSION)
    return (TEXT_METHODS[place], version) if version >= 0 and place < len(TEXT_METHODS) else None


class AlignerModule(nn.Module, ABC):
    """The built aligner, a part of the loss module; its parameters are trained and saved with it."""

    @abstractmethod
    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch.

        Args:
            student: the student's states. Segment ids fit into 32 bits, whatever the caller's were.
            teacher: the teacher's states.
            given: a correspondence that is known beforehand, if there is one; its numbers are from 0 to 2**31 - 1, -1
                for none. Aligners that find their own use it to measure themselves.

        Returns:
            The alignment. Padding must not influence it.

        Raises:
            InputError: the states lack something that the aligner needs.
        """

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Return, by name of a submodule, what its learning rate is multiplied with in `DSKDLoss.param_groups`.

        For parts that must not learn as fast as the rest, as one of two adversaries. None has a factor as it stands.
        """
        return {}

    def __call__(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch whose samples and groups have any numbers; see `forward`."""
        if given is not None:
            require(given.check)
        alignment = self.unread(student, teacher, given)
        require(*alignment.checks)
        return alignment

    def unread(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Return what a call does, with the checks of groups and alignment left to be read with others.

        Args:
            student: as in `forward`; segment ids are any integers.
            teacher: as there.
            given: as there, with any numbers but -100.
        """
        student, teacher = with_small_segment_ids(student, teacher)
        alignment: Alignment = super().__call__(student, teacher, given and given.with_small_numbers())
        return alignment


class Aligner(ColumnReader, ABC):
    """Options of an aligner; `build` makes the module that does the work."""

    kind: ClassVar[str] = "aligner"

    same_tokenizer: ClassVar[bool] = False
    """Whether the aligner presumes that both models share one tokenizer."""

    reads_embeddings: ClassVar[bool] = True
    """Whether the aligner looks at the models' input embeddings. Those of sharded models are not gathered otherwise."""

    text_method: ClassVar[TextMethod | None] = None
    """How a collator must align two tokenizations of a text for this aligner, which is told the outcome as groups.
    None: it is told nothing."""

    terms: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that its alignments bring along, for aligners that learn by a loss of their own."""

    non_negative_terms: ClassVar[bool] = True
    """Whether the terms are never negative. False for a likelihood of values, say, which may have any sign."""

    example_sizes: ClassVar[tuple[tuple[int, int], ...]] = ()
    """The pairs ``(student_embedding_size, teacher_embedding_size)`` that the laws are tried with, for an aligner that
    is not made for any two widths, as where attention has several heads. None given: 3 and 4."""

    @property
    def split_invariant(self) -> bool:
        """Whether each sample is aligned as if it were alone, so that micro-batches add up to the batch."""
        return True

    @abstractmethod
    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:
        """Return the module for models with input embeddings of these widths."""
