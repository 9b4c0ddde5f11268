"""Parallel branches become one convolution, where that is right and saves work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from random_graphs import assert_same_outputs, kinds

from tinyface import ops
from tinyface.builder import Builder
from tinyface.errors import GraphError
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.passes import drop_noops, fold_batchnorm, optimise, reparameterize


def test_varkfacenet_folds_to_one_path() -> None:
    """Spec, section 11: 0.748 M -> 0.706 M parameters, 119.5 M MACs = 0.239 GFLOPs."""
    graph = find("varkfacenet-train").build(size=32)
    graph = graph.bind(random_state(graph))
    merged = reparameterize(fold_batchnorm(drop_noops(graph)))
    depthwise = [n for n in merged.nodes if isinstance(n.op, ops.Conv2d) and n.op.groups > 2]
    assert len(depthwise) == 3 + 12 + 1  # a stage's way down, its units; the global one
    assert sum(isinstance(n.op, ops.Add) for n in merged.nodes) == 12  # the units' shortcuts
    assert_same_outputs(graph, merged, "float32")


def test_varkfacenet_has_the_published_figures() -> None:
    graph = find("varkfacenet-train").build()
    optimised = optimise(graph)
    assert round(trained(graph) / 1e6, 3) == 0.748
    assert round(optimised.param_count / 1e6, 3) == 0.706
    assert round(optimised.cost.macs / 1e6, 1) == 119.5


def trained(graph: Graph) -> int:
    """Weights that training learns: all but the statistics of batch norms."""
    return sum(v.size for name, v in graph.params.items() if ".running_" not in name)


def sum_of(*make: Callable[[Builder, str], str], channels: int = 4) -> Graph:
    """A graph that adds up what the functions make of one input."""
    b = Builder("sum")
    x = b.input("input", (1, channels, 7, 9))
    terms = [one(b, x) for one in make]
    y = terms[0]
    for term in terms[1:]:
        y = b.apply(ops.Add(), y, term)
    graph = b.build(y)
    return graph.bind(random_state(graph))


def branch(
    key: str, kernel: int | tuple[int, int], groups: int = 4, **options: Any
) -> Callable[[Builder, str], str]:
    def make(b: Builder, x: str) -> str:
        half = kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel)
        return b.conv(x, 4, kernel, key=key, groups=groups, **{"pad": half, **options})

    return make


@pytest.mark.parametrize(
    ("terms", "left"),
    [
        ([branch("a", 7), branch("b", 5), branch("c", 3)], ["conv2d"]),
        ([branch("a", 3, groups=1), branch("b", 1, groups=1), lambda b, x: x], ["conv2d"]),
        ([branch("a", 3, groups=2), lambda b, x: b.batch_norm(x, key="bn")], ["conv2d"]),
        ([branch("a", 3, stride=2), branch("b", 1, stride=2)], ["conv2d"]),
        ([branch("a", (1, 5)), branch("b", (1, 3))], ["conv2d"]),
        ([branch("a", 3, pad=(0, 0, 2, 2)), branch("b", 1)], ["conv2d"]),
        ([lambda b, x: x, branch("a", 3), lambda b, x: x], ["conv2d"]),
        # what stays as it is: more multiplications, other groups, dilation, no convolution
        ([branch("a", (1, 5)), branch("b", (5, 1))], ["conv2d", "conv2d", "add"]),
        ([branch("a", 3), branch("b", 3, groups=2)], ["conv2d", "conv2d", "add"]),
        ([branch("a", 3, pad=2, dilation=2), branch("b", 1)], ["conv2d", "conv2d", "add"]),
        (
            [branch("a", 3, pad=2, dilation=2), branch("b", 3, pad=2, dilation=2)],
            ["conv2d", "conv2d", "add"],
        ),
        ([lambda b, x: x, lambda b, x: b.batch_norm(x, key="bn")], ["batch_norm", "add"]),
        # two families in one sum, and a term that belongs to neither
        (
            [branch("a", 3), branch("c", 3, groups=1), branch("b", 1), branch("d", 1, groups=1)],
            ["conv2d", "conv2d", "add"],
        ),
        (
            [branch("a", 3), lambda b, x: b.apply(ops.Sigmoid(), x), branch("b", 1)],
            ["sigmoid", "conv2d", "add"],
        ),
    ],
)
def test_sums_of_branches(terms: list[Callable[[Builder, str], str]], left: list[str]) -> None:
    graph = sum_of(*terms)
    merged = reparameterize(graph)
    assert kinds(merged) == left
    assert_same_outputs(graph, merged, "float32")
    wide = graph.astype("float64")
    assert_same_outputs(wide, reparameterize(wide), "float64")


def test_a_branch_that_others_read_stays() -> None:
    b = Builder("read")
    x = b.input("input", (1, 4, 7, 7))
    y = branch("a", 3)(b, x)
    graph = b.build(b.apply(ops.Add(), y, branch("b", 3)(b, x)), y)
    graph = graph.bind(random_state(graph))
    merged = reparameterize(graph)
    assert kinds(merged) == ["conv2d", "conv2d", "add"]


def padded(made_for: tuple[int, int], other: tuple[int, int]) -> Graph:
    """Two strided branches with pads of the "same" kind, each for a map of its own size."""
    b = Builder("padded")
    x = b.input("input", (1, 4, 10, 10))
    terms = [
        b.apply(
            ops.Conv2d(stride=(2, 2), pad=(few, few, few + 1, few + 1), made_for=size),
            x,
            b.param(f"w{few}", (8, 4, 3 + 2 * few, 3 + 2 * few)),
        )
        for few, size in ((0, made_for), (1, other))
    ]
    graph = b.build(b.apply(ops.Add(), *terms))
    return graph.bind(random_state(graph))


def test_pads_for_one_size_of_map_stay_for_that_size() -> None:
    graph = padded((10, 10), (10, 10))
    merged = reparameterize(graph)
    assert kinds(merged) == ["conv2d"]
    assert_same_outputs(graph, merged, "float32")
    with pytest.raises(GraphError, match="its pads are for maps of 10x10"):
        merged.with_inputs({"input": (1, 4, 11, 11)})


def test_pads_for_different_maps_are_not_merged() -> None:
    graph = padded((10, 10), (0, 0))
    assert reparameterize(graph).nodes == graph.nodes
