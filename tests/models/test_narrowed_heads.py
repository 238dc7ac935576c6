"""Heads cut to some of their tokens: what they give, what they learn, and what is no such set of tokens."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from dskd_components import ConfigurationError, Head, InputError, VocabularySubset

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "ruled out": {"bias": True, "ruled_out": (1, 6)},
    "scale": {"scale": 0.5},
    "softcap": {"scale": 2.0, "softcap": 1.5, "bias": True},
    "padded": {"valid_vocabulary_size": 8, "bias": True},
}
IDS = [5, 1, 7, 2]


def head_with(*, bias: bool = False, ruled_out: tuple[int, ...] = (), **options: Any) -> Head:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    weight = torch.randn(10, 4, generator=generator, dtype=torch.float64).requires_grad_()
    row = torch.randn(10, generator=generator, dtype=torch.float64) if bias else None
    if row is not None:
        row[list(ruled_out)] = -torch.inf
        row.requires_grad_()
    return Head(weight, bias=row, **options)


def states() -> torch.Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    return torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("others", ["one_outcome", "left_out"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_kept_tokens_keep_their_logits_and_the_others_are_one(options: dict[str, Any], others: Any) -> None:
    head, hidden_states = head_with(**options), states()
    whole, narrow = head.logits(hidden_states), head.narrowed(IDS, others=others)
    found = narrow.logits(hidden_states)
    torch.testing.assert_close(found[:, : len(IDS)], whole[:, IDS], rtol=1e-15, atol=0)
    left = [token for token in range(head.vocabulary_size) if token not in IDS]
    assert (narrow.vocabulary_size, narrow.token_count) == (found.shape[1], len(IDS))
    assert narrow.has_rest == (others == "one_outcome") == (found.shape[1] == len(IDS) + 1)
    of_all = whole.log_softmax(-1)
    if narrow.has_rest:
        expected = torch.cat([of_all[:, IDS], of_all[:, left].exp().sum(-1, keepdim=True).log()], -1)
        torch.testing.assert_close(found.log_softmax(-1), expected)
    torch.testing.assert_close(narrow.kept_mass(hidden_states), of_all[:, IDS].exp().sum(-1).detach())
    inputs = [tensor for tensor in (hidden_states, head.weight, head.bias) if tensor is not None]
    naive = (
        whole[:, IDS] if others == "left_out" else torch.cat([whole[:, IDS], whole[:, left].logsumexp(-1)[:, None]], -1)
    )
    factors = torch.arange(1.0, found.shape[1] + 1, dtype=torch.float64)
    gradients = (torch.autograd.grad((probs.softmax(-1) * factors).sum(), inputs) for probs in (found, naive))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not narrow.detach().logits(hidden_states.detach()).requires_grad


@pytest.mark.parametrize("others", ["one_outcome", "left_out"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_narrowed_to_all_tokens_a_head_is_the_whole(options: dict[str, Any], others: Any) -> None:
    head, hidden_states = head_with(**options), states()
    narrow = head.narrowed(range(head.vocabulary_size), others=others)
    assert torch.equal(narrow.logits(hidden_states), head.logits(hidden_states))
    assert not narrow.has_rest
    torch.testing.assert_close(narrow.kept_mass(hidden_states), torch.ones(3, dtype=torch.float64))
    assert torch.equal(head.kept_mass(hidden_states), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "one at least, got shape"),
        ([0, 10], r"ids from 0 to 9, the head's real tokens, got 10"),
        ([-1], "got -1"),
        ([3, 4, 3], "each token once, got 3 twice"),
        ([0.5], "one row of integers"),
        ([[1, 2]], "one row of integers"),
        (torch.tensor([True, False]), "one row of integers"),
    ],
    ids=str,
)
def test_what_is_no_set_of_tokens_is_refused(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"token_ids: expected .*{message}"):
        head_with().narrowed(ids, others="left_out")


def test_a_head_is_narrowed_once_to_its_own_vocabulary() -> None:
    head = head_with(valid_vocabulary_size=8)
    with pytest.raises(
        ConfigurationError, match=r"others: expected 'one_outcome' or 'left_out', got 'leftout' \(did you"
    ):
        head.narrowed(IDS, others="leftout")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="others"):
        head.narrowed(IDS)  # type: ignore[call-arg]
    narrow = head.narrowed(IDS, others="left_out")
    with pytest.raises(InputError, match=r"narrowed already\. Narrow head\.whole"):
        narrow.narrowed([0], others="left_out")
    with pytest.raises(InputError, match="narrowed"):
        narrow.with_vocabulary(3)
    with pytest.raises(InputError, match="vocabulary of 10 tokens, this head has 8"):
        head.narrowed_to(VocabularySubset(IDS, 10, others="left_out"))
    assert head.narrowed_to(None) is head


@pytest.mark.parametrize(
    "ids", [{1, 2}, (token for token in IDS), "12", None, [[1], [2, 3]], ["1"], 5, torch.ones(10) > 0]
)
def test_what_is_no_row_of_ids_is_refused(ids: Any) -> None:
    with pytest.raises(InputError, match=r"token_ids: expected one row of integers, one at least, got"):
        VocabularySubset(ids, 10, others="left_out")


def test_a_subset_can_be_copied_and_sent_to_another_process() -> None:
    subset = VocabularySubset(IDS, 10, others="one_outcome")
    subset.outcomes_of(torch.tensor([1]))
    for again in (copy.deepcopy(subset), pickle.loads(pickle.dumps(subset))):
        assert again.is_like(subset)
        assert torch.equal(again.outcomes_of(torch.arange(10)), subset.outcomes_of(torch.arange(10)))
    assert not subset.is_like(VocabularySubset(IDS[::-1], 10, others="one_outcome"))
    assert not subset.is_like(VocabularySubset(IDS, 10, others="left_out"))
    assert not subset.is_like(None)
