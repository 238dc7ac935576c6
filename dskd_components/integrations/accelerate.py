"""What a loop around an `accelerate.Accelerator` needs: micro-batches with their count, clipping, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from torch import nn
from torch.distributed.fsdp import FSDPModule

from dskd_components.errors import CheckpointError, ConfigurationError, InputError, as_sentence, what_came
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.loss.checkpoints import (
    describe_loss,
    parse_description,
    paths_to_accept,
    require_no_difference,
)
from dskd_components.loss.clipping import clip_grad_norms as clip_apart
from dskd_components.models.scored_tokens import scored_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from accelerate import Accelerator
    from torch import Tensor

    Batch = Mapping[str, Tensor]

FILE: Final = "dskd_components.json"
"""What `save_state` writes beside Accelerate's own files."""

CUT_SHORT: Final = (
    "saving was cut short, so parts of it may be of an earlier save into the same folder. Take another state, and save "
    "each into a folder of its own (ProjectConfiguration(automatic_checkpoint_naming=True))."
)

INSTEAD_OF_CLIPPING: Final = {
    "DEEPSPEED": "DeepSpeed clips by itself: set gradient_clipping in its configuration, and leave this call out.",
    "FSDP": (
        "Call accelerator.clip_grad_norm_(model.parameters(), max_norm), which clips both together, or use FSDP2 "
        "(fsdp_version=2)."
    ),
}
"""What to do where an engine has flattened both, or keeps gradients to itself."""


def micro_batches(
    accelerator: Accelerator, model: nn.Module, window: Iterable[Batch] | Batch
) -> Iterator[tuple[Batch, Tensor]]:
    """Give the micro-batches of one optimizer step, each with what its loss divides by.

    Gradients of all but the last stay on their rank, so run forward *and* backward within the loop. Wrappers average
    over ranks, so multiply the loss by their number. Do not use ``accelerator.accumulate`` along with it::

        for batch, num_items in micro_batches(accelerator, model, window):
            out = model(batch, num_items_in_batch=num_items)
            accelerator.backward(out.loss * accelerator.num_processes)
        optimizer.step()

    Args:
        accelerator: with ``gradient_accumulation_steps=1``.
        model: a `StudentWithProjectors`, as ``accelerator.prepare`` returned it.
        window: this rank's micro-batches, or the only one.

    Returns:
        Each batch, and the scored student tokens of all micro-batches of all ranks, a scalar.

    Raises:
        InputError: the model is none, or the window has something else than batches.
        ConfigurationError: the accelerator divides losses by itself, or the model was not prepared for several
            processes, so that nothing would reduce its gradients, or it cuts rows over ranks.
    """
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigurationError(
            f"Accelerator(gradient_accumulation_steps={accelerator.gradient_accumulation_steps}) divides each loss by "
            "that number, but this loss is divided by tokens. Leave it at 1; the window is what accumulates."
        )
    _require_whole_rows(accelerator)
    _require_module(model)
    wrapped = isinstance(model, FSDPModule) or accelerator.unwrap_model(model) is not model
    if accelerator.num_processes > 1 and not wrapped:
        raise ConfigurationError(
            f"{type(model).__name__} was not prepared, so nothing would reduce its gradients over "
            f"{accelerator.num_processes} processes. Put student and loss into one StudentWithProjectors and use what "
            "accelerator.prepare(model) returns."
        )
    # They are counted first, and an iterator gives them once.
    is_several = isinstance(window, Iterable) and not isinstance(window, Mapping | str)
    batches: Any = list(window) if is_several else [window]
    count = accelerator.reduce(scored_tokens(batches).to(accelerator.device), reduction="sum")
    for number, batch in enumerate(batches, start=1):
        with nullcontext() if number == len(batches) else accelerator.no_sync(model):
            yield batch, count


def _require_whole_rows(accelerator: Accelerator) -> None:
    """Refuse rows that Accelerate cuts over ranks: a label at a cut would be lost, and alignments that cross it."""
    sizes = getattr(accelerator, "parallelism_config", None)
    for name, field in (("context", "cp_size"), ("sequence", "sp_size")):
        size = getattr(sizes, field, None) or 1
        if size > 1:
            raise ConfigurationError(
                f"{name} parallelism ({field}={size}) leaves each rank a part of every row, and the loss needs whole "
                "ones. Run the models yourself and put their states together with "
                "dskd_components.models.cut_rows.joined_rows (docs/how-to/distributed.md)."
            )


def register_projectors(accelerator: Accelerator, model: nn.Module, *, accept: Collection[str] = ()) -> None:
    """Have ``save_state`` write what the projectors are learned for, and ``load_state`` compare it.

    Accelerate itself takes over whatever has the same shapes: another spec, another teacher or tokenizer, and a state
    of which one part is of an earlier save into the same folder, because saving was cut short. Call it once, before
    both.

    Args:
        accelerator: the accelerator.
        model: a `StudentWithProjectors`, prepared or not.
        accept: differences that are meant, by the paths that the error names: ``["spec.kd_rate"]``.

    Raises:
        InputError: the model is another one.
        CheckpointError: ``accept`` is no list of paths.

    In ``load_state``: a `CheckpointError` for differences, which has both values of each, and for a state that was not
    saved to its end. Accelerate writes and reads the weights of FSDP and DeepSpeed before anything of this: they are
    already taken over then, and a save that is cut short among them is not noticed. Give each save a folder of its own.
    """
    kept = _KeptDescription(accelerator, _both(accelerator, model), paths_to_accept(accept))
    accelerator.register_save_state_pre_hook(kept.before_saving)
    accelerator.register_load_state_pre_hook(kept.before_loading)
    accelerator.register_for_checkpointing(kept)


class _KeptDescription:
    """Writes a description before all else and the number of the save after it, and compares both.

    Args:
        accelerator: the accelerator.
        model: what is saved.
        accept: differences that are meant.
    """

    def __init__(self, accelerator: Accelerator, model: StudentWithProjectors, accept: Collection[str]) -> None:
        self._accelerator = accelerator
        self._model = model
        self._accept = accept
        self._save: str | None = None
        self._folder: Path | None = None

    def before_saving(self, _models: object, _weights: object, folder: str) -> None:
        self._save = uuid4().hex
        accelerator = self._accelerator
        every_node = accelerator.project_configuration.save_on_each_node
        if accelerator.is_local_main_process if every_node else accelerator.is_main_process:
            description = describe_loss(self._model.loss_fn).model_dump(mode="json")
            content = json.dumps({"save": self._save, "description": description}, indent=2)
            unfinished = Path(folder, f".{FILE}.{self._save}")
            unfinished.write_text(content + "\n", encoding="utf-8")
            unfinished.replace(Path(folder, FILE))

    def state_dict(self) -> dict[str, str | None]:
        # Accelerate writes it last.
        return {"save": self._save}

    def before_loading(self, _models: object, folder: str) -> None:
        self._folder = Path(folder)
        file = self._folder / FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            self._save, description = content["save"], json.dumps(content["description"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file}: expected what projectors are learned for, as register_projectors has save_state write it, "
                f"but there is none: {as_sentence(error)} Take a state that was saved with it."
            ) from error
        saved, own = parse_description(file, description), describe_loss(self._model.loss_fn)
        require_no_difference(saved, own, self._accept, source=str(file), strict=False)
        if not any(self._folder.glob("custom_checkpoint_*.pkl")):
            raise CheckpointError(f"{folder}: {CUT_SHORT}")

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        if state.get("save") != self._save:
            raise CheckpointError(f"{self._folder}: {CUT_SHORT}")


def clip_grad_norms(accelerator: Accelerator, model: nn.Module, max_norm: float | None) -> dict[str, Tensor]:
    """Clip the gradients of student and projectors, each to a norm of their own.

    In the place of ``accelerator.clip_grad_norm_(model.parameters(), max_norm)``, which would scale the student's
    gradient by the projectors'. Call it once a step, before ``optimizer.step()``, on all ranks.

    Args:
        accelerator: the accelerator. Gradients of float16 are unscaled, as its own function does.
        model: a `StudentWithProjectors`, as ``accelerator.prepare`` returned it.
        max_norm: the greatest 2-norm of each of both; None or 0: nothing is clipped.

    Returns:
        Both norms before clipping, for the log, as in `dskd_components.clip_grad_norms`.

    Raises:
        InputError: as there, or the model is another one.
        ConfigurationError: an engine clips by itself, student and projectors together: DeepSpeed, the older FSDP.
    """
    both = _both(accelerator, model)
    engine = str(accelerator.distributed_type.value)
    if engine in INSTEAD_OF_CLIPPING and not accelerator.is_fsdp2:
        raise ConfigurationError(
            f"{engine} holds student and projectors as one, so they cannot be clipped apart. "
            f"{INSTEAD_OF_CLIPPING[engine]}"
        )
    accelerator.unscale_gradients()
    return clip_apart(both.student, both.loss_fn, max_norm)


def _both(accelerator: Accelerator, model: nn.Module) -> StudentWithProjectors:
    _require_module(model)
    both = accelerator.unwrap_model(model)
    if not isinstance(both, StudentWithProjectors):
        raise InputError(f"model: expected a StudentWithProjectors, prepared or not, got {type(both).__name__}.")
    return both


def _require_module(model: object) -> None:
    """Refuse what is no model before the accelerator looks for its wrappers."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: expected a StudentWithProjectors, prepared or not, got {what_came(model)}. Make it of student, "
            "loss and teacher: accelerator.prepare(StudentWithProjectors(student, loss_fn, teacher))."
        )
