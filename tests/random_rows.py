"""Random small graphs of tensors of any rank: what heads of detectors and transformers are made of.

No operator lets an error grow by more than the values do: the norms divide by sqrt(var + 1) or
max(norm, 1), so that ``random_graphs.drift`` bounds the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from random_graphs import weighted

from tinyface import ops
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.ops.spec import Array

MOST = 4096  # values of a tensor
ACTS = (ops.ReLU(), ops.GELU(), ops.GELU(tanh=True), ops.Sigmoid(), ops.Tanh(), ops.LeakyReLU(0.1))


class Rows:
    """Adds random operators to a builder; ``made`` are the tensors so far. Axis 0 is the batch."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.b = Builder("rows")
        sides = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 16]), min_size=1, max_size=4))
        while math.prod(sides) > MOST // 4:
            sides.remove(max(sides))
        self.made = [self.b.input("input", (draw(st.sampled_from([1, 1, 2])), *sides))]
        self.count = 0

    def param(self, *shape: int, key: str = "p") -> str:
        self.count += 1
        return self.b.param(f"{key}{self.count}", shape)

    def pick(self) -> str:
        return self.made[-1] if self.draw(st.booleans()) else self.draw(st.sampled_from(self.made))

    def grow(self) -> None:
        x = self.pick()
        y = self.draw(st.sampled_from(STEPS))(self, x)
        for name in (y,) if isinstance(y, str) else y:
            if math.prod(self.b.shape(name)) <= MOST:
                self.made.append(name)

    def axis(self, x: str) -> int:
        """Of x, but not the batch."""
        return int(self.draw(st.integers(1, len(self.b.shape(x)) - 1)))

    def graph(self) -> Graph:
        for _ in range(self.draw(st.integers(2, 9))):
            self.grow()
        more = self.draw(st.lists(st.sampled_from(self.made), unique=True, max_size=2))
        outputs = dict.fromkeys([*more, self.made[-1]])
        if "input" in outputs:
            outputs[self.b.apply(ops.ReLU(), "input")] = outputs.pop("input")
        return self.b.build(*outputs)


def reshape(g: Rows, x: str) -> str:
    n, *sides = g.b.shape(x)
    size, goal = math.prod(sides), []
    for _ in range(g.draw(st.integers(0, 3))):
        goal.append(g.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= goal[-1]
    return g.b.apply(ops.Reshape((n, *g.draw(st.permutations([*goal, size])))), x)


def transpose(g: Rows, x: str) -> str:
    axes = g.draw(st.permutations(range(1, len(g.b.shape(x)))))
    return g.b.apply(ops.Transpose((0, *axes)), x)


def tokens(g: Rows, x: str) -> str:
    """A map as rows of pixels, or rows of pixels as a map."""
    shape, turned = g.b.shape(x), ops.Transpose((0, 2, 1))
    if len(shape) == 4:
        return g.b.apply(turned, g.b.apply(ops.Reshape((0, shape[1], -1)), x))
    if len(shape) != 3:
        return transpose(g, x)
    high = g.draw(st.sampled_from([d for d in range(1, 5) if shape[1] % d == 0]))
    return g.b.apply(ops.Reshape((0, shape[2], high, -1)), g.b.apply(turned, x))


def along(g: Rows, x: str) -> str:
    """Softmax or a norm, of any axis."""
    axis = g.axis(x)
    kinds = ops.Softmax(axis), ops.L2Normalize(axis, 1.0), ops.LayerNorm(axis, 1.0)
    op = g.draw(st.sampled_from(kinds))
    affine = op.kind == "layer_norm" and g.draw(st.booleans())
    c = g.b.shape(x)[axis]
    return g.b.apply(op, x, *([g.param(c), g.param(c)] if affine else []))


def product(g: Rows, x: str) -> str:
    """With itself transposed, as attention has it; or of a matrix and a vector of constants."""
    rank = len(g.b.shape(x))
    turned = (*range(rank - 2), rank - 1, rank - 2)
    if rank > 2 and g.draw(st.booleans()):
        pair = [x, g.b.apply(ops.Transpose(turned), x)]
        return g.b.apply(ops.MatMul(), *g.draw(st.permutations(pair)))
    weight = g.param(g.draw(st.sampled_from([1, 3, 8, 17])), g.b.shape(x)[-1])
    return g.b.apply(ops.Linear(), x, weight)


def arithmetic(g: Rows, x: str) -> str:
    """With a constant or another tensor, of the same or fewer values."""
    shape = g.b.shape(x)
    fits = [
        y
        for y in g.made
        if len(g.b.shape(y)) == len(shape)
        and all(b in (a, 1) for a, b in zip(shape, g.b.shape(y), strict=True))
    ]
    if g.draw(st.booleans()):
        repeated = [1 if g.draw(st.booleans()) else side for side in shape]
        y = g.param(*repeated[g.draw(st.integers(0, len(shape))) :])
    else:
        y = g.draw(st.sampled_from(fits))
    op = g.draw(st.sampled_from([ops.Add(), ops.Sub(), ops.Mul(), ops.Maximum()]))
    return g.b.apply(op, *g.draw(st.permutations([x, y])))


def joined(g: Rows, x: str) -> str:
    """Two or three tensors, or a constant, along any axis."""
    axis, shape = g.axis(x), list(g.b.shape(x))
    like = [y for y in g.made if _beside(g.b.shape(y), axis) == _beside(tuple(shape), axis)]
    parts = [x, *g.draw(st.lists(st.sampled_from(like), min_size=1, max_size=2))]
    if g.draw(st.integers(0, 3)) == 0:
        shape[axis] = 2
        parts[1] = g.param(*shape)
    return g.b.apply(ops.Concat(axis), *g.draw(st.permutations(parts)))


def _beside(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """All sides but one, and their number."""
    return (len(shape), *shape[:axis], *shape[axis + 1 :])


def cut(g: Rows, x: str) -> tuple[str, ...]:
    """Split, or every other value of a part."""
    axis = g.axis(x)
    side = g.b.shape(x)[axis]
    first = g.draw(st.integers(0, side - 1))
    if first and g.draw(st.booleans()):
        return g.b.apply_many(ops.Split(axis, (first, side - first)), x)
    return (g.b.apply(ops.Slice((axis,), (first,), (side,), (g.draw(st.integers(1, 2)),)), x),)


def batch_norm(g: Rows, x: str) -> str:
    if len(g.b.shape(x)) not in (2, 3, 4):
        return activation(g, x)
    c = g.b.shape(x)[1]
    normed = g.b.apply(ops.BatchNorm(), x, *(g.param(c, key=key) for key in "pppv"))
    return activation(g, normed) if g.draw(st.booleans()) else normed


def padded(g: Rows, x: str) -> str:
    rank = len(g.b.shape(x))
    ends = [(0, *(g.draw(st.sampled_from([0, 0, 1, 2])) for _ in range(1, rank))) for _ in "ab"]
    return g.b.apply(ops.Pad(*ends, g.draw(st.sampled_from([0.0, -0.5]))), x)


def reduce(g: Rows, x: str) -> str:
    axes = g.draw(st.sets(st.integers(1, len(g.b.shape(x)) - 1), min_size=1))
    return g.b.apply(
        ops.Reduce(g.draw(st.sampled_from(["mean", "max", "sum", "l2"])), tuple(sorted(axes))), x
    )


def convolution(g: Rows, x: str) -> str:
    if len(g.b.shape(x)) != 4:
        return activation(g, x)
    c = g.b.channels(x)
    k, o, groups = g.draw(st.sampled_from([(1, 3, 1), (1, 16, 1), (3, 8, 1), (3, c, c)]))
    g.count += 1
    return g.b.conv(x, o, k, key=f"c{g.count}", pad=k // 2, groups=groups)


def activation(g: Rows, x: str) -> str:
    """Also of slopes per channel, which C knows of vectors and maps."""
    if len(g.b.shape(x)) <= 4 and g.draw(st.integers(0, 4)) == 0:
        return g.b.apply(ops.PReLU(), x, g.param(g.b.shape(x)[1]))
    return g.b.apply(g.draw(st.sampled_from(ACTS)), x)


STEPS = (
    reshape, transpose, tokens, tokens, along, product, product, arithmetic, arithmetic, joined,
    cut, padded, reduce, batch_norm, convolution, activation,
)  # fmt: skip


@st.composite
def row_graphs(draw: Any) -> Graph:
    """A random graph with random weights; those of sums of K terms are of the size 1 / sqrt(K),
    variances above 1."""

    def scaled(name: str, w: Array) -> Array:
        if name[0] == "v":
            return 1 + np.abs(w)
        size = math.prod(w.shape[1:]) if name[0] == "c" or w.ndim == 2 else 1
        return w / math.sqrt(size)

    return weighted(draw, Rows(draw).graph(), scaled)
