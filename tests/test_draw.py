"""Faces drawn into their picture, and crops on one sheet."""

from __future__ import annotations

import numpy as np
import pytest
from detections import face

from tinyface.errors import UsageError
from tinyface.vision.draw import draw_faces, montage


def test_drawing_marks_the_faces_and_leaves_the_picture_alone():
    image = np.full((200, 300, 3), 90, np.uint8)
    faces = [face(150, 60, 100), face(20, 20, 24, score=0.61)]
    drawn = np.asarray(draw_faces(image, faces))
    assert drawn.shape == image.shape and (image == 90).all()
    for f in faces:
        left, top, right, bottom = f.box.astype(int)
        middle = (top + bottom) // 2
        assert (drawn[middle, left - 1 : left + 2] != 90).any()
        assert (drawn[middle, right - 1 : right + 2] != 90).any()
        for x, y in f.landmarks:
            assert (drawn[round(y), round(x)] != 90).any()
    assert (drawn[190:, :140] == 90).all()  # far from the faces nothing changes


@pytest.mark.parametrize("shape", [(1, 1), (20, 2000), (40, 40)])
def test_faces_beyond_the_edge_can_be_drawn(shape):
    image = np.zeros((*shape, 3), np.uint8)
    assert draw_faces(image, [face(-50, -50, 200), face(0, 0, 0.5)]).size == shape[::-1]
    assert (np.asarray(draw_faces(image, [])) == 0).all()


def test_montage():
    crops = [np.full((8, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = np.asarray(montage(crops, columns=2, gap=2))
    assert sheet.shape == (2 + 2 * 10, 2 + 2 * 8, 3)
    assert sheet[2, 2, 0] == 10 and sheet[9, 15, 0] == 20 and sheet[12, 7, 0] == 30
    assert (sheet[0] == 255).all() and (sheet[12:20, 10:16] == 255).all()
    assert montage(crops[:1]).size == (14, 16)
    for bad in ([], [crops[0], np.zeros((9, 6, 3), np.uint8)]):
        with pytest.raises(UsageError):
            montage(bad)
    with pytest.raises(UsageError):
        montage(crops, columns=-1)
