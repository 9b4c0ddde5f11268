"""Activations: element-wise functions, and softmax. All keep the shape.

An activation may stand alone or inside a convolution or a linear operator as its *epilogue*
(``Conv2d(act=PReLU())``): then the map is written once instead of twice.

What holds for all of them: NaN in, NaN out; subnormal numbers are kept, not flushed; the
sign of a zero is not part of the definition (-0 equals 0).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
from tinyface.ops.spec import (
    Array,
    MaybeType,
    Op,
    Types,
    attr,
    channels_first,
    need,
    need_axis,
    need_rank,
    need_shape,
    register,
)

CUBIC = 0.044715  # of GELU by tanh


class Activation(Op):
    """Base: one input, output of the same type.

    temporaries: how many maps of the output's size ``run`` makes on the way.
    """

    temporaries: ClassVar[float] = 0

    def infer(self, *inputs: MaybeType) -> Types:
        return (need(self.kind, inputs[0]),)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        return 2 * int(self.temporaries * outputs[0].nbytes)


@register
class ReLU(Activation):
    """y = max(x, 0)."""

    kind: ClassVar[str] = "relu"
    onnx: ClassVar[tuple[str, ...]] = ("Relu",)

    def run(self, x: Array) -> Array:
        return np.maximum(x, 0)


@register
class Clip(Activation):
    """y = min(max(x, low), high). The defaults make it ReLU6."""

    low: float = attr(0.0)
    high: float = attr(6.0)
    kind: ClassVar[str] = "clip"
    onnx: ClassVar[tuple[str, ...]] = ("Clip",)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise GraphError(f"clip: low {self.low} is above high {self.high}")

    def run(self, x: Array) -> Array:
        return np.clip(x, x.dtype.type(self.low), x.dtype.type(self.high))


@register
class LeakyReLU(Activation):
    """y = x where x >= 0, alpha x where x < 0."""

    alpha: float = attr(0.01)
    kind: ClassVar[str] = "leaky_relu"
    onnx: ClassVar[tuple[str, ...]] = ("LeakyRelu",)
    temporaries: ClassVar[float] = 1.25  # the product, and a mask of one byte an element

    def run(self, x: Array) -> Array:
        return np.where(x < 0, x.dtype.type(self.alpha) * x, x)


@register
class PReLU(Activation):
    """y = x where x >= 0, a_c x where x < 0; a is learned, one per channel or one for all.

    Inputs: x (n, c, …), slope (c,) or (1,). He et al. 2015, eq. 1.
    """

    kind: ClassVar[str] = "prelu"
    onnx: ClassVar[tuple[str, ...]] = ("PRelu",)
    arity: ClassVar[tuple[int, int]] = (2, 2)
    temporaries: ClassVar[float] = 1.25

    def infer(self, *inputs: MaybeType) -> Types:
        x = need_rank(self.kind, inputs[0], 2, 3, 4)
        need_shape(self.kind, "slope", need(self.kind, inputs[1]), (x.shape[1],), (1,))
        return (x,)

    def run(self, x: Array, slope: Array) -> Array:
        return np.where(x < 0, channels_first(slope, x.ndim) * x, x)


@register
class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), computed so that no argument overflows."""

    kind: ClassVar[str] = "sigmoid"
    onnx: ClassVar[tuple[str, ...]] = ("Sigmoid",)
    temporaries: ClassVar[float] = 6.25

    def run(self, x: Array) -> Array:
        e = np.exp(-np.abs(x))  # in (0, 1]
        d = 1 + e
        y: Array = np.where(x < 0, e / d, 1 / d)
        return y


@register
class SiLU(Activation):
    """y = x / (1 + exp(-x)), also called swish. Elfwing et al. 2018."""

    kind: ClassVar[str] = "silu"
    temporaries: ClassVar[float] = 7.25

    def run(self, x: Array) -> Array:
        y: Array = x * Sigmoid().run(x)
        return y


@register
class Tanh(Activation):
    """y = tanh(x)."""

    kind: ClassVar[str] = "tanh"
    onnx: ClassVar[tuple[str, ...]] = ("Tanh",)

    def run(self, x: Array) -> Array:
        return np.tanh(x)


@register
class Erf(Activation):
    """y = 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""

    kind: ClassVar[str] = "erf"
    onnx: ClassVar[tuple[str, ...]] = ("Erf",)

    def run(self, x: Array) -> Array:
        return np.fromiter(map(math.erf, x.flat), x.dtype, x.size).reshape(x.shape)


@register
class GELU(Activation):
    """y = x (1 + erf(x / sqrt 2)) / 2: x times the normal distribution's share below x.

    tanh: by the approximation y = x (1 + tanh z) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3). As
    tanh z = 2 sigmoid(2 z) - 1, that is x sigmoid(2 z): no difference of near numbers where x < 0.
    Hendrycks & Gimpel 2016.
    """

    tanh: bool = attr(False)

    kind: ClassVar[str] = "gelu"
    onnx: ClassVar[tuple[str, ...]] = ("Gelu",)
    temporaries: ClassVar[float] = 7.25

    def run(self, x: Array) -> Array:
        t = x.dtype.type
        share: Array
        if self.tanh:
            slope = 2 * math.sqrt(2 / math.pi)
            share = Sigmoid().run(x * (t(slope) + t(slope * CUBIC) * x * x))
        else:
            share = t(0.5) + t(0.5) * Erf().run(x * t(math.sqrt(0.5)))
        return x * share


@register
class Exp(Activation):
    """y = e^x; infinity where that is too large. Detectors decode the sizes of boxes with it."""

    kind: ClassVar[str] = "exp"
    onnx: ClassVar[tuple[str, ...]] = ("Exp",)

    def run(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(x)


@register
class Sqrt(Activation):
    """y = the square root of x, NaN below 0; part of norms and variances written out."""

    kind: ClassVar[str] = "sqrt"
    onnx: ClassVar[tuple[str, ...]] = ("Sqrt",)

    def run(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)


@register
class Log(Activation):
    """y = the natural logarithm of x: -infinity at 0, NaN below."""

    kind: ClassVar[str] = "log"
    onnx: ClassVar[tuple[str, ...]] = ("Log",)

    def run(self, x: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(x)


@register
class Softplus(Activation):
    """y = ln(1 + e^x), a smooth ReLU; as max(x, 0) + ln(1 + e^-|x|), which overflows nowhere."""

    kind: ClassVar[str] = "softplus"
    onnx: ClassVar[tuple[str, ...]] = ("Softplus",)
    temporaries: ClassVar[float] = 3

    def run(self, x: Array) -> Array:
        y: Array = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        return y


@register
class HardSigmoid(Activation):
    """y = clip(alpha x + beta, 0, 1).

    Two sets of constants are in use: 1/6 and 1/2 (PyTorch, MobileNetV3), the defaults, and
    0.2 and 0.5 (Keras before version 3, GhostFaceNet V1).
    """

    alpha: float = attr(1 / 6)
    beta: float = attr(0.5)
    kind: ClassVar[str] = "hard_sigmoid"
    onnx: ClassVar[tuple[str, ...]] = ("HardSigmoid",)
    temporaries: ClassVar[float] = 2

    def run(self, x: Array) -> Array:
        t = x.dtype.type
        y: Array = np.clip(t(self.alpha) * x + t(self.beta), t(0), t(1))
        return y


@register
class HardSwish(Activation):
    """y = x clip(x/6 + 1/2, 0, 1). Howard et al. 2019 (MobileNetV3), section 5.2."""

    kind: ClassVar[str] = "hard_swish"
    onnx: ClassVar[tuple[str, ...]] = ("HardSwish",)
    temporaries: ClassVar[float] = 3

    def run(self, x: Array) -> Array:
        y: Array = x * HardSigmoid().run(x)
        return y


@register
class Softmax(Activation):
    """y = exp(x - max x) / sum exp(x - max x) along ``axis``."""

    axis: int = attr(-1, low=-limits.MAX_RANK, high=limits.MAX_RANK - 1)
    kind: ClassVar[str] = "softmax"
    onnx: ClassVar[tuple[str, ...]] = ("Softmax",)

    def infer(self, *inputs: MaybeType) -> Types:
        (x,) = super().infer(*inputs)
        need_axis(self.kind, x, self.axis)
        return (x,)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Difference and exponential; maximum and sum, which lack the axis."""
        y = outputs[0]
        return 2 * (2 * y.nbytes + 2 * y.nbytes // y.shape[self.axis])

    def run(self, x: Array) -> Array:
        e = np.exp(x - x.max(self.axis, keepdims=True))
        y: Array = e / e.sum(self.axis, keepdims=True)
        return y


FUSABLE: tuple[type[Op], ...] = (
    ReLU, Clip, LeakyReLU, PReLU, Sigmoid, HardSigmoid, HardSwish, SiLU, Tanh, Erf, GELU,
)  # fmt: skip
"""Activations that a convolution or a linear operator can carry as its epilogue."""
