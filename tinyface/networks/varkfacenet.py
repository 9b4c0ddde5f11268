"""VarKFaceNet: variable depthwise kernels, re-parameterised. A reconstruction.

Of the network only the abstract is known: depthwise kernels that grow with the channels,
several branches in training that are folded into one path, a channel shuffle in the fused
branch, 0.7 M parameters, 0.24 GFLOPs. The widths, depths and kernels here are chosen to meet
those figures (0.706 M parameters; 119.5 M MACs = 0.239 GFLOPs, a FLOP being half a MAC).
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Keys, conv_bn, depthwise_bn, global_depthwise_bn, named, prelu
from tinyface.ops import Add, ChannelShuffle

STAGES = ((80, 5, 3), (128, 5, 5), (192, 2, 7))  # channels, units, depthwise kernel


def varkfacenet(
    *,
    deploy: bool = False,
    stem: int = 48,
    stages: tuple[tuple[int, int, int], ...] = STAGES,
    last: int = 512,
    embedding: int = 128,
    size: Size = 112,
    name: str = "varkfacenet",
) -> Graph:
    """VarKFaceNet: (1, 3, size, size) -> ``embedding`` (1, embedding).

    Args:
        deploy: one depthwise convolution with bias in place of every set of branches: what
            :func:`tinyface.passes.reparameterize` makes of the training form.
        stages: (channels, units, depthwise kernel) of the stages at 28, 14, 7 pixels a side.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, stem, 3, named("stem", "act"), stride=2, act=prelu)
    index = 0
    for out, n, kernel in stages:
        for i in range(n + 1):
            key = f"blocks.{index}"
            x = _unit(b, x, kernel, key, deploy) if i else _down(b, x, out, kernel, key, deploy)
            index += 1
    x = conv_bn(b, x, last, 1, named("conv_last", "act"), act=prelu)
    x = global_depthwise_bn(b, x, named("gdc"))
    x = blocks.flatten(b, x, "flat")
    x = b.linear(x, embedding, key="fc", bias=False)
    return b.build(embedding=b.batch_norm(x, key="bn"))


def branches(b: Builder, x: str, kernel: int, stride: int, key: str, deploy: bool) -> str:
    """A large and a small depthwise convolution and, at stride 1, the map itself, added.

    Each has its own batch norm. Deployed: one convolution with bias.
    """
    c = b.channels(x)
    if deploy:
        return b.conv(
            x, c, kernel, key=f"{key}.fused", stride=stride, pad=kernel // 2, groups=c, bias=True
        )
    small = 3 if kernel > 3 else 1
    y = depthwise_bn(b, x, kernel, Keys(f"{key}.large", f"{key}.large_bn"), stride=stride)
    z = depthwise_bn(b, x, small, Keys(f"{key}.small", f"{key}.small_bn"), stride=stride)
    y = b.apply(Add(), y, z, name=f"{key}.sum")
    if stride == 1:
        y = b.apply(Add(), y, b.batch_norm(x, key=f"{key}.id_bn"), name=f"{key}.sum_id")
    return y


def _down(b: Builder, x: str, out: int, kernel: int, key: str, deploy: bool) -> str:
    """Halve the sides: branches at stride 2, then pointwise to the stage's channels."""
    x = prelu(b, branches(b, x, kernel, 2, f"{key}.dw", deploy), f"{key}.act")
    return conv_bn(b, x, out, 1, named(f"{key}.pw", "act"), act=prelu)


def _unit(b: Builder, x: str, kernel: int, key: str, deploy: bool) -> str:
    """Expand in two groups, branches, shuffle, project in two groups; add the input."""
    c = b.channels(x)
    y = conv_bn(b, x, 2 * c, 1, named(f"{key}.pw1", "act"), groups=2, act=prelu)
    y = prelu(b, branches(b, y, kernel, 1, f"{key}.dw", deploy), f"{key}.act")
    y = b.apply(ChannelShuffle(groups=2), y, name=f"{key}.shuffle")
    y = conv_bn(b, y, c, 1, named(f"{key}.pw2", "act"), groups=2)
    return b.apply(Add(), y, x, name=key)
