"""ncnn layers that normalise: ``make_TYPE(converter, layer, tensors)``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tinyface.formats.ncnn_file import Layer
from tinyface.formats.ncnn_layers import map_shape
from tinyface.ops import Add, BatchNorm, Div, L2Normalize, LayerNorm, Mul, Reduce, Split, Sqrt, Sub
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter


def make_BatchNorm(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    channels, eps = layer.whole(0, 0), layer.real(1, 0.0)
    gamma, mean, var, beta = (c.weights.vector(layer, channels) for _ in range(4))
    with np.errstate(all="ignore"):  # what is not finite is refused when the model is written
        nothing = var + np.float32(eps) <= 0
    if nothing.any():  # ncnn divides by 1e-4 there
        var = np.where(nothing, np.float32(1e-8), var)
    named = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    params = [c.param(layer, part, value) for part, value in named.items()]
    return [c.apply(BatchNorm(eps=eps), x[0], *params, layer=layer)]


def make_Normalize(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Unit length over the channels of each position of a map; of a vector as a whole, which ncnn
    takes for a row of positions. Then times one number (1), or one for each channel."""
    layer.known(0, 1, 2, 3, 4, 9)
    shape, scale = c.shape(x[0]), c.weights.vector(layer, layer.whole(3, 1))
    scale = scale[:1] if layer.whole(1, 0) or (scale == scale[0]).all() else scale
    pixel = all(side == 1 for side in shape[2:])
    fits = len(shape) == 4 and (pixel or not layer.whole(0, 0))
    if len(shape) == 2:
        fits = bool(layer.whole(0, 0)) and len(scale) == 1
    if not fits or not layer.whole(4, 0):
        raise layer.refuse("known here are a map's channels and a vector as a whole")
    y = _unit(c, layer, x[0], layer.real(2, 1e-4))
    if (scale == 1).all():
        return [y]
    scale = scale.reshape(-1, *(1,) * (len(shape) - 2))
    return [c.apply(Mul(), y, c.param(layer, "scale", scale), layer=layer, part="scale")]


def _unit(c: Converter, layer: Layer, x: str, eps: float) -> str:
    """By the norm as Caffe has it, sqrt(sum x x + eps) (9: 0), PyTorch, max(norm, eps) (1), or
    TensorFlow, sqrt(max(sum x x, eps)) (2)."""
    mode = layer.whole(9, 0)
    if mode:
        least = math.sqrt(eps) if mode == 2 else eps
        return c.apply(L2Normalize(axis=1, eps=least), x, layer=layer)
    square = c.apply(Mul(), x, x, layer=layer, part="square")
    total = c.apply(Reduce(mode="sum", axes=(1,)), square, layer=layer, part="sum")
    safe = c.apply(Add(), total, c.constant(layer, "eps", eps), layer=layer, part="safe")
    return c.apply(Div(), x, c.apply(Sqrt(), safe, layer=layer, part="norm"), layer=layer)


def _scaled(c: Converter, layer: Layer, x: str, count: int, shape: Shape) -> str:
    """x times a vector plus another one, which the file holds, brought to ``shape``."""
    scale, shift = (c.weights.vector(layer, count).reshape(shape) for _ in range(2))
    y = c.apply(Mul(), x, c.param(layer, "scale", scale), layer=layer, part="scaled")
    return c.apply(Add(), y, c.param(layer, "shift", shift), layer=layer)


def _per_channel(c: Converter, layer: Layer, x: str, rows: Shape, eps: float, count: int) -> str:
    """By the statistics of ``rows``; then, unless ``count`` is 0, scale and shift of channels."""
    shape = c.shape(x)
    y = c.formulas(layer).rows(x, shape, rows, eps)
    return _scaled(c, layer, y, count, (-1, *(1,) * (len(shape) - 2))) if count else y


def make_GroupNorm(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Every group of channels by its own mean and variance."""
    layer.known(0, 1, 2, 3)
    groups, channels = layer.whole(0, 1), c.shape(x[0])[1]
    if groups < 1 or channels % groups:
        raise layer.refuse(f"{groups} groups of {channels} channels")
    count = channels if layer.whole(3, 1) else 0
    return [_per_channel(c, layer, x[0], (0, groups, -1), layer.real(2, 1e-3), count)]


def make_InstanceNorm(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Every channel by its own mean and variance."""
    layer.known(0, 1, 2)
    _, channels, _, _ = map_shape(c, layer, x[0])
    count = channels if layer.whole(2, 1) and layer.whole(0, 0) else 0
    return [_per_channel(c, layer, x[0], (0, channels, -1), layer.real(1, 1e-3), count)]


def _last_axes(c: Converter, layer: Layer, x: str) -> tuple[str, Shape]:
    """x, and its last axis, or the last two of a map: as many numbers as parameter 0 says, and so
    in every run."""
    shape, count = c.shape(x), layer.whole(0, 0)
    if len(shape) <= 4 and count == shape[-1]:
        axes: Shape = (len(shape) - 1,)
    elif len(shape) == 4 and count == shape[2] * shape[3]:
        axes = (2, 3)
    else:
        raise layer.refuse(f"{count} numbers in a row are no axes of {shape[1:]}")
    for axis in axes:
        x = c.apply(Split(axis, (shape[axis],)), x, layer=layer, part=f"only{axis}")
    return x, axes


def make_LayerNorm(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Along the last axes."""
    layer.known(0, 1, 2)
    eps, count, affine = layer.real(1, 1e-3), layer.whole(0, 0), bool(layer.whole(2, 1))
    y, axes = _last_axes(c, layer, x[0])
    shape = c.shape(y)
    if len(axes) == 1:
        given = [
            c.param(layer, part, c.weights.vector(layer, count))
            for part in (("scale", "shift") if affine else ())
        ]
        return [c.apply(LayerNorm(axis=axes[0], eps=eps), y, *given, layer=layer)]
    y = c.formulas(layer).rows(y, shape, (0, *shape[1 : axes[0]], -1), eps)
    return [_scaled(c, layer, y, count, shape[axes[0] :]) if affine else y]


def make_RMSNorm(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """x / sqrt(mean(x x) + eps) along the last axes, times a vector."""
    layer.known(0, 1, 2)
    y, axes = _last_axes(c, layer, x[0])
    shape = c.shape(y)[axes[0] :]
    root = c.formulas(layer).root_of_mean(y, axes, layer.real(1, 1e-3))
    if not layer.whole(2, 1):
        return [c.apply(Div(), y, root, layer=layer)]
    y = c.apply(Div(), y, root, layer=layer, part="normalised")
    scale = c.weights.vector(layer, layer.whole(0, 0)).reshape(shape)
    return [c.apply(Mul(), y, c.param(layer, "scale", scale), layer=layer)]


def make_MVN(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """x less its mean, of every channel or of all, divided by its deviation plus eps if asked."""
    layer.known(0, 1, 2)
    shape = map_shape(c, layer, x[0])
    axes = tuple(range(1 if layer.whole(1, 0) else 2, len(shape)))
    mean = c.apply(Reduce(mode="mean", axes=axes), x[0], layer=layer, part="mean")
    if not layer.whole(0, 0):
        return [c.apply(Sub(), x[0], mean, layer=layer)]
    y = c.apply(Sub(), x[0], mean, layer=layer, part="centred")
    write = c.formulas(layer)
    root = write.root_of_mean(y, axes, 0.0)
    least = write.number("least", layer.real(2, 1e-4))
    return [c.apply(Div(), y, c.apply(Add(), root, least, layer=layer, part="sum"), layer=layer)]


def make_LRN(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4)
    if layer.whole(0, 0):
        raise layer.refuse("of windows of a channel; across channels is known here")
    if layer.whole(1, 5) % 2 == 0:
        raise layer.refuse("of an even number of channels, of which ncnn and ONNX mean others")
    numbers = (layer.real(2, 1.0), layer.real(3, 0.75), layer.real(4, 1.0))
    shape = c.shape(x[0])
    return [c.formulas(layer).across_channels(x[0], shape, layer.whole(1, 5), *numbers)]
