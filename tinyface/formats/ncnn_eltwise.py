"""ncnn layers element by element, and along axes: ``make_TYPE(converter, layer, tensors)``.

The numbers are ncnn's parameter ids, as its operation-param-weight-table.md lists them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tinyface.formats.ncnn_file import Layer
from tinyface.formats.ncnn_layers import aligned, axis_of, hard_swish
from tinyface.ops import (
    GELU,
    Add,
    Clip,
    Div,
    Erf,
    Exp,
    HardSigmoid,
    LeakyReLU,
    Log,
    Maximum,
    Mul,
    Op,
    Reduce,
    ReLU,
    Reshape,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Split,
    Sqrt,
    Sub,
    Tanh,
)

if TYPE_CHECKING:
    from tinyface.formats.ncnn import Converter, Make

# -- two blobs into one

_BINARY: Final[dict[int, tuple[type[Op], bool]]] = {  # op_type -> operator, operands swapped
    0: (Add, False), 1: (Sub, False), 2: (Mul, False), 3: (Div, False), 4: (Maximum, False),
    7: (Sub, True), 8: (Div, True),
}  # fmt: skip
_MINIMUM, _POWER, _POWER_OF = 5, 6, 9


def make_BinaryOp(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """With another blob, or with a number."""
    layer.known(0, 1, 2)
    kind, number = layer.whole(0, 0), layer.real(2, 0.0)
    if layer.whole(1, 0):
        if kind == _POWER:
            return [c.formulas(layer).power(x[0], number)]
        if kind == _POWER_OF:
            return [_power_of(c, layer, x[0], number)]
        x = [x[0], c.constant(layer, "b", number)]
    else:
        x = aligned(c, layer, x)
    if kind == _MINIMUM:
        return [c.formulas(layer).smallest(x)]
    op, swapped = _BINARY.get(kind, (Op, False))
    if op is Op:
        raise layer.refuse(f"its operation {kind} is not known here")
    return [c.apply(op(), *(x[::-1] if swapped else x), layer=layer)]


def _power_of(c: Converter, layer: Layer, x: str, base: float) -> str:
    """base^x = exp(x log base)."""
    if not base > 0:
        raise layer.refuse(f"powers of {base:g}; known are those of numbers above 0")
    return c.apply(Exp(), c.formulas(layer).times(x, math.log(base), "log"), layer=layer)


def make_Eltwise(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    op = {0: Mul, 1: Add, 2: Maximum}.get(layer.whole(0, 0))
    factors = layer.arrays.get(1, ()) if op is Add else ()
    if op is None or len(factors) not in (0, len(x)) or len(x) < 2:
        raise layer.refuse("its operation or its coefficients are not known here")
    write = c.formulas(layer)
    x = [
        tensor if float(factor) == 1 else write.times(tensor, float(factor), f"x{i}")
        for i, (tensor, factor) in enumerate(zip(x, factors or (1,) * len(x), strict=True))
    ]
    return [write.chain(op(), x)]


# -- formulas of one blob

_UNARY: Final[dict[int, type[Op]]] = {5: Sqrt, 7: Exp, 8: Log, 16: Tanh}


def make_UnaryOp(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    kind, write = layer.whole(0, 0), c.formulas(layer)
    if kind in _UNARY:
        return [c.apply(_UNARY[kind](), x[0], layer=layer)]
    if kind == 0:
        return [write.magnitude(x[0])]
    if kind == 1:
        return [write.times(x[0], -1)]
    if kind == 17:
        return [write.times(c.apply(Log(), x[0], layer=layer, part="log"), 1 / math.log(10))]
    exponent = {4: 2.0, 6: -0.5, 15: -1.0}.get(kind)
    if exponent is None:
        raise layer.refuse(
            f"its operation {kind} is not known here; 0, 1, 4 to 8, 15, 16 and 17 are: abs, minus, "
            "square, sqrt, rsqrt, exp, log, 1/x, tanh, log10"
        )
    return [write.power(x[0], exponent)]


def make_AbsVal(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known()
    return [c.formulas(layer).magnitude(x[0])]


def _line(c: Converter, layer: Layer, x: str) -> str:
    """scale x + shift."""
    scale, shift = layer.real(1, 1.0), layer.real(2, 0.0)
    if scale != 1:
        x = c.formulas(layer).times(x, scale, "scaled")
    if shift:
        x = c.apply(Add(), x, c.constant(layer, "shift", shift), layer=layer, part="shifted")
    return x


def make_Exp(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """base^(scale x + shift)."""
    layer.known(0, 1, 2)
    base, line = layer.real(0, -1.0), _line(c, layer, x[0])
    return [c.apply(Exp(), line, layer=layer) if base == -1 else _power_of(c, layer, line, base)]


def make_Log(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """The logarithm of scale x + shift to a base."""
    layer.known(0, 1, 2)
    base, line = layer.real(0, -1.0), _line(c, layer, x[0])
    if base == -1:
        return [c.apply(Log(), line, layer=layer)]
    if base <= 0 or base == 1:
        raise layer.refuse(f"a logarithm to the base {base:g}")
    log = c.apply(Log(), line, layer=layer, part="log")
    return [c.formulas(layer).times(log, 1 / math.log(base))]


def make_Power(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """(scale x + shift)^power."""
    layer.known(0, 1, 2)
    power, line = layer.real(0, 1.0), _line(c, layer, x[0])
    return [line if power == 1 else c.formulas(layer).power(line, power)]


# -- activations


def make_ReLU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    slope = layer.real(0, 0.0)
    return [c.apply(LeakyReLU(alpha=slope) if slope else ReLU(), x[0], layer=layer)]


def make_Clip(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    low, high = layer.real(0, -3.4028234e38), layer.real(1, 3.4028234e38)
    return [c.apply(Clip(low=low, high=high), x[0], layer=layer)]


def _plain(op: type[Op]) -> Make:
    """A layer without parameters."""

    def make(c: Converter, layer: Layer, x: list[str]) -> list[str]:
        layer.known()
        return [c.apply(op(), x[0], layer=layer)]

    return make


make_Sigmoid, make_Swish, make_TanH = _plain(Sigmoid), _plain(SiLU), _plain(Tanh)
make_Erf, make_Softplus, make_BNLL = _plain(Erf), _plain(Softplus), _plain(Softplus)


def make_GELU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """As it is defined, or by tanh (parameter 0)."""
    layer.known(0)
    return [c.apply(GELU(tanh=layer.whole(0, 0) != 0), x[0], layer=layer)]


def make_HardSigmoid(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    op = HardSigmoid(alpha=layer.real(0, 0.2), beta=layer.real(1, 0.5))
    return [c.apply(op, x[0], layer=layer)]


def make_HardSwish(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    return [hard_swish(c, layer, x[0], layer.real(0, 0.2), layer.real(1, 0.5))]


def make_Mish(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known()
    return [c.formulas(layer).mish(x[0])]


def make_ELU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    return [c.formulas(layer).bent(x[0], 1, layer.real(0, 0.1), 1)]


def make_SELU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    above = layer.real(1, 1.050700987)
    return [c.formulas(layer).bent(x[0], above, above * layer.real(0, 1.67326324), 1)]


def make_CELU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0)
    alpha = layer.real(0, 1.0)
    if not alpha > 0:
        raise layer.refuse(f"alpha {alpha:g}; only one above 0 is known here")
    return [c.formulas(layer).bent(x[0], 1, alpha, 1 / alpha)]


def make_GLU(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """One half along an axis times the sigmoid of the other."""
    layer.known(0)
    axis = axis_of(c, layer, x[0], layer.whole(0, 0))
    half = c.shape(x[0])[axis] // 2
    names = [f"{layer.name}:half{i}" for i in (0, 1)]
    split = Split(axis=axis, sizes=(half, half))
    a, b = c.builder.apply_many(split, x[0], names=names)
    return [c.apply(Mul(), a, c.apply(Sigmoid(), b, layer=layer, part="gate"), layer=layer)]


# -- along axes


def make_Softmax(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    layer.known(0, 1)
    return [c.apply(Softmax(axis=axis_of(c, layer, x[0], layer.whole(0, 0))), x[0], layer=layer)]


_MODES: Final = {0: "sum", 1: "sum", 2: "sum", 3: "mean", 4: "max", 7: "sum", 8: "l2", 9: "sum"}
_LEAST, _ABSOLUTE, _SQUARES, _LOG, _LOG_EXP = 5, (1, 7), 2, 9, 10


def make_Reduction(c: Converter, layer: Layer, x: list[str]) -> list[str]:
    """Along named axes, or over all; a number of its own is a vector of length 1."""
    layer.known(0, 1, 2, 3, 4, 5)
    kept = bool(layer.whole(4, 0))
    rank, named = len(c.shape(x[0])), layer.arrays.get(3, ())
    everything = layer.whole(1, 1) or not named
    axes = tuple(range(1, rank)) if everything else tuple(
        axis_of(c, layer, x[0], int(axis)) for axis in named
    )  # fmt: skip
    vector, factor = not kept and len(axes) == rank - 1, layer.real(2, 1.0)
    y = _reduced(c, layer, x[0], axes, kept, "" if factor == 1 and not vector else "reduced")
    if factor != 1:
        y = c.formulas(layer).times(y, factor, "factor" if vector else "")
    return [c.apply(Reshape(shape=(-1, 1)), y, layer=layer) if vector else y]


def _reduced(
    c: Converter, layer: Layer, x: str, axes: tuple[int, ...], kept: bool, part: str
) -> str:
    kind, write = layer.whole(0, 0), c.formulas(layer)
    if kind == _LEAST:
        return write.smallest_along(x, axes, kept, part)
    if kind == _LOG_EXP:
        return write.log_sum_exp(x, axes, kept, part)
    if kind not in _MODES:
        raise layer.refuse(f"its operation {kind} is not known here")
    if kind in _ABSOLUTE:
        x = write.magnitude(x, "size")
    if kind == _SQUARES:
        x = c.apply(Mul(), x, x, layer=layer, part="square")
    op = Reduce(mode=_MODES[kind], axes=axes, keepdims=kept)
    y = c.apply(op, x, layer=layer, part="sum" if kind == _LOG else part)
    return c.apply(Log(), y, layer=layer, part=part) if kind == _LOG else y
