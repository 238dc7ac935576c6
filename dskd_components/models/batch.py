"""The columns of a batch: which belong to which model, and which of them a model takes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import permutations
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from dskd_components.errors import ConfigurationError, InputError, NonFiniteError, StoreError, did_you_mean
from dskd_components.models.wrappers import named_inputs, unwrapped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from torch import Tensor

    from dskd_components.errors import DSKDError
    from dskd_components.models.wrappers import CausalLM


Column = TypeVar("Column")

METHOD_COLUMN: Final = "groups_method"
"""How the tokens of both sides were brought together; a column of both, so that it has no prefix."""

KNOWN_COLUMNS: Final = (
    "input_ids",
    "inputs_embeds",
    "labels",
    "attention_mask",
    "position_ids",
    "segment_ids",
    "groups",
    "groups_method",
    "fingerprint",
    "store_states",
    "byte_starts",
    "token_type_ids",
    "cu_seq_lens_q",
    "max_length_q",
    "seq_idx",
    "cross_attention_mask",
    "pixel_values",
    "image_grid_thw",
    "video_grid_thw",
    "audio_values",
)
"""Columns that the loss or a model may read, one for each way to begin."""


def require_teacher_names(names: Collection[str]) -> None:
    """Refuse names of teachers whose columns could not be told apart.

    Names may begin alike: a column is of the teacher with the longest name that it begins with.

    Args:
        names: of all teachers.

    Raises:
        InputError: a name cannot be one, or two of them clash; the message says why.

    Examples:
        >>> require_teacher_names(["large", "large_v2"])
    """
    for name in names:
        require_teacher_name(name)
    for name, other in permutations(names, 2):
        clashing = [column for column in KNOWN_COLUMNS if f"{name}_{column}".startswith(f"{other}_")]
        if clashing and other.startswith(f"{name}_"):
            raise InputError(
                f"teachers cannot be called {name!r} and {other!r}: a column '{name}_{clashing[0]}' could be of either"
            )
        if name.lower() == other.lower():
            raise InputError(
                f"teachers cannot be called {name!r} and {other!r}: each is saved in a folder of its name, and some "
                "file systems do not tell upper from lower case"
            )


def require_teacher_name(name: str) -> str:
    """Return a name once it is known that columns can begin with it.

    Args:
        name: of a teacher.

    Raises:
        InputError: they cannot.

    Examples:
        >>> require_teacher_name("large")
        'large'
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(f"expected a teacher's name of letters, digits and underscores, a letter first, got {name!r}")
    if name == "student" or name.startswith("student_"):
        raise InputError(f"a teacher cannot be called {name!r}: columns of that name are the student's")
    clashing = [column for column in KNOWN_COLUMNS if column.startswith(f"{name}_")]
    if clashing:
        raise InputError(f"a teacher cannot be called {name!r}: a column {clashing[0]!r} would seem to be its own")
    return name


def require_known_teachers(
    argument: str, given: Mapping[str, object], names: Iterable[str], *, source: str, error: type[DSKDError]
) -> None:
    """Refuse names that are no teacher's.

    Args:
        argument: what the message calls the mapping.
        given: by name.
        names: the teachers there are.
        source: what has them, ``"the spec's teachers are"``.
        error: what is raised.

    Raises:
        DSKDError: of the given type: a name is unknown; the message has the alternatives.
    """
    names = list(names)
    for name in given:
        if name not in names:
            known = ", ".join(map(repr, names))
            raise error(f"{argument}: unknown teacher {name!r}{did_you_mean(name, names)}; {source} {known}.")


@contextmanager
def naming_teacher(name: str | None) -> Iterator[None]:
    """Put a teacher's name before whatever is found wrong within.

    Args:
        name: which of several teachers it is. None: there is one, so nothing is put there.

    Raises:
        InputError: what was raised within, with the name.
        ConfigurationError: one was raised within, with the name.
        StoreError: one was raised within, with the name.
    """
    try:
        yield
    except (InputError, ConfigurationError, StoreError) as error:
        if name is None:
            raise
        kinds = (ConfigurationError, StoreError, NonFiniteError, InputError)
        kind = next(each for each in kinds if isinstance(error, each))
        raise kind(of_teacher(name, error)) from error


def of_teacher(name: str, problem: object) -> str:
    """Return a problem with the name of the teacher that it is about before it."""
    return f"Teacher {name!r}: {problem}"


def columns_of_several(by_teacher: Mapping[str, Mapping[str, Column]]) -> dict[str, Column]:
    """Return one batch for several teachers.

    Args:
        by_teacher: for each teacher the batch that the student and this teacher alone would have; the student's tokens
            are the same in all of them.

    Examples:
        >>> columns_of_several({"large": {"student_input_ids": 1, "student_groups": 2, "teacher_groups": 3}})
        {'student_input_ids': 1, 'student_groups_large': 2, 'large_groups': 3}
    """
    columns: dict[str, Column] = {}
    for name, batch in by_teacher.items():
        for column, value in batch.items():
            columns.setdefault(_of_several(column, name), value)
    return columns


def columns_of_pair(
    batch: Mapping[str, Column], name: str, *, names: Collection[str], same_tokenizer: bool
) -> dict[str, Column]:
    """Return the columns that the student and one teacher read, under the names that they have with a single teacher.

    Args:
        batch: the columns of several teachers.
        name: of the teacher.
        names: of all teachers.
        same_tokenizer: whether the teacher may read the student's columns, if it has none of its own.

    Raises:
        InputError: tokens or labels of the student or the teacher are missing.

    Examples:
        >>> batch = {"student_input_ids": 1, "student_labels": 2, "large_input_ids": 3, "large_labels": 4}
        >>> columns_of_pair(batch, "large", names=["large", "large_v2"], same_tokenizer=False)
        {'student_input_ids': 1, 'student_labels': 2, 'teacher_input_ids': 3, 'teacher_labels': 4}
    """
    student, own = _columns(batch, "student", ()), _columns(batch, name, names)
    _require_tokens(batch, "student", student)
    if own or not same_tokenizer:
        _require_tokens(batch, name, own)
    groups = {"student_groups": student[f"groups_{name}"]} if f"groups_{name}" in student else {}
    shared = {column: value for column, value in student.items() if column not in {f"groups_{each}" for each in names}}
    of_pair = {f"student_{column}": value for column, value in shared.items()} | groups
    return of_pair | {
        column if column == METHOD_COLUMN else f"teacher_{column}": value for column, value in (own or shared).items()
    }


def _columns(batch: Mapping[str, Column], model: str, names: Collection[str]) -> dict[str, Column]:
    """Return a model's columns, without those of teachers whose names begin with its own."""
    prefix = f"{model}_"
    others = tuple(f"{other}_" for other in names if other.startswith(prefix))
    return {
        column.removeprefix(prefix): value
        for column, value in batch.items()
        if column.startswith(prefix) and not column.startswith(others)
    }


def _require_tokens(batch: Mapping[str, Column], model: str, columns: Mapping[str, Column]) -> None:
    for column in ("input_ids", "labels"):
        if column not in columns:
            raise InputError(
                f"The batch has no column '{model}_{column}'; it has {', '.join(map(repr, batch)) or 'none'}. Collate "
                "with loss_fn.collator(...), which needs a tokenizer for each teacher of the loss, under the same name."
            )


def _of_several(column: str, name: str) -> str:
    if column == "student_groups":
        return f"student_groups_{name}"
    if column == METHOD_COLUMN:
        return f"{name}_{column}"
    return name + column.removeprefix("teacher") if column.startswith("teacher_") else column


LOSS_COLUMNS: Final = ("labels", "groups", "segment_ids", "fingerprint")
"""What the loss reads itself. A model is never given labels: it would compute a loss of its own from them."""


def inputs_among(model: CausalLM, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the columns that a model's forward names, such as ``token_type_ids`` or ``pixel_values``.

    Args:
        model: a causal language model, or a wrapper of one.
        columns: one model's columns, by name without prefix.
    """
    accepted = named_inputs(model)
    return {name: column for name, column in columns.items() if name in accepted and name not in LOSS_COLUMNS}


def require_no_misspelt_input(
    model: CausalLM, names: Collection[str], prefix: str, *, read: Iterable[str] = ()
) -> None:
    """Refuse a column that nobody reads and that is nearly called like an input that the batch does not have.

    Args:
        model: a causal language model, or a wrapper of one.
        names: of this model's own columns, without prefix.
        prefix: theirs, for the message.
        read: further columns that the loss reads.

    Raises:
        InputError: there is one; the message has both names.
    """
    known = (*named_inputs(model), *LOSS_COLUMNS, *read)
    for name in names:
        meant = [] if name in known else get_close_matches(name, known, n=1, cutoff=0.8)
        if meant and meant[0] not in names:
            raise InputError(
                f"The batch has a column {prefix + name!r}, which neither {type(unwrapped(model)).__name__} nor the "
                f"loss reads. Did you mean {prefix + meant[0]!r}?"
            )


def require_rows(input_ids: Tensor, prefix: str) -> None:
    """Refuse a batch of nothing.

    Args:
        input_ids: ``[B, T]``.
        prefix: of the column's name, for the message.

    Raises:
        InputError: there is no row, or no token in it.
    """
    if not input_ids.numel():
        raise InputError(
            f"The column '{prefix}input_ids' has no rows or no tokens (shape {list(input_ids.shape)}). Leave empty "
            "batches out. Where Accelerate splits one batch over processes (dispatch_batches with split_batches), it "
            "needs a row for each: packed samples are one row, so let each process collate its own."
        )


def require_ids_of_the_model(model: CausalLM, input_ids: Tensor, prefix: str) -> None:
    """Refuse tokens that a model does not have, before they fail in its embedding (on a GPU, beyond recovery).

    Models that take images are not checked: their placeholders may lie outside of the vocabulary.

    Args:
        model: a causal language model, or a wrapper of one.
        input_ids: ``[B, T]``.
        prefix: of the column's name, for the message.

    Raises:
        InputError: an id has no row in the embedding; the message names both numbers.
    """
    shape: tuple[int, ...] = getattr(unwrapped(model).get_input_embeddings().weight, "shape", ())
    # Other shapes are of weights that are sharded, and do not tell.
    if len(shape) != 2 or "pixel_values" in named_inputs(model):
        return
    lowest, highest = torch.stack(input_ids.aminmax()).tolist()  # one transfer from an accelerator
    if lowest < 0 or (shape[0] and highest >= shape[0]):
        raise InputError(
            f"The column '{prefix}input_ids' has ids from {lowest} to {highest}, but the embedding of "
            f"{type(unwrapped(model)).__name__} has {shape[0]} rows. Were these tokens made by the {prefix[:-1]}'s own "
            "tokenizer?"
        )
