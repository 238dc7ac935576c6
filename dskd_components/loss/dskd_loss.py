"""`DSKDLoss`: the dual-space loss as one module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dskd_components.collation import DualTokenizerCollator, DualTokenizerPreprocessor
from dskd_components.components.aligner import coverage_check
from dskd_components.components.returned import Names
from dskd_components.components.terms import AUX_LOSS
from dskd_components.engines.aligned_batch import AlignedBatch
from dskd_components.engines.reduction import Reduction, weighted_sum, with_zero_gradients
from dskd_components.engines.vocabulary_overlap import KnownOverlap
from dskd_components.engines.workspace import Workspace
from dskd_components.errors import InputError
from dskd_components.loss.added_tokens import scored_where_shared, with_stand_ins
from dskd_components.loss.arguments import require_arguments, require_demands, require_one_narrowing, require_spec
from dskd_components.loss.batch_origin import (
    reasons_for_columns,
    refuse_aligner,
    require_origin,
    require_tokenizers,
)
from dskd_components.loss.build import build_aligner, build_projectors, build_spaces, projector_heads, space_modules
from dskd_components.loss.checkpoints import (
    HeadFingerprint,
    checkpoint_tensors,
    describe_loss,
    paths_to_accept,
    read_checkpoint,
    require_no_difference,
    write_checkpoint,
)
from dskd_components.loss.model_heads import heads_of_models, narrowed_heads
from dskd_components.loss.non_finite import finite_check, naming_damaged_parameters
from dskd_components.loss.output import DSKDOutput, kept_masses, require_known_terms
from dskd_components.loss.parameter_groups import learning_rate_factors, parameter_groups
from dskd_components.loss.usable_states import (
    common_samples_checks,
    require_columns,
    require_matching_states,
    require_parameters,
    require_states,
    validated_groups,
)
from dskd_components.loss.vocabularies import Vocabularies
from dskd_components.models.host_reads import require
from dskd_components.models.in_place_of_model import require_model
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.precision import without_autocast
from dskd_components.models.ranks_of_models import require_cut_head
from dskd_components.models.run_model import batch_on_host, groups_of_batch, input_embedding, run_model
from dskd_components.preflight import Pair, examine, samples_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Self, Unpack

    from dskd_components.collation.collator import CollatorKeywords
    from dskd_components.collation.preprocessor import PreprocessorKeywords
    from dskd_components.collation.samples import Columns
    from dskd_components.components.alignment import Alignment
    from dskd_components.components.projector import Projection
    from dskd_components.engines.engine import Measurement
    from dskd_components.engines.reduction import LossWeights
    from dskd_components.engines.vocabulary_overlap import VocabularyOverlap
    from dskd_components.models.head import Head
    from dskd_components.models.host_reads import Check
    from dskd_components.models.states import LMStates, Side
    from dskd_components.models.token_groups import TokenGroups
    from dskd_components.models.vocabulary_subset import Others, VocabularySubset
    from dskd_components.models.wrappers import CausalLM
    from dskd_components.preflight import PreflightReport
    from dskd_components.spec.dskd_spec import DSKDSpec
    from dskd_components.tokenization.vocabulary_map import MapMethod, VocabularyMap


class DSKDLoss(nn.Module):
    """Dual-space knowledge distillation loss. It owns what the components of its spec build, never the models.

    Args:
        spec: what is computed.
        student_hidden_size: width ds of the student's last hidden states.
        teacher_hidden_size: width dt of the teacher's.
        student_embedding_size: width of the student's input embedding; None: as the hidden states.
        teacher_embedding_size: width of the teacher's input embedding; None: as its hidden states.
        student_head: the student's head, for projectors that start from it (``pinv``, ``live_pinv``). Others, those of
            a plain spec among them, start better if both heads are given, and can do without.
        teacher_head: the teacher's head, for the same projectors.
        student_embedding: ``[V, width]``: the student's input embedding, for aligners that start from it. It is not
            kept.
        teacher_embedding: the teacher's, likewise.
        teacher_to_student_ids: ``[Vt]``, int64: the student's id of each teacher token, -1 where it has none. Needed
            for two tokenizers by ``pinv``, ``live_pinv`` and everything that looks at the teacher's own predictions.
        same_token: ``[Vt]``, bool: which entries of that map are the very same token; projectors made from heads keep
            to these. None: all that are mapped.
        student_tokenizer: the student's tokenizer, for components that ask what tokens stand for when they are built.
        teacher_tokenizer: the teacher's, likewise. Neither is kept.

    Raises:
        ConfigurationError: the spec needs a head or a vocabulary map that is not given; the message names the field.
        InputError: an argument is of the wrong kind, or a head of another width.

    Examples:
        >>> import torch
        >>> from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates
        >>> loss_fn = DSKDLoss(DSKDSpec.preset("dskd"), student_hidden_size=16, teacher_hidden_size=24)
        >>> targets = torch.randint(0, 50, (2, 7))
        >>> student = LMStates(hidden_states=torch.randn(2, 7, 16), targets=targets, head=Head(torch.randn(50, 16)))
        >>> teacher = LMStates(hidden_states=torch.randn(2, 7, 24), targets=targets, head=Head(torch.randn(50, 24)))
        >>> out = loss_fn(student, teacher)
        >>> out.loss.backward()
        >>> sorted(out.terms)
        ['ce', 's2t_kd', 't2s_ce', 't2s_kd']
    """

    teacher_to_student_ids: Tensor | None
    same_token: Tensor | None

    def __init__(
        self,
        spec: DSKDSpec,
        *,
        student_hidden_size: int,
        teacher_hidden_size: int,
        student_embedding_size: int | None = None,
        teacher_embedding_size: int | None = None,
        student_head: Head | None = None,
        teacher_head: Head | None = None,
        student_embedding: Tensor | None = None,
        teacher_embedding: Tensor | None = None,
        teacher_to_student_ids: Tensor | None = None,
        same_token: Tensor | None = None,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.hidden_sizes: dict[Side, int] = {"student": student_hidden_size, "teacher": teacher_hidden_size}
        given: dict[Side, Head | None] = {"student": student_head, "teacher": teacher_head}
        require_arguments(spec, self.hidden_sizes, given, teacher_to_student_ids, same_token)
        self.vocabularies = Vocabularies(sizes=dict.fromkeys(given), fingerprints=dict.fromkeys(given))
        self._overlap = KnownOverlap()
        self.register_buffer("teacher_to_student_ids", teacher_to_student_ids, persistent=False)
        self.register_buffer("same_token", same_token, persistent=False)
        self.subsets: dict[Side, VocabularySubset | None] = {
            side: None if head is None else head.subset for side, head in given.items()
        }
        self.head_fingerprints: dict[Side, HeadFingerprint | None] = {
            side: None if head is None else HeadFingerprint.of(head, frozen=side == "teacher")
            for side, head in given.items()
        }
        heads, overlap = None, None
        if student_head is not None and teacher_head is not None:
            tokenizers: dict[Side, Any] = {"student": student_tokenizer, "teacher": teacher_tokenizer}
            embeddings: dict[Side, Tensor | None] = {"student": student_embedding, "teacher": teacher_embedding}
            overlap = self._overlap_of(student_head, teacher_head)
            heads = projector_heads(student_head, teacher_head, overlap, embeddings=embeddings, tokenizers=tokenizers)
        require_demands(spec, overlap, teacher_to_student_ids, same_token)
        widths: dict[Side, int] = {
            "student": student_embedding_size or _width(student_embedding) or student_hidden_size,
            "teacher": teacher_embedding_size or _width(teacher_embedding) or teacher_hidden_size,
        }
        self.aligner = build_aligner(spec, widths, heads)
        self.projectors = build_projectors(spec, self.hidden_sizes, heads)
        self.spaces = build_spaces(spec, heads)
        self._workspace = Workspace()
        self._placed: set[Side] = set()

    def _overlap_of(self, student: Head, teacher: Head) -> VocabularyOverlap:
        """Return what the vocabularies of two heads are known to have in common."""
        one = self.spec.aligner.same_tokenizer
        require_one_narrowing(self.spec, student, teacher)
        return self._overlap.of(student, teacher, self.teacher_to_student_ids, self.same_token, same_tokenizer=one)

    def forward(
        self,
        student: LMStates,
        teacher: LMStates,
        *,
        alignment: Tensor | TokenGroups | None = None,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
        weights: LossWeights | None = None,
    ) -> DSKDOutput:
        """Compute the loss of one batch.

        Args:
            student: the student's states; gradients reach its hidden states, its head and its auxiliary loss.
            teacher: the teacher's states, taken as constants.
            alignment: which positions belong together, for aligners that are told: groups, or for one-to-one pairs
                ``[B, Ts]``, int64, the teacher position of each student position or -1. A position stands for the token
                that it predicts. Cross-model attention only measures itself by it.
            num_items_in_batch: what the mean divides by: the scored student tokens of all micro-batches and ranks that
                make one optimizer step, a number of any type. None: those of this batch.
            step: how many optimizer steps have been taken, 0 at the first; for weights that follow a schedule.
            weights: what the terms are multiplied with in this call, whatever the spec says. None: what it says.

        Returns:
            Loss, terms, counts, metrics. Whatever the types of states, heads and parameters, all is computed, and the
            loss given, in float32, or in float64 if the student's hidden states are float64.

        Raises:
            InputError: a tensor does not fit, a schedule lacks its step, or the loss would not be finite; the message
                names the tensor or field.
            ConfigurationError: a weight is for a term that there is not.
        """
        require_states(student=student, teacher=teacher)
        weights = self.spec.loss_weights(step) if weights is None else weights
        with without_autocast(student.hidden_states.device):
            batch = self.aligned_batch(student, teacher, alignment, weights)
            reduction = Reduction.of(self.spec.reduction, batch.student.scored.sum(), num_items_in_batch)
            (measured,) = self.spec.engine.measure([batch], reduction, self._workspace)
            output, is_finite = self.output(batch, measured, reduction)
            require(*reduction.checks, is_finite)
            return output

    def aligned_batch(
        self,
        student: LMStates,
        teacher: LMStates,
        alignment: Tensor | TokenGroups | None,
        weights: LossWeights,
        *,
        teacher_name: str | None = None,
    ) -> AlignedBatch:
        """Return one batch, aligned, as engines take it: the first part of `forward`.

        Values are looked at when its positions are: until then, its checks are still to be read.

        Args:
            student: as in `forward`.
            teacher: as in `forward`.
            alignment: as in `forward`.
            weights: what the terms are multiplied with in the loss.
            teacher_name: which of several teachers it is, for messages.

        Raises:
            InputError: a tensor does not fit.
            ConfigurationError: a space needs more tokens than the vocabularies of these heads have in common.
        """
        student, teacher, checks = self._usable(student, teacher)
        overlap = self._overlap_of(student.head, teacher.head)
        # Of these heads, which a loss that is built from a map alone has not seen.
        require_demands(self.spec, overlap, self.teacher_to_student_ids, self.same_token)
        heads = projector_heads(student.head, teacher.head, overlap, are_checked=True)
        groups, of_groups = validated_groups(alignment, student, teacher)
        aligned = self.aligner.unread(student, teacher, groups)
        of_coverage = coverage_check(self.aligner, aligned, student, teacher)
        names = Names()
        for name in (*aligned.terms, *aligned.metrics):
            names.claim(name, self.spec.aligner)
        projections: Mapping[str, Projection] = self.projectors  # type: ignore[assignment]  # a mapping in all but type
        of_projections = [
            check for direction in self.spec.directions for check in projections[direction].checks(heads[direction])
        ]
        return AlignedBatch(
            spaces=self.spec.spaces,
            measure=self.spec.measure,
            weights=weights,
            student=student,
            teacher=teacher,
            alignment=aligned,
            projections=projections,
            heads=heads,
            teacher_to_student_ids=overlap.teacher_to_student_ids,
            overlap=overlap,
            modules=space_modules(self.spec, self.spaces),
            teacher_name=teacher_name,
            names=names,
            checks=[*checks, *of_groups, *aligned.checks, of_coverage, *of_projections],
        )

    def output(self, batch: AlignedBatch, measured: Measurement, reduction: Reduction) -> tuple[DSKDOutput, Check]:
        """Return what an engine has measured, with the aligner's own terms: the last part of `forward`.

        The check is that the loss is finite, and is still to be read.

        Args:
            batch: what was measured.
            measured: what the engine has found.
            reduction: how token values become terms.

        Raises:
            ConfigurationError: a weight is for a term that there is not.
        """
        weights, aligned = batch.weights, batch.alignment
        values, counts = reduction.values(aligned.terms)
        in_loss = {name: weights.in_loss(name, term.weight) for name, term in aligned.terms.items()}
        of_aligner = weighted_sum(values, in_loss)
        loss = measured.loss if of_aligner is None else measured.loss + of_aligner
        if 0 in in_loss.values() or weights.distillation == 0:
            loss = with_zero_gradients(loss, self.aligner.parameters())
        if len(self.spaces):
            # A space may measure without the spec's distance, which is built for it all the same.
            loss = with_zero_gradients(loss, self.spaces.parameters())
        values, counts = {**measured.values, **values}, {**measured.counts, **counts}
        aux_loss = batch.student.aux_loss
        if aux_loss is not None and weights.cross_entropy is not None:
            values[AUX_LOSS], counts[AUX_LOSS] = reduction.of_batch(aux_loss.value.to(loss.dtype)), reduction.scored
            if aux_loss.weight:
                loss = loss + aux_loss.weight * values[AUX_LOSS]
        require_known_terms(weights, values)
        tallies = {**aligned.metrics, **measured.metrics, **kept_masses(batch)}
        output = DSKDOutput(
            loss=loss,
            terms={name: value.detach() for name, value in values.items()},
            counts={**counts, **{name: tally.count for name, tally in tallies.items()}},
            metrics={name: tally.mean().detach() for name, tally in tallies.items()},
        )
        return output, finite_check(loss, values, batch)

    @torch.no_grad()
    def align(
        self, student: LMStates, teacher: LMStates, *, alignment: Tensor | TokenGroups | None = None
    ) -> Alignment:
        """Return which positions the loss brings together, to look at: ``align(...).plot(...)``.

        Args:
            student: the student's states.
            teacher: the teacher's states.
            alignment: which positions belong together, for aligners that are told; see `forward`.

        Raises:
            InputError: a tensor does not fit.
        """
        require_states(student=student, teacher=teacher)
        with without_autocast(student.hidden_states.device):
            student, teacher, checks = self._usable(student, teacher)
            groups, of_groups = validated_groups(alignment, student, teacher)
            found: Alignment = self.aligner.unread(student, teacher, groups)
            of_coverage = coverage_check(self.aligner, found, student, teacher)
            require(*checks, *of_groups, *found.checks, of_coverage)
        return found

    def _usable(self, student: LMStates, teacher: LMStates) -> tuple[LMStates, LMStates, list[Check]]:
        """Return both sides once they are known to fit, in full precision, the teacher's as constants.

        Nothing in them is dangerous to look up. What is wrong with the values, the checks say.
        """
        require_matching_states(student, teacher, self.hidden_sizes)
        require_columns(self.spec, student, teacher)
        same_tokenizer = self.spec.aligner.same_tokenizer
        checks = [] if same_tokenizer else common_samples_checks(student, teacher)
        require_parameters(self, student)
        if same_tokenizer and self.teacher_to_student_ids is not None:
            teacher = scored_where_shared(student, teacher, self.teacher_to_student_ids)
        student = student.with_columns(self.spec.columns_read("student"))
        teacher = teacher.with_columns(self.spec.columns_read("teacher"))
        checks += [*student.checks("student"), *teacher.checks("teacher")]
        student = student.with_possible_targets().in_full_precision().for_autograd()
        # One precision for both, the student's: it is the student that learns.
        teacher = teacher.with_possible_targets().in_full_precision(student.hidden_states.dtype).for_autograd()
        return student, teacher.detached(), checks

    def param_groups(self, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return optimizer parameter groups of all that the loss owns, to append to the student's.

        Args:
            lr: learning rate; the papers use a larger one here than for the student.
            weight_decay: weight decay.

        Returns:
            One group, or several if parts of the aligner, or spaces and distances, learn at rates of their own, or
            none if the spec has no parameters.

        Raises:
            InputError: a rate is no number, or negative.
        """
        factors = learning_rate_factors(self.aligner, space_modules(self.spec, self.spaces))
        return parameter_groups(self, factors, lr=lr, weight_decay=weight_decay)

    def extra_repr(self) -> str:
        """Return the spec, for printing."""
        return str(self.spec)

    @classmethod
    def from_models(
        cls,
        spec: DSKDSpec,
        student: CausalLM,
        teacher: CausalLM | OfflineTeacher,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
        *,
        vocabulary_map: VocabularyMap | None = None,
        vocabulary_method: MapMethod = "bytes",
        cache_dir: str | Path | None = None,
        student_tokens: Tensor | Sequence[int] | None = None,
        teacher_tokens: Tensor | Sequence[int] | None = None,
        other_tokens: Others | None = None,
    ) -> Self:
        """Build the loss for two Hugging Face causal models, and check that their logits are understood.

        Args:
            spec: what is computed.
            student: the student.
            teacher: the teacher, or a `TeacherStore` of it.
            student_tokenizer: tells which rows of the student's head are real tokens, and which tokens both have.
            teacher_tokenizer: tells the same of the teacher's.
            vocabulary_map: which tokens are the same, as `build_vocabulary_map` finds it or of one's own; None: it is
                found from the tokenizers, if the spec makes use of it.
            vocabulary_method: how the teacher's own predictions become student tokens, where the spec wants that:
                ``"bytes"``, by equal tokens alone, or ``"min_edit"``, other tokens by the nearest.
            cache_dir: a folder that keeps maps between vocabularies from run to run.
            student_tokens: ids of the tokens that the student's head is narrowed to in the loss; None: all. The model
                itself stays whole, and so do its gradients' shapes.
            teacher_tokens: the same for the teacher's head.
            other_tokens: what becomes of all others, see `Head.narrowed`; to be said where a head is narrowed.

        Returns:
            The loss, on the student's device. The models do not become part of it.

        Raises:
            InputError: a head's logits differ from its model's own, a tokenizer does not fit its model, or a model was
                not loaded.
            ConfigurationError: the spec needs something that is not given, or presumes one tokenizer for two.
        """
        require_spec(spec)
        whole = heads_of_models(student, teacher, teacher_tokenizer)
        vocabularies = Vocabularies.of_tokenizers(
            spec,
            {"student": student_tokenizer, "teacher": teacher_tokenizer},
            {side: len(head.weight) for side, head in whole.items()},
            vocabulary_map=vocabulary_map,
            method=vocabulary_method,
            cache_dir=cache_dir,
        )
        if isinstance(teacher, OfflineTeacher):
            vocabularies = vocabularies.with_offline(teacher)
        tokens: dict[Side, Tensor | Sequence[int] | None] = {"student": student_tokens, "teacher": teacher_tokens}
        heads = narrowed_heads(whole, vocabularies.sizes, tokens, other_tokens)
        loss = cls(
            spec,
            student_hidden_size=heads["student"].hidden_size,
            teacher_hidden_size=heads["teacher"].hidden_size,
            student_embedding=input_embedding(student).detach(),
            teacher_embedding=input_embedding(teacher).detach(),
            student_head=heads["student"],
            teacher_head=heads["teacher"],
            teacher_to_student_ids=vocabularies.teacher_to_student_ids,
            same_token=vocabularies.same_token,
            student_tokenizer=student_tokenizer,
            teacher_tokenizer=teacher_tokenizer,
        )
        loss.vocabularies = vocabularies
        models: dict[Side, CausalLM | OfflineTeacher] = {"student": student, "teacher": teacher}
        loss.head_fingerprints = {
            side: None if found is None else found.of_model(models[side])
            for side, found in loss.head_fingerprints.items()
        }
        return loss.to(heads["student"].device)

    def collator(
        self, student_tokenizer: Any, teacher_tokenizer: Any, **options: Unpack[CollatorKeywords]
    ) -> DualTokenizerCollator:
        """Return a collator for this loss: it has the loss's aligner, so that the two cannot disagree.

        Args:
            student_tokenizer: the student's, the one that the loss was built with.
            teacher_tokenizer: the teacher's.
            **options: all but ``aligner`` that `DualTokenizerCollator` takes.

        Raises:
            InputError: a tokenizer is not a fast one, or not the one that the loss was built with.
            ConfigurationError: an option has no such value, or is the aligner.

        Examples:
            >>> from tokenizers import Tokenizer, models, pre_tokenizers
            >>> from dskd_components import DSKDLoss, DSKDSpec
            >>> tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
            >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> loss_fn = DSKDLoss(DSKDSpec(aligner="span"), student_hidden_size=2, teacher_hidden_size=3)
            >>> collate = loss_fn.collator(tokenizer, tokenizer, padding_side="left")
            >>> collate([{"text": "a b"}])["student_groups"]
            tensor([[0, 1]])
        """
        refuse_aligner(options, "aligner", f"{self.spec.aligner.name!r}")
        options.setdefault("byte_positions", self.spec.reads_byte_positions)
        made = DualTokenizerCollator(student_tokenizer, teacher_tokenizer, aligner=self.spec.aligner, **options)
        require_tokenizers(self.vocabularies.fingerprints, made.encoder.fingerprints)
        return made

    def preprocessor(
        self, student_tokenizer: Any, teacher_tokenizer: Any, **options: Unpack[PreprocessorKeywords]
    ) -> DualTokenizerPreprocessor:
        """Return a preprocessor for this loss, with its aligner; `collator` reads what it makes.

        Args:
            student_tokenizer: the student's, the one that the loss was built with.
            teacher_tokenizer: the teacher's.
            **options: all but ``aligner`` that `DualTokenizerPreprocessor` takes.

        Raises:
            InputError: as in `collator`.
            ConfigurationError: as there.
        """
        refuse_aligner(options, "aligner", f"{self.spec.aligner.name!r}")
        options.setdefault("byte_positions", self.spec.reads_byte_positions)
        made = DualTokenizerPreprocessor(student_tokenizer, teacher_tokenizer, aligner=self.spec.aligner, **options)
        require_tokenizers(self.vocabularies.fingerprints, made.encoder.fingerprints)
        return made

    def run(
        self,
        student: CausalLM,
        teacher: CausalLM | OfflineTeacher,
        batch: Mapping[str, Tensor],
        *,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
    ) -> DSKDOutput:
        """Run both models on a batch and compute the loss. The teacher runs without gradients.

        Args:
            student: the student.
            teacher: the teacher, in evaluation mode; or a `TeacherStore` of it, which is not run.
            batch: for each side the columns ``student_input_ids``, ``student_labels`` (not shifted, -100 where not
                scored), ``student_attention_mask``, and so on with ``teacher_``; with one tokenizer the prefix may be
                left out. ``student_groups`` and ``teacher_groups`` (`TokenGroups`, by token), or ``alignment`` as in
                `forward`, go to the aligner.
            num_items_in_batch: what the mean divides by, over all micro-batches and ranks; see `forward`.
            step: how many optimizer steps have been taken; see `forward`.

        Returns:
            As `forward`.

        Raises:
            InputError: a column is missing, the batch was made with other tokenizers or for another aligner, or as in
                `forward`.
            StoreError: the store does not have a sample of the batch.
        """
        host_batch = batch_on_host(batch)
        require_origin(host_batch, self.vocabularies.fingerprints, self.spec.aligner)
        student_states = self.states(student, batch, "student", host_batch=host_batch)
        teacher_states = self.states(teacher, batch, "teacher", host_batch=host_batch)
        if self.spec.aligner.same_tokenizer:  # otherwise a call looks at it with all else
            require(*common_samples_checks(student_states, teacher_states))
        with naming_damaged_parameters({"student": student, "teacher": teacher}):
            output: DSKDOutput = self(
                student_states,
                teacher_states,
                alignment=groups_of_batch(batch),
                num_items_in_batch=num_items_in_batch,
                step=step,
            )
        return output

    def states(
        self,
        model: CausalLM | OfflineTeacher,
        batch: Mapping[str, Tensor],
        side: Side,
        *,
        host_batch: Mapping[str, Tensor] | None = None,
        reads_columns: Mapping[str, str] | None = None,
    ) -> LMStates:
        """Run one model on its columns of a batch, as `run` does with both.

        Args:
            model: the student or the teacher.
            batch: as in `run`.
            side: which one it is. The teacher runs without gradients.
            host_batch: as in `run_model`.
            reads_columns: as there; None: those that this loss's components read.

        Raises:
            InputError: a column is missing, or the model is none.
            ConfigurationError: tensor parallelism has cut the model's layers and left its head whole on each rank.
        """
        require_model(model, side)
        self._look_at_placements(model, side)
        stand_in, ids = self.vocabularies.stand_in, self.teacher_to_student_ids
        if side == "teacher" and self.spec.aligner.same_tokenizer and stand_in is not None and ids is not None:
            batch, host_batch = with_stand_ins(batch, ids, stand_in), None
        return run_model(
            model,
            batch,
            side,
            valid_vocabulary_size=self.vocabularies.sizes[side],
            same_tokenizer=self.spec.aligner.same_tokenizer,
            reads_embeddings=self.spec.aligner.reads_embeddings,
            subset=self.subsets[side],
            reads_columns=reasons_for_columns([self.spec], side) if reads_columns is None else reads_columns,
            host_batch=host_batch,
        )

    def _look_at_placements(self, model: CausalLM | OfflineTeacher, side: Side) -> None:
        """Refuse a head that tensor parallelism has left whole on each rank; looked at in the first step."""
        if side in self._placed or isinstance(model, OfflineTeacher):
            return
        if getattr(self.spec.engine, "vocabulary_parallel", "never") != "never":
            require_cut_head(model, side)
        self._placed.add(side)

    def save(self, folder: str | Path) -> None:
        """Write all that the loss owns, with what it has learned for: spec, tokenizers, heads, plugins.

        Args:
            folder: made if it is not there. It gets ``projectors.safetensors`` and, to be read, ``projectors.json``.
                Under several processes every rank may call; rank 0 writes.

        Raises:
            CheckpointError: the folder cannot be written to, or holds files of these names of another origin.
        """
        write_checkpoint(folder, describe_loss(self), checkpoint_tensors(self))

    def restore(self, folder: str | Path, *, accept: Collection[str] = ()) -> None:
        """Take over what `save` has written; all of it or nothing.

        Args:
            folder: the folder.
            accept: differences that are meant, by the paths that the error names: ``["spec.kd_rate"]``.

        Raises:
            CheckpointError: the files are missing or damaged, or of another spec, tokenizer, model or plugin version;
                the message has both values of all that differs. The engine may differ.
        """
        accept = paths_to_accept(accept)
        saved = read_checkpoint(folder)
        require_no_difference(saved.description, describe_loss(self), accept, source=str(saved.file))
        saved.restore(self)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        student: CausalLM,
        teacher: CausalLM | OfflineTeacher,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
        *,
        accept: Collection[str] = (),
        vocabulary_map: VocabularyMap | None = None,
        cache_dir: str | Path | None = None,
        student_tokens: Tensor | Sequence[int] | None = None,
        teacher_tokens: Tensor | Sequence[int] | None = None,
        other_tokens: Others | None = None,
    ) -> Self:
        """Build the loss that `save` has written, for the same pair of models.

        Args:
            folder: the folder.
            student: the student, with the weights that it had when the loss was saved.
            teacher: the teacher.
            student_tokenizer: its tokenizer; see `from_models`.
            teacher_tokenizer: the teacher's tokenizer.
            accept: differences that are meant; see `restore`.
            vocabulary_map: the map that the loss was built with, if it was given one.
            cache_dir: a folder that keeps maps between vocabularies from run to run.
            student_tokens: as in `from_models`.
            teacher_tokens: as there.
            other_tokens: as there.

        Raises:
            CheckpointError: as in `restore`, or a component of the saved spec is not installed.
            InputError: as in `from_models`.
        """
        accept = paths_to_accept(accept)
        saved = read_checkpoint(folder)
        loss = cls.from_models(
            saved.spec(),
            student,
            teacher,
            student_tokenizer,
            teacher_tokenizer,
            vocabulary_map=vocabulary_map,
            vocabulary_method=saved.description.vocabulary_method or "bytes",
            cache_dir=cache_dir,
            student_tokens=student_tokens,
            teacher_tokens=teacher_tokens,
            other_tokens=other_tokens,
        )
        require_no_difference(saved.description, describe_loss(loss), accept, source=str(saved.file))
        saved.restore(loss)
        return loss

    @classmethod
    def preflight(
        cls,
        student: CausalLM,
        teacher: CausalLM | OfflineTeacher,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
        *,
        spec: DSKDSpec | None = None,
        texts: Sequence[str] | None = None,
        samples: Sequence[Any] | None = None,
        columns: Columns | None = None,
        batch: Mapping[str, Tensor] | None = None,
        tokens_per_step: int | None = 2048,
        student_tokens: Tensor | Sequence[int] | None = None,
        teacher_tokens: Tensor | Sequence[int] | None = None,
        other_tokens: Others | None = None,
    ) -> PreflightReport:
        """Look at a pair of models before training: does it fit, what should be changed, what does a step cost.

        Nothing is changed: no gradient, no mode, no generator.

        Args:
            student: the student.
            teacher: the teacher.
            student_tokenizer: its tokenizer; without it much cannot be looked at.
            teacher_tokenizer: the teacher's tokenizer.
            spec: what is to be computed; None: the recommended one.
            texts: plain texts to train on, short for ``samples=[{"text": ...}, ...]``; None, and no samples either: a
                few that the library brings along.
            samples: what to train on, of any form that `DualTokenizerCollator` takes; a str is a text.
            columns: what the keys of a sample are called, as the collator takes it.
            batch: a batch to train on, as `run` takes it; None: one of the samples.
            tokens_per_step: tokens of the student for which time and memory are stated; None: nothing is measured.
            student_tokens: as in `from_models`: the tokens that the student's head is narrowed to.
            teacher_tokens: the same of the teacher's.
            other_tokens: what becomes of all others.

        Returns:
            The report. What cannot be looked at is an error in it, never an exception.

        Raises:
            InputError: there are no samples, texts are no texts, a model or a tokenizer is none, the number of tokens
                is not positive, or the teacher is a store, which cannot be run.
        """
        if isinstance(teacher, OfflineTeacher):
            raise InputError(
                f"preflight: it runs the teacher to look at it, and {type(teacher).__name__} cannot be run. Give the "
                "teacher itself, before its store is built."
            )
        pair = Pair(
            student=student,
            teacher=teacher,
            student_tokenizer=student_tokenizer,
            teacher_tokenizer=teacher_tokenizer,
            spec=spec,
            samples=samples_of(texts, samples),
            columns=columns,
            batch=batch,
            student_tokens=student_tokens,
            teacher_tokens=teacher_tokens,
            other_tokens=other_tokens,
        )
        return examine(cls, pair, tokens_per_step=tokens_per_step)


def _width(embedding: Tensor | None) -> int | None:
    """Return the width of an input embedding, if it is known."""
    return None if embedding is None else embedding.shape[1]
