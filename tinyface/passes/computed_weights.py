"""Convolutions whose weights are computed as products of matrices."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from tinyface.graph import Graph, Node
from tinyface.limits import MAX_INDEX
from tinyface.ops import Add, Concat, Conv2d, MatMul, Op, Pad, Reshape, Slice, Transpose
from tinyface.passes.rewrite import finish, fresh


def computed_weights(graph: Graph) -> Graph:
    """im2col, written out: y = W (columns of x), for a W (o, c, kh, kw) that is no constant.

    StyleGAN's layers scale their weights for each picture (T. Karras et al., "Analyzing and
    Improving the Image Quality of StyleGAN", CVPR 2020, eq. 1 to 3), and face restoration has
    them from there. The kernels of convolutions read weights that were packed before.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _product(graph, node) if _is_computed(graph, node) else [node]
    return finish(graph, nodes, graph.params)


def _is_computed(graph: Graph, node: Node) -> bool:
    op = node.op
    if not isinstance(op, Conv2d) or op.groups > 1 or op.act or len(node.inputs) > 3:
        return False
    return node.inputs[1] not in graph.params and op.made_for == (0, 0)


def _product(graph: Graph, node: Node) -> list[Node]:
    """Each tap's part of the padded map side by side, (n, oh, ow, kh kw c), times (kh kw c, o)."""
    op, (x, weight, *bias) = node.op, node.inputs
    assert isinstance(op, Conv2d)
    o, c, kh, kw = graph.types[weight].shape
    made: list[Node] = []

    def put(what: str, made_by: Op, *inputs: str) -> str:
        name = fresh(f"{node.name}:{what}", graph.types, graph.params)
        made.append(Node(name, made_by, inputs, (name,)))
        return name

    top, left, bottom, right = op.pad
    if max(op.pad):
        x = put("pad", Pad((0, 0, top, left), (0, 0, bottom, right)), x)
    taps = []
    for ky, kx in product(range(kh), range(kw)):
        starts = (ky * op.dilation[0], kx * op.dilation[1])
        behind = ((kh - 1 - ky) * op.dilation[0], (kw - 1 - kx) * op.dilation[1])
        ends = tuple(-rest if rest else MAX_INDEX for rest in behind)
        taps.append(put(f"tap{ky}.{kx}", Slice((2, 3), starts, ends, op.stride), x))
    columns = put("columns", Concat(), *taps) if len(taps) > 1 else taps[0]
    columns = put("pixels", Transpose((0, 2, 3, 1)), columns)
    matrix = put(
        "matrix", Reshape((kh * kw * c, o)), put("turned", Transpose((2, 3, 1, 0)), weight)
    )
    y = put("product", MatMul(), columns, matrix)
    if bias and bias[0]:
        y = put("bias", Add(), y, bias[0])
    return [*made, replace(node, op=Transpose((0, 3, 1, 2)), inputs=(y,))]
