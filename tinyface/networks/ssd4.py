"""Four-branch SSD face detectors with five landmarks: ``slim`` and ``RFB``.

Structure of biubug6/Face-Detector-1MB-with-landmark. Plain MobileNetV1-like body, heads on the
maps of stride 8, 16, 32 and 64 with 3, 2, 2 and 3 anchors per cell. Fully convolutional.
``RFB`` replaces one layer of the body by a receptive-field block (Liu et al. 2018): three
branches that look at the map through 3x3 kernels of dilation 2, 3 and 5.
The paper's own four-branch networks (4-SSD-MBV2, 4-SSD-ShuffleV2) are not given in enough
detail to be built.
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import conv_bn, depthwise_bn, named, numbered, relu
from tinyface.networks.retinaface import head
from tinyface.ops import Add, Concat, Softmax

# (multiple of the base channels, stride) of conv2 … conv13
BODY = (
    (2, 1), (2, 2), (2, 1), (4, 2), (4, 1), (4, 1), (4, 1),
    (8, 2), (8, 1), (8, 1), (16, 2), (16, 1),
)  # fmt: skip
TAPS = (8, 11, 13)  # layers whose outputs have heads, with stride 8, 16, 32
ANCHORS = (3, 2, 2, 3)


def ssd4(
    *,
    rfb: bool = False,
    base: int = 16,
    anchors: tuple[int, int, int, int] = ANCHORS,
    size: Size = (240, 320),
    name: str = "ssd4-slim",
) -> Graph:
    """Four-branch SSD: (1, 3, h, w) BGR minus mean -> ``loc``, ``conf``, ``landms``.

    Shapes (1, p, 4), (1, p, 2), (1, p, 10), priors as in
    :func:`tinyface.networks.retinaface.retinaface`. ``rfb``: layer 8 is a receptive-field block.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, base, 3, numbered("conv1"), stride=2, act=relu)
    maps = []
    for i, (multiple, stride) in enumerate(BODY, start=2):
        if rfb and i == 8:
            x = receptive_field_block(b, x, base * multiple, "conv8")
        else:
            x = depthwise_bn(b, x, 3, numbered(f"conv{i}"), stride=stride, act=relu)
            x = conv_bn(b, x, base * multiple, 1, numbered(f"conv{i}", 3), act=relu)
        if i in TAPS:
            maps.append(x)
    maps.append(_extra(b, x, base))
    fields: dict[str, list[str]] = {"loc": [], "conf": [], "landm": []}
    for i, x in enumerate(maps):
        for key, n in (("loc", 4), ("conf", 2), ("landm", 10)):
            fields[key].append(_branch(b, x, anchors[i] * n, f"{key}.{i}", i < len(maps) - 1))
    loc = head(b, fields["loc"], 4, "loc_rows")
    conf = head(b, fields["conf"], 2, "conf_rows")
    landms = head(b, fields["landm"], 10, "landm_rows")
    return b.build(loc=loc, conf=b.apply(Softmax(axis=-1), conf, name="softmax"), landms=landms)


def _extra(b: Builder, x: str, base: int) -> str:
    """The map of stride 64: pointwise, then depthwise (stride 2) and pointwise, no batch norm."""
    x = relu(b, b.conv(x, 4 * base, 1, key="conv14.0", bias=True), "conv14.1")
    c = b.channels(x)
    x = b.conv(x, c, 3, key="conv14.2.0", stride=2, pad=1, groups=c, bias=True)
    x = relu(b, x, "conv14.2.1")
    return relu(b, b.conv(x, 16 * base, 1, key="conv14.2.2", bias=True), "conv14.3")


def _branch(b: Builder, x: str, out: int, key: str, separable: bool) -> str:
    """A head: depthwise 3x3, ReLU, pointwise; on the last, smallest map one 3x3 convolution."""
    if not separable:
        return b.conv(x, out, 3, key=key, pad=1, bias=True)
    c = b.channels(x)
    x = relu(b, b.conv(x, c, 3, key=f"{key}.0", pad=1, groups=c, bias=True), f"{key}.1")
    return b.conv(x, out, 1, key=f"{key}.2", bias=True)


def receptive_field_block(b: Builder, x: str, out: int, key: str) -> str:
    """RFB: concat of three dilated branches -> pointwise, plus a pointwise shortcut, ReLU."""
    inner = b.channels(x) // 8

    def layer(x: str, out: int, kernel: int, name: str, dilation: int = 1, act: bool = True) -> str:
        return conv_bn(
            b, x, out, kernel, named(f"{key}.{name}", "relu"), pad=dilation * (kernel // 2),
            dilation=dilation, act=relu if act else None,
        )  # fmt: skip

    branches = []
    for i, dilation in enumerate((2, 3, 5)):
        y = layer(x, inner, 1, f"branch{i}.0", act=False)
        if i < 2:
            y = layer(y, 2 * inner, 3, f"branch{i}.1")
            y = layer(y, 2 * inner, 3, f"branch{i}.2", dilation, act=False)
        else:  # one more 3x3, so that dilation 5 does not skip what lies between its taps
            y = layer(y, inner // 2 * 3, 3, f"branch{i}.1")
            y = layer(y, 2 * inner, 3, f"branch{i}.2")
            y = layer(y, 2 * inner, 3, f"branch{i}.3", dilation, act=False)
        branches.append(y)
    y = b.apply(Concat(axis=1), *branches, name=f"{key}.cat")
    y = layer(y, out, 1, "ConvLinear", act=False)
    shortcut = layer(x, out, 1, "shortcut", act=False)
    return relu(b, b.apply(Add(), y, shortcut, name=f"{key}.add"), f"{key}.relu")
