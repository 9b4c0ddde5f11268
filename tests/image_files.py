"""Pictures as files, some of them written byte by byte."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height: int = 24, width: int = 36) -> np.ndarray:
    """A smooth picture, no two corners alike: (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + y) * 3)
    return np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr)
