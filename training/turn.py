"""Heads turned aside: a frontal crop as if the camera had stood elsewhere.

The face is taken for a paraboloid with a bump for the nose, turned about its middle and aligned
again by its five points. What a turn hides or uncovers is squeezed or drawn out; up to 25 degrees
no part folds over another. Pixels of the 112x112 template, depths towards the camera.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.alignment import TEMPLATE, similarity

SIZE = 112
MIDDLE = np.array([55.9, 68.0])
HALF_WIDTH, HALF_HEIGHT, DEPTH = 44.0, 62.0, 38.0
NOSE, NOSE_DEPTH, NOSE_SPREAD = np.array([56.0, 72.0]), 5.0, np.array([8.0, 12.0])
YAW, PITCH = math.radians(25), math.radians(10)

Floats = NDArray[np.float64]

PIXELS: Floats = np.stack(np.meshgrid(*[np.arange(SIZE, dtype=np.float64)] * 2), -1)  # (x, y)


def depth(points: Floats) -> Floats:
    """Of points (..., 2); 0 beside the face."""
    away = (((points - MIDDLE) / (HALF_WIDTH, HALF_HEIGHT)) ** 2).sum(-1)
    nose = np.exp(-(((points - NOSE) / NOSE_SPREAD) ** 2).sum(-1) / 2)
    return DEPTH * np.maximum(1 - away, 0) + NOSE_DEPTH * nose


def turned(points: Floats, yaw: float, pitch: float) -> Floats:
    """Where points (..., 2) come to stand, before the crop is aligned again."""
    x, y = np.moveaxis(points - MIDDLE, -1, 0)
    z = depth(points)
    x, z = x * math.cos(yaw) + z * math.sin(yaw), z * math.cos(yaw) - x * math.sin(yaw)
    y = y * math.cos(pitch) - z * math.sin(pitch)
    return np.stack([x, y], -1) + MIDDLE


def origin(yaw: float, pitch: float) -> Floats:
    """For each pixel (112, 112, 2) of the turned and aligned crop the point that it shows."""
    back = similarity(turned(TEMPLATE, yaw, pitch), TEMPLATE)
    found = PIXELS.copy()
    for _ in range(60):  # damped, since where the face is steep the map is nearly flat
        found -= 0.6 * (turned(found, yaw, pitch) @ back[:, :2].T + back[:, 2] - PIXELS)
    return found


@cache
def turns(count: int = 48, device: torch.device | str = "cpu") -> Tensor:
    """Shifts (count + 1, 112, 112, 2) in halves of the crop; the first is none."""
    rng = np.random.default_rng(3)
    shifts = [np.zeros_like(PIXELS)]
    for _ in range(count):
        yaw, pitch = rng.uniform(-YAW, YAW), rng.uniform(-PITCH, PITCH)
        shifts.append((origin(yaw, pitch) - PIXELS) * (2 / SIZE))
    return torch.from_numpy(np.stack(shifts).astype(np.float32)).to(device)
