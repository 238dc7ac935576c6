"""A model whose forward goes through the wrapper that a trainer has put around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from dskd_components.causal_lm.protocol import CausalLM


class WrappedModel:
    """Calls the wrapper, so that it sees the forward pass, and asks the model inside for everything else.

    Args:
        wrapper: the model as a trainer calls it.
        inside: the model itself.
    """

    def __init__(self, wrapper: Callable[..., Any], inside: CausalLM) -> None:
        self._wrapper = wrapper
        self._inside = inside

    @property
    def config(self) -> Any:
        """The configuration."""
        return self._inside.config

    @property
    def training(self) -> bool:
        """Whether dropout is on."""
        return self._inside.training

    @property
    def forward(self) -> Any:
        """The forward of the model inside, whose signature tells what may be passed."""
        return self._inside.forward  # type: ignore[attr-defined]

    def get_input_embeddings(self) -> nn.Module:
        """Return the input embedding of the model inside."""
        return self._inside.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the output embedding of the model inside."""
        return self._inside.get_output_embeddings()

    def __call__(self, **inputs: Any) -> Any:
        """Run the wrapper."""
        return self._wrapper(**inputs)
