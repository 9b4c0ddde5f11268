"""GhostFaceNet V1 and V2 (Alansari et al. 2023): GhostNet's modules with PReLU and a GDC.

A ghost module computes half of its output with a pointwise convolution and the other half from
the first by a cheap depthwise 3x3. V2 multiplies the first ghost module of most blocks by an
attention map that is computed at half the resolution (Tang et al. 2022, "DFC attention").

The networks follow HamadYA/GhostFaceNets (Keras); the PyTorch ports in
Hazqeel09/ellzaf_ml (``port=True``) look alike and compute something else:

==================  =====================  ====================  =======================
\\                   V1 (Keras)             V2 (Keras)            ports
==================  =====================  ====================  =======================
padding             "same" of TensorFlow   k // 2                k // 2
gate of SE          clip(0.2 x + 0.5)      clip(x/6 + 0.5)       clip(x/6 + 0.5)
PReLU               one slope per channel  per channel           one slope for all
attention resize    (none)                 bilinear              nearest
last expansion      512                    960                   960
==================  =====================  ====================  =======================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import (
    Act,
    GateKeys,
    Keys,
    conv_bn,
    depthwise_bn,
    global_depthwise_bn,
    prelu,
    shared_prelu,
    squeeze_excite,
)
from tinyface.ops import Add, AveragePool, Concat, HardSigmoid, Mul, Resize, Sigmoid


class Block(NamedTuple):
    kernel: int
    expansion: int
    out: int
    stride: int
    gated: bool  # squeeze-and-excitation


BLOCKS = (
    Block(3, 16, 16, 1, False), Block(3, 48, 24, 2, False), Block(3, 72, 24, 1, False),
    Block(5, 72, 40, 2, True), Block(5, 120, 40, 1, True), Block(3, 240, 80, 2, False),
    Block(3, 200, 80, 1, False), Block(3, 184, 80, 1, False), Block(3, 184, 80, 1, False),
    Block(3, 480, 112, 1, True), Block(3, 672, 112, 1, True), Block(5, 672, 160, 2, True),
    Block(5, 960, 160, 1, False), Block(5, 960, 160, 1, True), Block(5, 960, 160, 1, False),
    Block(5, 960, 160, 1, True),
)  # fmt: skip
PORT_STAGES = (1, 1, 1, 1, 1, 1, 5, 1, 4)  # the ports number the blocks in stages


def multiple_of_4(value: float) -> int:
    """To the nearest multiple of 4, but never below 90 % of the value."""
    result = max(4, int(value + 2) // 4 * 4)
    return result + 4 if result < 0.9 * value else result


def same_pad(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same": ceil(side / stride) outputs; the odd pixel goes to the end."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def ghostfacenet(
    *,
    version: int = 1,
    width: float = 1.3,
    stride: int = 1,
    port: bool = False,
    bias: bool | None = None,
    embedding: int = 512,
    size: Size = 112,
    name: str = "ghostfacenet-v1-1.3-s1",
) -> Graph:
    """GhostFaceNet: (1, 3, size, size) -> ``embedding`` (1, embedding).

    Args:
        version: 1 or 2.
        width: factor on all channels, each rounded to a multiple of 4.
        stride: of the stem, 1 or 2.
        port: the arithmetic and the names of the PyTorch ports (see the module).
        bias: of the last pointwise convolution. Published builds differ; by default V1 with
            stride 1 has one, the others have none.
        size: the pads of V1 depend on it, so a graph is good for the size it was built for.
    """
    b = Builder(name)
    net = _Port(b, version) if port else _Keras(b, version)
    table = list(BLOCKS)
    if version == 1 and not port:
        table[-1] = table[-1]._replace(expansion=512)
    bias = (version == 1 and stride == 1 and not port) if bias is None else bias
    frame = net.frame
    x = net.conv(
        blocks.image(b, size), multiple_of_4(16 * width), 3, frame.stem, stride=stride, act=net.act
    )
    for i, row in enumerate(table):
        block = row._replace(
            expansion=multiple_of_4(row.expansion * width), out=multiple_of_4(row.out * width)
        )
        x = net.block(x, block, i)
    x = net.conv(x, multiple_of_4(table[-1].expansion * width), 1, frame.last, act=net.act)
    x = global_depthwise_bn(b, x, frame.gdc)
    x = b.conv(x, embedding, 1, key=frame.project, bias=bias)
    return b.build(embedding=b.batch_norm(blocks.flatten(b, x), key=frame.bn))


@dataclass(frozen=True)
class _Frame:
    """Names of what stands before and after the blocks."""

    stem: Keys
    last: Keys
    gdc: Keys
    project: str
    bn: str


class _Keras:
    """The layers of HamadYA/GhostFaceNets under our own names.

    (Keras numbers its layers in order of creation, which names no role.)
    """

    act: Act = staticmethod(prelu)
    resize = "bilinear"
    frame = _Frame(
        Keys("stem", "stem_bn", "stem_act"), Keys("pre", "pre_bn", "pre_act"),
        Keys("gdc_dw", "gdc_bn"), "gdc_conv", "emb_bn",
    )  # fmt: skip

    def __init__(self, b: Builder, version: int) -> None:
        self.b, self.version = b, version
        self.same = version == 1
        self.gate = HardSigmoid(alpha=0.2, beta=0.5) if version == 1 else HardSigmoid()

    # ------------------------------------------------------------------ names

    def key(self, index: int) -> str:
        return f"blocks.{index}"

    def ghost_keys(self, key: str, which: int) -> tuple[Keys, Keys]:
        parts = [
            Keys(*(f"{key}.ghost_{which}.{part}_{leaf}" for leaf in ("conv", "bn", "act")))
            for part in ("prim", "cheap")
        ]
        return parts[0], parts[1]

    def attention_keys(self, key: str) -> list[Keys]:
        return [
            Keys(f"{key}.ghost_1.short_{i}_conv", f"{key}.ghost_1.short_{i}_bn") for i in (1, 2, 3)
        ]

    def down_keys(self, key: str) -> Keys:
        return Keys(f"{key}.down.0", f"{key}.down.1")

    def gate_keys(self, key: str) -> GateKeys:
        return GateKeys(f"{key}.se.conv1", f"{key}.se.act", f"{key}.se.conv2")

    def shortcut_keys(self, key: str) -> tuple[Keys, Keys]:
        return Keys(f"{key}.short.0", f"{key}.short.1"), Keys(f"{key}.short.2", f"{key}.short.3")

    # ----------------------------------------------------------------- layers

    def conv(
        self, x: str, out: int, kernel: int, keys: Keys, *,
        stride: int = 1, depthwise: bool = False, act: Act | None = None,
    ) -> str:  # fmt: skip
        """Convolution, batch norm [, activation] with this version's padding."""
        pad: tuple[int, int, int, int] | None = None
        if self.same:
            _, _, h, w = self.b.shape(x)
            (top, bottom), (left, right) = (same_pad(s, kernel, stride) for s in (h, w))
            pad = (top, left, bottom, right)
        groups = self.b.channels(x) if depthwise else 1
        return conv_bn(self.b, x, out, kernel, keys, stride=stride, pad=pad, groups=groups, act=act)

    def ghost(self, x: str, out: int, key: str, which: int, *, act: bool) -> str:
        """(n, c, h, w) -> (n, out, h, w): half pointwise, half depthwise of that half."""
        prim, cheap = self.ghost_keys(key, which)
        function = self.act if act else None
        p = self.conv(x, out // 2, 1, prim, act=function)
        c = self.conv(p, out // 2, 3, cheap, depthwise=True, act=function)
        return self.b.apply(Concat(axis=1), p, c, name=f"{key}.ghost_{which}")

    def attention(self, x: str, out: int, key: str) -> str:
        """DFC attention: sigmoid of a horizontal and a vertical context at half resolution."""
        b = self.b
        first, second, third = self.attention_keys(key)
        y = b.apply(AveragePool(kernel=(2, 2), stride=(2, 2)), x, name=f"{key}.ghost_1.pool")
        y = conv_bn(b, y, out, 1, first)
        y = depthwise_bn(b, y, (1, 5), second)
        y = depthwise_bn(b, y, (5, 1), third)
        return b.apply(Sigmoid(), y, name=f"{key}.ghost_1.gate")

    def attended_ghost(self, x: str, out: int, key: str) -> str:
        """The first ghost module of a block, times its attention where there is one."""
        gate = self.attention(x, out, key)
        y = self.ghost(x, out, key, 1, act=True)
        gate = self.b.apply(Resize(mode=self.resize), gate, y, name=f"{key}.ghost_1.resize")
        return self.b.apply(Mul(), y, gate, name=f"{key}.ghost_1.attended")

    def block(self, x: str, block: Block, index: int) -> str:
        """Expand, [halve the sides,] [gate the channels,] project; add the shortcut."""
        b, key = self.b, self.key(index)
        if self.version == 2 and index > 1:
            y = self.attended_ghost(x, block.expansion, key)
        else:
            y = self.ghost(x, block.expansion, key, 1, act=True)
        if block.stride == 2:
            y = self.conv(
                y, block.expansion, block.kernel, self.down_keys(key), stride=2, depthwise=True
            )
        if block.gated:
            y = squeeze_excite(
                b, y, multiple_of_4(block.expansion / 4), self.gate_keys(key),
                act=self.act, gate=self.gate, name=f"{key}.se",
            )  # fmt: skip
        y = self.ghost(y, block.out, key, 2, act=False)
        return b.apply(Add(), y, self.shortcut(x, block, key), name=key)

    def shortcut(self, x: str, block: Block, key: str) -> str:
        c = self.b.channels(x)
        if c == block.out and block.stride == 1:
            return x
        first, second = self.shortcut_keys(key)
        x = self.conv(x, c, block.kernel, first, stride=block.stride, depthwise=True)
        return self.conv(x, block.out, 1, second)


class _Port(_Keras):
    """The layers and names of the PyTorch ports."""

    act: Act = staticmethod(shared_prelu)
    resize = "nearest"
    frame = _Frame(
        Keys("conv_stem", "bn1", "act1"),
        Keys("blocks.9.0.conv", "blocks.9.0.bn1", "blocks.9.0.act1"),
        Keys("classifier.conv_dw", "classifier.bn1"), "classifier.conv", "classifier.bn2",
    )  # fmt: skip

    def __init__(self, b: Builder, version: int) -> None:
        super().__init__(b, version)
        self.same, self.gate = False, HardSigmoid()

    def key(self, index: int) -> str:
        for stage, n in enumerate(PORT_STAGES):
            if index < n:
                return f"blocks.{stage}.{index}"
            index -= n
        raise IndexError(index)

    def ghost_keys(self, key: str, which: int) -> tuple[Keys, Keys]:
        key = f"{key}.ghost{which}"
        return blocks.numbered(f"{key}.primary_conv"), blocks.numbered(f"{key}.cheap_operation")

    def attention_keys(self, key: str) -> list[Keys]:
        return [blocks.numbered(f"{key}.ghost1.short_conv", first) for first in (0, 2, 4)]

    def down_keys(self, key: str) -> Keys:
        return Keys(f"{key}.conv_dw", f"{key}.bn_dw")

    def gate_keys(self, key: str) -> GateKeys:
        return GateKeys(f"{key}.se.conv_reduce", f"{key}.se.act1", f"{key}.se.conv_expand")

    def shortcut_keys(self, key: str) -> tuple[Keys, Keys]:
        return blocks.numbered(f"{key}.shortcut"), blocks.numbered(f"{key}.shortcut", 2)
