"""ONNX's convolution and pooling: windows on maps (n, c, h, w), and on what is seen as maps."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from tinyface.formats.ncnn_layers import same
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import (
    AveragePool,
    Conv2d,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Op,
    Reduce,
    Reshape,
)
from tinyface.ops.conv import Pads
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter


def as_map(c: Converter, node: OnnxNode, x: str, most: int = 4) -> str:
    """Lines (n, c, l) as maps (n, c, 1, l); with five axes, of up to ``most``, (n, c, d, h w)."""
    shape = c.shape(x)
    if len(shape) == 4:
        return x
    if not 3 <= len(shape) <= most:
        raise node.refuse(f"of an input with {len(shape)} axes; 3 and 4 are known here")
    sides = (1, shape[2]) if len(shape) == 3 else (shape[2], -1)
    return c.apply(Reshape(shape=(0, shape[1], *sides)), x, node=node, part="map")


def as_it_was(c: Converter, node: OnnxNode, y: str, shape: Shape) -> str:
    """What was made of a map, as what ``as_map`` made of an input of this shape."""
    _, channels, high, _ = c.shape(y)
    if len(shape) == 4:
        return y
    sides = (-1,) if len(shape) == 3 else (high, *shape[3:])
    return c.apply(Reshape(shape=(0, channels, *sides)), y, node=node)


def _window(
    c: Converter, node: OnnxNode, x: str, kernel: tuple[int, ...], axes: int
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Its height and width; stride, dilation, pad and made_for as the operators take them.

    x: the map; axes: those that the node's attributes speak of, 1 of a line. Of three, windows
    along the first alone are known: PyTorch's LocalResponseNorm takes the mean of neighbouring
    channels so.
    """
    ones = (1,) * axes
    values = [kernel, node.ints("strides", ones), node.ints("dilations", ones)]
    pads = node.ints("pads", (0,) * (2 * axes))
    auto, made_for = node.attribute("auto_pad", "NOTSET"), (0, 0)
    if any(len(v) != axes for v in values) or len(pads) != 2 * axes:
        raise node.refuse("its kernel, strides, dilations and pads differ in length")
    if axes == 1:
        values, pads = [(1, *v) for v in values], (0, pads[0], 0, pads[1])
    if axes == 3:
        if any(v[1:] != (1, 1) for v in values) or any(pads[1:3] + pads[4:]) or auto != "NOTSET":
            raise node.refuse("of an input with 5 axes; 3 and 4 are known here")
        values, pads = [v[:2] for v in values], (pads[0], 0, pads[3], 0)
    (kh, kw), (sh, sw), (dh, dw) = values
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if min(sh, sw, kh, kw, dh, dw) < 1:
            raise node.refuse("a stride, kernel or dilation below 1")
        extent = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
        upper = auto == "SAME_UPPER"
        pads, made_for = same(c.shape(x)[2:], extent, (sh, sw), upper=upper)
    elif auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto != "NOTSET":
        raise node.refuse(f"padding {auto!r}")
    top, left, bottom, right = pads
    pad: Pads = (top, left, bottom, right)
    return (kh, kw), {"stride": (sh, sw), "dilation": (dh, dw), "pad": pad, "made_for": made_for}


def make_Conv(c: Converter, node: OnnxNode) -> list[str]:
    shape = c.shape(c.tensor(node, 0))
    x, line = as_map(c, node, c.tensor(node, 0)), len(shape) == 3
    if line and c.is_constant(node, 1):
        values = c.constant(node, 1)
        assert values is not None
        if values.ndim != 3:
            raise node.refuse("a weight with another number of axes than its input")
        weight = c.own_weight(node, "weight", values[:, :, None, :])
    elif line:
        _, per_group, taps = c.shape(c.tensor(node, 1))
        op = Reshape(shape=(0, per_group, 1, taps))
        weight = c.apply(op, c.tensor(node, 1), node=node, part="weight")
    else:
        weight = c.tensor(node, 1)
    own = c.shape(weight)[2:]
    _, window = _window(c, node, x, own[1:] if line else own, len(shape) - 2)
    conv = Conv2d(**window, groups=node.attribute("group", 1))
    inputs = [x, weight, c.tensor(node, 2)] if node.has(2) else [x, weight]
    y = c.apply(conv, *inputs, node=node, part="windows" if line else "")
    return [as_it_was(c, node, y, shape)]


def _pool(c: Converter, node: OnnxNode, op: type[MaxPool] | type[AveragePool]) -> list[str]:
    shape = c.shape(c.tensor(node, 0))
    x = as_map(c, node, c.tensor(node, 0), most=5)
    kernel, window = _window(c, node, x, node.ints("kernel_shape"), len(shape) - 2)
    window["ceil"] = bool(node.attribute("ceil_mode", 0))
    if op is AveragePool:
        window["count_include_pad"] = bool(node.attribute("count_include_pad", 0))
    pool = op(kernel=kernel, **window)
    y = c.apply(pool, x, node=node, part="" if len(shape) == 4 else "windows")
    return [as_it_was(c, node, y, shape)]


def make_MaxPool(c: Converter, node: OnnxNode) -> list[str]:
    if node.attribute("storage_order", 0):
        raise node.refuse("storage in columns")
    return _pool(c, node, MaxPool)


_DIVISOR: Final = re.compile(r"avg_pool\dd\.default\].*(?:True|False), (?:True|False), (\d+)\)")


def _divides_by(node: OnnxNode, divisor: str) -> bool:
    """Whether each of its windows has this many elements, all of which count."""
    counted = node.attribute("count_include_pad", 0) or not any(node.attributes.get("pads", ()))
    area = str(math.prod(node.ints("kernel_shape")))
    return bool(counted) and not node.attribute("ceil_mode", 0) and divisor == area


def make_AveragePool(c: Converter, node: OnnxNode) -> list[str]:
    lost = _DIVISOR.search(node.origin)
    if lost and not _divides_by(node, lost[1]):
        raise node.refuse(
            f"in PyTorch it divides by {lost[1][:20]} (divisor_override), which the exporter left "
            "out, so that the file computes something else; multiply behind a plain average "
            "pooling there, and export it again"
        )
    return _pool(c, node, AveragePool)


def _global(c: Converter, node: OnnxNode, op: Op, mode: str) -> list[str]:
    x = c.tensor(node, 0)
    rank = len(c.shape(x))
    if rank == 4:
        return [c.apply(op, x, node=node)]
    return [c.apply(Reduce(mode=mode, axes=tuple(range(2, rank))), x, node=node)]


def make_GlobalAveragePool(c: Converter, node: OnnxNode) -> list[str]:
    return _global(c, node, GlobalAveragePool(), "mean")


def make_GlobalMaxPool(c: Converter, node: OnnxNode) -> list[str]:
    return _global(c, node, GlobalMaxPool(), "max")
