"""From five landmarks to the upright crop that recognition networks are trained on.

The crop is cut by a similarity transform (turn, scale, shift: nothing that changes a face's
proportions) that brings the landmarks as near as possible, in the least-squares sense, to a
template. Coordinates are (x, y) in pixels, and a pixel's centre has integer coordinates.

Sources: S. Umeyama, "Least-squares estimation of transformation parameters between two point
patterns", IEEE PAMI 13(4), 1991. The template is the one used with ArcFace (J. Deng et al.,
CVPR 2019), and so with nearly every public network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyface.errors import ImageError, UsageError
from tinyface.vision.image import RGB

Points = NDArray[np.float64]  # (n, 2), columns x and y
Matrix = NDArray[np.float64]  # (2, 3), [A | t]: (x, y) -> A (x, y) + t

# Left eye, right eye, nose, left and right corner of the mouth; left as seen in the picture.
TEMPLATE: Final[Points] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
TEMPLATE.setflags(write=False)

_MAX_SIDE: Final = 4096  # of a crop


class Frame(NamedTuple):
    """What a crop shows beside the 112x112 pixels of ArcFace's: pixels before it is scaled."""

    scale: int
    beside: int  # on the left, and as many on the right; less than 0: that many fewer
    below: int


def frame(height: int, width: int) -> Frame | None:
    """What a crop of this size shows; None where no ``template`` is defined for it."""
    if height == width and height % 112 == 0:
        return Frame(height // 112, 0, 0)
    if height == width and height % 128 == 0:
        return Frame(height // 128, 8, 16)
    if height % 112 == 0 and width * 112 == height * 96:
        return Frame(height // 112, -8, 0)
    return None


def template(size: int | tuple[int, int] = 112) -> Points:
    """Where the five landmarks of a crop belong: ``(5, 2)`` in pixels.

    Args:
        size: side of the crop, or (height, width). A multiple of 112 scales the template; a
            multiple of 128 scales it after adding 8 pixels on the left and 8 on the right, and
            16 at the bottom; (112 k, 96 k) leaves out 8 pixels on either side.

    Raises:
        UsageError: a size for which no template is defined.
    """
    height, width = _height_width(size)
    shown = frame(height, width)
    if shown:
        return np.add(TEMPLATE, (shown.beside, 0)) * shown.scale
    raise UsageError(
        f"no template for crops of {height}x{width}: give a multiple of 112 or 128, or 112x96"
    )


def similarity(source: ArrayLike, target: ArrayLike) -> Matrix:
    """The similarity that brings ``source`` nearest to ``target``: ``(2, 3)``, no reflection.

    Umeyama's solution takes an SVD because it holds in any dimension. In the plane, a turn by
    phi with scale c is the multiplication by one complex number a = c exp(i phi), so that the
    same minimum of sum |t - (a s + b)|^2 is a linear regression on complex numbers:
    a = sum conj(s') t' / sum |s'|^2 and b = mean(t) - a mean(s), primes for centred points.

    Args:
        source: ``(n, 2)`` points, n >= 2.
        target: ``(n, 2)`` where they should go.

    Raises:
        ImageError: points that are not finite, all in one place, or that fix no rotation.
    """
    s, t = _complex(source), _complex(target)
    if s.size != t.size or s.size < 2:
        raise ImageError(f"{s.size} points cannot go to {t.size}; give two or more pairs")
    if not (np.isfinite(s).all() and np.isfinite(t).all()):
        raise ImageError("landmarks that are not finite; detect the face again")
    s_mean, t_mean = s.mean(), t.mean()
    s_centred, t_centred = s - s_mean, t - t_mean
    spread = float(np.vdot(s_centred, s_centred).real)
    # Spread of rounding errors only: the points are all the same one.
    if spread <= s.size * (1e-9 * max(1.0, float(np.abs(s).max()))) ** 2:
        raise ImageError("landmarks that are all in one place; detect the face again")
    a = np.vdot(s_centred, t_centred) / spread
    if abs(a) <= 1e-9 * float(np.abs(t_centred).max()) / float(np.abs(s_centred).max()):
        raise ImageError("landmarks that fix no rotation; detect the face again")
    b = t_mean - a * s_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(image: RGB, matrix: ArrayLike, size: int | tuple[int, int] = 112) -> RGB:
    """Draw ``image`` into a new one through an affine map: out(x, y) = image(matrix^-1 (x, y)).

    Between four pixels the value is bilinear, exactly (no fixed point); beyond the edge of the
    picture there is 0. Rounded to the nearest integer.

    Args:
        image: ``uint8 (H, W, C)``.
        matrix: ``(2, 3)``, from coordinates in ``image`` to coordinates in the result.
        size: side of the result, or (height, width).

    Raises:
        ImageError: a matrix that is not finite or has no inverse.
    """
    height, width = _height_width(size)
    inverse = _invert(np.asarray(matrix, dtype=np.float64))
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1)
    columns, rows = inverse[:, :2] @ np.stack([x, y]) + inverse[:, 2:]  # (2, h*w), in image
    return _bilinear(image, columns, rows).reshape(height, width, image.shape[2])


def align(image: RGB, landmarks: ArrayLike, size: int | tuple[int, int] = 112) -> RGB:
    """Cut a face out, upright, its landmarks on the template.

    The crop is ``warp`` by ``similarity(landmarks, template(size))``. Only a face that is more
    than four times as large as the crop is first averaged over k x k pixels, so that a
    reduction by 2 or 3 is left to the bilinear interpolation, which looks at four pixels only
    and would otherwise pick up grain and moiré instead of the face.

    Args:
        image: ``uint8 (H, W, 3)``.
        landmarks: ``(5, 2)``, as in ``Face.landmarks``.
        size: side of the crop, or (height, width); see ``template``.

    Returns:
        ``uint8 (height, width, 3)``.

    Raises:
        ImageError: landmarks that fix no transform.
        UsageError: a size without a template.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != TEMPLATE.shape:
        raise ImageError(f"landmarks of shape {points.shape}; give five points, (5, 2)")
    matrix = similarity(points, template(size))
    k = int(min(0.5 / np.hypot(matrix[0, 0], matrix[1, 0]), min(image.shape[:2])))
    if k < 2:
        return warp(image, matrix, size)
    image, offset = _reduce(image, matrix, size, k)
    # Pixel i of the reduced picture is centred on offset + k i + (k - 1) / 2.
    shift = offset + (k - 1) / 2
    matrix = np.column_stack([matrix[:, :2] * k, matrix[:, :2] @ shift + matrix[:, 2]])
    return warp(image, matrix, size)


def _reduce(image: RGB, matrix: Matrix, size: int | tuple[int, int], k: int) -> tuple[RGB, Points]:
    """The part of ``image`` that the crop shows, averaged over k x k pixels, and the (x, y) in
    ``image`` at which that part begins."""
    from PIL import Image

    height, width = _height_width(size)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]).T
    inverse = _invert(matrix)
    seen = inverse[:, :2] @ corners + inverse[:, 2:]  # (2, 4)
    limit = np.array([[image.shape[1]], [image.shape[0]]])
    low, high = np.clip(
        [seen.min(axis=1, keepdims=True) - k, seen.max(axis=1, keepdims=True) + 2 * k], 0, limit
    ).astype(int)[..., 0]
    high = np.maximum(high, low + 1)
    low = np.minimum(low, limit[:, 0] - 1)
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    return np.asarray(Image.fromarray(part).reduce(k)), low.astype(np.float64)


def _bilinear(image: RGB, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> RGB:
    """``(H, W, C)`` sampled at n points: ``(n, C)``.

    Every point lies between four pixels, weighted (1-fx)(1-fy), fx(1-fy), (1-fx)fy and fx fy.
    A neighbour outside the picture has weight 0, which is the same as a border of zeros.
    """
    height, width, channels = image.shape
    flat = image.reshape(-1, channels)
    # Far outside is as good as just outside, and always fits an integer.
    columns, rows = np.clip(columns, -2, width + 1), np.clip(rows, -2, height + 1)
    left, top = np.floor(columns).astype(np.intp), np.floor(rows).astype(np.intp)
    fx, fy = (columns - left).astype(np.float32), (rows - top).astype(np.float32)
    total = np.zeros((columns.size, channels), np.float32)
    for y, weight_y in ((top, 1 - fy), (top + 1, fy)):
        weight_y = np.where((y >= 0) & (y < height), weight_y, 0)
        y = np.clip(y, 0, height - 1) * width
        for x, weight_x in ((left, 1 - fx), (left + 1, fx)):
            weight = weight_y * np.where((x >= 0) & (x < width), weight_x, 0)
            total += flat.take(y + np.clip(x, 0, width - 1), axis=0) * weight[:, None]
    return np.rint(total).astype(np.uint8)


def _invert(matrix: Matrix) -> Matrix:
    """The inverse of (x, y) -> A (x, y) + t is (x, y) -> A^-1 (x, y) - A^-1 t."""
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise ImageError("the transform is not a finite (2, 3) matrix; detect the face again")
    (a, b, _), (c, d, _) = matrix
    determinant = a * d - b * c
    if abs(determinant) <= 1e-12 * max(abs(a * d), abs(b * c)) or determinant == 0:
        raise ImageError("the transform has no inverse; detect the face again")
    linear = np.array([[d, -b], [-c, a]]) / determinant
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, (int, np.integer)) else size
    whole = isinstance(sides, Sequence) and all(isinstance(s, (int, np.integer)) for s in sides)
    if not whole or len(sides) != 2:
        raise UsageError(f"crops of size {size!r}: give a side, or (height, width), in pixels")
    height, width = sides
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise UsageError(f"crops of {height}x{width}: give sides from 1 to {_MAX_SIDE} pixels")
    return int(height), int(width)


def _complex(points: ArrayLike) -> NDArray[np.complex128]:
    array: NDArray[Any] = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ImageError(f"points of shape {array.shape}; give (n, 2), columns x and y")
    return np.ascontiguousarray(array).view(np.complex128)[:, 0]  # x + i y
