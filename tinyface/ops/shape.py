"""Operators that move values and compute none: join, cut, pad, rename, reorder."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
from tinyface.ops.spec import (
    Array,
    MaybeType,
    Op,
    Types,
    attr,
    need,
    need_axis,
    need_rank,
    register,
)
from tinyface.types import Shape, TensorType

LAST_AXIS = limits.MAX_RANK - 1
LOWEST = float(np.finfo(np.float32).min)


@register
class Concat(Op):
    """All inputs, one behind the other along ``axis``; the other sides must be equal."""

    axis: int = attr(1, low=-limits.MAX_RANK, high=LAST_AXIS)

    kind: ClassVar[str] = "concat"
    onnx: ClassVar[tuple[str, ...]] = ("Concat",)
    arity: ClassVar[tuple[int, int]] = (1, limits.MAX_INPUTS)

    def infer(self, *inputs: MaybeType) -> Types:
        parts = [need(self.kind, x) for x in inputs]
        first = parts[0]
        axis = need_axis(self.kind, first, self.axis)
        for x in parts:
            others = [part.shape[:axis] + part.shape[axis + 1 :] for part in (x, first)]
            if x.rank != first.rank or others[0] != others[1]:
                raise GraphError(f"concat: {x} and {first} differ elsewhere than on axis {axis}")
        total = sum(x.shape[axis] for x in parts)
        shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
        return (TensorType(shape, first.dtype),)

    def run(self, *parts: Array) -> Array:
        return np.concatenate(parts, self.axis)


@register
class Split(Op):
    """The reverse of Concat: ``sizes`` give each output's side along ``axis``."""

    axis: int = attr(1, low=-limits.MAX_RANK, high=LAST_AXIS)
    sizes: tuple[int, ...] = attr((), low=1, high=limits.MAX_DIM, length=limits.MAX_INPUTS)

    kind: ClassVar[str] = "split"
    onnx: ClassVar[tuple[str, ...]] = ("Split",)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        axis = need_axis(self.kind, x, self.axis)
        if sum(self.sizes) != x.shape[axis]:
            raise GraphError(f"split: sizes {self.sizes} do not add up to axis {axis} of {x}")
        return tuple(
            TensorType((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
            for size in self.sizes
        )

    def run(self, x: Array) -> tuple[Array, ...]:
        parts = np.split(x, np.cumsum(self.sizes)[:-1], self.axis)  # views
        return tuple(np.asarray(part, order="C") for part in parts)


@register
class Slice(Op):
    """x[start:end:step] on each of ``axes``, with Python's meaning of the three.

    Negative starts and ends count from the back, ends beyond the side mean "to the end", and a
    negative step walks backwards (RGB to BGR: axes (1,), starts (-1,), ends (-MAX_INDEX,),
    steps (-1,)). A slice that would be empty is refused.
    """

    axes: tuple[int, ...] = attr((), low=-limits.MAX_RANK, high=LAST_AXIS, length=limits.MAX_RANK)
    starts: tuple[int, ...] = attr((), length=limits.MAX_RANK)
    ends: tuple[int, ...] = attr((), length=limits.MAX_RANK)
    steps: tuple[int, ...] = attr((), length=limits.MAX_RANK)

    kind: ClassVar[str] = "slice"
    onnx: ClassVar[tuple[str, ...]] = ("Slice",)

    def __post_init__(self) -> None:
        if not len(self.axes) == len(self.starts) == len(self.ends) == len(self.steps):
            raise GraphError("slice: axes, starts, ends and steps differ in number")
        if 0 in self.steps:
            raise GraphError("slice: a step is 0")

    @classmethod
    def along(cls, axis: int, start: int, end: int, step: int = 1) -> Slice:
        """A slice of one axis."""
        return cls(axes=(axis,), starts=(start,), ends=(end,), steps=(step,))

    def index(self, rank: int) -> tuple[slice, ...]:
        """The slices of all ``rank`` axes."""
        index = [slice(None)] * rank
        for axis, *ends in zip(self.axes, self.starts, self.ends, self.steps, strict=True):
            index[axis] = slice(*ends)
        return tuple(index)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        axes = [need_axis(self.kind, x, axis) for axis in self.axes]
        if len(set(axes)) != len(axes):
            raise GraphError(f"slice: axes {self.axes} name one axis twice")
        pairs = zip(self.index(x.rank), x.shape, strict=True)
        shape = tuple(len(range(*s.indices(side))) for s, side in pairs)
        if 0 in shape:
            raise GraphError(f"slice: nothing is left of {x}")
        return (TensorType(shape, x.dtype),)

    def run(self, x: Array) -> Array:
        return np.asarray(x[self.index(x.ndim)], order="C")  # may be a single number


@register
class Pad(Op):
    """``value`` around x: before[i] and after[i] elements on axis i (one pair for every axis).
    Where it is never to win a maximum it is ``LOWEST``."""

    before: tuple[int, ...] = attr((), low=0, high=limits.MAX_PAD, length=limits.MAX_RANK)
    after: tuple[int, ...] = attr((), low=0, high=limits.MAX_PAD, length=limits.MAX_RANK)
    value: float = attr(0.0)

    kind: ClassVar[str] = "pad"
    onnx: ClassVar[tuple[str, ...]] = ("Pad",)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        if not len(self.before) == len(self.after) == x.rank:
            raise GraphError(f"pad: needs one number before and one after for each axis of {x}")
        sides = zip(self.before, x.shape, self.after, strict=True)
        return (TensorType(tuple(map(sum, sides)), x.dtype),)

    def run(self, x: Array) -> Array:
        widths = tuple(zip(self.before, self.after, strict=True))
        return np.pad(x, widths, constant_values=self.value)


@register
class Reshape(Op):
    """The same values under another shape: 0 keeps the input's side at that place, one -1 is
    whatever is left over. (0, -1) makes (n, c, h, w) to (n, c h w) for any n.
    """

    shape: tuple[int, ...] = attr((0, -1), low=-1, high=limits.MAX_DIM, length=limits.MAX_RANK)

    kind: ClassVar[str] = "reshape"
    onnx: ClassVar[tuple[str, ...]] = ("Reshape", "Squeeze", "Unsqueeze")
    view: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.shape.count(-1) > 1:
            raise GraphError(f"reshape: {self.shape} leaves more than one side open")

    def resolve(self, old: Shape) -> Shape:
        """The new shape, without 0 and -1. Raises GraphError where the sizes cannot agree."""
        if any(side == 0 and i >= len(old) for i, side in enumerate(self.shape)):
            raise GraphError(f"reshape: {self.shape} keeps a side that {old} does not have")
        new = [old[i] if side == 0 else side for i, side in enumerate(self.shape)]
        if -1 in new:
            rest = math.prod(side for side in new if side != -1)
            new[new.index(-1)] = math.prod(old) // rest
        if math.prod(new) != math.prod(old):
            raise GraphError(f"reshape: {old} does not fit into {self.shape}")
        return tuple(new)

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        return (TensorType(self.resolve(x.shape), x.dtype),)

    def run(self, x: Array) -> Array:
        return x.reshape(self.resolve(x.shape))


@register
class Flatten(Op):
    """A matrix: the axes before ``axis`` become its rows, the others its columns."""

    axis: int = attr(1, low=-limits.MAX_RANK, high=limits.MAX_RANK)

    kind: ClassVar[str] = "flatten"
    onnx: ClassVar[tuple[str, ...]] = ("Flatten",)
    view: ClassVar[bool] = True

    def matrix(self, shape: Shape) -> Shape:
        """(rows, columns). Raises GraphError where the axis does not exist."""
        if not -len(shape) <= self.axis <= len(shape):
            raise GraphError(f"flatten: axis {self.axis} does not exist in {shape}")
        axis = self.axis + len(shape) if self.axis < 0 else self.axis
        return math.prod(shape[:axis]), math.prod(shape[axis:])

    def infer(self, *inputs: MaybeType) -> Types:
        x = need(self.kind, inputs[0])
        return (TensorType(self.matrix(x.shape), x.dtype),)

    def run(self, x: Array) -> Array:
        return x.reshape(self.matrix(x.shape))


@register
class Transpose(Op):
    """Axis i of the output is axis perm[i] of the input; (0, 2, 3, 1) makes NCHW to NHWC."""

    perm: tuple[int, ...] = attr((0, 2, 3, 1), low=0, high=LAST_AXIS, length=limits.MAX_RANK)

    kind: ClassVar[str] = "transpose"
    onnx: ClassVar[tuple[str, ...]] = ("Transpose",)

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.perm))):
            raise GraphError(f"transpose: {self.perm} does not name every axis once")

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], len(self.perm))
        return (TensorType(tuple(x.shape[axis] for axis in self.perm), x.dtype),)

    def run(self, x: Array) -> Array:
        return np.asarray(x.transpose(self.perm), order="C")  # may be a single number


@register
class ChannelShuffle(Op):
    """Deal the channels of each group out to all groups: out[j g + i] = in[i c/g + j].

    Grouped convolutions in a row would never mix their groups without it.
    Zhang et al. 2018 (ShuffleNet), section 3.1.
    """

    groups: int = attr(2, low=1, high=limits.MAX_DIM)

    kind: ClassVar[str] = "channel_shuffle"

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 4)
        if x.shape[1] % self.groups:
            raise GraphError(f"channel_shuffle: {self.groups} groups do not divide {x}")
        return (x,)

    def run(self, x: Array) -> Array:
        n, c, h, w = x.shape
        dealt = x.reshape(n, self.groups, c // self.groups, h, w).swapaxes(1, 2)
        return dealt.reshape(x.shape)  # here the copy is made


@register
class Interleave(Op):
    """Maps (n, c, h, w) as one of (n, c, h bh, w bw), with (bh, bw) the ``block``: part i bw + j
    has the pixels of rows i, i + bh, … and columns j, j + bw, …

    What transposed convolutions (a convolution for each part) and depth-to-space end with.
    """

    block: tuple[int, int] = attr((2, 2), low=1, high=limits.MAX_BLOCK)

    kind: ClassVar[str] = "interleave"
    onnx: ClassVar[tuple[str, ...]] = ("DepthToSpace",)
    arity: ClassVar[tuple[int, int]] = (1, limits.MAX_INPUTS)

    def infer(self, *inputs: MaybeType) -> Types:
        parts = [need_rank(self.kind, x, 4) for x in inputs]
        (n, c, h, w), (bh, bw) = parts[0].shape, self.block
        if len(parts) != bh * bw or any(part.shape != parts[0].shape for part in parts):
            raise GraphError(f"interleave: needs {bh * bw} maps of one shape")
        return (TensorType((n, c, h * bh, w * bw), parts[0].dtype),)

    def run(self, *parts: Array) -> Array:
        (n, c, h, w), (bh, bw) = parts[0].shape, self.block
        grid = np.stack(parts).reshape(bh, bw, n, c, h, w)
        return grid.transpose(2, 3, 4, 0, 5, 1).reshape(n, c, h * bh, w * bw)


@register
class Identity(Op):
    """y = x. The pass drop_noops removes it (and what dropout is at inference)."""

    kind: ClassVar[str] = "identity"
    onnx: ClassVar[tuple[str, ...]] = ("Identity", "Dropout")
    view: ClassVar[bool] = True

    def infer(self, *inputs: MaybeType) -> Types:
        return (need(self.kind, inputs[0]),)

    def run(self, x: Array) -> Array:
        return x
