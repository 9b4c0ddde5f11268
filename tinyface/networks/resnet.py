"""ResNet (He et al. 2016, Table 1), with torchvision's names of weights and its strides."""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Keys, conv_bn, numbered, relu, scaled
from tinyface.ops import Add, GlobalAveragePool, MaxPool


def resnet(
    *,
    layers: tuple[int, ...] = (2, 2, 2, 2),
    bottleneck: bool = False,
    width: float = 1.0,
    classes: int = 1000,
    size: Size = 224,
    name: str = "resnet18",
) -> Graph:
    """ResNet: (1, 3, size, size) -> ``logits`` (1, classes). Any image size.

    ``layers``: blocks per stage. ``bottleneck``: 1x1, 3x3, 1x1 with four times the channels at
    the end, the stride on the 3x3 (torchvision; the paper has it on the first 1x1).
    ResNet-18: 11.69 M parameters, 1814 M MACs; ResNet-50, layers (3, 4, 6, 3) with bottleneck:
    25.56 M, 4089 M.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    x = conv_bn(b, x, scaled(64, width), 7, Keys("conv1", "bn1", "relu"), stride=2, act=relu)
    x = b.apply(MaxPool(kernel=(3, 3), stride=(2, 2), pad=(1, 1, 1, 1)), x, name="maxpool")
    for stage, n in enumerate(layers):
        inner = scaled(64 << stage, width)
        for i in range(n):
            stride = 2 if stage and not i else 1
            x = _block(b, x, inner, stride, bottleneck, f"layer{stage + 1}.{i}")
    x = blocks.flatten(b, b.apply(GlobalAveragePool(), x, name="avgpool"))
    return b.build(logits=b.linear(x, classes, key="fc"))


def _block(b: Builder, x: str, inner: int, stride: int, bottleneck: bool, key: str) -> str:
    """y = relu(F(x) + shortcut(x)); the shortcut is a 1x1 convolution where shapes differ."""
    shapes = ((1, 1, inner), (3, stride, inner), (1, 1, 4 * inner)) if bottleneck else (
        (3, stride, inner), (3, 1, inner)
    )  # fmt: skip
    y = x
    for i, (kernel, s, out) in enumerate(shapes, start=1):
        keys = Keys(f"{key}.conv{i}", f"{key}.bn{i}", f"{key}.relu{i}")
        y = conv_bn(b, y, out, kernel, keys, stride=s, act=relu if i < len(shapes) else None)
    if b.shape(y) != b.shape(x):
        x = conv_bn(b, x, b.channels(y), 1, numbered(f"{key}.downsample"), stride=stride)
    return relu(b, b.apply(Add(), y, x, name=f"{key}.add"), f"{key}.relu")
