"""New faces from two aligned ones: blended, passing into each other, or with a part exchanged.

Both have their eyes, noses and mouths in the same places, so what comes out is a face, too, of a
person who does not exist. Everything is computed for a whole batch, on the device that its
pictures and its generator of random numbers share.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from training.augment import SIZE, move, recolour

CROP = 128
# Middle and half width and height, in pixels of the 112x112 template: eyes, nose, mouth, and the
# face without its outline.
PARTS = ((56, 52, 36, 14), (56, 70, 16, 18), (56, 92, 26, 14), (56, 70, 36, 42))


def _axis(like: Tensor, side: int) -> Tensor:
    return torch.linspace(-1, 1, side, device=like.device)


@cache
def _parts(side: int, device: torch.device) -> Tensor:
    """(parts, 4): the boxes of `PARTS` for `patches`; kept, since a copy to a GPU waits for it."""
    parts = torch.tensor(PARTS, dtype=torch.float32) - torch.tensor([SIZE / 2, SIZE / 2, 0, 0])
    return (parts * (2 / side)).to(device)


def ramps(angle: Tensor, steep: Tensor, centre: Tensor, side: int = CROP) -> Tensor:
    """(n,), (n,), (n,) -> (n,1,side,side): shares that pass from 0 to 1 in the direction `angle`.

    A logistic function, half way at `centre`; the picture reaches from -1 to 1. At `steep` 0 the
    share is a half everywhere, at 8 the passage takes about a quarter of the picture.
    """
    axis, shaped = _axis(angle, side), (-1, 1, 1)
    across, down = (f(angle).view(shaped) for f in (torch.cos, torch.sin))
    along = across * axis[None, None, :] + down * axis[None, :, None] - centre.view(shaped)
    return torch.sigmoid(steep.view(shaped) * along)[:, None]


def patches(boxes: Tensor, steep: Tensor, side: int = CROP) -> Tensor:
    """(n,4), (n,) -> (n,1,side,side): shares of 1 in an ellipse, 0 outside, with a soft edge.

    A box is middle (x, y) and half width and height; the picture reaches from -1 to 1.
    """
    axis = _axis(boxes, side)
    x, y, width, height = boxes.T[..., None]
    across, down = ((axis - x) / width) ** 2, ((axis - y) / height) ** 2
    away = torch.sqrt(across[:, None, :] + down[:, :, None])
    return torch.sigmoid(steep.view(-1, 1, 1) * (1 - away))[:, None]


def shares(n: int, gen: torch.Generator, side: int = CROP) -> Tensor:
    """(n,1,side,side): how much of the second face there is. By chance the same everywhere, 0 to
    1; a ramp (upper and lower half, left and right, or aslant); or a part of the face.
    """

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.empty(n, *size, device=gen.device).uniform_(low, high, generator=gen)

    def normal(deviation: float, *size: int) -> Tensor:
        return torch.empty(n, *size, device=gen.device).normal_(0, deviation, generator=gen)

    even = uniform(0, 1, 1, 1, 1).expand(n, 1, side, side)
    ramp = ramps(uniform(0, 2 * math.pi), uniform(0, 14), normal(0.15), side)
    which = torch.randint(len(PARTS), (n,), generator=gen, device=gen.device)
    boxes = _parts(side, gen.device)[which]
    boxes = torch.cat([boxes[:, :2] + normal(0.04, 2), boxes[:, 2:] * uniform(0.75, 1.35, 2)], 1)
    patch = patches(boxes, uniform(4, 14), side)
    kind = torch.randint(3, (n, 1, 1, 1), generator=gen, device=gen.device)
    return torch.where(kind == 0, even, torch.where(kind == 1, ramp, patch))


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (at least .01) of each picture's colours, (n,3,1,1); `x` in 0..1. Not by
    `std`, which takes four times as long.
    """
    mean, square = x.mean((2, 3), keepdim=True), (x * x).mean((2, 3), keepdim=True)
    return mean, (square - mean * mean).clamp_min(1e-4).sqrt()


def _toned(x: Tensor, like: Tensor, amount: Tensor) -> Tensor:
    """`x` with its colours' mean and deviation brought to those of `like`, to some extent."""
    mean, deviation = _spread(x)
    goal, wide = _spread(like)
    gain = (wide / deviation).clamp_max(3)
    amount = amount.view(-1, 1, 1, 1)
    return x + amount * ((x - mean) * gain + goal - x)


def mix(first: Tensor, second: Tensor, gen: torch.Generator, strength: float = 0.5) -> Tensor:
    """Two faces (n,3,s,s) in 0..255 -> one (n,3,s,s) in 0..255 of both, the second in colours
    like the first's. Each is mirrored or not and a little moved, the outcome a little recoloured.
    """
    n, side = len(first), first.shape[-1]
    first, second = (
        move(x / 255, gen, strength, side, shown=side) for x in (first, second)
    )  # the whole crop, not its middle alone
    tone = torch.rand(n, generator=gen, device=gen.device)
    mixed = torch.lerp(first, _toned(second, first, tone), shares(n, gen, side)).clamp(0, 1)
    return torch.lerp(mixed, recolour(mixed, gen, 0.0), strength) * 255
