"""ONNX's Resize and Upsample.

ONNX has many ways to map a position of the output to one of the input; our operator has
PyTorch's two. Where they agree for the sizes at hand, our operator is used. Elsewhere, and where
cubes or antialiasing mix more than two neighbours, the resize is written out as what it is, a
product with a matrix along each axis: exact, for this size of the picture, and slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.formats.onnx_windows import as_it_was, as_map
from tinyface.ops import Identity, Linear, Reshape, Resize, Transpose
from tinyface.ops.resize import positions
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_MODES: Final = {
    "nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear", "cubic": "cubic",
}  # fmt: skip
MAX_SIDE: Final = 1 << 20  # of what is made
MAX_MATRIX: Final = 1 << 24  # elements
_CORNERS: Final = "align_corners"
TIE: Final = 1e-6  # so near to the middle between two, a position in float32 is the middle
_ROUNDING: Final[dict[str, Callable[[Array], Array]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - (0.5 + TIE)),
    "round_prefer_ceil": lambda x: np.floor(x + (0.5 + TIE)),
}


def make_Resize(c: Converter, node: OnnxNode) -> list[str]:
    """Of height and width, or of lines."""
    shape = c.shape(c.tensor(node, 0))
    x, line = as_map(c, node, c.tensor(node, 0)), len(shape) == 3
    side = c.shape(x)[2:]
    mode = _MODES.get(node.attribute("mode", "nearest"))
    if mode is None:
        raise node.refuse("known here are nearest, linear and cubic")
    if mode == "bilinear" and node.attribute("coordinate_transformation_mode", "") == _CORNERS:
        mode = "corners"
    out, scale = _target(c, node, shape)
    factors = scale or [m / n for n, m in zip(side, out, strict=True)]
    wanted = [
        _positions(node, mode, n, m, factor)
        for n, m, factor in zip(side, out, factors, strict=True)
    ]
    smooth = bool(node.attribute("antialias", 0)) and mode != "nearest" and min(factors) < 1
    op = None if smooth or mode == "cubic" else _operator(mode, side, out, scale, wanted)
    if op is None:
        y = x
        for axis in (1, 0):
            stretch = max(1 / factors[axis], 1) if smooth else 1.0
            matrix = _matrix(node, mode, wanted[axis], side[axis], stretch)
            y = _product(c, node, y, 2 + axis, matrix)
        return [as_it_was(c, node, y, shape) if line else c.apply(Identity(), y, node=node)]
    like = "" if line else _like(c, node, x, out)
    op, inputs = (Resize(mode=mode), [x, like]) if like else (op, [x])
    y = c.apply(op, *inputs, node=node, part="resized" if line else "")
    return [as_it_was(c, node, y, shape)]


def _operator(
    mode: str, side: Shape, out: Shape, scale: tuple[float, ...] | None, wanted: list[Array]
) -> Resize | None:
    """Our operator, if it looks where it should."""
    op = Resize(mode=mode, size=(out[0], out[1]))
    if scale is not None and tuple(int(n * s) for n, s in zip(side, scale, strict=True)) == out:
        op = Resize(mode=mode, scale=(scale[0], scale[1]))  # right for pictures of other sizes, too
    steps = op.steps((side[0], side[1]), (out[0], out[1]))
    for n, m, step, theirs in zip(side, out, steps, wanted, strict=True):
        ours = positions(mode, np.arange(m), n, step)
        if np.abs(ours - theirs.clip(0, n - 1)).max() >= 1e-4:
            return None
    return op


make_Upsample = make_Resize


def _like(c: Converter, node: OnnxNode, x: str, out: tuple[int, ...]) -> str:
    """The tensor whose height and width the sizes were taken from; "" if there is none.

    With it, the network stays right for pictures of other sizes.
    """
    given = node.inputs[3] if node.has(3) else ""
    for tensor in sorted(c.origins.get(given, ())):
        if tensor != x and c.shape(tensor)[2:] == out:
            return tensor
    return ""


def _linear(apart: Array) -> Array:
    return np.asarray(np.clip(1 - np.abs(apart), 0, None))


def _cubic(apart: Array, a: float) -> Array:
    """Two cubes that meet at a distance of 1 and end at 2. Keys 1981, eq. 15, with a for -1/2."""
    d = np.abs(apart)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _matrix(node: OnnxNode, mode: str, at: Array, n: int, stretch: float) -> Array:
    """(m, n): row i mixes the elements around position at[i].

    stretch: how much wider than usual the mix is, to take in all that antialiasing averages.
    """
    if len(at) * n > MAX_MATRIX:
        raise node.refuse(f"mixing {n} elements into {len(at)} takes too large a matrix")
    reach = math.ceil((2 if mode == "cubic" else 1) * stretch)
    taps = np.floor(at).astype(int)[:, None] + np.arange(1 - reach, reach + 1)  # (m, 2 reach)
    apart = (taps - at[:, None]) / stretch
    cubic = mode == "cubic"
    weights = _cubic(apart, node.attribute("cubic_coeff_a", -0.75)) if cubic else _linear(apart)
    if node.attribute("exclude_outside", 0):  # else what is outside repeats the rim
        weights = weights * ((taps >= 0) & (taps < n))
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((len(at), n))
    np.add.at(matrix, (np.arange(len(at))[:, None], taps.clip(0, n - 1)), weights)
    return matrix


def _product(c: Converter, node: OnnxNode, x: str, axis: int, matrix: Array) -> str:
    """(n, c, h, w) with axis 2 or 3 multiplied by the matrix."""
    m, n = matrix.shape
    if m == n and np.array_equal(matrix, np.eye(n)):
        return x
    name, flip = ("rows", "columns")[axis - 2], Transpose(perm=(0, 1, 3, 2))
    x = c.apply(flip, x, node=node, part=f"{name}:flip") if axis == 2 else x
    _, channels, other, _ = c.shape(x)
    y = c.apply(Reshape(shape=(-1, n)), x, node=node, part=f"{name}:in")
    weight = c.own_weight(node, name, matrix)
    y = c.apply(Linear(), y, weight, node=node, part=f"{name}:product")
    y = c.apply(Reshape(shape=(-1, channels, other, m)), y, node=node, part=f"{name}:out")
    return c.apply(flip, y, node=node, part=f"{name}:back") if axis == 2 else y


def _target(
    c: Converter, node: OnnxNode, side: Shape
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """(oh, ow), and the scales of height and width where these are given; a line is 1 high."""
    first = 1 if node.kind == "Upsample" or node.opset < 11 else 2
    scales, sizes = c.constant(node, first), c.integers(node, 3) if first == 2 else None
    if "scales" in node.attributes:  # before opset 9
        scales = np.asarray(node.attributes["scales"], np.float32)
    axes = tuple(node.ints("axes", tuple(range(len(side)))))
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if sizes:
        out = [*side]
        fit = {"not_larger": min, "not_smaller": max}.get(policy)
        ratio = fit(s / side[axis] for axis, s in zip(axes, sizes, strict=True)) if fit else None
        for axis, size in zip(axes, sizes, strict=True):
            out[axis] = size if ratio is None else math.floor(side[axis] * ratio + 0.5)
        result: tuple[int, ...] = tuple(out)
        chosen = {axis % len(side) for axis in axes}
        factors = [ratio or 1.0 if axis in chosen else 1.0 for axis in range(len(side))]
        scale = None if ratio is None else tuple(factors[2:])
    elif scales is not None and scales.size == len(axes):
        factors = [1.0] * len(side)
        for axis, value in zip(axes, scales.reshape(-1), strict=True):
            factors[axis] = float(str(value))  # 1.3, and not what float32 makes of it
        # in float32, as everyone does: 5 x 1.4 are 7, and a little less in float64
        floats = np.asarray(side, np.float32) * np.asarray(factors, np.float32)
        result = tuple(int(size) for size in np.floor(floats))
        scale = tuple(factors[2:])
    else:
        raise node.refuse("neither scales nor sizes")
    if result[:2] != side[:2] or not 1 <= min(result) <= max(result) <= MAX_SIDE:
        raise node.refuse(f"resizing {side} to {result}; known here are height and width")
    high = (1,) * (4 - len(side))
    return high + result[2:], scale and (1.0,) * len(high) + scale


def _positions(node: OnnxNode, mode: str, n: int, m: int, factor: float) -> Array:
    """Where in the input (0 ... n - 1, or a little beside) each of the m outputs looks.

    As PyTorch and onnxruntime compute it, which exporters rely on: corners fall on corners of the m
    outputs that there are, not on those of the n times ``factor`` that the specification's
    formula has; and nearest ones are chosen in float32, but for what its rounding makes of a tie.
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
        raise node.refuse(
            f"by the rule {how!r} for where an output looks; half_pixel, align_corners and "
            "asymmetric are known, which other exporters write"
        )
    x = np.asarray(x, np.float64)
    if mode == "nearest":
        rounding = "floor" if legacy else node.attribute("nearest_mode", "round_prefer_floor")
        if rounding not in _ROUNDING:
            raise node.refuse(f"rounding {rounding!r}")
        x = _ROUNDING[rounding](x)
    return x
