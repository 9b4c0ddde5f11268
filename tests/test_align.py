"""Alignment against Umeyama's own formula, OpenCV's crops, and a pixel-by-pixel bilinear."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from shared import SHARED, needs_shared

from tinyface.errors import ImageError, UsageError
from tinyface.vision.align import TEMPLATE, align, similarity, template, warp
from tinyface.vision.folder import collect_images
from tinyface.vision.image import read_image

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "alignment" / "io.safetensors"

coordinates = st.floats(-2000, 2000, allow_nan=False, width=32)
points = hnp.arrays(np.float64, st.tuples(st.integers(2, 9), st.just(2)), elements=coordinates)
angles = st.floats(-math.pi, math.pi)


def rigid(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def apply(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return xy @ matrix[:, :2].T + matrix[:, 2]


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Equations 38 to 43 of the paper, by SVD, for points (n, 2)."""
    ms, mt = source.mean(axis=0), target.mean(axis=0)
    covariance = (target - mt).T @ (source - ms) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = (d * sign.diagonal()).sum() / ((source - ms) ** 2).sum(axis=1).mean()
    return np.column_stack([scale * rotation, mt - scale * rotation @ ms])


def spread(xy: np.ndarray) -> float:
    return float(np.abs(xy - xy.mean(axis=0)).max())


# --- similarity -------------------------------------------------------------------------------


@given(points, angles, st.floats(0.01, 100), coordinates, coordinates)
def test_similarity_recovers_any_turn_scale_and_shift(xy, angle, scale, x, y):
    if spread(xy) < 0.1:
        return
    matrix = rigid(angle, scale, x, y)
    found = similarity(xy, apply(matrix, xy))
    size = np.abs(apply(matrix, xy)).max() + scale * np.abs(xy).max()
    np.testing.assert_allclose(apply(found, xy), apply(matrix, xy), atol=1e-10 * (1 + size))


@given(st.integers(0, 10**6), st.integers(3, 9))
def test_similarity_is_umeyamas(seed, n):
    """Points without any relation: the least-squares answer must be the paper's, reflections
    (half of the random pairs would be fitted better by one) included."""
    rng = np.random.default_rng(seed)
    source, target = rng.normal(0, 100, (2, n, 2))
    np.testing.assert_allclose(
        similarity(source, target), umeyama(source, target), rtol=1e-9, atol=1e-9
    )


@given(points, angles)
def test_a_reflection_is_never_returned(xy, angle):
    if spread(xy) < 0.1:
        return
    mirrored = apply(rigid(angle, 1, 0, 0), xy * (-1, 1))
    try:
        matrix = similarity(xy, mirrored)
    except ImageError:
        return
    assert np.linalg.det(matrix[:, :2]) > 0


def test_no_other_similarity_is_nearer():
    rng = np.random.default_rng(1)
    source = rng.normal(100, 30, (5, 2))
    best = similarity(source, TEMPLATE)
    least = ((apply(best, source) - TEMPLATE) ** 2).sum()
    for _ in range(200):
        scale, angle = np.hypot(*best[:, 0]), math.atan2(best[1, 0], best[0, 0])
        near = rigid(angle + rng.normal(0, 0.02), scale * (1 + rng.normal(0, 0.02)), *(best[:, 2]))
        near[:, 2] += rng.normal(0, 1, 2)
        assert ((apply(near, source) - TEMPLATE) ** 2).sum() >= least


@pytest.mark.parametrize(
    "bad",
    [
        np.full((5, 2), 7.0),
        np.full((5, 2), 1e6) + np.arange(10).reshape(5, 2) * 1e-10,
        np.full((5, 2), np.nan),
        np.where(np.eye(5, 2) > 0, np.inf, TEMPLATE),
        np.zeros((5, 3)),
        np.zeros((4, 2)),
        np.zeros((0, 2)),
    ],
)
def test_points_that_fix_nothing_are_refused(bad):
    with pytest.raises(ImageError) as caught:
        similarity(bad, TEMPLATE)
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError):
        align(np.zeros((20, 20, 3), np.uint8), bad)


def test_targets_that_fix_no_rotation_are_refused():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    with pytest.raises(ImageError, match="no rotation"):
        similarity(square, np.zeros((4, 2)))
    with pytest.raises(ImageError, match="no rotation"):
        similarity(square, square[:, ::-1])  # a reflection: every rotation fits equally badly


# --- the template -----------------------------------------------------------------------------


def test_templates():
    np.testing.assert_array_equal(template(), TEMPLATE)
    np.testing.assert_allclose(template(224), 2 * TEMPLATE)
    np.testing.assert_allclose(template((112, 96)), TEMPLATE - np.array([8, 0]))
    np.testing.assert_allclose(template((224, 192)), 2 * TEMPLATE - [16, 0])
    np.testing.assert_allclose(template(128), TEMPLATE + np.array([8, 0]))
    np.testing.assert_allclose(template(256), 2 * TEMPLATE + [16, 0])
    np.testing.assert_allclose(template(896), 8 * TEMPLATE)  # 8 x 112 before 7 x 128
    assert not TEMPLATE.flags.writeable


@pytest.mark.parametrize(
    "size", [100, 0, -112, (112, 100), (96, 112), 10**9, "112", (112,), 1.5, (112, 96.0), None]
)
def test_sizes_without_a_template(size):
    with pytest.raises(UsageError, match="give"):
        template(size)


# --- the warp ---------------------------------------------------------------------------------

images = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The definition, for one point: every pixel has a weight max(0, 1-|dx|) max(0, 1-|dy|)."""
    height, width, _ = image.shape
    wx = np.maximum(0, 1 - np.abs(np.arange(width) - x))
    wy = np.maximum(0, 1 - np.abs(np.arange(height) - y))
    return np.einsum("y,x,yxc->c", wy, wx, image.astype(np.float64))


@given(images)
def test_the_identity_changes_nothing(image):
    np.testing.assert_array_equal(warp(image, np.eye(2, 3), image.shape[:2]), image)


@given(images, st.integers(-15, 15), st.integers(-15, 15))
def test_a_whole_shift_moves_pixels_and_fills_with_black(image, x, y):
    height, width = image.shape[:2]
    got = warp(image, [[1, 0, x], [0, 1, y]], (height, width))
    padded = np.pad(image, ((16, 16), (16, 16), (0, 0)))
    np.testing.assert_array_equal(got, padded[16 - y : 16 - y + height, 16 - x : 16 - x + width])


@given(images, angles, st.floats(0.1, 10), st.floats(-20, 20), st.floats(-20, 20))
def test_the_warp_is_exactly_bilinear(image, angle, scale, x, y):
    matrix = rigid(angle, scale, x, y)
    got = warp(image, matrix, (5, 7))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for j in range(5):
        for i in range(7):
            u, v, _ = inverse @ (i, j, 1)
            assert np.abs(got[j, i] - bilinear(image, u, v)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((2, 3)), [[1, 1, 0], [1, 1, 0]], [[np.nan, 0, 0], [0, 1, 0]], np.eye(2), np.eye(3)],
)
def test_matrices_without_an_inverse(matrix):
    with pytest.raises(ImageError, match="transform"):
        warp(np.zeros((4, 4, 3), np.uint8), matrix)


@given(st.floats(1e-12, 1e12), st.floats(-1e15, 1e15))
def test_extreme_transforms_stay_inside_memory(scale, shift):
    image = np.full((4, 4, 3), 9, np.uint8)
    assert warp(image, rigid(0.3, scale, shift, -shift), 8).max() <= 9


# --- golden crops -----------------------------------------------------------------------------


def test_golden_crops():
    golden = load_file(GOLDEN)
    for i, image in enumerate(golden["image"]):
        matrix = similarity(golden["landmarks"][i], TEMPLATE)
        np.testing.assert_allclose(matrix, golden["matrix"][i], rtol=1e-12, atol=1e-12)
        crop = align(image, golden["landmarks"][i])
        assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
        assert np.abs(crop.astype(int) - golden["crop_opencv"][i]).max() <= 1


@needs_shared
def test_all_shared_crops():
    golden = load_file(SHARED / "golden" / "alignment" / "io.safetensors")
    for i, image in enumerate(golden["image_hwc_u8"]):
        crop = align(image, golden["landmarks"][i])
        # Rounded from float32 weights: half a grey level and the rounding of the weights.
        assert np.abs(crop - golden["warp_exact_f64"][i]).max() <= 0.5 + 1e-3


# --- align ------------------------------------------------------------------------------------


def face_pattern(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A large picture with a smooth pattern, fixed to the face, and the face's landmarks. Both
    pictures show the same square: pixel centres lie half a pixel inside its edge."""
    side = math.ceil(112 * scale)
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / scale - 0.5
    waves = (np.sin(x / 9) + np.cos(y / 11), np.cos(x / 8), np.sin((x - y) / 13))
    image = np.rint(127 + 60 * np.stack(waves, axis=2)).astype(np.uint8)
    return image, (TEMPLATE + 0.5) * scale - 0.5


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.9, 4.0, 4.5, 6.3, 11.0])
def test_faces_of_any_size_give_the_same_crop(scale):
    """No shift and no change of scale where the averaging sets in (at 4)."""
    small = align(*face_pattern(1.0)).astype(int)
    large = align(*face_pattern(scale)).astype(int)
    assert np.abs(small - large)[4:-4, 4:-4].max() <= 1  # the slope of the pattern: 7 a pixel


def test_a_large_face_is_averaged_not_sampled():
    """A checkerboard of single pixels is grey from afar. (The landmarks put every pixel of the
    crop on the centre of one of the picture's, where bilinear alone gives black or white.)"""
    side = 112 * 8
    board = (np.indices((side, side)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = align(np.stack([board] * 3, axis=2), TEMPLATE * 8)
    assert np.abs(crop[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_a_large_face_has_no_dark_edge():
    """What is averaged is cut out of the picture first, with all that the crop shows."""
    white = np.full((2400, 2400, 3), 255, np.uint8)
    assert align(white, TEMPLATE * 12.3 + 411).min() == 255


def test_a_face_beyond_the_picture_is_black():
    assert not align(np.full((100, 100, 3), 255, np.uint8), TEMPLATE * 10 + 5000).any()


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_align_takes_any_landmarks(seed):
    """Far outside the picture, tiny, huge, turned: a crop or an ImageError."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(1, 300, 2), 3), dtype=np.uint8)
    marks = rng.normal(0, 10.0 ** rng.uniform(-3, 4), (5, 2)) + rng.normal(0, 300, 2)
    crop = align(image, marks, 112)
    assert crop.shape == (112, 112, 3)


@needs_shared
def test_public_crops_of_the_sample_pictures():
    """Crops made with the public detector's landmarks, rounded to 1/100 pixel in the file."""
    import json

    detections = json.loads((SHARED / "golden/real/retinaface_detections.json").read_text())
    for path in collect_images(SHARED / "images"):
        for i, face in enumerate(detections[path.name]):
            crop = align(read_image(path), face["landmarks"]).astype(int)
            public = read_image(SHARED / "images" / "aligned" / f"{path.stem}_{i}.png")
            assert np.abs(crop - public).mean() < 0.2, path.name
            assert np.abs(crop - public).max() <= 4, path.name
