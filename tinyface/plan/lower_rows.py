"""Products of two computed matrices, sums along axes, an axis made the innermost: steps over rows
of floats.

Operands are places (``lower_flat.py``): a buffer and a stride for every axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyface.graph import Node
from tinyface.ops import Transpose
from tinyface.plan.homes import single_reader
from tinyface.plan.lower_flat import (
    broadcast,
    constant,
    elementwise,
    known,
    merged,
    permuted,
    place,
    row_major,
    target,
)
from tinyface.plan.model import ACROSS, Place, View
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import row_tasks
from tinyface.plan.views import innermost
from tinyface.types import Shape

STACK = 2  # axes in front of the two of a matrix
MAX_WINDOW = 1 << 12  # of a step (csrc/check.c)


def matmul(p: Planner, node: Node) -> None:
    """y = scale a b for each pair of matrices, wherever their elements lie: the rows of a must be
    runs of floats, and rows or columns of b."""
    op: Any = node.op
    result = node.outputs[0]
    *stack, m, n = p.shape(result)
    k = p.shape(node.inputs[0])[-1]
    goals = ((*stack, m, k), (*stack, k, n))
    a, b = (operand(p, name, goal) for name, goal in zip(node.inputs, goals, strict=True))
    y = destination(p, node, b)
    if y[2][-1] != 1 < n:  # the product of the transposed ones, in the opposite order
        a, b, y, m, n = transposed(b), transposed(a), transposed(y), n, m
    across = b[2][-1] != 1 < n
    loops = merged(stack, [at[2][:-2] for at in (a, y, b)])
    if len(loops) > STACK:
        raise p.unsupported(node, "its stack has axes in too different an order")
    loops = [(1, 0, 0, 0)] * (STACK - len(loops)) + loops
    x_view, y_view = matrix(a, 0, loops, m, k), matrix(y, 1, loops, m, n)
    z_view = matrix(transposed(b), 2, loops, n, k) if across else matrix(b, 2, loops, k, n)
    p.packer.need_zeros(max(k, 2 * p.isa.lanes))
    units = math.prod(loop[0] for loop in loops) * -(-n // (2 * p.isa.lanes))
    p.emit(
        node.name, op.kind, f"matmul_{p.isa.name}_{p.isa.rows_wide}x{2 * p.isa.lanes}",
        x_view, y_view, z_view, node=node, op="TF_MATMUL", zero=0, alpha=op.scale,
        flags=ACROSS if across else 0, tasks=row_tasks(units, m * n * k * math.prod(stack) // 4),
    )  # fmt: skip


def operand(p: Planner, name: str, goal: Shape) -> Place:
    """A matrix or a stack of them; moved where neither rows nor columns are runs of floats, or
    where the left one's rows are not."""
    at = broadcast(known(p, name), p.shape(name), goal)
    left = p.node.inputs[0] == name
    if at[2][-1] == 1 or goal[-1] == 1 or (at[2][-2] == 1 and not left):
        return at
    return broadcast(place(p, name), p.shape(name), goal)


def destination(p: Planner, node: Node, b: Place) -> Place:
    """The place of a product: where what only transposes it would move it, if rows or columns
    are runs of floats there."""
    result = node.outputs[0]
    reader = single_reader(p.graph, result)
    final = reader.outputs[0] if reader is not None else ""
    free = not {result, final} & p.homes.keys() and result not in p.direct
    if reader is not None and isinstance(reader.op, Transpose) and free:
        perm = reader.op.perm
        turned = row_major(p.shape(final))
        last, before = (turned[perm.index(len(perm) - i)] for i in (1, 2))
        if last == 1 or (before == 1 and b[2][-2] == 1):
            return permuted(target(p, final), [perm.index(i) for i in range(len(perm))])
    return target(p, result)


def transposed(at: Place) -> Place:
    """A stack of matrices transposed."""
    *stack, rows, columns = at[2]
    return at[0], at[1], (*stack, columns, rows)


def matrix(at: Place, i: int, loops: list[tuple[int, ...]], rows: int, side: int) -> View:
    """Operand ``i`` of a stack as a map: pixels are the rows of a matrix."""
    (n, *imgs), (h, *high) = loops
    return View(at[0], (n, side, h, rows), at[1], imgs[i], high[i], at[2][-2])


def reordered(p: Planner, node: Node, order: Sequence[int]) -> tuple[Place, Shape]:
    """A copy of a node's operand, row-major with its axes in this order, and its shape."""
    source, name = node.inputs[0], p.spare(f"{node.outputs[0]}.turned")
    shape = tuple(p.shape(source)[axis] for axis in order)
    to = target(p, name, shape)
    elementwise(p, node, name, shape, (permuted(known(p, source), order), to), "TF_AFFINE")
    return to, shape


def turned(p: Planner, node: Node, axis: int) -> View:
    """A copy of a node's operand, as a map whose channels are this axis."""
    (buffer, offset, strides), shape = reordered(p, node, axis_last(p, node, axis))
    return innermost(View(buffer, shape, offset, strides[0]), shape)


def turn_back(p: Planner, node: Node, axis: int, x: View) -> None:
    """The result of a node from one whose innermost axis is ``axis``."""
    result, order = node.outputs[0], axis_last(p, node, axis)
    shape = tuple(p.shape(result)[axis] for axis in order)
    to = permuted(target(p, result), order)
    elementwise(p, node, result, shape, ((x.buffer, x.offset, row_major(shape)), to), "TF_AFFINE")


def axis_last(p: Planner, node: Node, axis: int) -> list[int]:
    """The order of a node's axes in which ``axis`` comes last."""
    return [i for i in range(len(p.shape(node.outputs[0]))) if i != axis] + [axis]


def neighbours(rank: int, axes: Sequence[int]) -> list[int]:
    """An order in which these axes follow each other, before the last of the others."""
    kept = [i for i in range(rank) if i not in axes]
    return [*kept[:-1], *axes, *kept[-1:]]


def reduce(p: Planner, node: Node) -> None:
    """A window as long as the axes, over what lies behind them; axes that are no neighbours become
    some by a copy.

    A sum is a mean times their length, a norm the root of that of the squares.
    """
    op: Any = node.op
    name, result = node.inputs[0], node.outputs[0]
    shape = p.shape(name)
    axes = sorted({axis % len(shape) for axis in op.axes})
    length = math.prod(shape[axis] for axis in axes)
    n = 1 if axes[0] == 0 else shape[0]
    apart = axes[-1] - axes[0] >= len(axes)
    if not apart:
        x = place(p, name)
        apart = n < shape[0] and x[2] != row_major(shape)  # along the batch, with gaps
    if apart:
        order = neighbours(len(shape), axes)
        x, shape = reordered(p, node, order)
        axes = [order.index(axis) for axis in axes]
    first, inner = axes[0], math.prod(shape[axes[-1] + 1 :])
    if op.mode == "l2":
        square = target(p, p.spare(f"{result}.square"), shape)
        elementwise(p, node, f"{result}.square", shape, (x, square, x), "TF_MUL")
        x = square
    outer = math.prod(shape[:first]) // n
    *parts, whole = windows_of(p, node, length)
    for part in parts:
        high = outer * length // part
        between = target(p, p.spare(f"{result}.parts"), (n, high, inner))
        pooled(p, node, f"{result}.parts", x, between, part, (n, inner, high))
        x = between
    y, goal = target(p, result), p.shape(result)
    gaps = n < goal[0] and y[2] != row_major(goal)  # a part of a joint tensor, image by image
    pool = target(p, p.spare(f"{result}.pooled"), goal) if gaps else y
    pooled(p, node, result, x, pool, whole, (n, inner, outer))
    if op.mode in ("sum", "l2"):
        times = broadcast(constant(p, (str(length),), np.full(1, length, np.float32)), (1,), goal)
        fields = {"act": "TF_SQRT"} if op.mode == "l2" else {}
        elementwise(p, node, f"{result}.sum", goal, (pool, y, times), "TF_MUL", fields)
    elif gaps:
        elementwise(p, node, f"{result}.moved", goal, (pool, y), "TF_AFFINE")


def windows_of(p: Planner, node: Node, length: int) -> list[int]:
    """One window of this length, or, where that is more than a step has, one over parts of equal
    length and one over their results."""
    if length <= MAX_WINDOW:
        return [length]
    part = max(k for k in range(1, MAX_WINDOW + 1) if length % k == 0)
    if length // part > MAX_WINDOW:
        raise p.unsupported(node, f"of {length} values, which are no {MAX_WINDOW} equal parts")
    return [part, length // part]


def pooled(
    p: Planner, node: Node, name: str, x: Place, y: Place, length: int, out: tuple[int, int, int]
) -> None:
    """Means or maxima of ``length`` rows that follow each other; out: images, floats of a row, rows
    of the result."""
    n, inner, high = out
    largest = node.op.mode == "max"  # type: ignore[attr-defined]
    views = [
        View(buffer, (n, inner, rows, 1), offset, strides[0] if n > 1 else 0, inner, inner)
        for (buffer, offset, strides), rows in ((x, high * length), (y, high))
    ]
    p.emit(
        name, node.op.kind, "max_pool" if largest else "average_pool", *views, node=node,
        op="TF_MAXPOOL" if largest else "TF_AVGPOOL", kh=length, sh=length,
        tasks=row_tasks(max(n * high, inner // 64), n * inner * high * length),
        reason="a window of the axes' length",
    )  # fmt: skip
