"""`MultiTeacherLoss`: a student that learns from several teachers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dskd_components.collation import MultiTeacherCollator
from dskd_components.engines.aligned_batch import read_together
from dskd_components.engines.reduction import Reduction
from dskd_components.engines.workspace import Workspace
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.loss.batch_origin import (
    reasons_for_columns,
    refuse_aligner,
    require_origin,
    require_tokenizers,
)
from dskd_components.loss.build import space_modules
from dskd_components.loss.by_teacher import for_some, merged_values, require_all
from dskd_components.loss.checkpoints import (
    checkpoint_tensors,
    describe_loss,
    paths_to_accept,
    read_checkpoints,
    require_no_difference,
    write_checkpoints,
)
from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.loss.non_finite import naming_damaged_parameters
from dskd_components.loss.output import DSKDOutput
from dskd_components.loss.parameter_groups import learning_rate_factors, parameter_groups
from dskd_components.loss.usable_states import common_samples_checks, require_states
from dskd_components.models.batch import columns_of_pair, naming_teacher
from dskd_components.models.host_reads import require
from dskd_components.models.precision import without_autocast
from dskd_components.models.run_model import batch_on_host, groups_of_batch
from dskd_components.spec.multi_teacher import MultiTeacherSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Self, Unpack

    from dskd_components.collation.multi_teacher import MultiTeacherKeywords
    from dskd_components.loss.checkpoints import Description
    from dskd_components.models.offline_teacher import OfflineTeacher
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups
    from dskd_components.models.vocabulary_subset import Others
    from dskd_components.models.wrappers import CausalLM
    from dskd_components.tokenization.vocabulary_map import MapMethod, VocabularyMap


class MultiTeacherLoss(nn.Module):
    """The losses of all pairs of the student and a teacher, weighted, with the student's cross entropy once.

    Args:
        spec: what is computed.
        pairs: by teacher, the loss of that pair, built from ``spec.pair(name)``. They become parts of this module.

    Raises:
        InputError: an argument is of the wrong kind, or a pair is for a student of another width.
        ConfigurationError: there is not one pair for each teacher of the spec, or it was built from another spec.

    Examples:
        >>> import torch
        >>> from dskd_components import DSKDLoss, Head, LMStates, MultiTeacherLoss, MultiTeacherSpec
        >>> spec = MultiTeacherSpec(teachers={"large": {"weight": 0.7}, "small": {"weight": 0.3, "distance": "js"}})
        >>> widths = {"large": 24, "small": 12}
        >>> loss_fn = MultiTeacherLoss(
        ...     spec,
        ...     {
        ...         name: DSKDLoss(spec.pair(name), student_hidden_size=16, teacher_hidden_size=width)
        ...         for name, width in widths.items()
        ...     },
        ... )
        >>> targets = torch.randint(0, 50, (2, 7))
        >>> def states(width):
        ...     head = Head(torch.randn(50, width))
        ...     return LMStates(hidden_states=torch.randn(2, 7, width), targets=targets, head=head)
        >>> out = loss_fn(states(16), {name: states(width) for name, width in widths.items()})
        >>> list(out.terms)
        ['ce', 'large/t2s_ce', 'large/t2s_kd', 'large/s2t_kd', 'small/t2s_ce', 'small/t2s_kd', 'small/s2t_kd']
    """

    spec: MultiTeacherSpec

    def __init__(self, spec: MultiTeacherSpec, pairs: Mapping[str, DSKDLoss]) -> None:
        super().__init__()
        if not isinstance(spec, MultiTeacherSpec):
            raise InputError(f"MultiTeacherLoss: expected a MultiTeacherSpec, got {spec!r}.")
        require_all(spec, "pairs", pairs, "a DSKDLoss", ConfigurationError)
        for name, pair in pairs.items():
            if not isinstance(pair, DSKDLoss):
                raise InputError(f"pairs[{name!r}]: expected a DSKDLoss, got {type(pair).__name__}.")
            if pair.spec != spec.pair(name):
                raise ConfigurationError(
                    f"pairs[{name!r}]: it was built from another spec than the one that is given. Build it from "
                    f"spec.pair({name!r}), or use MultiTeacherLoss.from_models."
                )
        widths = {name: pair.hidden_sizes["student"] for name, pair in pairs.items()}
        if len(set(widths.values())) > 1:
            raise InputError(f"pairs: expected one student, but their student_hidden_size differs: {widths}.")
        self.spec = spec
        self.pairs = nn.ModuleDict({name: pairs[name] for name in spec.teachers})
        self._workspace = Workspace()

    def pair(self, name: str) -> DSKDLoss:
        """Return the loss of the student and one teacher.

        Args:
            name: of the teacher.
        """
        return cast("DSKDLoss", self.pairs[name])

    def forward(
        self,
        student: LMStates,
        teachers: Mapping[str, LMStates],
        *,
        alignments: Mapping[str, Tensor | TokenGroups | None] | None = None,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
    ) -> DSKDOutput:
        """Compute the loss of one batch.

        Args:
            student: the student's states; gradients reach its hidden states and its head.
            teachers: each teacher's states, taken as constants. A teacher that has nothing to say of a sample has
                targets of -100 there.
            alignments: by teacher, which positions belong together, for aligners that are told; see `DSKDLoss.forward`.
            num_items_in_batch: what means divide by; see `DSKDLoss.forward`.
            step: how many optimizer steps have been taken, 0 at the first; for weights that follow a schedule.

        Returns:
            Loss, terms, counts, metrics. The cross entropy is called ``ce``, the loss of a student's router
            ``aux_loss``, all else by teacher: ``large/t2s_kd``.

        Raises:
            InputError: states of a teacher are missing, or as in `DSKDLoss.forward`; the message names the teacher.
            ConfigurationError: a weight is for a term that there is not.
        """
        require_all(self.spec, "teachers", teachers, "states")
        alignments = for_some(self.spec, "alignments", alignments)
        weights = self.spec.loss_weights(step)
        require_states(student=student)
        student = student.in_full_precision()
        with without_autocast(student.hidden_states.device):
            batches = {}
            for name in self.spec.teachers:
                with naming_teacher(name):
                    require_states(teacher=teachers[name])
                    batches[name] = self.pair(name).aligned_batch(
                        student, teachers[name], alignments.get(name), weights[name], teacher_name=name
                    )
            read_together(list(batches.values()))
            reduction = Reduction.of(self.spec.reduction, student.scored.sum(), num_items_in_batch)
            measured = self.spec.engine.measure(list(batches.values()), reduction, self._workspace)
            outputs: dict[str, DSKDOutput] = {}
            checks = [*reduction.checks]
            for (name, batch), found in zip(batches.items(), measured, strict=True):
                with naming_teacher(name):
                    outputs[name], is_finite = self.pair(name).output(batch, found, reduction)
                    checks.append(is_finite)
            require(*checks)
        return DSKDOutput(
            loss=torch.stack([output.loss for output in outputs.values()]).sum(),
            terms=merged_values({name: output.terms for name, output in outputs.items()}),
            counts=merged_values({name: output.counts for name, output in outputs.items()}),
            metrics=merged_values({name: output.metrics for name, output in outputs.items()}),
        )

    @classmethod
    def from_models(
        cls,
        spec: MultiTeacherSpec,
        student: CausalLM,
        teachers: Mapping[str, CausalLM | OfflineTeacher],
        student_tokenizer: Any = None,
        teacher_tokenizers: Mapping[str, Any] | None = None,
        *,
        vocabulary_maps: Mapping[str, VocabularyMap] | None = None,
        vocabulary_method: MapMethod = "bytes",
        cache_dir: str | Path | None = None,
        student_tokens: Tensor | Sequence[int] | None = None,
        teacher_tokens: Mapping[str, Tensor | Sequence[int]] | None = None,
        other_tokens: Others | None = None,
    ) -> Self:
        """Build the loss for Hugging Face causal models; see `DSKDLoss.from_models`.

        Args:
            spec: what is computed.
            student: the student.
            teachers: a model, or a `TeacherStore`, for each teacher of the spec; one may stand under several names.
            student_tokenizer: the student's tokenizer.
            teacher_tokenizers: by teacher, its tokenizer.
            vocabulary_maps: by teacher, the map between its vocabulary and the student's, if it is known already.
            vocabulary_method: as there.
            cache_dir: as there.
            student_tokens: as there.
            teacher_tokens: by teacher, as there; the heads of those that are not named stay whole.
            other_tokens: as there.

        Raises:
            InputError: a model is missing, or as there; the message names the teacher.
            ConfigurationError: as there.
        """
        if not isinstance(spec, MultiTeacherSpec):
            raise InputError(f"MultiTeacherLoss: expected a MultiTeacherSpec, got {spec!r}.")
        require_all(spec, "teachers", teachers, "a model")
        tokenizers = for_some(spec, "teacher_tokenizers", teacher_tokenizers)
        tokens = for_some(spec, "teacher_tokens", teacher_tokens)
        maps = for_some(spec, "vocabulary_maps", vocabulary_maps)
        pairs = {}
        for name in spec.teachers:
            with naming_teacher(name):
                pairs[name] = DSKDLoss.from_models(
                    spec.pair(name),
                    student,
                    teachers[name],
                    student_tokenizer,
                    tokenizers.get(name),
                    vocabulary_map=maps.get(name),
                    vocabulary_method=vocabulary_method,
                    cache_dir=cache_dir,
                    student_tokens=student_tokens,
                    teacher_tokens=tokens.get(name),
                    other_tokens=other_tokens,
                )
        return cls(spec, pairs)

    def collator(
        self,
        student_tokenizer: Any,
        teacher_tokenizers: Mapping[str, Any],
        **options: Unpack[MultiTeacherKeywords],
    ) -> MultiTeacherCollator:
        """Return a collator for this loss: it has each teacher's aligner, so that the two cannot disagree.

        Args:
            student_tokenizer: the student's, the one that the loss was built with.
            teacher_tokenizers: by teacher, its tokenizer.
            **options: all but ``aligners`` that `MultiTeacherCollator` takes.

        Raises:
            InputError: a teacher has no tokenizer, or one is not a fast one, or not the one that the loss was built
                with.
            ConfigurationError: an option has no such value, or is the aligners.
        """
        require_all(self.spec, "teacher_tokenizers", teacher_tokenizers, "a tokenizer")
        aligners = {name: self.pair(name).spec.aligner for name in self.spec.teachers}
        refuse_aligner(options, "aligners", str({name: aligner.name for name, aligner in aligners.items()}))
        reading = any(teacher.reads_byte_positions for teacher in self.spec.teachers.values())
        options.setdefault("byte_positions", reading)
        made = MultiTeacherCollator(student_tokenizer, teacher_tokenizers, aligners=aligners, **options)
        for name, encoder in made.encoders.items():
            require_tokenizers(self.pair(name).vocabularies.fingerprints, encoder.fingerprints, teacher=name)
        return made

    def run(
        self,
        student: CausalLM,
        teachers: Mapping[str, CausalLM | OfflineTeacher],
        batch: Mapping[str, Tensor],
        *,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
    ) -> DSKDOutput:
        """Run all models on a batch, each once, and compute the loss. The teachers run without gradients.

        Args:
            student: the student.
            teachers: each teacher, in evaluation mode, or a `TeacherStore` of it.
            batch: the student's columns, ``student_input_ids`` and so on, and each teacher's, ``large_input_ids``, with
                ``student_groups_large`` and ``large_groups`` for its aligner: what `MultiTeacherCollator` makes. A
                teacher with the student's tokenizer may have no columns of its own.
            num_items_in_batch: what means divide by, over all micro-batches and ranks; see `DSKDLoss.forward`.
            step: how many optimizer steps have been taken; see `DSKDLoss.forward`.

        Raises:
            InputError: a column is missing, the batch was made with other tokenizers or for another aligner, or as in
                `forward`.
        """
        require_all(self.spec, "teachers", teachers, "a model")
        names = list(self.spec.teachers)
        host_batch = batch_on_host(batch)
        columns = {name: self._columns(batch, name) for name in names}
        on_host = {name: self._columns(host_batch, name) for name in names}
        for name in names:
            with naming_teacher(name):
                pair = self.pair(name)
                require_origin(on_host[name], pair.vocabularies.fingerprints, pair.spec.aligner, teacher=name)
        # Any pair can run the student, but not every one reads its embedding.
        reader = max(names, key=lambda name: self.pair(name).spec.aligner.reads_embeddings)
        wanted = reasons_for_columns(self.spec.teachers.values(), "student")
        student_states = self.pair(reader).states(
            student, columns[reader], "student", host_batch=on_host[reader], reads_columns=wanted
        )
        teacher_states = {}
        for name in names:
            with naming_teacher(name):
                pair = self.pair(name)
                teacher_states[name] = pair.states(teachers[name], columns[name], "teacher", host_batch=on_host[name])
                if pair.spec.aligner.same_tokenizer:  # otherwise a call looks at it with all else
                    require(*common_samples_checks(student_states, teacher_states[name]))
        called = {f"teacher {name!r}": teachers[name] for name in names}
        with naming_damaged_parameters({"student": student, **called}):
            output: DSKDOutput = self(
                student_states,
                teacher_states,
                alignments={name: groups_of_batch(columns[name]) for name in names},
                num_items_in_batch=num_items_in_batch,
                step=step,
            )
        return output

    def _columns(self, batch: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
        """Return what the student and one teacher read."""
        same_tokenizer = self.pair(name).spec.aligner.same_tokenizer
        return columns_of_pair(batch, name, names=self.spec.teachers, same_tokenizer=same_tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write each pair's projectors and aligner into a folder of its teacher's name; see `DSKDLoss.save`.

        Args:
            folder: made if it is not there.

        Raises:
            CheckpointError: as there.
        """
        descriptions = describe_losses(self)
        write_checkpoints(
            {
                Path(folder) / name: (description, checkpoint_tensors(self.pair(name)))
                for name, description in descriptions.items()
            }
        )

    def restore(self, folder: str | Path, *, accept: Collection[str] = ()) -> None:
        """Take over what `save` has written, of all pairs or of none.

        Args:
            folder: the folder.
            accept: differences that are meant, in any of the pairs; see `DSKDLoss.restore`.

        Raises:
            CheckpointError: as there; the message has the folder of the teacher.
        """
        accept = paths_to_accept(accept)
        descriptions = describe_losses(self)
        found = read_checkpoints([Path(folder) / name for name in descriptions])
        for saved, (name, own) in zip(found, descriptions.items(), strict=True):
            require_no_difference(saved.description, own, accept, source=str(saved.file))
            saved.require_tensors_of(self.pair(name))
        for saved, name in zip(found, descriptions, strict=True):
            saved.restore(self.pair(name))

    def param_groups(self, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return optimizer parameter groups of all projectors and aligners, to append to the student's.

        Args:
            lr: learning rate.
            weight_decay: weight decay.

        Raises:
            InputError: a rate is no number, or negative.
        """
        factors: dict[str, float] = {}
        for name in self.spec.teachers:
            pair = self.pair(name)
            of_pair = learning_rate_factors(pair.aligner, space_modules(pair.spec, pair.spaces))
            factors |= {f"pairs.{name}.{part}": factor for part, factor in of_pair.items()}
        return parameter_groups(self, factors, lr=lr, weight_decay=weight_decay)


def describe_losses(loss: MultiTeacherLoss) -> dict[str, Description]:
    """Return by teacher the description of its pair, with the weight that no pair knows.

    Args:
        loss: the loss of all of them.
    """
    return {
        name: describe_loss(loss.pair(name), teacher_weight=teacher.weight)
        for name, teacher in loss.spec.teachers.items()
    }
