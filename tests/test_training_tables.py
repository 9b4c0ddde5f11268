"""Sets as people bring them: turned photographs, other columns, gaps, large pictures."""

from __future__ import annotations

import csv
import zipfile

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from training_samples import png  # noqa: E402

from training import alignment, detector_data  # noqa: E402

COLUMNS = detector_data.COLUMNS
POINTS = alignment.TEMPLATE.ravel().tolist()


def table(folder, rows, columns=COLUMNS, encoding="utf-8"):
    """`set.zip` of a picture, and its table of `rows`."""
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("a.png", png(Image.new("RGB", (112, 112))))
        archive.writestr("broken.png", png(Image.new("RGB", (112, 112)))[:40])
    with open(folder / "set.csv", "w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([["file", *columns], *rows])
    return folder / "set.zip"


def test_pictures_are_as_they_are_shown(tmp_path):
    """Landmarks come from what shows a picture upright, whichever way the camera was held."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
    path = table(tmp_path, [["turned.png", 1, 2, 9, 9, *POINTS]])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("turned.png", png(lying, exif=exif))
    [face] = alignment.faces(path)
    np.testing.assert_array_equal(np.asarray(alignment.open_face(face)), pixels)
    picture, _ = detector_data.Pool(tmp_path, "set").read("turned.png")
    np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_columns_go_by_their_names(tmp_path):
    order = ["score", *reversed(COLUMNS)]
    row = ["a.png", 0.9, *reversed([1, 2, 30, 40, *POINTS])]
    path = table(tmp_path, [row], order, "utf-8-sig")
    np.testing.assert_array_equal(alignment.faces(path)[0].points, alignment.TEMPLATE)
    faces = detector_data.Pool(tmp_path, "set").faces["a.png"]
    np.testing.assert_array_equal(faces, [[1, 2, 30, 40, *POINTS]])
    table(tmp_path, [], [name for name in COLUMNS if name not in ("box_w", "nose_x")])
    with pytest.raises(ValueError, match=r"set\.csv: no column box_w, nose_x"):
        detector_data.Pool(tmp_path, "set")
    with pytest.raises(ValueError, match=r"set\.csv: no column nose_x"):
        alignment.faces(path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["a.png", 1, 2, 3, 4, *POINTS[:-1], ""], r"line 2 \(a\.png\)"),
        (["a.png", 1, 2, 3], r"line 2 \(a\.png\)"),
        (["a.png", 1, 2, 3, 4, *POINTS[:-1], "nan"], r"line 2 \(a\.png\)"),
        (["", 1, 2, 3, 4, *POINTS], r"line 2 \(\) has no name"),
    ],
)
def test_rows_that_are_not_whole_are_named(tmp_path, row, said):
    path = table(tmp_path, [row])
    for read in (lambda: alignment.faces(path), lambda: detector_data.Pool(tmp_path, "set")):
        with pytest.raises(ValueError, match=r"set\.csv: " + said):
            read()


def test_faces_without_an_extent_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"line 2 \(a\.png\): all landmarks are one point"):
        alignment.faces(table(tmp_path, [["a.png", 1, 2, 3, 4, *[0] * 10]]))
    table(tmp_path, [["a.png", 1, 2, 0, 4, *POINTS]])
    with pytest.raises(ValueError, match=r"line 2 \(a\.png\): a box without an inside"):
        detector_data.Pool(tmp_path, "set")


@pytest.mark.parametrize("name", ["absent.png", "broken.png"])
def test_pictures_that_are_missing_or_broken_are_named(tmp_path, name):
    [face] = alignment.faces(table(tmp_path, [[name, 1, 2, 3, 4, *POINTS]]))
    pool = detector_data.Pool(tmp_path, "set")
    for read in (lambda: alignment.open_face(face), lambda: pool.read(name)):
        with pytest.raises(ValueError, match=rf"set\.zip: .*{name}"):
            read()


def test_of_a_large_photograph_the_part_around_the_face_is_kept():
    """A square marks the face, before and after; another face that is cut away is forgotten."""
    small = Image.new("RGB", (512, 512))
    face = np.array([[1000, 500, 300, 300, *np.arange(1000, 1010)]], float)
    assert detector_data.trimmed(small, face)[0] is small
    photograph = np.zeros((3000, 4000, 3), np.uint8)
    photograph[500:800, 1000:1300] = 255
    far = np.array([[3000, 2500, 90, 90, *[3000] * 10]], float)
    picture, faces = detector_data.trimmed(Image.fromarray(photograph), np.concatenate([far, face]))
    assert picture.size == (512, 512) and len(faces) == 1
    scale = 512 / 900
    np.testing.assert_allclose(faces[0, :4], [300 * scale] * 4)
    np.testing.assert_allclose(faces[0, 4:], (np.arange(1000, 1010) - [700, 200] * 5) * scale)
    ys, xs = np.nonzero(np.asarray(picture)[..., 0] > 127)
    x, y, w, h = faces[0, :4]
    assert abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
               - [x, y, x + w, y + h]).max() <= 1  # fmt: skip


def test_a_face_that_is_small_in_a_large_photograph_keeps_its_pixels():
    face = np.array([[-20, 2900, 60, 80, *[30] * 10]], float)
    picture, faces = detector_data.trimmed(Image.new("RGB", (4000, 3000)), face)
    assert picture.size == (100, 180) and faces[0, :4].tolist() == [-20, 80, 60, 80]
    outside = np.array([[5000, 4000, 60, 80, *[30] * 10]], float)
    assert len(detector_data.trimmed(Image.new("RGB", (4000, 3000)), outside)[1]) == 1
