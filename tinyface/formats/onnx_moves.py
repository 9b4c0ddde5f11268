"""ONNX operators that move: ``make_TYPE(converter, node) -> tensors``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import (
    Add,
    Compare,
    Concat,
    Flatten,
    Identity,
    Reshape,
    Slice,
    Split,
    Sub,
)
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_END: Final = (1 << 31) - 1  # of a slice: to the end
_BROADCASTING: Final = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
_BOOL: Final = 9
_FLOATS: Final = (1, 10, 11)  # ONNX's numbers of float32, float16, float64


def shape_of(c: Converter, node: OnnxNode) -> Array:
    """``Shape`` of a tensor: known here, because all shapes are."""
    shape = c.shape(c.tensor(node, 0))
    start, end = node.attribute("start", 0), node.attribute("end", len(shape))
    return np.array(shape[start:end], np.int64)


def _reshape(c: Converter, node: OnnxNode, new: Shape, part: str = "") -> list[str]:
    """To a known shape. A first side that stays is "kept" (0), so that the batch stays free."""
    x = c.tensor(node, 0)
    old = c.shape(x)
    if new and old and new[0] == old[0]:
        new = (0, *new[1:])
    return [c.apply(Reshape(shape=new), x, node=node, part=part)]


def make_Reshape(c: Converter, node: OnnxNode) -> list[str]:
    new = c.integers(node, 1, "shape")
    if new is None:
        raise node.refuse("its shape is missing")
    old = c.shape(c.tensor(node, 0))
    if 0 in new and node.attribute("allowzero", 0):
        raise node.refuse("an empty tensor")
    if len(new) > len(old) and 0 in new[len(old) :]:
        raise node.refuse("keeps a side that its input does not have")
    return _reshape(c, node, new)


def make_Flatten(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Flatten(axis=node.attribute("axis", 1)), c.tensor(node, 0), node=node)]


def make_Squeeze(c: Converter, node: OnnxNode) -> list[str]:
    shape = c.shape(c.tensor(node, 0))
    axes = c.axes(node, len(shape))
    if axes is None:  # x.squeeze(): of a batch of free size nobody means the batch
        axes = tuple(i for i, side in enumerate(shape) if side == 1 and (i or not c.file.free))
    if any(shape[axis] != 1 for axis in axes):
        raise node.refuse(f"axes {axes} of shape {shape} are not of length 1")
    return _reshape(c, node, tuple(side for i, side in enumerate(shape) if i not in axes))


def make_Unsqueeze(c: Converter, node: OnnxNode) -> list[str]:
    shape = list(c.shape(c.tensor(node, 0)))
    given = c.integers(node, 1, "axes") or ()
    axes = c.axes(node, len(shape) + len(given)) or ()
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return _reshape(c, node, tuple(shape))


def make_Transpose(c: Converter, node: OnnxNode) -> list[str]:
    x = c.tensor(node, 0)
    usual = tuple(reversed(range(len(c.shape(x)))))
    perm = node.ints("perm", usual)
    if sorted(perm) != sorted(usual):
        raise node.refuse(f"perm {perm} of an input with {len(usual)} axes")
    return [c.transpose(x, perm, node)]


def make_Concat(c: Converter, node: OnnxNode) -> list[str]:
    if "axis" not in node.attributes:
        raise node.refuse("its axis is missing")
    parts = [c.tensor(node, i) for i in range(len(node.inputs))]
    return [c.apply(Concat(axis=node.attribute("axis", 0)), *parts, node=node)]


def make_Split(c: Converter, node: OnnxNode) -> list[str]:
    x, axis = c.tensor(node, 0), node.attribute("axis", 0)
    names = [c.checked(name or f"{node.outputs[0]}:{i}") for i, name in enumerate(node.outputs)]
    sizes = c.integers(node, 1, "split")
    count = len(sizes) if sizes is not None else node.attribute("num_outputs", len(names))
    if count != len(names):
        raise node.refuse(f"{count} sizes for {len(names)} outputs")
    if sizes is None:  # equal parts, the last one smaller where they do not fit
        side = c.shape(x)[axis]
        share = -(-side // count)
        sizes = tuple(min(share, side - share * i) for i in range(count))
    return list(c.builder.apply_many(Split(axis=axis, sizes=sizes), x, names=names))


def make_Slice(c: Converter, node: OnnxNode) -> list[str]:
    """Attributes before opset 10, inputs since."""
    x = c.tensor(node, 0)
    starts, ends = c.integers(node, 1, "starts"), c.integers(node, 2, "ends")
    if starts is None or ends is None:
        raise node.refuse("its starts or ends are missing")
    axes = c.integers(node, 3, "axes") or tuple(range(len(starts)))
    steps = c.integers(node, 4) or (1,) * len(starts)
    clipped = [tuple(max(-_END, min(v, _END)) for v in given) for given in (starts, ends, steps)]
    op = Slice(axes=axes, starts=clipped[0], ends=clipped[1], steps=clipped[2])
    return [c.apply(op, x, node=node)]


def make_Expand(c: Converter, node: OnnxNode) -> list[str]:
    """Repeating sides of 1 is adding zeros of the larger shape, or nothing at all: most often
    what reads it would broadcast by itself (a gate written as x * gate.expand_as(x))."""
    target = c.integers(node, 1)
    if target is None:
        raise node.refuse("its shape is missing")
    return _expanded(c, node, np.broadcast_shapes(c.shape(c.tensor(node, 0)), target))


def _expanded(c: Converter, node: OnnxNode, shape: Shape) -> list[str]:
    x = c.tensor(node, 0)
    if shape == c.shape(x):
        return [c.apply(Identity(), x, node=node)]
    if math.prod(shape) > 1 << 24:
        raise node.refuse(f"expands to {shape}")
    if _broadcast_by_readers(c, node, shape):
        return [x]
    return [c.apply(Add(), x, c.own_weight(node, "zeros", np.zeros(shape, np.float32)), node=node)]


def make_Tile(c: Converter, node: OnnxNode) -> list[str]:
    """Every axis as often behind itself as it says; axes of one element as in Expand."""
    y, repeats = c.tensor(node, 0), c.integers(node, 1)
    old = c.shape(y)
    if repeats is None or len(repeats) != len(old) or min(repeats) < 1:
        raise node.refuse("its repeats are missing or do not fit")
    if all(side == 1 for side, count in zip(old, repeats, strict=True) if count > 1):
        return _expanded(c, node, tuple(map(math.prod, zip(old, repeats, strict=True))))
    if max(repeats) > 64 or math.prod(repeats) * math.prod(c.shape(y)) > 1 << 24:
        raise node.refuse(f"repeats {repeats} times")
    for axis, count in enumerate(repeats):
        if count > 1:
            y = c.apply(Concat(axis=axis), *[y] * count, node=node, part=f"axis{axis}")
    return [c.apply(Identity(), y, node=node)]


def _broadcast_by_readers(c: Converter, node: OnnxNode, shape: Shape) -> bool:
    """Whether all that read it are element-wise, with another operand of the full shape."""
    (name,) = node.outputs
    readers = c.file.readers.get(name, ())
    return (
        bool(readers)
        and name not in c.file.handed_out
        and all(
            reader.kind in _BROADCASTING
            and any(
                other != name and other in c.tensors and c.shape(c.tensors[other]) == shape
                for other in reader.inputs
            )
            for reader in readers
        )
    )


def make_Identity(c: Converter, node: OnnxNode) -> list[str]:
    return [c.apply(Identity(), c.tensor(node, 0), node=node)]


def make_Dropout(c: Converter, node: OnnxNode) -> list[str]:
    training = c.constant(node, 2)
    if training is not None and training.any():
        raise node.refuse("in training mode; export it after model.eval()")
    return make_Identity(c, node)


def make_Cast(c: Converter, node: OnnxNode) -> list[str]:
    if node.attribute("to", 0) == _BOOL:  # true is what is not 0
        zero, one = (c.own_weight(node, str(i), np.full(1, i, np.float32)) for i in (0, 1))
        false = c.apply(Compare(mode="equal"), c.tensor(node, 0), zero, node=node, part="false")
        return [c.apply(Sub(), one, false, node=node)]
    if node.attribute("to", 0) not in _FLOATS:
        raise node.refuse("a cast of a tensor to integers")
    return make_Identity(c, node)
