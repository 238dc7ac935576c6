"""Every number of the experiment in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from examples.two_tokenizers.recording import Arm


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained on what, and for how long.

    Args:
        chunk_bytes: length of a text.
        held_out_chunks: how many held-out texts models are measured on.
        max_documents: how many chapters and how many modules are used; None: all.
        teacher_vocabulary: tokens of the byte-level BPE.
        student_vocabulary: tokens of the Metaspace BPE.
        teacher_width: width of the teacher's hidden states.
        teacher_layers: their number.
        student_width: width of the student's hidden states.
        student_layers: their number.
        teacher_steps: optimizer steps of the teacher.
        pretraining_steps: optimizer steps of the student before it is distilled, once for all arms and seeds.
        steps: optimizer steps of each student from there on.
        teacher_batch_size: texts in a step of the teacher, and of the student before it is distilled.
        batch_size: texts in a step of a student.
        student_texts: how many texts a seed draws for its students, with and without a teacher.
        teacher_lr: first learning rate of the teacher; it falls to 0, as all do.
        pretraining_lr: of the student before it is distilled.
        student_lrs: of the students, for each arm the best on the dev texts: `examples.two_tokenizers.tuning`.
        projector_lr: of the projectors and the aligner.
        seeds: of the texts, their order, and the projectors; for each, one student of every arm is trained.
        teacher_seed: of the initial weights and batches of the teacher, and of the student before it is distilled.
        threads: of torch; results differ in the last digits between numbers of threads.
        evaluations: how many times a student is measured on the way.
    """

    chunk_bytes: int = 256
    held_out_chunks: int = 256
    max_documents: int | None = None
    teacher_vocabulary: int = 2048
    student_vocabulary: int = 1024
    teacher_width: int = 160
    teacher_layers: int = 3
    student_width: int = 96
    student_layers: int = 2
    teacher_steps: int = 700
    pretraining_steps: int = 300
    steps: int = 200
    teacher_batch_size: int = 8
    batch_size: int = 4
    student_texts: int = 200
    teacher_lr: float = 3e-3
    pretraining_lr: float = 3e-3
    student_lrs: Mapping[Arm, float] = field(
        default_factory=lambda: {"ce": 2e-3, "dskd-cma": 2e-3, "recommended": 4e-3}
    )
    projector_lr: float = 3e-3
    seeds: tuple[int, ...] = (1, 2, 3)
    teacher_seed: int = 0
    threads: int = 2
    evaluations: int = 5

    @property
    def max_length(self) -> int:
        """Tokens that a text has at most: a token for each byte, the begin token, and a leading space."""
        return self.chunk_bytes + 2

    @classmethod
    def quick(cls) -> Self:
        """Return settings that run in seconds, to see that everything works; the results mean nothing."""
        return cls(
            held_out_chunks=24,
            max_documents=24,
            teacher_vocabulary=512,
            student_vocabulary=448,
            teacher_width=64,
            teacher_layers=1,
            student_width=32,
            student_layers=1,
            teacher_steps=30,
            pretraining_steps=20,
            steps=20,
            teacher_batch_size=4,
            threads=1,
            seeds=(1, 2),
            evaluations=2,
        )
