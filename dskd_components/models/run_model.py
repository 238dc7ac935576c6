"""From Hugging Face models, tokenizers and batches to what the loss reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from dskd_components.distributed.gathering import gathered
from dskd_components.errors import DSKDWarning, InputError
from dskd_components.models.batch import (
    METHOD_COLUMN,
    inputs_among,
    require_ids_of_the_model,
    require_no_misspelt_input,
    require_rows,
)
from dskd_components.models.head import describe
from dskd_components.models.head_part import head_of_step
from dskd_components.models.head_recipe import effective_weight
from dskd_components.models.hidden_states import last_hidden_states, last_hidden_states_and_aux_loss
from dskd_components.models.host_reads import on_host
from dskd_components.models.loading import head_is_here, require_loaded
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.packing import require_samples_apart
from dskd_components.models.positions import position_limit, positions_in, require_positions, too_long
from dskd_components.models.row_layout import LAYOUT_COLUMNS, RowLayout, require_column, shifted_column
from dskd_components.models.states import IGNORE_INDEX, UNSCORED_SAMPLE, LMStates
from dskd_components.models.token_groups import TokenGroups
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from dskd_components.models.aux_loss import AuxLoss
    from dskd_components.models.states import Side
    from dskd_components.models.vocabulary_subset import VocabularySubset
    from dskd_components.models.wrappers import CausalLM

TOKEN_COLUMNS: Final = {"input_ids": (torch.int64, torch.int32), "labels": (torch.int64,)}
"""What a batch must have of each side, and the types of integers that models and the loss take."""

HOST_COLUMNS: Final = ("input_ids", "labels", "fingerprint", METHOD_COLUMN, *LAYOUT_COLUMNS)
"""What is looked up on the host."""


def run_model(
    model: CausalLM | OfflineTeacher,
    batch: Mapping[str, Tensor],
    side: Side,
    *,
    valid_vocabulary_size: int | None,
    same_tokenizer: bool,
    reads_embeddings: bool = True,
    reads_columns: Mapping[str, str] | None = None,
    subset: VocabularySubset | None = None,
    host_batch: Mapping[str, Tensor] | None = None,
) -> LMStates:
    """Run one model on its columns of a batch, or read what it has made of them.

    Args:
        model: a causal language model; or, for the teacher, one that is not run.
        batch: columns ``{side}_input_ids``, ``{side}_labels`` and, as needed, ``{side}_attention_mask``,
            ``{side}_position_ids``, ``{side}_segment_ids``, each ``[B, T]`` (`RowLayout` has all that it may read from
            them). Labels are not shifted. The model gets
            every column that its forward names, such as ``{side}_token_type_ids`` or ``{side}_pixel_values``. With one
            tokenizer the columns may have no prefix; then they serve both models.
        side: whose columns to read. The teacher runs without gradients.
        valid_vocabulary_size: number of real tokens in the model's head.
        same_tokenizer: whether columns without prefix may be used.
        reads_embeddings: whether the states need the model's input embedding.
        reads_columns: further columns that the states need, by name without prefix, each with who reads it and how a
            batch gets it, in words. They are shifted as labels are.
        subset: the tokens that the head is narrowed to; None: all.
        host_batch: what `batch_on_host` makes of the batch; None: it is made here.

    Raises:
        InputError: a column is missing, empty, misspelt, or of another tokenizer (the message names it); or the model
            is on another device, or offloaded where the loss reads it; or rows have more positions than the model; or
            the batch is packed and the model lets samples of a row see one another.
        StoreError: the teacher is not run, and its states of a sample are not known.
    """
    wanted = {} if reads_columns is None else reads_columns
    if isinstance(model, OfflineTeacher):
        columns = _columns(batch, side, same_tokenizer=same_tokenizer)
        _require_wanted(columns, wanted, side)
        found = _states_read(model, columns, side, valid_vocabulary_size, wanted, reads_embeddings=reads_embeddings)
        return replace(found, head=found.head.narrowed_to(subset))
    require_no_misspelt_input(model, _own_columns(batch, side), f"{side}_", read=wanted)
    columns = _columns(batch, side, same_tokenizer=same_tokenizer)
    _require_wanted(columns, wanted, side)
    inputs = inputs_among(model, columns)
    require_rows(inputs["input_ids"], f"{side}_")
    host_columns = _columns(
        batch_on_host(batch) if host_batch is None else host_batch, side, same_tokenizer=same_tokenizer
    )
    if not head_is_here(model):
        require_loaded(model, side, columns_on=inputs["input_ids"].device)
    require_ids_of_the_model(model, host_columns["input_ids"], f"{side}_")
    require_positions(model, inputs_among(model, host_columns), f"{side}_")
    layout = _layout(columns, host_columns, f"{side}_")
    require_samples_apart(model, inputs, layout, f"{side}_", named="segment_ids" in columns)
    if side == "teacher" and model.training:
        warnings.warn(
            "The teacher is in training mode, so its dropout adds noise to what the student learns from; call "
            "teacher.eval().",
            DSKDWarning,
            stacklevel=3,
        )
    with torch.no_grad() if side == "teacher" else nullcontext():
        hidden_states, aux_loss = _on_the_batch_device(model, inputs, side)
    samples_on_host = _samples_on_host(layout, host_columns["labels"])
    layout = layout.to(columns["labels"].device)
    # The head is read after the forward pass: FSDP2 then leaves the weights of its outermost group gathered, and takes
    # their gradients with the others.
    return LMStates(
        hidden_states=hidden_states,
        targets=layout.shifted(columns["labels"], IGNORE_INDEX),
        head=head_of_step(model, valid_vocabulary_size=valid_vocabulary_size, constant=side == "teacher").narrowed_to(
            subset
        ),
        input_ids=columns["input_ids"],
        embedding=input_embedding(model) if reads_embeddings else None,
        segment_ids=layout.segment_ids,
        samples_are_counted=layout.counted,
        aux_loss=aux_loss,
        samples_on_host=samples_on_host,
        columns=_shifted_columns(columns, wanted, layout, side),
    )


def _require_wanted(columns: Mapping[str, Tensor], wanted: Mapping[str, str], side: Side) -> None:
    """Refuse a batch without a column that a component reads."""
    for name, reason in wanted.items():
        if columns.get(name) is None:
            raise InputError(f"The batch has no column {f'{side}_{name}'!r}, {reason}")


def _shifted_columns(
    columns: Mapping[str, Tensor], wanted: Mapping[str, str], layout: RowLayout, side: Side
) -> dict[str, Tensor]:
    return {name: shifted_column(f"{side}_{name}", columns[name], layout) for name in wanted}


def batch_on_host(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch whose columns of tokens and of layout are on the host, copied together.

    What must be known before a model runs is looked up there, without another wait for a device.

    Args:
        batch: as in `run_model`.

    Raises:
        InputError: it is no mapping.
    """
    require_batch(batch)
    return on_host(batch, HOST_COLUMNS)


def require_batch(batch: object) -> None:
    """Refuse what is no batch.

    Args:
        batch: must be a mapping of columns.

    Raises:
        InputError: it is not.
    """
    if not isinstance(batch, Mapping):
        raise InputError(
            f"batch: expected a mapping of columns, tensors by name, got {type(batch).__name__}. Make batches of "
            "samples by loss_fn.collator(...), the collate_fn of a DataLoader."
        )


def _layout(columns: Mapping[str, Tensor], host_columns: Mapping[str, Tensor], prefix: str) -> RowLayout:
    mask = columns.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim > 2:  # too large to be copied
        return RowLayout.of(columns["labels"], columns, prefix)
    return RowLayout.of(host_columns["labels"], host_columns, prefix)


def _samples_on_host(layout: RowLayout, labels: Tensor) -> Tensor | None:
    """Return `LMStates.scored_samples` of packed rows whose layout is known on the host."""
    ids = layout.segment_ids
    if ids is None or ids.device.type != "cpu":
        return None
    return ids.where(layout.shifted(labels, IGNORE_INDEX) != IGNORE_INDEX, UNSCORED_SAMPLE)


def _states_read(
    teacher: OfflineTeacher,
    columns: Mapping[str, Tensor],
    side: Side,
    valid_vocabulary_size: int | None,
    wanted: Mapping[str, str],
    *,
    reads_embeddings: bool,
) -> LMStates:
    if side == "student":
        raise InputError(f"student: expected a causal language model, got {type(teacher).__name__}, which is not run.")
    require_rows(columns["input_ids"], f"{side}_")
    layout = RowLayout.of(columns["labels"], columns, f"{side}_")
    targets = layout.shifted(columns["labels"], IGNORE_INDEX)
    there, here = teacher.weight.device, targets.device
    if there != here:
        raise InputError(
            f"The {side}'s head is on {there}, its columns of the batch are on {here}. Move the "
            f"{type(teacher).__name__} with .to({str(here)!r}), or the batch with .to({str(there)!r})."
        )
    head = teacher.head
    return LMStates(
        hidden_states=teacher.hidden_states(columns, layout, targets),
        targets=targets,
        head=head if valid_vocabulary_size is None else head.with_vocabulary(valid_vocabulary_size),
        input_ids=columns["input_ids"],
        embedding=teacher.embedding if reads_embeddings else None,
        segment_ids=layout.segment_ids,
        samples_are_counted=layout.counted,
        columns=_shifted_columns(columns, wanted, layout, side),
    )


def _on_the_batch_device(model: CausalLM, inputs: Mapping[str, Tensor], side: Side) -> tuple[Tensor, AuxLoss | None]:
    """Return the last hidden states and a student's auxiliary loss, or say that model and batch are apart."""
    there, here = unwrapped(model).get_input_embeddings().weight.device, inputs["input_ids"].device
    apart = InputError(
        f"The {side} is on {there}, its columns of the batch are on {here}. Loss and both models must be on one "
        f"device: move the {side} with .to({str(here)!r}), or the batch with .to({str(there)!r})."
    )
    try:
        if side == "student":
            hidden_states, aux_loss = last_hidden_states_and_aux_loss(model, inputs)
        else:
            hidden_states, aux_loss = last_hidden_states(model, inputs), None
    except Exception as error:
        # Only now: weights that are kept elsewhere between calls are apart, too, and run all the same.
        require_loaded(model, side, columns_on=here)
        limit = position_limit(model)
        if limit is not None and positions_in(inputs) > limit:
            raise too_long(model, inputs, f"{side}_") from error
        if there == here or not isinstance(error, RuntimeError):
            raise
        raise apart from error
    if hidden_states.device != here:
        raise apart
    return hidden_states, aux_loss


def groups_of_batch(batch: Mapping[str, Tensor]) -> Tensor | TokenGroups | None:
    """Return the correspondence that a batch carries, by predicting position.

    Args:
        batch: may have columns ``student_groups`` and ``teacher_groups``, the group of each *token*, or a column
            ``alignment``, the teacher position of each student *position*.

    Raises:
        InputError: it has one of the two group columns only.
    """
    columns = [name for name in ("student_groups", "teacher_groups") if name in batch]
    for name in columns:
        require_column(name, batch[name])
    if len(columns) == 1:
        raise InputError(f"The batch has {columns[0]!r} alone; groups are needed on both sides.")
    if not columns:
        return batch.get("alignment")
    student_mask, teacher_mask = (
        batch.get(f"{side}_attention_mask", batch.get("attention_mask")) for side in ("student", "teacher")
    )
    groups = TokenGroups(batch["student_groups"], batch["teacher_groups"])
    return groups.shifted(student_attention_mask=student_mask, teacher_attention_mask=teacher_mask)


def input_embedding(model: CausalLM | OfflineTeacher) -> Tensor:
    """Return ``[V, width]``: the model's input embedding, gathered where it is sharded.

    Raises:
        InputError: its input embedding has no weight matrix.
    """
    if isinstance(model, OfflineTeacher):
        return model.embedding
    layer = unwrapped(model).get_input_embeddings()
    weight = effective_weight(layer, "input embedding", type(unwrapped(model)).__name__)
    if weight is None:
        raise InputError(f"{type(model).__name__}: get_input_embeddings() returned a module without a weight.")
    return gathered(weight)


def _columns(batch: Mapping[str, Tensor], side: Side, *, same_tokenizer: bool) -> dict[str, Tensor]:
    columns = _own_columns(batch, side)
    if same_tokenizer:
        columns = {name: batch[name] for name in batch} | columns
    for name in TOKEN_COLUMNS:
        if columns.get(name) is None:
            explanation = (
                f"With one tokenizer {name!r} would do as well."
                if same_tokenizer
                else "The models have different tokenizers, so each needs its own tokens of the same text, as "
                "DualTokenizerCollator makes them."
            )
            raise InputError(
                f"The batch has no column {f'{side}_{name}'!r}; it has {', '.join(map(repr, batch)) or 'none'}. "
                f"{explanation}"
            )
    stray = [] if same_tokenizer else [name for name in LAYOUT_COLUMNS if name in batch]
    if stray:
        raise InputError(
            f"The batch has a column {stray[0]!r}, but the models have different tokenizers. Call it "
            f"'student_{stray[0]}' or 'teacher_{stray[0]}'."
        )
    _require_rows_of_tokens(columns, side, batch)
    return columns


def _require_rows_of_tokens(columns: Mapping[str, Tensor], side: Side, batch: Mapping[str, Tensor]) -> None:
    """Refuse columns that are no tensors, or tokens that are no rows of integers, by the name that the batch has."""
    for name in (*TOKEN_COLUMNS, *LAYOUT_COLUMNS):
        column = columns.get(name)
        if column is None:
            continue
        called = f"{side}_{name}" if f"{side}_{name}" in batch else name
        require_column(called, column)
        if name in TOKEN_COLUMNS and (column.ndim != 2 or column.dtype not in TOKEN_COLUMNS[name]):
            wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in TOKEN_COLUMNS[name])
            raise InputError(
                f"The column {called!r}: expected integers [batch, length], {wanted}, got {describe(column)}."
            )


def _own_columns(batch: Mapping[str, Tensor], side: Side) -> dict[str, Tensor]:
    """Return the columns of one side, by name without prefix."""
    prefix = f"{side}_"
    return {name.removeprefix(prefix): batch[name] for name in batch if name.startswith(prefix)}
