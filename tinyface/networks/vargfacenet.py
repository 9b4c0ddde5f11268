"""VarGFaceNet (Yan et al. 2019): group convolutions with a fixed number of channels per group.

Structure of zma-c-137/VarGFaceNet (MXNet). Layers have the names of its symbol; the MXNet
parameter ``X_weight`` is ``X.weight`` here, and so on (:func:`from_mxnet`). The public graph
also normalises its input; here that is the preprocessing, (x - 127.5) / 128.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import GateKeys, Keys, conv_bn, prelu, scaled, squeeze_excite
from tinyface.ops import Add, Sigmoid
from tinyface.ops.spec import Array

EPS = 2e-5
UNITS = (3, 7, 4)


def vargfacenet(
    *,
    width: float = 1.25,
    units: tuple[int, ...] = UNITS,
    group: int = 8,
    last: int = 1024,
    embedding: int = 512,
    size: Size = 112,
    name: str = "vargfacenet",
) -> Graph:
    """VarGFaceNet: (1, 3, size, size) -> ``embedding`` (1, embedding). 5.198 M, 513 M MACs.

    ``group``: channels per group of every spatial convolution. ``units`` per stage (28, 14, 7
    pixels a side); stage channels are 64, 128, 256 times ``width``.
    """
    b = Builder(name)
    net = _Layers(b, group)
    stem = scaled(32, width)
    x = blocks.image(b, size)
    x = conv_bn(b, x, stem, 3, _keys("vargface_head_conv1"), eps=EPS, act=prelu)
    x = net.unit(x, stem, 1, "vargface_head_head_pooling", stride=2)
    for stage, n in enumerate(units, start=2):
        out = scaled(16 << stage, width)
        x = net.merge_unit(x, out, f"vargface_stage_{stage}_unit_1")
        for i in range(2, n + 1):
            x = net.unit(x, out, 2, f"vargface_stage_{stage}_unit_{i}")
    return b.build(embedding=_embed(b, x, last, embedding, group))


def _keys(key: str) -> Keys:
    return Keys(key, f"{key}_bn", f"{key}_act")


def _embed(b: Builder, x: str, last: int, embedding: int, group: int) -> str:
    """Pointwise to ``last``; group convolution over the whole map; pointwise; fully connected."""
    x = conv_bn(b, x, last, 1, _keys("embed_convx"), eps=EPS, act=prelu)
    keys, side = _keys("embed_convx_depthwise"), b.shape(x)[2:]
    x = conv_bn(b, x, last, (side[0], side[1]), keys, pad=0, groups=last // group, eps=EPS)
    x = conv_bn(b, x, last // 2, 1, _keys("embed_convx_pointwise"), eps=EPS, act=prelu)
    x = b.linear(blocks.flatten(b, x), embedding, key="pre_fc1")
    return b.batch_norm(x, key="fc1", eps=EPS)


class _Layers:
    """The blocks of the paper's Fig. 1, on one builder with one group size."""

    def __init__(self, b: Builder, group: int) -> None:
        self.b, self.group = b, group

    def separable(
        self, x: str, out: int, factor: int, key: str, *, stride: int = 1, act: bool = False
    ) -> str:
        """3x3 in groups (channels times ``factor``), PReLU, pointwise [, PReLU]."""
        c = self.b.channels(x)
        groups = c // self.group
        keys = _keys(f"{key}_conv2d_depthwise")
        x = conv_bn(
            self.b, x, factor * c, 3, keys, stride=stride, groups=groups, eps=EPS, act=prelu
        )
        keys = _keys(f"{key}_conv2d_pointwise")
        return conv_bn(self.b, x, out, 1, keys, eps=EPS, act=prelu if act else None)

    def unit(self, x: str, out: int, factor: int, key: str, *, stride: int = 1) -> str:
        """Fig. 1 (a): two separable layers and a gate, plus a shortcut; PReLU."""
        shortcut = x
        if stride > 1:
            shortcut = self.separable(x, out, factor, f"{key}_shortcut", stride=stride)
        y = self.separable(x, out, factor, f"{key}_sep1_data", stride=stride, act=True)
        y = self.separable(y, out, factor, f"{key}_sep2_data")
        keys = GateKeys(f"{key}_se_conv1", f"{key}_se_act1", f"{key}_se_conv2")
        y = squeeze_excite(self.b, y, out // 4, keys, act=prelu, gate=Sigmoid(), name=f"{key}_se")
        return self._add(y, shortcut, f"{key}_out_data")

    def merge_unit(self, x: str, out: int, key: str) -> str:
        """Fig. 1 (b), stride 2: two parallel separable layers are added; no gate."""
        shortcut = self.separable(x, out, 2, f"{key}_shortcut", stride=2)
        y1 = self.separable(x, out, 2, f"{key}_sep1_data_branch", stride=2)
        y2 = self.separable(x, out, 2, f"{key}_sep2_data_branch", stride=2)
        y = self._add(y1, y2, f"{key}_sep1_data")
        y = self.separable(y, out, 2, f"{key}_sep2_data")
        return self._add(y, shortcut, f"{key}_out_data")

    def _add(self, x: str, y: str, key: str) -> str:
        return prelu(self.b, self.b.apply(Add(), x, y, name=key), f"{key}_act")


def from_mxnet(state: Mapping[str, Array]) -> dict[str, Array]:
    """Rename MXNet parameters: ``[arg:|aux:]X_gamma`` -> ``X.weight`` and so on."""
    endings = {
        "_weight": ".weight", "_bias": ".bias", "_gamma": ".weight", "_beta": ".bias",
        "_moving_mean": ".running_mean", "_moving_var": ".running_var",
    }  # fmt: skip
    result = {}
    for key, value in state.items():
        name = key.removeprefix("arg:").removeprefix("aux:")
        old = next((e for e in endings if name.endswith(e)), "")
        result[name.removesuffix(old) + endings[old] if old else name] = value
    return result
