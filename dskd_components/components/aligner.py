"""`Aligner`: builds the alignment of a batch, with parameters of its own if it needs any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from dskd_components.components.alignment import Alignment
from dskd_components.components.column_reader import ColumnReader
from dskd_components.components.component import forget_outdated
from dskd_components.components.returned import (
    broken_promise,
    complaint,
    require_metrics,
    require_tensor,
    require_terms,
)
from dskd_components.models.host_reads import Check, require
from dskd_components.models.states import with_small_segment_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups
    from dskd_components.tokenization.arrays import IntArray
    from dskd_components.tokenization.byte_spans import TokenizedText


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
        require(*alignment.checks, coverage_check(self, alignment, student, teacher))
        return alignment

    def unread(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Return what a call does, with the checks of groups and alignment left to be read with others.

        Args:
            student: as in `forward`; segment ids are any integers.
            teacher: as there.
            given: as there, with any numbers but -100.

        Raises:
            PluginError: `forward` gives something else than an alignment of these positions.
        """
        student, teacher = with_small_segment_ids(student, teacher)
        alignment: object = super().__call__(student, teacher, given and given.with_small_numbers())
        if not isinstance(alignment, Alignment):
            raise broken_promise(self, "forward(...) to return an Alignment", alignment)
        for side, states in (("student", student), ("teacher", teacher)):
            like = states.hidden_states
            for part, sizes, dtype in (("covered", (), torch.bool), ("values", like.shape[-1:], like.dtype)):
                what = f"forward(...).{side}_{part} to be"
                shape = (*states.targets.shape, *sizes)
                require_tensor(self, what, getattr(alignment, f"{side}_{part}"), shape, like, dtype=dtype)
        require_terms(self, alignment.terms, None, student.hidden_states)
        require_metrics(self, alignment.metrics)
        return alignment


def coverage_check(module: AlignerModule, alignment: Alignment, student: LMStates, teacher: LMStates) -> Check:
    """Return the check that an alignment covers none but scored positions.

    Args:
        module: that made it, for the message.
        alignment: the alignment.
        student: the student's states.
        teacher: the teacher's.
    """
    sides = {
        "student": alignment.student_covered & ~student.scored,
        "teacher": alignment.teacher_covered & ~teacher.scored,
    }

    def complain() -> None:
        for side, wrong in sides.items():
            if wrong.any():
                place = wrong.nonzero()[0].tolist()
                raise complaint(
                    module,
                    f"expected forward(...).{side}_covered to be true at scored positions alone, got true at {place}, "
                    "where nothing is scored.",
                )

    return Check(torch.stack([wrong.any() for wrong in sides.values()]).any(), complain)


class Aligner(ColumnReader, ABC):
    """Options of an aligner; `build` makes the module that does the work."""

    kind: ClassVar[str] = "aligner"

    same_tokenizer: ClassVar[bool] = False
    """Whether the aligner presumes that both models share one tokenizer."""

    reads_embeddings: ClassVar[bool] = True
    """Whether the aligner looks at the models' input embeddings. Those of sharded models are not gathered otherwise."""

    text_method: ClassVar[str | None] = None
    """Whose groups the aligner is told: the name of an aligner that makes them of the texts. One that has a
    `groups_of_text` makes its own, which it need not say. None: it is told nothing."""

    makes_groups: ClassVar[bool] = False
    """Whether it has a `groups_of_text`; this is found out, not declared."""

    groups_options: ClassVar[tuple[str, ...] | None] = None
    """The options that `groups_of_text` depends on. They are recorded with the groups, so that a batch or a data set
    that was made with others is refused. None: all of them."""

    groups_version: ClassVar[int] = 1
    """To be raised with each change of what `groups_of_text` comes to, so that older data sets are refused."""

    follows_text: ClassVar[bool] = True
    """Whether both sides of each group of `groups_of_text` stand for the same bytes of the text, leading spaces set
    aside. False for one that guesses."""

    covers_text: ClassVar[bool] = False
    """Whether `groups_of_text` brings every token that stands for text into a group, if the other side has tokens."""

    needs_heads: ClassVar[bool] = False
    """Whether `build` needs the two heads and the tokens that they share (a query that starts from shared tokens)."""

    uses_shared_tokens: ClassVar[bool] = False
    """Whether `build` makes use of the tokens that two vocabularies share where they are known, and can do without.
    `DSKDLoss.from_models` then looks for them; one that ``needs_heads`` need not say so."""

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

    @property
    def is_hard(self) -> bool:
        """Whether it is settled before training which positions belong together: neither states nor parameters decide.

        Spaces may ask for it (``needs_hard_alignment``).
        """
        return self.same_tokenizer or self.text_method is not None

    @property
    def one_to_one(self) -> bool:
        """Whether of the groups that it is told only those of one token on each side count."""
        return False

    @property
    def recorded_options(self) -> tuple[str, ...]:
        """The names of the options that are recorded with its groups."""
        everything = tuple(name for name in type(self).model_fields if name != "name")
        return everything if self.groups_options is None else self.groups_options

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Find out, when a class is made, whether it makes groups, and refuse what contradicts itself."""
        super().__pydantic_init_subclass__(**kwargs)
        forget_outdated(cls, Aligner, "groups_of_text", "groups_of_texts")
        cls.makes_groups = cls.groups_of_text is not Aligner.groups_of_text
        unknown = [option for option in cls.groups_options or () if option not in cls.model_fields]
        if unknown:
            raise TypeError(f"{cls.__name__}.groups_options: there is no option {unknown[0]!r}.")
        if cls.groups_of_texts is not Aligner.groups_of_texts and not cls.makes_groups:
            raise TypeError(f"{cls.__name__} has a groups_of_texts, but no groups_of_text; add it, for single texts.")
        if cls.model_fields["name"].is_required():
            return
        name = cls.component_name()
        if "text_method" not in vars(cls):
            if cls.makes_groups:
                cls.text_method = name
            return
        if cls.text_method == name and not cls.makes_groups:
            raise TypeError(f"{cls.__name__}.text_method is its own name, {name!r}, but it has no groups_of_text.")
        if cls.text_method != name and "groups_of_text" in vars(cls):
            raise TypeError(
                f"{cls.__name__} has a groups_of_text, but its text_method is {cls.text_method!r}, so that it would "
                "not be called. Leave one of the two out."
            )

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        """Bring together the tokens of two tokenizations of one text, for an aligner that reads texts.

        It is called ahead of training, by collators and preprocessors, also in their worker processes, and must depend
        on the two arguments and the options alone. The module is told the outcome by position, as ``given``.

        Args:
            student: the student's tokens, those of templates left out. ``starts``, ``ends`` and ``cores`` say which
                bytes of ``data`` each one stands for, ``tokens`` what it is called.
            teacher: the teacher's tokens of the same text.

        Returns:
            Groups, ``[G, 4]``, integers: rows ``student start, student stop, teacher start, teacher stop`` in token
            indices, stops exclusive. Each group has one token or more on each side, and stands behind the one before on
            both sides. A token may be in none.

        Raises:
            NotImplementedError: the aligner reads no texts.
        """
        raise NotImplementedError(f"the aligner {self.name!r} makes no groups of texts")

    def groups_of_texts(self, students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]) -> list[IntArray]:
        """Return the `groups_of_text` of several texts, for an aligner that is quicker with many at once.

        Args:
            students: the student's tokens of each text.
            teachers: the teacher's tokens of each text.
        """
        return [self.groups_of_text(student, teacher) for student, teacher in zip(students, teachers, strict=True)]

    @abstractmethod
    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        """Return the module for models with input embeddings of these widths.

        Args:
            student_embedding_size: width of the student's input embedding.
            teacher_embedding_size: width of the teacher's.
            heads: what the projection from the teacher to the student is built with: ``source`` is the teacher's head,
                ``target`` the student's, each with its input embedding where that is known, and the tokens that both
                vocabularies have. Always given if ``needs_heads``.
        """
