"""Weights in the order in which the micro-kernel reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import numpy as np

from tinyface.ops.spec import Array
from tinyface.plan.model import ALIGN


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def panels(matrix: Array, lanes: int) -> Array:
    """(k, o) -> the elements of ceil(o / 2 lanes) panels, one behind the other.

    A panel holds all k rows of 2 lanes columns; the last has 1 lane's width where that is
    enough. Columns that do not exist are zeros.
    """
    k, o = matrix.shape
    wide = 2 * lanes
    whole = o // wide * wide
    parts = [matrix[:, :whole].reshape(k, -1, wide).swapaxes(0, 1).ravel()]
    if whole < o:
        rest = np.zeros((k, round_up(o - whole, lanes)), matrix.dtype)
        rest[:, : o - whole] = matrix[:, whole:]
        parts.append(rest.ravel())
    return np.concatenate(parts)


def conv_panels(weight: Array, groups: int, lanes: int) -> Array:
    """(o, c/groups, kh, kw) -> the panels of all groups; rows in the order ky, kx, c."""
    o = weight.shape[0] // groups
    rows = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
    return np.concatenate([panels(rows[:, g * o : (g + 1) * o], lanes) for g in range(groups)])


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


def winograd_panels(weight: Array, lanes: int, tile: int, stride: int) -> Array:
    """(o, c, 3, 3) -> panels of U = G w G^T in float64: (tile + 2)^2 matrices (c, 2 lanes) each."""
    g = winograd_filter(tile, stride)
    u = np.einsum("ik,ockl,jl->ijco", g, weight.astype(np.float64), g)
    o, c = weight.shape[:2]
    u = u.reshape(len(g) ** 2, c, o).astype(np.float32)
    wide = 2 * lanes
    parts = [panels(m, lanes) for first in range(0, o, wide) for m in u[:, :, first : first + wide]]
    return np.concatenate(parts)


def padded_vector(vector: Array, groups: int, lanes: int) -> Array:
    """(o,) -> each group's values followed by zeros up to whole vectors."""
    per_group = vector.shape[0] // groups
    out = np.zeros((groups, round_up(per_group, lanes)), np.float32)
    out[:, :per_group] = vector.reshape(groups, per_group)
    return out.ravel()


def as_floats(array: Array) -> Array:
    """Any array as a vector of float32; the bits of an fp16 one, with 0 behind an odd end."""
    if array.dtype == np.float16:
        even = np.zeros(round_up(array.size, 2), np.float16)
        even[: array.size] = array.ravel()
        return even.view(np.float32)
    return np.ascontiguousarray(array, np.float32).ravel()


class Packer:
    """Collects packed arrays and hands out their offsets (in floats, on cache lines).

    Arrays of fp16 are kept as they are, two elements in the place of a float; all others become
    float32.
    What was packed under a key before is not packed again, so one packer can serve the plans
    of a network for many input shapes.
    """

    def __init__(self) -> None:
        self._offsets: dict[Hashable, int] = {}
        self._parts: list[Array] = []
        self._size = 0
        self._zeros = ALIGN
        self._whole: Array | None = None

    def add(self, key: Hashable, make: Callable[[], Array]) -> int:
        """Offset of the array that ``make()`` returns; ``key`` must tell it from all others."""
        if key not in self._offsets:
            flat = as_floats(make())
            gap = round_up(flat.size, ALIGN) - flat.size
            self._offsets[key] = self._size
            self._parts += [flat, np.zeros(gap, np.float32)]
            self._size += flat.size + gap
            self._whole = None
        return self._offsets[key]

    def need_zeros(self, count: int) -> None:
        """Some step pads with ``count`` zeros."""
        if count > self._zeros:
            self._zeros, self._whole = round_up(count, ALIGN), None

    @property
    def zeros(self) -> int:
        """Offset of the zeros, known when everything has been added: they come last."""
        return self._size

    def finish(self) -> Array:
        """All parts and the zeros in one array, on a cache line."""
        if self._whole is None:
            total = self._size + self._zeros
            raw = np.zeros(total + ALIGN, np.float32)
            skip = -(raw.ctypes.data // 4) % ALIGN
            self._whole = raw[skip : skip + total]
            packed = self._whole[: self._size]
            if self._parts:
                np.concatenate(self._parts, out=packed)
            self._parts = [packed]  # a view: the weights are kept once
        return self._whole
