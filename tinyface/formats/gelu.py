"""GELU by tanh, of operators that the engines have."""

from __future__ import annotations

import math
from collections.abc import Callable

from tinyface.ops import Add, Mul, Sigmoid

SLOPE = 2 * math.sqrt(2 / math.pi)


def gelu_by_tanh(x: str, apply: Callable[..., str], constant: Callable[[str, float], str]) -> str:
    """x (1 + tanh z) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3); as tanh z = 2 sigmoid(2 z) - 1,
    that is x sigmoid(2 z): fewer operators, and no difference of near numbers where x < 0.

    apply: (operator, *inputs, part) -> tensor, where part "" makes the result; constant: (part,
    value) -> name.
    """
    square = apply(Mul(), x, x, part="square")
    bent = apply(Mul(), square, constant("cubic", SLOPE * 0.044715), part="bent")
    steep = apply(Add(), bent, constant("linear", SLOPE), part="steep")
    gate = apply(Sigmoid(), apply(Mul(), x, steep, part="twice"), part="gate")
    return apply(Mul(), x, gate, part="")
