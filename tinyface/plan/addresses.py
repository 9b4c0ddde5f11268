"""Cache lines of the operands of a step: pixels and rows of maps, packed weights and vectors.

Addresses are lines of 64 bytes in one space: the arena, the packed weights, the caller's arrays and
a thread's scratch lie far apart, each beginning on a line.
"""

from __future__ import annotations

import numpy as np

from tinyface.ops.spec import Array
from tinyface.plan.lines import Pass, Walk, lines, run
from tinyface.plan.model import HALF, RIVALS, Buffer, Plan, Step, View
from tinyface.plan.touched import Range, Window

REGION = 1 << 32  # floats between two regions
ARENA, WEIGHTS, SCRATCH, FIRST_ARRAY = 0, 1, 2, 3


class Addresses:
    """Of one plan. bases: first float of every buffer."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        constants = {b for s in plan.steps for b in s.buffers if b.kind == "weights"}
        self.bases: dict[Buffer, int] = dict.fromkeys(constants, WEIGHTS * REGION)
        arrays = (b for b in plan.buffers if b.kind != "arena")
        self.bases |= {b: (FIRST_ARRAY + i) * REGION for i, b in enumerate(arrays)}
        arena = (b for b in plan.buffers if b.kind == "arena")
        self.bases |= {b: ARENA * REGION + b.offset for b in arena}

    def pixels(self, view: View, image: Array, row: Array, column: Array) -> Array:
        """First float of pixels."""
        at = image * view.img + row * view.row + column * view.ld
        found: Array = self.bases[view.buffer] + view.offset + at
        return found

    def outputs(self, view: View, numbers: Array, grid: Range) -> Array:
        """First float of outputs, numbered row by row over all images."""
        image, at = np.divmod(numbers, grid[0] * grid[1])
        row, column = np.divmod(at, grid[1])
        return self.pixels(view, image, row, column)

    def some_channels(
        self, view: View, numbers: Array, grid: Range, channel: int, count: int
    ) -> Array:
        """Lines of some channels of outputs."""
        return lines(self.outputs(view, numbers, grid) + channel, count)

    def map_row(self, view: View, image: int, row: int, columns: Array | None = None) -> Array:
        """Lines of one row of a map, or of some of its columns."""
        _, c, _, w = view.shape
        if columns is None:
            columns = np.arange(w if view.ld else 1)
        return lines(self.pixels(view, np.array(image), np.array(row), columns), c)

    @staticmethod
    def params(step: Step, name: str, first: int, count: int) -> Array:
        """Lines of a packed vector or of packed weights; none where the step has none."""
        if name not in step.params:
            return np.empty(0, np.int64)
        return run(WEIGHTS * REGION + step.params[name] + first, count)

    def weights(self, step: Step, first: int, count: int) -> Pass:
        """Packed weights, in pairs where they are fp16."""
        if step.has(HALF):
            first, count = first // 2, -(-count // 2)
        return self.params(step, "w", first, count), False

    def vectors(self, step: Step, first: int, count: int) -> Walk:
        """Bias and slope of some channels."""
        for name in ("bias", "slope"):
            if name in step.params:
                yield self.params(step, name, first, count), False

    def planes(self, view: View, image: int, row: int) -> Array:
        """Lines of one row of a map in planes."""
        _, c, _, w = view.shape
        first = self.pixels(view, np.array(image), np.array(row), np.arange(c))
        return lines(first, w)

    def under(self, step: Step, numbers: Array, tile: Array, window: Window) -> tuple[Array, ...]:
        """Pixels under the windows of outputs, each once per tile, in the order of the tiles."""
        _, _, h, w = step.x.shape
        image, at = np.divmod(numbers, window.grid[0] * window.grid[1])
        row, column = np.divmod(at, window.grid[1])
        kh, kw = window.kernel
        shape = (numbers.size, kh, kw)
        y = (row * window.stride[0] - window.pad[0])[:, None, None]
        x = (column * window.stride[1] - window.pad[1])[:, None, None]
        y = np.broadcast_to(y + (np.arange(kh) * window.dilation[0])[:, None], shape)
        x = np.broadcast_to(x + np.arange(kw) * window.dilation[1], shape)
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        each = np.broadcast_to(image[:, None, None], shape)
        key = ((np.broadcast_to(tile[:, None, None], shape) * step.x.shape[0] + each) * h + y) * w
        key = np.unique((key + x)[inside])
        key, x = np.divmod(key, w)
        key, y = np.divmod(key, h)
        return key % step.x.shape[0], y, x

    def result(self, step: Step, numbers: Array, channel: int, count: int) -> Walk:
        """Some filters of some outputs: the residual is read, the result written."""
        _, _, oh, ow = step.y.shape
        if step.has(RIVALS):
            channel, count = channel // 2, count // 2
        if step.z is not None:
            yield lines(self.outputs(step.z, numbers, (oh, ow)) + channel, count), False
        yield self.some_channels(step.y, numbers, (oh, ow), channel, count), True
