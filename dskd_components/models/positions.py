"""How long a text a model can read: some have a table of positions, and fail beyond its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from dskd_components.errors import InputError
from dskd_components.models.head_recipe import text_config
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dskd_components.models.wrappers import CausalLM

LIMITS: Final = ("max_position_embeddings", "max_seq_len")
"""What configurations call the number of positions; the second one is MPT's."""


def position_limit(model: CausalLM) -> int | None:
    """Return the number of positions that a model's configuration names, None if it names none.

    Not every model needs it: rotary positions go on beyond it.

    Args:
        model: a causal language model, or a wrapper of one.
    """
    found = (getattr(text_config(model), name, None) for name in LIMITS)
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


def has_position_table(model: CausalLM) -> bool:
    """Return whether a model fails on rows that are longer than its `position_limit`.

    Args:
        model: a causal language model, or a wrapper of one.
    """
    return _table(model) is not None


def require_positions(model: CausalLM, inputs: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse rows longer than a model's table of positions, before they fail in it (on a GPU, beyond recovery).

    Args:
        model: a causal language model, or a wrapper of one.
        inputs: what the model is run on.
        prefix: of the columns' names, for the message.

    Raises:
        InputError: a row is longer; the message names both numbers.
    """
    table = _table(model)
    if table is not None and positions_in(inputs, counts_padding=not table.counted) > table.rows:
        raise too_long(model, inputs, prefix)


def positions_in(inputs: Mapping[str, Tensor], *, counts_padding: bool = True) -> int:
    """Return how many positions a model needs for a batch.

    Args:
        inputs: what it is run on.
        counts_padding: whether padding has positions of its own.
    """
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    if positions is not None:
        return int(positions.max()) + 1
    if not counts_padding and mask is not None and mask.ndim == 2:
        return int(mask.sum(1).max())
    return inputs["input_ids"].shape[1]


def too_long(model: CausalLM, inputs: Mapping[str, Tensor], prefix: str) -> InputError:
    """Return the error of a batch that has more positions than a model.

    Args:
        model: a causal language model, or a wrapper of one.
        inputs: what the model was to be run on.
        prefix: of the columns' names.
    """
    limit = position_limit(model)
    return InputError(
        f"The batch has rows of {positions_in(inputs)} positions (column '{prefix}input_ids'), but "
        f"{type(unwrapped(model)).__name__} has {limit}. Cut texts to what it can read: "
        f"DualTokenizerCollator({prefix}max_length={limit})."
    )


class _Table:
    """A table of positions.

    Args:
        rows: how many positions it has.
        counted: whether positions are counted by the attention mask, without padding.
    """

    def __init__(self, rows: int, *, counted: bool) -> None:
        self.rows = rows
        self.counted = counted


_known_tables: WeakKeyDictionary[Any, _Table | None] = WeakKeyDictionary()


def _table(model: CausalLM) -> _Table | None:
    inner = unwrapped(model)
    if inner not in _known_tables:
        limit = position_limit(model)
        _known_tables[inner] = None if limit is None else next(_tables(inner, limit), None)
    return _known_tables[inner]


def _tables(model: Any, limit: int) -> Iterator[_Table]:
    """Yield what looks like a table of so many positions: GPT-2's, OPT's and BioGPT's with rows in front, GPT-J's."""
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        own = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", 0)
            if ("pos" in own or own == "wpe") and module.num_embeddings == limit + offset:
                yield _Table(limit, counted=bool(offset))
            continue
        for key, value in {**vars(module), **module._buffers}.items():
            is_table = "pos" in key and isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()
            if is_table and len(value) == limit:
                yield _Table(limit, counted=False)
