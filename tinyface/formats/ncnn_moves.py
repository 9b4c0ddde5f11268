"""ncnn layers that move values: ``make_TYPE(converter, layer, tensors)``.

The numbers are ncnn's parameter ids, as its operation-param-weight-table.md lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tinyface.formats.ncnn_file import Layer
from tinyface.formats.ncnn_layers import ABSENT, axis_of, flat
from tinyface.limits import MAX_COPIES, MAX_INDEX
from tinyface.ops import ChannelShuffle, Concat, Identity, Reshape, Slice, Split, Transpose

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter

NO_BATCH: Final = 233


def make_Concat(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    return [c.apply(Concat(axis=axis_of(c, layer, x[0], layer.whole(0, 0))), *x, layer=layer)]


def make_Slice(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Parts of an axis: of the sizes in the list 0, or from the places in the list 2 on."""
    layer.known(0, 1, 2)
    axis = axis_of(c, layer, x[0], layer.whole(1, 0))
    left, sizes = c.shape(x[0])[axis], []
    if 2 in layer.arrays:
        places = [int(place) + (left if place < 0 else 0) for place in layer.arrays[2]]
        sizes = [b - a for a, b in zip([0, *places], [*places, left], strict=True)]
    asked = () if sizes else layer.arrays.get(0, ())
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
    """To sides that the file names, or computes of its blobs' (6), whose last one may be the batch
    (12, 13: which axis that is, of the input and the output)."""
    layer.known(0, 1, 2, 3, 6, 11, 12, 13)
    batch = [layer.whole(key, NO_BATCH) for key in (12, 13)]
    if layer.whole(3, 0) or batch not in ([0, 0], [NO_BATCH] * 2):
        raise layer.refuse("a reshape of the transposed map, or of the batch")
    if 6 in layer.texts:
        computed = c.sizes(layer, 6, x)[: -1 if batch == [0, 0] else None]
        return [c.apply(Reshape(shape=(0, *computed[::-1])), x[0], layer=layer)]
    sides = [layer.whole(key, ABSENT) for key in (2, 11, 1, 0)]  # channels, depth, height, width
    kept = [side for side in sides if side != ABSENT]
    if 0 in kept and len(kept) != len(c.shape(x[0])) - 1:
        raise layer.refuse("a reshape that keeps a side and changes the number of axes")
    return [c.apply(Reshape(shape=(0, *kept)), x[0], layer=layer)]


def make_Squeeze(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Without sides of length 1: w (0), h (1), c (2), d (11), or those of the list 3."""
    layer.known(0, 1, 2, 3, 11)
    shape = c.shape(x[0])
    rank, own = len(shape), {0: -1, 1: -2, 11: -3, 2: 1 - len(shape)}
    gone = {axis_of(c, layer, x[0], int(axis)) for axis in layer.arrays.get(3, ())}
    gone |= {axis % rank for key, axis in own.items() if layer.whole(key, 0) and -axis < rank}
    sides = [side for axis, side in enumerate(shape) if axis and (axis not in gone or side != 1)]
    return [c.apply(Reshape(shape=(0, *(sides or [1]))), x[0], layer=layer)]


def make_ExpandDims(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """With sides of length 1 at the axes of the list 3, counted in the result."""
    layer.known(0, 1, 2, 3, 11)
    sides, named = list(c.shape(x[0])[1:]), layer.arrays.get(3, ())
    rank = len(sides) + len(named)
    new = {int(axis) % rank for axis in named if -rank <= axis < rank}
    if len(new) != len(named) or rank > 4 or any(layer.whole(key, 0) for key in (0, 1, 2, 11)):
        raise layer.refuse("known are up to four axes, each named once in a list")
    for axis in sorted(new):
        sides.insert(axis, 1)
    return [c.apply(Reshape(shape=(0, *sides)), x[0], layer=layer)]


def make_Crop(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Slices of axes (9: starts, 10: ends, 11: axes), or offsets and sizes of sides."""
    layer.known(*range(9), 9, 10, 11)
    if len(x) != 1:
        raise layer.refuse("to the size of another blob")
    starts, ends = layer.arrays.get(9, ()), layer.arrays.get(10, ())
    shape = c.shape(x[0])
    axes = [axis_of(c, layer, x[0], int(axis)) for axis in layer.arrays.get(11, ())]
    if starts:
        axes = axes or list(range(1, 1 + len(starts)))
        first = [0 if start == ABSENT else int(start) for start in starts]
        last = [MAX_INDEX if end == ABSENT else int(end) for end in ends]
        if not len(first) == len(last) == len(axes):
            raise layer.refuse("its starts, ends and axes differ in number")
    else:
        if len(shape) > 4:
            raise layer.refuse("by offsets, of four axes")
        ids = dict(zip((-1, -2, -3), ((0, 3, 6), (1, 4, 7), (2, 5, 8)), strict=True))
        axes, first, last = list(range(1 - len(shape), 0)), [], []
        for axis in axes:
            offset, size, less = (layer.whole(key, 0) for key in ids[axis])
            first.append(offset)
            if size in (0, ABSENT):
                last.append(-less or MAX_INDEX)
            elif less or offset + size > shape[axis]:
                raise layer.refuse("a size and an end, or a size beyond the end")
            else:
                last.append(offset + size)
    op = Slice(axes=tuple(axes), starts=tuple(first), ends=tuple(last), steps=(1,) * len(axes))
    return [c.apply(op, x[0], layer=layer)]


def make_Flip(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Backwards along the axes of the list 0."""
    layer.known(0)
    axes = tuple(axis_of(c, layer, x[0], int(axis)) for axis in layer.arrays.get(0, ()))
    n = len(axes)
    op = Slice(axes=axes, starts=(-1,) * n, ends=(-MAX_INDEX,) * n, steps=(-1,) * n)
    return [c.apply(op, x[0], layer=layer)]


def make_Tile(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Copies side by side: so many (1) along an axis (0), or along the last axes (2)."""
    layer.known(0, 1, 2)
    rank, repeats = len(c.shape(x[0])), [int(n) for n in layer.arrays.get(2, ())]
    if repeats:
        pairs = [(rank - len(repeats) + i, n) for i, n in enumerate(repeats)]
    else:
        pairs = [(axis_of(c, layer, x[0], layer.whole(0, 0)), layer.whole(1, 1))]
    y = x[0]
    for axis, n in pairs:
        if not 1 <= n <= MAX_COPIES or axis < 1:
            raise layer.refuse(f"{n} copies along axis {axis - 1}")
        y = c.apply(Concat(axis=axis), *[y] * n, layer=layer, part=f"axis{axis}")
    return [c.apply(Identity(), y, layer=layer)]


def make_Reorg(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Blocks of pixels as channels; in mode 0, PyTorch's, those of one channel stay together."""
    layer.known(0, 1)
    together, shape = not layer.whole(1, 0), c.shape(x[0])
    return [c.formulas(layer).space_to_depth(x[0], shape, layer.whole(0, 1), together)]


def make_Packing(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """How numbers lie in memory, and of what type they are, is the engine's own affair."""
    return x


make_Cast = make_DeepCopy = make_Packing


_ORDERS: Final = ("WHC", "HWC", "WCH", "CWH", "HCW", "CHW")  # new innermost axis first
_ORDERS_OF_4: Final = (
    "WHDC", "HWDC", "WDHC", "DWHC", "HDWC", "DHWC", "WHCD", "HWCD", "WCHD", "CWHD", "HCWD", "CHWD",
    "WDCH", "DWCH", "WCDH", "CWDH", "DCWH", "CDWH", "HDCW", "DHCW", "HCDW", "CHDW", "DCHW", "CDHW",
)  # fmt: skip


def make_Permute(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    order, rank = layer.whole(0, 0), len(c.shape(x[0]))
    orders = {3: ("WH", "HW"), 4: _ORDERS, 5: _ORDERS_OF_4}.get(rank, ())
    if not 0 <= order < len(orders):
        raise layer.refuse(f"the order {order} of {rank - 1} axes is not known here")
    own = {3: "_HW", 4: "_CHW", 5: "_CDHW"}[rank]
    perm = (0, *(own.index(axis) for axis in reversed(orders[order])))
    return [c.apply(Transpose(perm=perm), x[0], layer=layer)]
