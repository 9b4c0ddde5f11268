"""Random small networks with what the passes look for, and how far their results may drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.ops.spec import Array

ALONG = (ops.MatMul, ops.Softmax, ops.L2Normalize, ops.LayerNorm)  # sums along one axis
ACTS = (
    ops.ReLU(),
    ops.Clip(),
    ops.LeakyReLU(0.1),
    ops.HardSwish(),
    ops.Sigmoid(),
    ops.SiLU(),
    ops.GELU(),
    ops.GELU(tanh=True),
)


class Grower:
    """Adds random layers to a builder; ``maps`` are the feature maps made so far."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.b = Builder("random")
        side = draw(st.sampled_from([4, 5, 8]))
        channels = draw(st.sampled_from([2, 4]))
        self.maps = [self.b.input("input", (draw(st.integers(1, 2)), channels, side, side))]
        self.count = 0

    def key(self) -> str:
        self.count += 1
        return f"layer{self.count}"

    def pick(self) -> str:
        """A map, the newest more often than others."""
        return self.maps[-1] if self.draw(st.booleans()) else self.draw(st.sampled_from(self.maps))

    def grow(self) -> None:
        layer = self.draw(st.sampled_from(LAYERS))
        self.maps.append(layer(self, self.pick()))

    def graph(self) -> Graph:
        """Ends in a linear layer and batch norm; some maps are outputs, too."""
        b = self.b
        for _ in range(self.draw(st.integers(1, 9))):
            self.grow()
        x = b.apply(ops.Flatten(), self.maps[-1])
        x = b.linear(x, 3, key="fc", bias=self.draw(st.booleans()))
        outputs = [b.batch_norm(x, key="fc_bn")]
        more = st.lists(st.sampled_from(self.maps), unique=True, max_size=2)
        return b.build(*outputs, *self.draw(more))


def conv(g: Grower, x: str) -> str:
    """Convolution of any kind, mostly with batch norm, often with an activation."""
    c = g.b.channels(x)
    k = g.draw(st.sampled_from([1, 3, 5]))
    apart = g.draw(st.sampled_from([1, 1, 1, 2]))
    groups = g.draw(st.sampled_from([1, c, 2 if c % 2 == 0 else 1]))
    x = g.b.conv(
        x,
        c if groups == c else g.draw(st.sampled_from([2, 4])),
        k,
        key=g.key(),
        pad=apart * (k // 2),
        dilation=apart,
        groups=groups,
        stride=g.draw(st.sampled_from([1, 1, 2])),
        bias=g.draw(st.booleans()),
    )
    if g.draw(st.integers(0, 3)):
        x = g.b.batch_norm(x, key=g.key())
    return activation(g, x) if g.draw(st.booleans()) else x


def activation(g: Grower, x: str) -> str:
    if g.draw(st.booleans()):
        return g.b.prelu(x, key=g.key(), slopes=g.draw(st.sampled_from([1, None])))
    return g.b.apply(g.draw(st.sampled_from(ACTS)), x)


def shortcut(g: Grower, x: str) -> str:
    """Adds a map of the same shape: an older one, or itself."""
    same = [name for name in g.maps if g.b.shape(name) == g.b.shape(x)]
    operands = [x, g.draw(st.sampled_from(same))]
    return g.b.apply(ops.Add(), *g.draw(st.permutations(operands)))


def residual_block(g: Grower, x: str) -> str:
    c = g.b.channels(x)
    apart = g.draw(st.sampled_from([1, 2]))
    y = g.b.conv(x, c, 3, key=g.key(), pad=apart, dilation=apart)
    y = g.b.batch_norm(y, key=g.key()) if g.draw(st.booleans()) else y
    y = g.b.apply(ops.Add(), *g.draw(st.permutations([x, y])))
    return activation(g, y)


def branches(g: Grower, x: str) -> str:
    """Two or three of: a large and a small convolution, the map, the map with batch norm."""
    c = g.b.channels(x)
    groups = g.draw(st.sampled_from([c, 1]))
    terms = []
    for k in g.draw(st.sampled_from([(5, 3), (3, 1), (4, 2), (3, 3)])):
        pads = ((k - 1) // 2, (k - 1) // 2, k // 2, k // 2)
        y = g.b.conv(x, c, k, key=g.key(), pad=pads, groups=groups, bias=g.draw(st.booleans()))
        terms.append(g.b.batch_norm(y, key=g.key()) if g.draw(st.booleans()) else y)
    if g.draw(st.booleans()):
        terms.append(x if g.draw(st.booleans()) else g.b.batch_norm(x, key=g.key()))
    first, second, *rest = g.draw(st.permutations(terms))
    y = g.b.apply(ops.Add(), first, second)
    return g.b.apply(ops.Add(), y, *rest) if rest else y


def noop(g: Grower, x: str) -> str:
    _, c, h, w = g.b.shape(x)
    nothing = (
        ops.Identity(),
        ops.Reshape((0, c, h, w)),
        ops.Reshape((-1, c, h, w)),
        ops.Concat(1),
        ops.Split(1, (c,)),
        ops.Pad((0,) * 4, (0,) * 4),
        ops.Resize(),
        ops.Resize(size=(h, w)),
        ops.Slice((2,), (0,), (2**31 - 1,), (1,)),
        ops.Transpose((0, 1, 2, 3)),
        ops.ChannelShuffle(1),
        ops.MaxPool((1, 1), (1, 1)),
    )
    return g.b.apply(g.draw(st.sampled_from(nothing)), x)


def halves(g: Grower, x: str) -> str:
    """Split, something on one half, concat, shuffle."""
    c = g.b.channels(x)
    if c % 2:
        return x
    first, second = g.b.apply_many(ops.Split(1, (c // 2, c // 2)), x)
    second = g.b.conv(second, c // 2, 1, key=g.key())
    return g.b.apply(ops.ChannelShuffle(2), g.b.apply(ops.Concat(), first, second))


def gate(g: Grower, x: str) -> str:
    """Squeeze and excitation."""
    y = g.b.apply(ops.GlobalAveragePool(), x)
    y = g.b.apply(ops.Sigmoid(), g.b.conv(y, g.b.channels(x), 1, key=g.key(), bias=True))
    return g.b.apply(ops.Mul(), x, y)


def norm(g: Grower, x: str) -> str:
    return g.b.batch_norm(x, key=g.key())


LAYERS = (
    conv, conv, residual_block, branches, branches, shortcut, activation, noop, halves, gate, norm,
)  # fmt: skip


@st.composite
def graphs(draw: Any) -> Graph:
    """A random network with random weights; batch norm variances are positive."""

    def positive(name: str, w: Array) -> Array:
        return 0.1 + np.abs(w) if name.endswith(".running_var") else w

    return weighted(draw, Grower(draw).graph(), positive)


def weighted(draw: Any, graph: Graph, change: Callable[[str, Array], Array]) -> Graph:
    """The graph with random weights: ``change`` of each one's name and of normal numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    state = {}
    for name, value in graph.params.items():
        w = change(name, np.asarray(rng.standard_normal(value.shape)))
        state[name] = np.asarray(w, np.float32)
        state[name].flags.writeable = False
    return graph.bind(state)


def inputs_for(graph: Graph, dtype: str, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(t.shape).astype(np.float32).astype(dtype)
        for name, t in graph.inputs.items()
    }


def drift(graph: Graph, inputs: dict[str, Array], dtype: str) -> dict[str, Array]:
    """How far an output of the graph in ``dtype`` may lie from that of a rewritten graph.

    Let every operator work on absolute values: |w|, |x|, |slope|, sums instead of differences
    (:func:`magnitude`). The result M bounds the sum of the absolute values of everything that
    is added up on the way. An operator that sums K products commits an error of at most
    (K + 8) eps M_own and passes on the errors of its inputs with the same weights as their
    magnitudes, so the errors add up to N eps M with N the sum of all (K + 8). Rewriting changes
    the order of the sums and rounds folded weights once more; twice the bound covers both.
    """
    roundings = 0
    values: dict[str, Any] = {"": None, **inputs}
    values = {
        name: None if a is None else np.abs(a).astype(np.float64) for name, a in values.items()
    }
    values.update({name: a.astype(np.float64) for name, a in graph.params.items()})
    for node in graph.nodes:
        result = magnitude(node.op, *(values[name] for name in node.inputs))
        results = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.outputs, results, strict=True))
        roundings += 8
        if isinstance(node.op, (ops.Conv2d, ops.Linear)):
            roundings += int(np.prod(graph.types[node.inputs[1]].shape[1:]))
        if isinstance(node.op, ops.GlobalAveragePool):
            roundings += int(np.prod(graph.types[node.inputs[0]].shape[2:]))
        if isinstance(node.op, ALONG):
            roundings += 8 + graph.types[node.inputs[0]].shape[getattr(node.op, "axis", -1)]
        if isinstance(node.op, ops.Reduce):
            shape = graph.types[node.inputs[0]].shape
            roundings += int(np.prod([shape[axis] for axis in node.op.axes]))
    eps = float(np.finfo(dtype).eps)
    return {name: 2 * roundings * eps * values[name] for name in graph.outputs}


def magnitude(op: Any, *inputs: Any) -> Any:
    """The operator on absolute values; x is one already, weights are not.

    Softmax and norms that divide by 1 or more pass on at most: the error of a value, and that of
    the largest, of the mean or of the norm of the others.
    """
    if isinstance(op, ops.BatchNorm):
        x, gamma, beta, mean, var = inputs
        return op.run(x, np.abs(gamma), np.abs(beta), -np.abs(mean), var)
    inputs = tuple(a if a is None else np.abs(a) for a in inputs)
    x, *weights = inputs
    if isinstance(op, ops.Sub):
        return x + weights[0]
    if isinstance(op, ops.Pad):
        return replace(op, value=abs(op.value)).run(x)
    if isinstance(op, ops.Softmax):
        return x + np.max(x, axis=op.axis, keepdims=True) + 1
    if isinstance(op, (ops.L2Normalize, ops.LayerNorm)):
        assert op.eps == 1
        y = x + np.mean(x, axis=op.axis, keepdims=True)
        y = y + np.sqrt(np.sum(x * x, axis=op.axis, keepdims=True))
        along = [1 if i != op.axis % x.ndim else -1 for i in range(x.ndim)]
        return y * weights[0].reshape(along) + weights[1].reshape(along) if weights else y
    if isinstance(op, ops.PReLU):
        return x * max(1.0, float(np.abs(weights[0]).max()))
    if isinstance(op, (ops.HardSwish, ops.SiLU, ops.GELU)):
        return 1.5 * x
    if isinstance(op, ops.FUSABLE):
        return x + 1  # slope at most 1; a clip may add its end
    return op.run(*inputs)


def kinds(graph: Graph) -> list[str]:
    return [node.op.kind for node in graph.nodes]


def assert_same_outputs(before: Graph, after: Graph, dtype: str) -> None:
    """Equal within the bound derived in random_graphs.drift."""
    inputs = inputs_for(before, dtype)
    expected = run_graph(before.astype(dtype), inputs)
    result = run_graph(after.astype(dtype), inputs)
    allowed = drift(before, inputs, dtype)
    assert list(result) == list(expected)
    for name, y in expected.items():
        apart = np.abs(result[name].astype(np.float64) - y)
        assert result[name].shape == y.shape
        assert (apart <= allowed[name]).all()
