"""ONNX's ScatterND: exporters write the assignment to a part of a tensor so.

Where that part is a box, the result is what lies around it and the new values, joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Concat, Identity, Reshape, Slice
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

Box = list[tuple[int, int]]  # of each axis: first index, and the one behind the last


def make_ScatterND(c: Converter, node: OnnxNode) -> list[str]:
    """x with the updates at the places that the indices name, (…, k) for its first k axes."""
    x, indices, updates = c.tensor(node, 0), c.constant(node, 1), c.tensor(node, 2)
    if node.attribute("reduction", "none") != "none":
        raise node.refuse("it adds to what is there, or the like")
    shape = c.shape(x)
    box = None if indices is None else _box(indices, shape)
    if box is None:
        raise node.refuse("its places are no box of the tensor, in order")
    sides = tuple(end - start for start, end in box) + shape[len(box) :]
    if c.shape(updates) != sides:
        updates = c.apply(Reshape(sides), updates, node=node, part="updates")
    return [c.apply(Identity(), _put(c, node, x, updates, box, 0), node=node)]


def _box(indices: Array, shape: Shape) -> Box | None:
    """The places, if they are all of a box, each once, row by row."""
    k = indices.shape[-1] if indices.ndim else 0
    if not 0 < k <= len(shape) or not indices.size or indices.dtype.kind != "i":
        return None
    places = indices.reshape(-1, k)
    places = np.where(places < 0, places + np.array(shape[:k]), places)
    first, last = places[0], places[-1]
    if (first < 0).any() or (last >= shape[:k]).any() or (first > last).any():
        return None
    sides = tuple(int(side) for side in last - first + 1)
    if np.prod(sides, dtype=np.float64) != len(places):
        return None
    expected = np.stack(np.unravel_index(np.arange(len(places)), sides), 1) + first
    if not np.array_equal(places, expected):
        return None
    return [(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)]


def _put(c: Converter, node: OnnxNode, x: str, updates: str, box: Box, axis: int) -> str:
    """x with the updates in its box, of which the sides before ``axis`` are x's own."""
    shape = c.shape(x)
    narrow = [i for i in range(axis, len(box)) if box[i] != (0, shape[i])]
    if not narrow:
        return updates
    axis = narrow[0]
    start, end = box[axis]

    def cut(a: int, b: int) -> str:
        op = Slice(axes=(axis,), starts=(a,), ends=(b,), steps=(1,))
        return c.apply(op, x, node=node, part=f"axis{axis}:{a}")

    inside = updates
    if len(narrow) > 1:
        inside = _put(c, node, cut(start, end), updates, box, axis + 1)
    front = [cut(0, start)] if start else []
    back = [cut(end, shape[axis])] if end < shape[axis] else []
    return c.apply(Concat(axis), *front, inside, *back, node=node, part=f"joined{axis}")
