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
from dskd_components.models.precision import overflow_advice, quantized_form, upcast
from dskd_components.models.verification import Probe, largest_difference, likely_cause, probe, tolerance_for
from dskd_components.models.vocabulary_subset import VocabularySubset
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.distributed.vocabulary_shards import VocabularyShards
    from dskd_components.models.vocabulary_subset import Others
    from dskd_components.models.wrappers import CausalLM


@dataclass(frozen=True, eq=False)
class Head:
    """The prediction head of a language model: ``softcap(scale * (h W^T + b))``.

    Tensors are held by reference, so a head built once follows the parameters that an optimizer updates.

    Args:
        weight: ``[V, d]``, the rows of the unembedding matrix.
        bias: ``[V]`` or None. Entries may be ``-inf`` (a token that can never be predicted; under a softcap c it can,
            with a logit of -c).
        scale: what the product is multiplied with (Cohere's ``logit_scale``, one over Granite's
            ``logits_scaling``).
        softcap: with a value c, logits become ``c * tanh(logits / c)`` (Gemma 2); None leaves them.
        valid_vocabulary_size: how many leading rows are real tokens. Checkpoints pad the matrix (Qwen has
            151,936 rows for 151,665 tokens); rows past this number never take part. None: all are real.
        subset: of a head that `narrowed` has made, the tokens that it is narrowed to.
        whole: the head that was narrowed.

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
    subset: VocabularySubset | None = None
    whole: Head | None = None

    def __post_init__(self) -> None:
        require_whole("Head.weight", self.weight)
        if self.weight.ndim != 2 or not self.weight.is_floating_point():
            raise InputError(
                f"Head.weight: expected a floating-point tensor [vocabulary, hidden], got {describe(self.weight)}."
            )
        form = quantized_form(self.weight)
        if form is not None:
            raise InputError(
                f"Head.weight: expected floating-point numbers as they are, got a quantized tensor ({form}). Pass the "
                "weight from before the quantization, or with the numbers that it stands for: weight.dequantize()."
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
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise InputError(
                f"Head.softcap: expected a positive, finite number, or None for no cap, got {self.softcap!r}."
            )
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
    def token_count(self) -> int:
        """Number of real tokens that have a row, without padding rows."""
        return self.valid_vocabulary_size or self.weight.shape[0]

    @property
    def has_rest(self) -> bool:
        """Whether the last logit is that of all tokens together which the head has been narrowed without."""
        return self.subset is not None and self.subset.has_rest

    @property
    def vocabulary_size(self) -> int:
        """Number of logits that this head gives: `token_count`, and one more where it `has_rest`."""
        return self.token_count + self.has_rest

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In what the weight is stored."""
        return self.weight.dtype

    @property
    def local(self) -> Head:
        """The head of the tokens whose logits this rank computes: all, unless the head is cut over ranks."""
        return self

    @property
    def shards(self) -> VocabularyShards | None:
        """How the real tokens are cut over ranks; None: each rank has all of them."""
        return None

    def gathered(self) -> Head:
        """Return the head with all of its tokens on this rank; where it is cut over ranks, all of them call this."""
        return self

    def rows(self, picked: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Return some rows of weight and bias, detached; where the head is cut over ranks, all of them call this.

        Args:
            picked: a slice of the tokens, or ``[K]``, int64: which.
        """
        return self.weight.detach()[picked], None if self.bias is None else self.bias.detach()[picked]

    @property
    def valid_weight(self) -> Tensor:
        """``[token_count, d]``: the rows of real tokens."""
        # It is asked for some forty times a step, and to cut off nothing takes the host as long as to cut.
        return self.weight if self.token_count == self.weight.shape[0] else self.weight[: self.token_count]

    def detach(self) -> Head:
        """Return the same head with its tensors cut from the graph: what passes through still has gradients."""
        return replace(
            self,
            weight=self.weight.detach(),
            bias=None if self.bias is None else self.bias.detach(),
            whole=None if self.whole is None else self.whole.detach(),
        )

    def with_vocabulary(self, size: int | None) -> Head:
        """Return the same head with another number of real tokens; None: all rows.

        Raises:
            InputError: it has been narrowed.
        """
        if self.subset is not None:
            raise InputError("Head.with_vocabulary: this head has been narrowed. Set the number before: narrow after.")
        return replace(self, valid_vocabulary_size=size)

    def narrowed(self, token_ids: Tensor | Sequence[int], *, others: Others) -> Head:
        """Return this head cut to some of its tokens, the k-th logit being that of the k-th of them.

        Their logits are the same as before. Targets keep the ids of the whole vocabulary. Gradients reach the whole
        weight; of tokens that are left out, none do.

        Args:
            token_ids: ``[K]``, different ids of real tokens.
            others: ``"one_outcome"``: all other tokens are one more outcome, the last, whose probability is the sum of
                theirs, and targets among them are that outcome; it takes the products of the whole head still.
                ``"left_out"``: the kept tokens' probabilities add up to 1, and a target among the others is refused.

        Raises:
            InputError: an id is none, or there twice; or the head has been narrowed already.
            ConfigurationError: others has no such value.

        Examples:
            >>> import torch
            >>> head, states = Head(torch.eye(4)), torch.tensor([[2.0, 1.0, 0.0, 0.0]])
            >>> head.narrowed([1, 0], others="left_out").logits(states)
            tensor([[1., 2.]])
            >>> head.narrowed([1, 0], others="one_outcome").logits(states)
            tensor([[1.0000, 2.0000, 0.6931]])
        """
        return self.narrowed_to(VocabularySubset(token_ids, self.token_count, others=others))

    def narrowed_to(self, subset: VocabularySubset | None) -> Head:
        """Return this head cut to a subset that is known to be one; a loop makes the subset once and cuts at each step.

        Args:
            subset: as `narrowed` makes it. None: the head stays whole.

        Raises:
            InputError: it is of another vocabulary; or the head has been narrowed already.
        """
        if subset is None:
            return self
        if self.subset is not None:
            raise InputError("Head.narrowed: this head has been narrowed already. Narrow head.whole instead.")
        if subset.vocabulary_size != self.token_count:
            raise InputError(
                f"Head.narrowed: the subset is of a vocabulary of {subset.vocabulary_size} tokens, this head has "
                f"{self.token_count}."
            )
        ids = subset.on(self.weight.device).token_ids
        return Head(
            self.weight.index_select(0, ids),
            bias=None if self.bias is None else self.bias.index_select(0, ids),
            scale=self.scale,
            softcap=self.softcap,
            subset=subset,
            whole=self,
        )

    @torch.no_grad()
    def kept_mass(self, hidden_states: Tensor) -> Tensor:
        """Return ``[...]``: the probability that the whole head gives to the tokens that this one is narrowed to.

        Args:
            hidden_states: ``[..., d]``.

        Examples:
            >>> import torch
            >>> narrow = Head(torch.zeros(4, 2)).narrowed([0, 3], others="left_out")
            >>> narrow.kept_mass(torch.ones(1, 2))
            tensor([0.5000])
        """
        if self.whole is None or self.subset is None:
            return upcast(hidden_states.new_ones(hidden_states.shape[:-1]))
        logits = self.whole.logits(hidden_states)
        kept = logits.index_select(-1, self.subset.on(logits.device).token_ids)
        return (kept.logsumexp(-1) - logits.logsumexp(-1)).exp()

    @property
    def others(self) -> Head:
        """The head of all tokens that this one is narrowed without; where it `has_rest`, they are one outcome."""
        assert self.subset is not None, "a narrowed head"
        assert self.whole is not None, "a narrowed head"
        ids, whole = self.subset.on(self.weight.device).other_ids, self.whole
        bias = None if whole.bias is None else whole.bias.index_select(0, ids)
        return Head(whole.weight.index_select(0, ids), bias=bias, scale=whole.scale, softcap=whole.softcap)

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
        bias = None if self.bias is None else self.bias[: self.token_count].to(hidden_states.dtype)
        logits = F.linear(hidden_states, weight, bias) * self.scale
        logits = logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
        if not self.has_rest:
            return logits
        rest = self.others.logits(hidden_states).logsumexp(-1, keepdim=True)
        return torch.cat([logits, rest], -1)

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
        recipe = read_head_recipe(model).gathered()
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


def require_head(name: str, head: object) -> None:
    """Refuse what is no head.

    Args:
        name: what the message calls it.
        head: what was given.

    Raises:
        InputError: it is something else, such as the layer or the weight that a head is made of.
    """
    if not isinstance(head, Head):
        raise InputError(
            f"{name}: expected a Head, got {type(head).__name__}. Head.from_model(model) reads that of a model, and "
            "Head(weight, bias=...) is made of tensors."
        )


def describe(tensor: Tensor) -> str:
    """Return shape and dtype of a tensor as error messages state them."""
    return f"shape {list(tensor.shape)}, dtype {str(tensor.dtype).removeprefix('torch.')}"
