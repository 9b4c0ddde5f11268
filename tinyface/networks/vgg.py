"""VGG (Simonyan & Zisserman 2015, Table 1), with torchvision's names of weights."""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.errors import GraphError
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import relu
from tinyface.ops import AveragePool, MaxPool

POOL = 0  # in a configuration: 2x2 max pooling; other numbers are channels of a 3x3 convolution
VGG16 = (
    64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL,
)  # fmt: skip
HEAD_SIDE = 7  # the classifier was made for maps of 7x7


def vgg(
    *,
    layers: tuple[int, ...] = VGG16,
    batch_norm: bool = False,
    hidden: int = 4096,
    classes: int = 1000,
    size: Size = 224,
    name: str = "vgg16",
) -> Graph:
    """VGG: (1, 3, size, size) -> ``logits`` (1, classes).

    ``layers``: channels of the convolutions, POOL for a pooling. ``batch_norm`` gives
    torchvision's ``vgg16_bn``. 138.36 M parameters, 15470 M MACs.

    Raises:
        GraphError: the last map's sides are not multiples of 7.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    index = 0
    for out in layers:
        if out == POOL:
            x = b.apply(MaxPool(kernel=(2, 2), stride=(2, 2)), x, name=f"features.{index}")
            index += 1
            continue
        x = b.conv(x, out, 3, key=f"features.{index}", pad=1, bias=True)
        if batch_norm:
            index += 1
            x = b.batch_norm(x, key=f"features.{index}")
        x = relu(b, x, f"features.{index + 1}")
        index += 2
    x = blocks.flatten(b, _to_head(b, x))
    x = relu(b, b.linear(x, hidden, key="classifier.0"), "classifier.1")
    x = relu(b, b.linear(x, hidden, key="classifier.3"), "classifier.4")
    return b.build(logits=b.linear(x, classes, key="classifier.6"))


def _to_head(b: Builder, x: str) -> str:
    """Average a map of 7m x 7n down to 7x7 (torchvision's adaptive pooling; nothing at 224)."""
    _, _, h, w = b.shape(x)
    if h % HEAD_SIDE or w % HEAD_SIDE:
        raise GraphError(f"{b.name}: the last map is {h}x{w}: use an image size of 224 times n")
    kernel = (h // HEAD_SIDE, w // HEAD_SIDE)
    return x if kernel == (1, 1) else b.apply(AveragePool(kernel=kernel, stride=kernel), x)
