"""Student and loss as one module; and what Accelerate's helper refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import Accelerator
from torch.utils import _pytree as pytree
from transformers import TrainingArguments

from dskd_components import ConfigurationError, InputError, scored_tokens
from dskd_components.integrations.accelerate import micro_batches
from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import tiny_pair

if TYPE_CHECKING:
    from pathlib import Path


def test_its_forward_is_a_run_of_the_loss() -> None:
    pair = tiny_pair()
    batch = pair.collate(pair.samples[:3])
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    found = model(batch, num_items_in_batch=50)
    expected = pair.loss_fn.run(pair.student, pair.teacher, batch, num_items_in_batch=50)
    assert torch.equal(found.loss, expected.loss)


def test_the_teacher_is_no_part_of_it() -> None:
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher.train())
    assert not pair.teacher.training
    pair.teacher.train()
    model.train()
    assert model.training
    assert not pair.teacher.training
    assert model.teacher is pair.teacher
    assert {name.partition(".")[0] for name in model.state_dict()} == {"student", "loss_fn"}
    owned = {id(parameter) for group in model.param_groups(lr=1.0) for parameter in group["params"]}
    assert owned == {id(parameter) for parameter in (*pair.student.parameters(), *pair.loss_fn.parameters())}


def test_groups_have_their_rates_and_leave_out_what_is_frozen() -> None:
    pair = tiny_pair()
    frozen = next(pair.student.parameters()).requires_grad_(False)
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    student, *rest = model.param_groups(lr=1e-3, projector_lr=1e-2, weight_decay=0.1)
    assert all(parameter is not frozen for parameter in student["params"])
    assert [group["lr"] for group in (student, *rest)] == [1e-3, *[1e-2] * len(rest)]
    assert {group["weight_decay"] for group in (student, *rest)} == {0.1}
    assert model.param_groups(lr=1e-3)[1]["lr"] == 1e-3


def test_rates_are_named_as_they_are_called(tmp_path: Path) -> None:
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    for rates in ({"lr": -1.0}, {"lr": 1.0, "projector_lr": "1e-3"}, {"lr": 1.0, "weight_decay": -1.0}):
        *_, name = rates
        with pytest.raises(InputError, match=rf"^{name}: expected .*not negative"):
            model.param_groups(**rates)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=rf"^{name}: expected .*not negative"):
            DSKDLightningModule(pair.student, pair.teacher, pair.loss_fn, **rates)  # type: ignore[arg-type]
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(InputError, match=r"^projector_lr: expected .*not negative"):
        DSKDTrainer(pair.student, arguments, loss_fn=pair.loss_fn, teacher=pair.teacher, projector_lr=-1e-3)


def test_wrappers_find_the_loss_in_its_output() -> None:
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    out = model(pair.collate(pair.samples[:2]))
    leaves, structure = pytree.tree_flatten(out)
    assert [leaf for leaf in leaves if leaf.requires_grad] == [out.loss]
    again = pytree.tree_unflatten(leaves, structure)
    assert (again.loss, again.terms, again.counts, again.metrics) == (out.loss, out.terms, out.counts, out.metrics)


def test_parts_that_share_parameters_are_refused() -> None:
    pair = tiny_pair()
    pair.teacher.set_input_embeddings(pair.student.get_input_embeddings())
    with pytest.raises(InputError, match=r"share parameters \('transformer\.wte\.weight' among them\)"):
        StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    pair.student.get_input_embeddings().requires_grad_(False)
    StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)  # what is frozen changes nobody


def test_an_accelerator_that_divides_by_itself_is_refused() -> None:
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    with pytest.raises(ConfigurationError, match=r"gradient_accumulation_steps=4.*Leave it at 1"):
        next(micro_batches(Accelerator(gradient_accumulation_steps=4), model, [pair.collate(pair.samples[:1])]))


def test_a_window_may_be_an_iterator_or_one_batch() -> None:
    """An iterator was used up by the count, and nothing was trained; of one batch the names of its columns came."""
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    window = [pair.collate(pair.samples[start : start + 2]) for start in (0, 2)]
    expected = list(micro_batches(Accelerator(), model, window))
    assert [batch for batch, _ in expected] == window
    assert {int(count) for _, count in expected} == {int(scored_tokens(window))}
    for given, batches in ((iter(window), window), ((batch for batch in window), window), (window[0], window[:1])):
        found = list(micro_batches(Accelerator(), model, given))
        assert [batch for batch, _ in found] == batches
        assert {int(count) for _, count in found} == {int(scored_tokens(batches))}


@pytest.mark.parametrize(("field", "named"), [("cp_size", "context"), ("sp_size", "sequence")])
def test_rows_that_accelerate_cuts_are_refused(field: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    accelerator = Accelerator()
    sizes = SimpleNamespace(**({"cp_size": 1, "sp_size": 1} | {field: 2}))
    monkeypatch.setattr(Accelerator, "parallelism_config", sizes)  # it would want as many processes
    with pytest.raises(ConfigurationError, match=rf"{named} parallelism \({field}=2\).*joined_rows"):
        next(micro_batches(accelerator, model, [pair.collate(pair.samples[:1])]))
