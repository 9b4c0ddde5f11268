"""ONNX's Resize and Upsample.

ONNX has many ways to map a position of the output to one of the input; our operator has
PyTorch's two. Where they agree for the sizes at hand, our operator is used. Elsewhere the resize
is written out as what it is, a product with a matrix along each axis: exact, for this size of
the picture, and slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Linear, Reshape, Resize, Transpose
from tinyface.ops.resize import positions
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_MODES: Final = {"nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear"}
_CORNERS: Final = "align_corners"
_ROUNDING: Final[dict[str, Callable[[Array], Array]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def make_Resize(c: Converter, node: OnnxNode) -> list[str]:
    """Nearest and linear in height and width."""
    x = c.tensor(node, 0)
    side = c.shape(x)
    mode = _MODES.get(node.attribute("mode", "nearest"))
    if mode is None or len(side) != 4 or node.attribute("antialias", 0):
        raise node.refuse("known here are nearest and linear, in height and width")
    if mode == "bilinear" and node.attribute("coordinate_transformation_mode", "") == _CORNERS:
        mode = "corners"
    out, scale = _target(c, node, side)
    op = Resize(mode=mode, size=(out[2], out[3]))
    if scale is not None and (int(side[2] * scale[0]), int(side[3] * scale[1])) == out[2:]:
        op = Resize(mode=mode, scale=scale)  # stays right for other sizes of the picture
    steps = op.steps((side[2], side[3]), (out[2], out[3]))
    theirs, agree = [], True
    for axis in (0, 1):
        n, m = side[2 + axis], out[2 + axis]
        factor = scale[axis] if scale is not None else m / n
        wanted = _positions(node, mode, n, m, factor)
        ours = positions(mode, np.arange(m), n, steps[axis])
        theirs.append(wanted)
        agree = agree and bool(np.abs(ours - wanted).max() < 1e-4)
    if agree:
        like = _like(c, node, x, out)
        return [
            c.apply(Resize(mode=mode), x, like, node=node) if like else c.apply(op, x, node=node)
        ]
    y = _product(c, node, x, _matrix(theirs[1], side[3]), "columns")
    flip = Transpose(perm=(0, 1, 3, 2))
    y = _product(
        c, node, c.apply(flip, y, node=node, part="flip"), _matrix(theirs[0], side[2]), "rows"
    )
    return [c.apply(flip, y, node=node)]


make_Upsample = make_Resize


def _like(c: Converter, node: OnnxNode, x: str, out: tuple[int, ...]) -> str:
    """The tensor whose height and width the sizes were taken from; "" if there is none.

    With it, the network stays right for pictures of other sizes.
    """
    given = node.inputs[3] if node.has(3) else ""
    for tensor in sorted(c.origins.get(given, ())):
        if tensor != x and c.shape(tensor)[2:] == out[2:]:
            return tensor
    return ""


def _matrix(positions: Array, n: int) -> Array:
    """(m, n): row i mixes the two elements beside positions[i]."""
    left = np.floor(positions).astype(int)
    share = positions - left
    matrix = np.zeros((len(positions), n), np.float32)
    rows = np.arange(len(positions))
    matrix[rows, left] = 1 - share
    matrix[rows, np.minimum(left + 1, n - 1)] += share
    return matrix


def _product(c: Converter, node: OnnxNode, x: str, matrix: Array, part: str) -> str:
    """(n, c, h, w) with the last axis multiplied by the matrix."""
    _, channels, height, width = c.shape(x)
    rows = c.apply(Reshape(shape=(-1, width)), x, node=node, part=f"{part}:in")
    weight = c.own_weight(node, part, matrix)
    y = c.apply(Linear(), rows, weight, node=node, part=f"{part}:product")
    return c.apply(
        Reshape(shape=(-1, channels, height, len(matrix))), y, node=node, part=f"{part}:out"
    )


def _target(
    c: Converter, node: OnnxNode, side: Shape
) -> tuple[tuple[int, ...], tuple[float, float] | None]:
    """(n, c, oh, ow), and the scales of height and width where these are given."""
    first = 1 if node.kind == "Upsample" or node.opset < 11 else 2
    scales, sizes = c.constant(node, first), c.integers(node, 3) if first == 2 else None
    if "scales" in node.attributes:  # before opset 9
        scales = np.asarray(node.attributes["scales"], np.float32)
    axes = tuple(node.ints("axes", (0, 1, 2, 3)))
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if sizes:
        out = [*side]
        fit = {"not_larger": min, "not_smaller": max}.get(policy)
        ratio = fit(s / side[axis] for axis, s in zip(axes, sizes, strict=True)) if fit else None
        for axis, size in zip(axes, sizes, strict=True):
            out[axis] = size if ratio is None else math.floor(side[axis] * ratio + 0.5)
        result: tuple[int, ...] = tuple(out)
        scale = None if ratio is None else (ratio, ratio)
    elif scales is not None and scales.size == len(axes):
        factors = [1.0] * 4
        for axis, value in zip(axes, scales.reshape(-1), strict=True):
            factors[axis] = float(str(value))  # 1.3, and not what float32 makes of it
        # in float32, as everyone does: 5 x 1.4 are 7, and a little less in float64
        floats = np.asarray(side, np.float32) * np.asarray(factors, np.float32)
        result = tuple(int(size) for size in np.floor(floats))
        scale = (factors[2], factors[3])
    else:
        raise node.refuse("neither scales nor sizes")
    if result[:2] != side[:2] or min(result) < 1:
        raise node.refuse(f"resizing {side} to {result}; known here are height and width")
    return result, scale


def _positions(node: OnnxNode, mode: str, n: int, m: int, factor: float) -> Array:
    """Where in the input (0 ... n - 1) each of the m positions of the output looks.

    As PyTorch and onnxruntime compute it, which exporters rely on: corners fall on corners of the m
    outputs that there are, not on those of the n times ``factor`` that the specification's
    formula has; and nearest ones are chosen in float32.
    """
    legacy = node.kind == "Upsample" or node.opset < 11
    how = "asymmetric" if legacy else node.attribute("coordinate_transformation_mode", "half_pixel")
    i: Array = np.arange(m).astype(np.float32 if mode == "nearest" else np.float64)
    factor = i.dtype.type(factor)
    if how == "asymmetric":
        x = i / factor
    elif how == "align_corners":
        x = i * (n - 1) / (m - 1) if m > 1 else i
    elif how in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        x = (i + 0.5) / factor - 0.5
        if how == "pytorch_half_pixel" and m == 1:
            x = i
        if how == "half_pixel_symmetric":
            x = x + n / 2 * (1 - m / (n * factor))
    else:
        raise node.refuse(f"the rule {how!r}")
    if mode == "nearest":
        rounding = "floor" if legacy else node.attribute("nearest_mode", "round_prefer_floor")
        if rounding not in _ROUNDING:
            raise node.refuse(f"rounding {rounding!r}")
        x = _ROUNDING[rounding](x)
    return np.asarray(np.clip(x, 0, n - 1))
