"""An aligner of a plugin that reads texts is used wherever the built-in ones are, by its name and by theirs alike."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import (
    Aligner,
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
    MultiTeacherCollator,
    PluginError,
    align_text,
    get_aligner,
)
from dskd_components.aligners import CrossModelAttention, align_texts
from dskd_components.testing import laws, strategies
from dskd_components.tokenization import UnalignedReason, tokenize_with_spans
from examples.offline.tokenizers import LOADERS
from examples.tiny import Pair, tiny_pair
from tests.helpers import texts
from tests.helpers.collating import byte_level, metaspace
from tests.helpers.fake_distributions import FakeDistribution
from tests.helpers.faulty_text_aligners import TEXT_ALIGNER_FAULTS
from tests.helpers.registered import names
from tests.helpers.whole_words import WholeWords

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = "tests.helpers.whole_words"
READING = [aligner for name in names("aligner") if (aligner := get_aligner(name)).makes_groups]
SIDES = (("gpt2", "llama2"), ("claude", "bert"), ("t5", "neox"))


@pytest.fixture
def _installed(install: Callable[..., None]) -> None:
    """The distribution of `WholeWords`, beside the others."""
    install(FakeDistribution("whole-words", "", value=MODULE))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair(spec=DSKDSpec(aligner="span"))


def words_of(groups: torch.Tensor, ids: torch.Tensor, tokenizer: Any) -> list[str]:
    """What the tokens of each group spell."""
    numbers = dict.fromkeys(groups[groups >= 0].tolist())
    return [tokenizer.decode(ids[groups == number]).strip() for number in numbers]


@pytest.mark.usefixtures("_installed")
def test_it_is_used_by_name_from_the_spec_to_the_gradient(pair: Pair) -> None:
    sides = pair.student_tokenizer, pair.teacher_tokenizer
    spec = DSKDSpec.model_validate_json(DSKDSpec(aligner="whole_words").model_dump_json())
    assert spec.aligner == WholeWords()
    loss_fn = DSKDLoss.from_models(spec, pair.student, pair.teacher, *sides)
    batch = loss_fn.collator(*sides)(pair.samples[:2])
    ours = words_of(batch["student_groups"][0], batch["student_input_ids"][0], sides[0])
    theirs = words_of(batch["teacher_groups"][0], batch["teacher_input_ids"][0], sides[1])
    assert ours == theirs
    sample = pair.samples[0]
    assert ours[:-1] == (sample["prompt"] + sample["response"]).split()[: len(ours) - 1]
    out = loss_fn.run(pair.student, pair.teacher, batch)
    out.loss.backward()
    assert out.metrics["student_coverage"] > 0.9
    named = DualTokenizerCollator(*sides, aligner="whole_words")(pair.samples[:2])
    assert all(torch.equal(named[column], batch[column]) for column in batch)
    rows = [DualTokenizerPreprocessor(*sides, aligner="whole_words")(each) for each in pair.samples[:2]]
    again = loss_fn.collator(*sides)(rows)
    assert all(torch.equal(again[column], batch[column]) for column in batch)
    several = MultiTeacherCollator(sides[0], {"large": sides[1]}, aligners={"large": "whole_words"})(pair.samples[:2])
    assert torch.equal(several["student_groups_large"], batch["student_groups"])
    assert torch.equal(several["large_groups_method"], batch["groups_method"])


@pytest.mark.usefixtures("_installed")
def test_it_is_drawn_shown_and_looked_at_before_training(pair: Pair) -> None:
    sides = pair.student_tokenizer, pair.teacher_tokenizer
    drawn = align_text(*sides, "the assert statement", "whole_words", add_special_tokens=True)
    assert drawn.method == "whole_words"
    assert len(drawn.groups) == 3 + min(drawn.student.bos_count, drawn.teacher.bos_count)
    assert (
        drawn.to_text() == align_text(*sides, "the assert statement", WholeWords(), add_special_tokens=True).to_text()
    )
    view = DualTokenizerCollator(*sides, aligner="whole_words").show({"text": "the assert statement"})
    assert "aligned by 'whole_words'" in str(view)
    report = DSKDLoss.preflight(
        pair.student, pair.teacher, *sides, spec=DSKDSpec(aligner="whole_words"), tokens_per_step=None
    )
    shown = {each.component: each for each in report.findings}
    assert {f"alignment {name}" for name in ("exact_match", "min_edit", "span", "whole_words")} <= shown.keys()
    assert "100.0%" in shown["alignment whole_words"].found


@pytest.mark.usefixtures("_installed")
def test_a_batch_of_other_options_is_refused_by_name(pair: Pair) -> None:
    sides = pair.student_tokenizer, pair.teacher_tokenizer
    spec = DSKDSpec(aligner={"name": "whole_words", "separator": "\n"})
    loss_fn = DSKDLoss.from_models(spec, pair.student, pair.teacher, *sides)
    made = DualTokenizerCollator(*sides, aligner="whole_words")(pair.samples[:2])
    with pytest.raises(
        InputError,
        match=r"collated for 'whole_words', but the loss has the aligner 'whole_words', "
        r"which needs groups of \"whole_words\(separator='\\\\n'\)\"",
    ):
        loss_fn.run(pair.student, pair.teacher, made)
    rows = [DualTokenizerPreprocessor(*sides, aligner=WholeWords(separator="\n"))(pair.samples[0])]
    with pytest.raises(InputError, match=r"aligned by an aligner that is not known here .*'whole_words'"):
        DualTokenizerCollator(*sides, aligner="whole_words")(rows)
    assert "student_groups" in loss_fn.collator(*sides)(rows)


# ---- the groups of real tokenizers


LAWS = [
    laws.aligner.groups_of_tokens_are_in_order,
    laws.aligner.texts_know_nothing_of_one_another,
    laws.aligner.texts_are_not_changed,
]


@pytest.mark.parametrize("sides", SIDES, ids="-".join)
@pytest.mark.parametrize("aligner", [*READING, WholeWords()], ids=lambda aligner: aligner.name)
def test_laws_hold_for_real_tokenizers_on_tricky_texts(aligner: Aligner, sides: tuple[str, str]) -> None:
    pairs = strategies.pairs_of(*(LOADERS[side]() for side in sides), [*texts.TRICKY.values(), texts.PROSE])
    for law in LAWS:
        law(aligner, pairs)
    if aligner.follows_text:
        laws.aligner.groups_stand_for_the_same_text(aligner, pairs)
    if aligner.covers_text:
        laws.aligner.every_token_has_a_group(aligner, pairs)
    for side in sides:
        laws.aligner.one_tokenization_belongs_to_itself(
            aligner, strategies.pairs_of(LOADERS[side](), LOADERS[side](), texts.TRICKY.values())
        )


@pytest.mark.parametrize("aligner", [*READING, WholeWords()], ids=lambda aligner: aligner.name)
@pytest.mark.parametrize("sides", [("llama2", "bert"), ("bert", "gpt2")], ids="-".join)
def test_tokens_of_templates_pair_by_role_whatever_the_aligner_does(sides: tuple[str, str], aligner: Aligner) -> None:
    tokenizers = [LOADERS[side]() for side in sides]
    chosen = [texts.PROSE, "", texts.TRICKY["mixed_all"]]
    bare, whole = (align_texts(*tokenizers, chosen, aligner, add_special_tokens=special) for special in (False, True))
    for without, found in zip(bare, whole, strict=True):
        before = found.student.bos_count, found.teacher.bos_count
        roles = min(before) + min(found.student.eos_count, found.teacher.eos_count)
        own = [
            tuple((start + shift, stop + shift) for (start, stop), shift in zip(group, before, strict=True))
            for group in without.groups
        ]
        assert found.groups[min(before) : len(found.groups) - roles + min(before)] == own
        assert len(found.groups) == len(own) + roles


def test_samples_in_tokens_are_paired_token_by_token() -> None:
    collate = DualTokenizerCollator(byte_level(), byte_level(), aligner=WholeWords())
    ids = byte_level()("the statement is new")["input_ids"]
    batch = collate([{"input_ids": ids}])
    groups = batch["student_groups"][0]
    assert torch.equal(groups, batch["teacher_groups"][0])
    paired = int((groups >= 0).sum())
    assert paired >= len(ids) - 1 > 1
    assert sorted(groups[groups >= 0].tolist()) == list(range(paired))


def test_a_word_that_is_scored_in_part_is_left_out() -> None:
    """So is every token of a template: what a group stands for is what the model is asked for."""
    collate = DualTokenizerCollator(byte_level(), metaspace(), aligner=WholeWords())
    batch = collate([{"prompt": "the xyz", "response": "zyx is new"}])
    for side, tokenizer in (("student", byte_level()), ("teacher", metaspace())):
        groups, labels = batch[f"{side}_groups"][0], batch[f"{side}_labels"][0]
        spelled = tokenizer.decode(batch[f"{side}_input_ids"][0][groups >= 0])
        assert "z" not in spelled
        assert "is new" in spelled
        for number in set(groups.tolist()) - {-1}:
            assert len(set((labels[groups == number] != -100).tolist())) == 1


# ---- what is no alignment


NOT_IN_ORDER = [each.faulty for each in TEXT_ALIGNER_FAULTS if each.law == "groups_of_tokens_are_in_order"]


@pytest.mark.parametrize("faulty", NOT_IN_ORDER, ids=lambda faulty: faulty.name)
def test_what_are_no_groups_is_refused_by_name(faulty: Aligner) -> None:
    text = "the new statement is the value"
    with pytest.raises(PluginError, match=rf"'{faulty.name}' .*faulty_text_aligners.*groups_of_text.*expected .*new"):
        align_text(byte_level(), metaspace(), text, faulty)
    with pytest.raises(PluginError, match=rf"'{faulty.name}'"):
        DualTokenizerCollator(byte_level(), metaspace(), aligner=faulty)([{"text": text}, {"text": "is"}])


class Failing(WholeWords):
    def groups_of_text(self, student: Any, teacher: Any) -> Any:
        raise KeyError("no such word")


def test_one_that_fails_is_named_with_what_it_raised() -> None:
    with pytest.raises(
        PluginError, match=r"'whole_words' .*Failing.*on the text 'the new'.*KeyError: 'no such word'"
    ) as it:
        align_text(byte_level(), metaspace(), "the new", Failing())
    assert isinstance(it.value.__cause__, KeyError)


def test_reasons_say_what_is_so() -> None:
    class Longer(WholeWords):
        """Leaves out one word that both sides cut alike."""

        def groups_of_text(self, student: Any, teacher: Any) -> Any:
            return super().groups_of_text(student, teacher)[1:]

    found = align_text(byte_level(), byte_level(), "new is new", Longer())
    assert found.unaligned_student == [(n, UnalignedReason.LEFT_OUT) for n in range(found.groups[0][0][0])] != []
    warped = align_text(LOADERS["gpt2"](), LOADERS["bert"](), texts.PROSE, "min_edit")
    reasons = {str(reason) for _, reason in (*warped.unaligned_student, *warped.unaligned_teacher)}
    assert reasons == {"belongs to several tokens, of which single ones alone count"}
    pooled = align_text(LOADERS["gpt2"](), LOADERS["bert"](), texts.PROSE, get_aligner("min_edit", many_to_one="pool"))
    assert pooled.unaligned_student == pooled.unaligned_teacher == []


@pytest.mark.parametrize("aligner", [CrossModelAttention(), "cma", "identity", 3, None])
def test_who_reads_no_texts_aligns_none(aligner: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected an aligner that makes groups.*exact_match, min_edit, span"):
        align_text(byte_level(), metaspace(), "the", aligner)


def test_the_text_itself_is_the_same_without_its_template() -> None:
    tokenizer = LOADERS["bert"]()
    bare = tokenize_with_spans(tokenizer, "hello there")
    found = tokenize_with_spans(tokenizer, "hello there", add_special_tokens=True).without_template()
    assert (found.tokens, found.spans, found.text) == (bare.tokens, bare.spans, bare.text)
    assert bare.without_template() is bare
    assert found.space_marker == "##"
    assert pickle.loads(pickle.dumps(WholeWords())) == WholeWords()


def test_pairs_of_methods_differ_where_their_groups_do() -> None:
    """No two of the aligners that are installed are recorded alike."""
    from dskd_components.components.text_methods import method_number

    numbers = [method_number(aligner) for aligner in (*READING, WholeWords(), WholeWords(separator="\n"), None)]
    assert all(one != other for one, other in itertools.combinations(numbers, 2))
    assert all(0 < number < 2**63 for number in numbers)
