"""Sizes that ncnn files compute: the notation, and networks that hold for one size only."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from attacks import ncnn as attack
from hypothesis import given
from hypothesis import strategies as st
from ncnn_files import write_ncnn

from tinyface.errors import FormatError, TinyfaceError
from tinyface.formats.ncnn import read_ncnn
from tinyface.formats.ncnn_expression import evaluate, side
from tinyface.runtime import Session

MAP, MATRIX, VECTOR = (1, 8, 9, 11), (1, 5, 7), (1, 6)


@pytest.mark.parametrize(
    "text, values",
    [
        ("0w,0h,0c", [11, 9, 8]),
        ("1w,1h,1c,1d", [7, 5, 1, 1]),
        ("2w,2h,0n", [6, 1, 1]),
        ("-1,*(0w,0h),-(0c,3)", [-1, 99, 5]),
        ("//(0w,2),ceil(/(0w,2)),floor(/(0h,2)),%(0w,4)", [5, 6, 4, 3]),
        ("max(0w,+(0h,4)),min(2,neg(abs(-3)))", [13, -3]),
        ("trunc(*(0w,0.5)),round(2.6)", [5, 3]),
        ("round(2.5),round(-2.5),round(0.4)", [3, -3, 0]),  # away from zero, as C does
    ],
)
def test_the_notation(text: str, values: list[int]) -> None:
    assert evaluate(text, [MAP, MATRIX, VECTOR]) == values


def test_axes_of_four() -> None:
    assert [side((1, 2, 3, 4, 5), axis) for axis in "cdhw"] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "text",
    ["", "0w,", ",0w", "0w 1h", "7w", "+(1)", "+(1,2", "sqrt(4)", "()", "*" * 500, "/(1,0)",
     "neg(" * 40 + "1" + ")" * 40, "__import__", "0x"],
)  # fmt: skip
def test_what_is_no_list_of_sizes(text: str) -> None:
    with pytest.raises((ValueError, LookupError, ArithmeticError)):
        evaluate(text, [MAP])


@given(st.text(alphabet="0123whcdn+-*/%(),.abminx ", max_size=60))
def test_no_text_is_a_surprise(text: str) -> None:
    with suppress(ValueError, LookupError, ArithmeticError):
        assert all(isinstance(value, int) for value in evaluate(text, [MAP, MATRIX]))


def written(tmp_path: Path, *lines: str) -> Path:
    return write_ncnn(tmp_path, attack.param("Input in 0 1 in", *lines, blobs=20))


@pytest.mark.parametrize(
    "line",
    ["Pooling p 1 1 in out 0=1 7=1 8=3 18=4", 'Reshape r 1 1 in out 6="0w,-1"',
     'Interp i 1 1 in out 0=1 9="*(0w,2),*(0h,2)"'],
)  # fmt: skip
def test_what_is_computed_of_one_size_is_refused_at_another(tmp_path: Path, line: str) -> None:
    graph = read_ncnn(written(tmp_path, line), size=(9, 10))
    session = Session(graph)
    assert session.run(np.ones((1, 3, 9, 10), np.float32))
    with pytest.raises(TinyfaceError):
        session.run(np.ones((1, 3, 20, 20), np.float32))


def test_a_size_with_as_many_pixels_is_another_size(tmp_path: Path) -> None:
    """What has been reshaped does not tell that its sides were swapped."""
    path = written(tmp_path, "GroupNorm g 1 1 in out 0=3 3=0")
    session = Session(read_ncnn(path, size=(9, 10)))
    assert session.run(np.ones((1, 3, 9, 20), np.float32))  # the height alone is held
    with pytest.raises(TinyfaceError):
        session.run(np.ones((1, 3, 10, 9), np.float32))
    path = written(tmp_path, "Pooling p 1 1 in out 0=1 7=1 8=3")
    with pytest.raises(TinyfaceError):
        Session(read_ncnn(path, size=(9, 10))).run(np.ones((1, 3, 10, 9), np.float32))


def test_small_files_make_no_large_networks(tmp_path: Path) -> None:
    many = [f"Pooling p{i} 1 1 b{i} b{i + 1} 0=1 7=1 8={127 + i % 2}" for i in range(100)]
    with pytest.raises(FormatError, match="more than 10000 operators"):
        read_ncnn(written(tmp_path, "Noop n 1 1 in b0", *many), size=(127, 127))
    bands = [f"LRN l{i} 1 1 b{i} b{i + 1}" for i in range(9)]
    wide = ("Input in 0 1 in 0=2 1=2 2=2048", "Noop n 1 1 in b0", *bands)
    with pytest.raises(FormatError, match="too much memory"):
        read_ncnn(write_ncnn(tmp_path, attack.param(*wide, blobs=20)))


def test_what_holds_for_any_size_is_left_free(tmp_path: Path) -> None:
    session = Session(read_ncnn(written(tmp_path, "Pooling p 1 1 in out 0=1 7=1 8=1"), size=(9, 9)))
    (y,) = session.run(np.ones((1, 3, 20, 17), np.float32)).values()
    assert y.shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    "line, says",
    [
        ("Crop l 2 1 in in out", "another blob"),
        ("ExpandDims l 1 1 in out -23303=2,1,1", "once in a list"),
        ("Gemm l 1 1 in out 4=1", "a matrix of the file"),
        ("GroupNorm l 1 1 in out 0=2", "2 groups of 3"),
        ("LayerNorm l 1 1 in out 0=7", "no axes"),
        ("LRN l 1 1 in out 0=1", "windows of a channel"),
        ("LRN l 1 1 in out 1=4", "even number"),
        ("Squeeze l 1 1 in out -23303=1,17", "axis 17"),
        ("ExpandDims l 1 1 in out 0=1", "once in a list"),
        ("Padding l 1 1 in out 0=-1 4=1", "mirror image"),
        ("Crop l 1 1 in out 3=5 6=1", "a size and an end"),
        ("Log l 1 1 in out 0=1", "base 1"),
        ("MultiHeadAttention l 1 1 in out 0=8 1=3", "do not fit"),
        ("Padding l 1 1 in out 0=1 4=3", "mirror image"),
        ("Permute l 1 1 in out 0=6", "order 6 of 3"),
        ("Reduction l 1 1 in out 0=6", "operation 6"),
        ("Reshape l 1 1 in out 12=1 13=0 0=-1", "batch"),
        ('Reshape l 1 1 in out 6="0w,"', "end early"),
        ("Tile l 1 1 in out 0=0 1=65", "65 copies"),
        ("UnaryOp l 1 1 in out 0=9", "operation 9"),
        ("BinaryOp l 1 1 in out 0=9 1=1 2=-2", "above 0"),
        ("Pooling l 1 1 in out 0=1 7=1 8=999", "up to 128"),
        ("Reorg l 1 1 in out 0=5", "blocks of 5"),
    ],
)
def test_layers_that_are_refused(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(FormatError, match=f"layer 'l'.*{says}"):
        read_ncnn(written(tmp_path, line), size=(12, 12))


@pytest.mark.parametrize(
    "lines, channels",
    [
        (("Convolution l 1 1 in out 0=4 1=3 6=36",), 1),
        (("BinaryOp b 1 1 in z 0=1 1=1 2=127.5", "Convolution l 1 1 z out 0=2 1=3 11=1 6=6"), 1),
        (("Convolution l 1 1 in out 0=4 1=1 6=12",), 3),
        (("ReLU r 1 1 in z", "Convolution l 1 1 z out 0=4 1=1 6=12"), 3),
    ],
)
def test_channels_of_a_picture_follow_from_the_first_convolution(
    tmp_path: Path, lines: tuple[str, ...], channels: int
) -> None:
    path = written(tmp_path, *lines)
    count = int(lines[-1].split("6=")[1])
    path.with_suffix(".bin").write_bytes(b"\0" * 4 * (1 + count))
    (kind,) = read_ncnn(path, size=(5, 5)).inputs.values()
    assert kind.shape == (1, channels, 5, 5)
