"""`DSKDSFTTrainer`: the loss in TRL's `SFTTrainer`."""

from __future__ import annotations

from typing import Any

from trl.trainer.sft_trainer import SFTTrainer

from dskd_components.errors import ConfigurationError
from dskd_components.integrations.trainer_checks import require_hooks
from dskd_components.integrations.transformers import DSKDTrainerMixin
from dskd_components.models.aux_loss import WEIGHTS
from dskd_components.models.wrappers import unwrapped

# Fields of SFTConfig that shape what the base class makes of the data, by what to use instead.
INSTEAD = {
    "packing": "DualTokenizerCollator(packing=True)",
    "padding_free": "DualTokenizerCollator(packing=True)",
    "assistant_only_loss": "samples with messages: DualTokenizerCollator scores the assistant's alone",
}


class DSKDSFTTrainer(DSKDTrainerMixin, SFTTrainer):  # type: ignore[misc]  # the base class types a flag as None
    """TRL's `SFTTrainer` with `DSKDLoss`: PEFT, model cards and the like are the base class's.

    Samples are not tokenized beforehand, as the base class would for its one model: `DualTokenizerCollator` makes
    batches of them for both.

    Args:
        model: the student.
        args: as in `trl.SFTTrainer`.
        data_collator: makes the columns that `DSKDLoss.run` reads.
        loss_fn: as in `DSKDTrainerMixin`.
        teacher: the teacher; it is put in evaluation mode and never trained or saved.
        projector_lr: learning rate of projectors and aligner; None: the student's.
        shard_teacher: as in `DSKDTrainerMixin`.
        accept: as in `DSKDTrainerMixin`.
        **kwargs: as in `trl.SFTTrainer`.

    Raises:
        ConfigurationError: an option would be ignored, or there is no collator; the message says what to use.
    """

    def __init__(self, model: Any, args: Any = None, data_collator: Any = None, **kwargs: Any) -> None:
        if data_collator is None:
            raise ConfigurationError(
                "data_collator: the base class would make columns for one model. Pass "
                "loss_fn.collator(student_tokenizer, teacher_tokenizer)."
            )
        for name, instead in INSTEAD.items():
            if getattr(args, name, False):
                raise ConfigurationError(f"SFTConfig.{name} would be ignored. Use {instead}.")
        super().__init__(model, args, data_collator, **kwargs)
        _weigh_router(self.model, getattr(args, "router_aux_loss_coef", None))

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def _weigh_router(model: Any, weight: float | None) -> None:
    """Give a student the weight of its router's loss that the base class has put into its configuration alone."""
    student: Any = unwrapped(model)
    for name in WEIGHTS:
        if weight is not None and hasattr(student, name):
            setattr(student, name, weight)


require_hooks(SFTTrainer, DSKDSFTTrainer)
