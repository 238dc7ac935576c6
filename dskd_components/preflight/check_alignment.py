"""How much of some texts an aligner brings together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from dskd_components.aligners.align_text import align_texts
from dskd_components.components.text_methods import installed_text_aligners, maker_of, method_label
from dskd_components.errors import InputError, PluginError
from dskd_components.preflight.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.components.aligner import Aligner
    from dskd_components.preflight.pair import Pair
    from dskd_components.tokenization.text_alignment import TextAlignment


LITTLE: Final = 0.5
"""Below this share of either side's tokens, an aligner that is told leaves most of the text unused."""


class Coverage(NamedTuple):
    """The share of tokens that have a partner.

    Args:
        student: of the student's tokens.
        teacher: of the teacher's.
    """

    student: float
    teacher: float


def check_alignment(pair: Pair) -> Iterator[Finding]:
    """Align the texts in every way that an aligner can be told."""
    if not pair.has_both_tokenizers:
        return
    if pair.one_tokenizer:
        yield _one_tokenizer(pair)
        return
    wanted = maker_of(pair.spec.aligner) if pair.spec else None
    # The spec's own has its options; of the others, each has its defaults.
    others = [each for each in installed_text_aligners() if wanted is None or each.name != wanted.name]
    for aligner in sorted([*others, *([wanted] if wanted else [])], key=lambda each: each.name):
        method = method_label(aligner)
        try:
            aligned = _aligned(pair, aligner)
        except InputError as error:
            yield Finding("error", f"alignment {method}", str(error).rstrip("."))
            return
        except PluginError as error:
            yield Finding("error" if aligner is wanted else "warning", f"alignment {method}", str(error).rstrip("."))
            continue
        found = coverage(aligned)
        text = (
            f"{found.student:.1%} of the student's and {found.teacher:.1%} of the teacher's tokens have a partner "
            f"({sum(len(each.student) for each in aligned)} and {sum(len(each.teacher) for each in aligned)} tokens of "
            f"{len(aligned)} texts){_reasons(aligned)}"
        )
        little = aligner is wanted and min(found) < LITTLE
        advice = "use the aligner 'span' or 'cma', which leave fewer tokens out" if little else ""
        yield Finding("warning" if little else "ok", f"alignment {method}", text, advice)


def coverage(aligned: list[TextAlignment]) -> Coverage:
    """Return the share of tokens with a partner, over all texts.

    Args:
        aligned: the texts, aligned.
    """
    student = sum(len(text.student) for text in aligned)
    teacher = sum(len(text.teacher) for text in aligned)
    return Coverage(
        1 - sum(len(text.unaligned_student) for text in aligned) / max(student, 1),
        1 - sum(len(text.unaligned_teacher) for text in aligned) / max(teacher, 1),
    )


def _aligned(pair: Pair, aligner: Aligner) -> list[TextAlignment]:
    return align_texts(pair.student_tokenizer, pair.teacher_tokenizer, pair.texts, aligner, add_special_tokens=True)


def _reasons(aligned: list[TextAlignment]) -> str:
    reasons = Counter(
        str(reason) for text in aligned for _, reason in (*text.unaligned_student, *text.unaligned_teacher)
    )
    if not reasons:
        return ""
    return "; the others: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))


def _one_tokenizer(pair: Pair) -> Finding:
    shared = pair.shared_ids
    if shared.all_shared:
        return Finding("ok", "tokenizers", "both models have the same; positions belong together as they are")
    own = []
    for side, tokens in (("student", shared.student_only), ("teacher", shared.teacher_only)):
        named = ", ".join([*map(repr, tokens[:NAMED]), *(["..."] if len(tokens) > NAMED else [])])
        own += [f"{len(tokens)} of the {side}'s ({named})"] if tokens else []
    return Finding(
        "ok",
        "tokenizers",
        f"both models have the same but for added tokens, {' and '.join(own)}: the {len(shared.ids)} ids that they "
        "share are distilled; the others are left out, and so are positions that read or predict them",
    )


NAMED: Final = 3
"""How many tokens a finding names."""
