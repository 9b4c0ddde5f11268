"""ncnn layers that carry weights, and activations: ``make_TYPE(converter, layer, tensors)``.

The numbers are ncnn's parameter ids, as its operation-param-weight-table.md lists them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tinyface.formats.freesize import size_hint
from tinyface.formats.ncnn_file import Layer
from tinyface.ops import (
    Add,
    Clip,
    Conv2d,
    Flatten,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Linear,
    Mul,
    Op,
    PReLU,
    ReLU,
    Reshape,
    Sigmoid,
)
from tinyface.ops.conv import Pads, Pair
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter

SAME_UPPER, SAME_LOWER = -233, -234  # in place of a pad
ABSENT: Final = -233  # no number at all
_ALIKE: Final = 1e-4  # how near to 1/6 a rounded constant must be


def flat(c: Converter, layer: Layer, x: str) -> str:
    """(n, c, h, w) -> (n, c h w); a vector stays as it is."""
    return x if len(c.shape(x)) == 2 else c.apply(Flatten(), x, layer=layer, part="flatten")


def map_shape(c: Converter, layer: Layer, x: str) -> Shape:
    """(n, c, h, w); what is no map is refused."""
    shape = c.shape(x)
    if len(shape) != 4:
        raise layer.refuse("of anything but a map")
    return shape


def axis_of(c: Converter, layer: Layer, x: str, value: int) -> int:
    """ncnn's axis, which does not count the batch, as ours."""
    rank = len(c.shape(x)) - 1
    if not -rank <= value < rank:
        raise layer.refuse(f"axis {value} of a blob with {rank} axes")
    return value % rank + 1


def aligned(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """ncnn broadcasts from the first axis on, a vector (n, c) as (n, c, 1, 1); one whose length is
    not the first axis', along the last one."""
    most = max((c.shape(tensor) for tensor in x), key=len)
    result = []
    for i, tensor in enumerate(x):
        shape = c.shape(tensor)
        ones = (1,) * (len(most) - len(shape))
        if ones:
            first = len(shape) > 2 or shape[1] in (1, most[1])
            wide = (0, *shape[1:], *ones) if first else (0, *ones, *shape[1:])
            tensor = c.apply(Reshape(shape=wide), tensor, layer=layer, part=f"wide{i}")
        result.append(tensor)
    return result


def make_Input(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2)
    named = layer.whole(1, 0) and layer.whole(0, 0) and not c.forced
    h, w = (layer.whole(1, 0), layer.whole(0, 0)) if named else c.size
    if not named:
        c.hint = size_hint(h, w)
    return [c.builder.input(layer.name, (1, layer.whole(2, 0) or c.channels, h, w))]


def make_Split(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """One blob under several names."""
    return [x[0]] * len(layer.outputs)


def make_MemoryData(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """A constant, as one picture's worth of data."""
    layer.known(0, 1, 2, 11, 21)
    if layer.whole(21, 1) != 1:
        raise layer.refuse("data that are stored as weights are")
    sides = [layer.whole(key, 0) for key in (2, 11, 1, 0)]  # channels, depth, height, width
    shape = [side for side in sides if side]
    if not shape or min(shape) < 1:
        raise layer.refuse("a constant without a size")
    return [c.param(layer, "value", c.weights.vector(layer, math.prod(shape)).reshape(1, *shape))]


def make_Noop(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    return x


def make_Dropout(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    if layer.real(0, 1.0) == 1:
        return x
    return [c.apply(Mul(), x[0], c.constant(layer, "scale", layer.real(0, 1.0)), layer=layer)]


# -- convolution and dense


def make_Convolution(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
    if layer.whole(8, 0) or layer.whole(19, 0) or layer.real(18, 0.0):
        raise layer.refuse("int8 weights, weights from a blob, or a pad other than 0")
    out, groups = layer.whole(0, 0), layer.whole(7, 1)
    kw, dw, sw = layer.whole(1, 0), layer.whole(2, 1), layer.whole(3, 1)
    kh, dh, sh = layer.whole(11, kw), layer.whole(12, dw), layer.whole(13, sw)
    if min(out, kh, kw, groups, dh, dw, sh, sw) < 1 or layer.whole(6, 0) % (out * kh * kw):
        raise layer.refuse("its sizes do not make a convolution")
    weight = c.weights.tagged(layer, layer.whole(6, 0)).reshape(out, -1, kh, kw)
    vector = len(c.shape(x[0])) == 2  # such as global pooling gives
    if vector and (kh, kw, groups) != (1, 1, 1):
        raise layer.refuse("a convolution of a vector")
    inputs = [x[0], c.param(layer, "weight", weight[:, :, 0, 0] if vector else weight)]
    if layer.whole(5, 0):
        inputs.append(c.param(layer, "bias", c.weights.vector(layer, out)))
    if vector:
        return [activate(c, layer, c.apply(Linear(), *inputs, layer=layer))]
    extent = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    pad, made_for = pads(c, layer, x[0], (4, 14, 15, 16), extent, (sh, sw))
    op = Conv2d(
        stride=(sh, sw), pad=pad, dilation=(dh, dw), groups=groups, made_for=made_for
    )  # fmt: skip
    return [activate(c, layer, c.apply(op, *inputs, layer=layer))]


make_ConvolutionDepthWise = make_Convolution  # the same with groups (7)


def pads(
    c: Converter,
    layer: Layer,
    x: str,
    ids: tuple[int, int, int, int],
    extent: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[Pads, Pair]:
    """(top, left, bottom, right), and the size they were made for, as the operators take them; ids
    of left, top, right, bottom."""
    left = layer.whole(ids[0], 0)
    top, right = layer.whole(ids[1], left), layer.whole(ids[2], left)
    bottom = layer.whole(ids[3], top)
    if left not in (SAME_UPPER, SAME_LOWER):
        return (top, left, bottom, right), (0, 0)
    return same(c.shape(x)[2:4], extent, stride, upper=left == SAME_UPPER)


def size_of(side: tuple[int, ...], stride: Pair) -> Pair:
    """The size (h, w), where pads that were made for it do not hold for others, else (0, 0)."""
    return (side[0], side[1]) if max(stride) > 1 else (0, 0)


def same(
    side: tuple[int, ...], extent: tuple[int, int], stride: tuple[int, int], upper: bool
) -> tuple[Pads, Pair]:
    """Pads that give ceil(side / stride) windows, the odd one at the end (upper) or in front; and
    the size they were made for."""
    pairs = []
    for n, k, s in zip(side, extent, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if upper else (more, less))
    (top, bottom), (left, right) = pairs
    return (top, left, bottom, right), size_of(side, stride)


def make_InnerProduct(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Of a matrix whose rows fit, row by row; of anything else as one vector."""
    layer.known(0, 1, 2, 8, 9, 10)
    if layer.whole(8, 0):
        raise layer.refuse("int8 weights")
    weight = c.weights.tagged(layer, layer.whole(2, 0)).reshape(layer.whole(0, 0), -1)
    shape = c.shape(x[0])
    rows = len(shape) == 3 and shape[2] == weight.shape[1]
    inputs = [x[0] if rows else flat(c, layer, x[0]), c.param(layer, "weight", weight)]
    if layer.whole(1, 0):
        inputs.append(c.param(layer, "bias", c.weights.vector(layer, weight.shape[0])))
    return [activate(c, layer, c.apply(Linear(), *inputs, layer=layer))]


def activate(c: Converter, layer: Layer, x: str) -> str:
    """The activation inside a layer: type 9, constants 10."""
    kind, values = layer.whole(9, 0), layer.arrays.get(10, ())
    if kind == 0:
        return x
    wanted = {1: 0, 2: 1, 3: 2, 4: 0, 6: 2}.get(kind)
    if wanted is None or (wanted and len(values) != wanted):
        raise layer.refuse(f"its activation {kind} with constants {values} is not known here")
    if kind == 6:
        return hard_swish(c, layer, x, *map(float, values))
    op: Op = {1: ReLU, 2: LeakyReLU, 3: Clip, 4: Sigmoid}[kind](*map(float, values[:wanted]))
    return c.apply(op, x, layer=layer, part="act")


# -- per channel


def make_Scale(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    if layer.whole(0, 0) == ABSENT:
        return [c.apply(Mul(), *aligned(c, layer, x), layer=layer)]
    y = c.apply(Mul(), x[0], _channel_vector(c, layer, x[0], "scale"), layer=layer)
    if layer.whole(1, 0):
        y = c.apply(Add(), y, _channel_vector(c, layer, y, "bias"), layer=layer, part="bias")
    return [y]


def make_Bias(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    map_shape(c, layer, x[0])
    return [c.apply(Add(), x[0], _channel_vector(c, layer, x[0], "bias"), layer=layer)]


def _channel_vector(c: Converter, layer: Layer, x: str, part: str) -> str:
    """As many numbers as parameter 0 says, shaped to broadcast over x."""
    ones = (1,) * (len(c.shape(x)) - 2)
    return c.param(layer, part, c.weights.vector(layer, layer.whole(0, 0)).reshape(-1, *ones))


def make_PReLU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    slope = c.weights.vector(layer, layer.whole(0, 0))
    return [c.apply(PReLU(), x[0], c.param(layer, "weight", slope), layer=layer)]


# -- hard swish, inside layers and by itself


def hard_swish(c: Converter, layer: Layer, x: str, alpha: float, beta: float) -> str:
    if abs(alpha - 1 / 6) < _ALIKE and beta == 0.5:
        return c.apply(HardSwish(), x, layer=layer, part="act")
    gate = c.apply(HardSigmoid(alpha=alpha, beta=beta), x, layer=layer, part="gate")
    return c.apply(Mul(), x, gate, layer=layer, part="act")
