"""`DualTokenizerPreprocessor`: alignment ahead of training, as plain columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dskd_components.collation.dual_encoder import DualEncoder, EncodingOptions, SampleKeywords
from dskd_components.collation.encoded import column_names, to_columns
from dskd_components.collation.plain_values import items_of
from dskd_components.collation.problems import OnError, SampleError, SampleNames, SkipPolicy, SkipReason
from dskd_components.collation.samples import Columns
from dskd_components.collation.token_samples import TOKEN_KEYS
from dskd_components.components.aligner import Aligner
from dskd_components.errors import InputError

CHAT_COLUMNS: Final = ("messages", "prompt", "response")
"""Of these, one that holds mappings is a chat. Prompts by teacher are a mapping, too, but of no chat."""


class PreprocessorKeywords(SampleKeywords, total=False):
    """The options of `DualTokenizerPreprocessor`, but for the aligner."""

    teacher_max_length: int | None


class DualTokenizerPreprocessor:
    """Tokenizes, aligns and truncates samples for two models; to be given to ``datasets.Dataset.map``.

    ``dataset.map(preprocess, batched=True, remove_columns=dataset.column_names)`` gives columns of plain integers, for
    `DualTokenizerCollator` with the same tokenizers and aligner, or for a loop of one's own.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer, or a ``tokenizers.Tokenizer`` where there are no chats.
        teacher_tokenizer: The teacher's, of either kind.
        aligner: The loss's aligner, or its name; one that reads texts brings their tokens together. None, or one that
            is told nothing: no groups.
        student_max_length: The most tokens that the student may have, BOS and EOS included; None: any number.
        teacher_max_length: The most tokens that the teacher may have. Both sides are cut at one border of the text.
        append_eos: Whether texts and responses end with each tokenizer's EOS, if it has one.
        train_on_prompt: Whether prompts and messages of all roles are scored, not responses alone.
        byte_positions: Whether samples say where each token starts and ends, in bytes of their text.
        on_error: ``"raise"`` a `SampleError`, or ``"skip"`` the sample and count it in `skipped`; then ``batched=True``
            is needed, so that rows can be dropped.
        columns: What the keys of a sample are called.

    Raises:
        InputError: A tokenizer is not a fast one.
        ConfigurationError: An option has no such value.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> preprocess = DualTokenizerPreprocessor(tokenizer, tokenizer)
        >>> preprocess({"prompt": ["a", "b"], "response": [" b", " a"]})["student_labels"]
        [[-100, 2], [-100, 1]]
    """

    def __init__(
        self,
        student_tokenizer: Any,
        teacher_tokenizer: Any,
        *,
        aligner: str | Aligner | None = "exact_match",
        student_max_length: int | None = None,
        teacher_max_length: int | None = None,
        append_eos: bool = True,
        train_on_prompt: bool = False,
        byte_positions: bool = False,
        on_error: OnError = "raise",
        columns: Columns | None = None,
    ) -> None:
        self._policy = SkipPolicy(on_error)
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
        """How many samples this object has skipped, by reason; copies in other processes count for themselves."""
        return self._policy.skipped

    def __call__(self, batch: Mapping[str, Any], indices: Any = None) -> dict[str, Any]:
        """Preprocess a batch, or one sample.

        Args:
            batch: Columns of several samples (``batched=True``), or one sample.
            indices: Which samples of the data set these are, or this is, for errors; ``map(..., with_indices=True)``
                gives them.

        Returns:
            For each side ``input_ids``, ``labels``, ``groups``, ``byte_starts`` and ``byte_ends`` (on request) and
            ``fingerprint``, and ``groups_method``: an entry for each sample that can be used, or that of the one
            sample.

        Raises:
            InputError: A column is unknown, or they are of different lengths.
            SampleError: A sample cannot be used, and is not to be skipped.
        """
        if not isinstance(batch, Mapping):
            raise InputError(
                "Expected a sample, or columns of several, as a mapping, but got "
                f"{type(batch).__name__}. Of a data set: dataset.with_format(None).map(preprocess, batched=True, "
                "remove_columns=dataset.column_names); of a list: [preprocess(sample) for sample in samples]."
            )
        encoder = self._encoder
        if not self._is_batch(encoder.columns.kept(batch)):
            (outcome,) = encoder.encode([batch], _names([batch], None if indices is None else [indices]))
            if isinstance(outcome, SampleError):
                if self._policy.on_error == "skip":
                    raise InputError(
                        f'{outcome} It cannot be skipped one by one; call map(..., batched=True), or on_error="raise".'
                    )
                raise outcome
            return to_columns(outcome, encoder.fingerprints, encoder.group_maker)
        raws = self._rows(batch)
        samples = self._policy.usable(encoder.encode(raws, _names(raws, indices)))
        rows = [to_columns(sample, encoder.fingerprints, encoder.group_maker) for sample in samples]
        names = column_names(has_groups=encoder.group_maker is not None, further=encoder.further)
        return {name: [row[name] for row in rows] for name in names}

    def _has_chats(self, name: str, value: Any) -> bool:
        """Whether a column has chats, so that those beside it have no single messages."""
        if self._encoder.columns.meaning_of(name) not in CHAT_COLUMNS:
            return False
        first = next((entry for entry in items_of(value) or () if entry is not None), None)
        return any(isinstance(message, Mapping) for message in items_of(first) or ())

    def _rows(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        columns = {name: column for name, column in batch.items() if column is not None}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            if "input_ids" not in batch:
                self._encoder.columns.require_known(batch)
            raise InputError(f"Expected columns of one length, but got {lengths}.")
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _is_batch(self, batch: Mapping[str, Any]) -> bool:
        """Whether a mapping has columns: lists of texts, or lists of chats. A chat is a list of mappings."""
        if any(self._has_chats(name, value) for name, value in batch.items()):
            return True
        for name, value in batch.items():
            if value is None:
                continue
            entries, meaning = items_of(value), self._encoder.columns.meaning_of(name)
            if entries is None:
                return False
            if not entries and meaning == "messages":
                # A list without elements is read as a chat without messages, which is an error.
                return False
            first = next((entry for entry in entries if entry is not None), None)
            if meaning in CHAT_COLUMNS and isinstance(first, Mapping):
                return False
            if meaning is None and name in TOKEN_KEYS and first is not None and items_of(first) is None:
                return False
        return True


def _names(raws: Sequence[Any], indices: Any) -> SampleNames:
    if indices is not None:
        return SampleNames(raws, [int(index) for index in indices])
    return SampleNames(
        raws, advice=" (The number is that within one call; map(..., with_indices=True) gives those of the data set.)"
    )
