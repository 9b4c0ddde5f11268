"""What flows through a graph (:class:`TensorType`) and what it costs (:class:`Cost`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tinyface import limits
from tinyface.errors import GraphError

Shape = tuple[int, ...]

ITEMSIZE = {"float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type of a tensor.

    Feature maps are NCHW: ``shape == (n, c, h, w)``; embeddings are ``(n, d)``.

    Raises:
        GraphError: rank above ``limits.MAX_RANK``, a dimension that is not 1…``MAX_DIM``,
            more bytes than ``MAX_TENSOR_BYTES``, or an unknown dtype.
    """

    shape: Shape
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in ITEMSIZE:
            raise GraphError(f"element type {self.dtype!r} is not one of {', '.join(ITEMSIZE)}")
        if len(self.shape) > limits.MAX_RANK:
            raise GraphError(f"shape {self.shape} has more than {limits.MAX_RANK} dimensions")
        for side in self.shape:
            if isinstance(side, bool) or not isinstance(side, int):
                raise GraphError(f"shape {self.shape} holds {side!r}, which is not an integer")
            if not 1 <= side <= limits.MAX_DIM:
                raise GraphError(
                    f"shape {self.shape} has a side of {side}: allowed are 1 to {limits.MAX_DIM}"
                )
        if self.nbytes > limits.MAX_TENSOR_BYTES:
            raise GraphError(
                f"a tensor of shape {self.shape} would take {self.nbytes} bytes: "
                f"at most {limits.MAX_TENSOR_BYTES} are allowed"
            )

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        sides = "x".join(map(str, self.shape)) or "scalar"
        return sides if self.dtype == "float32" else f"{sides} {self.dtype}"


@dataclass(frozen=True, slots=True)
class Cost:
    """Static cost of an operator or of a whole graph.

    The bytes are *compulsory*: every operand once. Feature maps read, feature maps written
    and weights are kept apart, because they come from different places (cache or memory).
    ``scratch`` is what an algorithm writes and reads on top (im2col columns, Winograd tiles);
    it is 0 in the compulsory count.

    macs: multiply-accumulates (FLOPs = 2 x MACs); the rest: bytes.
    """

    macs: int = 0
    feature_read: int = 0
    feature_write: int = 0
    weight: int = 0
    scratch: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.feature_read + other.feature_read,
            self.feature_write + other.feature_write,
            self.weight + other.weight,
            self.scratch + other.scratch,
        )

    @property
    def bytes(self) -> int:
        """All traffic together."""
        return self.feature_read + self.feature_write + self.weight + self.scratch

    def byte_counts(self) -> dict[str, int]:
        """The four byte counts under the names that JSON and CSV output uses."""
        return {
            "feature_read_bytes": self.feature_read,
            "feature_write_bytes": self.feature_write,
            "weight_bytes": self.weight,
            "scratch_bytes": self.scratch,
        }

    @staticmethod
    def total(costs: Iterable[Cost]) -> Cost:
        return sum(costs, Cost())
