"""Faces of people who do not exist: MobileStyleGAN (Belousov 2021, arXiv:2104.04767) in PyTorch.

The weights are those of the package `random_face` on PyPI (a student of StyleGAN2, which had learnt
from the 70,000 pictures of FFHQ, 1024x1024): OpenVINO's two files of the mapping network, which
makes a style (512 numbers) of noise, and two of the synthesis network, which makes a picture of
styles: a constant of 4x4, and seven blocks that each double the side by an inverse Haar transform
(a quarter of the channels are means, the rest details) and apply two separable 3x3 convolutions
whose input channels the style has scaled.

    [x s] -> inverse Haar -> [x s] -> 3x3, 1x1, + noise, LeakyReLU -> [x s] -> 3x3, 1x1, + ...

A face is wanted at 112x112, not at 1024x1024: the last block, which would go from 256x256 to
512x512, runs at 256x256 on the transform's means alone, its kernels shrunk to that (`_shrunk`).
That takes a quarter of its time; the picture differs from the mean of 2x2 pixels of the
whole one by 4 to 8 of 255 (root mean square), half of it sharpness of hair and background.

Maps are (n, height, width, channels) in bfloat16, so that a 1x1 convolution is one product; the
rest of a layer is compiled to one pass.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.2
KIND = torch.bfloat16
ELEMENTS = {"f32": np.dtype("<f4"), "i32": np.dtype("<i4"), "i64": np.dtype("<i8")}


def package_folder() -> Path:
    """Where the weights of `random_face` lie; the package itself, which wants an old OpenVINO, is
    not imported.

    Raises:
        ValueError: it is not installed.
    """
    spec = find_spec("random_face")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("random_face is not installed; run: pip install --no-deps random_face")
    return Path(spec.submodule_search_locations[0]) / "data"


def constants(path: Path) -> dict[str, Tensor]:
    """Every constant of an OpenVINO model `path` (.xml, with its .bin beside it), by its name, in
    the order of the file.

    Raises:
        ValueError: a constant does not lie inside the .bin, or is of an unknown type.
    """
    numbers = path.with_suffix(".bin").read_bytes()
    found = {}
    for layer in ElementTree.parse(path).getroot().iter("layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None:
            continue
        kind, start, size = data.get("element_type"), int(data.get("offset", -1)), data.get("size")
        shape = [int(n) for n in data.get("shape", "").split(",") if n.strip()]
        if kind not in ELEMENTS or math.prod(shape) * ELEMENTS[kind].itemsize != int(size or -1):
            raise ValueError(f"{path}: {layer.get('name')}: {kind} {shape} in {size} bytes")
        if not 0 <= start <= len(numbers) - int(size or 0):
            raise ValueError(f"{path}: {layer.get('name')} lies outside its .bin")
        values = np.frombuffer(numbers, ELEMENTS[kind], math.prod(shape), start)
        found[str(layer.get("name"))] = torch.from_numpy(values.reshape(shape).copy())
    return found


@torch.compile(dynamic=False)
def _doubled(x: Tensor, scale: Tensor) -> Tensor:
    """(n,h,w,4,c), (n,1,1,4,c) -> (n,2h,2w,c): the inverse Haar transform of `x * scale`, whose
    four parts are the means and the details along y, along x and along both.
    """
    mean, along_y, along_x, both = (x.float() * scale * 0.5).unbind(3)
    upper = torch.stack([mean + along_y + along_x + both, mean + along_y - along_x - both], 3)
    lower = torch.stack([mean - along_y + along_x - both, mean - along_y - along_x + both], 3)
    n, h, w, c = mean.shape
    return torch.stack([upper, lower], 2).to(KIND).reshape(n, 2 * h, 2 * w, c)


@torch.compile(dynamic=False)
def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """(n,h,w,c), (n,9,1,1,c) -> (n,h,w,c): 3x3, zeros outside; each picture has its kernels."""
    h, w = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    total = torch.zeros((), device=x.device)
    for tap in range(9):
        y, left = divmod(tap, 3)
        total = total + padded[:, y : y + h, left : left + w].float() * kernel[:, tap]
    return total.to(KIND)


@torch.compile(dynamic=False)
def _activated(x: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """(n,h,w,c), (h,w,1), (c,): + noise + bias, LeakyReLU."""
    x = x.float() + noise + bias
    return torch.where(x > 0, x, SLOPE * x).to(KIND)


def _shrunk(kernel: Tensor) -> Tensor:
    """(c,3,3) kernels for a map -> those for its means of 2x2 pixels, as if those were constant:
    of the two outputs in a mean, one has one tap on the neighbour, the other has none.
    """
    along = torch.tensor([[0.5, 0, 0], [0.5, 1, 0.5], [0, 0, 0.5]], device=kernel.device)
    return along @ kernel @ along.T


def _parted(width: int) -> Tensor:
    """Where the `width` channels of a map stand that goes into `_doubled`: the files have the means
    first and then three details for each of them, here are four parts.
    """
    means = width // 4
    details = torch.arange(3 * means).reshape(means, 3).T.reshape(-1)
    return torch.cat([torch.arange(means), means + details])


class _Style(NamedTuple):
    """Factors of a layer's inputs: (n,512) -> (n,c)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, style: Tensor) -> Tensor:
        return style @ self.weight + self.bias


class _Layer(NamedTuple):
    """A separable convolution with what follows it."""

    style: _Style
    kernel: Tensor  # (9,1,1,c)
    weight: Tensor  # (c,d)
    noise: Tensor  # (h,w,1)
    bias: Tensor  # (d,)

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """(n,h,w,c) -> (n,h,w,d); a channel's factor goes into its kernel."""
        factors = self.style(style)[:, None, None, None]
        x = _depthwise(x, self.kernel * factors) @ self.weight
        return _activated(x, self.noise, self.bias)


class Generator:
    """Noise -> styles -> pictures.

    Args:
        folder: of `MappingNetwork` and `SynthesisNetwork`, each `.xml` and `.bin`.

    Attributes:
        width: of noise and styles (512).
        levels: the constant and the blocks; each may have a style of its own (8).
        side: of pictures, in pixels (256).
        mean: style, (512,).

    Raises:
        ValueError: the files are not those of random_face 2021.7.21.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        torch._dynamo.config.recompile_limit = 64  # one for every shape of map
        self.device = device
        try:
            self._mapping(constants(folder / "MappingNetwork.xml"))
            self._synthesis(constants(folder / "SynthesisNetwork.xml"))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{folder}: not random_face 2021.7.21: {error}") from error

    def _mapping(self, found: dict[str, Tensor]) -> None:
        """Layers' weights (width, width) and biases (width,) stand in order."""
        numbers = [t.to(self.device) for t in found.values() if t.numel() > 1]
        weights = [t for t in numbers if t.dim() == 2]
        biases = [t for t in numbers if t.dim() == 1]
        self.dense = list(zip(weights, biases, strict=True))
        self.width = len(weights[0])
        noise = torch.randn(4096, self.width, generator=torch.Generator().manual_seed(0))
        self.mean = self.styles(noise).mean(0)

    def _synthesis(self, found: dict[str, Tensor]) -> None:
        """Noises (1,1,h,w) and products (d,c,1,1), `Mul_...`, stand in order; others have names."""
        own = {name.removeprefix("m."): t.to(self.device) for name, t in found.items()}
        maps = {name: t for name, t in own.items() if t.dim() == 4}
        noises = [t[0, 0, :, :, None] for t in maps.values() if len(t[0]) == 1 < t.shape[2]]
        dense = [t for name, t in maps.items() if name.startswith("Mul_")]
        self.own, self.levels = own, len(noises) // 2 + 1
        self.side = len(noises[-1]) // 2
        order = _parted(len(dense[0]))
        self.first = dense[0][order], noises[0], own["conv1.bias"].reshape(-1)[order]
        self.scale = self._style("conv1.conv", gain=1 / math.sqrt(9 * dense[0].shape[1]))
        self.ups: list[_Style] = []
        self.layers: list[tuple[_Layer, _Layer]] = []
        for k in range(self.levels - 1):
            self.ups.append(self._style(f"layers.{k}.up", order))
            order = _parted(len(dense[2 * k + 2])) if k < self.levels - 2 else slice(None)
            at = slice(2 * k + 1, 2 * k + 3)
            names = (f"layers.{k}.conv{j}" for j in (1, 2))
            one, two = map(self._layer, names, dense[at], noises[at])
            two = two._replace(weight=two.weight[:, order].contiguous(), bias=two.bias[order])
            self.layers.append((one, two))
        last = f"layers.{self.levels - 2}.to_img"
        self.paint, self.paper = own[f"{last}.conv.weight"][:3, :, 0, 0].T, own[f"{last}.bias"]
        self.colour = self._style(f"{last}.conv", gain=1 / math.sqrt(len(self.paint)))

    def _style(self, name: str, order: Tensor | slice = slice(None), gain: float = 1.0) -> _Style:
        weight, bias = (self.own[f"{name}.modulation.{part}"] * gain for part in ("weight", "bias"))
        return _Style(weight[order].T, bias.reshape(-1)[order])

    def _layer(self, name: str, dense: Tensor, noise: Tensor) -> _Layer:
        kernel = self.own[f"{name}.conv.weight_dw"][:, 0, 0]
        style = self._style(f"{name}.conv", gain=1 / math.sqrt(9 * len(kernel)))
        if len(noise) > self.side:
            kernel = _shrunk(kernel)
            noise = F.avg_pool2d(noise.permute(2, 0, 1), 2).permute(1, 2, 0)
        taps = kernel.reshape(-1, 9).T[:, None, None].contiguous()
        weight = dense[:, :, 0, 0].T.to(KIND).contiguous()
        return _Layer(style, taps, weight, noise.contiguous(), self.own[f"{name}.bias"].reshape(-1))

    @torch.inference_mode()
    def styles(self, noise: Tensor) -> Tensor:
        """(n,width) of normal numbers -> (n,width)."""
        x = noise.to(self.device)
        x = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-8)
        for weight, bias in self.dense:
            x = F.leaky_relu(x @ weight.T + bias, SLOPE) * math.sqrt(2)
        return x

    @torch.inference_mode()
    def pictures(self, styles: Tensor) -> Tensor:
        """(n,levels,width) -> (n,side,side,3) RGB uint8."""
        n, level = len(styles), styles.unbind(1)
        dense, noise, bias = self.first
        x = self.own["input.input"] * self.scale(level[0])[:, :, None, None]
        x = _activated(F.conv2d(x, dense, padding=1).permute(0, 2, 3, 1), noise, bias)
        for style, up, (one, two) in zip(level[1:], self.ups, self.layers, strict=True):
            x, scale = x.unflatten(3, (4, -1)), up(style).view(n, 1, 1, 4, -1)
            if x.shape[1] < self.side:
                x = _doubled(x, scale)
            else:  # the means alone, at half the side
                x = (x[:, :, :, 0] * (scale[:, :, :, 0] * 0.5)).to(KIND)
            x = two(one(x, style), style)
        painted = (x * self.colour(level[-1])[:, None, None]) @ self.paint
        # three means, three times three details; a mean is twice that of its pixels, -1..1
        painted = (painted + self.paper.reshape(-1)[:3]) * 0.5
        return ((painted + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
