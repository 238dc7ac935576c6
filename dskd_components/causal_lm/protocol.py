"""What the library uses of a causal language model. Hugging Face models have it; so can anybody's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn


class CausalLM(Protocol):
    """A causal language model, as `transformers` writes them."""

    @property
    def config(self) -> Any:
        """The configuration; optional fields of it say how logits are scaled and capped."""
        ...

    @property
    def training(self) -> bool:
        """Whether dropout is on."""
        ...

    def get_input_embeddings(self) -> nn.Module:
        """Return the module whose ``weight`` is the input embedding ``[V, d]``."""
        ...

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the module whose ``weight`` (and ``bias``) make the logits."""
        ...

    def __call__(self, **inputs: Any) -> Any:
        """Run the model; the result has ``logits`` and, on request, ``hidden_states``."""
        ...
