"""Running a teacher on samples, to store what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dskd_components.errors import InputError, StoreError
from dskd_components.models.head_recipe import text_config
from dskd_components.models.hidden_states import last_hidden_states
from dskd_components.models.loading import require_loaded
from dskd_components.models.positions import require_positions
from dskd_components.models.verification import ordinary_tokens, tolerance_for, undisturbed
from dskd_components.models.wrappers import named_inputs, unwrapped
from dskd_components.store.batch_samples import BatchSample
from dskd_components.store.formats import StoredStates
from dskd_components.store.shards import StoredSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from dskd_components.models.wrappers import CausalLM
    from dskd_components.store.formats import StateFormat
    from dskd_components.tokenization.arrays import BoolArray

PROBED: Final = 24
"""On how many tokens it is tried whether a teacher's states depend on later ones."""

BY_LENGTH: Final = ("dynamic", "longrope")
"""Kinds of rotary positions that turn by other angles once a text is long, so that earlier states change, too."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """A sample that is to be stored.

    Args:
        input_ids: ``[T]``, int32.
        wanted: ``[T]``, bool: the positions whose states are to be stored.
    """

    input_ids: npt.NDArray[np.int32]
    wanted: BoolArray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def as_row(self) -> BatchSample:
        """The same as a row of a batch of its own."""
        return BatchSample(0, np.arange(len(self)), self.input_ids, self.wanted)


class TeacherRun:
    """Runs a teacher, in evaluation mode and without gradients, and leaves it as it was.

    Args:
        teacher: a causal language model, or a wrapper of one.

    Raises:
        InputError: it was not loaded.
    """

    def __init__(self, teacher: CausalLM) -> None:
        require_loaded(teacher, "teacher")
        self.teacher = teacher
        self.device: torch.device = unwrapped(teacher).get_input_embeddings().weight.device  # type: ignore[assignment]
        if self.device.type == "meta":
            self.device = torch.device("cpu")
        self.pad_id = int(ordinary_tokens(teacher, 1, torch.device("cpu"))[0, 0])

    def states(self, samples: Sequence[Tokens]) -> list[Tensor]:
        """Return ``[N, d]`` for each sample: the states of its wanted positions, on the CPU.

        Args:
            samples: run together, padded on the right.

        Raises:
            StoreError: a state is NaN or infinite, or a sample has a token that the teacher does not have.
            InputError: the teacher has fewer positions than a sample has tokens.
        """
        rows, length = len(samples), max(map(len, samples))
        input_ids = np.full((rows, length), self.pad_id, dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.int64)
        for row, sample in enumerate(samples):
            input_ids[row, : len(sample)] = sample.input_ids
            mask[row, : len(sample)] = 1
        inputs = {
            "input_ids": torch.from_numpy(input_ids).to(self.device),
            "attention_mask": torch.from_numpy(mask).to(self.device),
        }
        inputs = {name: column for name, column in inputs.items() if name in named_inputs(self.teacher)}
        require_positions(self.teacher, inputs, "teacher_")
        self._require_known(input_ids)
        with undisturbed(self.teacher, self.device):
            hidden_states = last_hidden_states(self.teacher, inputs)
        return [
            self._finite(hidden_states[row, : len(sample)][torch.from_numpy(sample.wanted).to(self.device)], sample)
            for row, sample in enumerate(samples)
        ]

    def stored(self, samples: Sequence[Tokens], format: StateFormat) -> list[StoredSample]:  # noqa: A002
        """Return samples as they are stored.

        Args:
            samples: run together.
            format: of their states.

        Raises:
            StoreError: as in `states`.
        """
        return [
            StoredSample(sample.input_ids, sample.wanted, StoredStates.encode(states, format))
            for sample, states in zip(samples, self.states(samples), strict=True)
        ]

    def _require_known(self, input_ids: npt.NDArray[np.int64]) -> None:
        rows = getattr(unwrapped(self.teacher).get_input_embeddings().weight, "shape", (0,))[0]
        if rows and int(input_ids.max()) >= rows:
            raise StoreError(
                f"A sample has the token {int(input_ids.max())}, but the teacher's embedding has {rows} rows. Give the "
                "collator the teacher's own tokenizer."
            )

    def _finite(self, states: Tensor, sample: Tokens) -> Tensor:
        found = states.detach().float().cpu() if states.dtype == torch.float64 else states.detach().cpu()
        if not found.isfinite().all():
            raise StoreError(
                f"The teacher gives states with NaN or infinity for the sample of {sample.as_row}. Its forward pass "
                "has overflowed or its weights are damaged; nothing of this batch was stored."
            )
        return found


def computed_in(teacher: CausalLM) -> str:
    """Return the precision of a teacher's weights, by name.

    Args:
        teacher: a causal language model, or a wrapper of one.
    """
    weight: Any = unwrapped(teacher).get_input_embeddings().weight
    return str(weight.dtype).removeprefix("torch.")


def beginnings_are_samples(teacher: CausalLM) -> bool:
    """Return whether the beginning of a text has the states that it has as a text of its own.

    It has in a causal model whose positions do not depend on the length of the whole.

    Args:
        teacher: a causal language model, or a wrapper of one.
    """
    for field in ("rope_scaling", "rope_parameters"):
        options = getattr(text_config(teacher), field, None)
        kinds = [options, *options.values()] if isinstance(options, dict) else []
        if any(isinstance(kind, dict) and kind.get("rope_type", kind.get("type")) in BY_LENGTH for kind in kinds):
            return False
    run = TeacherRun(teacher)
    tokens = ordinary_tokens(teacher, PROBED, torch.device("cpu"))[0].numpy().astype(np.int32)
    everything = np.ones(PROBED, dtype=np.bool_)
    try:
        whole, half = (run.states([Tokens(tokens[:size], everything[:size])])[0] for size in (PROBED, PROBED // 2))
    except InputError:  # a table of fewer positions
        return True
    difference = (whole[: len(half)].float() - half.float()).abs().max()
    return bool(difference <= tolerance_for(half.dtype) * half.float().abs().max())
