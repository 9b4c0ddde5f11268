"""ncnn layers that enlarge a map by interleaving: ``make_TYPE(converter, layer, tensors)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyface.formats.ncnn_file import Layer
from tinyface.formats.ncnn_layers import activate, pads
from tinyface.formats.transposed import Axis, depth_to_space, dilated, transposed

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter


def make_Deconvolution(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 28)
    out, groups = layer.whole(0, 0), layer.whole(7, 1)
    kw, dw, sw = layer.whole(1, 0), layer.whole(2, 1), layer.whole(3, 1)
    kh, dh, sh = layer.whole(11, kw), layer.whole(12, dw), layer.whole(13, sw)
    (top, left, bottom, right), _ = pads(c, layer, x[0], (4, 14, 15, 16), (1, 1), (1, 1))
    if layer.whole(20, 0) or layer.whole(21, 0) or layer.whole(28, 0) or layer.whole(4, 0) < 0:
        raise layer.refuse("a size that is given, pads that follow from it, or computed weights")
    if min(out, kh, kw, groups, dh, dw, sh, sw) < 1 or layer.whole(6, 0) % (out * kh * kw):
        raise layer.refuse("its sizes do not make a transposed convolution")
    weight = c.weights.tagged(layer, layer.whole(6, 0)).reshape(groups, out // groups, -1, kh, kw)
    weight = dilated(weight.swapaxes(1, 2).reshape(-1, out // groups, kh, kw), (dh, dw))
    bias = c.param(layer, "bias", c.weights.vector(layer, out)) if layer.whole(5, 0) else ""
    more = layer.whole(18, 0)
    axes = (
        Axis(weight.shape[2], sh, top, bottom, layer.whole(19, more)),
        Axis(weight.shape[3], sw, left, right, more),
    )
    y = transposed(
        x[0], weight, bias, axes, groups,
        lambda op, *inputs, part: c.apply(op, *inputs, layer=layer, part=part),
        lambda part, value: c.param(layer, part, value),
    )  # fmt: skip
    return [activate(c, layer, y)]


make_DeconvolutionDepthWise = make_Deconvolution  # the same with groups (7)


def make_PixelShuffle(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Channel groups as the pixels of a block; in mode 0, PyTorch's, the block is the inner one."""
    layer.known(0, 1)
    inner = not layer.whole(1, 0)
    op, parts = depth_to_space(c.builder, x[0], layer.whole(0, 1), inner, f"{layer.name}:")
    return [c.apply(op, *parts, layer=layer)]
