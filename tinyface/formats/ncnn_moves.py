"""ncnn layers without weights: ``make_TYPE(converter, layer, tensors)``.

The numbers are ncnn's parameter ids, as its operation-param-weight-table.md lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tinyface.formats.ncnn_file import Layer
from tinyface.formats.ncnn_layers import ABSENT, aligned, flat, made, pads, same
from tinyface.ops import (
    Add,
    AveragePool,
    ChannelShuffle,
    Concat,
    Div,
    Exp,
    GlobalAveragePool,
    GlobalMaxPool,
    Maximum,
    MaxPool,
    Mul,
    Op,
    Pad,
    Reduce,
    Reshape,
    Resize,
    Softmax,
    Split,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
)
from tinyface.ops.conv import Pads

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter


def axis_of(c: Converter, layer: Layer, x: str, value: int) -> int:
    """ncnn's axis, which does not count the batch, as ours."""
    rank = len(c.shape(x)) - 1
    if not -rank <= value < rank:
        raise layer.refuse(f"axis {value} of a blob with {rank} axes")
    return value % rank + 1


# -- two blobs into one

_BINARY: Final[dict[int, tuple[type[Op], bool]]] = {  # op_type -> operator, operands swapped
    0: (Add, False), 1: (Sub, False), 2: (Mul, False), 3: (Div, False), 4: (Maximum, False),
    7: (Sub, True), 8: (Div, True),
}  # fmt: skip


def make_BinaryOp(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2)
    op, swapped = _BINARY.get(layer.whole(0, 0), (Op, False))
    if op is Op:
        raise layer.refuse(f"its operation {layer.whole(0, 0)} is not known here")
    if layer.whole(1, 0):
        x = [x[0], c.constant(layer, "b", layer.real(2, 0.0))]
    else:
        x = aligned(c, layer, x)
    return [c.apply(op(), *(x[::-1] if swapped else x), layer=layer)]


def make_Eltwise(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    op = {0: Mul, 1: Add, 2: Maximum}.get(layer.whole(0, 0))
    factors = layer.arrays.get(1, ()) if op is Add else ()
    if op is None or len(factors) not in (0, len(x)) or len(x) < 2:
        raise layer.refuse("its operation or its coefficients are not known here")
    x = [
        tensor
        if float(factor) == 1
        else c.apply(
            Mul(), tensor, c.constant(layer, f"by{i}", float(factor)), layer=layer, part=f"x{i}"
        )
        for i, (tensor, factor) in enumerate(zip(x, factors or (1,) * len(x), strict=True))
    ]
    y = x[0]
    for i, other in enumerate(x[1:], start=2):
        y = c.apply(op(), y, other, layer=layer, part="" if i == len(x) else f"of{i}")
    return [y]


def make_UnaryOp(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    op = {5: Sqrt, 7: Exp, 16: Tanh}.get(layer.whole(0, 0))
    if op is not None:
        return [c.apply(op(), x[0], layer=layer)]
    if layer.whole(0, 0) == 1:
        return [c.apply(Mul(), x[0], c.constant(layer, "minus", -1), layer=layer)]
    raise layer.refuse("known here are minus (1), sqrt (5), exp (7) and tanh (16)")


def make_Softmax(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    return [c.apply(Softmax(axis=axis_of(c, layer, x[0], layer.whole(0, 0))), x[0], layer=layer)]


# -- windows and sizes


def make_Pooling(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 18)
    average = layer.whole(0, 0) == 1
    if layer.whole(4, 0) or layer.whole(7, 0):
        whole = GlobalAveragePool() if average else GlobalMaxPool()
        y = c.apply(whole, x[0], layer=layer)
        if layer.whole(4, 0):  # gives a vector
            return [flat(c, layer, y)]
        if (layer.whole(8, 0), layer.whole(18, layer.whole(8, 0))) != (1, 1):
            raise layer.refuse("adaptive pooling to another size than 1x1")
        return [y]
    kw, sw = layer.whole(1, 0), layer.whole(2, 1)
    kernel, stride = (layer.whole(11, kw), kw), (layer.whole(12, sw), sw)
    if min(*kernel, *stride) < 1:
        raise layer.refuse("its sizes do not make a window")
    mode, side = layer.whole(5, 0), c.shape(x[0])[2:4]
    if mode in (2, 3):
        pad, made_for = same(side, kernel, stride, upper=mode == 2)
    else:
        pad, made_for = pads(c, layer, x[0], (3, 13, 14, 15), kernel, stride)
    tail = (0, 0)
    if mode == 0:
        tail, made_for = _tail(side, pad, kernel, stride), made(side, stride)
    if any(tail) and average and layer.whole(6, 0):
        raise layer.refuse("a mean that counts some of its pads")
    pad = (pad[0], pad[1], pad[2] + tail[0], pad[3] + tail[1])
    window: dict[str, Any] = {
        "kernel": kernel, "stride": stride, "pad": pad, "made_for": made_for
    }  # fmt: skip
    if average:
        op: Op = AveragePool(**window, count_include_pad=bool(layer.whole(6, 0)))
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
    layer.known(0, 1, 2, 3, 4, 5, 6)
    mode = {1: "nearest", 2: "bilinear"}.get(layer.whole(0, 0))
    if mode is None:
        raise layer.refuse("known here are nearest and bilinear")
    if mode == "bilinear" and layer.whole(6, 0):
        mode = "corners"
    size = (layer.whole(3, 0), layer.whole(4, 0))
    scale = (layer.real(1, 1.0), layer.real(2, 1.0))
    op = Resize(mode=mode) if len(x) == 2 else Resize(mode=mode, size=size, scale=scale)
    return [c.apply(op, *x, layer=layer)]


def make_Padding(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5, 6, 7, 8)
    if layer.whole(4, 0) or layer.whole(6, 0) or len(c.shape(x[0])) != 4:
        raise layer.refuse("known here is padding of a map with one number")
    before = (0, layer.whole(7, 0), layer.whole(0, 0), layer.whole(2, 0))
    after = (0, layer.whole(8, 0), layer.whole(1, 0), layer.whole(3, 0))
    return [c.apply(Pad(before=before, after=after, value=layer.real(5, 0.0)), x[0], layer=layer)]


# -- moving values


def make_Concat(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    return [c.apply(Concat(axis=axis_of(c, layer, x[0], layer.whole(0, 0))), *x, layer=layer)]


def make_Slice(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    axis = axis_of(c, layer, x[0], layer.whole(1, 0))
    asked, left, sizes = layer.arrays.get(0, ()), c.shape(x[0])[axis], []
    for i, size in enumerate(asked):  # -233: an equal share of what is left
        sizes.append(left // (len(asked) - i) if size == ABSENT else int(size))
        left -= sizes[-1]
    names = [f"{layer.name}:{i}" for i in range(len(sizes))]
    split = Split(axis=axis, sizes=tuple(sizes))
    return list(c.builder.apply_many(split, x[0], names=names))


def make_ShuffleChannel(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    groups = layer.whole(0, 1)
    if layer.whole(1, 0) and groups > 0:
        groups = c.shape(x[0])[1] // groups
    return [c.apply(ChannelShuffle(groups=groups), x[0], layer=layer)]


def make_Flatten(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known()
    return [flat(c, layer, x[0])]


def make_Reshape(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 11)
    if layer.whole(3, 0):
        raise layer.refuse("a reshape of the transposed map")
    sides = [layer.whole(key, ABSENT) for key in (2, 11, 1, 0)]  # channels, depth, height, width
    kept = [side for side in sides if side != ABSENT]
    if 0 in kept and len(kept) != len(c.shape(x[0])) - 1:
        raise layer.refuse("a reshape that keeps a side and changes the number of axes")
    return [c.apply(Reshape(shape=(0, *kept)), x[0], layer=layer)]


_ORDERS: Final = ("WHC", "HWC", "WCH", "CWH", "HCW", "CHW")  # new innermost axis first


def make_Permute(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    order, rank = layer.whole(0, 0), len(c.shape(x[0]))
    if rank == 3 and order in (0, 1):
        perm: tuple[int, ...] = (0, 1, 2) if order == 0 else (0, 2, 1)
    elif rank == 4 and 0 <= order < len(_ORDERS):
        perm = (0, *("_CHW".index(axis) for axis in reversed(_ORDERS[order])))
    else:
        raise layer.refuse(f"the order {order} of {rank - 1} axes is not known here")
    return [c.apply(Transpose(perm=perm), x[0], layer=layer)]


def make_Reduction(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1, 2, 3, 4, 5)
    mode = {0: "sum", 3: "mean", 4: "max", 8: "l2"}.get(layer.whole(0, 0))
    axes = layer.arrays.get(3, ())
    if mode is None or layer.whole(1, 1) or not axes or layer.real(2, 1.0) != 1:
        raise layer.refuse("known here are sum, mean, max and L2 norm along named axes")
    ours = tuple(axis_of(c, layer, x[0], int(axis)) for axis in axes)
    return [
        c.apply(Reduce(mode=mode, axes=ours, keepdims=bool(layer.whole(4, 0))), x[0], layer=layer)
    ]
