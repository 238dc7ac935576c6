"""`DSKDTrainerMixin` and `DSKDTrainer`: the loss in a `transformers.Trainer`."""

from __future__ import annotations

import math
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, default_compute_objective

from dskd_components.distributed import reduce_gradients
from dskd_components.integrations.projector_optimizer import ProjectorOptimizer
from dskd_components.integrations.projectors import (
    FreshProjectors,
    ProjectorCallback,
    load_projectors,
    loss_for,
    naming_other_shapes,
    projector_groups,
    save_projectors,
)
from dskd_components.integrations.same_on_ranks import require_same_on_ranks
from dskd_components.integrations.student_with_projectors import require_parts, require_rates
from dskd_components.integrations.teacher_placement import load_from_first_rank, place_teacher
from dskd_components.integrations.token_means import CountedWindows, TokenMeans, without_repeated
from dskd_components.integrations.trainer_checks import (
    require_columns,
    require_hooks,
    require_in_optimizer,
    require_not_in_optimizer,
    require_one_batch,
    require_plain_set_up,
    require_whole_projectors,
    warn_of_other_count,
)
from dskd_components.integrations.trainer_data import (
    DefaultCollator,
    NamingInput,
    SharedStream,
    StudentTokens,
    has_labels,
    student_columns,
)
from dskd_components.loss.checkpoints import paths_to_accept
from dskd_components.loss.clipping import PROJECTORS_NORM, checked_max_norm, clip_grad_norm
from dskd_components.models.in_place_of_model import require_model
from dskd_components.models.scored_tokens import scored_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from dskd_components.loss.dskd_loss import DSKDLoss
    from dskd_components.loss.output import DSKDOutput

    Base = Trainer
else:
    Base = object


class DSKDTrainerMixin(Base):
    """Makes a `transformers.Trainer`, or a class derived from it, train its model by `DSKDLoss`.

    The trainer's model is the student and stays as it is: it is saved without a trace of the projectors. These are
    optimised and logged along with it, clipped to the same norm but apart from it, so that their gradients never scale
    the student's, averaged over ranks, and kept in the folder ``projectors`` of each checkpoint, from which a run
    resumes. The loss divides by the scored student tokens of the
    whole accumulation window, over all ranks if ``average_tokens_across_devices``. No column of the data is removed.

    It runs under DDP, FSDP2 and DeepSpeed's ZeRO-1, 2 and 3, by the launcher's configuration alone. FSDP2 and DeepSpeed
    hold the student; projectors stay whole on each rank, in an optimizer beside the engine's that follows its schedule.

    Terms and metrics are logged as means over the scored tokens since the last log, those of an evaluation (and
    ``eval_loss``) as means over its scored tokens. Where weights follow schedules, evaluations are by the numbers that
    these end with, so that they can be compared with one another.

    Args:
        *args: as in the trainer.
        loss_fn: the loss; or a function that makes it for a student, as ``lambda student: DSKDLoss.from_models(...)``.
            With ``model_init`` each training begins with the projectors that the loss has now, or with those that the
            function makes after the student, by ``seed``; students of different sizes need the function.
        teacher: the teacher, or a `TeacherStore` of it. It is moved to the trainer's device, put into evaluation mode,
            and gets no gradients.
        shard_teacher: whether ranks share one teacher rather than each have their own: by FSDP2, or by ZeRO-3 for
            inference. None: as the student is; False: whole on each rank, which is faster where it fits.
        projector_lr: learning rate of projectors and aligner; None: that of the student. The trainer's schedule
            and weight decay apply to both.
        accept: differences between ``loss_fn`` and a checkpoint to resume from that are meant, by the paths that the
            error names: ``["spec.kd_rate"]``.
        **kwargs: as in the trainer.

    Raises:
        ConfigurationError: an argument of the trainer does not go together with this loss; the message names it.
        InputError: loss, student and teacher do not go together, or ``projector_lr`` is no number, or negative.
        CheckpointError: ``accept`` is no list of paths.

    Examples:
        >>> from trl import SFTTrainer
        >>> class DSKDSFTTrainer(DSKDTrainerMixin, SFTTrainer):
        ...     pass
    """

    loss_is_scaled_for_ga = True
    """The loss is divided by what the whole window scores, so the trainer must not divide it by the steps again."""

    loss_fn: DSKDLoss
    """The loss of the student that is trained."""

    def __init__(
        self,
        *args: Any,
        loss_fn: DSKDLoss | Callable[[Any], DSKDLoss],
        teacher: nn.Module,
        projector_lr: float | None = None,
        shard_teacher: bool | None = None,
        accept: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        self.teacher = teacher
        self.accept = paths_to_accept(accept)
        require_rates(projector_lr=projector_lr)
        begin: Any = super().__init__
        model = args[0] if args else kwargs.get("model")
        # Classes of others, between this one and the trainer, may load a model by its name.
        if begin.__func__ is Trainer.__init__ and (model is not None or kwargs.get("model_init") is None):
            require_model(model, "model", module=True)
        self.projector_lr = projector_lr
        self._fresh_projectors = FreshProjectors(loss_fn)
        self._evaluation_means = TokenMeans()
        self._own_metrics: set[str] = set()
        self._projector_grad_norm: Tensor | None = None
        self._projector_optimizer: ProjectorOptimizer | None = None
        self.begin_means()
        super().__init__(*args, **kwargs)
        max_grad_norm: float | None = self.args.max_grad_norm
        if max_grad_norm is None:
            # Nothing is to be clipped, but the trainer compares it with a number.
            self.args = copy(self.args)
            self.args.max_grad_norm = 0.0
        require_plain_set_up(self)
        student: Any = self.model
        model_init: Any = self.model_init
        if model_init is None:
            load_from_first_rank(self, student, teacher)
            self.loss_fn = loss_for(student, loss_fn)
        require_parts(student, self.loss_fn, teacher)
        self.data_collator = DefaultCollator.instead_of(self.data_collator, self.loss_fn.spec.aligner.name)
        require_whole_projectors(self.loss_fn)
        self.teacher = place_teacher(self, teacher, shard=shard_teacher)
        require_same_on_ranks(self.loss_fn, self.teacher)
        self.loss_fn.to(self.args.device)
        self.add_callback(ProjectorCallback(self))

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Return a new student, to which the loss belongs from then on, with projectors that are not trained.

        Args:
            trial: as in the trainer.

        Raises:
            InputError: student, loss and teacher do not go together.
        """
        student: Any = super().call_model_init(trial)
        require_model(student, "model_init", module=True)
        if getattr(self, "place_model_on_device", False):
            # Where the teacher is already, so that a loss can be made from both.
            self._move_model_to_device(student, self.args.device)
        load_from_first_rank(self, student, self.teacher)
        self.loss_fn = self._fresh_projectors.of(student)
        require_parts(student, self.loss_fn, self.teacher)
        self.loss_fn.to(self.args.device)
        return student  # type: ignore[no-any-return]

    def begin_means(self) -> None:
        """Forget what batches have given since the last log."""
        self._train_means = TokenMeans()
        self._windows = CountedWindows()

    # ---- The loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one micro-batch.

        Args:
            model: the student, as the trainer has wrapped it.
            inputs: the columns that `DSKDLoss.run` reads.
            return_outputs: whether to return the `DSKDOutput`, too.
            num_items_in_batch: the scored student tokens of the accumulation window; None: those of this batch.

        Raises:
            InputError: as in `DSKDLoss.run`.
            ConfigurationError: nobody has counted the scored tokens of several micro-batches or ranks.
        """
        require_columns(inputs)
        if num_items_in_batch is None and model.training and self.loss_fn.spec.reduction == "mean":
            require_one_batch(self)
        output = self._run(model, inputs, num_items_in_batch, step=self.state.global_step)
        loss = output.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # Gradients are averaged over ranks, but the count is a sum over them.
            loss = loss * self.accelerator.num_processes
        if self._projector_optimizer is not None:
            loss = self._projector_optimizer.noting_scale(loss)
        return (loss, output) if return_outputs else loss

    def _run(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None, *, step: int
    ) -> DSKDOutput:
        self.loss_fn.train(model.training)
        summed = self.loss_fn.spec.reduction == "sum"
        num_items = None if summed else num_items_in_batch
        output = self.loss_fn.run(
            model,  # type: ignore[arg-type]
            self.teacher,  # type: ignore[arg-type]
            inputs,
            num_items_in_batch=num_items,
            step=step,
        )
        if model.training:
            scored = scored_tokens(inputs)
            divided_by = 1 if summed else scored if num_items is None else num_items
            self._train_means.add(output, scored=scored, divided_by=divided_by)
            if num_items is not None:
                ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
                last = self.accelerator.sync_gradients
                self._windows.add(scored.to(output.loss.device), num_items=num_items, last=last, ranks=ranks)
        return output

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the micro-batches of the next optimizer step, and how many tokens they score.

        Of batches that have no labels, such as prompts, None: who overrides this counts what it makes of them.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.count_scored_tokens(batches, device) if all(map(has_labels, batches)) else None

    def count_scored_tokens(self, batches: Iterable[dict[str, Any]], device: torch.device) -> Tensor:
        """Count the scored student tokens of an accumulation window, over all ranks if the trainer is told to.

        Who replaces batches after they were loaded, as on-policy training does, overrides `get_batch_samples` and
        counts again by this.

        Args:
            batches: this rank's micro-batches of the window.
            device: where the result is wanted.
        """
        count = scored_tokens(batches).to(device)
        return self._sum_over_ranks(count) if self.args.average_tokens_across_devices else count

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run one micro-batch forward and backward; after the last of a window, average the projectors' gradients."""
        apart = self._projector_optimizer
        if apart is not None:
            # Now, because DeepSpeed takes its step, and that of its schedule, within backward.
            apart.follow(self.optimizer, full=self.args.learning_rate)
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.accelerator.sync_gradients:
            reduce_gradients(self.loss_fn)
            if apart is not None:
                apart.unscale()
        return loss

    def step_projectors(self) -> None:
        """Take the step of the projectors where an engine holds the student alone; else the trainer's is theirs."""
        if self._projector_optimizer is not None:
            # DeepSpeed has taken the student's already, others take it next.
            skipped = self.is_deepspeed_enabled and self.accelerator.optimizer_step_was_skipped
            self._projector_optimizer.step(skipped=skipped)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        # After the student's, with which gradients of float16 are unscaled.
        self._projector_grad_norm = clip_grad_norm(self.loss_fn.parameters(), checked_max_norm(self.args.max_grad_norm))
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if grad_norm is None and not self.args.max_grad_norm:
            self._projector_grad_norm = clip_grad_norm(self.loss_fn.parameters(), math.inf)
        return norm

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(values, reduction="sum")
        return summed

    # ---- The data ----

    def create_accelerator_and_postprocess(self) -> None:
        """Set up Accelerate so that, unless told otherwise, each process collates the samples that it trains on."""
        super().create_accelerator_and_postprocess()
        configuration = self.accelerator.dataloader_config
        # One process for all would join batches of different lengths, which only rows of one length can be.
        if self.accelerator.num_processes > 1 and configuration.dispatch_batches is None:
            configuration.dispatch_batches = False

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        configuration = self.accelerator.dataloader_config
        if not isinstance(dataset, IterableDataset) or configuration.dispatch_batches is not False:
            return super()._get_dataloader(dataset, description, batch_size, *args, **kwargs)
        stream = SharedStream(dataset)
        loader = super()._get_dataloader(stream, description, batch_size, *args, **kwargs)
        together = batch_size if configuration.split_batches else batch_size * self.accelerator.num_processes
        stream.tell_remainder(loader, together=together)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.train_dataset if train_dataset is None else train_dataset
        return super()._get_train_sampler(StudentTokens.of(data, self))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return the operations of the student for one batch, as the trainer estimates them.

        Args:
            inputs: the columns that `DSKDLoss.run` reads.
        """
        return super().floating_point_ops(student_columns(inputs))

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        super()._track_num_input_tokens(student_columns(inputs))  # type: ignore[no-untyped-call]

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:  # noqa: ARG002
        return dataset

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:  # noqa: ARG002
        return data_collator

    # ---- The optimizer ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the trainer's optimizer, with groups for the parameters of the loss.

        Args:
            model: as in the trainer.

        Raises:
            ConfigurationError: an optimizer given by the user lacks them, or has parameters of the teacher.
        """
        given = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        lr = self.args.learning_rate if self.projector_lr is None else self.projector_lr
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            # DeepSpeed's has been made before, in the same training, and may be a stand-in for one that it will make.
            kept = given and isinstance(optimizer, torch.optim.Optimizer)
            if not kept or self._projector_optimizer is None:
                self._projector_optimizer = ProjectorOptimizer.of(self, self.loss_fn, lr=lr)
        elif given:
            require_in_optimizer(optimizer, self.loss_fn)
        else:
            for group in projector_groups(self, self.loss_fn, lr=lr):
                optimizer.add_param_group(group)
        if isinstance(optimizer, torch.optim.Optimizer):
            require_not_in_optimizer(optimizer, self.teacher)
        return optimizer

    # ---- Evaluation and logs ----

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss of one batch and, unless it is wanted alone, the student's logits and labels.

        Args:
            model: the student.
            inputs: the columns that `DSKDLoss.run` reads.
            prediction_loss_only: whether to return the loss alone.
            ignore_keys: not used.
        """
        del ignore_keys
        require_columns(inputs)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self._evaluated(model, inputs)
            if prediction_loss_only:
                return loss, None, None
            states = self.loss_fn.states(model, inputs, "student")  # type: ignore[arg-type]
            logits = (states.head.whole or states.head).logits(states.hidden_states)
        return loss, logits, inputs.get("student_labels", inputs.get("labels"))

    def _evaluated(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the loss of a batch, and add the batch to the means without what other ranks have, too."""
        inputs, repeated = without_repeated(inputs, self.accelerator)
        # Where weights follow a schedule, by those of one step, or no two evaluations could be compared.
        output = self._run(model, inputs, None, step=self.loss_fn.spec.final_step)
        scored = scored_tokens(inputs)
        divided_by = 1 if self.loss_fn.spec.reduction == "sum" else scored
        self._evaluation_means.add(output, scored=scored, divided_by=divided_by, repeated=repeated)
        return output.loss

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate; loss, terms and metrics are means over all scored tokens, whatever the batches."""
        self._evaluation_means = TokenMeans()
        if "inputs" in self.args.include_for_metrics:
            dataloader = NamingInput(dataloader, getattr(self.model, "main_input_name", "input_ids"))
        result = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        means = self._evaluation_means.take(self._sum_over_ranks)
        named = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        self._own_metrics |= named.keys() - {f"{metric_key_prefix}_loss"}
        return result._replace(metrics={**(result.metrics or {}), **named})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with the training loss the terms and metrics of the same steps.

        Args:
            logs: what the trainer logs.
            start_time: as in the trainer.
        """
        if "loss" in logs:
            # All ranks log the training loss together, so they may add up here.
            logs = self._train_means.take(self._sum_over_ranks) | logs
            warn_of_other_count(self._windows.take(self._sum_over_ranks))
            if self._projector_grad_norm is not None and any(True for _ in self.loss_fn.parameters()):
                logs[PROJECTORS_NORM] = self._projector_grad_norm.item()
        super().log(logs, start_time)

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Search as the trainer does; trials are compared by their loss, or by metrics of one's own if there are some.

        Args:
            hp_space: as in the trainer.
            compute_objective: as in the trainer; None: terms and metrics of the loss are no part of it.
            *args: as in the trainer.
            **kwargs: as in the trainer.
        """
        return super().hyperparameter_search(hp_space, compute_objective or self._objective, *args, **kwargs)

    def _objective(self, metrics: dict[str, float]) -> float:
        return default_compute_objective(
            {name: value for name, value in metrics.items() if name not in self._own_metrics}
        )

    # ---- Checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            # First, because the trainer deletes older checkpoints once it is done with this one.
            save_projectors(self.loss_fn, folder)
            if self._projector_optimizer is not None and not self.args.save_only_model:
                self._projector_optimizer.save(folder)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with naming_other_shapes(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_projectors(self.loss_fn, resume_from_checkpoint, accept=self.accept)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.is_deepspeed_enabled:
            # It has loaded the student by itself, without any other call.
            load_projectors(self.loss_fn, checkpoint, accept=self.accept)
        if checkpoint is not None and self._projector_optimizer is not None:
            self._projector_optimizer.load(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            load_projectors(self.loss_fn, self.state.best_model_checkpoint, accept=self.accept)


class DSKDTrainer(DSKDTrainerMixin, Trainer):
    """`transformers.Trainer` with `DSKDLoss`.

    Args:
        *args: as in `transformers.Trainer`.
        loss_fn: as in `DSKDTrainerMixin`.
        teacher: the teacher; it is put in evaluation mode and never trained or saved.
        projector_lr: learning rate of projectors and aligner; None: the student's.
        shard_teacher: as in `DSKDTrainerMixin`.
        accept: as in `DSKDTrainerMixin`.
        **kwargs: as in `transformers.Trainer`.

    Examples:
        >>> trainer = DSKDTrainer(  # doctest: +SKIP
        ...     student,
        ...     TrainingArguments(output_dir="output", learning_rate=5e-4),
        ...     data_collator=loss_fn.collator(student_tokenizer, teacher_tokenizer),
        ...     train_dataset=samples,
        ...     loss_fn=loss_fn,
        ...     teacher=teacher,
        ...     projector_lr=1e-3,
        ... )
    """


require_hooks(Trainer, DSKDTrainerMixin)
