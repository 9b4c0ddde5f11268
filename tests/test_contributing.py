"""The examples of CONTRIBUTING.md do what it says."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tinyface import ops
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks, random_state
from tinyface.networks.registry import Entry
from tinyface.ops import OPS
from tinyface.ops.spec import Array, MaybeType, Op, Types, attr, need, register

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not a checkout")
NAMES: dict[str, Any] = {
    "Array": Array, "Builder": Builder, "ClassVar": ClassVar, "Graph": Graph, "Op": Op,
    "MaybeType": MaybeType, "Size": Size, "Types": Types, "attr": attr, "blocks": blocks,
    "need": need, "np": np, "ops": ops, "register": register, "__name__": __name__,
}  # fmt: skip


@pytest.fixture
def defined() -> Iterator[dict[str, Any]]:
    """What its blocks of Python define; the operator is known for the length of a test."""
    before, names = dict(OPS), dict(NAMES)
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(textwrap.dedent(block), PAGE.name, "exec"), names)
    yield names
    for kind in OPS.keys() - before.keys():
        OPS.pop(kind)


def test_the_operator(defined: dict[str, Any]) -> None:
    op = defined["ThresholdedReLU"](alpha=0.5)
    b = Builder("one")
    graph = b.build(b.apply(op, b.input("x", (1, 3))))
    (y,) = run_graph(graph, {"x": np.array([[0.25, 0.75, np.nan]], np.float64)}).values()
    assert y.dtype == np.float64 and y[0, :2].tolist() == [0, 0.75]


def test_the_network(defined: dict[str, Any]) -> None:
    entry = Entry("tiny", "tiny", defined["tiny"], "reconstruction", "CONTRIBUTING.md")
    graph = entry.build(embedding=16, size=32)
    graph = graph.bind(random_state(graph))
    x = np.zeros((1, 3, 32, 32), np.float32)
    assert run_graph(graph, {"input": x})["embedding"].shape == (1, 16)
