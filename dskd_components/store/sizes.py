"""What a store takes on disk: of one that is there, and of one that is yet to be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dskd_components.errors import ConfigurationError
from dskd_components.store.formats import bytes_per_state, state_format
from dskd_components.store.index import SHORT, STEP

if TYPE_CHECKING:
    from dskd_components.store.formats import StateFormat
    from dskd_components.store.reader import Reader

TOKEN_BYTES = 5
"""An int32 token, and whether its position's state is stored."""

ENTRY_BYTES = 16
"""A hash in the index, and the sample that it is of."""

SAMPLE_BYTES = 24
"""Where a sample's tokens and states begin, and its checksum."""


@dataclass(frozen=True)
class StoreSize:
    """What a store takes.

    Args:
        samples: how many samples it has.
        tokens: how many tokens they have.
        states: how many hidden states are stored of them.
        state_bytes: the states with their scales.
        other_bytes: tokens, index and lists.
        teacher_bytes: the teacher's head and embedding.
    """

    samples: int
    tokens: int
    states: int
    state_bytes: int
    other_bytes: int
    teacher_bytes: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.state_bytes + self.other_bytes + self.teacher_bytes

    def per_state(self) -> float:
        """Return the bytes of a stored state, with its share of tokens, index and lists."""
        return (self.state_bytes + self.other_bytes) / max(self.states, 1)


def measured(reader: Reader) -> StoreSize:
    """Return what a store takes, from the sizes of its files.

    Args:
        reader: of the store.

    Raises:
        StoreError: a shard is damaged.
    """
    files = {path.name: path.stat().st_size for path in reader.folder.iterdir() if path.is_file()}
    shards = [reader.shard(name) for name in reader.index.names]
    states = sum(int(shard.state_start[-1]) for shard in shards)
    state_bytes = states * bytes_per_state(reader.manifest.hidden_size, reader.manifest.states)
    teacher_bytes = sum(size for name, size in files.items() if name.startswith("teacher-"))
    return StoreSize(
        samples=len(reader),
        tokens=sum(int(shard.token_start[-1]) for shard in shards),
        states=states,
        state_bytes=state_bytes,
        other_bytes=sum(files.values()) - state_bytes - teacher_bytes,
        teacher_bytes=teacher_bytes,
    )


def planned(
    hidden_size: int,
    tokens: int,
    *,
    dtype: StateFormat,
    scored: float = 1.0,
    tokens_per_sample: int = 512,
    head_bytes: int = 0,
) -> StoreSize:
    """Return what a store will take.

    Args:
        hidden_size: the teacher's width d.
        tokens: how many tokens the samples have.
        dtype: how states are stored.
        scored: which share of the tokens is scored.
        tokens_per_sample: how long samples are.
        head_bytes: of the teacher's head and embedding.

    Raises:
        ConfigurationError: a number is out of range.

    Examples:
        >>> planned(4096, 10_000_000, dtype="int8").state_bytes
        42240000000
    """
    for name, value in (("hidden_size", hidden_size), ("tokens", tokens), ("tokens_per_sample", tokens_per_sample)):
        if value < 1:
            raise ConfigurationError(f"{name}: expected a positive number, got {value!r}.")
    if not 0 < scored <= 1:
        raise ConfigurationError(f"scored: expected a share above 0 and up to 1, got {scored!r}.")
    samples = -(-tokens // tokens_per_sample)
    entries = tokens // STEP + samples * (len(SHORT) + 1)
    states = round(tokens * scored)
    return StoreSize(
        samples=samples,
        tokens=tokens,
        states=states,
        state_bytes=states * bytes_per_state(hidden_size, state_format(dtype)),
        other_bytes=tokens * TOKEN_BYTES + entries * ENTRY_BYTES + samples * SAMPLE_BYTES,
        teacher_bytes=head_bytes,
    )
