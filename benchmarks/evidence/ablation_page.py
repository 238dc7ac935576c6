"""What the page says of what each part of a method brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.evidence.tables import BY_VOCABULARIES, difference, markdown, verdict

if TYPE_CHECKING:
    from benchmarks.evidence.tables import Found

WORDS: Final = {
    "projectors": (
        "What leads from one space to the other starts at random, or from the two heads. As published, with two "
        "vocabularies, there is a filter besides, which goes with the random start."
    ),
    "alignment": (
        "Where the teacher's state of a position is taken from: attention that is learned, pairs that the text gives, "
        "or both. What `dskd-cma` and `kq` project holds the embeddings of the teacher's targets besides; exact pairs "
        "and the attention that starts from shared tokens have states alone."
    ),
    "spaces": (
        "Where predictions are compared: in the teacher's space, in the student's too, and by the tokens that both "
        "have, without a projector."
    ),
    "temperature": (
        "By which number both models' logits are divided before they are compared, with the loss times its square. "
        "What is compared differs, too, where *what changes* says so."
    ),
    "version": (
        "The second version of the method against the first: what the projected teacher learns from, and which "
        "positions count."
    ),
    "distance": "By what predictions are compared, in both spaces.",
}
"""What is changed, by part."""


def ablation_tables(found: Found) -> str:
    """Return for each part what it is, what was found, and the table of its pairs.

    Args:
        found: the results.
    """
    if not any(pair["measured"] for pair in found["ablation"]):
        return "No pair is measured yet."
    texts = []
    for part, words in WORDS.items():
        pairs = [pair for pair in found["ablation"] if pair["part"] == part]
        texts.append(f"**{part.capitalize()}.** {words} {_found(pairs)}")
        rows = [_row(pair, row) for pair in pairs for row in pair["measured"]]
        if rows:
            head = ("vocabularies", "from", "to", "what changes", "on", "test loss", "seeds")
            texts.append(markdown(head, rows))
    note = (
        "Nats a byte of test text, the second arm minus the first, over the seeds that both have; less is better. In "
        "brackets 95 %, over seeds and documents; bold: better in every seed, and the whole interval is below 0. Each "
        "arm has its own best rate, which the tables of all arms have. Both arms of a row were trained on one machine, "
        "from one student."
    )
    return "\n\n".join((*texts, note))


def _found(pairs: list[Found]) -> str:
    """Return what the pairs of a part have found, in one sentence."""
    of: dict[str, list[str]] = {"better": [], "worse": [], "not clear": [], "not measured": []}
    for pair in pairs:
        name = f"`{pair['before']}` to `{pair['after']}`"
        for row in pair["measured"]:
            of[verdict(row["minus"])].append(f"{name} ({100 * row['minus']['mean'] / row['before']:+.1f} %)")
        if not pair["measured"]:
            of["not measured"].append(name)
    said = "; ".join(f"{label}: {', '.join(names)}" for label, names in of.items() if names)
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def _row(pair: Found, row: Found) -> tuple[str, ...]:
    return (
        BY_VOCABULARIES[pair["setting"]].partition(" ")[0].lower(),
        *(
            name if f"`{arm}`" in name else f"{name} (`{arm}`)"
            for arm, name in zip((pair["before"], pair["after"]), pair["titles"], strict=True)
        ),
        "; ".join(pair["changes"]),
        row["machine"],
        difference(row["minus"]) + ("" if row["complete"] else " *(not complete yet)*"),
        str(len(row["minus"]["seeds"])),
    )
