"""Which cache lines each C kernel touches, and in which order: what a cache model is fed with.

A step is walked as its kernel walks it, task by task (csrc/conv.h and the others), one thread. What
stays in registers and L1 anyway (partial sums, the same weight for the next tile) is left out:
within one pass over a panel or a row every line comes once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from tinyface.ops.spec import Array
from tinyface.plan.addresses import REGION, SCRATCH, Addresses
from tinyface.plan.chain import by_panels
from tinyface.plan.depthwise import filter_size, parts, rolls
from tinyface.plan.handed import handed, held_floats
from tinyface.plan.lines import Walk, lines, run
from tinyface.plan.model import ALIGN, FLOAT, POINTER, TRANSFORMED, Isa, Step
from tinyface.plan.pack import round_up
from tinyface.plan.packed import ROWS, chunk, chunks, packs
from tinyface.plan.tiling import odd_lines
from tinyface.plan.touched import (
    Range,
    blocks,
    inputs_under,
    share,
    tile_window,
    window_of,
)


def _rows_of(step: Step, outputs: Range) -> Iterator[tuple[int, int]]:
    """(image, row) of all whole rows of a run of outputs."""
    _, _, oh, ow = step.y.shape
    return (divmod(unit, oh) for unit in range(outputs[0] // ow, outputs[1] // ow))


class Walker(Addresses):
    """Walks the steps of one plan."""

    def steps(self) -> Iterator[tuple[int, Array, bool]]:
        """(number of the step, lines, written) of every pass of one run of the plan."""
        first = 0
        while first < len(self.plan.steps):
            members = self.plan.steps[first : first + self.plan.steps[first].chain]
            walks = self._chain(members) if len(members) > 1 else [(0, self.walk(members[0]))]
            for member, walk in walks:
                for some, write in walk:
                    yield first + member, some, write
            first += len(members)

    def _chain(self, members: Sequence[Step]) -> Iterator[tuple[int, Walk]]:
        """The turns of the members of a chain. What they hand on lies in scratch, one buffer of
        rows behind the other, and behind them what the kernels need."""
        starts, at = [], SCRATCH * REGION
        for step in members[:-1]:
            starts.append(at)
            rows = max(b.end - b.base for b in step.bands)
            later = members[len(starts)]
            floats = held_floats(step, later, rows) if by_panels(step, later) else rows * step.y.row
            at += round_up(floats, ALIGN)
        for image in range(members[-1].y.shape[0]):
            for turn in range(len(members[-1].bands)):
                for j, step in enumerate(members):
                    band = step.bands[turn]
                    if j < len(starts):
                        self.bases[step.y.buffer] = (
                            starts[j] - band.base * step.y.row - image * step.y.img
                        )
                        moved = band.moved * step.y.row
                        if moved and not by_panels(step, members[j + 1]):
                            yield j, self._move(starts[j], band.shift * step.y.row, moved)
                yield from self._turn(members, image, turn, [*starts, at])

    def _turn(
        self, members: Sequence[Step], image: int, turn: int, starts: Sequence[int]
    ) -> Iterator[tuple[int, Walk]]:
        def outputs(step: Step) -> Range:
            band, (_, _, oh, ow) = step.bands[turn], step.y.shape
            return (image * oh + band.first) * ow, (image * oh + band.end) * ow

        done = -1
        for j, step in enumerate(members):
            own = outputs(step)
            if j == done:
                continue
            if j + 1 < len(members) and by_panels(step, members[j + 1]):
                pair, later, done = (step, members[j + 1]), outputs(members[j + 1]), j + 1
                for i, one in handed(self, pair, own, later, (*starts[j : j + 2], starts[-1])):
                    yield j + i, iter([one])
            elif own[0] < own[1]:
                yield j, self.walk(step, [own], starts[-1])

    @staticmethod
    def _move(to: int, distance: int, count: int) -> Walk:
        yield run(to + distance, count), False
        yield run(to, count), True

    def walk(self, step: Step, part: Sequence[Range] = (), scratch: int = SCRATCH * REGION) -> Walk:
        """(lines, written) of every pass of the step's kernel.

        part: of a member of a chain, the outputs of this turn. scratch: where the kernel's begins.
        """
        n, _, oh, ow = step.y.shape
        pieces = part or [(0, n * oh * ow)]
        if step.fields["op"] == "TF_CONV":
            return self._conv(step, part or blocks(n * oh * ow, int(step.fields["block"])), scratch)
        if step.fields["op"] in ("TF_DEPTHWISE", "TF_GROUPED"):
            return self._depthwise(step, pieces, scratch)
        kernels: dict[str, Callable[[Step], Walk]] = {
            "TF_WINOGRAD": self._winograd, "TF_WINO_IN": self._wino_in, "TF_GEMV": self._gemv,
            "TF_FROM_NCHW": self._from_planes, "TF_TO_NCHW": self._to_planes,
        }  # fmt: skip
        if step.fields["op"] in kernels:
            return kernels[str(step.fields["op"])](step)
        return self._rows(step, pieces)

    # ------------------------------------------------------------------- kernels

    def _conv(self, step: Step, pieces: Sequence[Range], scratch: int) -> Walk:
        f, isa, groups = step.fields, step.isa, int(step.fields["groups"])
        oc = int(f["oc"])
        kc, own = step.x.shape[1] // groups, oc // groups
        k = kc * int(f["kh"]) * int(f["kw"])
        each = -(-own // (2 * isa.lanes))  # panels of a group
        most = isa.rows(own)
        padded = round_up(own, isa.lanes)
        window = window_of(step)
        panels = each * groups if step.bands else int(f["panels"])
        for p0, p1 in blocks(each * groups, panels):
            if packs(step):
                yield from self._packed(step, (p0, p1), pieces, scratch)
                continue
            for m0, m1 in pieces:
                numbers = np.arange(m0, m1)
                image, y, x = self.under(step, numbers, (numbers - m0) // most, window)
                inputs = self.pixels(step.x, image, y, x)
                yield self._table(int(f["kh"]) * int(f["kw"]), numbers.size, isa, scratch), True
                for p in range(p0, p1):
                    group, column = p // each, p % each * 2 * isa.lanes
                    wide = min(own - column, 2 * isa.lanes)
                    first = group * padded + column
                    yield self.weights(step, first * k, round_up(wide, isa.lanes) * k)
                    yield from self.vectors(step, first, wide)
                    yield lines(inputs + group * kc, kc), False
                    yield from self.result(step, numbers, group * own + column, wide)

    def _packed(self, step: Step, panels: Range, pieces: Sequence[Range], scratch: int) -> Walk:
        """Some panels of a convolution that packs its inputs, chunk by chunk."""
        f, wide, (_, c, _, _) = step.fields, 2 * step.isa.lanes, step.x.shape
        k = c * int(f["kh"]) * int(f["kw"])
        for first, end in chunks(step, pieces):
            numbers, sizes = np.arange(first, end), chunk(step, first, end)
            tables = (sizes.table + sizes.jobs) // FLOAT
            sums = run(scratch + tables, sizes.sums // FLOAT)
            packed = run(scratch + tables + sizes.sums // FLOAT, sizes.inputs // FLOAT)
            tiles = (numbers - first) // ROWS
            image, y, x = self.under(step, numbers, tiles, window_of(step))
            yield run(scratch, tables), True
            yield lines(self.pixels(step.x, image, y, x), c), False
            yield packed, True
            for column in range(panels[0] * wide, panels[1] * wide, wide):
                some = min(int(f["oc"]) - column, wide)
                yield from self.vectors(step, column, some)
                yield self.weights(step, column * k, round_up(some, step.isa.lanes) * k)
                yield packed, False
                yield sums, True
                yield from self.result(step, numbers, column, some)

    @staticmethod
    def _table(taps: int, pixels: int, isa: Isa, scratch: int) -> Array:
        most = max(isa.rows_wide, isa.rows_slim)
        count = -(-pixels // most) * most * (taps + 2)
        return run(scratch, count * POINTER // FLOAT)

    def _winograd(self, step: Step) -> Walk:
        n, _, oh, ow = step.y.shape
        f, c, wide = step.fields, step.x.shape[1], 2 * step.isa.lanes
        oc = int(f["oc"])
        tile, apart = int(f["tile"]), step.has(TRANSFORMED)
        squares, matrices = ((tile - 1) * int(f["sh"]) + 3) ** 2, (tile + 2) ** 2
        grid = -(-oh // tile), -(-ow // tile)
        for t0, t1 in blocks(n * grid[0] * grid[1], int(f["block"])):
            tiles = np.arange(t0, t1)
            sums = squares * odd_lines(tiles.size * wide)
            m = run(SCRATCH * REGION, sums)
            v = run(SCRATCH * REGION + sums, squares * odd_lines(tiles.size * c))
            if apart:
                rows = np.arange(squares)[:, None]
                v = lines(self.pixels(step.x, np.array(0), rows, tiles).ravel(), c)
            numbers = self._tile_outputs(tiles, grid, (oh, ow), tile)
            for p0, p1 in blocks(-(-oc // wide), int(f["panels"])):
                if not apart:
                    yield self._tile_inputs(step, tiles), False
                    yield v, True
                for first in range(p0 * wide, min(p1 * wide, oc), wide):
                    some = min(oc - first, wide)
                    each = matrices * c
                    padded = round_up(some, step.isa.lanes)
                    yield self.params(step, "w", each * first, each * padded), False
                    yield v, False
                    yield m, True
                    yield from self.vectors(step, first, some)
                    yield from self.result(step, numbers, first, some)

    def _tile_inputs(self, step: Step, tiles: Array) -> Array:
        image, y, x = self.under(step, tiles, tiles, tile_window(step))
        return lines(self.pixels(step.x, image, y, x), step.x.shape[1])

    def _wino_in(self, step: Step) -> Walk:
        _, c, squares, count = step.y.shape
        rows = np.arange(squares)[:, None]
        for first, end in share(count, int(step.fields["tasks"])):
            tiles = np.arange(first, end)
            yield self._tile_inputs(step, tiles), False
            yield lines(self.pixels(step.y, np.array(0), rows, tiles).ravel(), c), True

    @staticmethod
    def _tile_outputs(tiles: Array, grid: Range, side: Range, tile: int) -> Array:
        """Numbers of the outputs of tiles, tile by tile."""
        image, at = np.divmod(tiles, grid[0] * grid[1])
        row, column = np.divmod(at, grid[1])
        y = (row * tile)[:, None, None] + np.arange(tile)[:, None]
        x = (column * tile)[:, None, None] + np.arange(tile)
        numbers = (image[:, None, None] * side[0] + y) * side[1] + x
        found: Array = numbers[(y < side[0]) & (x < side[1])]
        return found

    def _gemv(self, step: Step) -> Walk:
        k, wide = step.x.shape[1], 2 * step.isa.lanes
        vector = self.map_row(step.x, 0, 0)
        for first in range(0, step.y.shape[1], wide):
            some = min(wide, step.y.shape[1] - first)
            yield vector, False
            yield self.weights(step, first * k, round_up(some, step.isa.lanes) * k)
            yield from self.vectors(step, first, some)
            yield from self.result(step, np.zeros(1, np.int64), first, some)

    def _depthwise(self, step: Step, pieces: Sequence[Range], scratch: int) -> Walk:
        _, c, _, ow = step.y.shape
        window = window_of(step)
        pitch = (ow - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] + 1
        table = run(scratch, window.kernel[0] * pitch * POINTER // FLOAT)
        weights = self.params(step, "w", 0, c * filter_size(step))
        if rolls(step):
            yield from self._rolling(step, pieces, weights)
            return
        for piece in pieces:
            for image, row in _rows_of(step, piece):
                yield table, True
                yield weights, False
                yield from self.vectors(step, 0, c)
                for y in inputs_under(row, row + 1, 0, window, step.x.shape[2]):
                    yield self.map_row(step.x, image, int(y)), False
                yield self.map_row(step.y, image, row), True

    def _rolling(self, step: Step, pieces: Sequence[Range], weights: Array) -> Walk:
        """Depthwise, some columns of all rows of a task, then the next ones."""
        c = step.y.shape[1]
        _, _, h, w = step.x.shape
        window = window_of(step)
        for piece, (a, b) in product(pieces, parts(step)):
            columns = inputs_under(a, b, 1, window, w)
            for image, row in _rows_of(step, piece):
                yield weights, False
                yield from self.vectors(step, 0, c)
                for y in inputs_under(row, row + 1, 0, window, h):
                    yield self.map_row(step.x, image, int(y), columns), False
                yield self.map_row(step.y, image, row, np.arange(a, b)), True

    def _rows(self, step: Step, pieces: Sequence[Range]) -> Walk:
        """Pooling, element-wise, resizing: row by row, each operand's rows under the window."""
        _, _, h, _ = step.x.shape
        resize = step.fields["op"] in ("TF_NEAREST", "TF_BILINEAR")
        window = window_of(step)
        columns = None if resize else inputs_under(0, step.y.shape[3], 1, window, step.x.shape[3])
        for piece in pieces:
            for image, row in _rows_of(step, piece):
                under = inputs_under(row, row + 1, 0, window, h)
                if resize:
                    at = min(h - 1, int(row * float(step.fields["alpha"])))
                    under = np.unique(np.clip([at, at + 1], 0, h - 1))
                for y in under:
                    yield self.map_row(step.x, image, int(y), columns), False
                if step.z is not None:
                    yield self.map_row(step.z, image, row), False
                yield self.params(step, "w", 0, step.y.shape[1]), False
                yield from self.vectors(step, 0, step.y.shape[1])
                yield self.map_row(step.y, image, row), True

    def _from_planes(self, step: Step) -> Walk:
        n, _, oh, _ = step.y.shape
        for image in range(n):
            for row in range(oh):
                y = row - int(step.fields.get("pt", 0))
                if 0 <= y < step.x.shape[2]:
                    yield self.planes(step.x, image, y), False
                yield self.map_row(step.y, image, row), True

    def _to_planes(self, step: Step) -> Walk:
        n, _, oh, _ = step.y.shape
        for image in range(n):
            for row in range(oh):
                yield self.map_row(step.x, image, row), False
                yield self.planes(step.y, image, row), True
