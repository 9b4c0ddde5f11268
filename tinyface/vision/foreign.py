"""What is no picture that is read: what people try most often, by name and by content."""

from __future__ import annotations

from typing import Final

CONVERT: Final = "convert it to JPEG or PNG first"

SUFFIXES: Final = (
    *(".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".j2k", ".jpx"),
    *(".tif", ".tiff", ".dng", ".cr2", ".nef", ".arw"),
)

_HEIF: Final = f"{CONVERT} (heif-convert IN OUT.jpg; or open it with Pillow and pillow-heif)"
_ADVICE: Final = {  # where it is not CONVERT
    "a HEIC picture": _HEIF,
    "a HEIF picture": _HEIF,
    "a video": "make pictures of it first (ffmpeg -i VIDEO -vf fps=1 frame%04d.png)",
    "an archive (.zip, .npz)": "name a picture",
}

# What they start with; the offset is where the mark stands.
_MARKS: Final = (
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif", "a HEIF picture"),
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (4, b"JXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"II*\0", "a TIFF or camera raw picture"),
    (0, b"MM\0*", "a TIFF or camera raw picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "an archive (.zip, .npz)"),
)


def refusal(data: bytes) -> str | None:
    """What a file is that begins so, and what to do with it; None where none of these."""
    for at, mark, what in _MARKS:
        if data.startswith(mark, at):
            return f"is {what}, which is not read; {_ADVICE.get(what, CONVERT)}"
    return None


def missing(name: str, what: str) -> str:
    """Why there is nothing of that name; ``what`` was looked for."""
    if "://" in name:
        return f"{name}: is an address, and nothing is downloaded; fetch it first (curl -O ADDRESS)"
    return f"{name}: no such {what}; check the spelling"
