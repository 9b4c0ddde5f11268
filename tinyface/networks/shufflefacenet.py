"""ShuffleFaceNet (Martinez-Diaz et al. 2019): ShuffleNetV2 units, PReLU and a GDC.

Structure and names of mbfaria/ShuffleFaceNet_Pytorch: every PReLU has one slope for all
channels, no pooling follows the stem, and the GDC is followed by a PReLU. (That code also resizes
its input to 112x112, which does nothing to a 112x112 image and is left out.)
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Keys, conv_bn, depthwise_bn, global_depthwise_bn, numbered
from tinyface.networks.blocks import shared_prelu as prelu
from tinyface.ops import ChannelShuffle, Concat, Split

WIDTHS = {
    0.5: (48, 96, 192),
    1.0: (116, 232, 464),
    1.5: (176, 352, 704),
    2.0: (244, 488, 976),
}
UNITS = (4, 8, 4)


def shufflefacenet(
    *,
    widths: tuple[int, ...] = WIDTHS[1.0],
    units: tuple[int, ...] = UNITS,
    last: int = 1024,
    embedding: int = 128,
    size: Size = 112,
    name: str = "shufflefacenet-x1.0",
) -> Graph:
    """ShuffleFaceNet: (1, 3, size, size) -> ``embedding`` (1, embedding).

    ``widths``, ``units``: channels and number of units of the three stages (28, 14, 7 pixels a
    side); ``last``: channels of the GDC. It is 1024 at x2.0 as well: 2048 would give 5.71 M
    parameters, against 4.5 M published.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, 24, 3, numbered("conv1"), stride=2, act=prelu)
    for stage, (out, n) in enumerate(zip(widths, units, strict=True), start=2):
        for i in range(n):
            key = f"stage{stage}.{i}"
            x = _unit(b, x, out, key) if i else _down_unit(b, x, out, key)
    x = conv_bn(b, x, last, 1, numbered("conv5"), act=prelu)
    x = global_depthwise_bn(b, x, numbered("gdc"), act=prelu)
    x = blocks.flatten(b, x)
    # Conv1d over a single position in the public code: its weight (embedding, last, 1)
    x = b.linear(x, embedding, key="linearconv", bias=True)
    return b.build(embedding=b.batch_norm(x, key="bn"))


def _branch2(b: Builder, x: str, out: int, stride: int, key: str) -> str:
    """Pointwise, depthwise (stride), pointwise; no activation after the depthwise one."""
    x = conv_bn(b, x, out, 1, numbered(key), act=prelu)
    x = depthwise_bn(b, x, 3, numbered(key, 3), stride=stride)
    return conv_bn(b, x, out, 1, numbered(key, 5), act=prelu)


def _shuffle(b: Builder, left: str, right: str, key: str) -> str:
    x = b.apply(Concat(axis=1), left, right, name=f"{key}.cat")
    return b.apply(ChannelShuffle(groups=2), x, name=key)


def _down_unit(b: Builder, x: str, out: int, key: str) -> str:
    """Both branches see the whole map and halve its sides. ShuffleNetV2, Fig. 3 (d)."""
    left = depthwise_bn(b, x, 3, numbered(f"{key}.branch1"), stride=2)
    names = Keys(*(f"{key}.branch1.{i}" for i in (2, 3, 4)))
    left = conv_bn(b, left, out // 2, 1, names, act=prelu)
    return _shuffle(b, left, _branch2(b, x, out // 2, 2, f"{key}.branch2"), key)


def _unit(b: Builder, x: str, out: int, key: str) -> str:
    """One half of the channels passes untouched. ShuffleNetV2, Fig. 3 (c)."""
    left, right = b.apply_many(
        Split(axis=1, sizes=(out // 2, out // 2)), x, names=(f"{key}.left", f"{key}.right")
    )
    return _shuffle(b, left, _branch2(b, right, out // 2, 1, f"{key}.branch2"), key)
