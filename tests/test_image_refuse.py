"""No pictures: other formats, damaged files, too many pixels, wrong arguments. One line each."""

from __future__ import annotations

import io
import os
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture, png_chunk, png_header
from PIL import Image

from tinyface import limits
from tinyface.errors import ImageError
from tinyface.vision.image import read_image

# --- bad files --------------------------------------------------------------------------------


def refused(source: object, *words: str, **options: object) -> str:
    """The message: one line, naming the picture, with the words in it."""
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message
    return message


def test_missing_directory_empty(tmp_path):
    refused(tmp_path / "nowhere.jpg", "nowhere.jpg", "no such file")
    refused(tmp_path, str(tmp_path), "is a directory")
    (tmp_path / "empty.jpg").write_bytes(b"")
    refused(tmp_path / "empty.jpg", "empty.jpg", "empty")
    refused("nul\0character.jpg", "cannot be read")
    refused(b"", "empty")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    refused(path, "secret.jpg", "may not be read")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"hello, this is text", "not a JPEG"),
        (b"\0" * 100, "not a JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"GIF89a" + b"\0" * 20, "GIF"),
        (b"II*\0" + b"\0" * 20, "TIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x29", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x18ftypmp42", "ffmpeg"),
        (b"\x1aE\xdf\xa3" + b"\0" * 20, "video"),
        (b"PK\x03\x04" + b"\0" * 20, "npz"),
    ],
)
def test_other_formats_are_named_and_refused(tmp_path, data, word):
    path = tmp_path / "file.jpg"
    path.write_bytes(data)
    refused(path, "file.jpg", word)


@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        (None, "OpenCV gives None"),
        (np.zeros((4, 4, 3)), r"astype\('uint8'\)"),
        (np.zeros(512, np.float32), r"tinyface\.cosine\(a, b\)"),
        ("https://example.org/x.jpg", "nothing is downloaded"),
    ],
)
def test_what_people_hand_over_in_its_place(thing, advice):
    with pytest.raises(ImageError, match=advice):
        read_image(thing)


def test_formats_that_pillow_could_read_are_refused():
    for kind in ("GIF", "TIFF", "PPM", "TGA", "ICO"):
        refused(encode(Image.fromarray(picture()), kind), name="x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.95])
def test_cut_short(tmp_path, kind, part):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)  # nothing to compress away
    data = encode(Image.fromarray(noise), kind)
    path = tmp_path / "short.img"
    path.write_bytes(data[: max(4, int(len(data) * part))])
    refused(path, "short.img", " again" if path.stat().st_size > 16 else "")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_are_read_or_refused(kind, data):
    """Whatever is changed, the answer is a picture or an ImageError, nothing else."""
    good = bytearray(encode(Image.fromarray(picture()), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = read_image(bytes(good))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert got.ndim == 3 and got.shape[2] == 3 and got.dtype == np.uint8


# --- the cap on pixels ------------------------------------------------------------------------


def huge_headers(width: int, height: int) -> dict[str, bytes]:
    """Nothing but headers: whoever tries to decode one of these fails in another way."""
    sof = struct.pack(">HBHHB", 17, 8, height % 65536, width % 65536, 3)
    sof += bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    sos = b"\xff\xda" + struct.pack(">H", 12) + bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    vp8x += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    vp8l = b"VP8L" + struct.pack("<IB", 5, 0x2F)
    vp8l += struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    vp8 = b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a"
    vp8 += struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    webp = {n: b"RIFF" + struct.pack("<I", 4 + len(c)) + b"WEBP" + c
            for n, c in (("VP8X", vp8x), ("VP8L", vp8l), ("VP8", vp8))}  # fmt: skip
    bmp = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return {
        "PNG": png_header(width, height) + png_chunk(b"IDAT", b""),
        "JPEG": b"\xff\xd8\xff\xc0" + sof + sos,
        "BMP": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + bmp,
        **webp,
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "VP8X", "VP8L", "VP8"])
def test_the_cap_is_checked_in_the_header(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning must not show
        refused(huge_headers(16000, 16000)[kind], "16000x16000", "megapixels")
        if kind != "JPEG":
            refused(huge_headers(8000, 6376)[kind], "51.0 megapixels")
        refused(huge_headers(8192, 6144)[kind], "damaged")  # a telephone's 50 megapixels


def test_only_a_jpeg_decoded_line_by_line_may_have_more_pixels():
    """Several scans would hold all coefficients first: 6 bytes a pixel."""
    telephone = huge_headers(16320, 12240)["JPEG"]  # "200 megapixels"
    with pytest.warns(UserWarning, match="16320x12240 pixels are read as 8160x6120"):
        refused(telephone, "damaged")
    refused(telephone.replace(b"\xff\xc0", b"\xff\xc2"), "199.8 megapixels", "the 51 that")
    scan = telephone.index(b"\xff\xda")
    one_colour = b"\xff\xda" + struct.pack(">H", 8) + bytes([1, 1, 0, 0, 63, 0])
    refused(telephone[:scan] + one_colour + bytes(4), "199.8 megapixels", "the 51 that")
    refused(telephone[:scan])  # by its size, or, with a Pillow before 10.2, as damaged
    refused(huge_headers(16000, 16000)["JPEG"], "256.0 megapixels", "the 204 that")


def test_a_stream_that_cannot_be_read():
    closed = io.BytesIO(b"picture")
    closed.close()
    refused(closed, "closed file", "open it again")


def test_extreme_sides():
    refused(png_header(2**31 - 1, 2**31 - 1) + png_chunk(b"IDAT", b""), "megapixels")
    refused(np.zeros((0, 5, 3), np.uint8), "no picture")
    refused(np.zeros((5, 0), np.uint8), "no picture")


def test_the_cap_holds_for_arrays_and_pillow_images(monkeypatch):
    import tinyface.vision.image as module

    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    refused(picture(), "megapixels")
    refused(Image.fromarray(picture()), "megapixels")
    assert limits.MAX_PIXELS == 51_000_000


def test_the_cap_on_bytes(monkeypatch, tmp_path):
    import tinyface.vision.image as module

    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 1000)
    data = encode(Image.fromarray(picture()), "BMP")
    (tmp_path / "long.bmp").write_bytes(data)
    refused(tmp_path / "long.bmp", "long.bmp", "MiB")
    refused(data, "MiB")
    refused(io.BytesIO(data), "MiB")


# --- wrong arguments --------------------------------------------------------------------------


def test_arrays_that_are_not_pictures():
    refused(np.zeros((4, 4, 3)), "float64", "uint8")
    refused(np.zeros((3, 4, 4, 3), np.uint8), "(3, 4, 4, 3)")
    refused(np.zeros((4, 4, 2), np.uint8), "(4, 4, 2)")
    refused(3, "int")
    refused(io.StringIO("text"), "binary")
    refused(picture(), "max_side", max_side=0)
