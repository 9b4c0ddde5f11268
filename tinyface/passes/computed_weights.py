"""Convolutions whose weights are computed, as products of matrices or sums over the taps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from tinyface.graph import Graph, Node
from tinyface.limits import MAX_INDEX
from tinyface.ops import (
    Add,
    Concat,
    Conv2d,
    Identity,
    MatMul,
    Mul,
    Op,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from tinyface.passes.rewrite import finish, fresh
from tinyface.types import Shape

MAX_TAPS = 225  # each is an operator or three
Put = Callable[..., str]  # (name's end, operator, *inputs) -> what it makes


def computed_weights(graph: Graph) -> Graph:
    """im2col, written out: y = W (columns of x), for a W (o, c, kh, kw) that is no constant; with
    one filter per channel a sum over the taps.

    StyleGAN's layers scale their weights for each picture (T. Karras et al., "Analyzing and
    Improving the Image Quality of StyleGAN", CVPR 2020, eq. 1 to 3), and face restoration has
    them from there; CondConv (B. Yang et al., NeurIPS 2019) mixes them. The kernels of
    convolutions read weights that were packed before.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _written_out(graph, node) if _is_computed(graph, node) else [node]
    return finish(graph, nodes, graph.params)


def _is_computed(graph: Graph, node: Node) -> bool:
    op = node.op
    if not isinstance(op, Conv2d) or op.act or len(node.inputs) > 3 or op.made_for != (0, 0):
        return False
    o, each, kh, kw = graph.types[node.inputs[1]].shape
    known = op.groups == 1 or (o == op.groups and each == 1)
    return node.inputs[1] not in graph.params and known and kh * kw <= MAX_TAPS


def _written_out(graph: Graph, node: Node) -> list[Node]:
    op, (x, weight, bias) = node.op, (*node.inputs, "")[:3]
    assert isinstance(op, Conv2d)
    shape = graph.types[weight].shape
    made: list[Node] = []

    def put(what: str, made_by: Op, *inputs: str) -> str:
        name = fresh(f"{node.name}:{what}", graph.types, graph.params)
        made.append(Node(name, made_by, inputs, (name,)))
        return name

    taps = _taps(op, x, shape[2:], put)
    way = _product if op.groups == 1 else _sum
    y, last = way(taps, weight, bias, shape, put)
    return [*made, replace(node, op=last, inputs=(y,))]


def _taps(op: Conv2d, x: str, kernel: Shape, put: Put) -> list[str]:
    """The part of the padded map that each tap of the window sees."""
    (kh, kw), (top, left, bottom, right) = kernel, op.pad
    if max(op.pad):
        x = put("pad", Pad((0, 0, top, left), (0, 0, bottom, right)), x)
    taps = []
    for ky, kx in product(range(kh), range(kw)):
        starts = (ky * op.dilation[0], kx * op.dilation[1])
        behind = ((kh - 1 - ky) * op.dilation[0], (kw - 1 - kx) * op.dilation[1])
        ends = tuple(-rest if rest else MAX_INDEX for rest in behind)
        taps.append(put(f"tap{ky}.{kx}", Slice((2, 3), starts, ends, op.stride), x))
    return taps


def _product(taps: list[str], weight: str, bias: str, shape: Shape, put: Put) -> tuple[str, Op]:
    """Each tap's part of the padded map side by side, (n, oh, ow, kh kw c), times (kh kw c, o); and
    what makes a map of it."""
    o, c, kh, kw = shape
    columns = put("columns", Concat(), *taps) if len(taps) > 1 else taps[0]
    columns = put("pixels", Transpose((0, 2, 3, 1)), columns)
    matrix = put(
        "matrix", Reshape((kh * kw * c, o)), put("turned", Transpose((2, 3, 1, 0)), weight)
    )
    y = put("product", MatMul(), columns, matrix)
    return (put("bias", Add(), y, bias) if bias else y), Transpose((0, 3, 1, 2))


def _sum(taps: list[str], weight: str, bias: str, shape: Shape, put: Put) -> tuple[str, Op]:
    """Each tap's part of the padded map, times one value a channel: a map already."""
    o, _, kh, kw = shape
    rows = put("rows", Reshape((kh * kw, o, 1, 1)), put("turned", Transpose((2, 3, 0, 1)), weight))
    y = put("bias", Reshape((1, o, 1, 1)), bias) if bias else ""
    for i, tap in enumerate(taps):
        filters = put(f"filters{i}", Slice.along(0, i, i + 1), rows)
        part = put(f"part{i}", Mul(), tap, filters)
        y = put(f"sum{i}", Add(), part, y) if y else part
    return y, Identity()
