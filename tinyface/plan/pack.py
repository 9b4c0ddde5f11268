"""Weights in the order in which the micro-kernel reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import numpy as np

from tinyface.ops.spec import Array
from tinyface.plan.model import ALIGN, FLOAT

FIRST = 4 << 20  # floats set aside at first; what is never written takes no memory
TINY = np.finfo(np.float32).tiny  # the least normal number
Pieces = list[Array]  # one behind the other, each in row-major order; views where that is possible


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def panels(matrix: Array, lanes: int) -> Pieces:
    """(…, o) -> the elements of ceil(o / 2 lanes) panels, one behind the other.

    A panel holds all rows of 2 lanes columns; the last has 1 lane's width where that is enough.
    Columns that do not exist are zeros.
    """
    *rows, o = matrix.shape
    wide = 2 * lanes
    whole = o // wide * wide
    parts = [np.moveaxis(matrix[..., :whole].reshape(*rows, -1, wide), -2, 0)]
    if whole < o:
        rest = np.zeros((*rows, round_up(o - whole, lanes)), matrix.dtype)
        rest[..., : o - whole] = matrix[..., whole:]
        parts.append(rest)
    return parts


def conv_panels(weight: Array, groups: int, lanes: int) -> Pieces:
    """(o, c/groups, kh, kw) -> the panels of all groups; rows in the order ky, kx, c."""
    o = weight.shape[0] // groups
    rows = weight.transpose(2, 3, 1, 0)
    columns = (rows[..., g * o : (g + 1) * o] for g in range(groups))
    return [piece for matrix in columns for piece in panels(matrix, lanes)]


def rivals(filters: Array, lanes: int) -> Array:
    """(o, …) -> the same in the order in which panels compare them: some of the first half, as
    many of the second, which become the larger of both."""
    paired = filters.reshape(2, -1, lanes, *filters.shape[1:])
    return np.moveaxis(paired, 0, 1).reshape(filters.shape)


def winograd_points(tile: int, stride: int) -> tuple[float, ...]:
    """Where the polynomials are evaluated, beside infinity (csrc/winograd.h)."""
    a, b = math.sqrt(0.5), math.sqrt(2)
    return {
        (4, 1): (0, a, -a, b, -b), (2, 1): (0, 1, -1), (4, 2): (0, a, -a, 1.5), (2, 2): (0, 1),
    }[tile, stride]  # fmt: skip


def winograd_filter(tile: int, stride: int) -> Array:
    """G, (tile + 2, 3): what a filter of three taps becomes in one dimension.

    A row for every point p: (1, p, p^2) over the product of its distances to the other points;
    infinity has the last tap alone. With stride 2 the outer two taps are such a filter, for the
    even samples; the middle tap, for the odd ones, is the last row.
    """
    points = winograd_points(tile, stride)
    taps = 3 if stride == 1 else 2
    rows = [
        [p**k / math.prod(p - q for q in points if q != p) for k in range(taps)] for p in points
    ]
    g = np.array([*rows, [0.0] * (taps - 1) + [1.0]])
    if stride == 1:
        return g
    middle = np.zeros(len(g))
    return np.vstack([np.stack([g[:, 0], middle, g[:, 1]], 1), [0.0, 1.0, 0.0]])


def winograd_panels(weight: Array, lanes: int, tile: int, stride: int) -> Pieces:
    """(o, c, 3, 3) -> panels of U = G w G^T in float64: (tile + 2)^2 matrices (c, 2 lanes) each."""
    g = winograd_filter(tile, stride)
    pieces: Pieces = []
    for first in range(0, weight.shape[0], 2 * lanes):
        part = weight[first : first + 2 * lanes].astype(np.float64)
        u = np.einsum("ik,ockl,jl->ijco", g, part, g).astype(np.float32)
        pieces += [piece for row in u for matrix in row for piece in panels(matrix, lanes)]
    return pieces


def padded_vector(vector: Array, groups: int, lanes: int) -> Array:
    """(o,) -> each group's values followed by zeros up to whole vectors."""
    per_group = vector.shape[0] // groups
    out = np.zeros((groups, round_up(per_group, lanes)), np.float32)
    out[:, :per_group] = vector.reshape(groups, per_group)
    return out.ravel()


class Packer:
    """Collects packed arrays and hands out their offsets (in floats, on cache lines).

    Arrays of fp16 are kept as they are, two elements in the place of a float; all others become
    float32, and 0 where they are below its least normal number: channels that died in training
    are full of such weights, and x86 cores take a hundred cycles for each product with one.
    What was packed under a key before is not packed again, so one packer can serve the plans
    of a network for many input shapes. Everything is packed into its place in one array, which
    doubles when it is full, so that the weights are in memory once.
    """

    def __init__(self) -> None:
        self._offsets: dict[Hashable, int] = {}
        self._whole = aligned(FIRST)
        self._size = 0
        self._zeros, self._need = (0, 0), ALIGN  # (offset, how many there are), how many it takes

    def add(self, key: Hashable, make: Callable[[], Array | Pieces], *, exact: bool = False) -> int:
        """Offset of what ``make()`` returns; ``key`` must tell it from everything else. exact:
        numbers below ``TINY`` stay, too."""
        if key not in self._offsets:
            made = make()
            self._offsets[key] = self._append(made if isinstance(made, list) else [made], exact)
        return self._offsets[key]

    def _append(self, pieces: Pieces, exact: bool = False) -> int:
        half = pieces[0].dtype == np.float16
        dtype, each = (np.float16, 2) if half else (np.float32, 1)
        offset = self._size
        floats = -(-sum(piece.size for piece in pieces) // each)
        place = self._grow(floats).view(dtype)
        for piece in pieces:
            packed = place[: piece.size].reshape(piece.shape)
            packed[...] = piece
            if not half and not exact:
                packed[np.abs(packed) < TINY] = 0
            place = place[piece.size :]
        place[:] = 0
        return offset

    def _grow(self, floats: int) -> Array:
        """Room for so many more, up to a whole cache line."""
        offset, end = self._size, self._size + round_up(floats, ALIGN)
        if end > self._whole.size:
            larger = aligned(max(end, 2 * self._whole.size))
            larger[:offset] = self._whole[:offset]
            self._whole = larger  # plans made before keep the old one
        self._size = end  # last: there may be no memory, or Ctrl-C come
        return self._whole[offset:end]

    def need_zeros(self, count: int) -> None:
        """Some step pads with ``count`` zeros."""
        self._need = max(self._need, count)

    @property
    def zeros(self) -> int:
        """Offset of the zeros, known after :meth:`finish`."""
        return self._zeros[0]

    def finish(self) -> Array:
        """All parts and the zeros in one array, on a cache line."""
        if self._zeros[1] < self._need:
            self._zeros = (self._append([np.zeros(self._need, np.float32)]), self._need)
        return self._whole[: self._size]


def aligned(size: int) -> Array:
    """So many floats, uninitialised, on a cache line."""
    raw = np.empty(size + ALIGN, np.float32)
    skip = -(raw.ctypes.data // FLOAT) % ALIGN
    return raw[skip : skip + size]
