"""`LossOfModels`: what `DSKDLoss` does with models, tokenizers and folders, rather than with tensors."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Any

from torch import nn

from dskd_components.checkpoints import (
    HeadFingerprint,
    describe_loss,
    lasting_tensors,
    read_checkpoint,
    require_no_difference,
    write_checkpoint,
)
from dskd_components.models.head import Head
from dskd_components.models.run_model import groups_of_batch, input_embedding, require_fingerprints, run_model
from dskd_components.preflight import examine
from dskd_components.vocabularies import Vocabularies

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from dskd_components.checkpoints import Saved
    from dskd_components.models.states import LMStates, Side
    from dskd_components.models.wrappers import CausalLM
    from dskd_components.output import DSKDOutput
    from dskd_components.preflight import PreflightReport
    from dskd_components.spec.dskd_spec import DSKDSpec
    from dskd_components.tokenization.vocabulary_map import MapMethod


class LossOfModels(nn.Module, ABC):
    """Makes a loss for a pair of models, runs both, keeps what was learned, and looks at the pair beforehand."""

    spec: DSKDSpec
    hidden_sizes: dict[Side, int]
    vocabularies: Vocabularies
    head_fingerprints: dict[Side, HeadFingerprint | None]
    teacher_to_student_ids: Tensor | None
    same_token: Tensor | None

    @classmethod
    def from_models(
        cls,
        spec: DSKDSpec,
        student: CausalLM,
        teacher: CausalLM,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
        *,
        vocabulary_method: MapMethod = "bytes",
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Build the loss for two Hugging Face causal models, and check that their logits are understood.

        Args:
            spec: what is computed.
            student: the student.
            teacher: the teacher.
            student_tokenizer: tells which rows of the student's head are real tokens, and which tokens both have.
            teacher_tokenizer: likewise.
            vocabulary_method: how the teacher's own predictions become student tokens, where the spec wants that:
                ``"bytes"``, by equal tokens alone, or ``"min_edit"``, other tokens by the nearest.
            cache_dir: a folder that keeps maps between vocabularies from run to run.

        Returns:
            The loss, on the student's device. The models do not become part of it.

        Raises:
            InputError: a head's logits differ from its model's own, or a tokenizer does not fit its model.
            ConfigurationError: the spec needs something that is not given, or presumes one tokenizer for two.
        """
        student_head, teacher_head = Head.from_model(student), Head.from_model(teacher)
        vocabularies = Vocabularies.of_tokenizers(
            spec,
            {"student": student_tokenizer, "teacher": teacher_tokenizer},
            {"student": len(student_head.weight), "teacher": len(teacher_head.weight)},
            method=vocabulary_method,
            cache_dir=cache_dir,
        )
        loss = cls(
            spec,
            student_hidden_size=student_head.hidden_size,
            teacher_hidden_size=teacher_head.hidden_size,
            student_embedding_size=input_embedding(student).shape[1],
            teacher_embedding_size=input_embedding(teacher).shape[1],
            student_head=student_head.with_vocabulary(vocabularies.sizes["student"]),
            teacher_head=teacher_head.with_vocabulary(vocabularies.sizes["teacher"]),
            teacher_to_student_ids=vocabularies.teacher_to_student_ids,
            same_token=vocabularies.same_token,
        )
        loss.vocabularies = vocabularies
        models: dict[Side, CausalLM] = {"student": student, "teacher": teacher}
        loss.head_fingerprints = {
            side: None if found is None else found.of_model(models[side])
            for side, found in loss.head_fingerprints.items()
        }
        return loss.to(student_head.weight.device)

    def run(
        self,
        student: CausalLM,
        teacher: CausalLM,
        batch: Mapping[str, Tensor],
        *,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
    ) -> DSKDOutput:
        """Run both models on a batch and compute the loss. The teacher runs without gradients.

        Args:
            student: the student.
            teacher: the teacher, in evaluation mode.
            batch: for each side the columns ``student_input_ids``, ``student_labels`` (not shifted, -100 where not
                scored), ``student_attention_mask``, and so on with ``teacher_``; with one tokenizer the prefix may be
                left out. ``student_groups`` and ``teacher_groups`` (`TokenGroups`, by token), or ``alignment`` as in
                `forward`, go to the aligner.
            num_items_in_batch: as in `forward`.
            step: as in `forward`.

        Returns:
            As `forward`.

        Raises:
            InputError: a column is missing, the batch was made with other tokenizers, or as in `forward`.
        """
        require_fingerprints(batch, self.vocabularies.fingerprints)
        output: DSKDOutput = self(
            self.states(student, batch, "student"),
            self.states(teacher, batch, "teacher"),
            alignment=groups_of_batch(batch),
            num_items_in_batch=num_items_in_batch,
            step=step,
        )
        return output

    def states(self, model: CausalLM, batch: Mapping[str, Tensor], side: Side) -> LMStates:
        """Run one model on its columns of a batch, as `run` does with both.

        Args:
            model: the student or the teacher.
            batch: as in `run`.
            side: which one it is. The teacher runs without gradients.

        Raises:
            InputError: a column is missing.
        """
        return run_model(
            model,
            batch,
            side,
            valid_vocabulary_size=self.vocabularies.sizes[side],
            same_tokenizer=self.spec.aligner.same_tokenizer,
            reads_embeddings=self.spec.aligner.reads_embeddings,
        )

    def save(self, folder: str | Path) -> None:
        """Write the projectors and the aligner, with what they have learned for: spec, tokenizers, heads, plugins.

        Args:
            folder: made if it is not there. It gets ``projectors.safetensors`` and, to be read, ``projectors.json``.
                Under several processes every rank may call; rank 0 writes.

        Raises:
            CheckpointError: the folder cannot be written to, or holds files of these names of another origin.
        """
        write_checkpoint(folder, describe_loss(self), lasting_tensors(self))

    def restore(self, folder: str | Path, *, accept: Collection[str] = ()) -> None:
        """Take over what `save` has written; all of it or nothing.

        Args:
            folder: the folder.
            accept: differences that are meant, by the paths that the error names: ``["spec.kd_rate"]``.

        Raises:
            CheckpointError: the files are missing or damaged, or of another spec, tokenizer, model or plugin version;
                the message has both values of all that differs. The engine may differ.
        """
        self.fitting(folder, accept=accept).restore(self)

    def fitting(self, folder: str | Path, *, accept: Collection[str] = ()) -> Saved:
        """Read what `save` has written, once it is known to be for this loss; nothing is taken over.

        Args:
            folder: as in `restore`.
            accept: likewise.

        Raises:
            CheckpointError: likewise.
        """
        saved = read_checkpoint(folder)
        require_no_difference(saved.description, describe_loss(self), accept, source=str(saved.file))
        return saved

    @classmethod
    def load(
        cls,
        folder: str | Path,
        student: CausalLM,
        teacher: CausalLM,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
        *,
        accept: Collection[str] = (),
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Build the loss that `save` has written, for the same pair of models.

        Args:
            folder: the folder.
            student: the student, with the weights that it had when the loss was saved.
            teacher: the teacher.
            student_tokenizer: as in `from_models`.
            teacher_tokenizer: likewise.
            accept: as in `restore`.
            cache_dir: as in `from_models`.

        Raises:
            CheckpointError: as in `restore`, or a component of the saved spec is not installed.
            InputError: as in `from_models`.
        """
        saved = read_checkpoint(folder)
        loss = cls.from_models(
            saved.spec(),
            student,
            teacher,
            student_tokenizer,
            teacher_tokenizer,
            vocabulary_method=saved.description.vocabulary_method or "bytes",
            cache_dir=cache_dir,
        )
        require_no_difference(saved.description, describe_loss(loss), accept, source=str(saved.file))
        saved.restore(loss)
        return loss

    @classmethod
    def preflight(
        cls,
        student: CausalLM,
        teacher: CausalLM,
        student_tokenizer: Any = None,
        teacher_tokenizer: Any = None,
        *,
        spec: DSKDSpec | None = None,
        texts: Sequence[str] | None = None,
        batch: Mapping[str, Tensor] | None = None,
        tokens_per_step: int | None = 2048,
    ) -> PreflightReport:
        """Look at a pair of models before training: does it fit, what should be changed, what does a step cost.

        Nothing is changed: no gradient, no mode, no generator.

        Args:
            student: the student.
            teacher: the teacher.
            student_tokenizer: its tokenizer; without it much cannot be looked at.
            teacher_tokenizer: likewise.
            spec: what is to be computed; None: the recommended one.
            texts: samples of the text to train on; None: a few that the library brings along.
            batch: a batch to train on, as `run` takes it; None: one of the texts.
            tokens_per_step: tokens of the student for which time and memory are stated; None: nothing is measured.

        Returns:
            The report. What cannot be looked at is an error in it, never an exception.

        Raises:
            InputError: the texts are no texts, or the number of tokens is not positive.
        """
        return examine(
            cls,
            student,
            teacher,
            student_tokenizer,
            teacher_tokenizer,
            spec=spec,
            texts=texts,
            batch=batch,
            tokens_per_step=tokens_per_step,
        )
