"""Hypothesis strategies: for every operator kind, cases of attributes and inputs that fit.

``STRATEGIES[kind]`` gives :class:`Case`; the property tests of the NumPy definitions and of the
C kernels draw from the same ones.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import strategies_shapes as shapes
from cases import Case, Draw, any_rank, axis_of, integers, maps, pairs, values
from hypothesis import strategies as st

from tinyface import ops
from tinyface.ops import Op
from tinyface.ops.conv import window_output
from tinyface.ops.spec import Array

# ------------------------------------------------------------------ activations


def _activation(cls: type[Op]) -> st.SearchStrategy[Op]:
    """The operator with its constants varied around the usual ones."""
    tenths = st.integers(-20, 20).map(lambda i: i / 10)
    if cls is ops.Clip:
        ends = st.tuples(tenths, tenths).map(sorted)
        return st.one_of(st.just(ops.Clip()), ends.map(lambda e: ops.Clip(*e)))
    if cls is ops.HardSigmoid:
        return st.sampled_from([ops.HardSigmoid(), ops.HardSigmoid(0.2, 0.5)])
    if cls is ops.GELU:
        return st.booleans().map(ops.GELU)
    if fields(cls):
        return st.one_of(st.just(cls()), tenths.map(cls))
    return st.just(cls())


ACTIVATIONS: tuple[type[Op], ...] = ops.FUSABLE


def elementwise(cls: type[Op]) -> st.SearchStrategy[Case]:
    @st.composite
    def case(draw: Draw) -> Case:
        return Case(draw(_activation(cls)), (any_rank(draw),))

    return case()


def limited(op: Op, low: float, high: float) -> st.SearchStrategy[Case]:
    """An operator that is of use for such values only."""
    return st.composite(lambda draw: Case(op, (any_rank(draw).clip(low, high),)))()


@st.composite
def prelu(draw: Draw) -> Case:
    x = any_rank(draw, 2, 4)
    slopes = draw(st.sampled_from([1, x.shape[1]]))
    return Case(ops.PReLU(), (x, values(draw, (slopes,))))


@st.composite
def softmax(draw: Draw) -> Case:
    x = any_rank(draw)
    return Case(ops.Softmax(axis_of(draw, x)), (x,))


# ----------------------------------------------- convolution and linear, with epilogue


def epilogue(
    draw: Draw, out: tuple[int, ...], axis: int = 1
) -> tuple[Op | None, tuple[Array | None, ...]]:
    """An activation to fuse (or none), and bias, slope and residual that fit the output."""
    act = draw(st.one_of(st.none(), st.sampled_from(ACTIVATIONS).flatmap(_activation)))
    channels = out[axis]
    bias = values(draw, (channels,)) if draw(st.booleans()) else None
    slope = residual = None
    if isinstance(act, ops.PReLU):
        slope = values(draw, (draw(st.sampled_from([1, channels])),))
    if draw(st.booleans()):
        residual = values(draw, out)
    return act, (bias, slope, residual)


def fitting(draw: Draw, side: int, most: int) -> tuple[int, int, int, int, int]:
    """Kernel, stride, both pads, dilation of a window that fits the side, and its output side."""
    before, after = draw(pairs(0, 3))
    room = side + before + after
    dilation = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(integers(1, min(most, (room - 1) // dilation + 1)))
    return kernel, draw(integers(1, 3)), before, after, dilation


@st.composite
def conv2d(draw: Draw) -> Case:
    """Standard, grouped, depthwise (with multiplier), pointwise; any stride, pad, dilation."""
    groups = draw(integers(1, 4))
    per_in, per_out = draw(pairs(1, 3))
    x = maps(draw, groups * per_in)
    (kh, sh, top, bottom, dh), (kw, sw, left, right, dw) = (
        fitting(draw, side, 7) for side in x.shape[2:]
    )
    if draw(st.integers(0, 4)) == 0:  # the whole map: GDC
        kh, sh, top, bottom, dh = x.shape[2], 1, 0, 0, 1
        kw, sw, left, right, dw = x.shape[3], 1, 0, 0, 1
    weight = values(draw, (groups * per_out, per_in, kh, kw))
    oh = window_output(x.shape[2], top, bottom, kh, sh, dh)
    ow = window_output(x.shape[3], left, right, kw, sw, dw)
    act, extra = epilogue(draw, (x.shape[0], weight.shape[0], oh, ow))
    op = ops.Conv2d((sh, sw), (top, left, bottom, right), (dh, dw), groups, act)
    return Case(op, (x, weight, *extra))


@st.composite
def linear(draw: Draw) -> Case:
    rows = tuple(draw(st.lists(integers(1, 4), min_size=1, max_size=3)))
    k, o = draw(integers(1, 40)), draw(integers(1, 9))
    act, extra = epilogue(draw, (*rows, o), axis=-1)
    return Case(ops.Linear(act), (values(draw, (*rows, k)), values(draw, (o, k)), *extra))


@st.composite
def matmul(draw: Draw) -> Case:
    """Stacks of up to two axes, some of them broadcast."""
    stack = tuple(draw(st.lists(integers(1, 3), max_size=2)))
    m, k, n = draw(integers(1, 20)), draw(integers(1, 20)), draw(integers(1, 40))
    stacks = [stack, tuple(side if draw(st.booleans()) else 1 for side in stack)]
    stacks[1] = stacks[1][draw(integers(0, len(stack))) :]
    left, right = stacks if draw(st.booleans()) else reversed(stacks)
    op = ops.MatMul(draw(st.sampled_from([1.0, 0.3])))
    return Case(op, (values(draw, (*left, m, k)), values(draw, (*right, k, n))))


@st.composite
def batch_norm(draw: Draw) -> Case:
    x = any_rank(draw, 2, 4)
    gamma, beta, mean = (values(draw, x.shape[1:2]) for _ in range(3))
    eps = draw(st.sampled_from([1e-5, 2e-5, 1e-3]))
    return Case(ops.BatchNorm(eps), (x, gamma, beta, mean, values(draw, x.shape[1:2], low=0.01)))


@st.composite
def l2_normalize(draw: Draw) -> Case:
    x = any_rank(draw)
    return Case(ops.L2Normalize(axis_of(draw, x), draw(st.sampled_from([1e-12, 0.5]))), (x,))


@st.composite
def layer_norm(draw: Draw) -> Case:
    """Without scale, with it, with both; rows that are long, or one value; never constant ones."""
    x = any_rank(draw) if draw(st.booleans()) else values(draw, (2, 3, draw(integers(1, 200))))
    axis = axis_of(draw, x)
    x = x + np.cos(np.arange(x.size)).reshape(x.shape).astype(np.float32)
    vectors = [values(draw, (x.shape[axis],)) for _ in range(draw(integers(0, 2)))]
    return Case(ops.LayerNorm(axis, draw(st.sampled_from([1e-5, 0.1]))), (x, *vectors))


# ---------------------------------------------------------------------- pooling


def pool(cls: type[Op]) -> st.SearchStrategy[Case]:
    @st.composite
    def case(draw: Draw) -> Case:
        x = maps(draw)
        (kh, sh, top, bottom, dh), (kw, sw, left, right, dw) = (
            fitting(draw, side, 4) for side in x.shape[2:]
        )
        reach_h, reach_w = dh * (kh - 1), dw * (kw - 1)  # a pad must be smaller than the window
        top, bottom = min(top, reach_h), min(bottom, reach_h)
        left, right = min(left, reach_w), min(right, reach_w)
        if top + bottom + x.shape[2] <= reach_h or left + right + x.shape[3] <= reach_w:
            kh, kw, top, bottom, left, right = 1, 1, 0, 0, 0, 0
        more = {"count_include_pad": draw(st.booleans())} if cls is ops.AveragePool else {}
        op = cls(
            kernel=(kh, kw),
            stride=(sh, sw),
            pad=(top, left, bottom, right),
            dilation=(dh, dw),
            ceil=draw(st.booleans()),
            **more,
        )
        return Case(op, (x,))

    return case()


@st.composite
def reduce(draw: Draw) -> Case:
    x = any_rank(draw)
    axes = draw(st.lists(integers(0, x.ndim - 1), min_size=1, unique=True))
    back = draw(st.booleans())
    mode = draw(st.sampled_from(["mean", "sum", "max", "l2"]))
    op = ops.Reduce(mode, tuple(a - x.ndim * back for a in axes), draw(st.booleans()))
    return Case(op, (x,))


# -------------------------------------------------------------- two maps into one


def binary(cls: type[Op]) -> st.SearchStrategy[Case]:
    """Shapes that broadcast: equal, gates (n, c, 1, 1), vectors, scalars."""

    @st.composite
    def case(draw: Draw) -> Case:
        shape = tuple(draw(st.lists(integers(1, 4), min_size=1, max_size=4)))
        other = tuple(side if draw(st.booleans()) else 1 for side in shape)
        other = other[draw(integers(0, len(other))) :]
        shapes = (shape, other) if draw(st.booleans()) else (other, shape)
        return Case(cls(), (values(draw, shapes[0]), values(draw, shapes[1])))

    return case()


@st.composite
def compare(draw: Draw) -> Case:
    """Near ones and equal ones among them."""
    case = draw(binary(ops.Add))
    a, b = (np.asarray(np.round(x)) for x in case.inputs)
    modes = ["greater", "greater_equal", "less", "less_equal", "equal"]
    return Case(ops.Compare(draw(st.sampled_from(modes))), (a, b))


@st.composite
def where(draw: Draw) -> Case:
    case = draw(binary(ops.Add))
    condition = np.asarray(np.round(draw(st.sampled_from(case.inputs)) / 4))
    return Case(ops.Where(), (condition, *case.inputs))


@st.composite
def max_feature_map(draw: Draw) -> Case:
    x = any_rank(draw, 2, 4)
    return Case(ops.MaxFeatureMap(), (np.concatenate([x, values(draw, x.shape)], 1),))


def one_map(op: Op) -> st.SearchStrategy[Case]:
    @st.composite
    def case(draw: Draw) -> Case:
        return Case(op, (maps(draw),))

    return case()


STRATEGIES: dict[str, st.SearchStrategy[Case]] = {
    **{cls.kind: elementwise(cls) for cls in ACTIVATIONS if cls is not ops.PReLU},
    **{cls.kind: binary(cls) for cls in (ops.Add, ops.Sub, ops.Mul, ops.Div, ops.Maximum)},
    **{cls.kind: pool(cls) for cls in (ops.MaxPool, ops.AveragePool)},
    "batch_norm": batch_norm(),
    "channel_shuffle": shapes.channel_shuffle(),
    "compare": compare(),
    "concat": shapes.concat(),
    "conv2d": conv2d(),
    "exp": limited(ops.Exp(), -64, 64),
    "flatten": shapes.flatten(),
    "global_average_pool": one_map(ops.GlobalAveragePool()),
    "global_max_pool": one_map(ops.GlobalMaxPool()),
    "identity": one_map(ops.Identity()),
    "interleave": shapes.interleave(),
    "l2_normalize": l2_normalize(),
    "layer_norm": layer_norm(),
    "linear": linear(),
    "log": limited(ops.Log(), 1e-6, 1e9),
    "matmul": matmul(),
    "max_feature_map": max_feature_map(),
    "pad": shapes.pad(),
    "prelu": prelu(),
    "reduce": reduce(),
    "reshape": shapes.reshape(),
    "resize": shapes.resize(),
    "slice": shapes.slices(),
    "softmax": softmax(),
    "softplus": elementwise(ops.Softplus),
    "split": shapes.split(),
    "sqrt": limited(ops.Sqrt(), 0, 1e9),
    "transpose": shapes.transpose(),
    "where": where(),
}
