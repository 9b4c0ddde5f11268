"""LightCNN (Wu et al. 2018): max-feature-map instead of an activation, no batch norm.

Structure and names of AlfredXiangWu/LightCNN; the classifier ``fc2`` of its checkpoints is not
part of the networks here. Input: one grey channel, 128x128.
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.ops import Add, AveragePool, MaxFeatureMap, MaxPool


def mfm(b: Builder, x: str, out: int, kernel: int, key: str) -> str:
    """Convolution to twice the channels, then the larger of each pair. Wu et al., eq. 3."""
    x = b.conv(x, 2 * out, kernel, key=f"{key}.filter", pad=kernel // 2, bias=True)
    return b.apply(MaxFeatureMap(), x, name=key)


def mfm_linear(b: Builder, x: str, out: int, key: str) -> str:
    x = b.linear(x, 2 * out, key=f"{key}.filter")
    return b.apply(MaxFeatureMap(), x, name=key)


def group(b: Builder, x: str, out: int, key: str) -> str:
    """1x1 that keeps the channels, then 3x3."""
    x = mfm(b, x, b.channels(x), 1, f"{key}.conv_a")
    return mfm(b, x, out, 3, f"{key}.conv")


def _max_pool(b: Builder, x: str, key: str) -> str:
    return b.apply(MaxPool(kernel=(2, 2), stride=(2, 2), ceil=True), x, name=key)


def lightcnn9(*, embedding: int = 256, size: Size = 128, name: str = "lightcnn9") -> Graph:
    """LightCNN-9: (1, 1, size, size) -> ``embedding`` (1, embedding). 5.48 M, 977 M MACs."""
    b = Builder(name)
    x = mfm(b, blocks.image(b, size, channels=1), 48, 5, "features.0")
    x = _max_pool(b, x, "features.1")
    x = _max_pool(b, group(b, x, 96, "features.2"), "features.3")
    x = _max_pool(b, group(b, x, 192, "features.4"), "features.5")
    x = group(b, group(b, x, 128, "features.6"), 128, "features.7")
    x = blocks.flatten(b, _max_pool(b, x, "features.8"))
    return b.build(embedding=mfm_linear(b, x, embedding, "fc1"))


def lightcnn29(
    *,
    v2: bool = False,
    repeats: tuple[int, int, int, int] = (1, 2, 3, 4),
    embedding: int = 256,
    size: Size = 128,
    name: str = "lightcnn29",
) -> Graph:
    """LightCNN-29: (1, 1, size, size) -> ``embedding`` (1, embedding). 12.57 M, 3619 M MACs.

    ``repeats``: residual blocks per group. ``v2``: every pooling is the sum of a max and an
    average pooling, and the last layer is a plain fully connected one.
    """
    b = Builder(name)
    pool = _sum_pool if v2 else _max_pool
    x = mfm(b, blocks.image(b, size, channels=1), 48, 5, "conv1")
    x = pool(b, x, "pool1")
    for i, (out, n) in enumerate(zip((96, 192, 128, 128), repeats, strict=True), start=1):
        for j in range(n):
            x = _residual(b, x, f"block{i}.{j}")
        x = group(b, x, out, f"group{i}")
        if i != 3:  # two groups share the scale of 16 pixels a side
            x = pool(b, x, f"pool{min(i + 1, 4)}")
    x = blocks.flatten(b, x)
    if v2:
        return b.build(embedding=b.linear(x, embedding, key="fc"))
    return b.build(embedding=mfm_linear(b, x, embedding, "fc"))


def _residual(b: Builder, x: str, key: str) -> str:
    y = mfm(b, x, b.channels(x), 3, f"{key}.conv1")
    y = mfm(b, y, b.channels(x), 3, f"{key}.conv2")
    return b.apply(Add(), y, x, name=key)


def _sum_pool(b: Builder, x: str, key: str) -> str:
    high = b.apply(MaxPool(kernel=(2, 2), stride=(2, 2)), x, name=f"{key}.max")
    mean = b.apply(AveragePool(kernel=(2, 2), stride=(2, 2)), x, name=f"{key}.avg")
    return b.apply(Add(), high, mean, name=key)
