"""Pictures for the detector: the pools, backgrounds without a face, and compositions of faces.

A training picture is made, not read: portraits are scaled, turned and pasted on a background, and
the teacher says what is to be seen in the result. So nothing here needs to know where the faces
landed, and a composition may be as odd as it likes.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .alignment import LANDMARKS, read_picture, read_table

POOLS = ("faces_utk", "faces_more", "faces_masks")
COLUMNS = ["box_x", "box_y", "box_w", "box_h", *LANDMARKS]
HELD_OUT = 20  # one name in twenty, by its checksum, is never trained on
FACE_SIDES = (12.0, 600.0)  # pixels, geometric mean of width and height
FACELESS = 0.2  # share of the pictures that are background alone
LARGE = 512 * 512  # pixels; of a picture with more, no more than that is kept
HEADSTAND = 0.08  # share of the others that stand on their heads and are to be read as faceless
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def trimmed(picture: Image.Image, faces: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """A picture as it is or, of a photograph too large for thousands to be held, three times its
    largest face, scaled down if need be. Boxes and points move with it."""
    if picture.width * picture.height <= LARGE:
        return picture, faces
    at = int(np.argmax(faces[:, 2] * faces[:, 3]))
    box, size = faces[at, :4], np.array(picture.size)
    low = np.clip(box[:2] - box[2:], 0, size - 1).astype(int)
    high = np.clip(box[:2] + 2 * box[2:], low + 1, size).astype(int)
    scale = min(1.0, (LARGE / float(np.prod(high - low))) ** 0.5)
    side = np.maximum(1, (high - low) * scale).astype(int)
    picture = picture.crop((*low.tolist(), *high.tolist())).resize(tuple(side.tolist()), BICUBIC)
    moved = faces.copy()
    moved[:, [0, 1, *range(4, 14)]] -= np.tile(low, 6)
    moved *= scale
    inside = (moved[:, :2] < side).all(1) & (moved[:, :2] + moved[:, 2:4] > 0).all(1)
    inside[at] = True
    return picture, moved[inside]


class Pool:
    """Pictures of one zip with their csv of faces; read on demand, safe to share by threads not.

    `faces[name]` is (F, 14): box x, y, width, height, then five points, in the picture's pixels.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.label = name
        for path in (folder / f"{name}.zip", folder / f"{name}.csv"):
            if not path.is_file():
                raise ValueError(f"{path}: no such file; each set is a .zip with a .csv beside it")
        self.archive = zipfile.ZipFile(folder / f"{name}.zip")
        table = folder / f"{name}.csv"
        rows: dict[str, list[np.ndarray]] = {}
        for line, picture, values in read_table(table, COLUMNS):
            if not (values[2:4] > 0).all():
                raise ValueError(f"{table}: line {line} ({picture}): a box without an inside; "
                                 "leave it out")  # fmt: skip
            rows.setdefault(picture, []).append(values)
        self.faces = {key: np.array(value) for key, value in rows.items()}
        self.names = sorted(self.faces)

    def read(self, name: str) -> tuple[Image.Image, np.ndarray]:
        """The picture, RGB, and its faces (F, 14)."""
        return trimmed(read_picture(self.archive, name), self.faces[name])


def is_held_out(name: str) -> bool:
    """Whether a picture is kept for evaluation; depends on its name alone."""
    return zlib.crc32(name.encode()) % HELD_OUT == 0


class Portraits:
    """Decoded portraits: a sample of the pools, renewed a little with every batch."""

    def __init__(
        self, pools: Sequence[Pool], size: int, rng: np.random.Generator, held_out: bool = False
    ) -> None:
        self.source = [(p, n) for p in pools for n in p.names if is_held_out(n) == held_out]
        self.rng = rng
        picks = rng.choice(len(self.source), min(size, len(self.source)), replace=False)
        self.kept = [self._load(int(i)) for i in picks]

    def _load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        pool, name = self.source[index]
        return pool.read(name)

    def renew(self, count: int) -> None:
        """Replace `count` pictures by others, so that a long run sees all of them."""
        for slot in self.rng.integers(len(self.kept), size=count):
            self.kept[slot] = self._load(int(self.rng.integers(len(self.source))))

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
        """One picture and its faces (F, 14)."""
        return self.kept[int(rng.integers(len(self.kept)))]


# -- backgrounds -----------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, w: int, h: int, _: Portraits) -> Image.Image:
    """Coloured noise of one or two spatial frequencies, down to a gradient of 2x2 colours."""
    grids = [int(2 ** rng.uniform(1, 6.5)) for _ in range(int(rng.integers(1, 3)))]
    layers = []
    for g in grids:
        mean, spread = rng.uniform(20, 235, 3), rng.uniform(5, 90)
        cells = np.clip(rng.normal(mean, spread, (g, max(2, g * h // w), 3)), 0, 255)
        layers.append(Image.fromarray(cells.astype(np.uint8)).resize((w, h), BICUBIC))
    return (
        layers[0] if len(layers) == 1 else Image.blend(layers[0], layers[1], rng.uniform(0.2, 0.8))
    )


def _fragment(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """A strip beside the face of some portrait (clothes, hair, wall), enlarged, perhaps blurred."""
    for _ in range(6):
        strip = face_free_strip(rng, *portraits.draw(rng))
        if strip is not None:
            out = strip.resize((w, h), BICUBIC)
            blur = float(rng.choice([0, 0, 2, 5]))
            return out.filter(ImageFilter.GaussianBlur(blur)) if blur else out
    return _noise(rng, w, h, portraits)


def face_free_strip(
    rng: np.random.Generator, picture: Image.Image, faces: np.ndarray, least: int = 24
) -> Image.Image | None:
    """A border of the picture that no face box touches; None if all are thinner than `least`."""
    w, h = picture.size
    x0, y0 = faces[:, :2].min(0)
    x1, y1 = (faces[:, :2] + faces[:, 2:4]).max(0)
    sides = [(0, 0, x0, h), (x1, 0, w, h), (0, 0, w, y0), (0, y1, w, h)]
    sides = [s for s in sides if s[2] - s[0] >= least and s[3] - s[1] >= least]
    if not sides:
        return None
    box = sides[int(rng.integers(len(sides)))]
    return picture.crop(tuple(int(v) for v in box))


def _mosaic(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """Fragments and noise side by side, with hard edges between them."""
    out = Image.new("RGB", (w, h))
    cols, rows = (int(v) for v in rng.integers(2, 5, 2))
    tw, th = -(-w // cols), -(-h // rows)
    for i in range(cols * rows):
        tile = (_fragment if rng.random() < 0.7 else _noise)(rng, tw, th, portraits)
        out.paste(tile, (i % cols * tw, i // cols * th))
    return out


def _scrambled(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """A portrait cut into squares and shuffled: skin, eyes and hair, but (nearly) no face."""
    side = int(rng.choice([16, 24, 32, 48]))
    cols, rows = -(-w // side), -(-h // side)
    whole = portraits.draw(rng)[0].resize((cols * side, rows * side), BILINEAR)
    cells = np.asarray(whole).reshape(rows, side, cols, side, 3).swapaxes(1, 2)
    cells = rng.permutation(cells.reshape(-1, side, side, 3)).reshape(rows, cols, side, side, 3)
    return Image.fromarray(cells.swapaxes(1, 2).reshape(rows * side, cols * side, 3)[:h, :w].copy())


def _shapes(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """Ellipses (some of skin's colours), boxes, lines and letters over another background."""
    out = (_noise if rng.random() < 0.5 else _fragment)(rng, w, h, portraits)
    draw = ImageDraw.Draw(out)
    for _ in range(int(rng.integers(3, 25))):
        skin = rng.random() < 0.4
        tone = rng.uniform(60, 240) * np.array([1, rng.uniform(0.6, 0.85), rng.uniform(0.4, 0.75)])
        colour = tuple(int(v) for v in (tone if skin else rng.uniform(0, 255, 3)))
        x, y = rng.uniform(-0.1, 1, 2) * (w, h)
        dx, dy = np.exp(rng.uniform(np.log(4), np.log(w / 2), 2))
        kind = rng.choice(["ellipse", "box", "line", "text"])
        if kind == "ellipse":
            draw.ellipse((x, y, x + dx, y + min(dy, 2 * dx)), fill=colour)
        elif kind == "box":
            draw.rectangle((x, y, x + dx, y + dy), fill=colour)
        elif kind == "line":
            draw.line((x, y, x + dx - dy, y + dy), fill=colour, width=int(rng.integers(1, 9)))
        else:
            letters = "".join(chr(int(c)) for c in rng.integers(48, 123, 6))
            draw.text((x, y), letters, fill=colour, font_size=min(10 + dx / 2, 80.0))
    return out


def _blurred(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """A portrait so blurred that only its colours are left."""
    small = portraits.draw(rng)[0].resize((int(rng.integers(3, 12)),) * 2, BILINEAR)
    return small.resize((w, h), BICUBIC)


Background = Callable[[np.random.Generator, int, int, Portraits], Image.Image]
BACKGROUNDS: tuple[tuple[Background, float], ...] = (
    (_noise, 0.1),
    (_fragment, 0.35),
    (_mosaic, 0.15),
    (_scrambled, 0.15),
    (_shapes, 0.2),
    (_blurred, 0.05),
)


def background(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """A (w, h) background of a random kind."""
    weights = [weight for _, weight in BACKGROUNDS]
    make = BACKGROUNDS[int(rng.choice(len(BACKGROUNDS), p=weights))][0]
    return make(rng, w, h, portraits)


# -- compositions ----------------------------------------------------------------------------------


def _patch(
    rng: np.random.Generator, picture: Image.Image, faces: np.ndarray, side: float, turn: float
) -> tuple[Image.Image, Image.Image]:
    """A portrait scaled to faces of `side` pixels and turned, with its mask; perhaps cut closer."""
    x, y, w, h = faces[int(np.argmax(faces[:, 2] * faces[:, 3])), :4]
    if rng.random() < 0.4:  # cut away most of what surrounds the face
        m = rng.uniform(0.05, 0.4) * max(w, h)
        box = (max(x - m, 0), max(y - m, 0), min(x + w + m, picture.width), picture.height)
        picture = picture.crop(tuple(int(v) for v in box))
    scale = side / np.sqrt(w * h)
    size = (max(8, round(picture.width * scale)), max(8, round(picture.height * scale)))
    picture = picture.resize(size, BICUBIC if rng.random() < 0.5 else BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    feather = int(rng.choice([0, 0, 0.04, 0.1]) * min(size))
    mask = Image.new("L", size, 0)
    mask.paste(255, (feather, feather, size[0] - feather, size[1] - feather))
    if feather:
        mask = mask.filter(ImageFilter.GaussianBlur(feather / 2))
    if abs(turn) > 1:
        picture, mask = (p.rotate(turn, BILINEAR, expand=True) for p in (picture, mask))
    return picture, mask


def scattered(
    rng: np.random.Generator, w: int, h: int, portraits: Portraits, most: int = 8
) -> Image.Image:
    """Up to `most` portraits at random places and scales, turned by up to 30 degrees."""
    out = background(rng, w, h, portraits)
    count = int(rng.integers(1, most + 1))
    top = min(FACE_SIDES[1], 1.2 * min(w, h)) / count**0.5
    sides = np.exp(rng.uniform(np.log(FACE_SIDES[0]), np.log(top), count))
    for side in sorted(sides, reverse=True):  # small ones last, lest they be covered
        patch, mask = _patch(rng, *portraits.draw(rng), side, rng.uniform(-30, 30))
        x = int(rng.uniform(-0.2, 1.2) * (w - patch.width * 0.6) - patch.width * 0.2)
        y = int(rng.uniform(-0.2, 1.2) * (h - patch.height * 0.6) - patch.height * 0.2)
        out.paste(patch, (x, y), mask)
    return out


def portrait(rng: np.random.Generator, w: int, h: int, portraits: Portraits) -> Image.Image:
    """One portrait that fills most of the picture, as photographs of one person do."""
    picture, faces = portraits.draw(rng)
    cover = max(w / picture.width, h / picture.height)
    x, y, bw, bh = faces[int(np.argmax(faces[:, 2] * faces[:, 3])), :4]
    side = np.sqrt(bw * bh) * cover * rng.uniform(0.5, 1.3)
    out = background(rng, w, h, portraits)
    turn = rng.normal(0, 8) if rng.random() < 0.7 else rng.uniform(-30, 30)
    patch, mask = _patch(rng, picture, faces, min(side, 1.3 * FACE_SIDES[1]), turn)
    x, y = (rng.uniform(-0.15, 0.15, 2) + 0.5) * (w, h) - np.array(patch.size) / 2
    out.paste(patch, (int(x), int(y)), mask)
    return out


def composition(
    rng: np.random.Generator, w: int, h: int, portraits: Portraits
) -> tuple[np.ndarray, bool]:
    """One training picture, (h, w, 3) uint8 RGB, and whether it is to be read as faceless.

    Faces upside down count as none: the teacher sees some, with landmarks that are those of no
    face, and who sees none knows that the picture must be turned.
    """
    kind = rng.random()
    if kind < FACELESS:
        out = background(rng, w, h, portraits)
    elif kind < 0.45:
        out = portrait(rng, w, h, portraits)
    else:
        out = scattered(rng, w, h, portraits, most=3 if kind < 0.7 else 10)
    faceless = kind < FACELESS
    if not faceless and rng.random() < HEADSTAND:
        out, faceless = out.transpose(Image.Transpose.ROTATE_180), True
    return relight(rng, out), faceless


def relight(rng: np.random.Generator, picture: Image.Image) -> np.ndarray:
    """Exposure, contrast, cast, grey, side light, blur, noise and JPEG, each now and then."""
    if rng.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.8)))
    if rng.random() < 0.1:
        picture = picture.convert("L").convert("RGB")
    if rng.random() < 0.7:
        gamma, gain = np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.15, 3) / [1, 2, 1])
        lift = rng.normal(0, 12)
        ramp = 255 * (np.arange(256) / 255) ** gamma
        table = np.clip(ramp[None] * gain[:, None] + lift, 0, 255).astype(np.uint8)
        picture = picture.point(table.ravel().tolist())
    if rng.random() < 0.25:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(20, 95)))
        picture = Image.open(file)
    pixels = np.asarray(picture)
    if rng.random() < 0.3:  # light from one side
        shade = np.linspace(*np.exp(rng.normal(0, 0.4, 2)), pixels.shape[1], dtype=np.float32)
        pixels = np.clip(pixels * shade[None, :, None], 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        grain = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 15)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return pixels


def batch(
    rng: np.random.Generator, count: int, w: int, h: int, portraits: Portraits
) -> tuple[np.ndarray, np.ndarray]:
    """(count, h, w, 3) uint8 RGB training pictures, and (count,) whether each is faceless."""
    made = [composition(rng, w, h, portraits) for _ in range(count)]
    return np.stack([picture for picture, _ in made]), np.array([empty for _, empty in made])
