"""The students, as PyTorch modules whose state-dict keys are the ones tinyface imports.

`FDFaceNet` is Table 7 of the fast-down-sampling paper: eight 3x3 convolutions, five of them with
stride 2, so that a 112x112 face is a 4x4 map after the fifth. `DWFN` is the depthwise ablation in
the same paper; `MobileFaceNet` (Chen et al. 2018, Table 1) is what others would take.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

FD_CHANNELS = (48, 128, 128, 256, 192, 192, 256, 512)
FD_STRIDES = (2, 2, 2, 2, 2, 1, 1, 1)
DW_STRIDES = (2, 1, 2, 1, 2, 2, 2, 1)


class ConvUnit(nn.Module):
    """Convolution without bias, batch normalisation and, unless `linear`, PReLU per channel."""

    def __init__(
        self,
        inp: int,
        out: int,
        kernel: int,
        stride: int = 1,
        pad: int = 0,
        groups: int = 1,
        linear: bool = False,
        act: str = "act",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, out, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.act_name = None if linear else act
        if not linear:
            self.add_module(act, nn.PReLU(out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.act_name is None else getattr(self, self.act_name)(x)


class FDFaceNet(nn.Module):
    """3x112x112 in [-1, 1] -> 512-d embedding (not normalised). 129 M MACs."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        inp = 3
        for i, (out, stride) in enumerate(zip(FD_CHANNELS, FD_STRIDES, strict=True), 1):
            self.add_module(f"conv{i}", ConvUnit(inp, out, 3, stride, 1))
            inp = out
        self.gdc = ConvUnit(inp, inp, 4, groups=inp, linear=True)
        self.fc = nn.Linear(inp, width)
        self.bn = nn.BatchNorm1d(width)

    def features(self, x: Tensor) -> Tensor:
        """The 4x4 map of 512 channels in front of the global depthwise convolution."""
        for i in range(1, len(FD_CHANNELS) + 1):
            x = getattr(self, f"conv{i}")(x)
        return x

    def head(self, x: Tensor) -> Tensor:
        """The map -> the embedding."""
        return self.bn(self.fc(self.gdc(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Separable(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with batch normalisation and PReLU."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.dw = ConvUnit(inp, inp, 3, stride, 1, groups=inp)
        self.pw = ConvUnit(inp, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))


class DWFN(FDFaceNet):
    """The paper's depthwise ablation: 3x112x112 in [-1, 1] -> 512-d. 80 M MACs, 0.62 M parameters.

    The same channels as FDFaceNet, down-sampled slowly and with separable convolutions: fewer
    MACs and a fifth of the weights, but four times the feature-map traffic.
    """

    def __init__(self, width: int = 512) -> None:
        super().__init__(width)
        for i in range(2, len(FD_CHANNELS) + 1):
            unit = Separable(FD_CHANNELS[i - 2], FD_CHANNELS[i - 1], DW_STRIDES[i - 1])
            setattr(self, f"conv{i}", unit)


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; with a residual where stride and width allow."""

    def __init__(self, inp: int, out: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inp, wide, 1, act="prelu")
        self.conv_dw = ConvUnit(wide, wide, 3, stride, 1, groups=wide, act="prelu")
        self.project = ConvUnit(wide, out, 1, linear=True)
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class Repeat(nn.Module):
    """Residual bottlenecks one after another, under the name `model`."""

    def __init__(self, width: int, wide: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Bottleneck(width, width, wide, 1) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MobileFaceNet(nn.Module):
    """3x112x112 in [-1, 1] -> 128-d embedding (not normalised). 221 M MACs, 1.00 M parameters.

    The names are those of the PyTorch port that most checkpoints come from.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.conv1 = ConvUnit(3, 64, 3, 2, 1, act="prelu")
        self.conv2_dw = ConvUnit(64, 64, 3, 1, 1, groups=64, act="prelu")
        self.conv_23 = Bottleneck(64, 64, 128, 2)
        self.conv_3 = Repeat(64, 128, 4)
        self.conv_34 = Bottleneck(64, 128, 256, 2)
        self.conv_4 = Repeat(128, 256, 6)
        self.conv_45 = Bottleneck(128, 128, 512, 2)
        self.conv_5 = Repeat(128, 256, 2)
        self.conv_6_sep = ConvUnit(128, 512, 1, act="prelu")
        self.conv_6_dw = ConvUnit(512, 512, 7, groups=512, linear=True)
        self.linear = nn.Linear(512, width, bias=False)
        self.bn = nn.BatchNorm1d(width)

    def features(self, x: Tensor) -> Tensor:
        """The 7x7 map of 512 channels in front of the global depthwise convolution."""
        x = self.conv_23(self.conv2_dw(self.conv1(x)))
        x = self.conv_45(self.conv_4(self.conv_34(self.conv_3(x))))
        return self.conv_6_sep(self.conv_5(x))

    def head(self, x: Tensor) -> Tensor:
        """The map -> the embedding."""
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def has_depthwise(model: nn.Module) -> bool:
    """Whether depthwise convolutions go over maps; a last one, which leaves a single pixel, has no
    border and does not count."""
    return any(
        m.groups == m.in_channels > 1 and any(m.padding)
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fdfacenet": FDFaceNet,
    "dwfn": DWFN,
    "mobilefacenet": MobileFaceNet,
}
WIDTHS = {"fdfacenet": 512, "dwfn": 512, "mobilefacenet": 128}


def stages(name: str, parameter: str) -> float:
    """The share of a run after which a parameter is at rest (1 = never before the end).

    The first layers settle first and cost most; at rest they need no gradient, and the run has
    more samples left for the others (FreezeOut, Brock et al. 2017).
    """
    first = parameter.split(".")[0]
    rests = {
        "fdfacenet": {"conv1": 0.6, "conv2": 0.65, "conv3": 0.8},
        "dwfn": {"conv1": 0.6, "conv2": 0.65},
    }
    return rests.get(name, {}).get(first, 1.0)
