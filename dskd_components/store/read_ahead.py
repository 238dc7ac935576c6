"""`ReadAheadCollator`: states come with the batch, read by the workers of a data loader while the student works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.collation import DualTokenizerCollator
from dskd_components.errors import ConfigurationError, StoreError
from dskd_components.models.batch import columns_of_pair, naming_teacher
from dskd_components.models.row_layout import RowLayout
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.store.batch_columns import as_columns, number_of
from dskd_components.store.batch_samples import samples_of_batch
from dskd_components.store.build import notes_of
from dskd_components.store.manifest import tokenizer_facts
from dskd_components.store.teacher_store import TeacherStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dskd_components.store.reader import Reader

OF_STORE: Final = "teacher"


class ReadAheadCollator:
    """Makes batches as another collator does, and adds the teacher's states to them.

    In a `torch.utils.data.DataLoader` its workers read the disk, several batches ahead. Without workers it reads in the
    loop, as the loss would. States travel as they are stored; the loss decodes them on its device.

    Args:
        collator: any collator of batches for `DSKDLoss.run`.
        store: the store; for a `MultiTeacherLoss` the stores by teacher. Teachers that have none run as they are.

    Raises:
        ConfigurationError: it is neither.
        StoreError: the collator has another tokenizer than the store was built with.

    Examples:
        >>> loader = DataLoader(  # doctest: +SKIP
        ...     samples, batch_size=8, collate_fn=ReadAheadCollator(collate, store), num_workers=2
        ... )
    """

    def __init__(
        self,
        collator: Callable[[Sequence[Any]], Mapping[str, Tensor]],
        store: TeacherStore | Mapping[str, TeacherStore],
    ) -> None:
        self._is_single = isinstance(store, TeacherStore)
        stores: Mapping[str, Any] = {OF_STORE: store} if isinstance(store, TeacherStore) else store
        if not isinstance(stores, Mapping) or not all(isinstance(each, TeacherStore) for each in stores.values()):
            raise ConfigurationError(
                f"ReadAheadCollator: expected a TeacherStore, or stores by teacher, got {store!r:.80}."
            )
        self._collator = collator
        # Not the stores: head and embedding must not go along to the workers.
        self._readers: dict[str, Reader] = {name: each.reader for name, each in stores.items()}
        if self._is_single and isinstance(collator, DualTokenizerCollator):
            stores[OF_STORE].require_tokenizer(collator.encoder.teacher.tokenizer)

    def __getattr__(self, attribute: str) -> Any:
        """Return what is not this class's own from the collator, such as ``skipped``."""
        if attribute.startswith("_"):  # not there yet while a copy is made
            raise AttributeError(attribute)
        return getattr(self._collator, attribute)

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Collate samples and read their states.

        Args:
            samples: as the collator takes them.

        Returns:
            Its columns and, with the teacher's prefix, ``store_states``, ``store_scales`` (int8 alone),
            ``store_positions`` and ``store_number``.

        Raises:
            StoreError: the store does not have a sample; the message names it.
        """
        batch = dict(self._collator(samples))
        for name, reader in self._readers.items():
            given = None if self._is_single else name
            columns = _teacher_columns(batch, given, list(self._readers))
            with naming_teacher(given):
                batch |= {f"{name}_{column}": value for column, value in self._states(reader, columns).items()}
        return batch

    def _states(self, reader: Reader, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        layout = RowLayout.of(columns["labels"], columns, "teacher_")
        targets = layout.shifted(columns["labels"], IGNORE_INDEX)
        samples = samples_of_batch(columns, layout, targets)
        try:
            found, _ = reader.read(samples, len(targets), required=self._required(reader))
        except StoreError as error:
            raise StoreError(f"{error}{self._changes(reader)}") from error
        return as_columns(found, number_of(reader.manifest))

    def _required(self, reader: Reader) -> bool:
        return not reader.fills

    def _changes(self, reader: Reader) -> str:
        """Return in what the collator differs from the one of the build, as far as it can be told."""
        if not isinstance(self._collator, DualTokenizerCollator):
            return ""
        manifest = reader.manifest
        facts = tokenizer_facts(self._collator.encoder.teacher.tokenizer)
        changed = []
        if manifest.tokenizer not in (None, facts["tokenizer"]):
            changed.append("the teacher's tokenizer is another one than that of the build")
        if manifest.chat_template != facts["chat_template"]:
            changed.append("the teacher's chat template is another one than that of the build")
        now = notes_of(self._collator)
        for name, value in manifest.options.items():
            if name in now and now[name] != value:
                changed.append(f"{name} was {value} in the build and is {now[name]} now")
        return f" Here {'; and '.join(changed)}." if changed else ""


def _teacher_columns(batch: Mapping[str, Tensor], name: str | None, names: Sequence[str]) -> dict[str, Tensor]:
    """Return a teacher's columns without prefix; a teacher with the student's tokenizer may share columns."""
    if name is not None:
        pair = columns_of_pair(batch, name, names=names, same_tokenizer=True)
        return _without_prefix(pair)
    own = _without_prefix(batch)
    shared = {column: value for column, value in batch.items() if isinstance(value, torch.Tensor)}
    return own if "input_ids" in own else shared | own


def _without_prefix(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{OF_STORE}_"
    return {column.removeprefix(prefix): value for column, value in batch.items() if column.startswith(prefix)}
