"""RetinaFace with a MobileNetV1 x0.25 body and five landmarks (Deng et al. 2019; the small form
of biubug6/Pytorch_Retinaface). Fully convolutional: any image size.

Body -> feature pyramid on strides 8, 16, 32 -> a context module (SSH) per level -> three 1x1
heads per level. What the network puts out is relative to fixed anchors ("priors"); decoding
them is the detector's work, see :mod:`tinyface.vision.detect`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Act, conv_bn, depthwise_bn, leaky, numbered, relu, scaled
from tinyface.ops import Add, Concat, ReLU, Reshape, Resize, Softmax, Transpose

# (output channels at width 1, stride) of the separable layers of each stage of MobileNetV1
BODY = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)
FIELDS = (("BboxHead", 4), ("ClassHead", 2), ("LandmarkHead", 10))


def retinaface(
    *,
    size: Size = 320,
    width: float = 0.25,
    pyramid: int = 64,
    anchors: int = 2,
    act: Act | None = None,
    name: str = "retinaface-mnet0.25",
) -> Graph:
    """RetinaFace: (1, 3, h, w) BGR minus mean -> ``loc``, ``conf``, ``landms``.

    Shapes (1, p, 4), (1, p, 2), (1, p, 10) with p priors: levels of stride 8, 16, 32 one after
    the other, each row by row, ``anchors`` per cell. ``conf`` is a softmax; index 1 is "face".

    ``act`` is the activation of body, pyramid and context modules: LeakyReLU 0.1 by default;
    biubug6/Face-Detector-1MB-with-landmark has plain ReLU (:func:`retinaface_lowres`). The two
    have weights of the same names and shapes, and each gives nonsense with the other's.
    """
    act = act or leaky(0.1)
    b = Builder(name)
    levels = body(b, blocks.image(b, size), width, act)
    levels = feature_pyramid(b, levels, pyramid, act)
    levels = [ssh(b, x, pyramid, f"ssh{i}", act) for i, x in enumerate(levels, start=1)]
    loc, conf, landms = (
        head(b, [_conv1x1(b, x, anchors * n, f"{key}.{i}") for i, x in enumerate(levels)], n, key)
        for key, n in FIELDS
    )
    return b.build(loc=loc, conf=b.apply(Softmax(axis=-1), conf, name="softmax"), landms=landms)


def retinaface_lowres(*, size: Size = 320, name: str = "retinaface-mnet0.25-lowres") -> Graph:
    """The same network with plain ReLU, trained for smaller faces (anchors from 10 pixels)."""
    return retinaface(size=size, act=relu, name=name)


def body(b: Builder, x: str, width: float, act: Act) -> list[str]:
    """MobileNetV1 -> its maps of stride 8, 16 and 32."""
    x = conv_bn(b, x, scaled(32, width), 3, numbered("body.stage1.0"), stride=2, act=act)
    maps = []
    for s, stage in enumerate(BODY, start=1):
        for i, (out, stride) in enumerate(stage, start=1 if s == 1 else 0):
            key = f"body.stage{s}.{i}"
            x = depthwise_bn(b, x, 3, numbered(key), stride=stride, act=act)
            x = conv_bn(b, x, scaled(out, width), 1, numbered(key, 3), act=act)
        maps.append(x)
    return maps


def feature_pyramid(b: Builder, maps: Sequence[str], out: int, act: Act) -> list[str]:
    """Bring three maps to ``out`` channels and add each, enlarged, to the next finer one.

    The coarse map is resized to the finer map's own size, not by two: sides may be odd.
    """
    p1, p2, p3 = (
        conv_bn(b, x, out, 1, numbered(f"fpn.output{i}"), act=act)
        for i, x in enumerate(maps, start=1)
    )
    up = b.apply(Resize(mode="nearest"), p3, p2, name="fpn.up3")
    p2 = b.apply(Add(), p2, up, name="fpn.add2")
    p2 = conv_bn(b, p2, out, 3, numbered("fpn.merge2"), act=act)
    up = b.apply(Resize(mode="nearest"), p2, p1, name="fpn.up2")
    p1 = b.apply(Add(), p1, up, name="fpn.add1")
    return [conv_bn(b, p1, out, 3, numbered("fpn.merge1"), act=act), p2, p3]


def ssh(b: Builder, x: str, out: int, key: str, act: Act) -> str:
    """Context module (Najibi et al. 2017): one, two and three 3x3 convolutions side by side."""
    a = conv_bn(b, x, out // 2, 3, numbered(f"{key}.conv3X3"))
    y = conv_bn(b, x, out // 4, 3, numbered(f"{key}.conv5X5_1"), act=act)
    two = conv_bn(b, y, out // 4, 3, numbered(f"{key}.conv5X5_2"))
    y = conv_bn(b, y, out // 4, 3, numbered(f"{key}.conv7X7_2"), act=act)
    three = conv_bn(b, y, out // 4, 3, numbered(f"{key}.conv7x7_3"))
    return b.apply(ReLU(), b.apply(Concat(axis=1), a, two, three, name=f"{key}.cat"), name=key)


def head(b: Builder, maps: Sequence[str], fields: int, name: str) -> str:
    """Maps (n, anchors * fields, h, w), one per level -> (n, all priors, fields)."""
    rows = []
    for i, x in enumerate(maps):
        x = b.apply(Transpose(perm=(0, 2, 3, 1)), x, name=f"{name}.{i}.nhwc")
        rows.append(b.apply(Reshape(shape=(0, -1, fields)), x, name=f"{name}.{i}.rows"))
    return b.apply(Concat(axis=1), *rows, name=name)


def _conv1x1(b: Builder, x: str, out: int, key: str) -> str:
    return b.conv(x, out, 1, key=f"{key}.conv1x1", bias=True)
