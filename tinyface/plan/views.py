"""Ways to see floats as tensors and as maps: nothing is moved."""

from __future__ import annotations

import math
from dataclasses import replace

from tinyface.plan.model import Buffer, View
from tinyface.types import Shape

LONG = 64  # floats of a run that is a pixel by itself


def whole(buffer: Buffer, shape: Shape) -> View:
    """A row-major tensor from the start of its buffer."""
    return View(buffer, shape, 0, math.prod(shape[1:]))


def whole_map(buffer: Buffer, shape: Shape) -> View:
    """A map, (n, c, h, w) or (n, c), from the start of its buffer."""
    n, c, h, w = shape if len(shape) == 4 else (*shape, 1, 1)
    return View(buffer, (n, c, h, w), 0, c * h * w, w * c, c)


def fresh_map(name: str, shape: Shape) -> View:
    """A map in a buffer of its own."""
    return whole_map(Buffer("arena", name, math.prod(shape)), shape)


def one_pixel(view: View) -> View:
    """A row-major tensor as a map of one pixel."""
    n, size = view.shape[0], math.prod(view.shape[1:])
    return View(view.buffer, (n, size, 1, 1), view.offset, view.img, size, size)


# -- threads share the rows of a map, so what has none gets some


def runs(view: View) -> View:
    """A row-major tensor as a map of one column, each pixel a run of :func:`run_length` floats."""
    n, *sides = view.shape
    c = run_length(view.shape)
    return View(view.buffer, (n, c, math.prod(sides) // c, 1), view.offset, view.img, c, c)


def run_length(shape: Shape) -> int:
    """Floats of the last axes of a tensor, of as many as make LONG, so that vectors are full."""
    c = 1
    for side in reversed(shape[1:]):
        if c >= LONG:
            break
        c *= side
    return c


def innermost(view: View, shape: Shape) -> View:
    """A row-major tensor as a map whose channels are its last axis, its rows as long as possible:
    they are the pixels of a product, and short ones share a vector."""
    n, c, pixels = shape[0], shape[-1], math.prod(shape[1:-1])
    high = next(k for k in (64, 16, 4, 1) if pixels % k == 0)
    width = pixels // high
    return View(view.buffer, (n, c, high, width), view.offset, view.img, width * c, c)


def as_column(view: View, lanes: int) -> View:
    """A map of one row as one of one column. Pixels of less than a vector stay side by side, where
    one vector takes several."""
    n, c, h, w = view.shape
    return replace(view, shape=(n, c, w, 1), row=view.ld) if h == 1 and c >= lanes else view


def pixels_of_rows(view: View) -> View:
    """A matrix as a map of one picture, whose pixels are the rows."""
    n, c, h, w = view.shape
    if n == 1 or h * w > 1:
        return view
    size = n * view.img
    return replace(view, shape=(1, c, 1, n), img=size, row=size, ld=view.img)
