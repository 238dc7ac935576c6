"""Every number of the experiment in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained on what, and for how long.

    Args:
        chunk_bytes: length of a text.
        held_out_chunks: how many held-out texts models are measured on.
        max_documents: how many documents are used; None: all.
        teacher_vocabulary: tokens of the byte-level BPE.
        student_vocabulary: tokens of the Metaspace BPE.
        teacher_width: width of the teacher's hidden states.
        teacher_layers: their number.
        student_width: width of the student's hidden states.
        student_layers: their number.
        teacher_steps: optimizer steps of the teacher.
        steps: optimizer steps of each student.
        teacher_batch_size: texts in a step of the teacher.
        batch_size: texts in a step of a student.
        student_texts: how many of the training texts the students have, with and without a teacher; None: all.
        teacher_lr: peak learning rate of the teacher.
        student_lr: peak learning rate of the student, the same with and without a teacher.
        projector_lr: peak learning rate of the projectors and the aligner.
        seeds: of initial weights and order of batches; for each, one student of either kind is trained.
        teacher_seed: of the teacher's initial weights and batches.
        threads: of torch; results differ in the last digits between numbers of threads.
        evaluations: how many times a student is measured on the way.
    """

    chunk_bytes: int = 256
    held_out_chunks: int = 256
    max_documents: int | None = None
    teacher_vocabulary: int = 1536
    student_vocabulary: int = 768
    teacher_width: int = 128
    teacher_layers: int = 3
    student_width: int = 64
    student_layers: int = 2
    teacher_steps: int = 600
    steps: int = 320
    teacher_batch_size: int = 8
    batch_size: int = 4
    student_texts: int | None = 200
    teacher_lr: float = 3e-3
    student_lr: float = 3e-3
    projector_lr: float = 1e-2
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
            steps=20,
            teacher_batch_size=4,
            threads=1,
            seeds=(1, 2),
            evaluations=2,
        )
