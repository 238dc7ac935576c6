"""`StudentWithProjectors`: student and loss as one module, for wrappers that take one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dskd_components.errors import InputError, what_came
from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.loss.multi_teacher import MultiTeacherLoss
from dskd_components.loss.parameter_groups import require_rate
from dskd_components.models.in_place_of_model import require_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from dskd_components.loss.output import DSKDOutput


class _Shared:
    """Holds a model so that it is neither a submodule of the holder nor copied with it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class StudentWithProjectors(nn.Module):
    """The student and the loss with its projectors as one module, whose forward is a step of distillation.

    DDP, FSDP2, DeepSpeed, Accelerate and Lightning wrap one module and reduce the gradients of what is inside. The
    teacher is held, but is no part of this module: it is neither moved, nor sharded, nor saved with it. A deep copy, as
    `torch.optim.swa_utils.AveragedModel` makes one, has the same teacher.

    Args:
        student: the student. ``.student`` is that very model: ``.student.save_pretrained(folder)`` exports it clean.
        loss_fn: the loss.
        teacher: the teacher, or a `TeacherStore` of it. It is put into evaluation mode; put it on the student's device
            yourself.

    Raises:
        InputError: an argument is of the wrong kind, or teacher and student share parameters that are trained.

    Examples:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from dskd_components import DSKDLoss, DSKDSpec
        >>> from dskd_components.integrations.student_with_projectors import StudentWithProjectors
        >>> config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
        >>> student, teacher = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
        >>> model = StudentWithProjectors(student, DSKDLoss.from_models(DSKDSpec(), student, teacher), teacher)
        >>> ids = torch.randint(20, (2, 5))
        >>> model({"input_ids": ids, "labels": ids}).loss.backward()
        >>> any("teacher" in name for name in model.state_dict())
        False
    """

    def __init__(self, student: nn.Module, loss_fn: DSKDLoss, teacher: nn.Module) -> None:
        super().__init__()
        require_parts(student, loss_fn, teacher)
        self.student = student
        self.loss_fn = loss_fn
        self._teacher = _Shared(teacher.eval())

    @property
    def teacher(self) -> Any:
        """The teacher."""
        return self._teacher.model

    def forward(
        self,
        batch: Mapping[str, Tensor],
        *,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
    ) -> DSKDOutput:
        """Compute the loss of one batch.

        Args:
            batch: as in `DSKDLoss.run`.
            num_items_in_batch: as in `DSKDLoss.forward`.
            step: how many optimizer steps have been taken; see `DSKDLoss.forward`.

        Raises:
            InputError: as in `DSKDLoss.run`.
        """
        return self.loss_fn.run(
            self.student,  # type: ignore[arg-type]
            self.teacher,
            batch,
            num_items_in_batch=num_items_in_batch,
            step=step,
        )

    def train(self, mode: bool = True) -> Self:
        """Set student and loss to training mode; the teacher stays in evaluation mode."""
        self.teacher.eval()
        return super().train(mode)

    def param_groups(
        self, *, lr: float, projector_lr: float | None = None, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return optimizer parameter groups: the student's, then those of the loss.

        Args:
            lr: the student's learning rate.
            projector_lr: that of projectors and aligner; None: as the student's.
            weight_decay: of all.

        Raises:
            InputError: a rate is no number, or negative.
        """
        require_rates(lr=lr, projector_lr=projector_lr, weight_decay=weight_decay)
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        return [
            {"params": trained, "lr": lr, "weight_decay": weight_decay},
            *self.loss_fn.param_groups(lr=lr if projector_lr is None else projector_lr, weight_decay=weight_decay),
        ]


def require_loss(loss_fn: object) -> DSKDLoss:
    """Return what is given as the loss, once it is known to be one of one teacher.

    Args:
        loss_fn: must be a `DSKDLoss`.

    Raises:
        InputError: it is not.
    """
    if isinstance(loss_fn, MultiTeacherLoss):
        raise InputError(
            "loss_fn: expected a DSKDLoss, of one teacher, got MultiTeacherLoss. One of several teachers is run in a "
            "loop of your own: loss_fn.run(student, teachers, batch), see docs/how-to/teachers.md."
        )
    if not isinstance(loss_fn, DSKDLoss):
        raise InputError(
            f"loss_fn: expected a DSKDLoss, got {what_came(loss_fn)}. Build one by DSKDLoss.from_models; a trainer "
            "also takes a function that does for a student."
        )
    return loss_fn


def require_rates(*, projector_lr: object, **rates: object) -> None:
    """Refuse rates of optimizer groups that are none.

    Args:
        projector_lr: that of projectors and aligner; None: there is no other than the student's.
        **rates: by what they are called.

    Raises:
        InputError: one of them is no number, or negative.
    """
    own = {} if projector_lr is None else {"projector_lr": projector_lr}
    for name, rate in (rates | own).items():
        require_rate(name, rate)


def require_parts(student: object, loss_fn: object, teacher: object) -> None:
    """Refuse parts that cannot be trained together.

    Args:
        student: must be a module.
        loss_fn: must be a `DSKDLoss`.
        teacher: must be a module that has no trainable parameter of the student.

    Raises:
        InputError: one of them is not; the message names it.
    """
    require_loss(loss_fn)
    for side, model in (("student", student), ("teacher", teacher)):
        require_model(model, side, module=True)
    assert isinstance(student, nn.Module)
    assert isinstance(teacher, nn.Module)
    name = next(iter(shared_parameters(student, teacher)), None)
    if name is not None:
        raise InputError(
            f"teacher and student share parameters ({name!r} among them), so training the student would change the "
            "teacher. Load the teacher on its own, or copy it: copy.deepcopy(teacher)."
        )


def shared_parameters(module: nn.Module, other: nn.Module) -> list[str]:
    """Return the names in `module` of the trainable parameters that `other` has too."""
    theirs = {id(parameter) for parameter in other.parameters()}
    return [
        name for name, parameter in module.named_parameters() if parameter.requires_grad and id(parameter) in theirs
    ]
