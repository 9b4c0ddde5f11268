"""Merge parallel convolutions of one map into one (structural re-parameterisation).

Networks such as VarKFaceNet are trained with several branches (a k x k depthwise convolution,
a smaller one, the map itself, each with batch norm) whose results are added. Convolution is
linear in its kernel, so one convolution with the sum of the kernels does the same.
Ding et al. 2021 (RepVGG), section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.ops import Add, BatchNorm, Conv2d
from tinyface.ops.conv import Pair
from tinyface.ops.spec import Array
from tinyface.passes.rewrite import alive, finish, fresh, private

Params = dict[str, Array]


class Family(NamedTuple):
    """What convolutions must share to be merged."""

    x: str  # the map they read
    channels: Pair  # of their output, and of one group of their input
    groups: int
    stride: Pair
    excess: Pair  # both pads minus the kernel, vertical and horizontal: it fixes the output size
    made_for: Pair  # the map that the pads are for


class Branch(NamedTuple):
    """A summand that is a convolution."""

    term: str
    node: Node
    op: Conv2d
    kernel: Array  # (o, c/groups, kh, kw)
    bias: Array | float  # (o,), or 0


class Unit(NamedTuple):
    """A summand that is the map itself, times ``scale`` plus ``shift`` per channel."""

    term: str
    scale: Array  # (c,)
    shift: Array
    learned: bool  # a batch norm: counts as a 1 x 1 kernel


def reparameterize(graph: Graph) -> Graph:
    """Replace sums of parallel convolutions (and identities) of one map by one convolution.

    The branches must agree in input, stride, groups and made_for, and have dilation 1; smaller
    kernels are padded with zeros to their place in the largest. Any kernel size will do. Batch
    norms behind convolutions must have been folded; one straight on the input counts as a 1 x 1
    branch. Nothing is merged where that would cost more multiplications. Sums are formed in
    float64 and rounded once.
    """
    graph = alive(graph)
    params = dict(graph.params)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Add) and not _inside_sum(graph, node.outputs[0]):
            nodes += _rewrite_sum(graph, node, params)
        else:
            nodes.append(node)
    return finish(graph, nodes, params)


def _inside_sum(graph: Graph, tensor: str) -> bool:
    """Whether the tensor is made by an addition and read by one other, and nobody else."""
    maker = graph.producers.get(tensor)
    return (
        maker is not None
        and isinstance(maker.op, Add)
        and private(graph, tensor)
        and isinstance(graph.readers[tensor][0].op, Add)
    )


def _terms(graph: Graph, total: Node) -> Iterator[str]:
    """The summands of nested additions: a + (b + c) -> a, b, c."""
    waiting = [*reversed(total.inputs)]
    while waiting:
        name = waiting.pop()
        if _inside_sum(graph, name):
            waiting += reversed(graph.producers[name].inputs)
        else:
            yield name


def _rewrite_sum(graph: Graph, total: Node, params: Params) -> list[Node]:
    """The operators that compute the sum now: merged convolutions, and additions of the rest.

    The additions and branches they replace have no reader any more and are left to ``finish``.
    """
    rest = list(_terms(graph, total))
    families: dict[Family, list[Branch]] = {}
    for term in rest:
        found = _convolution(graph, term)
        if found is not None:
            families.setdefault(found[0], []).append(found[1])
    merged: list[Node] = []
    for family, branches in families.items():
        units = [unit for term in rest if (unit := _unit(graph, term, family)) is not None]
        node = _merge(graph, family, branches, units, params)
        if node is not None:
            merged.append(node)
            for gone in [branch.term for branch in branches] + [unit.term for unit in units]:
                rest.remove(gone)
            rest.insert(0, node.outputs[0])
    return _with_additions(graph, total, merged, rest) if merged else [total]


def _convolution(graph: Graph, term: str) -> tuple[Family, Branch] | None:
    """The summand as a branch that can be merged, or None if it is not one."""
    node = graph.producers.get(term)
    if node is None or not isinstance(node.op, Conv2d) or not private(graph, term):
        return None
    op, weights = node.op, [name for name in node.inputs[1:] if name]
    plain = op.act is None and op.dilation == (1, 1) and len(node.inputs) <= 3
    if not plain or not all(name in graph.params for name in weights):
        return None
    kernel, *bias = (graph.params[name].astype(np.float64) for name in weights)
    o, per_group, kh, kw = kernel.shape
    top, left, bottom, right = op.pad
    excess = (top + bottom - kh, left + right - kw)
    family = Family(node.inputs[0], (o, per_group), op.groups, op.stride, excess, op.made_for)
    return family, Branch(term, node, op, kernel, bias[0] if bias else 0.0)


def _unit(graph: Graph, term: str, family: Family) -> Unit | None:
    """The summand as the family's own input, plain or behind a batch norm; None if it is not."""
    o, per_group = family.channels
    if family.stride != (1, 1) or family.excess != (-1, -1) or o != per_group * family.groups:
        return None  # the convolutions change the map's size or number of channels
    if term == family.x:
        return Unit(term, np.ones(o), np.zeros(o), learned=False)
    node = graph.producers.get(term)
    if node is None or not isinstance(node.op, BatchNorm) or node.inputs[0] != family.x:
        return None
    if not private(graph, term) or not all(name in graph.params for name in node.inputs[1:]):
        return None
    gamma, beta, mean, var = (graph.params[name].astype(np.float64) for name in node.inputs[1:])
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + node.op.eps)
        return Unit(term, scale, beta - mean * scale, learned=True)


def _merge(
    graph: Graph, family: Family, branches: list[Branch], units: list[Unit], params: Params
) -> Node | None:
    """One convolution for all of them; None where there is nothing to gain."""
    top = max(branch.op.pad[0] for branch in branches)
    left = max(branch.op.pad[1] for branch in branches)
    kh = max(top - b.op.pad[0] + b.kernel.shape[2] for b in branches)
    kw = max(left - b.op.pad[1] + b.kernel.shape[3] for b in branches)
    before = sum(b.kernel[0, 0].size for b in branches) + sum(unit.learned for unit in units)
    if len(branches) + len(units) < 2 or kh * kw > before:
        return None
    kernel = np.zeros((*family.channels, kh, kw))
    for b in branches:
        row, column = top - b.op.pad[0], left - b.op.pad[1]
        kernel[:, :, row : row + b.kernel.shape[2], column : column + b.kernel.shape[3]] += b.kernel
    every = np.arange(family.channels[0])
    for unit in units:  # output channel i is input channel i mod c/g of its group
        kernel[every, every % family.channels[1], top, left] += unit.scale
    bias = np.zeros(family.channels[0]) + sum(b.bias for b in branches)
    bias += sum(unit.shift for unit in units)

    largest = max(branches, key=lambda b: b.kernel.size).node
    dtype = graph.types[family.x].dtype
    kernel, bias = kernel.astype(dtype), bias.astype(dtype)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        return None
    names = []
    for part, value in (("weight", kernel), ("bias", bias)):
        names.append(fresh(f"{largest.name}.{part}.merged", params, graph.types))
        params[names[-1]] = value
    pad = (top, left, family.excess[0] + kh - top, family.excess[1] + kw - left)
    op = Conv2d(stride=family.stride, pad=pad, groups=family.groups, made_for=family.made_for)
    output = fresh(f"{largest.name}.merged", params, graph.types)
    return Node(largest.name, op, (family.x, *names), (output,))


def _with_additions(graph: Graph, total: Node, merged: list[Node], terms: list[str]) -> list[Node]:
    """The merged convolutions, and what adds their results and the remaining terms up."""
    if len(terms) == 1:
        return [replace(merged[0], outputs=total.outputs)]
    nodes, names = list(merged), {node.name for node in graph.nodes}
    so_far = terms[0]
    for count, term in enumerate(terms[1:-1]):
        name = fresh(f"{total.name}.part{count}", names, graph.types)
        nodes.append(Node(name, Add(), (so_far, term), (name,)))
        so_far = name
    return [*nodes, replace(total, inputs=(so_far, terms[-1]))]
