"""Samples of every kind that the collator takes are read as it reads them, and what cannot be used is named."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from dskd_components import (
    DSKDLoss,
    DSKDSpec,
    DSKDWarning,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
)
from dskd_components.collation.samples import Columns
from dskd_components.preflight import Pair, examine
from dskd_components.preflight.check_samples import check_samples
from tests.helpers.models import TEXTS, tiny_model
from tests.helpers.pairs import CHATML, OTHER, finding, look, sound_pair, tokenizer, trained_teacher

if TYPE_CHECKING:
    from dskd_components.preflight import PreflightReport

READS_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
STUDENT, TEACHER = tokenizer(280, template=READS_TOOLS + CHATML), tokenizer(300, template=READS_TOOLS + OTHER)
ASKED = {"role": "user", "content": "What counts?"}
ANSWERED = {"role": "assistant", "content": "Readability counts, and explicit is better."}
TOOLS = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}}]
KINDS: dict[str, tuple[Any, str]] = {
    "text": ({"text": TEXTS[0]}, "2 texts"),
    "str": (TEXTS[0], "2 texts"),
    "pair": ({"prompt": "What counts?", "response": " Readability."}, "2 prompts and responses"),
    "completion": ({"prompt": "What counts?", "completion": " Readability."}, "2 prompts and responses"),
    "teacher prompt": (
        {"prompt": "Say.", "teacher_prompt": "Say it well.", "response": " So be it."},
        "2 prompts and responses with a prompt of the teacher's own",
    ),
    "chat": ({"messages": [ASKED, ANSWERED]}, "2 chats"),
    "conversational": ({"prompt": [ASKED], "completion": [ANSWERED]}, "2 chats"),
    "conversations": (
        {"conversations": [{"from": "user", "value": "Hm?"}, {"from": "assistant", "value": "Hm, hm."}]},
        "2 chats",
    ),
    "tools": ({"messages": [ASKED, ANSWERED], "tools": TOOLS}, "2 chats with tools"),
}


def of_pair(samples: list[Any], **changes: Any) -> PreflightReport:
    tokenizers = {"student_tokenizer": STUDENT, "teacher_tokenizer": TEACHER}
    return look(**({"texts": None, "samples": samples} | tokenizers | changes))


def expected(samples: list[Any], aligner: str, side: str) -> tuple[int, int, float]:
    """Tokens, scored ones and the share of these with a partner, by the collator's batch."""
    batch = DualTokenizerCollator(STUDENT, TEACHER, aligner=aligner)(samples)
    scored = batch[f"{side}_labels"] >= 0
    paired = scored & (batch[f"{side}_groups"] >= 0)
    return int(batch[f"{side}_attention_mask"].sum()), int(scored.sum()), int(paired.sum()) / int(scored.sum())


@pytest.mark.parametrize(("kind", "aligner"), list(zip(KINDS, itertools.cycle(["span", "exact_match"]), strict=False)))
def test_every_kind_is_counted_as_the_collator_reads_it(kind: str, aligner: str) -> None:
    sample, words = KINDS[kind]
    report = of_pair([sample, sample], spec=DSKDSpec(aligner=aligner), tokens_per_step=64)
    assert report.passed, report.to_text()
    raw = [{"text": sample} if isinstance(sample, str) else sample] * 2
    (ours, our_scored, our_share), (theirs, their_scored, their_share) = (
        expected(raw, aligner, side) for side in ("student", "teacher")
    )
    assert finding(report, "samples", "ok").found == (
        f"{words}: {ours} tokens of the student, {our_scored / ours:.0%} of them scored ({our_scored}), and "
        f"{theirs} tokens of the teacher, {their_scored / theirs:.0%} of them scored ({their_scored})"
    )
    assert finding(report, "scored tokens", "ok").found == (
        f"{aligner!r} finds a partner for {our_share:.1%} of the student's and {their_share:.1%} of the teacher's"
    )
    stated = finding(report, "step", "ok").found
    assert f"stated for 64, of which {int(64 * our_scored / ours)} are scored" in stated
    longest = ours // 2
    assert finding(report, "student positions", "ok").found.endswith(f"the longest sample has {longest} tokens")


def test_kinds_are_told_apart_in_one_file() -> None:
    report = of_pair([sample for sample, _ in KINDS.values()])
    words = finding(report, "samples", "ok").found.partition(":")[0]
    assert words == (
        "2 texts and 2 prompts and responses and 1 prompt and response with a prompt of the teacher's own and 3 chats "
        "and 1 chat with tools"
    )


UNREAD = {
    ("", ""): (
        "warning",
        "'tools' makes no difference to what the chat template of the student and of the teacher writes in 2 of the 2 "
        "chats with it (sample 1; sample 2)",
    ),
    ("{{ tools }}", ""): (
        "warning",
        "'tools' makes no difference to what the chat template of the teacher writes; that of the student reads it, so "
        "the models read different prompts in 2 of the 2 chats with it (sample 1; sample 2)",
    ),
    ("{{ tools }}", "{{ tools }}"): ("ok", "both chat templates read 'tools', in 2 chats"),
    ("{{ tools if messages | length == 2 }}", "{{ tools }}"): (
        "warning",
        "'tools' makes no difference to what the chat template of the student writes; that of the teacher reads it, so "
        "the models read different prompts in 1 of the 2 chats with it (sample 2)",
    ),
}


@pytest.mark.parametrize("before", UNREAD)
def test_tools_that_a_template_does_not_read_are_counted(before: tuple[str, str]) -> None:
    student, teacher = tokenizer(280, template=before[0] + CHATML), tokenizer(300, template=before[1] + OTHER)
    chats: list[Any] = [{"messages": messages} for messages in ([ASKED, ANSWERED], [ASKED, ANSWERED] * 2)]
    # What is empty, and a template of its own, is nothing that a template is told.
    beside = {"tools": [], "chat_template_kwargs": {"documents": [], "chat_template": before[0] + CHATML}}
    samples = [chats[0] | beside, *(chat | {"tools": TOOLS} for chat in chats)]
    severity, text = UNREAD[before]
    tokenizers = {"student_tokenizer": student, "teacher_tokenizer": teacher}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DSKDWarning)  # as `examine` does
        findings = list(check_samples(Pair(**sound_pair() | tokenizers, samples=samples)))
    (found,) = [each for each in findings if each.component == "template arguments"]
    assert (found.severity, found.found) == (severity, text)
    assert bool(found.advice) == (severity == "warning")
    without = check_samples(Pair(**sound_pair() | tokenizers, samples=chats))
    assert all(each.component != "template arguments" for each in without)


def test_samples_in_tokens_and_preprocessed_ones() -> None:
    own = tokenizer(300)
    pair = {
        "student": tiny_model("Llama", hidden_size=24, vocabulary=300),
        "student_tokenizer": own,
        "teacher_tokenizer": tokenizer(300),
    }
    ids = own(TEXTS[0])["input_ids"]
    tokens = {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}
    report = of_pair([tokens], **pair)
    assert finding(report, "samples", "ok").found.startswith(f"1 sample in tokens: {len(ids)} tokens of the student")
    refused = of_pair([tokens])
    assert "sample 0: It has 'input_ids'" in finding(refused, "samples", "error").found
    columns = DualTokenizerPreprocessor(STUDENT, TEACHER, aligner="span")({"text": list(TEXTS)})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    report = of_pair(rows, spec=DSKDSpec(aligner="span"))
    assert finding(report, "samples", "ok").found.startswith("3 preprocessed samples: ")


def test_samples_that_cannot_be_used_are_named_by_their_place() -> None:
    good, empty = KINDS["pair"][0], {"prompt": "a", "response": ""}
    pair = sound_pair() | {"student_tokenizer": STUDENT, "teacher_tokenizer": TEACHER}
    samples = [good, empty, empty, empty, empty, {"prompt": "a", "answer": "b"}]
    places = [f"pairs.jsonl:{line}" for line in range(1, 7)]
    report = examine(DSKDLoss, Pair(**pair, samples=samples, places=places), tokens_per_step=None)
    skipped = finding(report, "samples", "warning")
    assert skipped.found == (
        "4 of 6 cannot be used (empty response): pairs.jsonl:2: Its response is empty; there is nothing to learn; "
        "pairs.jsonl:3: Its response is empty; there is nothing to learn; pairs.jsonl:4: Its response is empty; there "
        "is nothing to learn; and 1 more"
    )
    assert 'on_error="skip"' in skipped.advice
    wrong = finding(report, "samples", "error")
    assert wrong.found.startswith("1 of 6 cannot be used (not understood): pairs.jsonl:6: Unknown key 'answer'")
    nothing = examine(DSKDLoss, Pair(**pair, samples=[empty], places=["pairs.jsonl:1"]), tokens_per_step=None)
    assert finding(nothing, "samples", "error").found.startswith("1 of 1 cannot be used (empty response)")


def test_columns_of_other_names() -> None:
    rows = [{"question": "What counts?", "answer": " Readability."}]
    report = of_pair(rows, columns=Columns(prompt="question", response="answer"), tokens_per_step=32)
    assert report.passed, report.to_text()
    assert finding(report, "samples", "ok").found.startswith("1 prompt and response: ")
    assert not of_pair(rows).passed


def test_what_samples_are_not() -> None:
    for samples in ([], "a text", {"text": "a"}):
        with pytest.raises(InputError, match=r"^samples: expected a list of samples or texts"):
            look(texts=None, samples=samples)
    with pytest.raises(InputError, match=r"^texts: expected None where samples are given"):
        look(samples=["a"])


@pytest.mark.parametrize("limit", [64, 16])
def test_positions_are_compared_by_sample(limit: int) -> None:
    student = tiny_model("GPT2", hidden_size=24, vocabulary=280, n_positions=limit)
    long, short = {"text": " ".join(TEXTS)}, {"text": "Explicit."}
    report = of_pair([long, short, short], student=student, tokens_per_step=32)
    found = finding(report, "student positions", "warning").found
    assert found.startswith(f"{limit}, but 1 of 3 samples have more tokens, up to ")
    assert report.costs, "what is measured is cut"


def test_templates_matter_for_chats_alone() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    tokenizers = {"student_tokenizer": tokenizer(280, template=strict), "teacher_tokenizer": tokenizer(300)}
    text = KINDS["text"][0]
    chat = {"messages": [{"role": "user", "content": TEXTS[1]}, {"role": "assistant", "content": TEXTS[2]}]}
    assert not of_pair([text], **tokenizers).of_severity("warning")
    missing = of_pair([chat], **tokenizers)
    assert finding(missing, "chat templates", "warning")
    assert not missing.passed
    both = tokenizers | {"teacher_tokenizer": TEACHER}
    assert not of_pair([chat], **both).of_severity("warning")
    report = of_pair([chat, {"messages": [{"role": "system", "content": "Be brief."}, ASKED, ANSWERED]}], **both)
    assert "no place for a system message" in finding(report, "student chat template", "warning").found
    assert "1 of 2 cannot be used (refused by the chat template)" in finding(report, "samples", "warning").found


def test_the_loss_is_costed_by_scored_tokens() -> None:
    """Of two files with the same tokens, the one of which less is scored has the smaller tiles."""
    rows = [{"prompt": TEXTS[0], "response": TEXTS[1]}]
    pair = {"teacher": trained_teacher(), "spec": DSKDSpec(aligner="span"), "tokens_per_step": 5000}
    few, all_of_it = of_pair(rows, **pair), of_pair([{"text": TEXTS[0] + TEXTS[1]}], **pair)
    found = [
        next(cost.bytes for cost in report.costs if cost.component == "loss")
        - next(cost.bytes for cost in report.costs if cost.component == "teacher forward")
        for report in (few, all_of_it)
    ]
    assert 0.4 < found[0] / found[1] < 0.7
