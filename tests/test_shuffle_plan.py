"""Channel shuffles: read in another order where possible, never moved for nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from cases import SETTINGS
from hypothesis import given
from hypothesis import strategies as st

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.ops.spec import Array
from tinyface.passes import optimise

pytestmark = pytest.mark.needs_c


def bound(graph: Graph) -> Graph:
    return optimise(graph.bind(random_state(graph)))


def check(graph: Graph) -> None:
    """Equal to NumPy in float32 but for the order of the sums."""
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        name: rng.standard_normal(t.shape).astype(np.float32) for name, t in graph.inputs.items()
    }
    executable = engine.CExecutable(graph, 1)
    context = executable._borrow()
    context.arena.view(np.float32)[:] = np.nan
    executable._idle.append(context)
    found = executable.run(inputs)
    for name, expected in run_graph(graph, inputs).items():
        assert np.abs(found[name] - expected).max() <= 2e-5 * max(1, np.abs(expected).max())


@st.composite
def shuffled(draw: Any) -> Graph:
    """A shuffle, perhaps split, and readers of every kind behind it."""
    b = Builder("shuffled")
    groups, each = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 20))
    x = b.input("input", (draw(st.integers(1, 2)), groups * each, 5, 6))
    x = b.apply(ops.ChannelShuffle(groups), b.prelu(x, key="first"))
    parts = [x]
    if draw(st.booleans()):
        cut = draw(st.integers(1, groups * each - 1))
        parts = list(b.apply_many(ops.Split(axis=1, sizes=(cut, groups * each - cut)), x))
    made = []
    for i, part in enumerate(parts):
        c = b.channels(part)
        stride = draw(st.sampled_from([1, 2]))
        g = draw(st.sampled_from([g for g in (1, 2, groups) if c % g == 0]))
        reader = draw(st.sampled_from(["pointwise", "depthwise", "add", "none", "concat"]))
        if reader == "pointwise":
            part = b.conv(part, 3 * g, 1, key=f"conv{i}", stride=stride, groups=g)
        elif reader == "depthwise":
            part = b.conv(part, c, 3, key=f"conv{i}", pad=1, groups=c)
        elif reader == "add":
            part = b.apply(ops.Add(), part, part)
        elif reader == "concat":
            part = b.apply(ops.Concat(axis=1), part, b.conv(part, 2, 1, key=f"conv{i}"))
        made.append(part)
    return bound(b.build(**{f"y{i}": name for i, name in enumerate(dict.fromkeys(made))}))


@SETTINGS
@given(shuffled())
def test_every_reader_sees_the_shuffled_order(graph: Graph) -> None:
    check(graph)


def kernels(name: str) -> Counter[str]:
    return Counter(s.kernel for s in engine.CExecutable(bound(find(name).build()), 1).plan.steps)


def test_a_shuffle_before_a_pointwise_convolution_moves_nothing() -> None:
    assert kernels("varkfacenet-train")["shuffle"] == 0


def test_of_a_shuffled_map_only_the_half_that_passes_by_is_moved() -> None:
    """ShuffleFaceNet: 16 units in three stages; what leaves a stage is shuffled whole for its
    depthwise reader, what leaves the last one is not."""
    found = kernels("shufflefacenet-x1.0")
    assert found["shuffle"] == 15
    assert found["copy"] == 0
