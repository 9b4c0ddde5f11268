"""ONNX's Gather and GatherND: rows by their numbers, which must be known.

Either is slices of the map, one for each run of evenly spaced numbers, joined: addressing in the C
engine.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface import limits
from tinyface.formats.arrays import Array
from tinyface.formats.onnx_file import OnnxNode
from tinyface.ops import Concat, Reshape, Slice

if TYPE_CHECKING:
    from tinyface.formats.onnx import Converter

_END: Final = (1 << 31) - 1  # of a slice: to the end
FEW: Final = 16  # backwards, one by one: only NumPy slices backwards, and colours are three


def make_Gather(c: Converter, node: OnnxNode) -> list[str]:
    """Along one axis; the axes of the indices take its place."""
    x, indices = c.tensor(node, 0), c.constant(node, 1)
    if indices is None or not indices.size:
        raise node.refuse("its indices are missing")
    shape = c.shape(x)
    axis = node.axis(0, len(shape))
    y = rows(c, node, x, axis, indices)
    out = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    return [c.apply(Reshape(shape=(0, *out[1:]) if axis else out), y, node=node)]


def make_GatherND(c: Converter, node: OnnxNode) -> list[str]:
    """Along the first k axes, by rows of k indices. PyTorch's newer exporter writes x[:, :, i, j]
    so. Rows that are a grid (i x j) are taken axis by axis, others along the k axes as one."""
    x, indices = c.tensor(node, 0), c.constant(node, 1)
    if indices is None or indices.dtype.kind != "i" or not indices.size:
        raise node.refuse("its indices are missing or no integers")
    shape, k = c.shape(x), (indices.shape or (0,))[-1]
    if not 1 <= k <= len(shape) or node.attribute("batch_dims", 0):
        raise node.refuse(f"{k} indices of {len(shape)} axes, or its batch_dims are not 0")
    grid = _grid(indices)
    if grid and all(numbers.ndim == 1 for numbers in grid):  # before the turn, if there is one
        source, perm = c.turned.get(x, (x, tuple(range(len(shape)))))
        for axis, numbers in enumerate(grid):
            source = rows(c, node, source, perm[axis], numbers, f"axis{axis}:")
        return [c.transpose(source, perm, node)]
    if grid:
        for axis, numbers in enumerate(grid):
            x = rows(c, node, x, axis, numbers, f"axis{axis}:")
    else:
        sides = np.array(shape[:k])
        if ((indices < -sides) | (indices >= sides)).any():
            raise node.refuse(f"indices beyond the sides {shape[:k]}")
        merged = Reshape(shape=(math.prod(shape[:k]), *shape[k:]))
        x = c.apply(merged, x, node=node, part="merged")
        flat = np.ravel_multi_index(tuple(np.moveaxis(indices % sides, -1, 0)), shape[:k])
        x = rows(c, node, x, 0, np.asarray(flat))
    return [c.apply(Reshape(shape=(*indices.shape[:-1], *shape[k:])), x, node=node)]


def _grid(indices: Array) -> list[Array]:
    """Rows of k indices as one list for each of the k axes, whose product they are; [] if they are
    none. Each index must change along axes of its own, which follow those of the one before."""
    numbers: list[Array] = []
    rank, begin = indices.ndim - 1, 0
    for j in range(indices.shape[-1]):
        own = indices[..., j]
        varies = [a for a in range(rank) if (own != own.take([0], a)).any()]
        end = rank if j == indices.shape[-1] - 1 else max(varies, default=begin - 1) + 1
        if any(not begin <= a < end for a in varies):
            return []
        numbers.append(own[tuple(slice(None) if begin <= a < end else 0 for a in range(rank))])
        begin = end
    return numbers


def rows(c: Converter, node: OnnxNode, x: str, axis: int, indices: Array, part: str = "") -> str:
    """What the indices, in their order, name along the axis."""
    side = c.shape(x)[axis]
    wanted = indices.reshape(-1)
    if wanted.dtype.kind not in "iu" or ((wanted < -side) | (wanted >= side)).any():
        raise node.refuse(f"indices {wanted[:8].tolist()} of a side of {side}")
    if len(wanted) == side and (wanted == np.arange(side)).all():
        return x  # all: as_strided of a pooled map, as ConvNeXt's head is written
    cuts: list[str] = []
    runs = _runs(wanted.astype(np.int64))
    if len(runs) > limits.MAX_INPUTS:
        raise node.refuse(f"its {len(wanted)} indices are too many pieces of the axis")
    for first, count, step in runs:
        end = first + count * step
        if (end < 0) != (first < 0):  # beyond the last, or before the first
            end = _END if first < 0 else -_END
        cut = Slice.along(axis, first, end, step)
        cuts.append(c.apply(cut, x, node=node, part=f"{part}cut{len(cuts)}"))
    if len(cuts) == 1:
        return cuts[0]
    return c.apply(Concat(axis=axis), *cuts, node=node, part=f"{part}cuts")


def _runs(indices: Array) -> list[tuple[int, int, int]]:
    """[0, 1, 2, 7, 9] -> (first, count, step) of each run: [(0, 3, 1), (7, 2, 2)]. Those from the
    end, below 0, are runs of their own, and stay right for other sizes. Not all of them, where
    they are more than one concatenation joins."""
    steps = np.diff(indices)
    steps[(indices[1:] < 0) != (indices[:-1] < 0)] = 0  # as for an index that is repeated: none
    ends = np.append(np.flatnonzero(np.diff(steps)) + 1, len(steps))  # of equal steps
    runs: list[tuple[int, int, int]] = []
    at = 0
    while at < len(indices) and len(runs) <= limits.MAX_INPUTS:
        first, step = int(indices[at]), int(steps[at]) if at < len(steps) else 0
        count = int(ends[np.searchsorted(ends, at, "right")]) - at + 1 if step else 1
        if step < 0 and count <= FEW:
            runs += [(first + i * step, 1, 1) for i in range(count)]
        else:
            runs.append((first, count, step or 1))
        at += count
    return runs
