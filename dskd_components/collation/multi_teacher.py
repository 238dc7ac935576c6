"""`MultiTeacherCollator`: batches for a student and several teachers, each with a tokenizer of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dskd_components.collation.collator import BatchKeywords, DualTokenizerCollator, with_skipped
from dskd_components.collation.dual_encoder import DualEncoder, Prepared, SampleKeywords
from dskd_components.collation.encoded import is_preprocessed
from dskd_components.collation.problems import (
    OnError,
    PaddingSide,
    SampleError,
    SampleNames,
    SkipPolicy,
    require_list,
)
from dskd_components.collation.sample_view import MultiTeacherSampleView
from dskd_components.collation.samples import Columns
from dskd_components.collation.unread_arguments import UnreadNotices
from dskd_components.collation.viewing import view_of_raw
from dskd_components.components.aligner import Aligner
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.batch import (
    columns_of_pair,
    columns_of_several,
    of_teacher,
    require_known_teachers,
    require_teacher_names,
)
from dskd_components.tokenization.fast_tokenizers import require_fast_tokenizer

PreparedForAll = dict[str, Prepared]
"""One sample, by teacher; the student's tokens are the same for each of them."""


class MultiTeacherKeywords(SampleKeywords, BatchKeywords, total=False):
    """The options of `MultiTeacherCollator`, but for the aligners."""

    teacher_max_lengths: Mapping[str, int | None] | None


class MultiTeacherCollator:
    """Makes batches for a student and several teachers from samples; see `DualTokenizerCollator`.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer, or a ``tokenizers.Tokenizer`` where there are no chats.
        teacher_tokenizers: By teacher, its tokenizer, of either kind.
        aligners: By teacher, the aligner of its loss, or its name; one that is not named gets ``"exact_match"``.
        student_max_length: The most tokens that the student may have, BOS and EOS included; None: any number.
        teacher_max_lengths: By teacher, the most tokens that it may have. All models are cut at one border of the text.
        padding_side: Where rows are padded.
        pad_to_multiple_of: What the length of the rows is a multiple of.
        packing: Whether all samples go into one row, one after the other.
        append_eos: Whether texts and responses end with each tokenizer's EOS, if it has one.
        train_on_prompt: Whether prompts and messages of all roles are scored, not responses alone.
        byte_positions: Whether batches say where each token starts and ends, in bytes of the sample's text.
        on_error: ``"raise"`` a `SampleError`, or ``"skip"`` a sample that one of the models cannot read, and count it.
        columns: What the keys of a sample are called.

    Raises:
        InputError: A tokenizer is not a fast one.
        ConfigurationError: There is no such teacher, or an option has no such value.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> collate = MultiTeacherCollator(tokenizer, {"large": tokenizer, "code": tokenizer}, aligners={"code": "cma"})
        >>> batch = collate([{"text": "a b"}])
        >>> [name for name in batch if name.endswith(("_ids", "_groups", "_large"))]
        ['student_input_ids', 'student_groups_large', 'large_input_ids', 'large_groups', 'code_input_ids']
    """

    def __init__(
        self,
        student_tokenizer: Any,
        teacher_tokenizers: Mapping[str, Any],
        *,
        aligners: Mapping[str, str | Aligner | None] | None = None,
        student_max_length: int | None = None,
        teacher_max_lengths: Mapping[str, int | None] | None = None,
        padding_side: PaddingSide = "right",
        pad_to_multiple_of: int | None = None,
        packing: bool = False,
        append_eos: bool = True,
        train_on_prompt: bool = False,
        byte_positions: bool = False,
        on_error: OnError = "raise",
        columns: Columns | None = None,
    ) -> None:
        if not isinstance(teacher_tokenizers, Mapping) or not teacher_tokenizers:
            raise ConfigurationError(
                "MultiTeacherCollator: expected teacher_tokenizers to be a mapping from names of teachers to their "
                f"tokenizers, got {teacher_tokenizers!r:.80}."
            )
        require_teacher_names(teacher_tokenizers)
        for name, tokenizer in teacher_tokenizers.items():
            require_fast_tokenizer(tokenizer, f"teacher_tokenizers[{name!r}]")
        aligners, limits = dict(aligners or {}), dict(teacher_max_lengths or {})
        for argument, given in (("aligners", aligners), ("teacher_max_lengths", limits)):
            require_known_teachers(
                argument, given, teacher_tokenizers, source="teacher_tokenizers has", error=ConfigurationError
            )
        self._policy = SkipPolicy(on_error)
        self._collators = {
            name: DualTokenizerCollator(
                student_tokenizer,
                tokenizer,
                aligner=aligners.get(name, "exact_match"),
                student_max_length=student_max_length,
                teacher_max_length=limits.get(name),
                padding_side=padding_side,
                pad_to_multiple_of=pad_to_multiple_of,
                packing=packing,
                append_eos=append_eos,
                train_on_prompt=train_on_prompt,
                byte_positions=byte_positions,
                columns=columns,
            )
            for name, tokenizer in teacher_tokenizers.items()
        }
        self._notices = UnreadNotices(next(iter(self.encoders.values())).columns)

    @property
    def encoders(self) -> dict[str, DualEncoder]:
        """By teacher, what turns raw samples into the tokens of the student and this teacher."""
        return {name: collator.encoder for name, collator in self._collators.items()}

    @property
    def skipped(self) -> Any:
        """How many samples this object has skipped, by reason; with workers, add up ``batch["skipped"]`` instead."""
        return self._policy.skipped

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Collate samples.

        Args:
            samples: Raw samples. A sample that one of the models cannot read is left out for all.

        Returns:
            The student's columns as in `DualTokenizerCollator`; each teacher's with its name in place of ``teacher``,
            and ``student_groups_NAME`` for the groups that the student's tokens have with it; ``NAME_groups_method``.

        Raises:
            InputError: Something is no raw sample, or none can be used.
            SampleError: A sample cannot be used, and is not to be skipped.
        """
        require_list(samples)
        self._require_raw(samples)
        outcomes = self._outcomes(samples)
        usable = self._policy.usable_in_batch(outcomes)
        return with_skipped(self._batch(usable), len(outcomes) - len(usable))

    def show(self, sample: Any) -> MultiTeacherSampleView:
        """Return the tokens that a batch has of a sample, for each teacher; see `DualTokenizerCollator.show`.

        Args:
            sample: A raw sample.

        Raises:
            InputError: It is no raw sample.
            SampleError: It cannot be used, whatever ``on_error`` says.
        """
        self._require_raw([sample])
        (outcome,) = self._outcomes([sample])
        if isinstance(outcome, SampleError):
            raise outcome
        batch, names = self._batch([outcome]), list(self._collators)
        views = {}
        for name, collator in self._collators.items():
            encoder = collator.encoder
            read = encoder.columns.read(_for_teacher(sample, encoder.columns.teacher_prompt, name))
            columns = columns_of_pair(batch, name, names=names, same_tokenizer=False)
            views[name] = view_of_raw(columns, encoder, read, outcome[name], name)
        return MultiTeacherSampleView(views)

    def _require_raw(self, samples: Sequence[Any]) -> None:
        names = SampleNames(samples)
        for index, sample in enumerate(samples):
            if is_preprocessed(sample):
                problem = (
                    "MultiTeacherCollator: expected raw samples, got one that was preprocessed for a single teacher."
                )
                raise InputError(names.message(index, problem))

    def _batch(self, samples: Sequence[PreparedForAll]) -> dict[str, Tensor]:
        return columns_of_several(
            {
                name: collator.batch_of(collator.encoder.align([sample[name] for sample in samples]))
                for name, collator in self._collators.items()
            }
        )

    def _outcomes(self, samples: Sequence[Any]) -> list[PreparedForAll | SampleError]:
        """Each sample's tokens for every teacher, or what is wrong with it for the first that cannot read it."""
        encoders = self.encoders
        columns = next(iter(encoders.values())).columns
        names = SampleNames(samples)
        for index, sample in enumerate(samples):
            with names.naming(index):
                require_known_teachers(
                    columns.teacher_prompt,
                    _prompts_by_teacher(sample, columns),
                    encoders,
                    source="teacher_tokenizers has",
                    error=InputError,
                )
        prepared = {
            name: encoder.prepare([_for_teacher(sample, columns.teacher_prompt, name) for sample in samples], names)
            for name, encoder in encoders.items()
        }
        by_sample = [{name: outcomes[index] for name, outcomes in prepared.items()} for index in range(len(samples))]
        for index, outcomes in enumerate(by_sample):
            self._notices.tell(names, index, _unread(outcomes))
        return [_cut_alike(outcomes, encoders, index, names) for index, outcomes in enumerate(by_sample)]


def _unread(outcomes: Mapping[str, Prepared | SampleError]) -> dict[str, tuple[str, ...]]:
    """By model, in words, what its chat template was told of a sample and does not read."""
    unread: dict[str, tuple[str, ...]] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, Prepared) and outcome.unread:
            unread |= {"the student": outcome.unread["student"], f"teacher {name!r}": outcome.unread["teacher"]}
    return unread


def _cut_alike(
    outcomes: Mapping[str, Prepared | SampleError], encoders: Mapping[str, DualEncoder], index: int, names: SampleNames
) -> PreparedForAll | SampleError:
    """Cut a sample where all models can part it: the last such place within everybody's limits."""
    sample: PreparedForAll = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, SampleError):
            return outcome.reworded(of_teacher(name, outcome))
        sample[name] = outcome
    while True:
        kept = [prepared.kept.student for prepared in sample.values()]
        if min(kept) == max(kept):
            return sample
        # A teacher's cuts do not depend on the others', so the last one that all have is never passed over.
        for name, prepared in sample.items():
            if prepared.kept.student > min(kept):
                try:
                    sample[name] = encoders[name].shorten(prepared, min(kept))
                except SampleError as error:
                    return error.reworded(of_teacher(name, names.message(index, error)))


def _prompts_by_teacher(sample: Any, columns: Columns) -> Mapping[str, Any]:
    """The prompts of a sample that has one for each of some teachers."""
    prompts = columns.kept(sample).get(columns.teacher_prompt) if isinstance(sample, Mapping) else None
    return prompts if isinstance(prompts, Mapping) else {}


def _for_teacher(sample: Any, column: str, name: str) -> Any:
    """A sample as one teacher is to have it; a teacher that has no prompt of its own reads the student's."""
    if not isinstance(sample, Mapping) or not isinstance(sample.get(column), Mapping):
        return sample
    return {**sample, column: sample[column].get(name)}
