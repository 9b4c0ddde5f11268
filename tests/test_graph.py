"""Graph, builder and the reference engine: what is accepted, what is refused, what it costs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tinyface import limits
from tinyface.backends.numpy import NumpyExecutable, run_graph
from tinyface.builder import Builder
from tinyface.errors import AttributeBoundsError, BackendError, GraphError
from tinyface.graph import Graph, Node, blank
from tinyface.ops import Add, Conv2d, Flatten, PReLU, ReLU
from tinyface.types import Cost, TensorType


def small_graph() -> Graph:
    """conv 3->4 (stride 2) + PReLU on an 8x8 image."""
    b = Builder("small")
    x = b.input("input", (1, 3, 8, 8))
    x = b.conv(x, 4, 3, stride=2, pad=1, key="conv")
    return b.build(b.prelu(x, key="act"))


def state_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in graph.params.items()}


def test_shapes_are_inferred_for_every_tensor() -> None:
    graph = small_graph()
    assert {name: t.shape for name, t in graph.types.items()} == {
        "input": (1, 3, 8, 8),
        "conv.weight": (4, 3, 3, 3),
        "conv": (1, 4, 4, 4),
        "act.weight": (4,),
        "act": (1, 4, 4, 4),
    }


def test_compulsory_cost_counts_every_operand_once() -> None:
    graph = small_graph()
    conv, act = graph.nodes
    outputs = 4 * 4 * 4
    assert graph.node_cost(conv) == Cost(
        macs=outputs * 27, feature_read=4 * 192, feature_write=4 * outputs, weight=4 * 108
    )
    assert graph.node_cost(act) == Cost(0, 4 * outputs, 4 * outputs, 4 * 4)
    assert graph.cost == graph.node_cost(conv) + graph.node_cost(act)


def test_a_map_read_twice_by_one_operator_is_one_operand() -> None:
    b = Builder("double")
    x = b.input("x", (1, 2, 3, 3))
    graph = b.build(b.apply(Add(), x, x))
    assert graph.cost == Cost(0, 4 * 18, 4 * 18, 0)


def test_a_view_moves_no_bytes() -> None:
    b = Builder("view")
    graph = b.build(b.apply(Flatten(), b.input("x", (2, 3, 4, 5))))
    assert graph.cost == Cost()


def test_unbound_parameters_take_no_memory() -> None:
    zeros = blank((25088, 4096))
    assert zeros.nbytes == 25088 * 4096 * 4 and zeros.strides == (0, 0)


def test_bind_loads_by_name_and_changes_only_a_copy() -> None:
    graph = small_graph()
    bound = graph.bind(state_of(graph))
    assert float(np.abs(bound.params["conv.weight"]).sum()) > 0
    assert float(np.abs(graph.params["conv.weight"]).sum()) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("act.weight"), "1 missing (act.weight)"),
        (lambda s: s.update(bonus=np.zeros(1)), "1 not in it (bonus)"),
        (lambda s: s.update({"conv.weight": np.zeros((4, 3, 3, 1))}), "conv.weight has shape"),
    ],
)
def test_bind_names_what_does_not_fit(change: Any, words: str) -> None:
    graph = small_graph()
    state = state_of(graph)
    change(state)
    with pytest.raises(GraphError, match=words.replace("(", r"\(").replace(")", r"\)")):
        graph.bind(state)


def test_bind_can_ignore_counters() -> None:
    graph = small_graph()
    state = state_of(graph) | {"bn.num_batches_tracked": np.zeros(())}
    graph.bind(state, ignore=("num_batches_tracked",))


def test_other_input_shapes_are_inferred_anew() -> None:
    graph = small_graph().with_inputs({"input": (5, 3, 17, 9)})
    assert graph.types["act"].shape == (5, 4, 9, 5)
    with pytest.raises(GraphError, match="no input 'image'"):
        graph.with_inputs({"image": (1, 3, 8, 8)})
    with pytest.raises(GraphError, match="does not fit 2 channels"):
        graph.with_inputs({"input": (1, 2, 8, 8)})


def test_json_round_trip_gives_the_same_graph() -> None:
    graph = small_graph()
    graph = graph.bind(state_of(graph))
    again = Graph.from_json(json.loads(json.dumps(graph.to_json())), graph.params)
    assert again.nodes == graph.nodes and dict(again.types) == dict(graph.types)
    x = np.ones((1, 3, 8, 8), np.float32)
    one, two = (run_graph(g, {"input": x})["act"] for g in (graph, again))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("path", "value", "error", "words"),
    [
        (("nodes", 0, "inputs", 0), "nowhere", GraphError, "reads 'nowhere'"),
        (("nodes", 0, "inputs"), ["act", "conv.weight"], GraphError, "reads 'act'"),  # a cycle
        (("nodes", 1, "outputs"), ["conv"], GraphError, "defined twice"),
        (("nodes", 1, "outputs"), ["a", "b"], GraphError, "has 1 outputs, not 2"),
        (("nodes", 1, "outputs"), [""], GraphError, "needs a name"),
        (("nodes", 1, "name"), "conv", GraphError, "two operators"),
        (("nodes", 1, "inputs"), ["conv"], GraphError, "takes 2 to 2 inputs"),
        (("nodes", 0, "op", "kind"), "exec", GraphError, "unknown operator"),
        (("nodes", 0, "op", "evil"), 1, GraphError, "no attribute 'evil'"),
        (("nodes", 0, "op", "stride"), [0, 1], AttributeBoundsError, "must lie between"),
        (("nodes", 0, "op", "stride"), [2**70, 1], AttributeBoundsError, "must lie between"),
        (("nodes", 0, "op", "groups"), True, AttributeBoundsError, "an integer"),
        (("nodes", 0, "op", "pad"), [1, 1], AttributeBoundsError, "4 elements"),
        (("nodes", 0, "op", "pad"), "1111", AttributeBoundsError, "must be a list"),
        (("outputs",), ["gone"], GraphError, "not computed"),
        (("outputs",), [], GraphError, "no outputs"),
        (("inputs", "input"), [1, 3, -8, 8], GraphError, "side of -8"),
        (("inputs", "input"), [1, 3, 2**23, 2**23], GraphError, "bytes"),
        (("inputs", "input"), [1] * 9, GraphError, "more than 8 dimensions"),
        (("inputs", "input"), [1, 3, 8.0, 8], GraphError, "not an integer"),
        (("nodes",), None, GraphError, "not a graph description"),
        (("name",), 7, GraphError, "where a name belongs"),
    ],
)
def test_malformed_descriptions_are_refused(
    path: tuple[Any, ...], value: Any, error: type[GraphError], words: str
) -> None:
    graph = small_graph()
    doc = json.loads(json.dumps(graph.to_json()))
    place = doc
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(error, match=words):
        Graph.from_json(doc, graph.params)


def test_limits_hold() -> None:
    relu = tuple(Node(f"n{i}", ReLU(), (f"t{i}",), (f"t{i + 1}",)) for i in range(10_001))
    with pytest.raises(GraphError, match="more than 10000 operators"):
        Graph("long", {"t0": TensorType((1,))}, ("t1",), relu, {})
    huge = {"w": blank((4096, 4096, 3, 3)[:4])}
    with pytest.raises(GraphError, match=r"heavy: y \(conv2d\): 2.5e\+12 operations"):
        Graph(
            "heavy",
            {"x": TensorType((1, 4096, 128, 128))},
            ("y",),
            (Node("y", Conv2d(pad=(1, 1, 1, 1)), ("x", "w"), ("y",)),),
            huge,
        )
    assert limits.MAX_OPERATIONS == 10**12


def test_a_slope_needs_prelu_and_prelu_needs_a_slope() -> None:
    x, w = TensorType((1, 2, 4, 4)), TensorType((3, 2, 1, 1))
    with pytest.raises(GraphError, match="slope"):
        Conv2d(act=PReLU()).infer(x, w)
    with pytest.raises(GraphError, match="slope"):
        Conv2d().infer(x, w, None, TensorType((3,)))


def test_errors_name_the_operator() -> None:
    b = Builder("net")
    x = b.input("x", (1, 3, 8, 8))
    graph = b.build(b.conv(x, 4, 3, key="stem.conv"))
    with pytest.raises(GraphError, match=r"net: stem\.conv \(conv2d\): a window of 3"):
        graph.with_inputs({"x": (1, 3, 2, 2)})


def test_run_graph_frees_what_nobody_reads_any_more() -> None:
    graph = small_graph()
    seen = []
    result = run_graph(
        graph,
        {"input": np.ones((1, 3, 8, 8), np.float32)},
        hook=lambda node, outputs: seen.append((node.name, outputs[0].shape)),
    )
    assert seen == [("conv", (1, 4, 4, 4)), ("act", (1, 4, 4, 4))] and list(result) == ["act"]


def test_an_input_may_be_an_output() -> None:
    node = Node("y", ReLU(), ("x",), ("y",))
    graph = Graph("id", {"x": TensorType((2,))}, ("x", "y"), (node,), {})
    out = run_graph(graph, {"x": np.array([-1, 2], np.float32)})
    assert out["x"].tolist() == [-1, 2] and out["y"].tolist() == [0, 2]


def test_columns_beyond_the_limit_are_refused_before_they_are_made() -> None:
    b = Builder("wide")
    x = b.input("x", (1, 64, 1024, 1024))
    graph = b.build(b.conv(x, 64, 31, pad=15, groups=64, key="c"))  # 250 GB of columns
    with pytest.raises(BackendError, match=r"wide: c \(conv2d\) would need \d+ MiB"):
        NumpyExecutable(graph)
