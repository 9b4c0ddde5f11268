"""Pictures in, RGB out: every source, mode, orientation and size; the pictures of a folder."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture, png_chunk, png_header
from PIL import Image

import tinyface.vision.image as image_module
from tinyface.errors import ImageError
from tinyface.vision.folder import collect_images
from tinyface.vision.image import read_image, resize

IMAGES = Path(__file__).parent / "images"
ORIENTATION = 0x0112


# --- sources ----------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_pixels(tmp_path, monkeypatch):
    expected = picture()
    data = encode(Image.fromarray(expected))
    path = tmp_path / "p.png"
    path.write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    sources = [
        path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data),
        path.open("rb"), Image.fromarray(expected), expected, "-",
    ]  # fmt: skip
    for source in sources:
        got = read_image(source)
        assert got.dtype == np.uint8 and got.flags.c_contiguous
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG"])
def test_formats(kind):
    expected = picture()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    got = read_image(encode(Image.fromarray(expected), kind, **options.get(kind, {})))
    tolerance = 4 if kind == "JPEG" else 0  # YCbCr is 8 bits per channel: not lossless
    assert np.abs(got.astype(int) - expected).max() <= tolerance


def test_the_name_does_not_matter(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encode(Image.fromarray(picture())))
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize("name", ["фото лица.png", "顔 写真.png", 'a\'b "c" é.png'])
def test_names_in_every_script(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(Image.fromarray(picture())))
    np.testing.assert_array_equal(read_image(path), picture())


def test_non_contiguous_and_grey_arrays():
    rgb = picture()
    np.testing.assert_array_equal(read_image(rgb[:, ::-1]), rgb[:, ::-1])
    grey = rgb[..., 0]
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(read_image(array), np.stack([grey] * 3, axis=2))


# --- modes ------------------------------------------------------------------------------------


def test_grey_and_one_bit():
    grey = picture()[..., 0]
    np.testing.assert_array_equal(
        read_image(encode(Image.fromarray(grey))), np.stack([grey] * 3, axis=2)
    )
    bits = Image.fromarray(grey).convert("1")
    expected = np.asarray(bits).astype(np.uint8)[..., None] * 255
    for kind in ("PNG", "BMP"):
        got = read_image(encode(bits, kind))
        np.testing.assert_array_equal(got, np.repeat(expected, 3, axis=2))


def test_sixteen_bit_grey_uses_the_whole_range():
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    got = read_image(encode(Image.fromarray(values)))
    expected = [0, 0, 1, 1, 128, 254, 255, 255]  # round(v * 255 / 65535)
    np.testing.assert_array_equal(got[0], np.repeat(np.array(expected)[:, None], 3, axis=1))
    old_pillow = Image.fromarray(values.astype(np.int32), "I")
    np.testing.assert_array_equal(read_image(old_pillow), got)


def test_sixteen_bit_colour():
    """Written by hand: Pillow cannot write 16-bit colour. Red is 0xFF.., green 0x80.., blue 0."""
    row = b"\0" + struct.pack(">HHH", 0xFFFF, 0x8040, 0x0000) * 3
    data = png_header(3, 2, depth=16) + png_chunk(b"IDAT", zlib.compress(row * 2))
    got = read_image(data + png_chunk(b"IEND", b""))
    np.testing.assert_array_equal(got, np.full((2, 3, 3), (255, 128, 0)))


def test_palette_with_and_without_a_transparent_colour():
    image = Image.new("P", (4, 2), 0)
    image.putpalette([200, 10, 20, 0, 0, 255])
    image.putpixel((3, 1), 1)
    expected = np.full((2, 4, 3), (200, 10, 20))
    expected[1, 3] = (0, 0, 255)
    np.testing.assert_array_equal(read_image(encode(image)), expected)
    expected[1, 3] = 255
    np.testing.assert_array_equal(read_image(encode(image, transparency=1)), expected)


def test_transparent_parts_are_laid_on_white():
    """alpha 0 is white, 255 the colour, 51 = 1/5 a fifth of it."""
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(10, 20, 30, 0), (10, 20, 30, 255), (10, 20, 30, 51)]
    expected = [(255, 255, 255), (10, 20, 30), (206, 208, 210)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        got = read_image(encode(Image.fromarray(rgba), kind, **options))
        np.testing.assert_array_equal(got[0], expected)
    np.testing.assert_array_equal(read_image(rgba)[0], expected)
    np.testing.assert_array_equal(
        read_image(Image.fromarray(rgba).convert("RGBa"))[0, 1], rgba[0, 1, :3]
    )


def test_what_shines_through_is_rounded_to_the_nearest():
    pixel = np.array([[[1, 1, 1, 128]]], np.uint8)  # (128 + 255 * 127) / 255 = 127.502
    assert read_image(pixel).tolist() == [[[128] * 3]]


def test_grey_with_alpha():
    la = np.array([[[100, 255], [100, 0]]], np.uint8)
    got = read_image(encode(Image.fromarray(la, "LA")))
    np.testing.assert_array_equal(got, [[[100] * 3, [255] * 3]])
    assert read_image(Image.fromarray(la, "LA").convert("La")).shape == (1, 2, 3)


def test_rgb_png_with_a_transparent_colour():
    got = read_image(encode(Image.fromarray(picture()), transparency=(0, 0, 0)))
    expected = picture()
    assert not expected[0, 0].any()
    expected[0, 0] = 255
    np.testing.assert_array_equal(got, expected)


def adobe_marker(jpeg: bytes) -> bytes:
    """With an Adobe APP14 segment, which says that the inks are stored inverted."""
    segment = b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    return jpeg[:2] + b"\xff\xee" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.find(b"\xff\xee")
    if start < 0:
        return jpeg
    (length,) = struct.unpack_from(">H", jpeg, start + 2)
    return jpeg[:start] + jpeg[start + 2 + length :]


def test_cmyk_with_and_without_adobe_marker():
    """A JPEG on its own stores its inks inverted, whether or not the marker says so: what
    Photoshop began, browsers and Pillow follow."""
    rgb = np.full((16, 16, 3), (220, 120, 40), np.uint8)
    stored = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=100)
    stored = without_adobe_marker(stored)
    for data in (stored, adobe_marker(stored)):
        assert np.abs(read_image(data).astype(int) - rgb).max() <= 4


def test_first_frame_only():
    frames = [Image.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (10, 200)]
    for kind in ("PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(read_image(data), np.full((8, 8, 3), 10))


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_modes_without_a_meaning(mode):
    with pytest.raises(ImageError, match="convert it to RGB"):
        read_image(Image.new(mode, (4, 4)))


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "PA", "CMYK"])
def test_modes_of_pillow_images(mode):
    image = Image.fromarray(np.full((4, 4, 3), 128, np.uint8))
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    got = read_image(image).astype(int)
    assert got.shape == (4, 4, 3) and np.abs(got - 128).max() <= 26  # the web palette is coarse


# --- orientation ------------------------------------------------------------------------------

# What the camera stores for an upright picture, straight from the EXIF standard: where the
# first stored row and first stored column lie in the upright picture.
STORED = {
    1: lambda p: p,  # top, left
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.transpose(1, 0, 2),  # left, top
    6: lambda p: p.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda p: p.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, kind):
    upright = picture()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = encode(stored, kind, exif=exif.tobytes(), **options.get(kind, {}))
    for source in (data, Image.open(io.BytesIO(data))):
        got = read_image(source)
        assert got.shape == upright.shape and got.flags.c_contiguous
        assert np.abs(got.astype(int) - upright).max() <= (4 if kind == "JPEG" else 0)
    assert read_image(data, max_side=18).shape == (12, 18, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    got = read_image(encode(Image.fromarray(picture()), exif=exif.tobytes()))
    np.testing.assert_array_equal(got, picture())


@given(noise=st.binary(max_size=64))
@settings(max_examples=50)
def test_broken_exif_does_not_cost_the_picture(noise):
    data = encode(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0" + noise)
    assert read_image(data).shape in [(24, 36, 3), (36, 24, 3)]


# --- size -------------------------------------------------------------------------------------


def test_a_jpeg_of_more_pixels_than_the_limit_is_read_at_half_its_size(monkeypatch):
    """What a telephone calls 108 megapixels, in small."""
    data = (IMAGES / "group_of_four.jpg").read_bytes()
    full = read_image(data)
    monkeypatch.setattr(image_module, "MAX_PIXELS", 120_000)
    with pytest.warns(UserWarning, match="640x640 pixels are read as 320x320"):
        half = read_image(data, name="photo.jpg")
    assert half.shape == (320, 320, 3)
    assert np.abs(half.astype(float) - resize(full, 320, 320)).mean() < 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whoever asks is not told
        for side in (320, 321, 400, 639, 640):
            assert read_image(data, max_side=side).shape == (320, 320, 3)
    with pytest.raises(ImageError, match="megapixels"):
        read_image(encode(Image.fromarray(full)))  # a PNG has no halves


def test_transparency_of_a_palette_in_memory_and_of_an_empty_byte():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:4] = (200, 30, 30, 255)
    quantised = Image.fromarray(rgba).quantize(4)
    np.testing.assert_array_equal(read_image(quantised), read_image(encode(quantised, "PNG")))
    assert read_image(quantised)[7].min() == 255
    bmp = bytearray(encode(Image.fromarray(np.full((4, 4, 4), 99, np.uint8)), "BMP"))
    assert bmp[28] == 32  # bits of a pixel
    start = int.from_bytes(bmp[10:14], "little")
    bmp[start + 3 :: 4] = bytes(16)
    assert (read_image(bytes(bmp)) == 99).all()


def test_max_side_scales_down_and_never_up():
    data = (IMAGES / "group_of_four.jpg").read_bytes()
    full = read_image(data)
    assert read_image(data, max_side=5000).shape == full.shape == (640, 640, 3)
    small = read_image(data, max_side=200)
    assert small.shape == (200, 200, 3)
    difference = np.abs(small.astype(int) - resize(full, 200, 200))
    assert difference.mean() < 2  # decoded at half size, or decoded and then halved
    assert read_image(picture(10, 1000), max_side=50).shape == (1, 50, 3)
    assert read_image(picture(300, 200), max_side=100).shape == (100, 67, 3)  # of 66.7


def test_a_large_jpeg_is_decoded_at_a_fraction(monkeypatch):
    from PIL import JpegImagePlugin

    sizes = []
    load = JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "load", lambda self: (sizes.append(self.size), load(self))[1]
    )
    data = encode(Image.new("RGB", (4000, 3000)), "JPEG")
    assert read_image(data, max_side=640).shape == (480, 640, 3)
    assert sizes[0] == (1000, 750)


def test_resize_averages():
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize(np.stack([board] * 3, axis=2), 8, 8)
    assert small[1:-1, 1:-1].min() >= 126 and small[1:-1, 1:-1].max() <= 129
    same = picture()
    assert resize(same, *same.shape[:2]) is same


def test_pillow_that_another_thread_is_importing(tmp_path, monkeypatch):
    """Its module is known by then, and has no class of images yet."""
    monkeypatch.setitem(sys.modules, "PIL.Image", ModuleType("PIL.Image"))
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "nowhere.jpg")


def test_pillow_is_not_imported_before_it_is_needed():
    code = "import sys, tinyface.vision.image, tinyface.vision.align; print('PIL' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# --- directories ------------------------------------------------------------------------------


def test_collect_images(tmp_path):
    for name in ("10.jpg", "2.JPG", "b.png", "A.webp", "notes.txt", ".hidden.jpg", "sub/1.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    flat = [str(p.relative_to(tmp_path)) for p in collect_images(tmp_path)]
    assert flat == ["2.JPG", "10.jpg", "A.webp", "b.png"]
    deep = [str(p.relative_to(tmp_path)) for p in collect_images(tmp_path, recursive=True)]
    assert deep == [*flat, os.path.join("sub", "1.bmp")]
    assert collect_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_collect_images_finds_nothing(tmp_path):
    with pytest.raises(ImageError, match=r"no picture in this directory.*sub-directories"):
        collect_images(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        collect_images(tmp_path / "nowhere")


def test_sample_pictures():
    names = [p.name for p in collect_images(IMAGES)]
    assert names == sorted(names) and "astronaut.png" in names
    assert all(read_image(p).ndim == 3 for p in collect_images(IMAGES))
