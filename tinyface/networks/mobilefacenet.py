"""MobileFaceNet (Chen et al. 2018, Table 1) in the four forms in which weights are published.

A stem and a depthwise layer, inverted bottlenecks in three stages (28, 14 and 7 pixels a side
for a 112x112 input), and a linear global depthwise convolution in place of pooling. The forms
differ in the names of their weights, in the activation and in the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import (
    Act,
    Keys,
    conv_bn,
    depthwise_bn,
    global_depthwise_bn,
    named,
    numbered,
    prelu,
    relu,
    relu6,
    scaled,
)
from tinyface.ops import Add, L2Normalize

BlockKeys = tuple[Keys, Keys, Keys]  # of the expansion, the depthwise and the projection layer


@dataclass(frozen=True)
class Block:
    """An inverted bottleneck: expand -> depthwise 3x3 -> project; add the input if residual."""

    key: str
    inner: int
    out: int
    stride: int
    residual: bool


def stages(
    down: Sequence[tuple[str, int]],
    repeat: Sequence[tuple[str, int, int]],
    outs: Sequence[int],
) -> list[Block]:
    """Stages of one stride-2 block and n residual ones.

    Args:
        down: (key, inner channels) of the first block of each stage.
        repeat: (key prefix, inner channels, n) of the others; their keys are prefix + number.
        outs: output channels of each stage.
    """
    result = []
    for (key, inner), (prefix, inner_n, n), out in zip(down, repeat, outs, strict=True):
        result.append(Block(key, inner, out, 2, False))
        result += [Block(f"{prefix}{i}", inner_n, out, 1, True) for i in range(n)]
    return result


def bottleneck(b: Builder, x: str, block: Block, keys: BlockKeys, act: Act) -> str:
    """(n, c, h, w) -> (n, block.out, h / stride, w / stride)."""
    expand, depthwise, project = keys
    y = conv_bn(b, x, block.inner, 1, expand, act=act)
    y = depthwise_bn(b, y, 3, depthwise, stride=block.stride, act=act)
    y = conv_bn(b, y, block.out, 1, project)
    return b.apply(Add(), x, y, name=f"{block.key}.add") if block.residual else y


def bottlenecks(
    b: Builder, x: str, table: Sequence[Block], keys: Callable[[str], BlockKeys], act: Act
) -> str:
    for block in table:
        x = bottleneck(b, x, block, keys(block.key), act)
    return x


def _widths(width: float) -> tuple[int, int, int, int]:
    w64, w128, w256, w512 = (scaled(c, width) for c in (64, 128, 256, 512))
    return w64, w128, w256, w512


def mobilefacenet(
    *,
    embedding: int = 128,
    size: Size = 112,
    width: float = 1.0,
    repeats: tuple[int, int, int] = (4, 6, 2),
    normalise: bool = True,
    name: str = "mobilefacenet",
) -> Graph:
    """MobileFaceNet with the names of TreB1eN/InsightFace_Pytorch and FaceX-Zoo.

    (1, 3, size, size) -> ``embedding`` (1, embedding). TreB1eN's ends with a division by the
    L2 norm (``normalise``), FaceX-Zoo's does not. 1.003 M parameters, 221 M MACs at 128-d.
    """
    b = Builder(name)
    w64, w128, w256, w512 = _widths(width)
    n3, n4, n5 = repeats
    table = stages(
        [("conv_23", w128), ("conv_34", w256), ("conv_45", w512)],
        [("conv_3.model.", w128, n3), ("conv_4.model.", w256, n4), ("conv_5.model.", w256, n5)],
        (w64, w128, w128),
    )

    def keys(key: str) -> BlockKeys:
        return named(f"{key}.conv"), named(f"{key}.conv_dw"), named(f"{key}.project")

    x = blocks.image(b, size)
    x = conv_bn(b, x, w64, 3, named("conv1"), stride=2, act=prelu)
    x = depthwise_bn(b, x, 3, named("conv2_dw"), act=prelu)
    x = bottlenecks(b, x, table, keys, prelu)
    x = conv_bn(b, x, w512, 1, named("conv_6_sep"), act=prelu)
    x = global_depthwise_bn(b, x, named("conv_6_dw"))
    x = blocks.flatten(b, x, "conv_6_flatten")
    x = b.linear(x, embedding, key="linear", bias=False)
    x = b.batch_norm(x, key="bn")
    return b.build(embedding=b.apply(L2Normalize(), x, name="l2_norm") if normalise else x)


def mobilefacenet_xiaoccer(
    *, embedding: int = 128, size: Size = (112, 96), name: str = "mobilefacenet-xiaoccer"
) -> Graph:
    """MobileFaceNet of Xiaoccer/MobileFaceNet_Pytorch: 112 high, 96 wide, GDC 7x6.

    (1, 3, 112, 96) -> ``embedding`` (1, embedding). 0.9996 M parameters, 189 M MACs.
    """
    b = Builder(name)
    table = _flat_table("blocks.")

    def keys(key: str) -> BlockKeys:
        key = f"{key}.conv"
        return numbered(key), numbered(key, 3), numbered(key, 6)

    x = blocks.image(b, size)
    x = conv_bn(b, x, 64, 3, named("conv1"), stride=2, act=prelu)
    x = depthwise_bn(b, x, 3, named("dw_conv1"), act=prelu)
    x = bottlenecks(b, x, table, keys, prelu)
    x = conv_bn(b, x, 512, 1, named("conv2"), act=prelu)
    x = global_depthwise_bn(b, x, named("linear7"))
    x = conv_bn(b, x, embedding, 1, named("linear1"))
    return b.build(embedding=blocks.flatten(b, x))


def mobilefacenet_relu6(
    *, embedding: int = 128, size: Size = 112, name: str = "mobilefacenet-relu6"
) -> Graph:
    """MobileFaceNet of foamliu/MobileFaceNet: ReLU6, a separable second layer, biased last one.

    (1, 3, size, size) -> ``embedding`` (1, embedding). Its second layer is depthwise *and*
    pointwise, each followed by a plain ReLU.
    """
    b = Builder(name)
    table = _flat_table("features.")

    def keys(key: str) -> BlockKeys:
        # the last convolution stands in the outer sequence: conv.0.{0,1,2}, conv.1.{0,1,2}, conv.2
        key = f"{key}.conv"
        return numbered(f"{key}.0"), numbered(f"{key}.1"), numbered(key, 2)

    x = blocks.image(b, size)
    x = conv_bn(b, x, 64, 3, numbered("conv1"), stride=2, act=relu6)
    x = depthwise_bn(b, x, 3, Keys("dw_conv.depthwise", "dw_conv.bn1", "dw_conv.relu.0"), act=relu)
    x = conv_bn(b, x, 64, 1, Keys("dw_conv.pointwise", "dw_conv.bn2", "dw_conv.relu.1"), act=relu)
    x = bottlenecks(b, x, table, keys, relu6)
    x = conv_bn(b, x, 512, 1, numbered("conv2"), act=relu6)
    x = global_depthwise_bn(b, x, Keys("gdconv.depthwise", "gdconv.bn"))
    x = conv_bn(b, x, embedding, 1, Keys("conv3", "bn"), bias=True)
    return b.build(embedding=blocks.flatten(b, x))


def _flat_table(prefix: str) -> list[Block]:
    """The blocks of the paper's Table 1, numbered through: prefix0 … prefix14."""
    table = stages(
        [("", 128), ("", 256), ("", 512)],
        [("", 128, 4), ("", 256, 6), ("", 256, 2)],
        (64, 128, 128),
    )
    return [
        Block(f"{prefix}{i}", s.inner, s.out, s.stride, s.residual) for i, s in enumerate(table)
    ]


def mobilefacenet_arcface(
    *,
    embedding: int = 512,
    size: Size = 112,
    repeats: tuple[int, int, int, int] = (1, 4, 6, 2),
    scale: int = 2,
    name: str = "mobilefacenet-arcface",
) -> Graph:
    """MobileFaceNet "mbf" of insightface's arcface_torch.

    (1, 3, size, size) -> ``embedding`` (1, embedding). 2.06 M parameters, 437.5 M MACs.
    Only the outer channels are scaled; the inner ones of the bottlenecks stay 128, 256, 512,
    256. With ``repeats[0] == 1`` the second layer is a 3x3 convolution in 64 groups, which at
    scale 2 is two channels per group, not depthwise; otherwise residual blocks stand there
    (``repeats=(2, 8, 12, 4), scale=4`` is the "large" form).
    """
    b = Builder(name)
    w64, w128 = 64 * scale, 128 * scale
    n2, n3, n4, n5 = repeats
    table = stages(
        [("layers.2", 128), ("layers.4", 256), ("layers.6", 512)],
        [
            ("layers.3.layers.", 128, n3),
            ("layers.5.layers.", 256, n4),
            ("layers.7.layers.", 256, n5),
        ],
        (w64, w128, w128),
    )

    def keys(key: str) -> BlockKeys:
        first, second, third = (numbered(f"{key}.layers.{i}.layers") for i in range(3))
        return first, second, third

    x = blocks.image(b, size)
    x = conv_bn(b, x, w64, 3, numbered("layers.0.layers"), stride=2, act=prelu)
    if n2 == 1:
        x = conv_bn(b, x, w64, 3, numbered("layers.1.layers"), groups=64, act=prelu)
    else:
        second = [Block(f"layers.1.layers.{i}", 128, w64, 1, True) for i in range(n2)]
        x = bottlenecks(b, x, second, keys, prelu)
    x = bottlenecks(b, x, table, keys, prelu)
    x = conv_bn(b, x, 512, 1, numbered("conv_sep.layers"), act=prelu)
    x = global_depthwise_bn(b, x, numbered("features.layers.0.layers"))
    x = blocks.flatten(b, x, "features.layers.1")
    x = b.linear(x, embedding, key="features.layers.2", bias=False)
    return b.build(embedding=b.batch_norm(x, key="features.layers.3"))
