"""Complaints about what nobody told before the training was paid for."""

from __future__ import annotations

import pytest

from dskd_components import ConfigurationError, DSKDSpec
from tests.helpers.pairs import CHATML, OTHER, finding, look, sound_pair, tokenizer


def test_complaint_09_padding_rows_of_the_head_are_reported() -> None:
    found = finding(look(teacher_tokenizer=tokenizer(290)), "teacher vocabulary", "ok").found
    assert found == "300 rows for 290 tokens: the 10 padding rows never take part"


def test_complaint_10_a_one_sided_bos_is_found() -> None:
    found = finding(look(student_tokenizer=tokenizer(280, bos=True)), "BOS", "ok")
    assert "one-sided: the student's tokenizer puts <s> before a text" in found.found
    assert "DualTokenizerCollator aligns by text" in found.found


def test_complaint_12_chat_templates_that_differ_are_reported() -> None:
    chat = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "the statement"}]
    chats = {"texts": None, "samples": [{"messages": chat}]}
    report = look(
        student_tokenizer=tokenizer(280, template=CHATML), teacher_tokenizer=tokenizer(300, template=OTHER), **chats
    )
    assert "they differ" in finding(report, "chat templates", "ok").found
    report = look(student_tokenizer=tokenizer(280, template=CHATML), **chats)
    assert "chats cannot be rendered for both" in finding(report, "chat templates", "warning").found


def test_complaint_15_a_pair_that_does_not_fit_is_refused_before_training() -> None:
    look(spec=DSKDSpec.preset("dskd-cma")).raise_if_failed()
    report = look(spec=DSKDSpec.preset("dskd"))
    with pytest.raises(ConfigurationError, match="tokenizer"):
        report.raise_if_failed()
    report = look(student=sound_pair()["teacher"], student_tokenizer=tokenizer(300), teacher_tokenizer=tokenizer(310))
    with pytest.raises(ConfigurationError, match="teacher vocabulary: the tokenizer has ids up to 309"):
        report.raise_if_failed()
