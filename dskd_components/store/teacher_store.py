"""`TeacherStore`: a teacher's last hidden states on disk, in the place of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dskd_components.errors import StoreError
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.store.batch_columns import has_states, number_of, states_in
from dskd_components.store.batch_samples import samples_of_batch
from dskd_components.store.build import BuildOptions, build
from dskd_components.store.formats import bytes_per_state, state_format
from dskd_components.store.merge import folders_of, merge
from dskd_components.store.progress import shown
from dskd_components.store.reader import BatchStates, Reader
from dskd_components.store.teacher_tensors import TeacherTensors
from dskd_components.store.verify import VerifyReport, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    from dskd_components.models.row_layout import RowLayout
    from dskd_components.models.wrappers import CausalLM
    from dskd_components.store.build import BuildProgress
    from dskd_components.store.formats import StateFormat
    from dskd_components.store.manifest import Manifest, Positions


class TeacherStore(OfflineTeacher):
    """A teacher's states on disk: build them once, train any number of students from them without the teacher.

    It stands wherever the loss takes a teacher: ``loss_fn.run(student, store, batch)``, `DSKDLoss.from_models`, the
    trainers. The teacher's head and embedding come along; ``.to(device)`` moves them. Samples are found by their
    tokens, so their order, the batches and the number of processes make no difference, and neither do the student, its
    tokenizer, the aligner and all else in the spec.

    Args:
        folder: that `build` has written.
        check: whether the checksum of each sample is compared as it is read, and that of the teacher's head now, which
            takes about a second for each gigabyte of head and embedding.

    Raises:
        StoreError: there is no store, or it is damaged.

    Examples:
        >>> import tempfile
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, TeacherStore
        >>> tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> teacher = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=1))
        >>> student = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=4, n_layer=1, n_head=1))
        >>> collate, samples = DualTokenizerCollator(tokenizer, tokenizer), [{"text": "a b b a"}, {"text": "b a"}]
        >>> folder = tempfile.mkdtemp()
        >>> store = TeacherStore.build(folder, teacher, collate, samples)
        >>> del teacher
        >>> loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), student, store, tokenizer, tokenizer)
        >>> loss_fn.run(student, store, collate(samples[::-1])).loss.backward()
        >>> len(store), store.manifest.states
        (2, 'bfloat16')
    """

    def __init__(self, folder: str | Path, *, check: bool = True) -> None:
        reader = Reader(Path(folder), check=check)
        manifest = reader.manifest
        tensors = TeacherTensors.read(Path(folder), check=check)
        tensors.require_width(manifest.hidden_size, Path(folder))
        super().__init__(
            tensors.head,
            tensors.embedding,
            configuration=manifest.head.configuration,
            tokenizer=manifest.tokenizer_number,
        )
        self.reader = reader

    @classmethod
    def build(
        cls,
        folder: str | Path,
        teacher: CausalLM,
        collator: Callable[[Sequence[Any]], Mapping[str, Tensor]],
        samples: Iterable[Any],
        *,
        tokenizer: Any = None,
        dtype: StateFormat = "bfloat16",
        batch_size: int = 8,
        positions: Positions = "scored",
        shard: tuple[int, int] | None = None,
        shard_bytes: int = 2**27,
        progress: bool | Callable[[BuildProgress], None] = False,
        check: bool = True,
    ) -> Self:
        """Run a teacher over samples and store its states; or go on with a build that was cut short.

        A build may be killed at any moment, and run again: what was stored stays, and is not computed again. New
        samples are added in the same way. Several processes build one store together, in one folder or in several that
        `merge` puts together: each takes its ``shard``, by default its rank in `torch.distributed`.

        Args:
            folder: of the store; made if it is not there.
            teacher: a causal language model, on its device. It is left as it was.
            collator: a `DualTokenizerCollator` with the teacher's tokenizer, of which the teacher's options count
                (``teacher_max_length``, ``append_eos``, ``train_on_prompt``, the chat template): the student may be
                any, and its limit does not cut anything. Or some other collator that makes the columns which
                `DSKDLoss.run` reads; then samples are cut as it cuts them.
            samples: raw or preprocessed samples, once, the same for all processes; their order makes no difference to
                what is read.
            tokenizer: the teacher's tokenizer, for a collator that is not a `DualTokenizerCollator`; None: states are
                bound to none.
            dtype: how states are stored: ``"bfloat16"``; ``"float32"``, exactly; or ``"int8"``, half of bfloat16.
            batch_size: how many samples the teacher runs on together.
            positions: ``"scored"``, what any student, aligner and spec reads of these samples; or ``"all"``, so that
                other tokens may be scored later (``train_on_prompt``) without another build.
            shard: ``(i, n)``: store part i of n alone, counted from 0.
            shard_bytes: after how many bytes of states a file is closed; a build that is killed loses one at most.
            progress: whether to show a progress bar on the terminal; or what to call instead, after each batch.
            check: as in the class.

        Returns:
            The store.

        Raises:
            StoreError: the folder has a store of another teacher, tokenizer or format; or it cannot be written, as when
                the disk is full; or the teacher's states are not finite. What was stored stays.
            ConfigurationError: an option has no such value.
            InputError: the teacher's head is not understood, a sample is none, or these are no samples at all.
        """
        with shown(progress) as watch:
            options = BuildOptions(
                states=state_format(dtype),
                batch_size=batch_size,
                positions=positions,
                shard=shard,
                shard_bytes=shard_bytes,
                watch=watch,
            )
            build(Path(folder), teacher, collator, samples, tokenizer, options)
        return cls(folder, check=check)

    @classmethod
    def merge(cls, folder: str | Path, parts: Sequence[str | Path], *, check: bool = True) -> Self:
        """Put stores of one teacher together. Files are linked where the file system can, and copied where not.

        What several parts have is stored as often, and read once; `copies` counts it.

        Args:
            folder: of the whole; it may be one of the parts, or a store that is there already.
            parts: folders of stores. They stay as they are.
            check: as in the class.

        Raises:
            StoreError: the parts are of different teachers, tokenizers or formats; the message says what differs.
        """
        merge(Path(folder), folders_of(parts))
        return cls(folder, check=check)

    def __len__(self) -> int:
        """Return the number of stored samples, each of `copies` counted, too."""
        return len(self.reader)

    def copies(self) -> int:
        """Return how many of the stored samples are copies of others, as in a store merged of parts that overlap.

        They take up space and are read once. All tokens are read to find them.
        """
        return self.reader.copies()

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.reader.folder

    @property
    def manifest(self) -> Manifest:
        """What the store says of itself."""
        return self.reader.manifest

    @property
    def number(self) -> int:
        """What tells states of this teacher, tokenizer and format from others: 63 bits, as batches carry them."""
        return number_of(self.manifest)

    @property
    def bytes_per_token(self) -> int:
        """How many bytes the state of one position takes, without tokens and index."""
        return bytes_per_state(self.manifest.hidden_size, self.manifest.states)

    def hidden_states(self, columns: Mapping[str, Tensor], layout: RowLayout, targets: Tensor) -> Tensor:
        """Return the states of one batch: those that came with it, or else those on disk.

        Args:
            columns: the teacher's columns, by name without prefix.
            layout: how samples lie in them.
            targets: ``[B, T]``: the token that each position predicts, -100 where none is scored.

        Raises:
            StoreError: the store does not have a scored position; the message names the sample. Or the states that came
                with the batch are of another store.
        """
        self._require_own_tokens(columns)
        if has_states(columns):
            found = self._came_along(columns)
            self._require_all(found, columns, layout, targets)
        else:
            found, _ = self.reader.read(samples_of_batch(columns, layout, targets), len(targets))
        return found.placed(targets.shape[1], targets.device)

    def verify(
        self, teacher: CausalLM | None = None, *, samples: int = 16, seed: int = 0, batch_size: int = 8
    ) -> VerifyReport:
        """Read every file anew and compare it with its digest; with a teacher, compute some samples again, too.

        Args:
            teacher: the teacher that made the states.
            samples: how many samples are computed again.
            seed: which ones.
            batch_size: how many of them are run together.

        Returns:
            What is damaged, and by how much states differ. Nothing is raised: look at ``report.passed``.
        """
        return verify(self.reader, teacher, samples=samples, seed=seed, batch_size=batch_size)

    def extra_repr(self) -> str:
        """Return what printing shows."""
        return f"{str(self.folder)!r}, samples={len(self)}, dtype={self.manifest.states}, {super().extra_repr()}"

    def _require_own_tokens(self, columns: Mapping[str, Tensor]) -> None:
        number = columns.get("fingerprint")
        if number is None or self.tokenizer is None:
            return
        if not bool((torch.as_tensor(number) == self.tokenizer).all()):
            raise StoreError(
                f"{self.folder}: the batch was collated with another teacher tokenizer than the store was built with, "
                "so its token ids mean something else. Give the collator the tokenizer of the build, or build again."
            )

    def _came_along(self, columns: Mapping[str, Tensor]) -> BatchStates:
        """Return the states that the collator's worker has read, once they are known to be this store's."""
        if not bool((columns["store_number"] == self.number).all()):
            raise StoreError(
                f"{self.folder}: the states in the batch were read ahead from another store. Give the same store to "
                "ReadAheadCollator and to the loss."
            )
        return states_in(columns)

    def _require_all(
        self, found: BatchStates, columns: Mapping[str, Tensor], layout: RowLayout, targets: Tensor
    ) -> None:
        """Refuse states that came along without those of some scored position."""
        has = found.present(targets.shape[1])
        if not bool(((targets != IGNORE_INDEX) & ~has).any()):
            return
        for sample in samples_of_batch(columns, layout, targets):
            if not has[sample.row].cpu().numpy()[sample.places][sample.wanted].all():
                raise self.reader.missing(sample)
