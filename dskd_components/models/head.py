"""`Head`: how one model turns a last hidden state into logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dskd_components.distributed.gathering import require_whole
from dskd_components.errors import InputError
from dskd_components.models.head_recipe import read_head_recipe
from dskd_components.models.precision import overflow_advice, upcast
from dskd_components.models.verification import Probe, largest_difference, likely_cause, probe, tolerance_for
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from dskd_components.models.wrappers import CausalLM


@dataclass(frozen=True, eq=False)
class Head:
    """The prediction head of a language model: ``softcap(scale * (h W^T + b))``.

    Tensors are held by reference, so a head built once follows the parameters that an optimizer updates.

    Args:
        weight: ``[V, d]``, the rows of the unembedding matrix.
        bias: ``[V]`` or None. Entries may be ``-inf`` (a token that can never be predicted).
        scale: what the product is multiplied with (Cohere's ``logit_scale``, one over Granite's
            ``logits_scaling``).
        softcap: with a value c, logits become ``c * tanh(logits / c)`` (Gemma 2); None leaves them.
        valid_vocabulary_size: how many leading rows are real tokens. Checkpoints pad the matrix (Qwen has
            151,936 rows for 151,665 tokens); rows past this number never take part. None: all are real.

    Raises:
        InputError: a tensor has the wrong shape or dtype, or a number is out of range.

    Examples:
        >>> import torch
        >>> head = Head(torch.eye(3), valid_vocabulary_size=2)
        >>> head.logits(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 2.]])
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    valid_vocabulary_size: int | None = None

    def __post_init__(self) -> None:
        require_whole("Head.weight", self.weight)
        if self.weight.ndim != 2 or not self.weight.is_floating_point():
            raise InputError(
                f"Head.weight: expected a floating-point tensor [vocabulary, hidden], got {describe(self.weight)}."
            )
        rows = self.weight.shape[0]
        if self.bias is not None:
            require_whole("Head.bias", self.bias)
        if self.bias is not None and (self.bias.shape != (rows,) or not self.bias.is_floating_point()):
            raise InputError(
                f"Head.bias: expected a floating-point tensor [{rows}], one entry for each row of the weight, "
                f"got {describe(self.bias)}."
            )
        if not math.isfinite(self.scale) or not self.scale:
            raise InputError(f"Head.scale: expected a finite number other than 0, got {self.scale!r}.")
        if self.softcap is not None and not self.softcap > 0:
            raise InputError(f"Head.softcap: expected a positive number or None, got {self.softcap!r}.")
        if self.valid_vocabulary_size is not None and not 0 < self.valid_vocabulary_size <= rows:
            raise InputError(
                f"Head.valid_vocabulary_size: expected 1 to {rows} (the rows of the weight), "
                f"got {self.valid_vocabulary_size!r}."
            )

    @property
    def hidden_size(self) -> int:
        """Width d of the hidden states that this head reads."""
        return self.weight.shape[1]

    @property
    def vocabulary_size(self) -> int:
        """Number of logits that this head gives: the real tokens, without padding rows."""
        return self.valid_vocabulary_size or self.weight.shape[0]

    @property
    def valid_weight(self) -> Tensor:
        """``[vocabulary_size, d]``: the rows of real tokens."""
        return self.weight[: self.vocabulary_size]

    def detach(self) -> Head:
        """Return the same head with its tensors cut from the graph: what passes through still has gradients."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def with_vocabulary(self, size: int | None) -> Head:
        """Return the same head with another number of real tokens; None: all rows."""
        return replace(self, valid_vocabulary_size=size)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Return the logits of hidden states, computed in at least float32.

        Args:
            hidden_states: ``[..., d]``, any floating-point dtype.

        Returns:
            ``[..., vocabulary_size]``, float32 (float64 for float64 hidden states).

        Raises:
            InputError: the width is not the head's.
        """
        if hidden_states.shape[-1] != self.hidden_size:
            raise InputError(
                f"Head.logits: expected hidden states of width {self.hidden_size} (the head's), "
                f"got shape {list(hidden_states.shape)}."
            )
        hidden_states = upcast(hidden_states)
        weight = _for_autograd(self.valid_weight.to(hidden_states.dtype))
        bias = None if self.bias is None else self.bias[: self.vocabulary_size].to(hidden_states.dtype)
        logits = F.linear(hidden_states, weight, bias) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @classmethod
    def from_model(cls, model: CausalLM, *, valid_vocabulary_size: int | None = None, verify: bool = True) -> Head:
        """Read the head of a Hugging Face causal model and check it against the model's own logits.

        The weight, its bias, the scale and the softcap are found through the model's output embeddings and
        configuration. A model whose logits are computed in yet another way is caught by the check, which runs
        the model on four tokens, rather than trained on wrong logits.

        Args:
            model: a causal language model: it has ``config`` and ``get_output_embeddings()``, and its forward
                returns ``logits`` and, when asked, ``hidden_states``.
            valid_vocabulary_size: the number of real tokens, usually ``max(tokenizer.get_vocab().values()) + 1``.
            verify: compare with the model's logits (one forward pass of four tokens).

        Returns:
            A head that refers to the model's live parameters, or to what is gathered of them where an engine has spread
            them over ranks: then all ranks call this together, and the head is good for one step.

        Raises:
            InputError: the model has no output embeddings, or its logits differ from the head's; the message
                names the class of the model and the largest difference.
        """
        recipe = read_head_recipe(model)
        head = cls(
            recipe.weight,
            bias=recipe.bias,
            scale=recipe.scale,
            softcap=recipe.softcap,
            valid_vocabulary_size=valid_vocabulary_size,
        )
        if verify:
            head.verify(model)
        return head

    @torch.no_grad()
    def verify(self, model: CausalLM) -> None:
        """Check that this head gives the logits that the model itself gives.

        The model is run in evaluation mode on a few tokens and left as it was: its mode, its parameters, the state of
        random numbers.

        Args:
            model: the model whose head this is, or a wrapper of it.

        Raises:
            InputError: they differ by more than rounding, the message names the largest difference and what is
                probably wrong; or the model cannot be run on a few tokens.
        """
        found = probe(model, self.weight.device)
        difference, magnitude = self._difference(found, model)
        if difference <= tolerance_for(found.hidden_states.dtype, self.weight.dtype, found.computed_in) * magnitude:
            return
        name = type(unwrapped(model)).__name__
        raise InputError(
            f"Head of {name}: its logits differ from the model's own by up to {difference:.3g} (largest logit "
            f"{magnitude:.3g}). {self._cause(found, model)}"
        )

    def _difference(self, probe: Probe, model: CausalLM) -> tuple[float, float]:
        """Return the largest difference between this head's logits and a model's own, and its largest logit."""
        given = probe.logits.shape[-1]
        if given != len(self.weight):
            raise InputError(
                f"Head of {type(unwrapped(model)).__name__}: the model gives {given} logits, the head's weight has "
                f"{len(self.weight)} rows. Pass the whole weight; rows that are no tokens are left out by "
                "valid_vocabulary_size."
            )
        width = probe.hidden_states.shape[-1]
        if width != self.hidden_size:
            raise InputError(
                f"Head of {type(unwrapped(model)).__name__}: the model's last hidden states have width {width}, the "
                f"head's weight reads width {self.hidden_size}. Something comes between them, so the head is more than "
                "Head(weight, bias=..., scale=..., softcap=...) can express."
            )
        return largest_difference(self.logits(probe.hidden_states), probe.logits[..., : self.vocabulary_size])

    def _cause(self, probe: Probe, model: CausalLM) -> str:
        """Return what is wrong and what to do, once logits are known to differ."""
        if not self.valid_weight.isfinite().all():
            return f"The head's weight holds NaN or infinity.{overflow_advice(self.weight.dtype)}"
        largest, limit = float(self.logits(probe.hidden_states).abs().max()), torch.finfo(probe.computed_in).max
        if largest > limit:
            dtype = str(probe.computed_in).removeprefix("torch.")
            return (
                f"The model's own logits overflow {dtype}: they reach {largest:.3g}."
                f"{overflow_advice(probe.computed_in)}"
            )
        current = Head.from_model(model, valid_vocabulary_size=self.valid_vocabulary_size, verify=False)
        difference, magnitude = current._difference(probe, model)
        if difference <= tolerance_for(probe.hidden_states.dtype, current.weight.dtype, probe.computed_in) * magnitude:
            return (
                f"Head.from_model(model) does give them; this head has another {' and '.join(self._changes(current))}. "
                "A head that holds a copy of the weight is stale after an optimizer step: read it anew in each step, "
                "with Head.from_model(model, verify=False)."
            )
        return (
            f"{likely_cause(self.logits(probe.hidden_states), probe)}The model computes its logits in a way that "
            "Head.from_model does not know; build Head(weight, bias=..., scale=..., softcap=...) by hand and check it "
            "with head.verify(model)."
        )

    def _changes(self, other: Head) -> list[str]:
        """Return the names of the fields in which another head differs."""
        fields = ("weight", "bias", "scale", "softcap")
        return [name for name in fields if not _equal(getattr(self, name), getattr(other, name))]


def _for_autograd(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd may keep for the gradient: a copy of one made under `torch.inference_mode`."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def _equal(ours: Tensor | float | None, theirs: Tensor | float | None) -> bool:
    """Return whether a field of two heads is the same."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return torch.equal(ours, theirs)
    return ours is theirs or (not isinstance(ours, Tensor) and not isinstance(theirs, Tensor) and ours == theirs)


def describe(tensor: Tensor) -> str:
    """Return shape and dtype of a tensor as error messages state them."""
    return f"shape {list(tensor.shape)}, dtype {str(tensor.dtype).removeprefix('torch.')}"
