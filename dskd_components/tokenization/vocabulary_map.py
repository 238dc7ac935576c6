"""Which token of one vocabulary stands for which token of another."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args
from uuid import uuid4

import numpy as np

from dskd_components.errors import DSKDWarning, InputError
from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.fast_tokenizers import tokenizer_fingerprint
from dskd_components.tokenization.nearest_token import nearest_tokens
from dskd_components.tokenization.token_bytes import VocabularyBytes, vocabulary_bytes

MapMethod = Literal["bytes", "min_edit"]

FORMAT: Final = 1
"""How a kept map is laid out: a SHA-256 over the key and all that follows, then arrays as NumPy writes them."""

DIGEST_SIZE: Final = 32
"""Bytes of a SHA-256."""

RULES: Final = 2
"""By which rules tokens are mapped. It is raised whenever two tokenizers may get another map than before, and is a part
of the key, so that maps which an older version of this library has kept are not taken."""

ROLES = (
    ("eos_token_id", "sep_token_id"),
    ("bos_token_id", "cls_token_id"),
    ("pad_token_id",),
    ("unk_token_id",),
)
"""Special tokens that stand for each other, by the attributes that name them; the first one set counts."""


@dataclass(frozen=True, eq=False)
class VocabularyMap:
    """The student's token for each of the teacher's.

    Attributes:
        teacher_to_student: The student's id for each teacher id, -1 for none ``[teacher ids]``.
        same_bytes: Which teacher ids are their student's token itself: the same bytes, or the same role. Of several
            that a vocabulary has for the same bytes, it is the one that its tokenizer writes, so each is here once.
        method: How the map was made; None: by somebody else.
        student_fingerprint: The `tokenizer_fingerprint` of the student's tokenizer; empty: not known.
        teacher_fingerprint: The `tokenizer_fingerprint` of the teacher's tokenizer; empty: not known.
    """

    teacher_to_student: IntArray
    same_bytes: BoolArray
    method: MapMethod | None = None
    student_fingerprint: str = ""
    teacher_fingerprint: str = ""

    @cached_property
    def shared(self) -> IntArray:
        """Pairs of student and teacher id for the same bytes ``[N, 2]``, each id once, by student id."""
        teacher = np.flatnonzero(self.same_bytes)
        student, first = np.unique(self.teacher_to_student[teacher], return_index=True)
        return np.stack([student, teacher[first]], axis=1)

    @property
    def coverage(self) -> float:
        """The share of the teacher's ids that have a student's."""
        return float(np.mean(self.teacher_to_student >= 0)) if len(self.teacher_to_student) else 0.0


def build_vocabulary_map(
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    *,
    method: MapMethod = "bytes",
    cache_dir: str | Path | None = None,
) -> VocabularyMap:
    """Map the teacher's vocabulary into the student's.

    Tokens are compared by the bytes they stand for, so that ``Ġthe`` is ``▁the`` and ``<0x0A>`` is ``Ċ``. A
    WordPiece token that starts a word stands for its text after a space, or else without one. Special tokens
    map by role (EOS, BOS, padding, unknown) where the tokenizer names it, or by their text.

    A vocabulary may have several tokens for the same bytes: ``A`` and ``<0x41>``, or a token that is both EOS and
    padding. All are mapped, but one alone is shared: that of the first role, an added token, a piece, a byte token, in
    this order. So which tokens are shared does not depend on which of the two models is the teacher.

    Args:
        student_tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        teacher_tokenizer: The teacher's, of either kind.
        method: ``"bytes"`` maps equal tokens alone; ``"min_edit"`` maps every other ordinary token of the
            teacher to the student's token at the smallest edit distance, the lowest id of several, unless the
            two have no character in common.
        cache_dir: A folder that keeps maps by tokenizer fingerprint; nothing is kept if left out. A kept map that is
            damaged, or that other rules have made, is made anew; one that cannot be kept is a `DSKDWarning`.

    Raises:
        InputError: A tokenizer is a slow one, or the method is unknown.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> student = Tokenizer(models.BPE({"Ġ": 0, "a": 1, "Ġa": 2}, [("Ġ", "a")]))
        >>> student.pre_tokenizer = pre_tokenizers.ByteLevel()
        >>> teacher = Tokenizer(models.BPE({"▁": 0, "b": 1, "▁a": 2, "a": 3}, []))
        >>> teacher.pre_tokenizer = pre_tokenizers.Metaspace()
        >>> build_vocabulary_map(student, teacher).teacher_to_student.tolist()
        [0, -1, 2, 1]
    """
    if method not in get_args(MapMethod):
        raise InputError(f"Expected method to be one of {', '.join(get_args(MapMethod))}, but got {method!r}.")
    student_print, teacher_print = (
        tokenizer_fingerprint(student_tokenizer),
        tokenizer_fingerprint(teacher_tokenizer),
    )
    roles = _role_pairs(student_tokenizer, teacher_tokenizer)
    named = "-".join(f"{student}.{teacher}" for student, teacher in roles)
    key = f"{method}-{student_print}-{teacher_print}-{named}-format{FORMAT}-rules{RULES}"
    path = None
    if cache_dir is not None:
        path = Path(cache_dir) / f"{method}-{hashlib.sha256(key.encode()).hexdigest()[:48]}.map"
        kept = _load(path, key)
        if kept is not None:
            return VocabularyMap(*kept, method, student_print, teacher_print)
    student, teacher = vocabulary_bytes(student_tokenizer), vocabulary_bytes(teacher_tokenizer)
    found, lateness = _match_bytes(student, teacher)
    for student_id, teacher_id in reversed(roles):  # the first role of a token counts
        found[teacher_id] = student_id
    same = _written(teacher, found, lateness, roles)
    if method == "min_edit":
        _match_nearest(student, teacher, found)
    built = VocabularyMap(found, same, method, student_print, teacher_print)
    if path is not None:
        _save(path, key, built)
    return built


def _role_pairs(student_tokenizer: Any, teacher_tokenizer: Any) -> list[tuple[int, int]]:
    pairs = []
    for names in ROLES:
        ids = []
        for tokenizer in (student_tokenizer, teacher_tokenizer):
            named = (getattr(tokenizer, name, None) for name in names)
            ids.append(next((number for number in named if number is not None), None))
        if ids[0] is not None and ids[1] is not None:
            pairs.append((int(ids[0]), int(ids[1])))
    return pairs


def _keys(vocabulary: VocabularyBytes) -> list[tuple[bytes, bytes | None]]:
    """For each id the bytes to look it up by, and others to fall back on."""
    if vocabulary.family != "wordpiece":
        return [(piece, None) for piece in vocabulary.pieces]
    starts_word = ~(vocabulary.continues_word | vocabulary.added)
    return [
        (b" " + piece, piece) if starts else (piece, None)
        for piece, starts in zip(vocabulary.pieces, starts_word.tolist(), strict=True)
    ]


def _match_bytes(student: VocabularyBytes, teacher: VocabularyBytes) -> tuple[IntArray, IntArray]:
    """The student's id for each teacher's id with the same bytes, and how many sides have taken it for want of others.

    Of several of the student's it is an added token, which is found in a text before any other, else the lowest. Byte
    tokens, and tokens that start a word where there is no space, are taken last.
    """
    ordinary: dict[bytes, int] = {}
    special: dict[bytes, int] = {}
    fallback: list[tuple[bytes, int]] = []
    late = student.byte_tokens
    keys = _keys(student)
    for number in np.argsort(~student.added, kind="stable").tolist():
        key, other = keys[number]
        if not key:
            continue
        if student.special[number]:
            special.setdefault(key, number)
        elif late[number]:
            fallback.append((key, number))
        else:
            ordinary.setdefault(key, number)
            if other:
                fallback.append((other, number))
    late_keys = {key for key, _ in fallback} - ordinary.keys()
    for key, number in fallback:
        ordinary.setdefault(key, number)
    found = np.full(len(teacher.pieces), -1, dtype=np.int64)
    lateness = teacher.byte_tokens.astype(np.int64)
    for number, ((key, other), is_special) in enumerate(zip(_keys(teacher), teacher.special.tolist(), strict=True)):
        names = special if is_special else ordinary
        match = names.get(key)
        if match is None and other is not None:
            key, match = other, names.get(other)
            lateness[number] += 1
        if match is not None and key:
            found[number] = match
            lateness[number] += not is_special and key in late_keys
    return found, lateness


def _written(teacher: VocabularyBytes, found: IntArray, lateness: IntArray, roles: list[tuple[int, int]]) -> BoolArray:
    """Of all teacher ids that are mapped to one student's id, the one that the tokenizer writes in its place."""
    rank = 2 * lateness + ~teacher.added
    for place, (_, teacher_id) in reversed(list(enumerate(roles, -len(roles)))):
        rank[teacher_id] = place
    mapped = np.flatnonzero(found >= 0)
    mapped = mapped[np.argsort(rank[mapped], kind="stable")]
    _, first = np.unique(found[mapped], return_index=True)
    same = np.zeros(len(found), dtype=np.bool_)
    same[mapped[first]] = True
    return same


def _match_nearest(student: VocabularyBytes, teacher: VocabularyBytes, found: IntArray) -> None:
    """Fill in the nearest student token for each ordinary teacher token that has none, in place."""
    open_ids = _wordlike(teacher, np.flatnonzero((found < 0) & ~teacher.special & ~teacher.byte_tokens))
    targets = _wordlike(student, np.flatnonzero(~student.special & ~student.byte_tokens))
    nearest = nearest_tokens(
        [teacher.pieces[number].decode(errors="surrogateescape") for number in open_ids],
        [student.pieces[number].decode(errors="surrogateescape") for number in targets],
    )
    for number, index in zip(open_ids, nearest, strict=True):
        if index >= 0:
            found[number] = targets[index]


def _wordlike(vocabulary: VocabularyBytes, numbers: IntArray) -> list[int]:
    """Those of some ids that stand for more than spaces."""
    return [number for number in numbers.tolist() if vocabulary.pieces[number].strip(b" ")]


def _load(path: Path, key: str) -> tuple[IntArray, BoolArray] | None:
    """The two arrays of a kept map; None if there is none, or it is damaged or of another key."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, packed = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
    # Nothing reads a damaged file any further.
    if digest != _digest(key, packed):
        return None
    with np.load(io.BytesIO(packed), allow_pickle=False) as kept:
        return kept["teacher_to_student"].astype(np.int64), kept["same_bytes"]


def _save(path: Path, key: str, built: VocabularyMap) -> None:
    """Write a map so that other processes see either all of it or nothing; a map that cannot be kept is said."""
    packed = io.BytesIO()
    numbers = built.teacher_to_student.astype(np.int32)
    np.savez_compressed(packed, teacher_to_student=numbers, same_bytes=built.same_bytes)
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(_digest(key, packed.getvalue()) + packed.getvalue())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"{path}: the map between the vocabularies cannot be kept there ({error.strerror or error}), so it is made "
            "again each time. Give a cache_dir that is a folder that can be written to.",
            DSKDWarning,
            stacklevel=3,
        )


def _digest(key: str, packed: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + packed).digest()
