"""Sizes that an ncnn layer computes of its blobs: "0w,*(0h,0c)", the width of the first, and so on.

Names of axes are ncnn's: w is the last one, h the one before, c the first of three or four.
Source of the notation: Tencent/ncnn, docs/developer-guide/expression.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final

from tinyface.types import Shape

_TOKEN: Final = re.compile(
    r"(-?\d+(?:\.\d+)?)(?![whdcn])|(\d+)([whdcn])|([a-z]+|//|[-+*/%])|([(),])"
)


def _round(value: float) -> float:
    """Halves away from zero, as C has it."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


_DEEPEST: Final = 16
_LONGEST: Final = 400  # characters
_FUNCTIONS: Final[dict[str, tuple[int, Callable[..., float]]]] = {
    "+": (2, lambda a, b: a + b), "-": (2, lambda a, b: a - b), "*": (2, lambda a, b: a * b),
    "/": (2, lambda a, b: a / b), "//": (2, lambda a, b: a // b), "%": (2, lambda a, b: a % b),
    "max": (2, max), "min": (2, min), "abs": (1, abs), "neg": (1, lambda a: -a),
    "ceil": (1, math.ceil), "floor": (1, math.floor), "trunc": (1, math.trunc),
    "round": (1, _round),
}  # fmt: skip


def side(shape: Shape, axis: str) -> int:
    """(n, ...) as ncnn names its axes; 1 for one that there is not."""
    own = shape[1:]
    if axis == "n":
        return shape[0]
    back = {"w": 1, "h": 2, "d": 3, "c": len(own) if len(own) > 2 else len(own) + 1}[axis]
    missing = back > len(own) or (axis == "d" and len(own) < 4)
    return 1 if missing else own[-back]


def evaluate(text: str, shapes: Sequence[Shape]) -> list[int]:
    """The numbers that the expressions of ``text`` have for blobs of these ``shapes``.

    Raises:
        ValueError: no list of expressions, or a blob that is not there.
    """
    tokens = list(_TOKEN.finditer(text))
    if len(text) > _LONGEST or "".join(t.group() for t in tokens) != text:
        raise ValueError(f"the sizes {text[:80]!r} cannot be read")
    tokens.reverse()

    def expect(sign: str) -> None:
        if not tokens or tokens.pop().group() != sign:
            raise ValueError(f"the sizes {text[:80]!r} end early, or lack a {sign!r}")

    def value(depth: int) -> float:
        if not tokens or depth > _DEEPEST:
            raise ValueError(f"the sizes {text[:80]!r} end early, or go too deep")
        number, blob, axis, name, _ = tokens.pop().groups()
        if number:
            return float(number)
        if blob:
            return side(shapes[int(blob)], axis)
        if name not in _FUNCTIONS:
            raise ValueError(f"{name!r} in the sizes {text[:80]!r} is not known here")
        count, function = _FUNCTIONS[name]
        given = []
        for i in range(count):
            expect("," if i else "(")
            given.append(value(depth + 1))
        expect(")")
        return float(function(*given))

    result = [int(value(0))]
    while tokens:
        expect(",")
        result.append(int(value(0)))
    return result
