"""Networks that would take too long are refused; runs that are long can be interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.test_fork import picture
from tests.test_runtime import bound
from tinyface import limits, ops
from tinyface.backends import c
from tinyface.errors import GraphError
from tinyface.graph import Graph, Node, blank
from tinyface.networks import find
from tinyface.networks.random import random_state
from tinyface.ops import Op
from tinyface.ops.spec import Array
from tinyface.passes import optimise
from tinyface.tracing import Record
from tinyface.types import TensorType

SLOW: dict[str, tuple[Op, tuple[tuple[int, ...], ...]]] = {
    "windows": (ops.MaxPool((1023, 1023), (1, 1), (511,) * 4), ((1, 3, 1024, 1024),)),
    "means": (ops.AveragePool((512, 512), (1, 1), (255,) * 4), ((1, 1, 2048, 2048),)),
    "rows": (ops.Resize("bilinear", size=(1 << 24, 1)), ((1, 1, 1, 1 << 24),)),
    "convolution": (ops.Conv2d(pad=(1, 1, 1, 1)), ((1, 4096, 128, 128), (4096, 4096, 3, 3))),
    "one channel": (ops.Conv2d(pad=(127,) * 4), ((1, 1, 1024, 1024), (1, 1, 255, 255))),
    "depthwise": (ops.Conv2d(pad=(511,) * 4, groups=2), ((1, 2, 512, 512), (2, 1, 1023, 1023))),
    "layer": (ops.Linear(), ((8000, 8000), (8000, 8000))),
    "product": (ops.MatMul(), ((8000, 8000), (8000, 8000))),
    "column": (ops.MatMul(), ((16000, 1, 1000), (1000, 1))),
}


def alone(op: Op, *shapes: tuple[int, ...]) -> Graph:
    """A network of one operator; what comes after its first input are weights."""
    names = tuple(f"t{i}" for i in range(len(shapes)))
    params = {name: blank(s) for name, s in zip(names[1:], shapes[1:], strict=True)}
    node = Node("it", op, names, ("y",))
    return Graph("slow", {"t0": TensorType(shapes[0])}, ("y",), (node,), params)


@pytest.mark.parametrize("name", [name for name in SLOW if name != "column"])
def test_what_would_take_minutes_is_refused(name: str) -> None:
    op, shapes = SLOW[name]
    with pytest.raises(GraphError, match=rf"slow: it \({op.kind}\): .* operations .*limit of 2e"):
        alone(op, *shapes)


def test_a_single_channel_counts_as_a_whole_vector() -> None:
    op, shapes = SLOW["column"]
    assert alone(op, *shapes).operations >= 16 * 16000 * 1000


def test_networks_are_counted_by_their_products() -> None:
    """The limits are on what takes time: for a network as people use them, on its products."""
    for name in ("fdfacenet", "mobilefacenet", "vgg16"):
        graph = find(name).build()
        assert graph.cost.macs < graph.operations < 1.5 * graph.cost.macs
    whole = limits.MAX_OPERATIONS // graph.operations
    graph.with_inputs({n: (whole, *t.shape[1:]) for n, t in graph.inputs.items()})
    with pytest.raises(GraphError, match=r"^vgg16: 1.*e\+12 operations for one run are more"):
        graph.with_inputs({n: (whole + 9, *t.shape[1:]) for n, t in graph.inputs.items()})


@pytest.mark.needs_c
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_in_parts_has_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = find("mobilefacenet").build()
    executable = c.CExecutable(optimise(graph.bind(random_state(graph))), threads)
    assert any(step.chain > 1 for step in executable.plan.steps)
    x: dict[str, Array] = {"input": picture(112)}
    whole = executable.run(x)
    monkeypatch.setattr(c, "PATIENCE_NS", 0)
    records: list[Record] = []
    parts = executable.run(x, records)
    assert all(np.array_equal(parts[name], whole[name]) for name in whole)
    assert len(records) == len(executable.plan.steps)
    assert all(r.time_ns >= 0 for r in records)
    assert [r.start_ns for r in records] == sorted(r.start_ns for r in records)


class _Pressed:
    """The C library; somebody presses Ctrl-C during the second call."""

    def __init__(self, lib: Any) -> None:
        self.lib, self.calls = lib, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lib, name)

    def tf_run(self, *given: Any) -> int:
        done = int(self.lib.tf_run(*given))
        self.calls += 1
        if self.calls == 2:
            signal.raise_signal(signal.SIGINT)
        return done


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, also where a shell started the tests in the background and has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.needs_c
@pytest.mark.usefixtures("ctrl_c")
def test_a_long_run_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = c.CExecutable(bound(), 2)
    expected = executable.run({"input": picture(8)})
    assert len(executable.plan.steps) > 2
    lib = _Pressed(c._engine.lib)
    with monkeypatch.context() as patch:
        patch.setattr(c, "_engine", SimpleNamespace(ffi=c._engine.ffi, lib=lib))
        executable.run({"input": picture(8)})
        assert lib.calls == 1  # what is quick is one call
        patch.setattr(c, "PATIENCE_NS", 0)
        with pytest.raises(KeyboardInterrupt):
            executable.run({"input": picture(8)})
        assert lib.calls == 2
    assert np.array_equal(executable.run({"input": picture(8)})["act"], expected["act"])


@pytest.mark.needs_c
def test_what_is_long_is_not_chained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain is never left half done."""
    graph = find("mobilefacenet").build()
    graph = optimise(graph.bind(random_state(graph)))
    monkeypatch.setattr(c, "MAX_NODE_OPERATIONS", graph.operations - 1)
    steps = c.CExecutable(graph, 1).plan.steps
    assert all(step.chain == 1 for step in steps)
