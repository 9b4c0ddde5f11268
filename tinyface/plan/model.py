"""The plan as data."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tinyface.once import once
from tinyface.ops.spec import Array
from tinyface.types import Cost, Shape

FLOAT = 4  # bytes
POINTER = struct.calcsize("P")  # of row tables: a plan runs on the machine that makes it
ALIGN = 16  # floats: buffers begin on a cache line of 64 bytes
# flags of a step, TF_RESIDUAL and so on in csrc/tinyface.h
RESIDUAL, HALF, COUNT_PAD, TRANSFORMED, CORNERS, ACROSS, SPREAD = 1, 4, 8, 16, 32, 64, 128
MIRRORED, RIVALS = 256, 2

Cell = tuple[int, int]  # row, column


@dataclass(frozen=True)
class Isa:
    """What packing must know of an instruction set.

    lanes: floats per vector; panels of weights are 2 lanes wide, the last one perhaps 1.
    rows_wide, rows_slim: pixels per tile for panels of two vectors and of one; rows_pack: of a tile
    of packed inputs (csrc/packed.h), 0 where the instruction set does without.
    """

    name: str
    lanes: int
    rows_wide: int
    rows_slim: int
    rows_pack: int = 0

    @property
    def board(self) -> bool:
        """Is it one of small computers, whose cores share one cache and little memory traffic?"""
        return self.name == "neon"

    def rows(self, outputs: int) -> int:
        """Pixels of a tile, of inputs that are not packed, where a group has so many outputs."""
        return self.rows_wide if outputs > self.lanes else self.rows_slim


@dataclass(eq=False)
class Buffer:
    """A run of floats: part of the arena, or one of the caller's arrays.

    kind: "arena", "input", "output", "weights": an operand that is a constant, or "band": rows
    handed on within a chain, in scratch; name: of the tensor it was made for.
    size, offset: floats; offset is its place in the arena, set by the planner.
    """

    kind: str
    name: str
    size: int
    offset: int = -1
    shared: bool = False  # other tensors live in parts of it (concatenation)

    @property
    def nbytes(self) -> int:
        return self.size * FLOAT


@dataclass(frozen=True)
class Shuffle:
    """Channels as a shuffle of ``groups`` groups of ``each`` orders them, from ``first`` on:
    channel k is float ``i each + j`` of the pixel, where ``first + k = j groups + i``."""

    groups: int
    each: int
    first: int = 0


@dataclass(frozen=True)
class View:
    """Where a tensor lies. All strides in floats; the innermost sides are contiguous.

    A *map* holds the logical shape (n, c, h, w) channels-last: element (i, c, y, x) is at
    ``offset + i img + y row + x ld + c``. A *flat* tensor (n, d1, …) is row-major within each of
    its n parts, which are ``img`` apart. ``planar``, if set, is the (c, h, w) of a map that was
    flattened to (n, c h w) without moving anything: its floats still stand in (h, w, c) order.
    ``shuffled``, if set, says that nothing was moved for a channel shuffle, either.
    """

    buffer: Buffer
    shape: Shape
    offset: int
    img: int
    row: int = 0
    ld: int = 0
    planar: tuple[int, int, int] | None = None
    shuffled: Shuffle | None = None

    @property
    def is_map(self) -> bool:
        return self.ld > 0

    @property
    def dense(self) -> bool:
        """Is each image one run of floats without gaps?"""
        if not self.is_map:
            return True
        _, c, h, w = self.shape
        return (self.ld == c or h * w == 1) and (self.row == w * self.ld or h == 1)

    @property
    def tall(self) -> View:
        """A map whose pixels follow each other, with those of a row as one of more channels. For
        what goes down the columns alone: whole vectors in place of narrow pixels."""
        n, c, h, w = self.shape
        return View(self.buffer, (n, c * w, h, 1), self.offset, self.img, self.row, c * w)

    def part(self, shape: Shape, at: int, cell: Cell = (0, 0), block: Cell = (1, 1)) -> View:
        """A map among the pixels of this one: from ``cell`` on, every ``block``-th row and column;
        at: the float that the part would begin with in the first cell."""
        at += cell[0] * self.row + cell[1] * self.ld
        return View(self.buffer, shape, at, self.img, self.row * block[0], self.ld * block[1])


@dataclass(frozen=True)
class Band:
    """What a member of a chain does in one turn: output rows first … end - 1.

    base: the output row at the front of its buffer of rows; moved: how many rows that are kept were
    moved there before, from ``shift`` rows behind.
    """

    first: int
    end: int
    base: int = 0
    moved: int = 0
    shift: int = 0


Place = tuple[Buffer, int, tuple[int, ...]]
"""Buffer, first float, floats from one element to the next on every axis."""


@dataclass
class Step:
    """One C step.

    name: node (the first, where several are fused); op: its kind; kernel: what runs;
    reason: why that kernel. compulsory: every operand once.
    fields: numbers of ``tf_step``, or names of its enumerations; x, y, z: operands; params:
    offsets of packed vectors by field name. chain: how many steps from here on run together, band
    by band of ``band`` rows of the last one's output (1: this one alone). bands: the turns of a
    member in one thread.
    """

    name: str
    op: str
    kernel: str
    isa: Isa
    output_shape: Shape
    fields: dict[str, int | float | str]
    x: View
    y: View
    z: View | None = None
    params: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    compulsory: Cost = Cost()
    chain: int = 1
    band: int = 0
    bands: tuple[Band, ...] = ()

    def has(self, flag: int) -> bool:
        return bool(int(self.fields.get("flags", 0)) & flag)

    @once
    def algorithmic(self) -> Cost:
        """What the kernel really touches (touched.py)."""
        from tinyface.plan.touched import algorithmic

        return algorithmic(self)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        views = (self.x, self.y) if self.z is None else (self.x, self.y, self.z)
        return tuple(view.buffer for view in views)

    def move(self, old: Buffer, new: Buffer) -> None:
        """Let the operands in one buffer lie in another."""
        for key in ("x", "y", "z"):
            view = getattr(self, key)
            if view is not None and view.buffer is old:
                setattr(self, key, replace(view, buffer=new))


@dataclass(frozen=True)
class Plan:
    """Everything the C engine needs to run one graph at one set of input shapes.

    arena_bytes: of the arena; lower_bound: the largest sum of buffers alive at one step, which
    no placement can undercut. weights: packed parameters (float32; fp16 ones lie in pairs).
    inputs, outputs: shapes by name, in the order in which the engine numbers them.
    """

    isa: Isa
    steps: tuple[Step, ...]
    weights: Array
    buffers: tuple[Buffer, ...]
    arena_bytes: int
    lower_bound: int
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
