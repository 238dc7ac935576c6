"""`DualTokenizerCollator`: from samples to a batch that two models and the loss can read."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, TypedDict

import torch
from torch import Tensor

from dskd_components.collation.dual_encoder import DualEncoder, EncodingOptions, SampleKeywords
from dskd_components.collation.encoded import SIDES, EncodedSample, EncodedSide, from_columns, is_preprocessed
from dskd_components.collation.padding import pack_rows, pad_rows
from dskd_components.collation.problems import (
    OnError,
    PaddingSide,
    SampleError,
    SampleNames,
    SkipPolicy,
    SkipReason,
    one_of,
    positive_or_none,
    require_list,
)
from dskd_components.collation.sample_view import SampleView
from dskd_components.collation.samples import Columns
from dskd_components.collation.viewing import view_of_preprocessed, view_of_raw
from dskd_components.components.aligner import Aligner
from dskd_components.components.text_methods import method_number
from dskd_components.errors import InputError
from dskd_components.models.batch import METHOD_COLUMN


class BatchKeywords(TypedDict, total=False):
    """Options of how batches are laid out, which all collators take; they document them."""

    padding_side: PaddingSide
    pad_to_multiple_of: int | None
    packing: bool


class CollatorKeywords(SampleKeywords, BatchKeywords, total=False):
    """The options of `DualTokenizerCollator`, but for the aligner."""

    teacher_max_length: int | None


class DualTokenizerCollator:
    """Makes batches for two models from samples.

    A sample has ``text``, or ``prompt`` and ``response``, or ``messages``, or `DualTokenizerPreprocessor` has made it.
    Prompts and responses are texts or messages; docs/how-to/collation.md lists all formats.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer, or a ``tokenizers.Tokenizer`` where there are no chats.
        teacher_tokenizer: The teacher's, of either kind.
        aligner: The loss's aligner, or its name; one that reads texts brings their tokens together. None, or one that
            is told nothing: no groups.
        student_max_length: The most tokens that the student may have, BOS and EOS included; None: any number.
        teacher_max_length: The most tokens that the teacher may have. Both sides are cut at one border of the text.
        padding_side: Where rows are padded.
        pad_to_multiple_of: What the length of the rows is a multiple of.
        packing: Whether all samples go into one row, one after the other.
        append_eos: Whether texts and responses end with each tokenizer's EOS, if it has one.
        train_on_prompt: Whether prompts and messages of all roles are scored, not responses alone.
        byte_positions: Whether batches say where each token starts and ends, in bytes of the sample's text.
        on_error: ``"raise"`` a `SampleError`, or ``"skip"`` the sample and count it.
        columns: What the keys of a sample are called.

    Raises:
        InputError: A tokenizer is not a fast one.
        ConfigurationError: An option has no such value.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> collate = DualTokenizerCollator(tokenizer, tokenizer)
        >>> batch = collate([{"prompt": "a", "response": " b a"}, {"text": "b b"}])
        >>> batch["student_labels"]
        tensor([[-100,    2,    1],
                [-100,    2, -100]])
        >>> batch["teacher_groups"]
        tensor([[ 0,  1,  2],
                [ 0,  1, -1]])
    """

    def __init__(
        self,
        student_tokenizer: Any,
        teacher_tokenizer: Any,
        *,
        aligner: str | Aligner | None = "exact_match",
        student_max_length: int | None = None,
        teacher_max_length: int | None = None,
        padding_side: PaddingSide = "right",
        pad_to_multiple_of: int | None = None,
        packing: bool = False,
        append_eos: bool = True,
        train_on_prompt: bool = False,
        byte_positions: bool = False,
        on_error: OnError = "raise",
        columns: Columns | None = None,
    ) -> None:
        one_of("padding_side", padding_side, PaddingSide)
        self._policy = SkipPolicy(on_error)
        self._padding_side = padding_side
        self._multiple = positive_or_none("pad_to_multiple_of", pad_to_multiple_of)
        self._packing = packing
        self._encoder = DualEncoder(
            student_tokenizer,
            teacher_tokenizer,
            EncodingOptions(
                aligner=aligner,
                student_max_length=student_max_length,
                teacher_max_length=teacher_max_length,
                append_eos=append_eos,
                train_on_prompt=train_on_prompt,
                byte_positions=byte_positions,
                columns=columns,
            ),
        )

    @property
    def encoder(self) -> DualEncoder:
        """What turns raw samples into tokens."""
        return self._encoder

    @property
    def skipped(self) -> Counter[SkipReason]:
        """How many samples this object has skipped, by reason; with workers, add up ``batch["skipped"]`` instead."""
        return self._policy.skipped

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Collate samples.

        Args:
            samples: Raw or preprocessed samples, in any mixture.

        Returns:
            For each side ``input_ids``, ``attention_mask`` (not when packing), ``labels`` (not shifted), ``groups``
            (unless nothing is aligned), ``byte_starts`` and ``byte_ends`` (on request), ``position_ids`` (padded on the
            left, or packed) and ``segment_ids`` (packed), each ``[B, T]``, int64; and by row ``[B]``, int64, each
            side's ``fingerprint``, the ``groups_method``, by which the loss knows for which aligner the batch is, and
            how many samples were ``skipped``, all of them with the first row: ``batch["skipped"].sum()``.

        Raises:
            InputError: Something is no sample, or none can be used.
            SampleError: A sample cannot be used, and is not to be skipped.
        """
        require_list(samples)
        outcomes = _outcomes(samples, range(len(samples)), self._encoder, self._read)
        usable = self._policy.usable_in_batch(outcomes)
        return with_skipped(self.batch_of(usable), len(outcomes) - len(usable))

    def show(self, sample: Any) -> SampleView:
        """Return the tokens that a batch has of a sample: which are scored, which belong together, and why not others.

        It is printed as text, in colour by `rich.print`, and as HTML in notebooks.

        Args:
            sample: A raw or preprocessed sample.

        Raises:
            InputError: It is no sample.
            SampleError: It cannot be used, whatever ``on_error`` says.

        Examples:
            >>> from tokenizers import Tokenizer, models, pre_tokenizers
            >>> student = Tokenizer(models.WordLevel({"?": 0, "new": 1, "found": 2, "land": 3}, unk_token="?"))
            >>> student.pre_tokenizer = pre_tokenizers.Split("found", "isolated")
            >>> teacher = Tokenizer(models.WordLevel({"?": 0, "new": 1, "foundland": 2}, unk_token="?"))
            >>> teacher.pre_tokenizer = pre_tokenizers.Split("foundland", "isolated")
            >>> collate = DualTokenizerCollator(student, teacher, aligner="span")
            >>> view = collate.show({"prompt": "new", "response": "foundland"})
            >>> print(view)
            prompt and response, aligned by 'span'
            student: 3 tokens, 2 scored, 2 of these paired
            teacher: 2 tokens, 1 scored, 1 of these paired
            scored        ━━━━━ ━━━━
            student  new  found|land
            pairs    ┃    ╂
            teacher  new  foundland
            scored        ━━━━━━━━━
            student, not scored: prompt: 0 'new'
            teacher, not scored: prompt: 0 'new'
            >>> view.student.tokens[0].unscored, view.groups
            (<UnscoredReason.PROMPT: 'prompt'>, [((0,), (0,)), ((1, 2), (1,))])
        """
        if is_preprocessed(sample):
            return view_of_preprocessed(self([sample]), self._encoder)
        (prepared,) = self._encoder.prepare([sample])
        if isinstance(prepared, SampleError):
            raise prepared
        return view_of_raw(self([sample]), self._encoder, self._encoder.columns.read(sample), prepared)

    def batch_of(self, samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
        """Return the columns of samples that are in tokens already, without the number of those skipped.

        Args:
            samples: One or more.
        """
        batch = self._packed(samples) if self._packing else self._padded(samples)
        for side in SIDES:
            rows = len(batch[f"{side}_input_ids"])
            batch[f"{side}_fingerprint"] = torch.full(
                (rows,), self._encoder.fingerprints[side], dtype=torch.int64, device="cpu"
            )
        # Of a row each, as are the fingerprints: so it goes along wherever rows are cut, joined or sent.
        number = method_number(self._encoder.group_maker)
        batch[METHOD_COLUMN] = torch.full((rows,), number, dtype=torch.int64, device="cpu")
        return batch

    def teacher_sides(self, samples: Sequence[Any], *, first: int = 0) -> list[EncodedSide]:
        """Return samples in the teacher's tokens alone, cut by its own limit and not by the student's.

        Args:
            samples: Raw or preprocessed samples, in any mixture.
            first: The number of the first one in the data, for errors.

        Returns:
            Those that can be used.

        Raises:
            InputError: Something is no sample, or was preprocessed for another tokenizer.
            SampleError: A sample cannot be used, and is not to be skipped.
        """
        require_list(samples)
        encoder = self._encoder

        def read(sample: Any) -> EncodedSample:
            return from_columns(sample, encoder.fingerprints, encoder.group_maker)

        outcomes = _outcomes(samples, range(first, first + len(samples)), self._teacher_encoder, read)
        return [sample.teacher for sample in self._policy.usable(outcomes)]

    @cached_property
    def _teacher_encoder(self) -> DualEncoder:
        return self._encoder.of_teacher_alone()

    def _read(self, sample: Any) -> EncodedSample:
        encoder = self._encoder
        return self._within_limits(from_columns(sample, encoder.fingerprints, encoder.group_maker, encoder.further))

    def _within_limits(self, sample: EncodedSample) -> EncodedSample:
        for side in SIDES:
            limit, length = self._encoder.max_lengths[side], len(sample.side(side))
            if limit is not None and length > limit:
                raise InputError(
                    f"A preprocessed sample has {length} {side} tokens, but {side}_max_length={limit}. Both sides can "
                    "only be cut together where the text is at hand: give the limits to the preprocessor."
                )
        return sample

    def _padded(self, samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
        batch = {}
        for side in SIDES:
            columns = pad_rows(
                [sample.side(side) for sample in samples],
                pad_id=self._encoder.pad_ids[side],
                padding_side=self._padding_side,
                pad_to_multiple_of=self._multiple,
            )
            batch.update({f"{side}_{name}": torch.from_numpy(column) for name, column in columns.items()})
        return batch

    def _packed(self, samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
        batch = {}
        # Groups of a sample are numbered below its student's length.
        offsets = [0, *accumulate(len(sample.student) for sample in samples)][:-1]
        for side in SIDES:
            columns = pack_rows(
                [sample.side(side) for sample in samples],
                offsets,
                pad_id=self._encoder.pad_ids[side],
                pad_to_multiple_of=self._multiple,
            )
            batch.update({f"{side}_{name}": torch.from_numpy(column) for name, column in columns.items()})
        return batch


def _outcomes(
    samples: Sequence[Any], numbers: Sequence[int], encoder: DualEncoder, read: Callable[[Any], EncodedSample]
) -> list[EncodedSample | SampleError]:
    """Return each sample in tokens; the raw ones are tokenized together, and others read."""
    names = SampleNames(samples, numbers)
    raw = [index for index, sample in enumerate(samples) if not is_preprocessed(sample)]
    names_of_raw = SampleNames([samples[index] for index in raw], [numbers[index] for index in raw])
    outcomes: dict[int, EncodedSample | SampleError] = dict(
        zip(raw, encoder.encode(names_of_raw.raws, names_of_raw), strict=True)
    )
    for index, sample in enumerate(samples):
        if index not in outcomes:
            with names.naming(index):
                outcomes[index] = read(sample)
    return [outcomes[index] for index in range(len(samples))]


def with_skipped(batch: dict[str, Tensor], skipped: int) -> dict[str, Tensor]:
    """Return a batch with a column of the number of samples that were left out of it.

    The number is with the first row alone, so that it is the sum of the column however batches are cut and joined.

    Args:
        batch: the other columns.
        skipped: the number.
    """
    column = torch.zeros(len(batch["student_input_ids"]), dtype=torch.int64, device="cpu")
    column[0] = skipped
    return batch | {"skipped": column}
