"""Building a store: each sample's tokens, run once through the teacher, in shards that are put in place whole.

What is done is what is there: a build that is run again finds what is stored and goes on with the others. Samples are
taken a window at a time and, within it, from the longest to the shortest, which wastes little on padding. A shard holds
whole batches, so that a build which was killed makes the same batches, and so the same shards, as one that was not.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch.distributed as dist

from dskd_components.collation import DualTokenizerCollator, MultiTeacherCollator, SampleError
from dskd_components.collation.problems import require_list
from dskd_components.errors import ConfigurationError, InputError, StoreError
from dskd_components.loss.checkpoints import HeadFingerprint
from dskd_components.models.row_layout import RowLayout
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.store.batch_samples import samples_of_batch
from dskd_components.store.files import UNFINISHED, naming
from dskd_components.store.formats import bytes_per_state
from dskd_components.store.index import Index
from dskd_components.store.manifest import FILE as MANIFEST_FILE
from dskd_components.store.manifest import Manifest, teacher_fingerprint, tokenizer_facts
from dskd_components.store.reader import Reader
from dskd_components.store.run_teacher import TeacherRun, Tokens, beginnings_are_samples, computed_in
from dskd_components.store.shards import PATTERN, Shard, write_shard
from dskd_components.store.teacher_tensors import PATTERN as TEACHER_PATTERN
from dskd_components.store.teacher_tensors import TeacherTensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from dskd_components.models.wrappers import CausalLM
    from dskd_components.store.formats import StateFormat
    from dskd_components.store.manifest import Positions
    from dskd_components.store.shards import StoredSample

WINDOW: Final = 2048
"""How many samples are sorted by length together."""

ABANDONED: Final = 3600
"""After how many seconds a file that is being written counts as left behind."""


@dataclass
class BuildProgress:
    """How far a build is.

    Args:
        samples: how many samples of the data were looked at.
        total: how many there are; None: not known.
        tokens: how many tokens the teacher has read in this call.
        states: how many states were stored in this call.
        bytes: how many bytes they take.
        started: when the call began, by `time.monotonic`.
    """

    samples: int = 0
    total: int | None = None
    tokens: int = 0
    states: int = 0
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self.started


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a store is built; `TeacherStore.build` documents the fields.

    Raises:
        ConfigurationError: an option has no such value.
    """

    states: StateFormat
    batch_size: int
    positions: Positions
    shard: tuple[int, int] | None
    shard_bytes: int
    watch: Callable[[BuildProgress], None] | None

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name}: expected a positive integer, got {value!r}.")
        if self.positions not in ("scored", "all"):
            raise ConfigurationError(f"positions: expected 'scored' or 'all', got {self.positions!r}.")
        if self.shard is not None:
            number, count = self.shard
            if not 0 <= number < count:
                raise ConfigurationError(
                    f"shard: expected (i, n), part i of n counted from 0, got {self.shard!r}. Of four parts the last "
                    "is (3, 4)."
                )

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the samples this process stores, of how many."""
        if self.shard is not None:
            return self.shard
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1


def prepare(folder: Path, teacher: CausalLM, tokenizer: Any, options: BuildOptions, notes: dict[str, Any]) -> Manifest:
    """Begin a store, or find out whether one that is there is of the same teacher.

    Args:
        folder: made if it is not there.
        teacher: the teacher.
        tokenizer: its tokenizer, or None.
        options: of the build.
        notes: how samples become tokens, for messages.

    Raises:
        StoreError: the store is of another teacher, tokenizer or format, or the folder holds something else.
    """
    tensors = TeacherTensors.of_model(teacher, tokenizer)
    manifest = Manifest(
        states=options.states,
        hidden_size=tensors.head.hidden_size,
        head=HeadFingerprint.of(tensors.head, frozen=True).of_model(teacher),
        teacher=teacher_fingerprint(teacher),
        computed_in=computed_in(teacher),
        positions=options.positions,
        options=notes,
        beginnings=beginnings_are_samples(teacher),
        **tokenizer_facts(tokenizer),
    )
    with naming(folder, "the store cannot be written there"):
        folder.mkdir(parents=True, exist_ok=True)
        found = [path.name for path in folder.iterdir() if not path.name.startswith(UNFINISHED)]
    if (folder / MANIFEST_FILE).is_file():
        existing = Manifest.read(folder)
        existing.require_same(manifest, source="The teacher of this build")
        manifest = existing
    elif any(not name.startswith(("teacher-", "states-")) for name in found):
        raise StoreError(
            f"{folder}: the folder holds other files ({sorted(found)[0]!r} among them) and no store. Give a new folder."
        )
    if not any(folder.glob(TEACHER_PATTERN)):
        tensors.write(folder)
    if not (folder / MANIFEST_FILE).is_file():
        manifest.write(folder)
    return manifest


def build(
    folder: Path, teacher: CausalLM, collator: Any, samples: Iterable[Any], tokenizer: Any, options: BuildOptions
) -> None:
    """Store what a teacher makes of samples; see `TeacherStore.build`.

    Args:
        folder: of the store.
        teacher: the teacher.
        collator: makes tokens of samples.
        samples: the data.
        tokenizer: the teacher's, where the collator does not tell.
        options: how.

    Raises:
        StoreError: as there.
        InputError: as there.
    """
    require_list(samples, or_stream=True)
    tokenizer = _tokenizer_of(collator, tokenizer)
    manifest = prepare(folder, teacher, tokenizer, options, notes_of(collator))
    _remove_abandoned(folder)
    run, known = TeacherRun(teacher), Reader(folder)
    progress = BuildProgress(total=len(samples) if isinstance(samples, Sized) else None)
    seen: dict[bytes, bytes] = {}
    for first, window in _windows(samples):
        fresh = _fresh(_tokens_of(collator, window, first, options.positions), known, seen, options.part)
        pending: list[StoredSample] = []
        size = 0
        for batch in _batches(fresh, options.batch_size):
            pending += run.stored(batch, options.states)
            states = sum(int(sample.wanted.sum()) for sample in batch)
            progress.tokens += sum(map(len, batch))
            progress.states += states
            progress.bytes += states * bytes_per_state(manifest.hidden_size, options.states)
            size += states * bytes_per_state(manifest.hidden_size, options.states)
            _tell(options, progress)
            if size >= options.shard_bytes:
                write_shard(folder, pending)
                pending, size = [], 0
        if pending:
            write_shard(folder, pending)
        progress.samples = first + len(window)
        _tell(options, progress)
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    write_index(folder)


def write_index(folder: Path) -> None:
    """Put the index of all shards in place.

    Args:
        folder: of the store.
    """
    names: list[str] = []
    # Others may add to the store meanwhile.
    while names != (present := sorted(path.name for path in folder.glob(PATTERN))):
        names = present
        # Made anew, so that it is the same whatever the builds that have led to it.
        Index.of_shards((name, Shard(folder / name)) for name in names).write(folder)


def _tell(options: BuildOptions, progress: BuildProgress) -> None:
    if options.watch is not None:
        options.watch(progress)


def _windows(samples: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the samples a window at a time, with the number of the first one."""
    rest, first = iter(samples), 0
    while window := list(islice(rest, WINDOW)):
        yield first, window
        first += len(window)


def _tokens_of(collator: Any, window: Sequence[Any], first: int, positions: Positions) -> list[Tokens]:
    """Return a window's samples in the teacher's tokens."""
    if isinstance(collator, DualTokenizerCollator):
        sides = collator.teacher_sides(window, first=first)
        found = [Tokens(side.input_ids.astype(np.int32), _predicting(side.labels)) for side in sides]
    else:
        try:
            found = _of_batch(collator(list(window)))
        except SampleError as error:
            raise error.reworded(f"Among the samples from {first} on: {error}") from error
        except InputError as error:
            raise InputError(f"Among the samples from {first} on: {error}") from error
    if positions == "all":
        found = [Tokens(tokens.input_ids, np.ones_like(tokens.wanted)) for tokens in found]
    return found


def _predicting(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return ``[T]``: the positions that predict a scored token."""
    wanted = np.zeros(len(labels), dtype=np.bool_)
    wanted[:-1] = labels[1:] != IGNORE_INDEX
    return wanted


def _of_batch(batch: Any) -> list[Tokens]:
    """Return the samples of a batch that some other collator has made."""
    own = {name.removeprefix("teacher_"): column for name, column in batch.items() if name.startswith("teacher_")}
    columns = own or dict(batch)
    if "input_ids" not in columns or "labels" not in columns:
        raise InputError(
            f"collator: expected a batch with the columns 'teacher_input_ids' and 'teacher_labels', got "
            f"{', '.join(map(repr, batch)) or 'none'}."
        )
    layout = RowLayout.of(columns["labels"], columns, "teacher_")
    targets = layout.shifted(columns["labels"], IGNORE_INDEX)
    return [Tokens(sample.input_ids, sample.wanted) for sample in samples_of_batch(columns, layout, targets)]


def _fresh(found: Sequence[Tokens], known: Reader, seen: dict[bytes, bytes], part: tuple[int, int]) -> list[Tokens]:
    """Return each sample of this part once, without those that are stored, with the positions of all its copies."""
    wanted: dict[bytes, Tokens] = {}
    for tokens in found:
        key = tokens.input_ids.tobytes()
        other = wanted.get(key)
        wanted[key] = Tokens(tokens.input_ids, tokens.wanted | other.wanted) if other else tokens
    fresh = []
    for key, tokens in wanted.items():
        # By content, so that copies of a sample are one process's, wherever they stand in the data.
        if zlib.crc32(key) % part[1] != part[0] or not tokens.wanted.any():
            continue
        digest = hashlib.blake2b(key, digest_size=16).digest()
        if not _covers(seen.get(digest), tokens) and known.find(tokens.as_row, whole=True) is None:
            seen[digest] = np.packbits(tokens.wanted).tobytes()
            fresh.append(tokens)
    return fresh


def _covers(stored: bytes | None, tokens: Tokens) -> bool:
    """Return whether positions that were stored earlier are all that are wanted."""
    if stored is None:
        return False
    positions = np.unpackbits(np.frombuffer(stored, dtype=np.uint8), count=len(tokens))
    return not (tokens.wanted & (positions == 0)).any()


def _batches(samples: list[Tokens], batch_size: int) -> Iterator[list[Tokens]]:
    """Yield the samples from the longest to the shortest."""
    ordered = sorted(samples, key=lambda sample: (-len(sample), sample.input_ids.tobytes()))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _tokenizer_of(collator: Any, given: Any) -> Any:
    if isinstance(collator, MultiTeacherCollator):
        raise ConfigurationError(
            "collator: a store is of one teacher, and MultiTeacherCollator makes the tokens of several. Build one "
            "store for each, with DualTokenizerCollator(student_tokenizer, teacher_tokenizer); batches of a "
            "MultiTeacherCollator can be read from them."
        )
    return collator.encoder.teacher.tokenizer if isinstance(collator, DualTokenizerCollator) else given


def notes_of(collator: Any) -> dict[str, Any]:
    """Return how a collator makes the teacher's tokens, for the manifest.

    Args:
        collator: any.
    """
    if not isinstance(collator, DualTokenizerCollator):
        return {"collator": type(collator).__name__}
    options = collator.encoder.options
    names = ("teacher_max_length", "append_eos", "train_on_prompt")
    return {name: getattr(options, name) for name in names}


def _remove_abandoned(folder: Path) -> None:
    """Delete what processes that were killed have left behind; what is younger may still be written."""
    for path in folder.glob(f"{UNFINISHED}*"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
        except OSError:  # somebody else was faster
            continue
