"""What a student sees: a batch of 128x128 crops, moved, recoloured, spoilt, cut to 112x112.

One batched `grid_sample` moves all pictures; everything else is arithmetic on the whole batch, on
the device that the pictures and the generator of random numbers share. The targets stay those of
the clean pictures, so a change must leave the person recognisable.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.turn import SIZE, turns


def _uniform(n: int, low: float, high: float, gen: torch.Generator) -> Tensor:
    return torch.empty(n, device=gen.device).uniform_(low, high, generator=gen)


def _normal(*size: int, gen: torch.Generator, deviation: float = 1.0) -> Tensor:
    return torch.empty(*size, device=gen.device).normal_(0, deviation, generator=gen)


def _chance(n: int, p: float, gen: torch.Generator) -> Tensor:
    return torch.rand(n, generator=gen, device=gen.device) < p


def move(
    x: Tensor,
    gen: torch.Generator,
    strength: float = 1.0,
    size: int = SIZE,
    aside: float = 0.0,
    shown: int = SIZE,
) -> Tensor:
    """(b,3,s,s) -> (b,3,size,size): the 112x112 middle, or that of another number of pixels
    `shown`, turned, scaled, shifted, mirrored.

    At strength 1: 5 degrees (deviation), scale +-8 %, each side +-3 % more, shift +-4 pixels. An
    `aside` share looks aside, up or down (`turn.py`; pictures of 112x112 alone).
    """
    n, side = x.shape[0], x.shape[-1]
    angle = _normal(n, gen=gen, deviation=0.087).clamp_(-0.2, 0.2) * strength
    scale = torch.exp(_uniform(n, -0.08, 0.08, gen) * strength)
    sx = scale * torch.exp(_uniform(n, -0.03, 0.03, gen) * strength)
    sy = scale * torch.exp(_uniform(n, -0.03, 0.03, gen) * strength)
    flip = torch.where(_chance(n, 0.5, gen), -1.0, 1.0)
    shift = [_uniform(n, -4, 4, gen) * strength * 2 / side for _ in range(2)]
    half = shown / side  # the template's share of the stored crop
    cos, sin = torch.cos(angle) * half, torch.sin(angle) * half
    theta = torch.stack(
        [flip * cos * sx, -sin * sy, shift[0], flip * sin * sx, cos * sy, shift[1]], 1
    ).view(n, 2, 3)
    upright = torch.eye(2, 3, device=gen.device)[None]
    points = F.affine_grid(upright, [1, 3, size, size], align_corners=False)
    if aside and size == SIZE:
        known = turns(device=gen.device)
        which = torch.randint(1, len(known), (n,), generator=gen, device=gen.device)
        points = points + known[torch.where(_chance(n, aside, gen), which, 0)]
    grid = points.view(len(points), -1, 2) @ theta[:, :, :2].mT + theta[:, None, :, 2]
    grid = grid.view(n, size, size, 2)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def relight(x: Tensor, gen: torch.Generator, share: float) -> Tensor:
    """Light from one side on a `share` of the pictures, hard contrast on another; x in [0, 1]."""
    n, side = len(x), x.shape[-1]
    axis = torch.linspace(-1, 1, side, device=gen.device)
    angle, steep = _uniform(n, 0, 2 * math.pi, gen), _uniform(n, 0.2, 1.4, gen)
    steep = torch.where(_chance(n, share, gen), steep, 0.0)
    across, down = (torch.exp(f(angle) * steep * axis[:, None]).T for f in (torch.cos, torch.sin))
    across = (
        across * torch.exp(-0.6 * steep)[:, None]
    )  # one side in the dark, the other not glaring
    x = x * (down[:, None, :, None] * across[:, None, None, :])
    mean = x.mean((1, 2, 3), keepdim=True)
    hard = torch.exp(torch.where(_chance(n, share, gen), _uniform(n, 0, 0.9, gen), 0.0))
    return (mean + (x - mean) * hard.view(n, 1, 1, 1)).clamp(0, 1)


def soften(x: Tensor, gen: torch.Generator, share: float = 0.3) -> Tensor:
    """Bring a `share` of the batch to a lower resolution (28..96 pixels) and back again."""
    parts = max(1, round(len(x) * share / 4))
    for k in range(4 if share else 0):
        low = int(torch.randint(28, 97, (1,), generator=gen, device=gen.device))
        part = x[k * parts : (k + 1) * parts]
        small = F.interpolate(part, size=(low, low), mode="bilinear", antialias=True)
        x[k * parts : (k + 1) * parts] = F.interpolate(small, size=x.shape[2:], mode="bilinear")
    return x


def recolour(x: Tensor, gen: torch.Generator, dark: float = 0.1) -> Tensor:
    """Contrast, brightness, colour balance, gamma, grey; x in [0, 1]. A `dark` share has lost up
    to nine tenths of its light.
    """
    n = len(x)

    def column(values: Tensor) -> Tensor:
        return values.view(n, 1, 1, 1)

    grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    keep = torch.where(_chance(n, 0.12, gen), 0.0, _uniform(n, 0.6, 1.3, gen))
    x = torch.lerp(grey.expand_as(x), x, column(keep))
    gain = torch.exp(_normal(n, 3, gen=gen, deviation=0.06))
    x = x * (column(torch.exp(_uniform(n, -0.3, 0.3, gen))) * gain.view(n, 3, 1, 1))
    x = (x + column(_uniform(n, -0.12, 0.12, gen))).clamp_(1e-3, 1)
    power = column(torch.exp(_uniform(n, -0.25, 0.25, gen)))
    x = torch.exp(torch.log(x) * power)  # twice as fast on a CPU as x.pow(power)
    light = torch.where(_chance(n, dark, gen), torch.exp(_uniform(n, -2.3, -0.3, gen)), 1.0)
    return x * column(light)


def cover(x: Tensor, gen: torch.Generator, share: float = 0.2, border: float = 0.25) -> Tensor:
    """A rectangle of one colour on a `share`, black borders on another (crops at an edge)."""
    n, side = len(x), x.shape[-1]
    device = gen.device
    across = torch.arange(side, device=device).view(1, side)
    size = _uniform(2 * n, 0.15, 0.5, gen).view(2, n, 1) * side
    start = (torch.rand(2, n, 1, generator=gen, device=device) * 1.2 - 0.1) * side - size / 2
    inside = [(across >= s) & (across < s + d) for s, d in zip(start, size, strict=True)]
    hole = inside[0][:, :, None] & inside[1][:, None, :] & _chance(n, share, gen).view(n, 1, 1)
    colour = torch.rand(n, 3, 1, 1, generator=gen, device=device)
    x = torch.where(hole[:, None], colour, x)
    most = torch.tensor([0.3, 0.12, 0.2, 0.2], device=device).view(4, 1, 1)
    cut = torch.rand(4, n, 1, generator=gen, device=device) * most
    cut = cut * side * (torch.rand(4, n, 1, generator=gen, device=device) < 0.5)
    rows = (across >= cut[0]) & (across < side - cut[1])
    cols = (across >= cut[2]) & (across < side - cut[3])
    seen = (rows[:, :, None] & cols[:, None, :]) | ~_chance(n, border, gen).view(n, 1, 1)
    return x * seen[:, None]


def augment(x: Tensor, gen: torch.Generator, strength: float = 1.0, size: int = SIZE) -> Tensor:
    """(b,3,128,128) in 0..255 -> (b,3,size,size) in [-1, 1], channels last."""
    x = move(x / 255, gen, strength, size, 0.35 * strength)
    x = recolour(relight(x, gen, 0.25 * strength), gen, 0.15 * strength)
    x = soften(x, gen, 0.3 * strength)
    some = slice(len(x) * 3 // 4, len(x))  # those least often softened
    sigma = _uniform(len(x[some]), 0, 0.04, gen).view(-1, 1, 1, 1)
    x[some] += _normal(*x[some].shape, gen=gen) * sigma
    x = cover(x.clamp(0, 1), gen, 0.2 * strength, 0.25 * strength)
    return (x * 2 - 1).contiguous(memory_format=torch.channels_last)


def middle(x: Tensor) -> Tensor:
    """(b,3,s,s) -> (b,3,112,112)."""
    edge = (x.shape[-1] - SIZE) // 2
    return x[:, :, edge : edge + SIZE, edge : edge + SIZE]


def centre(x: Tensor) -> Tensor:
    """The clean middle: (b,3,s,s) in 0..255 -> (b,3,112,112) in [-1, 1], channels last."""
    return ((middle(x) - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)
