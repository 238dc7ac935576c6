"""`DSKDSFTTrainer`: the loss in TRL's `SFTTrainer`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from dskd_components.errors import ConfigurationError
from dskd_components.integrations.trainer_checks import require_hooks
from dskd_components.integrations.transformers import DSKDTrainerMixin
from dskd_components.models.aux_loss import WEIGHTS
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTEAD: Final[Mapping[str, str]] = {
    "packing": "Use DualTokenizerCollator(packing=True)",
    "eval_packing": "Use DualTokenizerCollator(packing=True)",
    "padding_free": "Use DualTokenizerCollator(packing=True)",
    "pad_to_multiple_of": "Use DualTokenizerCollator(pad_to_multiple_of={value})",
    "max_length": (
        "Use DualTokenizerCollator(student_max_length={value}, teacher_max_length=...), which cuts both sides at one "
        "place of the text, and max_length=None here"
    ),
    "truncation_mode": "DualTokenizerCollator(student_max_length=..., teacher_max_length=...) cuts texts at their ends",
    "dataset_text_field": "Use DualTokenizerCollator(columns=Columns(text={value!r}))",
    "completion_only_loss": (
        "DualTokenizerCollator scores responses alone, and all that both read with train_on_prompt=True"
    ),
    "assistant_only_loss": "Use samples with messages: DualTokenizerCollator scores the assistant's alone",
    "chat_template_path": (
        "The loss and its collator have the student's tokenizer already: set its chat_template, and add its tokens, "
        "before they are made"
    ),
    "loss_type": "The loss is loss_fn's: choose spaces, distance and weights of its spec",
}
"""Fields of `SFTConfig` that shape the base class's data, or its loss, by what to do."""

AS_IT_IS: Final[Mapping[str, tuple[object, ...]]] = {
    "max_length": (None,),
    "pad_to_multiple_of": (None,),
    "completion_only_loss": (True,),
    "loss_type": ("nll", "chunked_nll"),
}
"""Values besides the defaults that ask for nothing else than what is done."""


class DSKDSFTTrainer(DSKDTrainerMixin, SFTTrainer):  # type: ignore[misc]  # the base class types a flag as None
    """TRL's `SFTTrainer` with `DSKDLoss`: PEFT, model cards and the like are the base class's.

    Samples are not tokenized beforehand, as the base class would for its one model: `DualTokenizerCollator` makes
    batches of them for both. Of `SFTConfig` all counts that is not about data or the loss.

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
        if kwargs.get("formatting_func") is not None:
            raise ConfigurationError(
                "formatting_func would be ignored: samples reach the collator as they are. Use dataset.map(...), "
                "or the columns= of DualTokenizerCollator."
            )
        _require_nothing_ignored(args)
        super().__init__(model, args, data_collator, **kwargs)
        _weigh_router(self.model, getattr(args, "router_aux_loss_coef", None))

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,  # noqa: ARG002
        args: Any,
        *_: Any,
        **__: Any,
    ) -> Any:
        # Nothing is prepared; the base class shuffles here, too.
        return dataset.shuffle(seed=args.seed) if getattr(args, "shuffle_dataset", False) else dataset


def _require_nothing_ignored(args: Any) -> None:
    """Refuse options by which the base class would make other data, or another loss, than there will be."""
    defaults = {field.name: field.default for field in fields(SFTConfig)}
    for name, instead in INSTEAD.items():
        default = defaults.get(name)
        value = getattr(args, name, default)
        if value != default and value not in AS_IT_IS.get(name, ()):
            raise ConfigurationError(f"SFTConfig.{name}={value!r} would be ignored. {instead.format(value=value)}.")


def _weigh_router(model: Any, weight: float | None) -> None:
    """Give a student the weight of its router's loss that the base class has put into its configuration alone."""
    student: Any = unwrapped(model)
    for name in WEIGHTS:
        if weight is not None and hasattr(student, name):
            setattr(student, name, weight)


require_hooks(SFTTrainer, DSKDSFTTrainer)
