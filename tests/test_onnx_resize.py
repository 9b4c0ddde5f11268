"""ONNX import: where a Resize looks, by PyTorch, by exact fractions, and by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx_models import node
from test_onnx_operators import outputs

RNG = np.random.default_rng(0)
HALF = Fraction(1, 2)


@pytest.mark.parametrize("how", ["align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric"])
def test_broken_factors(tmp_path: Path, how: str) -> None:
    """PyTorch's interpolate with a scale_factor, as its exporters write it."""
    torch = pytest.importorskip("torch")
    for scales in ((1.3, 1.7), (0.6, 2.6), (2.9, 0.45), (3.2, 1.24)):
        x = RNG.standard_normal((2, 3, 9, 8)).astype(np.float32)
        mode = {"mode": "nearest", "nearest_mode": "floor"} if how == "asymmetric" else {}
        nodes = [
            node("Resize", "x", "", "s", **{"mode": "linear", **mode},
                 coordinate_transformation_mode=how)
        ]  # fmt: skip
        y, _ = outputs(tmp_path, nodes, x, {"s": np.float32([1, 1, *scales])})
        wanted = torch.nn.functional.interpolate(
            torch.tensor(x), scale_factor=scales,
            **({"mode": "nearest"} if mode else
               {"mode": "bilinear", "align_corners": how == "align_corners"}),
        ).numpy()  # fmt: skip
        assert y.shape == wanted.shape
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("size", [(5, 10), (8, 15), (40, 20)])
def test_sizes_of_broken_factors(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    """40 x 1.3 are 52, for every size of the picture, though 1.3 is a little less in float32."""
    nodes = [
        node("Resize", "x", "", "s", mode=mode, nearest_mode="floor",
             coordinate_transformation_mode="asymmetric" if mode == "nearest" else "half_pixel")
    ]  # fmt: skip
    for factor in (1.3, 1.4, 0.7):
        scales = {"s": np.float32([1, 1, factor, factor])}
        x = np.ones((1, 1, *size), np.float32)
        y, _ = outputs(tmp_path, nodes, x, scales, 13)
        assert y.shape[2:] == tuple(round(factor * 10) * side // 10 for side in size)
        assert (y == 1).all()


def test_nearest_of_a_tie_is_chosen_in_float32(tmp_path: Path) -> None:
    """(6 + 1/2) / 1.3 - 1/2 is 4.5 in float32, and a little more where 1.3's rounding is seen."""
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    nodes = [node("Resize", "x", "", "s", mode="nearest")]
    y, _ = outputs(tmp_path, nodes, x, {"s": np.float32([1, 1, 1, 1.3])}, 13)
    assert y.ravel().tolist() == [0, 1, 1, 2, 3, 4, 4, 5, 6, 7]


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("how", ["half_pixel", "asymmetric"])
def test_a_tie_is_a_tie(tmp_path: Path, how: str, rounding: str) -> None:
    """4 / (8 / 7) is 3.5, and a little less in float32; 13 / (26 / 11) is 5.5, and more."""
    add = HALF if how == "half_pixel" else Fraction()
    for n, m in ((7, 2), (7, 8), (7, 16), (10, 12), (10, 24), (11, 26), (13, 4), (16, 20)):
        nodes = [
            node("Resize", "x", "", "", "s", coordinate_transformation_mode=how,
                 nearest_mode=rounding)
        ]  # fmt: skip
        x = np.arange(n, dtype=np.float32).reshape(1, 1, 1, n)
        y, _ = outputs(tmp_path, nodes, x, {"s": np.array([1, 1, 1, m])}, 13)
        at = [(i + add) * n / m - add for i in range(m)]
        ceil = rounding == "round_prefer_ceil"
        wanted = [math.floor(p + HALF) if ceil else math.ceil(p - HALF) for p in at]
        assert y.ravel().tolist() == [min(max(i, 0), n - 1) for i in wanted], (n, m)
