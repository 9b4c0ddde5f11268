"""FDFaceNet and its ablations: Wang, Xu and Lu 2023, "Lightweight Network Design and Application
for Face Recognition Based on Fast Down-Sampling", Acta Electronica Sinica 51(8), 2226-2237,
Table 7 and Fig. 4. ("The FDFaceNet paper" in this project.)

Fast down-sampling: all stride-2 layers come first, so that standard convolutions work on small
maps. There is no public code; the published parameters, MACs and feature-map sizes single the
layers out, except for two details that they do not decide: whether the GDC is followed by a
PReLU (``gdc_act``; the feature-map output is 7.387 MB without and 7.391 MB with one, printed
as 7.39), and whether the fully connected layer has a bias (``fc_bias``).
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import conv_bn, depthwise_bn, named, prelu, scaled

CHANNELS = (48, 128, 128, 256, 192, 192, 256, 512)
FAST = (2, 2, 2, 2, 2, 1, 1, 1)  # FDFN: sides 56, 28, 14, 7, 4, 4, 4, 4
NORMAL = (2, 1, 2, 1, 2, 2, 2, 1)  # NFN, DWFN: sides 56, 56, 28, 28, 14, 7, 4, 4


def fdfacenet(
    *,
    strides: tuple[int, ...] = FAST,
    channels: tuple[int, ...] = CHANNELS,
    width: float = 1.0,
    separable: bool = False,
    gdc: bool = True,
    embedding: int = 512,
    size: Size = 112,
    gdc_act: bool = False,
    fc_bias: bool = True,
    name: str = "fdfacenet",
) -> Graph:
    """FDFaceNet: (1, 3, size, size) -> ``embedding`` (1, embedding).

    The ablations of the paper differ in four choices:

    ==============  ========  =========  =====  =====
    network         strides   separable  gdc    width
    ==============  ========  =========  =====  =====
    FDFaceNet       FAST      no         yes    1
    FDFN*           FAST      no         no     1
    NFN             NORMAL    no         yes    1
    NFN*            NORMAL    no         no     1
    DWFN            NORMAL    yes        yes    1
    DWFN*           NORMAL    yes        no     1.25
    ==============  ========  =========  =====  =====

    ``separable``: layers 2… are a depthwise and a pointwise convolution, each with batch norm
    and PReLU. ``gdc``: a global depthwise convolution reduces the last map to one value per
    channel; without it the map is flattened, channels first, and the fully connected layer
    sees all of it.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    for i, (c, stride) in enumerate(zip(channels, strides, strict=True), start=1):
        out, key = scaled(c, width), f"conv{i}"
        if separable and i > 1:
            x = depthwise_bn(b, x, 3, named(f"{key}.dw", "act"), stride=stride, act=prelu)
            x = conv_bn(b, x, out, 1, named(f"{key}.pw", "act"), act=prelu)
        else:
            x = conv_bn(b, x, out, 3, named(key, "act"), stride=stride, act=prelu)
    if gdc:
        keys = named("gdc", "act")
        x = blocks.global_depthwise_bn(b, x, keys, act=prelu if gdc_act else None)
    x = blocks.flatten(b, x, "flat")
    x = b.linear(x, embedding, key="fc", bias=fc_bias)
    return b.build(embedding=b.batch_norm(x, key="bn"))
