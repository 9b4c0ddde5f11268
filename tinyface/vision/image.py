"""From a picture in a file to RGB pixels.

A picture is hostile input. Four formats are read (JPEG, PNG, WebP, BMP), told apart by their
first bytes and never by their name; the number of pixels is read in the header and compared with
``limits.MAX_PIXELS`` before anything is decoded; only the first frame is decoded. A JPEG of up to
``limits.MAX_JPEG_PIXELS`` (telephones make 108 and 200 megapixels) is decoded at half its width
and height, and a warning says so: what is found has its place in the smaller picture.

What comes out is always the same thing: ``uint8 (H, W, 3)``, red first, upright (the EXIF
orientation has been applied), and opaque (what is transparent is laid on white, as a browser
does). Colour profiles are not applied: recognition networks are trained on plain sRGB values.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import sys
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from tinyface.errors import ImageError
from tinyface.limits import MAX_IMAGE_BYTES, MAX_JPEG_PIXELS, MAX_PIXELS
from tinyface.vision import foreign

if TYPE_CHECKING:
    from PIL import Image as PILImage

RGB: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Source: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, "PILImage.Image", NDArray[Any]
]


def read_image(source: Source, max_side: int | None = None, name: str | None = None) -> RGB:
    """Read one picture.

    Args:
        source: a path, ``"-"`` (standard input), the encoded bytes, a binary file, a Pillow
            image, or an array: ``uint8`` of shape (H, W), (H, W, 1), (H, W, 3) RGB or
            (H, W, 4) RGBA.
        max_side: if given, the picture is scaled down so that its longer side has at most this
            many pixels; a large JPEG is then decoded at a fraction of its size, which is several
            times faster. Never scales up.
        name: what to call the picture in error messages; by default the path.

    Returns:
        ``uint8 (H, W, 3)``, RGB, upright, C-contiguous; perhaps read-only. An RGB array that
        already is so comes back as it is, not copied.

    Raises:
        ImageError: missing, a directory, unreadable, empty, truncated, of another format, more
            than ``limits.MAX_PIXELS`` pixels (a JPEG that is not progressive:
            ``limits.MAX_JPEG_PIXELS``), or an array of another shape or type.
    """
    if max_side is not None and max_side < 1:
        raise ImageError(f"max_side is {max_side}: give 1 or more pixels")
    if isinstance(source, np.ndarray):
        return _limit_side(_from_array(source, name or "the array"), max_side)
    if _is_pillow_image(source):
        return _from_pillow(source, name or "the Pillow image", max_side)  # type: ignore[arg-type]
    label = name or _name_of(source)
    return _from_pillow(_open(_read_bytes(source, label), label), label, max_side)


def resize(image: RGB, height: int, width: int) -> RGB:
    """Scale ``(H, W, 3)`` to ``(height, width, 3)``, averaging over the area that each new pixel
    covers (bilinear, with the filter stretched by the factor of reduction)."""
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    scaled = Image.fromarray(image).resize(
        (width, height), Image.Resampling.BILINEAR, reducing_gap=3.0
    )
    return np.asarray(scaled)


# --- getting hold of the bytes --------------------------------------------------------------


def _is_pillow_image(source: object) -> bool:
    """Without importing Pillow: an image can only exist once Pillow has been imported, which
    another thread may be about to do."""
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return kind is not None and isinstance(source, kind)


def _name_of(source: object) -> str:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"the picture in memory ({len(source)} bytes)"
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if source == "-" else os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the stream"


def _read_bytes(source: object, name: str) -> bytes:
    """The encoded picture. Files are opened by Python, which knows every kind of path."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, str) and source == "-":
        if sys.stdin is None:  # closed before Python began
            raise ImageError(f"{name}: is closed; pipe one picture in")
        data = sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(os.fspath(source), name)
    elif hasattr(source, "read"):
        try:
            data = source.read(MAX_IMAGE_BYTES + 1)
        except (OSError, ValueError) as error:  # closed, or text that is none
            raise ImageError(f"{name}: cannot be read ({error}); open it again, 'rb'") from error
        if not isinstance(data, bytes):
            raise ImageError(f"{name}: opened as text; open it in binary mode ('rb')")
    else:
        none = " (OpenCV gives None for what it could not read)" if source is None else ""
        raise ImageError(
            f"a {type(source).__name__} is not a picture{none}: "
            "give a path, bytes, a binary file, a Pillow image or a uint8 array"
        )
    if not data:
        if isinstance(source, str) and source == "-":
            raise ImageError(f"{name}: nothing came; pipe one picture in (it is read once)")
        raise ImageError(f"{name}: the file is empty; copy or download it again")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(_too_long(name))
    return data


def _read_file(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > MAX_IMAGE_BYTES:
                raise ImageError(_too_long(name))
            return file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(foreign.missing(name, "file")) from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a directory; name a picture in it") from None
    except PermissionError:
        # Windows reports a directory in this way too.
        what = "is a directory" if os.path.isdir(path) else "may not be read"
        raise ImageError(f"{name}: {what}; name a picture that you may read") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name}: cannot be read ({reason}); check the disk") from error


def _too_long(name: str) -> str:
    return f"{name}: more than {MAX_IMAGE_BYTES >> 20} MiB; scale the picture down first"


# --- decoding -------------------------------------------------------------------------------


def _open(data: bytes, name: str) -> PILImage.Image:
    """Read the header, nothing else, with the one decoder that the first bytes ask for.

    The decoder's class is called directly, not through ``PIL.Image.open``: no other format is
    ever tried, and Pillow's own warning about large pictures (which goes by another limit than
    ours) does not show.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            from PIL.JpegImagePlugin import JpegImageFile as Decoder
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            from PIL.PngImagePlugin import PngImageFile as Decoder  # type: ignore[assignment]
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            from PIL.WebPImagePlugin import WebPImageFile as Decoder  # type: ignore[assignment]

            _check_webp(data, name)
        elif data.startswith(b"BM"):
            from PIL.BmpImagePlugin import BmpImageFile as Decoder  # type: ignore[assignment]
        else:
            raise ImageError(_not_a_picture(data, name))
        image = Decoder(io.BytesIO(data))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on malformed files
        raise ImageError(_damaged(name, error)) from error
    _check_pixels(*image.size, name, MAX_JPEG_PIXELS if _is_one_scan(data) else MAX_PIXELS)
    return image


def _is_one_scan(data: bytes) -> bool:
    """Is this a JPEG that is decoded line by line? One of several scans is held whole, as
    coefficients, before its first pixel is made, whatever its size will be (ITU-T T.81, B.1.1:
    segments of a marker and a length; SOF0 and SOF1 are sequential, SOS names the components)."""
    at, components = 2, 0
    while data[:3] == b"\xff\xd8\xff" and at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return data[at + 4] == components
        if data[at + 1] in (0xC0, 0xC1):
            components = data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _not_a_picture(data: bytes, name: str) -> str:
    if refusal := foreign.refusal(data):
        return f"{name}: {refusal}"
    return f"{name}: not a JPEG, PNG, WebP or BMP picture; check the file, or {foreign.CONVERT}"


def _damaged(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name}: damaged or cut short ({reason[:120]}); copy or download it again"


def _check_pixels(width: int, height: int, name: str, most: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} pixels is no picture; give another one")
    if width * height > most:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height / 1e6:.1f} megapixels, more than the "
            f"{most / 1e6:g} that are read; scale the picture down first"
        )


def _check_webp(data: bytes, name: str) -> None:
    """Pillow's WebP decoder allocates the canvas as soon as it is made, hence this look at the
    header (developers.google.com/speed/webp/docs/riff_container; RFC 9649)."""
    from PIL import features

    if not features.check("webp"):
        raise ImageError(f"{name}: this Pillow was built without WebP; {foreign.CONVERT}")
    head = data[:30].ljust(30, b"\0")
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[i : i + 3], "little") + 1 for i in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
    _check_pixels(width, height, name, MAX_PIXELS)


def _from_pillow(image: PILImage.Image, name: str, max_side: int | None) -> RGB:
    """Decode, bring to RGB, scale, turn upright; in this order, the cheap steps on fewer pixels."""
    try:
        _reduce(image, name, max_side)
        _check_pixels(*image.size, name, MAX_PIXELS)
        image.load()
        rgb = _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:  # as in _open
        raise ImageError(_damaged(name, error)) from error
    return _upright(_limit_side(rgb, max_side), _orientation(image))


def _reduce(image: PILImage.Image, name: str, max_side: int | None) -> None:
    """Have a JPEG leave out its higher frequencies, where a limit asks for fewer pixels: decoded
    at 1/2, 1/4 or 1/8 of its size. To pictures of other formats nothing happens."""
    (width, height), longest = image.size, max(image.size)
    limit = min(max_side or longest, longest)
    too_large = width * height > MAX_PIXELS
    limit = min(limit, longest // 2) if too_large else limit
    wanted = max(1, width * limit // longest), max(1, height * limit // longest)
    if limit < longest and image.draft(None, wanted) and too_large and max_side is None:
        sizes = "{}x{} pixels are read as {}x{}".format(width, height, *image.size)
        warnings.warn(f"{name}: {sizes}, and what is found has its place there", stacklevel=4)


def _to_rgb(image: PILImage.Image, name: str) -> RGB:
    """Any mode of Pillow to RGB. Pillow has already put Adobe's inverted CMYK the right way."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):  # 16-bit grey; "I" in older Pillows
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if mode in ("F", "LAB"):
        raise ImageError(f"{name}: a picture of mode {mode}; convert it to RGB first")
    alpha = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if alpha or getattr(image.palette, "mode", "") == "RGBA":
        if mode in ("La", "PA"):  # two modes with fewer direct conversions than the others
            image = image.convert("LA" if mode == "La" else "RGBA")
        rgba = np.asarray(image.convert("RGBA"))
        if image.format == "BMP" and not rgba[..., 3].any():  # a byte that many leave empty
            return np.ascontiguousarray(rgba[..., :3])
        return _on_white(rgba)
    return np.asarray(image if mode == "RGB" else image.convert("RGB"))


def _on_white(rgba: NDArray[np.uint8]) -> RGB:
    """alpha * colour + (1 - alpha) * white, rounded; ``(H, W, 4)`` to ``(H, W, 3)``."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3] * alpha + 255 * (255 - alpha)  # at most 255 * 255: fits 16 bits
    return ((mixed.astype(np.uint32) + 127) // 255).astype(np.uint8)


def _from_array(array: NDArray[Any], name: str) -> RGB:
    if array.ndim == 1:
        raise ImageError(
            f"{name}: one row of values is no picture; two embeddings are compared by "
            "tinyface.cosine(a, b)"
        )
    if array.dtype != np.uint8:
        scale = ", of 0 to 1: (a * 255).astype('uint8')" if array.dtype.kind == "f" else ""
        raise ImageError(f"{name}: {array.dtype} values; give uint8 RGB, 0 to 255{scale}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: shape {array.shape}; give (H, W, 3), RGB")
    _check_pixels(array.shape[1], array.shape[0], name, MAX_PIXELS)
    if array.ndim == 3 and array.shape[2] == 4:
        return _on_white(array)
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array)


def _limit_side(image: RGB, max_side: int | None) -> RGB:
    height, width = image.shape[:2]
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return image
    scaled = (max(1, round(side * max_side / longest)) for side in (height, width))
    return resize(image, *scaled)


# --- which way is up ------------------------------------------------------------------------

# EXIF 2.3, tag 0x0112: (swap rows and columns first, then flip rows, then flip columns)
_UPRIGHT: Final = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def _orientation(image: PILImage.Image) -> int:
    """The EXIF orientation, 1..8; a broken tag counts as none, the pixels are still good."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _upright(image: RGB, orientation: int) -> RGB:
    swap, flip_rows, flip_columns = _UPRIGHT.get(orientation, (False, False, False))
    if swap:
        image = image.transpose(1, 0, 2)
    if flip_rows:
        image = image[::-1]
    if flip_columns:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
