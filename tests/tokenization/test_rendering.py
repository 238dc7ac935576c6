"""Alignments as text and as a figure."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from dskd_components.aligners.align_text import align_text
from dskd_components.tokenization.drawing import display_width
from examples.offline.tokenizers import LOADERS
from tests.helpers import texts


@pytest.fixture(autouse=True)
def _no_screen():
    mpl.use("agg")


def test_text_shows_rows_marks_and_reasons():
    alignment = align_text(LOADERS["gpt2"](), LOADERS["mistral"](), "Hi 123\n", add_special_tokens=True)
    assert alignment.to_text() == (
        "exact_match: 67% of 3 student tokens and 29% of 7 teacher tokens\n"
        "     Hi  ·123     ⏎\n"
        "✗    ┃   ✗        ┃\n"
        "<s>  Hi  ·|1|2|3  ⏎\n"
        "student 1 '·123': split into several tokens on the other side\n"
        "teacher 0 '<s>': template token that the other side lacks\n"
        "teacher 2 '·': spaces that the other side joins to a word\n"
        "teacher 3 '1': part of a longer token on the other side\n"
        "teacher 4 '2': part of a longer token on the other side\n"
        "teacher 5 '3': part of a longer token on the other side"
    )


def test_rows_are_broken():
    text = align_text(LOADERS["gpt2"](), LOADERS["qwen"](), texts.PROSE, "span").to_text(width=40)
    assert max(map(display_width, text.splitlines()[1:])) <= 42


@pytest.mark.parametrize("method", ["exact_match", "span", "min_edit"])
@pytest.mark.parametrize("name", ["mixed_all", "cjk", "single_space"])
def test_figures_are_drawn_and_saved(method, name, tmp_path):
    alignment = align_text(LOADERS["gpt2"](), LOADERS["bert"](), texts.TRICKY[name], method)
    alignment.plot(path=tmp_path / "alignment.png")
    assert (tmp_path / "alignment.png").stat().st_size > 1000
    assert alignment.to_text()


def test_plot_draws_on_given_axes():
    axes = Figure().add_subplot()
    alignment = align_text(LOADERS["gpt2"](), LOADERS["mistral"](), "Hello $5")
    assert alignment.plot(axes) is axes
    assert len(axes.lines) == len(alignment.pairs)
