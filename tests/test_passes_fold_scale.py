"""A factor per channel goes into the convolution behind it."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import assert_same_outputs, kinds

from tinyface import ops
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.passes import fold_scale, optimise


def pair(*, bias: bool = True, kernel: int = 1, pad: int = 0, stride: int = 1, groups: int = 1,
         act: bool = False, twice: bool = False) -> Graph:  # fmt: skip
    b = Builder("pair")
    x = b.input("input", (2, 6, 7, 7))
    scaled = b.conv(x, 6, 1, key="scale", groups=6, bias=bias, stride=stride)
    x = b.prelu(scaled, key="act") if act else scaled
    x = b.conv(x, 8, kernel, key="conv", pad=pad, groups=groups, bias=bias)
    graph = b.build(x, *[scaled] * twice)
    rng = np.random.default_rng(0)
    values = {k: rng.standard_normal(v.shape) for k, v in graph.params.items()}
    return graph.bind({k: v.astype(np.float32) for k, v in values.items()})


FOLDED = [
    {},
    {"bias": False},
    {"groups": 2},
    {"stride": 2},
    {"kernel": 3},
    {"kernel": 3, "pad": 1, "bias": False},
]
KEPT = [
    {"act": True},
    {"twice": True},
    {"kernel": 3, "pad": 1},  # the padding is not shifted
    {"kernel": 3, "stride": 2},
]


@pytest.mark.parametrize("options", FOLDED, ids=str)
def test_folds(options: dict[str, int]) -> None:
    graph = pair(**options)  # type: ignore[arg-type]
    after = fold_scale(graph)
    assert kinds(after) == ["conv2d"]
    assert_same_outputs(graph, after, "float32")
    assert_same_outputs(graph.astype("float64"), fold_scale(graph.astype("float64")), "float64")


@pytest.mark.parametrize("options", KEPT, ids=str)
def test_stays(options: dict[str, int]) -> None:
    graph = pair(**options)  # type: ignore[arg-type]
    assert fold_scale(graph).nodes == graph.nodes


def test_numbers_too_large_stay_apart() -> None:
    graph = pair()
    huge = graph.bind({k: np.full(v.shape, 3e30, np.float32) for k, v in graph.params.items()})
    assert len(fold_scale(huge).nodes) == 2


def test_pocketnet_has_no_depthwise_of_size_one() -> None:
    graph = find("pocketnet-s-128").build()
    graph = optimise(graph.bind(random_state(graph)))
    left = [n for n in graph.nodes if isinstance(n.op, ops.Conv2d) and n.op.groups > 1]
    assert left
    assert all(graph.types[n.inputs[1]].shape[2] > 1 for n in left)


def test_what_pads_were_made_for_is_not_the_map_before_a_stride() -> None:
    """The second one's map, 5x5, vanishes; a 1x1 without pads holds for every map."""
    b = Builder("strides")
    x = b.input("input", (1, 6, 10, 10))
    x = b.conv(x, 6, 1, key="scale", groups=6, stride=2)
    op = ops.Conv2d(stride=(2, 2), made_for=(5, 5))
    graph = b.build(b.apply(op, x, b.param("w", (8, 6, 1, 1))))
    graph = graph.bind(random_state(graph))
    after = optimise(graph)
    assert kinds(after) == ["conv2d"]
    assert_same_outputs(graph, after, "float32")
