"""`TeacherCache`: a store that a live teacher fills as a run goes on, from the second epoch on read alone."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dskd_components.models.in_place_of_model import require_model
from dskd_components.store.batch_columns import has_states
from dskd_components.store.batch_samples import samples_of_batch
from dskd_components.store.build import BuildOptions, prepare, write_index
from dskd_components.store.formats import bytes_per_state, state_format
from dskd_components.store.run_teacher import TeacherRun, Tokens
from dskd_components.store.shards import StoredSample, write_shard
from dskd_components.store.teacher_store import TeacherStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.models.row_layout import RowLayout
    from dskd_components.models.wrappers import CausalLM
    from dskd_components.store.batch_samples import BatchSample
    from dskd_components.store.formats import StateFormat
    from dskd_components.store.reader import BatchStates


class Pending:
    """Samples that were computed and are not on disk yet; it writes them where it was made, and in no forked copy.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: dict[bytes, StoredSample] = {}
        self._wrote = False
        self._process = os.getpid()

    def write(self) -> bool:
        """Put them in place; return whether there were any.

        Raises:
            StoreError: they cannot be written; they are kept.
        """
        if not self.samples or os.getpid() != self._process:
            return False
        write_shard(self.folder, list(self.samples.values()))
        self.samples.clear()
        self._wrote = True
        return True

    def finish(self) -> None:
        """Put them in place, and an index of everything.

        Raises:
            StoreError: as in `write`.
        """
        self.write()
        if self._wrote:
            write_index(self.folder)
            self._wrote = False


class TeacherCache(TeacherStore):
    """A `TeacherStore` with the teacher beside it, which makes what the store lacks, once.

    In the first epoch each batch is run through the teacher and stored; later ones are read. So there is no build to
    wait for, and samples that are made up on the way are stored, too. States are the same in all epochs: those of the
    store's format. The next run takes the folder as a `TeacherStore`, without the teacher. Ranks may share a folder.

    Args:
        folder: of the store; made if it is not there, gone on with if it is.
        teacher: the teacher. `to` moves it along.
        tokenizer: its tokenizer; None: its states are not bound to one.
        dtype: how states are stored; see `TeacherStore.build`.
        shard_bytes: after how many bytes of states they are written; `flush` writes those that there are, as does the
            end of the program. A run that is killed computes what was not written once more.
        check: as in `TeacherStore`.

    Raises:
        StoreError: the folder has a store of another teacher, tokenizer or format.
        InputError: the teacher is no module, or its head is not understood.

    Examples:
        >>> cache = TeacherCache("states", teacher, teacher_tokenizer)  # doctest: +SKIP
        >>> for epoch in range(3):  # doctest: +SKIP
        ...     for batch in loader:
        ...         loss_fn.run(student, cache, batch).loss.backward()
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: CausalLM,
        tokenizer: Any = None,
        *,
        dtype: StateFormat = "bfloat16",
        shard_bytes: int = 2**27,
        check: bool = True,
    ) -> None:
        require_model(teacher, "teacher", module=True)
        options = BuildOptions(
            states=state_format(dtype),
            batch_size=1,
            positions="scored",
            shard=None,
            shard_bytes=shard_bytes,
            watch=None,
        )
        prepare(Path(folder), teacher, tokenizer, options, {})
        super().__init__(folder, check=check)
        module: Any = teacher
        self.teacher = module.eval()
        self.reader.fills = True
        self._shard_bytes = shard_bytes
        self._pending = Pending(Path(folder))
        # Also at the end of the program, and without holding this object until then.
        self._finish = weakref.finalize(self, Pending.finish, self._pending)

    def hidden_states(self, columns: Mapping[str, Tensor], layout: RowLayout, targets: Tensor) -> Tensor:
        """Return the states of one batch: those that are stored, and those that the teacher makes now.

        Args:
            columns: the teacher's columns, by name without prefix.
            layout: how samples lie in them.
            targets: ``[B, T]``: the token that each position predicts, -100 where none is scored.

        Raises:
            StoreError: states cannot be written, or as in `TeacherStore.hidden_states`.
        """
        self._require_own_tokens(columns)
        samples = samples_of_batch(columns, layout, targets)
        if has_states(columns):
            found = self._came_along(columns)
            missing = _not_among(samples, found, targets)
        else:
            found, missing = self.reader.read(samples, len(targets), required=False)
        placed = found.placed(targets.shape[1], targets.device)
        if not missing:
            return placed
        # Each position is in one of the two, and zero in the other.
        return placed + self._made(missing, len(targets)).placed(targets.shape[1], targets.device)

    def flush(self) -> None:
        """Write what is not on disk yet.

        Raises:
            StoreError: it cannot be written; it is kept in memory.
        """
        self._pending.finish()
        self.reader.refresh()

    def _made(self, missing: Sequence[BatchSample], rows: int) -> BatchStates:
        """Return the states of samples that are not on disk."""
        stored = [self._pending.samples.get(sample.input_ids.tobytes()) for sample in missing]
        lacking = {
            sample.input_ids.tobytes(): sample
            for sample, known in zip(missing, stored, strict=True)
            if known is None or (sample.wanted & ~known.stored).any()
        }
        if lacking:
            tokens = [Tokens(sample.input_ids, self._wanted_in_all(sample, missing)) for sample in lacking.values()]
            made = TeacherRun(self.teacher).stored(tokens, self.manifest.states)
            self._pending.samples.update(zip(lacking, made, strict=True))
        found = [self._pending.samples[sample.input_ids.tobytes()] for sample in missing]
        batch = self.reader.put_together(list(zip(missing, found, strict=True)), rows)
        states = sum(len(sample.states) for sample in self._pending.samples.values())
        if states * bytes_per_state(self.manifest.hidden_size, self.manifest.states) >= self._shard_bytes:
            self._pending.write()
            self.reader.refresh()
        return batch

    def _wanted_in_all(self, sample: BatchSample, missing: Sequence[BatchSample]) -> Any:
        """Return ``[T]``: the positions that some copy of a sample wants."""
        key, wanted = sample.input_ids.tobytes(), sample.wanted.copy()
        for other in missing:
            if other.input_ids.tobytes() == key:
                wanted |= other.wanted
        return wanted


def _not_among(samples: Sequence[BatchSample], found: BatchStates, targets: Tensor) -> list[BatchSample]:
    """Return the samples of which some wanted state did not come along."""
    present = found.present(targets.shape[1]).cpu().numpy()
    return [sample for sample in samples if not present[sample.row, sample.places][sample.wanted].all()]
