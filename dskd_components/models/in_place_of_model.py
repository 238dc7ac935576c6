"""What is given in the place of a model: the name of one, its class, its tokenizer, its configuration, nothing."""

from __future__ import annotations

from os import PathLike, fspath

from torch import nn

from dskd_components.errors import InputError, what_came


def advice_in_place_of_model(given: object) -> str | None:
    """Return what to do about an object that stands where a model should; None for one that may be a model.

    Args:
        given: any object.

    Examples:
        >>> advice_in_place_of_model("gpt2")
        "Load it first: AutoModelForCausalLM.from_pretrained('gpt2')."
    """
    if isinstance(given, nn.Module):
        return None
    if isinstance(given, str | PathLike):
        return f"Load it first: AutoModelForCausalLM.from_pretrained({fspath(given)!r})."
    if isinstance(given, type):
        return f"Give a model of that class: {given.__name__}.from_pretrained(...)."
    if given is None:
        return "Load one: AutoModelForCausalLM.from_pretrained(...)."
    if hasattr(type(given), "get_vocab"):
        return "That is a tokenizer: give the model that it belongs to."
    if isinstance(getattr(type(given), "model_type", None), str):
        return (
            "That is a configuration: load the model, AutoModelForCausalLM.from_pretrained(...), or make a new one, "
            "AutoModelForCausalLM.from_config(...)."
        )
    return None


def require_model(given: object, name: str, *, module: bool = False) -> None:
    """Refuse what is known to be no model, before something of it is used.

    Args:
        given: what somebody gave as a model.
        name: of the argument, for the message.
        module: whether it must be a module, as trainers and optimizers need it.

    Raises:
        InputError: it is none; the message says what to do.
    """
    advice = advice_in_place_of_model(given)
    if advice is None and module and not isinstance(given, nn.Module):
        advice = "Load one: AutoModelForCausalLM.from_pretrained(...)."
    if advice is not None:
        raise InputError(f"{name}: expected a causal language model, got {what_came(given)}. {advice}")
