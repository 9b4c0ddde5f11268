"""Tables on terminals of any width: nothing is cut off, and no line is broken by the terminal."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyface.cli import common

STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take it for one
    monkeypatch.setenv("COLUMNS", str(columns))


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 400])
@pytest.mark.parametrize("network", ["fdfacenet", "mobilefacenet"])
@pytest.mark.usefixtures("surroundings")
def test_a_network_fits_and_keeps_every_figure(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch, network: str, columns: int
) -> None:
    rows = tinyface("info", network, "--json").json["operators"]
    on_terminal(monkeypatch, columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = STYLE.sub("", tinyface("info", network).out)
    assert max(map(len, shown.splitlines())) <= columns
    words = shown.split()
    for row in rows:
        assert row["name"] in words and (f"{row['macs']:,}" in words or not row["macs"])
        assert "x".join(map(str, row["output_shape"])) in words


@given(
    st.integers(1, 6), st.integers(0, 5), st.integers(30, 120), st.randoms(use_true_random=False)
)
def test_any_table_fits(columns: int, count: int, width: int, random: Any) -> None:
    """With a word of at most 8 letters in every header, figures of 8, texts of any length."""
    right = [i for i in range(1, columns) if random.random() < 0.6]

    def text(i: int) -> str:
        words = [str(random.randrange(10**8)) for _ in range(1 if i in right else 5)]
        return " ".join(words[: random.randint(1, 5)])

    headers = [f"h{i}" for i in range(columns)]
    rows = [[text(i) for i in range(columns)] for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        on_terminal(patch, width)
        common.print_table(headers, rows, right=right)
    shown = STYLE.sub("", out.getvalue())
    assert all(len(line) <= width for line in shown.splitlines())
    found = shown.split()
    assert all(word in found for row in rows for cell in row for word in cell.split())


@pytest.mark.usefixtures("surroundings")
def test_a_pipe_gets_whole_lines_whatever_the_terminal(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = set()
    for columns in (40, 80, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        outputs.add(tinyface("info", "fdfacenet").out)
    assert len(outputs) == 1


def test_narrow_rows_in_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [["conv1", "conv2d(stride=(2, 2), pad=(1, 1))", "1x8", "1,234", "-"],
            ["fc", "linear", "1x512", "9", "12"]]  # fmt: skip
    headers = ["operator", "kind", "output", "params", "MACs"]
    footer = ["2 operators", "", "", "1.24 k", "12"]
    on_terminal(monkeypatch, 44)
    common.print_table(headers, rows, right=range(2, 5), footer=footer)
    assert capsys.readouterr().out == (
        "conv1\n"
        "  kind conv2d(stride=(2, 2), pad=(1, 1))\n"
        "  output   1x8  params  1,234  MACs  -\n"
        "fc\n"
        "  kind linear\n"
        "  output 1x512  params      9  MACs 12\n"
        "2 operators\n"
        "  params 1.24 k  MACs 12\n"
    )


def test_text_is_broken_between_words_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = "trained on: pictures of people who do not exist"
    common.print_text(text)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    common.print_text(text)
    whole, broken = capsys.readouterr().out.split("\n", 1)
    assert whole == text
    assert broken == "trained on: pictures of people\n    who do not exist\n"
