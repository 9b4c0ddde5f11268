"""LightFaceNet: a reconstruction, not the published network.

The FDFaceNet paper compares with a "LightFaceNet" of 1.1 M parameters, 227 M MACs and 48.08 MB
of feature maps; neither its text nor its code is public. Known is only that it is built of
depthwise-separable and pointwise layers and bottlenecks with PReLU. The configuration here was
chosen to meet the three figures and proves nothing: more than a hundred others come within 2 %.
Its printed time on the TX2 even speaks for a deeper network of about 255 layers.
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import conv_bn, depthwise_bn, global_depthwise_bn, named, prelu
from tinyface.networks.mobilefacenet import Block, BlockKeys, bottleneck

# (expansion, output channels, number, stride of the first)
BOTTLENECKS = ((2, 128, 1, 1), (4, 128, 3, 2), (2, 256, 2, 2))


def lightfacenet(
    *,
    stem: int = 32,
    separable: tuple[tuple[int, int], ...] = ((128, 2), (128, 1)),
    bottlenecks: tuple[tuple[int, int, int, int], ...] = BOTTLENECKS,
    last: int = 512,
    embedding: int = 128,
    size: Size = 112,
    name: str = "lightfacenet",
) -> Graph:
    """LightFaceNet (reconstruction): (1, 3, size, size) -> ``embedding`` (1, embedding).

    ``separable``: (output channels, stride) of the separable layers after the stem;
    ``bottlenecks``: (expansion, output channels, number, stride) of the groups after them.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, stem, 3, named("stem", "act"), stride=2, act=prelu)
    for i, (out, stride) in enumerate(separable, start=1):
        x = depthwise_bn(b, x, 3, named(f"ds{i}.dw", "act"), stride=stride, act=prelu)
        x = conv_bn(b, x, out, 1, named(f"ds{i}.pw", "act"), act=prelu)
    index = 0
    for expansion, out, n, first in bottlenecks:
        for i in range(n):
            stride, inner = first if i == 0 else 1, expansion * b.channels(x)
            residual = stride == 1 and b.channels(x) == out
            block = Block(f"blocks.{index}", inner, out, stride, residual)
            x = bottleneck(b, x, block, _keys(block.key), prelu)
            index += 1
    x = conv_bn(b, x, last, 1, named("conv_last", "act"), act=prelu)
    x = global_depthwise_bn(b, x, named("gdc"))
    x = blocks.flatten(b, x, "flat")
    x = b.linear(x, embedding, key="fc", bias=False)
    return b.build(embedding=b.batch_norm(x, key="bn"))


def _keys(key: str) -> BlockKeys:
    return (
        named(f"{key}.expand", "act"),
        named(f"{key}.dw", "act"),
        named(f"{key}.project", "act"),
    )
