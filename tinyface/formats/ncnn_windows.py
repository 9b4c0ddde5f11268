"""ncnn layers of windows and sizes: ``make_TYPE(converter, layer, tensors)``.

The numbers are ncnn's parameter ids, as its operation-param-weight-table.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinyface.formats.ncnn_file import Layer
from tinyface.formats.ncnn_layers import (
    ABSENT,
    flat,
    make_Convolution,
    map_shape,
    pads,
    same,
    size_of,
)
from tinyface.ops import (
    AveragePool,
    GlobalAveragePool,
    GlobalMaxPool,
    Identity,
    MaxPool,
    Op,
    Pad,
    Reshape,
    Resize,
)
from tinyface.ops.conv import Pads

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter


def make_Pooling(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 18)
    map_shape(c, layer, x[0])
    average = layer.whole(0, 0) == 1
    width = layer.whole(8, 0)
    out = (layer.whole(18, width), width)  # ABSENT: as the map has it
    if layer.whole(7, 0) and not layer.whole(4, 0) and out != (1, 1):
        return [_adaptive(c, layer, x[0], out, "mean" if average else "max")]
    if layer.whole(4, 0) or layer.whole(7, 0):
        whole = GlobalAveragePool() if average else GlobalMaxPool()
        y = c.apply(whole, x[0], layer=layer)
        if layer.whole(4, 0):  # gives a vector
            return [flat(c, layer, y)]
        return [y]
    kw, sw = layer.whole(1, 0), layer.whole(2, 1)
    kernel, stride = (layer.whole(11, kw), kw), (layer.whole(12, sw), sw)
    if min(*kernel, *stride) < 1:
        raise layer.refuse("its sizes do not make a window")
    mode, side = layer.whole(5, 0), c.shape(x[0])[2:4]
    counted = bool(layer.whole(6, 0)) or mode in (2, 3)  # the pads, in a mean
    if mode in (2, 3):
        if any(layer.whole(key, 0) for key in (3, 13, 14, 15)):
            raise layer.refuse("pads of its own beside those that follow from its sizes")
        pad, made_for = same(side, kernel, stride, upper=mode == 2)
    else:
        pad, made_for = pads(c, layer, x[0], (3, 13, 14, 15), kernel, stride)
    tail = (0, 0)
    if mode == 0:
        tail, made_for = _tail(side, pad, kernel, stride), size_of(side, stride)
    if any(tail) and average and counted:
        raise layer.refuse("a mean that counts some of its pads")
    pad = (pad[0], pad[1], pad[2] + tail[0], pad[3] + tail[1])
    window: dict[str, Any] = {
        "kernel": kernel, "stride": stride, "pad": pad, "made_for": made_for
    }  # fmt: skip
    if average:
        op: Op = AveragePool(**window, count_include_pad=counted)
    else:
        op = MaxPool(**window)
    return [c.apply(op, x[0], layer=layer)]


def _tail(
    side: tuple[int, ...], pad: Pads, kernel: tuple[int, int], stride: tuple[int, int]
) -> tuple[int, int]:
    """What mode "full" adds at the end so that the last, incomplete window counts."""
    free = [side[i] + pad[i] + pad[i + 2] - kernel[i] for i in (0, 1)]
    return -free[0] % stride[0], -free[1] % stride[1]


def make_Interp(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5, 6, 9)
    mode = {1: "nearest", 2: "bilinear"}.get(layer.whole(0, 0))
    if mode is None:
        raise layer.refuse("known here are nearest and bilinear")
    if mode == "bilinear" and layer.whole(6, 0):
        mode = "corners"
    size = (layer.whole(3, 0), layer.whole(4, 0))
    if 9 in layer.texts:
        width, height = c.sizes(layer, 9, x)
        size, x = (height, width), x[:1]
    scale = (layer.real(1, 1.0), layer.real(2, 1.0))
    op = Resize(mode=mode) if len(x) == 2 else Resize(mode=mode, size=size, scale=scale)
    return [c.apply(op, *x, layer=layer)]


def _adaptive(c: Converter, layer: Layer, x: str, out: tuple[int, int], mode: str) -> str:
    """To a size, whatever the map's is: window i of m reaches from floor(i n / m) to
    ceil((i + 1) n / m). The windows are computed of the size that the map has here."""
    c.computed = True
    y = x
    for axis, m in zip((2, 3), out, strict=True):
        n = c.shape(x)[axis]
        y = y if m in (n, ABSENT) else c.formulas(layer).windows(y, n, axis, m, mode)
    return c.apply(Identity(), y, layer=layer)


def make_Padding(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """With a number, the edge (1) or the mirror image (2); in front of channels and behind, too."""
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 8)
    rank, kind = len(c.shape(x[0])), layer.whole(4, 0)
    ids = {-1: (2, 3), -2: (0, 1), -3: (7, 8)}
    named = {axis: tuple(layer.whole(key, 0) for key in pair) for axis, pair in ids.items()}
    unused = any(any(pair) for axis, pair in named.items() if -axis >= rank)
    inside = kind and min(min(pair) for pair in named.values()) < 0
    if layer.whole(6, 0) or kind not in (0, 1, 2) or rank > 4 or unused or inside:
        raise layer.refuse("known here is padding with one number, the edge, or the mirror image")
    around = [named.get(axis, (0, 0)) if axis > -rank else (0, 0) for axis in range(-rank, 0)]
    before, after = (tuple(pair[i] for pair in around) for i in (0, 1))
    if kind == 0:
        op = Pad(before=before, after=after, value=layer.real(5, 0.0))
        return [c.apply(op, x[0], layer=layer)]
    y = x[0]
    for axis in range(1, rank):
        side, ends = c.shape(y)[axis], (before[axis], after[axis])
        mode = "edge" if kind == 1 else "reflect"
        y = c.formulas(layer).extended(y, side, axis, ends, mode)
    return [c.apply(Identity(), y, layer=layer)]


# -- rows of vectors, (n, c, w): maps of height 1

_LOW = {11: 1, 12: 1, 13: 1, 14: 0, 16: 0}  # height of window, its step and stride, pads
_LOW_POOL = {11: 1, 12: 1, 13: 0, 15: 0}


def _low(
    c: Converter, layer: Layer, x: list[str], make: Any, height: Mapping[int, int]
) -> list[str]:
    """What ``make`` gives for a map of height 1, as rows of vectors again."""
    channels, _ = c.shape(x[0])[1:]
    row = c.apply(Reshape(shape=(0, channels, 1, -1)), x[0], layer=layer, part="row")
    inner = replace(layer, name=f"{layer.name}:map", params={**layer.params, **height})
    (y,) = make(c, inner, [row])
    shape = c.shape(y)
    if len(shape) == 2:  # a global pool
        return [y]
    return [c.apply(Reshape(shape=(0, shape[1], -1)), y, layer=layer)]


def make_Convolution1D(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    return _low(c, layer, x, make_Convolution, _LOW)


make_ConvolutionDepthWise1D = make_Convolution1D  # the same with groups (7)


def make_Pooling1D(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    return _low(c, layer, x, make_Pooling, _LOW_POOL | {18: 1})
