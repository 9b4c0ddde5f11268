"""ProxylessFaceNAS: the backbones found by ProxylessNAS (Cai et al. 2019) with a face head.

Structure and names of cavalleria/cavaface, searched for a CPU, a GPU and a phone. The stem has
stride 1 for 112x112 inputs. The backbone is public; the size that the FDFaceNet paper prints for
it (4.9 M parameters, 481 M MACs) is met by no head or width that was tried: 512 mixed channels
(cavaface) give 2.885 M parameters, 1432 (ProxylessNAS' own) 3.737 M, or 3.19 M with a 128-d
embedding, the figure usually quoted.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Keys, conv_bn, depthwise_bn, global_depthwise_bn, prelu, relu6
from tinyface.ops import Add

EPS = 1e-3  # of the batch norms of the backbone; the head's is 1e-5

Unit = tuple[int, int, int]  # expansion, kernel, output channels
Stage = tuple[Unit | None, ...]  # None: the search left the unit out; its number stays


@dataclass(frozen=True)
class Backbone:
    """A searched network; every stage but the first starts with stride 2."""

    stem: int
    stages: tuple[Stage, ...]


CPU = Backbone(
    40,
    (
        ((1, 3, 24),),
        ((6, 3, 32), (3, 3, 32), (3, 3, 32), (3, 3, 32)),
        ((6, 3, 48), (3, 3, 48), (3, 3, 48), (3, 5, 48)),
        (
            (6, 3, 88), None, None, (3, 3, 88),
            (6, 5, 104), (3, 3, 104), (3, 3, 104), (3, 3, 104),
        ),
        ((6, 5, 216), (3, 5, 216), (3, 5, 216), (3, 3, 216), (6, 5, 360)),
    ),
)  # fmt: skip
GPU = Backbone(
    40,
    (
        ((1, 3, 24),),
        ((3, 5, 32), None, None, None),
        ((3, 7, 56), None, None, (3, 3, 56)),
        (
            (6, 7, 112), None, None, (3, 5, 112),
            (6, 5, 128), None, (3, 3, 128), (3, 5, 128),
        ),
        ((6, 7, 256), (6, 7, 256), (6, 7, 256), (6, 5, 256), (6, 7, 432)),
    ),
)  # fmt: skip
MOBILE = Backbone(
    32,
    (
        ((1, 3, 16),),
        ((3, 5, 32), (3, 3, 32), None, None),
        ((3, 7, 40), (3, 3, 40), (3, 5, 40), (3, 5, 40)),
        (
            (6, 7, 80), (3, 5, 80), (3, 5, 80), (3, 5, 80),
            (6, 5, 96), (3, 5, 96), (3, 5, 96), (3, 5, 96),
        ),
        ((6, 7, 192), (6, 7, 192), (3, 7, 192), (3, 7, 192), (6, 7, 320)),
    ),
)  # fmt: skip


def proxylessfacenas(
    *,
    backbone: Backbone = CPU,
    mixed: int = 512,
    embedding: int = 512,
    size: Size = 112,
    name: str = "proxylessfacenas-cpu",
) -> Graph:
    """ProxylessFaceNAS: (1, 3, size, size) -> ``embedding`` (1, embedding).

    ``mixed``: channels of the last pointwise convolution and of the GDC.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, backbone.stem, 3, _keys("features.init_block"), eps=EPS, act=prelu)
    for s, stage in enumerate(backbone.stages, start=1):
        for u, unit in enumerate(stage, start=1):
            if unit is not None:
                stride = 2 if s > 1 and u == 1 else 1
                x = _unit(b, x, unit, stride, f"features.stage{s}.unit{u}")
    x = conv_bn(b, x, mixed, 1, _keys("features.final_block"), eps=EPS, act=prelu)
    x = global_depthwise_bn(b, x, _keys("output.conv_6_dw"))
    x = blocks.flatten(b, x, "output.conv_6_flatten")
    x = b.linear(x, embedding, key="output.linear", bias=False)
    return b.build(embedding=b.batch_norm(x, key="output.bn"))


def _keys(key: str) -> Keys:
    return Keys(f"{key}.conv", f"{key}.bn", f"{key}.activ")


def _unit(b: Builder, x: str, unit: Unit, stride: int, key: str) -> str:
    """Inverted bottleneck with ReLU6; adds its input where the shapes allow it."""
    expansion, kernel, out = unit
    c, y = b.channels(x), x
    if expansion > 1:
        y = conv_bn(b, y, c * expansion, 1, _keys(f"{key}.body.bc_conv"), eps=EPS, act=relu6)
    y = depthwise_bn(b, y, kernel, _keys(f"{key}.body.dw_conv"), stride=stride, eps=EPS, act=relu6)
    y = conv_bn(b, y, out, 1, _keys(f"{key}.body.pw_conv"), eps=EPS)
    return b.apply(Add(), y, x, name=key) if stride == 1 and c == out else y
