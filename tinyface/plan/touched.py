"""What the C kernels touch: the algorithmic bytes of a step (docs/definitions.md).

A *task* is what a kernel does in one piece (csrc/conv.h and the others say which part of the
output that is). Within a task every byte counts once each way, however often it is taken from the
cache; what another task needs, too, counts again. So a panel of weights that is read for four
blocks of pixels counts four times, and an input row that two tasks share, twice. In a chain each
turn of a member is a task (for one thread).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tinyface.ops.resize import positions
from tinyface.ops.spec import Array
from tinyface.plan.depthwise import STRIP, filter_size, has_strips, rolls
from tinyface.plan.model import FLOAT, HALF, POINTER, SPREAD, TRANSFORMED, Step, View
from tinyface.plan.packed import chunk, chunks, packs
from tinyface.plan.tiling import even_tiles
from tinyface.types import Cost

Range = tuple[int, int]  # from, to (excluded)


@dataclass(frozen=True)
class Window:
    """What lies under outputs: kernel, stride, dilation, pads above and to the left; grid: rows
    and columns of outputs of an image."""

    kernel: Range
    stride: Range
    dilation: Range
    pad: Range
    grid: Range


def window_of(step: Step) -> Window:
    """The window of a convolution or a pooling; of other steps, one pixel."""
    kh, kw, sh, sw, dh, dw = (step.fields[name] for name in ("kh", "kw", "sh", "sw", "dh", "dw"))
    grid = int(step.fields["oh"]), int(step.fields["ow"])
    pad = int(step.fields.get("pt", 0)), int(step.fields.get("pl", 0))
    return Window((int(kh), int(kw)), (int(sh), int(sw)), (int(dh), int(dw)), pad, grid)


def share(total: int, tasks: int) -> list[Range]:
    """The part of 0..total that each task owns, as the engine divides it."""
    return [(total * t // tasks, total * (t + 1) // tasks) for t in range(tasks)]


def blocks(total: int, size: int) -> list[Range]:
    return [(first, min(first + size, total)) for first in range(0, total, size)]


# ------------------------------------------------------------------ windows on a map


def inputs_under(first: int, end: int, axis: int, window: Window, side: int) -> Array:
    """Rows (axis 0) or columns (1) of the map under outputs first … end - 1."""
    starts = np.arange(first, end) * window.stride[axis] - window.pad[axis]
    steps = np.arange(window.kernel[axis]) * window.dilation[axis]
    found = np.unique(starts[:, None] + steps)
    return found[(found >= 0) & (found < side)]


def rectangles(first: int, end: int, width: int) -> Iterator[tuple[Range, Range]]:
    """Outputs first … end - 1 of one image, numbered row by row, as (rows, columns)."""
    while first < end:
        row, column = divmod(first, width)
        whole = column == 0 and end - first >= width
        rows = (end - first) // width if whole else 1
        columns = (column, min(width, column + end - first))
        yield (row, row + rows), columns
        first += (columns[1] - columns[0]) * rows


def map_floats(view: View, outputs: Range, window: Window) -> int:
    """Floats of a map that lie under a run of outputs of all images, each once."""
    _, c, h, w = view.shape
    each, total = math.prod(window.grid), 0
    for image in range(outputs[0] // each, -(-outputs[1] // each)):
        first, end = (min(max(o - image * each, 0), each) for o in outputs)
        seen = np.zeros((h, w), bool)
        for (r0, r1), (c0, c1) in rectangles(first, end, window.grid[1]):
            rows = inputs_under(r0, r1, 0, window, h)
            seen[np.ix_(rows, inputs_under(c0, c1, 1, window, w))] = True
        if view.ld >= c or w == 1:
            total += int(seen.sum()) * c
        else:  # pixels overlap: the rows of an image's first convolution
            total += sum(overlapping(np.flatnonzero(row), view.ld, c) for row in seen)
    return total


def overlapping(columns: Array, ld: int, c: int) -> int:
    """Floats of runs of c that begin every ld."""
    return int(np.minimum(np.diff(columns) * ld, c).sum()) + c if columns.size else 0


# ----------------------------------------------------------------------------- steps


def algorithmic(step: Step) -> Cost:
    """Bytes that the step's kernel touches, multiply-adds that it carries out. What a chain hands
    on from member to member is scratch, and so are the rows that are moved for it."""
    counts = {"TF_CONV": _conv, "TF_WINOGRAD": _winograd, "TF_WINO_IN": _wino_in, "TF_GEMV": _gemv}
    counts["TF_MATMUL"] = _matmul
    counts |= {
        "TF_DEPTHWISE": _depthwise,
        "TF_GROUPED": _depthwise,
        "TF_MAXPOOL": _pool,
        "TF_AVGPOOL": _pool,
    }
    read, second, write, weight, scratch = counts.get(str(step.fields["op"]), _plain)(step)
    scratch += 2 * FLOAT * step.x.shape[0] * step.y.row * sum(b.moved for b in step.bands)
    if step.x.buffer.kind == "band":
        scratch, read = scratch + FLOAT * read, 0
    if step.y.buffer.kind == "band":
        scratch, write = scratch + FLOAT * write, 0
    maps = (read + second) * FLOAT
    return Cost(products(step), maps, write * FLOAT, weight * FLOAT, scratch)


def products(step: Step) -> int:
    """Multiply-adds that the kernel carries out: channels rounded up to whole vectors, strips that
    overlap, packed rows in fours, the fewer ones of Winograd. Its transforms are not among them."""
    n, _, oh, ow = step.y.shape
    f, op, padded = step.fields, step.fields["op"], _padded(step)
    if op == "TF_MATMUL":
        return n * oh * ow * step.x.shape[1] * padded
    if op == "TF_GEMV":
        return step.x.shape[1] * padded
    if op in ("TF_DEPTHWISE", "TF_GROUPED"):
        return n * oh * _across(step) * _vectored(step) * filter_size(step)
    if packs(step):
        done = chunks(step, output_blocks(step, int(f["block"])))
        return sum(chunk(step, *outputs).inputs // FLOAT for outputs in done) * padded
    if op == "TF_CONV":
        k = int(f["kh"]) * int(f["kw"]) * step.x.shape[1] // int(f["groups"])
        return n * oh * ow * padded * k
    if op == "TF_WINOGRAD":
        tile = int(f["tile"])
        count = n * -(-oh // tile) * -(-ow // tile)
        return ((tile - 1) * int(f["sh"]) + 3) ** 2 * count * step.x.shape[1] * padded
    return step.compulsory.macs


# floats of the map read, of a second operand, written, of weights; bytes of scratch
Floats = tuple[int, int, int, int, int]


def output_blocks(step: Step, size: int) -> list[Range]:
    """Runs of outputs, numbered row by row over all images, that a convolution's tasks make:
    ``size`` outputs each, or the turns of a member of a chain."""
    n, _, oh, ow = step.y.shape
    if not step.bands:
        return blocks(n * oh * ow, size)
    turns = [band for band in step.bands if band.first < band.end]
    return [((i * oh + b.first) * ow, (i * oh + b.end) * ow) for i in range(n) for b in turns]


def _outputs(step: Step) -> int:
    return math.prod(step.y.shape)


def _second(step: Step) -> int:
    """Floats of a second operand or a residual, one for every output."""
    return _outputs(step) if step.z is not None else 0


def _padded(step: Step) -> int:
    """Filters rounded up to whole vectors, group by group."""
    groups, lanes = int(step.fields["groups"]), step.isa.lanes
    return -(-(int(step.fields["oc"]) // groups) // lanes) * lanes * groups


def _vectored(step: Step) -> int:
    """Output channels rounded up to whole vectors, whatever groups there are."""
    return -(-step.y.shape[1] // step.isa.lanes) * step.isa.lanes


def _vectors(step: Step) -> int:
    """How many of bias and slope there are."""
    return ("bias" in step.params) + ("slope" in step.params)


def _stored(step: Step, weights: int) -> int:
    """Floats that so many weights take: half as many where they are fp16."""
    return -(-weights // 2) if step.has(HALF) else weights


def _zeros(step: Step) -> int:
    """Floats of the row of zeros that stands for padding."""
    padded = any(step.fields.get(name) for name in ("pt", "pl", "pb", "pr"))
    return step.x.shape[1] if padded else 0


def _conv(step: Step) -> Floats:
    """Tasks: a block of pixels by a range of panels."""
    n, _, oh, ow = step.y.shape
    f, lanes = step.fields, step.isa.lanes
    groups, taps = int(f["groups"]), int(f["kh"]) * int(f["kw"])
    k = taps * step.x.shape[1] // groups
    panels = -(-(int(f["oc"]) // groups) // (2 * lanes)) * groups
    ranges = 1 if step.bands else -(-panels // int(f["panels"]))
    pixels = output_blocks(step, int(f["block"]))
    read = sum(map_floats(step.x, block, window_of(step)) for block in pixels)
    pointers = n * oh * (_pointed(step) * taps + ow * (1 + (step.z is not None)))
    weight = _stored(step, _padded(step) * k) + _padded(step) * _vectors(step)
    weight = len(pixels) * (weight + ranges * _zeros(step))
    table = 2 * pointers * POINTER * ranges
    if packs(step):
        sizes = [chunk(step, *outputs) for outputs in chunks(step, pixels)]
        table = 2 * ranges * sum(s.table + s.jobs + s.inputs for s in sizes)
    return ranges * read, _second(step), _outputs(step), weight, table


def _pointed(step: Step) -> int:
    """Pixels of a row under whose windows a pointer a tap goes: all, or the first of each tile."""
    f, ow = step.fields, step.y.shape[3]
    whole = step.bands or int(f["block"]) % ow == 0
    if whole and even_tiles(step.isa, f, step.x.shape[1], ow):
        return -(-ow // step.isa.rows(int(f["oc"]) // int(f["groups"])))
    return ow


def _winograd(step: Step) -> Floats:
    """Tasks: a block of tiles by a range of panels. Each transforms its tiles' inputs, where that
    is not done before."""
    n, _, oh, ow = step.y.shape
    f, tile = step.fields, int(step.fields["tile"])
    apart = step.has(TRANSFORMED)
    side, c, padded = (tile - 1) * int(f["sh"]) + 3, step.x.shape[1], _padded(step)
    tiles = blocks(n * -(-oh // tile) * -(-ow // tile), int(f["block"]))
    panels = -(-int(f["oc"]) // (2 * step.isa.lanes))
    count, ranges = tiles[-1][1], -(-panels // int(f["panels"]))
    if apart:
        read = ranges * side**2 * count * c
    else:
        read = ranges * sum(map_floats(step.x, block, tile_window(step)) for block in tiles)
    zeros = 0 if apart else ranges * _zeros(step)
    weight = len(tiles) * (padded * ((tile + 2) ** 2 * c + _vectors(step)) + zeros)
    values = count * side**2 * (padded + (0 if apart else ranges * c))  # M, V
    scratch = 2 * (values * FLOAT + ranges * count * 2 * POINTER)  # and a row's two pointers
    return read, _second(step), _outputs(step), weight, scratch


def tile_window(step: Step) -> Window:
    """The inputs under a Winograd tile, as a window over the map; its grid is that of the tiles."""
    tile, stride = int(step.fields["tile"]), int(step.fields["sh"])
    side, pads = (tile - 1) * stride + 3, [int(step.fields[k]) for k in ("pt", "pl", "pb", "pr")]
    _, _, h, w = step.x.shape
    outputs = (h + pads[0] + pads[2] - 3) // stride + 1, (w + pads[1] + pads[3] - 3) // stride + 1
    grid = -(-outputs[0] // tile), -(-outputs[1] // tile)
    return Window((side, side), (tile * stride,) * 2, (1, 1), (pads[0], pads[1]), grid)


def _wino_in(step: Step) -> Floats:
    """Tasks: tiles, a pixel of the output each."""
    tiles = [r for r in share(step.y.shape[3], int(step.fields["tasks"])) if r[0] < r[1]]
    read = sum(map_floats(step.x, block, tile_window(step)) for block in tiles)
    _, c, squares, count = step.y.shape
    return read, 0, squares * count * c, len(tiles) * _zeros(step), 0


def _gemv(step: Step) -> Floats:
    """Tasks: panels; each reads the whole vector."""
    k, padded = step.x.shape[1], _padded(step)
    weight = _stored(step, padded * k) + padded * _vectors(step)
    return k * int(step.fields["tasks"]), _second(step), _outputs(step), weight, 0


def _matmul(step: Step) -> Floats:
    """Tasks: panels of the products. Each panel is packed, and passes over all rows of x."""
    n, o, stack, m = step.y.shape
    k, panels = step.x.shape[1], -(-o // (2 * step.isa.lanes))
    shares = share(n * stack * panels, int(step.fields["tasks"]))
    read = sum((b - 1) // panels - a // panels + 1 for a, b in shares if a < b) * m * k
    packed = n * stack * k * _padded(step) * FLOAT
    table = n * stack * panels * m * 2 * POINTER
    return read, n * stack * k * o, _outputs(step), 0, 2 * (packed + table)


def _depthwise(step: Step) -> Floats:
    """Tasks: rows of the output."""
    n, c, oh, ow = step.y.shape
    window = window_of(step)
    rows = [(a * ow, b * ow) for a, b in share(n * oh, int(step.fields["tasks"])) if a < b]
    rows = output_blocks(step, 0) if step.bands else rows
    read = sum(map_floats(step.x, outputs, window) for outputs in rows)
    weight = len(rows) * (c * (filter_size(step) + _vectors(step)) + _zeros(step))
    pitch = (ow - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] + 1
    table = 0 if rolls(step) else 2 * n * oh * window.kernel[0] * pitch * POINTER
    written = _vectored(step) if _strips(step) and c > step.isa.lanes else c
    return read, 0, n * oh * _across(step) * written, weight, table


def _strips(step: Step) -> bool:
    """Does a depthwise kernel make strips of outputs, in whole vectors where it has as many
    channels? The last ones of a row and of the channels may overlap."""
    return has_strips(step.y.shape[3]) and not rolls(step)


def _across(step: Step) -> int:
    """Outputs that a depthwise kernel makes in a row."""
    ow = step.y.shape[3]
    return -(-ow // STRIP) * STRIP if _strips(step) else ow


def _row_parts(step: Step) -> list[Range]:
    """Runs of rows, numbered over all images, that tasks own, or that the turns of a chain make."""
    n, _, oh, ow = step.y.shape
    if step.bands:
        return [(a // ow, b // ow) for a, b in output_blocks(step, 0)]
    return [(a, b) for a, b in share(n * oh, int(step.fields["tasks"])) if a < b]


def _pool(step: Step) -> Floats:
    """Tasks: rows of the output, or ranges of channels of every row."""
    n, _, oh, ow = step.y.shape
    by_rows = step.bands or n * oh >= int(step.fields["tasks"])
    rows = _row_parts(step) if by_rows else [(0, n * oh)]
    read = sum(map_floats(step.x, (a * ow, b * ow), window_of(step)) for a, b in rows)
    return read, 0, _outputs(step), 0, 0


def _plain(step: Step) -> Floats:
    """Each input that is used once, each output once; parameters once a task."""
    c, rows = step.y.shape[1], _row_parts(step)
    read = math.prod(step.x.shape)
    op = step.fields["op"]
    if op == "TF_SHUFFLE":
        return _outputs(step), 0, _outputs(step), 0, 0
    if op in ("TF_NEAREST", "TF_BILINEAR"):
        return _resized(step, rows), 0, _outputs(step), 0, 0
    vectors = ("w" in step.params) + _vectors(step)
    return read, _beside(step, rows), _outputs(step), len(rows) * vectors * c, 0


def _beside(step: Step, rows: Iterable[Range]) -> int:
    """Floats of a second operand that tasks of so many rows read; what is repeated counts once a
    row, or, where rows are repeated, too (a gate), once for each image that a task sees."""
    if step.z is None:
        return 0
    _, c, oh, ow = step.y.shape
    pixels = 1 if step.z.ld == 0 else ow
    seen = sum(b - a if step.z.row else (b - 1) // oh - a // oh + 1 for a, b in rows)
    return seen * pixels * (1 if step.has(SPREAD) else c)


def _resized(step: Step, rows: Iterable[Range]) -> int:
    """Floats that nearest or bilinear resizing looks at; rows: of each task."""
    _, c, h, w = step.x.shape
    _, _, oh, ow = step.y.shape
    down, right = (float(np.float32(step.fields[name])) for name in ("alpha", "beta"))
    mode = "nearest" if step.fields["op"] == "TF_NEAREST" else step.kernel
    columns = _sources(mode, np.arange(ow), w, right).size
    total = 0
    for a, b in rows:
        for image in range(a // oh, (b - 1) // oh + 1):
            first, end = max(a - image * oh, 0), min(b - image * oh, oh)
            total += _sources(mode, np.arange(first, end), h, down).size * columns * c
    return total


def _sources(mode: str, outputs: Array, side: int, step: float) -> Array:
    """Input rows or columns that outputs are made of (csrc/move.h)."""
    at = positions(mode, outputs, side, step).astype(int)
    beside = at if mode == "nearest" else np.minimum(at + 1, side - 1)
    return np.unique(np.concatenate([at, beside]))
