"""The plain CNNs of the FDFaceNet paper's Tables 3-5, on which it isolates fast down-sampling.

CNN-8 and its depthwise-separable, deeper, fast-down-sampling and pooling variants, all with one
list of channels. There is no public code; the layers are the ones that reproduce the printed
parameters, MACs and feature-map sizes. Not decided by the figures: ReLU against another
parameter-free activation, and the epsilon of batch norm (1e-5 here). The printed feature-map
output of CNN-8-FD-Pooling fits no counting rule; see :mod:`tinyface.traffic.tables`.
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import conv_bn, depthwise_bn, named, relu, scaled
from tinyface.networks.fdfacenet import CHANNELS, NORMAL
from tinyface.ops import GlobalAveragePool, MaxPool

DEEP = (1, 1, 2, 1, 3, 3, 2, 1)  # CNN-14: how often each layer of CNN-8 stands there
POOLED = (2, 1, 1, 1, 1, 1, 1, 1)  # CNN-8-FD-Pooling: layers 2-5 are followed by a pooling


def cnn(
    *,
    strides: tuple[int, ...] = NORMAL,
    channels: tuple[int, ...] = CHANNELS,
    repeats: tuple[int, ...] = (1,) * 8,
    pooled: tuple[int, ...] = (),
    separable: bool = False,
    width: float = 1.0,
    classes: int = 1000,
    size: Size = 224,
    name: str = "cnn-8",
) -> Graph:
    """A plain CNN: (1, 3, size, size) -> ``logits`` (1, classes).

    Every layer is a 3x3 convolution, batch norm and ReLU; then global average pooling and a
    fully connected layer with bias. Fully convolutional: any image size.

    ==================  =======  =======  =========  ===========
    network             strides  repeats  separable  pooled
    ==================  =======  =======  =========  ===========
    CNN-8               NORMAL   1 each   no
    CNN-8-DS            NORMAL   1 each   yes
    CNN-14-DS           NORMAL   DEEP     yes
    CNN-8-FD            FAST     1 each   no
    CNN-8-FD-Pooling    POOLED   1 each   no         2, 3, 4, 5
    ==================  =======  =======  =========  ===========

    (NORMAL and FAST are those of :mod:`tinyface.networks.fdfacenet`.)

    Args:
        repeats: how often each layer stands there; only the first has the stride.
        pooled: numbers (from 1) of the layers that a 2x2 max pooling follows.
        separable: all layers but the first are a depthwise and a pointwise convolution, each
            with batch norm and ReLU.
    """
    b = Builder(name)
    x = blocks.image(b, size)
    index = 0
    for i, (c, stride, n) in enumerate(zip(channels, strides, repeats, strict=True), start=1):
        for repeat in range(n):
            key, out, s = f"features.{index}", scaled(c, width), 1 if repeat else stride
            if separable and index:
                x = depthwise_bn(b, x, 3, named(f"{key}.dw", "act"), stride=s, act=relu)
                x = conv_bn(b, x, out, 1, named(f"{key}.pw", "act"), act=relu)
            elif i in pooled:
                x = conv_bn(b, x, out, 3, named(f"{key}.0", "act"), stride=s, act=relu)
                x = b.apply(MaxPool(kernel=(2, 2), stride=(2, 2)), x, name=f"{key}.1")
            else:
                x = conv_bn(b, x, out, 3, named(key, "act"), stride=s, act=relu)
            index += 1
    x = blocks.flatten(b, b.apply(GlobalAveragePool(), x, name="pool"))
    return b.build(logits=b.linear(x, classes, key="fc"))
