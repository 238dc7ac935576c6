"""A batch says how it was aligned, and a loss with another aligner refuses it; a collator of the loss's own fits."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch
from accelerate.utils.operations import concatenate, send_to_device, slice_tensors
from datasets import Dataset, load_from_disk
from lightning.pytorch.utilities import move_data_to_device
from torch.overrides import TorchFunctionMode

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
    MultiTeacherCollator,
    MultiTeacherLoss,
    MultiTeacherSpec,
    get_aligner,
)
from dskd_components.collation.collator import CollatorKeywords
from dskd_components.collation.multi_teacher import MultiTeacherKeywords
from dskd_components.collation.preprocessor import PreprocessorKeywords
from dskd_components.components.aligner import Aligner
from dskd_components.components.text_methods import ALIGNMENT_RULES, DIGEST_BITS, method_number
from dskd_components.spec.presets import PRESETS
from examples.tiny import Pair, tiny_pair
from tests.helpers.registered import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

Batch = dict[str, "Tensor"]
TOLD = [name for name in names("aligner") if get_aligner(name).text_method is not None]
COLLATED = [*names("aligner"), None]


class Renamed(Aligner):
    """An aligner of somebody else's that reads the groups of spans."""

    text_method: ClassVar[str | None] = "span"
    name: Literal["renamed"] = "renamed"

    def build(self, **options: Any) -> Any:
        return get_aligner("span").build(**options)


@cache
def pair() -> Pair:
    return tiny_pair(spec=DSKDSpec(aligner="span"))


@cache
def loss_of(aligner: str) -> DSKDLoss:
    """With one tokenizer, so that every aligner can be built."""
    made = pair()
    tokenizer = made.student_tokenizer
    return DSKDLoss.from_models(DSKDSpec(aligner=aligner), made.student, made.student, tokenizer, tokenizer)


@cache
def batch_for(aligner: str | None) -> Batch:
    tokenizer = pair().student_tokenizer
    return DualTokenizerCollator(tokenizer, tokenizer, aligner=aligner)(pair().samples[:3])


def method_of(aligner: str | None) -> str | None:
    return None if aligner is None else get_aligner(aligner).text_method


@pytest.mark.parametrize("aligner", names("aligner"))
@pytest.mark.parametrize("collated", COLLATED, ids=str)
def test_every_pair_of_collator_and_loss_fits_or_is_refused(collated: str | None, aligner: str) -> None:
    student, batch, loss_fn = pair().student.eval(), batch_for(collated), loss_of(aligner)
    needed, made = method_of(aligner), method_of(collated)
    with torch.no_grad():
        if needed in (None, made):
            assert loss_fn.run(student, student, batch).loss.isfinite()
            return
        with pytest.raises(InputError) as error:
            loss_fn.run(student, student, batch)
    message = str(error.value)
    assert ("no groups" if made is None else repr(made)) in message
    assert f"the loss has the aligner {aligner!r}" in message
    assert "loss_fn.collator(...)" in message
    assert f'aligner="{aligner}"' in message
    assert ("without aligner=" in message) == (collated == "exact_match")


@pytest.mark.parametrize("aligner", names("aligner"))
@pytest.mark.parametrize("collated", COLLATED, ids=str)
def test_every_pair_for_one_of_several_teachers(collated: str | None, aligner: str) -> None:
    student, tokenizer = pair().student.eval(), pair().student_tokenizer
    teachers, tokenizers = {"good": student, "odd": student}, {"good": tokenizer, "odd": tokenizer}
    spec = MultiTeacherSpec(teachers={"good": {"aligner": "exact_match"}, "odd": {"aligner": aligner}})
    loss_fn = MultiTeacherLoss(spec, {"good": loss_of_pair(spec, "good"), "odd": loss_of_pair(spec, "odd")})
    batch = MultiTeacherCollator(tokenizer, tokenizers, aligners={"odd": collated})(pair().samples[:3])
    with torch.no_grad():
        if method_of(aligner) in (None, method_of(collated)):
            assert loss_fn.run(student, teachers, batch).loss.isfinite()
            return
        with pytest.raises(InputError, match=rf"^Teacher 'odd': .*'{aligner}'.*aligners=\{{\"odd\": \"{aligner}\"\}}"):
            loss_fn.run(student, teachers, batch)


def loss_of_pair(spec: MultiTeacherSpec, name: str) -> DSKDLoss:
    made = pair()
    tokenizer = made.student_tokenizer
    return DSKDLoss.from_models(spec.pair(name), made.student, made.student, tokenizer, tokenizer)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_collator_of_the_loss_fits_each_preset(preset: str) -> None:
    """And a collator that is told nothing fits those presets alone that read exact matches or nothing."""
    made, spec = pair(), DSKDSpec.preset(preset)
    made.student.eval()
    # Both of one tokenizer, as some presets presume.
    sides = (made.student_tokenizer, made.student_tokenizer)
    loss_fn = DSKDLoss.from_models(spec, made.student, made.student, *sides)
    collate, preprocess = loss_fn.collator(*sides, padding_side="left"), loss_fn.preprocessor(*sides)
    with torch.no_grad():
        for batch in (collate(made.samples[:2]), collate([preprocess(sample) for sample in made.samples[:2]])):
            assert loss_fn.run(made.student, made.student, batch).loss.isfinite()
        fits = spec.aligner.text_method in (None, "exact_match")
        with torch.no_grad() if fits else pytest.raises(InputError, match="without aligner"):
            loss_fn.run(made.student, made.student, DualTokenizerCollator(*sides)(made.samples[:2]))


def test_an_aligner_of_another_name_is_told_by_what_it_reads() -> None:
    made = pair()
    loss_fn = DSKDLoss(DSKDSpec(aligner="span"), student_hidden_size=32, teacher_hidden_size=64)
    object.__setattr__(loss_fn.spec, "aligner", Renamed())
    batch = DualTokenizerCollator(made.student_tokenizer, made.teacher_tokenizer, aligner="span")(made.samples[:2])
    with torch.no_grad():
        loss_fn.run(made.student, made.teacher, batch)
        with pytest.raises(InputError, match=r"'exact_match'.*the aligner 'renamed', which needs groups of 'span'"):
            loss_fn.run(
                made.student, made.teacher, batch | {"groups_method": method_number(get_aligner("exact_match"))}
            )


# ---- the way of a batch


def wrong() -> DualTokenizerCollator:
    return DualTokenizerCollator(pair().student_tokenizer, pair().teacher_tokenizer, pad_to_multiple_of=64)


def packed(samples: Any) -> Batch:
    return DualTokenizerCollator(pair().student_tokenizer, pair().teacher_tokenizer, packing=True)(samples)


def preprocessed(samples: Any, **options: Any) -> list[dict[str, Any]]:
    preprocess = DualTokenizerPreprocessor(pair().student_tokenizer, pair().teacher_tokenizer, **options)
    return [preprocess(sample) for sample in samples]


def by_hand(samples: Any) -> Batch:
    """Columns of the preprocessor, padded by a loop of one's own."""
    rows = preprocessed(samples)
    filling = {"input_ids": 0, "labels": -100, "groups": -1}
    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0] if isinstance(rows[0][name], int)}
    for name in rows[0]:
        if name not in batch:
            columns = [torch.tensor(row[name]) for row in rows]
            value = filling[name.partition("_")[2]]
            batch[name] = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=value)
    return batch


def reversed_rows(batch: Mapping[str, Tensor]) -> Batch:
    return {name: column.flip(0) for name, column in batch.items()}


WAYS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda samples: wrong()(samples),
    "packed": packed,
    "cut by rows": lambda samples: slice_tensors(wrong()(samples), slice(1, 2)),
    "chunked": lambda samples: {name: column.chunk(2)[1] for name, column in wrong()(samples).items()},
    "joined": lambda samples: concatenate([wrong()(samples[:2]), wrong()(samples[2:])]),
    "joined with one that fits": lambda samples: concatenate(
        [wrong()(samples[:2]), pair().loss_fn.collator(*sides(), pad_to_multiple_of=64)(samples[2:])]
    ),
    "sent by accelerate": lambda samples: send_to_device(wrong()(samples), "cpu"),
    "sent by lightning": lambda samples: move_data_to_device(wrong()(samples), torch.device("cpu")),
    "reordered": lambda samples: reversed_rows(wrong()(samples)),
    "copied": lambda samples: copy.deepcopy(wrong()(samples)),
    "preprocessed, batched by hand": by_hand,
    "one number for all": lambda samples: (
        wrong()(samples) | {"groups_method": method_number(get_aligner("exact_match"))}
    ),
}


def sides() -> tuple[Any, Any]:
    return pair().student_tokenizer, pair().teacher_tokenizer


@pytest.mark.parametrize("way", WAYS)
def test_it_is_seen_wherever_a_batch_has_been(way: str) -> None:
    made = pair()
    batch = WAYS[way](made.samples[:4])
    with pytest.raises(InputError, match=r"collated for 'exact_match'.*the loss has the aligner 'span'"):
        made.loss_fn.run(made.student, made.teacher, batch)


def test_samples_on_disk_keep_it(tmp_path: Path) -> None:
    made = pair()
    raw = Dataset.from_list(made.samples[:4])
    preprocess = made.loss_fn.preprocessor(*sides(), student_max_length=64)
    raw.map(preprocess, batched=True, remove_columns=raw.column_names).save_to_disk(tmp_path)
    rows = list(load_from_disk(tmp_path))
    assert made.loss_fn.run(made.student, made.teacher, made.loss_fn.collator(*sides())(rows)).loss.isfinite()
    with pytest.raises(InputError, match=r"aligned by 'span', but this collator is for 'exact_match'.*loss_fn\."):
        wrong()(rows)


def test_other_rules_are_refused_in_data_sets_and_batches() -> None:
    made = pair()
    newer = method_number(get_aligner("span")) + (1 << DIGEST_BITS)
    rows = [row | {"groups_method": newer} for row in preprocessed(made.samples[:2], aligner="span")]
    collate = made.loss_fn.collator(*sides())
    with pytest.raises(InputError, match=rf"version {ALIGNMENT_RULES + 1} of the rules.*Preprocess them again"):
        collate(rows)
    with pytest.raises(InputError, match=rf"version {ALIGNMENT_RULES + 1} of the rules.*version {ALIGNMENT_RULES}\."):
        made.loss_fn.run(made.student, made.teacher, collate(made.samples[:2]) | {"groups_method": newer})


@pytest.mark.parametrize("number", [7, -1, 102])
def test_a_number_of_no_alignment_is_refused_by_name(number: int) -> None:
    made = pair()
    batch = made.loss_fn.collator(*sides())(made.samples[:2]) | {"groups_method": torch.tensor([number, number])}
    with pytest.raises(InputError, match=rf"'groups_method'.*{number}, which stands for no alignment"):
        made.loss_fn.run(made.student, made.teacher, batch)


def test_batches_of_ones_own_need_not_say_it() -> None:
    made = pair()
    batch = wrong()(made.samples[:2])
    del batch["groups_method"]
    assert made.loss_fn.run(made.student, made.teacher, batch).loss.isfinite()


class Transfers(TorchFunctionMode):
    """Counts what brings values of a tensor to the host, which on an accelerator waits for all that it has to do."""

    def __init__(self) -> None:
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        readers = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "nonzero", "unique")
        self.count += getattr(func, "__name__", "") in readers
        return func(*args, **(kwargs or {}))


def transfers(loss_fn: DSKDLoss, batch: Mapping[str, Tensor]) -> int:
    with Transfers() as mode, torch.no_grad():
        loss_fn.run(pair().student, pair().teacher, batch)
    return mode.count


@pytest.mark.parametrize("aligner", TOLD)
def test_reading_it_takes_no_transfer_of_its_own(aligner: str) -> None:
    made, spec = pair(), DSKDSpec(aligner=aligner)
    loss_fn = DSKDLoss.from_models(spec, made.student, made.teacher, *sides())
    batch = loss_fn.collator(*sides())(made.samples[:2])
    without = {name: column for name, column in batch.items() if name != "groups_method"}
    assert transfers(loss_fn, batch) == transfers(loss_fn, without)
    assert transfers(loss_fn, batch) > 0


def test_preflight_sees_it_before_training() -> None:
    made = pair()
    report = DSKDLoss.preflight(
        made.student,
        made.teacher,
        *sides(),
        spec=DSKDSpec(aligner="span"),
        batch=wrong()(made.samples[:2]),
        tokens_per_step=None,
    )
    (found,) = [each for each in report.findings if each.component == "batch" and each.severity == "error"]
    assert "collated for 'exact_match'" in found.found


# ---- a collator of the loss's own


def several() -> tuple[MultiTeacherLoss, dict[str, Any]]:
    made = pair()
    spec = MultiTeacherSpec(teachers={"large": {"aligner": "span"}, "code": {"aligner": "min_edit"}})
    tokenizers = {"large": made.teacher_tokenizer, "code": made.student_tokenizer}
    teachers = {"large": made.teacher, "code": made.student}
    loss_fn = MultiTeacherLoss.from_models(spec, made.student, teachers, made.student_tokenizer, tokenizers)
    return loss_fn, tokenizers


def test_a_collator_of_the_loss_of_several_teachers_fits() -> None:
    made, (loss_fn, tokenizers) = pair(), several()
    batch = loss_fn.collator(made.student_tokenizer, tokenizers, packing=True)(made.samples[:3])
    assert loss_fn.run(made.student, {"large": made.teacher, "code": made.student}, batch).loss.isfinite()
    missing = {"large": made.teacher_tokenizer}
    with pytest.raises(InputError, match=r"teacher_tokenizers: expected a tokenizer for each.*'code'"):
        loss_fn.collator(made.student_tokenizer, missing)
    with pytest.raises(ConfigurationError, match=r"^aligners: .*'large': 'span'"):
        loss_fn.collator(made.student_tokenizer, tokenizers, aligners={})  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"^teacher_tokenizers\['code'\]: .*not the tokenizer"):
        loss_fn.collator(made.student_tokenizer, {**tokenizers, "code": made.teacher_tokenizer})


@pytest.mark.parametrize("make", [DSKDLoss.collator, DSKDLoss.preprocessor])
def test_what_would_disagree_is_refused_at_once(make: Callable[..., Any]) -> None:
    loss_fn = pair().loss_fn
    with pytest.raises(ConfigurationError, match=r"^aligner: .*'span'.*in the spec"):
        make(loss_fn, *sides(), aligner="exact_match")
    with pytest.raises(InputError, match=r"^teacher_tokenizer: this is not the tokenizer"):
        make(loss_fn, sides()[0], sides()[0])
    with pytest.raises(InputError, match=r"^student_tokenizer: this is not the tokenizer"):
        make(loss_fn, *sides()[::-1])
    with pytest.raises(TypeError, match="pading_side"):
        make(loss_fn, *sides(), pading_side="left")
    unbound = DSKDLoss(DSKDSpec(aligner="span"), student_hidden_size=2, teacher_hidden_size=3)
    make(unbound, sides()[0], sides()[0])


@pytest.mark.parametrize(
    ("keywords", "owner", "aligner"),
    [
        (CollatorKeywords, DualTokenizerCollator, "aligner"),
        (PreprocessorKeywords, DualTokenizerPreprocessor, "aligner"),
        (MultiTeacherKeywords, MultiTeacherCollator, "aligners"),
    ],
)
def test_options_are_those_of_what_is_made(keywords: Any, owner: Any, aligner: str) -> None:
    options = [name for name, one in inspect.signature(owner).parameters.items() if one.kind is one.KEYWORD_ONLY]
    assert sorted(keywords.__annotations__) == sorted(set(options) - {aligner})
