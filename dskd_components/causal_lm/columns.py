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
        meant = [] if name in known else get_close_matches(name, known, n=1, cutoff=0.85)
        if meant and meant[0] not in names:
            raise InputError(
                f"The batch has a column {prefix + name!r}, which neither {type(unwrapped(model)).__name__} nor the "
                f"loss reads. Did you mean {prefix + meant[0]!r}?"
            )
