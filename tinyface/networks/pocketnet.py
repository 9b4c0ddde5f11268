"""PocketNet (Boutros et al. 2022): cells found by neural architecture search.

Structure and names of fdbtrs/PocketNet, genotype "softmax_casia". A cell has two inputs (the
outputs of the two cells before it) and four nodes; each node adds two edges, and the nodes
are concatenated.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyface import limits
from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Keys, conv_bn, prelu
from tinyface.ops import Add, Concat, MaxPool, Slice


class Edge(NamedTuple):
    """An operation of a cell: a separable convolution, a max pooling or nothing."""

    kind: str  # "dw", "pool" or "skip"
    source: int  # 0, 1: the inputs; 2…: the nodes
    kernel: int = 3


def dw(kernel: int, source: int) -> Edge:
    return Edge("dw", source, kernel)


def pool(source: int) -> Edge:
    return Edge("pool", source)


def skip(source: int) -> Edge:
    return Edge("skip", source)


Cell = tuple[tuple[Edge, Edge], ...]

NORMAL: Cell = (
    (dw(3, 0), dw(1, 1)),
    (dw(3, 2), dw(5, 0)),
    (dw(3, 3), dw(3, 0)),
    (dw(3, 4), skip(0)),
)
REDUCTION: Cell = (
    (dw(3, 1), dw(7, 0)),
    (skip(2), dw(5, 1)),
    (pool(0), skip(2)),
    (pool(0), pool(1)),
)


def pocketnet(
    *,
    channels: int = 16,
    cells: int = 18,
    normal: Cell = NORMAL,
    reduction: Cell = REDUCTION,
    embedding: int = 128,
    size: Size = 112,
    name: str = "pocketnet-s-128",
) -> Graph:
    """PocketNet: (1, 3, size, size) -> ``embedding`` (1, embedding).

    PocketNetS: 16 channels, 18 cells; PocketNetM: 32 channels, 9 cells. The cells at a third,
    at two thirds and at the end halve the sides and double the channels.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, 4 * channels, 3, Keys("stem.0", "stem.1"), stride=2)
    before, reduced = x, False
    for i in range(cells):
        key = f"cells.{i}"
        reduces = i in (cells // 3, 2 * cells // 3, cells - 1)
        channels *= 2 if reduces else 1
        if reduced:
            s0 = _factorized_reduce(b, before, channels, f"{key}.preproc0")
        else:
            s0 = _separable(b, before, channels, 1, 1, f"{key}.preproc0.net")
        s1 = _separable(b, x, channels, 1, 1, f"{key}.preproc1.net")
        cell = reduction if reduces else normal
        before, x, reduced = x, _cell(b, s0, s1, cell, reduces, key), reduces
    return b.build(embedding=_tail(b, x, embedding))


def _separable(b: Builder, x: str, out: int, kernel: int, stride: int, key: str) -> str:
    """PReLU, depthwise, pointwise, batch norm. A depthwise 1x1 is one factor per channel."""
    c = b.channels(x)
    x = prelu(b, x, f"{key}.0")
    x = b.conv(x, c, kernel, key=f"{key}.1", stride=stride, pad=kernel // 2, groups=c)
    return conv_bn(b, x, out, 1, Keys(f"{key}.2", f"{key}.3"))


def _factorized_reduce(b: Builder, x: str, out: int, key: str) -> str:
    """Halve the sides without losing pixels: even ones into one half of the channels, odd ones
    (the map without its first row and column) into the other."""
    c = b.channels(x)
    x = prelu(b, x, f"{key}.relu")
    end = limits.MAX_DIM  # beyond the map: to its end, whatever its size
    odd = Slice(axes=(2, 3), starts=(1, 1), ends=(end, end), steps=(1, 1))
    halves = []
    for i, y in enumerate((x, b.apply(odd, x, name=f"{key}.odd")), start=1):
        y = b.conv(y, c, 1, key=f"{key}.conv{i}1", stride=2, groups=c)
        halves.append(b.conv(y, out // 2, 1, key=f"{key}.conv{i}2"))
    return b.batch_norm(b.apply(Concat(axis=1), *halves, name=f"{key}.cat"), key=f"{key}.bn")


def _cell(b: Builder, s0: str, s1: str, cell: Cell, reduces: bool, key: str) -> str:
    states = [s0, s1]
    for i, edges in enumerate(cell):
        left, right = (
            _edge(b, states, edge, reduces, f"{key}.dag.{i}.{j}") for j, edge in enumerate(edges)
        )
        states.append(b.apply(Add(), left, right, name=f"{key}.dag.{i}"))
    return b.apply(Concat(axis=1), *states[2:], name=key)


def _edge(b: Builder, states: list[str], edge: Edge, reduces: bool, key: str) -> str:
    """One operation; in a reduction, edges from the cell's inputs have stride 2."""
    x = states[edge.source]
    stride = 2 if reduces and edge.source < 2 else 1
    if edge.kind == "dw":
        return _separable(b, x, b.channels(x), edge.kernel, stride, f"{key}.net")
    if edge.kind == "pool":
        op = MaxPool(kernel=(3, 3), stride=(stride, stride), pad=(1, 1, 1, 1))
        return b.batch_norm(b.apply(op, x, name=f"{key}.pool"), key=f"{key}.bn")
    return x


def _tail(b: Builder, x: str, embedding: int) -> str:
    x = prelu(b, x, "tail.0")
    x = conv_bn(b, x, 512, 1, Keys("tail.1", "tail.2", "tail.3"), act=prelu)
    x = blocks.global_depthwise_bn(b, x, Keys("tail.4", "tail.5"))
    x = conv_bn(b, x, embedding, 1, Keys("tail.6", "tail.7"))
    return blocks.flatten(b, x)
