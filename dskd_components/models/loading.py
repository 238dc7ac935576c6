"""Whether the numbers of a model are where they can be read: models that were not loaded, or are offloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from dskd_components.errors import InputError
from dskd_components.models.in_place_of_model import require_model
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    import torch

    from dskd_components.models.wrappers import CausalLM


class Unloaded(NamedTuple):
    """Why a model cannot be used as it was loaded.

    Args:
        found: what is so, as a clause.
        advice: what to do, as a clause.
    """

    found: str
    advice: str

    def error(self, model: str) -> InputError:
        """Return it as an error.

        Args:
            model: what the message calls the model.
        """
        return InputError(f"{model} cannot be used: {self.found}. Do: {self.advice}.")


def unloaded(model: CausalLM, *, trained: bool = False) -> Unloaded | None:
    """Return why a model cannot be used as it was loaded; None if it can.

    An offloaded model has its parameters on the device ``meta`` between calls, and hooks that fetch them. It can be
    called, but its head and its input embedding are read by the loss itself.

    Args:
        model: a causal language model, or a wrapper of one.
        trained: whether it is to be trained.
    """
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    away, left = {}, []
    for name, module in modules.items():
        for parameter, value in module.named_parameters(recurse=False):
            if value.is_meta:
                away[f"{name}.{parameter}".lstrip(".")] = value
                left += [] if _is_fetched(module) else [f"{name}.{parameter}".lstrip(".")]
    if not away:
        return None
    if left:
        return Unloaded(
            f"{len(left)} of its parameters ({left[0]!r} among them) are on the device 'meta', which holds no numbers: "
            "it was not loaded",
            "load it whole, onto one device",
        )
    for part, layer in _read_by_the_loss(model).items():
        if _is_meta(layer):
            return Unloaded(
                f"its {part} is offloaded: between calls it is on the device 'meta', which holds no numbers, and the "
                "loss reads it itself",
                "load the model whole, onto one device, or keep head and input embedding there (device_map) and "
                "offload other layers",
            )
    stuck = [name for name, value in away.items() if value.requires_grad] if trained else []
    if stuck:
        return Unloaded(
            f"it is trained, but {len(stuck)} of its parameters ({stuck[0]!r} among them) are offloaded, so no "
            "optimizer can change them",
            "load it whole, onto one device",
        )
    return None


def is_offloaded(model: CausalLM) -> bool:
    """Return whether some parameters of a model are on the device ``meta`` between calls.

    Args:
        model: a causal language model, or a wrapper of one.
    """
    return isinstance(model, nn.Module) and any(parameter.is_meta for parameter in model.parameters())


def require_loaded(model: CausalLM, side: str, *, columns_on: torch.device | None = None) -> None:
    """Refuse a model whose numbers cannot be read.

    Args:
        model: a causal language model, or a wrapper of one.
        side: which one it is, for the message.
        columns_on: where its columns of a batch are, for the message.

    Raises:
        InputError: they cannot, or it is no model; the message says which and what to do.
    """
    require_model(model, side)
    problem = unloaded(model, trained=side == "student") if is_offloaded(model) else None
    if problem is not None:
        apart = ""
        if columns_on is not None and _is_meta(unwrapped(model).get_input_embeddings()):
            # Where it looks like a model on another device, the remedy for that would fail.
            there = f".to({str(columns_on)!r}) cannot bring it there"
            apart = f"The {side} is on meta, its columns of the batch are on {columns_on}, and {there}. "
        raise problem.error(f"{apart}The {side} ({type(unwrapped(model)).__name__})")


def head_is_here(model: CausalLM) -> bool:
    """Return whether what the loss reads of a model itself has numbers; the rest is known once the model is called.

    Args:
        model: a causal language model, or a wrapper of one.
    """
    return not any(_is_meta(layer) for layer in _read_by_the_loss(model).values())


def _read_by_the_loss(model: CausalLM) -> dict[str, Any]:
    inner = unwrapped(model)
    return {"head": inner.get_output_embeddings(), "input embedding": inner.get_input_embeddings()}


def _is_meta(layer: Any) -> bool:
    return bool(getattr(getattr(layer, "weight", None), "is_meta", False))


def _is_fetched(module: nn.Module) -> bool:
    """Return whether something is there that may fetch a module's parameters when it is called."""
    return bool(hasattr(module, "_hf_hook") or module._forward_pre_hooks or "forward" in vars(module))
