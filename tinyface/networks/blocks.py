"""What the network families share: convolution + batch norm + activation, and the names of weights.

Every public implementation names its weights in its own way; :class:`Keys` carries the three
names of one such group, so that a family writes its structure once and its names once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tinyface.builder import Builder, Size, pair
from tinyface.errors import GraphError
from tinyface.ops import Clip, Flatten, GlobalAveragePool, LeakyReLU, Mul, Op, ReLU

Act = Callable[[Builder, str, str], str]
"""Adds an activation: (builder, tensor, key) -> tensor."""


class Keys(NamedTuple):
    """Names of a convolution, of its batch norm and of its activation in a checkpoint."""

    conv: str
    bn: str
    act: str = ""


def named(prefix: str, act: str = "prelu") -> Keys:
    """``prefix.conv``, ``prefix.bn``, ``prefix.prelu``: modules with attributes."""
    return Keys(f"{prefix}.conv", f"{prefix}.bn", f"{prefix}.{act}")


def numbered(prefix: str, first: int = 0) -> Keys:
    """``prefix.0``, ``prefix.1``, ``prefix.2``: a sequence."""
    return Keys(*(f"{prefix}.{first + i}" for i in range(3)))


def prelu(b: Builder, x: str, key: str) -> str:
    """One learned slope per channel."""
    return b.prelu(x, key=key)


def shared_prelu(b: Builder, x: str, key: str) -> str:
    """One learned slope for all channels (PyTorch's ``nn.PReLU()``)."""
    return b.prelu(x, key=key, slopes=1)


def relu(b: Builder, x: str, key: str) -> str:
    return b.apply(ReLU(), x, name=key)


def relu6(b: Builder, x: str, key: str) -> str:
    return b.apply(Clip(low=0.0, high=6.0), x, name=key)


def leaky(alpha: float) -> Act:
    """LeakyReLU with a fixed slope."""

    def act(b: Builder, x: str, key: str) -> str:
        return b.apply(LeakyReLU(alpha=alpha), x, name=key)

    return act


def half(kernel: Size) -> tuple[int, int]:
    """Padding that keeps the side of a map at stride 1: k // 2."""
    kh, kw = pair(kernel)
    return kh // 2, kw // 2


def conv_bn(
    b: Builder,
    x: str,
    out: int,
    kernel: Size,
    keys: Keys,
    *,
    stride: Size = 1,
    pad: Size | tuple[int, int, int, int] | None = None,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = False,
    eps: float = 1e-5,
    act: Act | None = None,
) -> str:
    """Convolution, batch norm and, if given, an activation. Default padding: k // 2."""
    pad = half(kernel) if pad is None else pad
    x = b.conv(
        x, out, kernel, key=keys.conv, stride=stride, pad=pad, dilation=dilation, groups=groups,
        bias=bias,
    )  # fmt: skip
    x = b.batch_norm(x, key=keys.bn, eps=eps)
    return act(b, x, keys.act) if act else x


def depthwise_bn(
    b: Builder,
    x: str,
    kernel: Size,
    keys: Keys,
    *,
    stride: Size = 1,
    pad: Size | tuple[int, int, int, int] | None = None,
    eps: float = 1e-5,
    act: Act | None = None,
) -> str:
    """Depthwise convolution (one kernel per channel), batch norm, activation."""
    c = b.channels(x)
    return conv_bn(b, x, c, kernel, keys, stride=stride, pad=pad, groups=c, eps=eps, act=act)


def global_depthwise_bn(
    b: Builder, x: str, keys: Keys, *, eps: float = 1e-5, act: Act | None = None
) -> str:
    """Global depthwise convolution (GDC), kernel = map: (n, c, h, w) -> (n, c, 1, 1).

    FDFaceNet, eq. 13. The kernel takes the map's size at the time of building, so a network
    with a GDC is built for one input size.
    """
    _, _, h, w = b.shape(x)
    return depthwise_bn(b, x, (h, w), keys, pad=0, eps=eps, act=act)


def flatten(b: Builder, x: str, name: str = "flatten") -> str:
    """(n, c, h, w) -> (n, c h w), channels first."""
    return b.apply(Flatten(), x, name=name)


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width multiplier, to the nearest integer."""
    result = round(channels * width)
    if result < 1:
        raise GraphError(f"width {width} leaves no channel of {channels}: use a larger one")
    return result


def image(b: Builder, size: Size, channels: int = 3) -> str:
    """The input of an image network: ``input`` (1, channels, height, width)."""
    return b.input("input", (1, channels, *pair(size)))


class GateKeys(NamedTuple):
    """Names of a squeeze-and-excitation gate: pointwise, activation, pointwise."""

    squeeze: str
    act: str
    expand: str


def squeeze_excite(
    b: Builder, x: str, reduced: int, keys: GateKeys, *, act: Act, gate: Op, name: str
) -> str:
    """Squeeze-and-excitation (Hu et al. 2018, Fig. 2): scale each channel by a learned gate.

    (n, c, h, w) -> mean (n, c, 1, 1) -> ``reduced`` channels -> c channels -> gate -> product.
    """
    y = b.apply(GlobalAveragePool(), x, name=f"{name}.mean")
    y = act(b, b.conv(y, reduced, 1, key=keys.squeeze, bias=True), keys.act)
    y = b.conv(y, b.channels(x), 1, key=keys.expand, bias=True)
    y = b.apply(gate, y, name=f"{name}.gate")
    return b.apply(Mul(), x, y, name=f"{name}.scale")
