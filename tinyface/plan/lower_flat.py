"""Tensors as row-major arrays of any rank: what heads of detectors do to their rows.

Copies between any two layouts, and sums and products that broadcast in any way, are element-wise
steps over views of at most four axes. Axes that lie behind each other in every operand become one
first, so that most of what exporters write needs no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyface.graph import Node
from tinyface.ops import LeakyReLU, MatMul, Reshape, Slice, Split, Transpose
from tinyface.ops.spec import Array
from tinyface.plan.lower_conv import act_fields, tail_act
from tinyface.plan.margins import surround
from tinyface.plan.model import SPREAD, Place, View
from tinyface.plan.planner import Planner
from tinyface.plan.tiling import row_tasks
from tinyface.types import Shape

LOOPS = 3  # axes of a step beside the innermost
MOVES = (Reshape, Slice, Split, Transpose)
MOST_STEPS = 16  # in the place of one more axis
LONG = 64  # floats of a run that is a row by itself, rather than one pixel of a row
Strides = tuple[int, ...]
Axis = tuple[int, ...]  # its size, then a stride for every operand


def row_major(shape: Shape, img: int | None = None) -> Strides:
    """Strides of a tensor without gaps, but for those between images."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return tuple(strides) if img is None else (img, *strides[1:])


def place(p: Planner, name: str, *, exact: bool = False) -> Place:
    """Where a tensor lies row-major, moved if need be; a constant lies among the weights. exact: of
    a constant, numbers below the least normal float are not taken for 0."""
    if name in p.graph.params:
        value = p.graph.params[name]
        return constant(p, (name, "exact" if exact else "as is"), value, exact=exact)
    view = p.as_flat(name)
    return view.buffer, view.offset, row_major(p.shape(name), view.img)


def known(p: Planner, name: str) -> Place:
    """Where a tensor lies, in whatever order."""
    return p.unmoved(name) or place(p, name)


def lies_flat(p: Planner, name: str, result: str) -> bool:
    """Does a tensor of four axes lie row-major, so that what is done to each of its values is best
    left so? Not where a map was made of it anyhow, or the result is a part of one."""
    shape = p.shape(name)
    if len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1 or name in p.graph.params:
        return False
    return not p.at(name).is_map and (name, "map") not in p.moved and result not in p.homes


def settle(p: Planner, name: str) -> None:
    """Move a tensor of which only the strides are known to a place of its own."""
    at, node = p.strided[name], p.graph.producers[name]
    elementwise(p, node, name, p.shape(name), (at, target(p, name)), "TF_AFFINE")


def put(p: Planner, name: str, at: Place) -> None:
    """A tensor that lies at ``at`` in another order: moved, but not where products will read it."""
    p.keep(name, at)
    if name in p.homes or name in p.direct or not read_by_product(p, name):
        settle(p, name)


def read_by_product(p: Planner, name: str) -> bool:
    """Is a tensor, or what is cut from it or renamed, an operand of a product?"""
    waiting = [name]
    while waiting:
        tensor = waiting.pop()
        for node in () if tensor in p.graph.outputs else p.graph.readers[tensor]:
            if isinstance(node.op, MatMul):
                return True
            waiting += node.outputs if isinstance(node.op, MOVES) else ()
    return False


def constant(p: Planner, key: tuple[str | int, ...], value: Array, *, exact: bool = False) -> Place:
    offset = p.packer.add(key, lambda: np.asarray(value, np.float32), exact=exact)
    return p.constants, offset, row_major(value.shape)


def target(p: Planner, name: str, shape: Shape | None = None) -> Place:
    """A place for a result, row-major; of this shape, where it is no tensor of the graph."""
    shape = shape or p.shape(name)
    view = p.new(name, shape, as_map=False)
    return view.buffer, view.offset, row_major(shape, view.img)


def broadcast(at: Place, shape: Shape, goal: Shape) -> Place:
    """The same tensor with strides of 0 where it is repeated to make ``goal``."""
    strides = [0] * (len(goal) - len(shape))
    strides += [0 if side == 1 else step for side, step in zip(shape, at[2], strict=True)]
    return at[0], at[1], tuple(strides)


def permuted(at: Place, order: Sequence[int]) -> Place:
    """The same tensor with its axes in another order."""
    return at[0], at[1], tuple(at[2][axis] for axis in order)


def elementwise(
    p: Planner, node: Node, name: str, sizes: Sequence[int], places: Sequence[Place], op: str,
    fields: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """One element-wise step: places are those of x, y and, for two operands, z. A run of floats of
    x and y is the innermost axis; z has a run there, too, or one value for it."""
    axes = merged(sizes, [at[2] for at in places])
    inner = next((a for a in axes if a[1] == a[2] == 1 and set(a[3:]) <= {0, 1}), None)
    if inner is None and op == "TF_AFFINE" and turn_planes(p, node, name, axes, places):
        return
    if len(axes) - (inner is not None) > LOOPS:
        apart(p, node, name, axes, inner, places, op, fields)
        return
    axes = [axis for axis in axes if axis is not inner]
    c = inner[0] if inner else 1
    if inner and not axes:  # one run: in equal parts, for threads to share
        parts = next((k for k in (16, 8, 4, 2) if c % k == 0 and c // k >= LONG), 1)
        c //= parts
        axes = [(parts, *(c * step for step in inner[1:]))]
    spread = inner is not None and inner[3:] == (0,)
    fill = [(1,) + (0,) * len(places)] * (LOOPS - len(axes))
    loops = axes + fill if len(axes) < LOOPS and c >= LONG else fill + axes
    (n, *imgs), (h, *rows), (w, *pixels) = loops
    views = [
        View(buffer, (n, c, h, w), offset, img, row, ld)
        for (buffer, offset, _), img, row, ld in zip(places, imgs, rows, pixels, strict=True)
    ]
    fields = dict(fields or {})
    if spread:
        views[2], fields["flags"] = replace(views[2], shape=(n, 1, h, w)), SPREAD
    p.emit(
        name, node.op.kind, "rows", *views, node=node, op=op, **fields,
        tasks=row_tasks(n * h, n * h * w * c),
    )  # fmt: skip


def apart(
    p: Planner, node: Node, name: str, axes: Sequence[Axis], inner: Axis | None,
    places: Sequence[Place], op: str, fields: dict[str, Any] | None,
) -> None:  # fmt: skip
    """Where there are too many axes, a step for each index of the shortest one."""
    short = min(axis for axis in axes if axis is not inner)
    if short[0] > MOST_STEPS:
        raise p.unsupported(node, "its axes are in too different an order")
    left = [axis for axis in axes if axis is not short]
    strides = list(zip(*left, strict=True))[1:]
    for i in range(short[0]):
        part = [
            (buffer, offset + i * step, steps)
            for (buffer, offset, _), step, steps in zip(places, short[1:], strides, strict=True)
        ]
        elementwise(p, node, f"{name}.{i}", [axis[0] for axis in left], part, op, fields)


def turn_planes(
    p: Planner, node: Node, name: str, axes: Sequence[Axis], places: Sequence[Place]
) -> bool:
    """Whether what lies side by side in x is one axis, and in y another: then the step is the one
    that turns planes channels-last."""
    w = next((axis for axis in axes if axis[1] == 1), None)
    c = next((axis for axis in axes if axis[2] == 1), None)
    others = [axis for axis in axes if axis is not w and axis is not c]
    if w is None or c is None or len(others) > 2:
        return False
    (n, *imgs), (h, *rows) = [(1, 0, 0)] * (2 - len(others)) + others
    shape = (n, c[0], h, w[0])
    (x, x_at, _), (y, y_at, _) = places
    p.emit(
        name, node.op.kind, "from_nchw", View(x, shape, x_at, imgs[0], rows[0], c[1]),
        View(y, shape, y_at, imgs[1], rows[1], w[2]), node=node, op="TF_FROM_NCHW",
        tasks=row_tasks(n * h, math.prod(shape)),
    )  # fmt: skip
    return True


def merged(sizes: Sequence[int], strides: Sequence[Strides]) -> list[Axis]:
    """(size, strides …) of every axis longer than 1, neighbours that are one run joined."""
    axes: list[Axis] = []
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if axes and all(a == b * size for a, b in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = (axes[-1][0] * size, *steps)
        else:
            axes.append((size, *steps))
    return axes


def transpose(p: Planner, node: Node) -> None:
    """Any order of the axes."""
    (name,), result = node.inputs, node.outputs[0]
    perm: tuple[int, ...] = node.op.perm  # type: ignore[attr-defined]
    put(p, result, permuted(known(p, name), perm))


def concat(p: Planner, node: Node) -> None:
    """Along any axis: every part is copied."""
    whole = node.outputs[0]
    buffer, offset, strides = target(p, whole)
    axis = node.op.axis % len(strides)  # type: ignore[attr-defined]
    for i, part in enumerate(node.inputs):
        shape = p.shape(part)
        y = (buffer, offset, strides)
        elementwise(p, node, f"{whole}.{i}", shape, (place(p, part), y), "TF_AFFINE")
        offset += shape[axis] * strides[axis]


def split(p: Planner, node: Node) -> None:
    """Along any axis."""
    buffer, offset, strides = known(p, node.inputs[0])
    axis = node.op.axis % len(strides)  # type: ignore[attr-defined]
    for part in node.outputs:
        put(p, part, (buffer, offset, strides))
        offset += p.shape(part)[axis] * strides[axis]


def slices(p: Planner, node: Node) -> None:
    """Of any axes; backwards along one, of which there are few."""
    name, result = node.inputs[0], node.outputs[0]
    buffer, offset, strides = known(p, name)
    index = node.op.index(len(strides))  # type: ignore[attr-defined]
    ranges = [range(*s.indices(side)) for s, side in zip(index, p.shape(name), strict=True)]
    offset += sum(r.start * step for r, step in zip(ranges, strides, strict=True))
    steps = tuple(r.step * step for r, step in zip(ranges, strides, strict=True))
    back = [axis for axis, r in enumerate(ranges) if r.step < 0]
    if back:
        return backwards(p, node, back, (buffer, offset, steps))
    put(p, result, (buffer, offset, steps))


def backwards(p: Planner, node: Node, axes: Sequence[int], x: Place) -> None:
    """A step for each index, since none goes backwards: of colours there are three."""
    result, axis = node.outputs[0], axes[0]
    shape = list(p.shape(result))
    if len(axes) > 1 or shape[axis] > MOST_STEPS:
        raise p.unsupported(node, "backwards")
    (xb, xo, xs), (yb, yo, ys) = x, target(p, result)
    shape[axis], count = 1, shape[axis]
    for i in range(count):
        places = ((xb, xo + i * xs[axis], xs), (yb, yo + i * ys[axis], ys))
        elementwise(p, node, f"{result}.{i}", shape, places, "TF_AFFINE")


def reshape(p: Planner, node: Node) -> bool:
    """Whether a tensor of which only the strides are known got a shape that differs in axes of one
    element alone."""
    name, result = node.inputs[0], node.outputs[0]
    at = p.unmoved(name)
    if at is None:
        return False
    buffer, offset, strides = at
    long = [(side, step) for side, step in zip(p.shape(name), strides, strict=True) if side > 1]
    if [side for side, _ in long] != [side for side in p.shape(result) if side > 1]:
        return False
    steps = iter(step for _, step in long)
    put(p, result, (buffer, offset, tuple(next(steps) if s > 1 else 1 for s in p.shape(result))))
    return True


def binary(p: Planner, node: Node) -> None:
    """Two operands of any shapes; slopes behind them, which belong to channels, in a step of their
    own."""
    act, slope = tail_act(p, node)
    if slope is not None or isinstance(act, LeakyReLU):
        return sloped(p, node, binary)
    result = p.result(node)
    goal, names = p.shape(result), node.inputs
    if node.op.kind not in ("sub", "div"):  # what is repeated comes second
        names = tuple(sorted(names, key=lambda name: -math.prod(p.shape(name))))
    places = place(p, names[0]), place(p, names[1], exact=node.op.kind == "div")
    a, b = (broadcast(at, p.shape(name), goal) for at, name in zip(places, names, strict=True))
    fields, _ = act_fields(p, node, 1, act, None)
    elementwise(
        p, node, result, goal, (a, target(p, result), b), f"TF_{node.op.kind.upper()}", fields
    )


def scale_shift(p: Planner, node: Node, scale: Array, shift: Array) -> None:
    """y = act(x scale[c] + shift[c]) of (n, c, l): each value is for a run, so a product and a
    sum."""
    act, slope = tail_act(p, node)
    if slope is not None or isinstance(act, LeakyReLU):
        return sloped(p, node, lambda p, node: scale_shift(p, node, scale, shift))
    name, result = node.inputs[0], p.result(node)
    goal, column = p.shape(result), (len(scale), 1)
    y = target(p, result)
    w, b = (
        broadcast(constant(p, (node.name, key), values.reshape(column)), column, goal)
        for key, values in (("scale", scale), ("shift", shift))
    )
    elementwise(p, node, f"{result}.scaled", goal, (place(p, name), y, w), "TF_MUL")
    elementwise(p, node, result, goal, (y, y, b), "TF_ADD", act_fields(p, node, 1, act, None)[0])


def sloped(p: Planner, node: Node, lower: Callable[[Planner, Node], None]) -> None:
    """Such a node without its activation, and this behind it."""
    from tinyface.plan.lower import activation

    tail = p.tails.pop(node.name)
    lower(p, node)
    p.node = tail
    activation(p, tail)
    p.release(node.outputs[0], tail)


def pad(p: Planner, node: Node) -> None:
    """Of a map, or of what has other axes than one."""
    op: Any = node.op
    name, result = node.inputs[0], node.outputs[0]
    if len(p.shape(name)) != 4 or op.before[0] + op.after[0]:
        return pad_rows(p, node)
    surround(p, node, result, p.as_map(name), p.joint(result), op.before[1:], op.value)


def pad_rows(p: Planner, node: Node) -> None:
    """Of any axes: the value everywhere, then the tensor over it."""
    op: Any = node.op
    name, result = node.inputs[0], node.outputs[0]
    buffer, offset, strides = target(p, result)
    goal = p.shape(result)
    row = constant(p, (node.name, "row", goal[-1]), np.full(goal[-1], op.value))
    fill = broadcast(row, goal[-1:], goal)
    elementwise(p, node, f"{result}.fill", goal, (fill, (buffer, offset, strides)), "TF_AFFINE")
    offset += sum(first * step for first, step in zip(op.before, strides, strict=True))
    inside = buffer, offset, strides
    elementwise(p, node, result, p.shape(name), (place(p, name), inside), "TF_AFFINE")
