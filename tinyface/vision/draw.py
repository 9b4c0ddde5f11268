"""Show what was found: boxes and landmarks on a picture, crops side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from tinyface.errors import UsageError
from tinyface.limits import MAX_PIXELS
from tinyface.vision.detect import Face
from tinyface.vision.image import RGB

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.Image import Image

_BOX: Final = (0, 220, 110)
_SHADE: Final = (0, 0, 0)  # drawn first, wider: a line with a dark edge shows on any background
# By landmark: the eyes, the nose and the corners of the mouth; the picture's left is the lighter.
_POINTS: Final = ((120, 200, 255), (30, 90, 255), (255, 220, 0), (255, 150, 150), (255, 40, 40))


def draw_faces(image: RGB, faces: Sequence[Face]) -> Image:
    """A Pillow image: the picture with a box, five points, number and score for every face.

    Lines and letters grow with the picture, and shrink with the face where faces are small.
    The number is the face's place in ``faces``, from 0, as in the names of its crops.

    Args:
        image: ``uint8 (H, W, 3)``, RGB; not changed.
        faces: as found in it.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for number, face in reversed(list(enumerate(faces))):  # the largest on top
        height = face.height
        line = max(1, round(min(max(picture.size) / 320, height / 24)))
        _draw_box(pen, face, line)
        _draw_points(pen, face, radius=max(1.0, min(1.6 * line, height / 30)))
        _draw_label(pen, face, f"{number}  {face.score:.2f}", size=max(10, 6 * line))
    return picture


def _draw_box(pen: ImageDraw.ImageDraw, face: Face, line: int) -> None:
    left, top, right, bottom = (float(v) for v in face.box)
    edge = max(1, line // 3)
    outer = (left - edge, top - edge, right + edge, bottom + edge)
    pen.rectangle(outer, outline=_SHADE, width=line + 2 * edge)
    pen.rectangle((left, top, right, bottom), outline=_BOX, width=line)


def _draw_points(pen: ImageDraw.ImageDraw, face: Face, radius: float) -> None:
    edge = max(1.0, radius / 3)
    for (x, y), colour in zip(face.landmarks.tolist(), _POINTS, strict=True):
        for r, fill in ((radius + edge, _SHADE), (radius, colour)):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _draw_label(pen: ImageDraw.ImageDraw, face: Face, text: str, size: int) -> None:
    """Above the box where there is room, else inside it."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    left, top = float(face.box[0]), float(face.box[1])
    _, _, width, height = pen.textbbox((0, 0), text, font=font)
    pad = size // 4
    y = top - height - 2 * pad
    y = y if y >= 0 else top
    pen.rectangle((left, y, left + width + 2 * pad, y + height + 2 * pad), fill=_SHADE)
    pen.text((left + pad, y + pad), text, fill=_BOX, font=font)


def montage(crops: Sequence[RGB], columns: int | None = None, gap: int = 4) -> Image:
    """A Pillow image: crops of one size in rows, in reading order, white between them.

    Args:
        crops: ``uint8 (h, w, 3)`` each.
        columns: crops in a row; by default as many as make the whole about square.
        gap: pixels between crops and around them.

    Raises:
        UsageError: no crops, crops of several sizes, or more than ``limits.MAX_PIXELS`` pixels.
    """
    from PIL import Image

    if not crops:
        raise UsageError("no crops to show; detect faces first")
    if len({crop.shape for crop in crops}) > 1 or gap < 0:
        raise UsageError("crops of several sizes; align all of them to the same one")
    height, width, channels = crops[0].shape
    columns = min(len(crops), columns or math.ceil(math.sqrt(len(crops) * height / width)))
    rows = math.ceil(len(crops) / max(1, columns))
    shape = (gap + rows * (height + gap), gap + columns * (width + gap), channels)
    if columns < 1 or shape[0] * shape[1] > MAX_PIXELS:
        raise UsageError(f"{len(crops)} crops do not fit into one picture; show fewer of them")
    sheet = np.full(shape, 255, np.uint8)
    for i, crop in enumerate(crops):
        y = gap + i // columns * (height + gap)
        x = gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = crop
    return Image.fromarray(sheet)
