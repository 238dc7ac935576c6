"""`Distribution`: next-token distributions, a row each, as logarithms and as probabilities."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import Tensor


def fuses_log_softmax(device: torch.device) -> bool:
    """Return whether a device makes all log-probabilities in one pass, where several take longer: not a CPU.

    Args:
        device: where logits are.

    Examples:
        >>> import torch
        >>> fuses_log_softmax(torch.device("cpu"))
        False
    """
    return device.type != "cpu"


class Distribution:
    """Rows of normalised log-probabilities, with what is computed from them computed once for all who ask.

    Args:
        log_probs: ``[N, V]``, float32 or float64, normalised.
        all_finite: whether every token has a positive probability before rounding, so that no entry is ``-inf`` and
            nobody need look for one. False is always safe.

    Examples:
        >>> import torch
        >>> Distribution(log_probs=torch.tensor([[0.25, 0.75]]).log()).probs
        tensor([[0.2500, 0.7500]])
    """

    def __init__(self, *, log_probs: Tensor, all_finite: bool = False) -> None:
        self.all_finite = all_finite
        """Whether no entry is ``-inf``."""
        self._logits = log_probs
        self._is_normalised = True
        self._is_fused = False

    @classmethod
    def of_logits(cls, logits: Tensor, *, all_finite: bool = False) -> Self:
        """Return the distributions that logits stand for.

        Args:
            logits: ``[N, V]``, float32 or float64; referred to, so they must stay as they are while this is in use.
            all_finite: as in the class.

        Examples:
            >>> import torch
            >>> Distribution.of_logits(torch.tensor([[0.0, 0.0]])).log_probs
            tensor([[-0.6931, -0.6931]])
        """
        found = cls(log_probs=logits, all_finite=all_finite)
        found._is_normalised = False
        found._is_fused = fuses_log_softmax(logits.device)
        return found

    @classmethod
    def of_part(
        cls, logits: Tensor, *, probs: Tensor, largest: Tensor, log_sum: Tensor, all_finite: bool = False
    ) -> Self:
        """Return a part of distributions over a larger vocabulary: some of its tokens, each with its probability.

        Args:
            logits: ``[N, W]``: those of the tokens; referred to, as in `of_logits`.
            probs: ``[N, W]``: their probabilities.
            largest: ``[N, 1]``: the largest logit of the whole vocabulary.
            log_sum: ``[N, 1]``: the logarithm of the sum of exponentials over the whole, above the largest logit.
            all_finite: as in the class.

        Examples:
            >>> import torch
            >>> whole = torch.tensor([[0.5, 0.25, 0.25]])
            >>> logits, largest, log_sum = whole.log(), whole[:, :1].log(), torch.tensor([[2.0]]).log()
            >>> part = Distribution.of_part(logits[:, 1:], probs=whole[:, 1:], largest=largest, log_sum=log_sum)
            >>> part.log_probs.exp()
            tensor([[0.2500, 0.2500]])
        """
        found = cls.of_logits(logits, all_finite=all_finite)
        # Where cached properties keep what they have. Their own way looks at what is here alone.
        vars(found).update(_largest=largest, _log_sum=log_sum, probs=probs)
        found._is_fused = False
        return found

    @property
    def logits(self) -> Tensor:
        """``[N, V]``: what the distributions are made from, logits or log-probabilities."""
        return self._logits

    @cached_property
    def probs(self) -> Tensor:
        """``[N, V]``: the probabilities."""
        if self._is_normalised or self._is_fused:
            return self.log_probs.exp()
        return self._logits.softmax(-1)

    @cached_property
    def log_probs(self) -> Tensor:
        """``[N, V]``: their logarithms, at tokens whose probability rounds to 0 too."""
        if self._is_fused:
            return self._logits.log_softmax(-1)
        return self._logits if self._is_normalised else (self._logits - self._largest).sub_(self._log_sum)

    @property
    def log_normaliser(self) -> Tensor:
        """``[N, 1]``: the logarithm of the sum of the logits' exponentials; 0 for log-probabilities."""
        return self._largest + self._log_sum

    def log_probs_of(self, tokens: Tensor) -> Tensor:
        """Return ``[N]``: the log-probability of one token of each row.

        Args:
            tokens: ``[N]``, int64.
        """
        if self._is_fused:
            return self.log_probs.gather(1, tokens[:, None]).squeeze(1)
        chosen = self._logits.gather(1, tokens[:, None])
        return (chosen if self._is_normalised else chosen - self._largest - self._log_sum).squeeze(1)

    def log_ratio(self, other: Distribution) -> Tensor:
        """Return ``[N, V]``, a new tensor: ``log p - log q``, and 0 where this p rules a token out.

        Args:
            other: q, ``[N, V]``.

        Examples:
            >>> import torch
            >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
            >>> Distribution(log_probs=p.log()).log_ratio(Distribution(log_probs=q.log()))
            tensor([[ 0.6931, -0.4055]])
        """
        if self._is_fused or other._is_fused:
            ratio = self.log_probs - other.log_probs
            return ratio if self.all_finite else ratio.masked_fill_(self.log_probs == -math.inf, 0.0)
        ratio = self._logits - other._logits
        if not (self._is_normalised and other._is_normalised):
            # What large logits have in common goes first, so that it takes no digits from the rest.
            ratio -= (self._largest - other._largest) + (self._log_sum - other._log_sum)
        return ratio if self.all_finite else ratio.masked_fill_(self._logits == -math.inf, 0.0)

    @cached_property
    def _largest(self) -> Tensor:
        """``[N, 1]``: the largest logit of each row; 0 for log-probabilities."""
        return self._zeros if self._is_normalised else self._logits.amax(-1, keepdim=True)

    @cached_property
    def _log_sum(self) -> Tensor:
        """``[N, 1]``: the logarithm of the sum of exponentials, above the largest logit; 0 for log-probabilities."""
        # The most likely token never underflows: a sum would cost another pass.
        return self._zeros if self._is_normalised else self.probs.amax(-1, keepdim=True).log_().neg_()

    @property
    def _zeros(self) -> Tensor:
        return self._logits.new_zeros(len(self._logits), 1)
