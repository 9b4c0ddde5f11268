"""Pictures of formats that are not read: what people try most often, by name and by content."""

from __future__ import annotations

from typing import Final

CONVERT: Final = "convert it to JPEG or PNG first"

SUFFIXES: Final = (
    *(".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".j2k", ".jpx"),
    *(".tif", ".tiff", ".dng", ".cr2", ".nef", ".arw"),
)

# What they start with; the offset is where the mark stands.
_MARKS: Final = (
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif", "a HEIF picture"),
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyp", "a video"),
    (4, b"JXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"II*\0", "a TIFF or camera raw picture"),
    (0, b"MM\0*", "a TIFF or camera raw picture"),
    (0, b"%PDF", "a PDF document"),
)


def kind(data: bytes) -> str | None:
    """What a file is that begins so, with its article; None where none of these."""
    return next((what for at, mark, what in _MARKS if data.startswith(mark, at)), None)
