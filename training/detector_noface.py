"""Pictures without a face, for evaluation only: other generators and other sources than training's.

A third are real textures (what lies beside the faces of held-out and validation pictures, laid out
by mirror images), a third real pictures whose faces are painted over, a third drawn by rules that
training never uses (Voronoi cells, 1/f clouds, gratings).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from .detector_data import BICUBIC, Pool, face_free_strip, is_held_out


def _cells(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    """Voronoi cells of random colours."""
    count = int(rng.integers(5, 60))
    seeds, colours = rng.uniform(0, 1, (count, 2)) * (w, h), rng.integers(0, 256, (count, 3))
    y, x = np.mgrid[:h, :w]
    nearest = ((x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2).argmin(-1)
    return colours[nearest].astype(np.uint8)


def _clouds(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    """Noise with a power law spectrum, as natural scenes have."""
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    fall = np.maximum(np.hypot(fx, fy), 1 / max(w, h)) ** -rng.uniform(0.7, 2.0)
    layers = []
    for _ in range(3):
        phase = rng.normal(size=fall.shape) + 1j * rng.normal(size=fall.shape)
        layer = np.fft.irfft2(phase * fall, s=(h, w))
        layers.append(layer / layer.std())
    mixed = np.stack(layers, -1) @ (np.full((3, 3), 0.5) + rng.uniform(0, 0.5) * np.eye(3))
    return np.clip(128 + rng.uniform(20, 60) * mixed, 0, 255).astype(np.uint8)


def _gratings(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    """Two waves that cross, and rings: arcs and dots, some of them eye-like."""
    y, x = np.mgrid[:h, :w]
    total = np.zeros((h, w))
    for _ in range(2):
        fx, fy = rng.normal(0, 0.08, 2)
        total += np.sin(2 * np.pi * (fx * x + fy * y))
    total += 2 * np.sin(
        np.hypot(x - rng.uniform(0, w), y - rng.uniform(0, h)) * rng.uniform(0.03, 0.6)
    )
    low, high = rng.uniform(0, 255, (2, 3))
    share = (total - total.min()) / np.ptp(total)
    return (low + share[..., None] * (high - low)).astype(np.uint8)


def _textures(rng: np.random.Generator, w: int, h: int, pool: Pool, names: list[str]) -> np.ndarray:
    """What lies beside faces, mirrored to fill the picture."""
    for _ in range(50):
        name = names[int(rng.integers(len(names)))]
        strip = face_free_strip(rng, *pool.read(name), least=28)
        if strip is None:
            continue
        zoom = rng.uniform(1, 4)
        tile = np.asarray(strip.resize([int(zoom * v) for v in strip.size], BICUBIC))
        pad = [(0, max(0, n - m)) for n, m in zip((h, w), tile.shape[:2], strict=True)]
        return np.pad(tile, [*pad, (0, 0)], mode="symmetric")[:h, :w]
    return _clouds(rng, w, h)


def _erased(rng: np.random.Generator, pool: Pool, names: list[str]) -> np.ndarray | None:
    """A portrait with every face box, enlarged by a third, painted over; None if little is left."""
    name = names[int(rng.integers(len(names)))]
    whole, faces = pool.read(name)
    picture = np.array(whole)
    h, w = picture.shape[:2]
    covered = np.zeros((h, w), bool)
    for x, y, bw, bh in faces[:, :4]:
        x0, y0 = max(0, int(x - bw / 6)), max(0, int(y - bh / 6))
        covered[y0 : int(y + bh * 7 / 6), x0 : int(x + bw * 7 / 6)] = True
    if covered.mean() > 0.8:
        return None
    fill = picture[~covered][rng.integers(0, (~covered).sum(), 16)].reshape(4, 4, 3)
    smooth = np.asarray(Image.fromarray(fill).resize((w, h), BICUBIC))
    picture[covered] = smooth[covered]
    scale = rng.uniform(1, 2.5)
    return np.asarray(Image.fromarray(picture).resize((int(w * scale), int(h * scale)), BICUBIC))


def _erased_of(
    rng: np.random.Generator, w: int, h: int, sources: Sequence[tuple[Pool, list[str]]]
) -> np.ndarray:
    """A picture whose faces are painted over; clouds where they leave too little of every one."""
    for _ in range(50):
        erased = _erased(rng, *sources[int(rng.integers(len(sources)))])
        if erased is not None:
            return erased
    return _clouds(rng, w, h)


def no_face_pictures(pools: Sequence[Pool], count: int, seed: int) -> Iterator[np.ndarray]:
    """`count` pictures (H, W, 3) uint8 of 160 to 640 pixels; the same for the same seed."""
    rng = np.random.default_rng(seed)
    sources = [
        (p, [n for n in p.names if p.label == "validation_identities" or is_held_out(n)])
        for p in pools
    ]
    sources = [(pool, names) for pool, names in sources if names]
    rules = (_cells, _clouds, _gratings)
    for i in range(count):
        w, h = (int(v) for v in rng.integers(160, 641, 2))
        pool, names = sources[int(rng.integers(len(sources)))]
        if i % 3 == 0:
            yield _textures(rng, w, h, pool, names)
        elif i % 3 == 1:
            yield _erased_of(rng, w, h, sources)
        else:
            yield rules[i // 3 % 3](rng, w, h)
