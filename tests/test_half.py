"""Weights kept as fp16: what is rounded, what stays, and that both engines agree on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import SETTINGS, Case
from hypothesis import given
from samples import picture, recogniser
from strategies import STRATEGIES
from test_c_engine import ISAS, SMALL, compare, graph_of, network, random_inputs, run

from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import BackendError, NoKernelError
from tinyface.graph import Graph
from tinyface.model import Model
from tinyface.networks.random import random_state
from tinyface.ops import Add, Flatten
from tinyface.ops.spec import Array
from tinyface.passes import half_weights
from tinyface.passes.half_weights import fits
from tinyface.runtime import WEIGHTS, Session


def small(scale: float = 1.0, kernel: int = 3) -> Graph:
    """A standard, a depthwise and a fully connected layer; a 3x3 is Winograd's in C."""
    rng = np.random.default_rng(0)
    b = Builder("small")
    x = b.input("x", (1, 16, 20, 20))
    x = b.conv(x, 24, kernel, pad=kernel // 2, key="dense")
    x = b.conv(x, 24, 3, groups=24, key="depthwise")
    x = b.linear(b.apply(Flatten(), x, name="flat"), 10, key="fc")
    graph = b.build(out=x)
    state: dict[str, Array] = {
        name: rng.standard_normal(value.shape).astype(np.float32)
        for name, value in graph.params.items()
    }
    state["dense.weight"] *= np.float32(scale)
    return graph.bind(state)


def rounded(graph: Graph) -> Graph:
    """What half_weights makes of it, with all arrays in float32 again."""
    params = {k: v.astype(np.float32) for k, v in half_weights(graph).params.items()}
    return replace(graph, params=params)


def test_weights_of_products_are_rounded_and_nothing_else() -> None:
    graph = small()
    half = half_weights(graph)
    for name, value in half.params.items():
        own = graph.params[name]
        if name in ("dense.weight", "fc.weight"):
            assert value.dtype == np.float16
            assert np.abs(value - own.astype(np.float64)).max() <= np.abs(own).max() * 2.0**-11
        else:
            assert value is own
    saved = graph.cost.weight - half.cost.weight
    assert saved == 2 * (graph.params["dense.weight"].size + graph.params["fc.weight"].size)
    assert replace(half.cost, weight=0) == replace(graph.cost, weight=0)


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_a_layer_out_of_range_stays_fp32(scale: float) -> None:
    half = half_weights(small(scale))
    assert half.params["dense.weight"].dtype == np.float32
    assert half.params["fc.weight"].dtype == np.float16


@pytest.mark.parametrize(
    ("value", "fit"), [(65504.0, True), (65505.0, False), (2.0**-14, True), (2.0**-15, False)]
)
def test_the_range_is_that_of_normal_numbers(value: float, fit: bool) -> None:
    assert fits(np.array([value, -1e-9], np.float32)) is fit
    assert fits(np.zeros(3, np.float32))


def test_a_weight_that_is_also_read_elsewhere_stays() -> None:
    graph = small()
    node = graph.nodes[-1]
    shared = replace(graph, outputs=(*graph.outputs, "fc.weight"))
    assert half_weights(shared).params["fc.weight"].dtype == np.float16  # an output is no reader
    twice = replace(node, name="again", inputs=("fc.weight", "fc.weight"), outputs=("again",))
    both = replace(graph, nodes=(*graph.nodes, replace(twice, op=Add())))
    assert half_weights(both).params["fc.weight"].dtype == np.float32


def test_an_unknown_kind_of_weights_is_refused() -> None:
    with pytest.raises(BackendError, match="fp8.*give one of fp32, fp16"):
        Session(small(), weights="fp8")


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["conv2d", "linear"])
def test_every_instruction_set_equals_numpy_with_rounded_weights(kind: str, isa: str) -> None:
    """To the ordinary bound: only the weights are rounded, once; products and sums are float32."""
    done = 0

    def check(case: Case) -> None:
        nonlocal done
        graph, inputs = graph_of(case, constant=True)
        graph = half_weights(graph)
        weight = graph.params[graph.nodes[0].inputs[1]]
        case = replace(case, inputs=(case.inputs[0], weight.astype(np.float64), *case.inputs[2:]))
        try:
            outputs = run(graph, inputs, isa)
        except NoKernelError:  # a residual in a depthwise convolution
            return
        compare(case, graph, outputs)
        done += weight.dtype == np.float16

    SETTINGS(given(STRATEGIES[kind])(check))()
    assert done, "no case had fp16 weights"


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [*SMALL, "winograd"])
def test_networks_equal_numpy(name: str, isa: str) -> None:
    graph = small() if name == "winograd" else network(name)
    inputs = random_inputs(graph)
    expected = run_graph(rounded(graph), inputs)
    half = half_weights(graph)
    for outputs in (run(half, inputs, isa), run_graph(half, inputs)):
        for key, ours in outputs.items():
            assert np.abs(ours - expected[key]).max() <= 2e-5 * np.abs(expected[key]).max()


@pytest.mark.needs_c
def test_same_bits_for_any_number_of_threads() -> None:
    graph = half_weights(network("fdfacenet"))
    inputs = random_inputs(graph)
    expected = run(graph, inputs, ISAS[-1])
    for threads in (2, 3, 8):
        for key, ours in run(graph, inputs, ISAS[-1], threads).items():
            assert np.array_equal(ours, expected[key])


@pytest.mark.needs_c
def test_the_plan_says_what_is_fp16_and_why_not() -> None:
    def steps(graph: Graph) -> dict[str, tuple[str, str]]:
        return {s.name: (s.kernel, s.reason) for s in engine.CExecutable(graph, 1).plan.steps}

    plain, half = steps(small()), steps(half_weights(small()))
    assert not any("fp16" in kernel + reason for kernel, reason in plain.values())
    assert half["dense"][0] == plain["dense"][0]
    assert "transformed weights are fp32" in half["dense"][1]
    assert half["fc"][0] == f"{plain['fc'][0]}_fp16"
    kernel, reason = steps(half_weights(small(1e6, kernel=1)))["dense"]
    assert "fp16" not in kernel and reason.endswith("out of fp16's range: weights stay fp32")


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("depth", [2, 4])
def test_groups_that_share_vectors_read_fp32(isa: str, depth: int) -> None:
    """Rounded like others, but lanes are taken from vectors of float32."""
    b = Builder("groups")
    x = b.conv(b.input("x", (2, 24, 9, 11)), 24, 3, pad=1, groups=24 // depth, key="conv")
    graph = b.build(x)
    half = half_weights(graph.bind(random_state(graph)))
    assert half.params["conv.weight"].dtype == np.float16
    inputs = random_inputs(half)
    (ours,), (wanted,) = run(half, inputs, isa).values(), run_graph(half, inputs).values()
    assert np.abs(ours - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.needs_c
def test_fp16_weights_take_half_the_memory() -> None:
    graph = network("fdfacenet")
    whole, half = (engine.CExecutable(g, 1).plan for g in (graph, half_weights(graph)))
    assert half.weights.nbytes < 0.6 * whole.weights.nbytes  # what Winograd transforms is fp32
    counts = [sum(s.compulsory.weight for s in plan.steps) for plan in (whole, half)]
    assert counts == [graph.cost.weight, half_weights(graph).cost.weight]
    last = [plan.steps[-1].algorithmic.weight for plan in (whole, half)]  # fc: 512 to 512
    assert last[0] - last[1] == 2 * 512 * 512


def test_embeddings_move_little() -> None:
    """11 bits a weight: far less than what tells pictures apart."""
    graph, card = recogniser()
    crops = [picture((0, 0), size=(128, 128)), picture((1, 0), size=(128, 128))]
    whole, half = (Model(graph, card, weights=w).embed(crops, aligned=True) for w in WEIGHTS)
    moved = np.linalg.norm(whole - half, axis=1)
    assert (moved > 0).all() and (moved < 2.0**-9).all()
    assert moved.max() < 1e-2 * np.linalg.norm(whole[0] - whole[1])
