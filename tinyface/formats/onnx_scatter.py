"""ONNX's ScatterND: exporters write the assignment to a part of a tensor so.

Where that part is some places of every axis (x[..., [0, 1, 5]], x[:, 2:4]), the result is what lies
around it and the new values, joined.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Concat, Identity, Reshape, Slice
from tinyface.types import Shape

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

MAX_RUNS: Final = 64  # of places that follow each other, of one axis
Places = list[list[int]]  # of each axis, in rising order


def make_ScatterND(c: Converter, node: OnnxNode) -> list[str]:
    """x with the updates at the places that the indices name, (…, k) for its first k axes."""
    x, indices, updates = c.tensor(node, 0), c.constant(node, 1), c.tensor(node, 2)
    if node.attribute("reduction", "none") != "none":
        raise node.refuse("it adds to what is there, or the like")
    shape = c.shape(x)
    found = None if indices is None else places(indices, shape)
    if found is None:
        raise node.refuse("its places are not, in order, some of every axis")
    sides = tuple(map(len, found)) + shape[len(found) :]
    if c.shape(updates) != sides:
        updates = c.apply(Reshape(sides), updates, node=node, part="updates")
    return [assigned(c, node, x, updates, found)]


def assigned(c: Converter, node: OnnxNode, x: str, updates: str, places: Places) -> str:
    """x with the updates at these places of its first axes."""
    return c.apply(Identity(), _put(c, node, x, updates, places, 0), node=node)


def places(indices: Array, shape: Shape) -> Places | None:
    """The places of each axis, if the indices are all their combinations, each once, in order."""
    k = indices.shape[-1] if indices.ndim else 0
    if not 0 < k <= len(shape) or not indices.size or indices.dtype.kind != "i":
        return None
    rows = indices.reshape(-1, k)
    rows = np.where(rows < 0, rows + np.array(shape[:k]), rows)
    if (rows < 0).any() or (rows >= shape[:k]).any():
        return None
    axes = [np.unique(column) for column in rows.T]
    if np.prod([len(axis) for axis in axes], dtype=np.float64) != len(rows):
        return None
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, k)
    return [axis.tolist() for axis in axes] if np.array_equal(rows, grid) else None


def chosen_places(mask: Array) -> Places | None:
    """The places of each axis, if the mask is true at all their combinations and nowhere else. Not
    by way of their indices, which take many times the bytes of the mask."""
    axes = range(mask.ndim)
    found = [np.flatnonzero(mask.any(tuple(i for i in axes if i != axis))) for axis in axes]
    some = 0 < math.prod(map(len, found)) == np.count_nonzero(mask)
    return [places.tolist() for places in found] if some else None


def pieces(places: Places) -> int:
    """Into how many boxes an assignment to these places is divided."""
    return math.prod(len(_runs(axis)) for axis in places)


def _put(c: Converter, node: OnnxNode, x: str, updates: str, places: Places, axis: int) -> str:
    """x with the updates at its places, which are all of the axes before ``axis``."""
    shape = c.shape(x)
    narrow = [i for i in range(axis, len(places)) if len(places[i]) < shape[i]]
    if not narrow:
        return updates
    axis = narrow[0]

    def cut(name: str, start: int, end: int) -> str:
        if (start, end) == (0, c.shape(name)[axis]):
            return name
        return c.apply(Slice.along(axis, start, end), name, node=node, part=f"{len(c.made)}")

    runs = _runs(places[axis])
    if len(runs) > MAX_RUNS:
        raise node.refuse(
            f"{len(runs)} runs of places, where up to {MAX_RUNS} are known; "
            "assign to whole slices in front of the export"
        )
    parts, done, taken = [], 0, 0
    for start, end in runs:
        new = cut(updates, taken, taken + end - start)
        if len(narrow) > 1:
            new = _put(c, node, cut(x, start, end), new, places, axis + 1)
        parts += [cut(x, done, start)] if start > done else []
        parts.append(new)
        done, taken = end, taken + end - start
    parts += [cut(x, done, shape[axis])] if done < shape[axis] else []
    return c.apply(Concat(axis), *parts, node=node, part=f"{len(c.made)}")


def _runs(places: list[int]) -> list[tuple[int, int]]:
    """(first, one behind the last) of places that follow each other."""
    runs = []
    for _, group in groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
        values = [value for _, value in group]
        runs.append((values[0], values[-1] + 1))
    return runs
