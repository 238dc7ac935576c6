"""Which columns of a batch a model is run on."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from dskd_components.causal_lm.signature import named_inputs
from dskd_components.causal_lm.wrappers import unwrapped
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from dskd_components.causal_lm.protocol import CausalLM

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


def require_no_misspelt_input(model: CausalLM, names: Collection[str], prefix: str) -> None:
    """Refuse a column that nobody reads and that is nearly called like an input that the batch does not have.

    Args:
        model: a causal language model, or a wrapper of one.
        names: of this model's own columns, without prefix.
        prefix: theirs, for the message.

    Raises:
        InputError: there is one; the message has both names.
    """
    known = (*named_inputs(model), *LOSS_COLUMNS)
    for name in names:
        meant = [] if name in known else get_close_matches(name, known, n=1, cutoff=0.8)
        if meant and meant[0] not in names:
            raise InputError(
                f"The batch has a column {prefix + name!r}, which neither {type(unwrapped(model)).__name__} nor the "
                f"loss reads. Did you mean {prefix + meant[0]!r}?"
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
    # Other shapes are of weights that are spread over ranks, and do not tell.
    if len(shape) != 2 or "pixel_values" in named_inputs(model):
        return
    lowest, highest = (int(bound) for bound in input_ids.aminmax())
    if lowest < 0 or (shape[0] and highest >= shape[0]):
        raise InputError(
            f"The column '{prefix}input_ids' has ids from {lowest} to {highest}, but the embedding of "
            f"{type(unwrapped(model)).__name__} has {shape[0]} rows. Were these tokens made by the {prefix[:-1]}'s own "
            "tokenizer?"
        )
