"""Strategies for operators that move values and compute none."""

from __future__ import annotations

from cases import Case, Draw, any_rank, axis_of, integers, maps, pairs, values
from hypothesis import strategies as st

from tinyface import ops


@st.composite
def concat(draw: Draw) -> Case:
    x = any_rank(draw)
    axis = axis_of(draw, x)
    parts = []
    for _ in range(draw(integers(1, 4))):
        shape = list(x.shape)
        shape[axis] = draw(integers(1, 4))
        parts.append(values(draw, tuple(shape)))
    return Case(ops.Concat(axis), tuple(parts))


@st.composite
def split(draw: Draw) -> Case:
    sizes = tuple(draw(st.lists(integers(1, 4), min_size=1, max_size=4)))
    shape = draw(st.lists(integers(1, 4), min_size=1, max_size=4))
    axis = draw(integers(-len(shape), len(shape) - 1))
    shape[axis] = sum(sizes)
    return Case(ops.Split(axis, sizes), (values(draw, tuple(shape)),))


@st.composite
def slices(draw: Draw) -> Case:
    x = any_rank(draw)
    chosen = []
    for axis in draw(st.lists(integers(0, x.ndim - 1), unique=True)):
        side = x.shape[axis]
        step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        start, end = draw(pairs(-side - 2, side + 2))
        if len(range(side)[start:end:step]) == 0:  # empty: take everything instead
            start, end = (0, 2**31 - 1) if step > 0 else (-1, -(2**31) + 1)
        chosen.append((axis, start, end, step))
    return Case(ops.Slice(*(tuple(part) for part in zip(*chosen, strict=True))), (x,))


@st.composite
def pad(draw: Draw) -> Case:
    x = any_rank(draw, 1, 4)
    before, after = (tuple(draw(integers(0, 2)) for _ in x.shape) for _ in range(2))
    return Case(ops.Pad(before, after, draw(st.sampled_from([0.0, -1.5]))), (x,))


@st.composite
def reshape(draw: Draw) -> Case:
    """The sides, some neighbours multiplied together, some kept by 0, one left open by -1."""
    x = any_rank(draw, 1, 5)
    shape: list[int] = []
    for i, side in enumerate(x.shape):
        if shape and shape[-1] > 0 and draw(st.booleans()):
            shape[-1] *= side
        else:
            keep = len(shape) == i and draw(st.booleans())
            shape.append(0 if keep else side)
    open_at = draw(integers(0, len(shape)))
    if open_at < len(shape):
        shape[open_at] = -1
    return Case(ops.Reshape(tuple(shape)), (x,))


@st.composite
def flatten(draw: Draw) -> Case:
    x = any_rank(draw)
    return Case(ops.Flatten(draw(integers(-x.ndim, x.ndim))), (x,))


@st.composite
def transpose(draw: Draw) -> Case:
    x = any_rank(draw)
    return Case(ops.Transpose(tuple(draw(st.permutations(range(x.ndim))))), (x,))


@st.composite
def channel_shuffle(draw: Draw) -> Case:
    groups = draw(integers(1, 4))
    return Case(ops.ChannelShuffle(groups), (maps(draw, groups * draw(integers(1, 4))),))


@st.composite
def interleave(draw: Draw) -> Case:
    block = draw(pairs(1, 3))
    first = maps(draw, side=5)
    others = (values(draw, first.shape) for _ in range(block[0] * block[1] - 1))
    return Case(ops.Interleave(block), (first, *others))


@st.composite
def resize(draw: Draw) -> Case:
    """To a size, to another map's size, by whole and by broken factors.

    The broken ones are such that the new side is never the old one or twice the old one (but
    for a side of 1): there PyTorch takes a short cut that ignores the factor's fraction.
    """
    x = maps(draw)
    mode = draw(st.sampled_from(["nearest", "bilinear", "corners"]))
    how = draw(st.sampled_from(["size", "like", "scale"]))
    if how == "size":
        return Case(ops.Resize(mode, size=draw(pairs(1, 20))), (x,))
    if how == "like":
        return Case(ops.Resize(mode), (x, maps(draw, side=20)))
    scale = tuple(draw(st.sampled_from([1.0, 2.0, 3.0, 1.7, 2.6])) for _ in range(2))
    return Case(ops.Resize(mode, scale=scale), (x,))
