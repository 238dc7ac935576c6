"""Whether the models keep the samples of a packed row apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_components.errors import InputError
from dskd_components.models.packing import leak_tolerance, packing_leaks
from dskd_components.preflight.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.preflight.pair import Pair


def check_packing(pair: Pair) -> Iterator[Finding]:
    """Run each model on two samples, packed into a row and apart."""
    advice = "collate with packing=False, or train with an attention that reads position_ids"
    for side, model, _ in pair.models():
        try:
            leak = packing_leaks(model)
        except InputError as error:
            yield Finding("warning", f"{side} packing", str(error).rstrip("."), advice)
            continue
        if leak <= leak_tolerance(next(model.parameters()).dtype):
            yield Finding("ok", f"{side} packing", "samples of a packed row do not see one another")
        else:
            yield Finding(
                "warning",
                f"{side} packing",
                f"samples of a packed row see one another (states differ by up to {leak:.2g}), so packed batches will "
                "be refused",
                advice,
            )
