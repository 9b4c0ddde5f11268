"""A case of an operator: its attributes and inputs, and how inputs are drawn.

Sizes are small and odd on purpose (tails of vectors, windows that hang over the end, one channel,
one row).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tinyface.ops import Op
from tinyface.ops.spec import Array, Types
from tinyface.types import TensorType

Draw = Callable[[st.SearchStrategy[Any]], Any]
SETTINGS = settings(
    max_examples=int(os.environ.get("TINYFACE_EXAMPLES", "40")),  # more for a long search
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Case:
    """An operator and float64 inputs for it; None stands for an absent one."""

    op: Op
    inputs: tuple[Array | None, ...]

    def arrays(self, dtype: str) -> tuple[Array | None, ...]:
        """The inputs, rounded to ``dtype``, read-only: no kernel may write to its operands."""
        arrays = tuple(None if a is None else a.astype(dtype) for a in self.inputs)
        for a in arrays:
            if a is not None:
                a.flags.writeable = False
        return arrays

    def types(self, dtype: str) -> tuple[TensorType | None, ...]:
        return tuple(None if a is None else TensorType(a.shape, dtype) for a in self.inputs)

    def infer(self, dtype: str = "float32") -> Types:
        return self.op.infer(*self.types(dtype))

    def __repr__(self) -> str:
        shapes = ["-" if a is None else "x".join(map(str, a.shape)) for a in self.inputs]
        return f"{self.op} on {', '.join(shapes)}"


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(integers(low, high), integers(low, high))


def values(draw: Draw, shape: tuple[int, ...], low: float | None = None) -> Array:
    """Numbers of one sign or both, of mixed magnitude, with zeros and repeated values.

    Every one is a float32, so that float32 and float64 runs see the same inputs.
    """
    rng = np.random.default_rng(draw(integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 0.5, 2.0]))
    x = np.array(rng.standard_normal(shape) * 10.0 ** rng.uniform(-spread, spread, shape))
    x[rng.random(shape) < 0.1] = 0.0
    x[rng.random(shape) < 0.1] = 1.5
    if low is not None:
        x = np.abs(x) + low
    return np.asarray(x, np.float32).astype(np.float64)


def maps(draw: Draw, channels: int | None = None, side: int = 9) -> Array:
    """A feature map (n, c, h, w)."""
    c = draw(integers(1, 6)) if channels is None else channels
    h, w = draw(pairs(1, side))
    return values(draw, (draw(integers(1, 2)), c, h, w))


def any_rank(draw: Draw, low: int = 1, high: int = 5) -> Array:
    return values(draw, tuple(draw(st.lists(integers(1, 4), min_size=low, max_size=high))))


def axis_of(draw: Draw, x: Array) -> int:
    """An axis of x, counted from the front or from the back."""
    return draw(integers(-x.ndim, x.ndim - 1))
