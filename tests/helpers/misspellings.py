"""Slips of the keyboard."""

from __future__ import annotations

from string import ascii_lowercase

from hypothesis import strategies as st


@st.composite
def misspelt(draw: st.DrawFn, word: str) -> str:
    """One letter dropped, doubled, changed or swapped with the next; never the word itself."""
    position = draw(st.integers(0, len(word) - 1))
    before, letter, after = word[:position], word[position], word[position + 1 :]
    slips = [before + letter * 2 + after, before + draw(st.sampled_from(ascii_lowercase)) + after]
    if len(word) > 2:
        slips += [before + after, before + after[:1] + letter + after[1:]]
    return draw(st.sampled_from(slips).filter(lambda slip: slip != word))
