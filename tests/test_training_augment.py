"""What a student sees: crops on the template, moved, turned aside, lit, recoloured, covered."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.alignment import TEMPLATE, crop, similarity  # noqa: E402
from training.augment import augment, centre, cover, move, recolour, relight  # noqa: E402
from training.turn import PITCH, YAW, origin, turned, turns  # noqa: E402


@pytest.mark.parametrize("size", [97, 112])
def test_augmentation_keeps_shape_and_range(size):
    gen = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 128, 128) * 255
    y = augment(x, gen, size=size)
    assert y.shape == (16, 3, size, size) and y.is_contiguous(memory_format=torch.channels_last)
    assert y.min() >= -1 and y.max() <= 1 and y.isfinite().all()
    again = augment(x, torch.Generator().manual_seed(0), size=size)
    assert torch.equal(y, again)


def test_moving_by_nothing_is_the_middle_or_its_mirror():
    x = torch.rand(12, 3, 128, 128) * 255
    y = move(x, torch.Generator().manual_seed(0), strength=0.0) / 127.5 - 1
    plain = centre(x)
    kept = [(y[i] - plain[i]).abs().max() < 1e-3 for i in range(12)]
    mirrored = [(y[i] - plain[i].flip(2)).abs().max() < 1e-3 for i in range(12)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept) and any(mirrored)


def test_cover_changes_only_what_it_is_asked_to():
    x = torch.rand(32, 3, 112, 112)
    assert torch.equal(cover(x, torch.Generator().manual_seed(0), 0.0, 0.0), x)
    y = cover(x, torch.Generator().manual_seed(0), 1.0, 0.0)
    changed = (y != x).any(1).flatten(1).float().mean(1)
    assert changed.max() < 0.3 and (changed > 0).float().mean() > 0.7


def test_a_dark_share_is_dark():
    gen = torch.Generator().manual_seed(0)
    x = torch.full((400, 3, 4, 4), 0.5)
    light = recolour(x, gen, dark=0.5).mean((1, 2, 3))
    assert 0.2 < (light < 0.25).float().mean() < 0.55
    assert (recolour(x, gen, dark=0.0).mean((1, 2, 3)) < 0.15).float().mean() < 0.02


def test_light_from_a_side_falls_off_evenly_and_contrast_goes_away_from_the_mean():
    x = torch.full((64, 3, 32, 32), 0.3)
    assert torch.equal(relight(x, torch.Generator().manual_seed(0), 0.0), x)
    y = relight(x, torch.Generator().manual_seed(0), 1.0)
    plain = [p for p in y if p.min() > 0 and p.max() < 1]
    assert len(plain) > 30
    corners = torch.stack([p[0, :: p.shape[1] - 1, :: p.shape[2] - 1].flatten() for p in plain])
    assert (corners.amax(1) / corners.amin(1)).median() > 1.5
    grey = torch.rand(64, 1, 32, 32).expand(64, 3, 32, 32) * 0.2 + 0.4
    spread = [relight(grey, torch.Generator().manual_seed(1), s).flatten(1).std(1).median()
              for s in (0.0, 1.0)]  # fmt: skip
    assert spread[1] > 1.3 * spread[0]


# Heads turned aside ---------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [-YAW, 0.2, YAW])
@pytest.mark.parametrize("pitch", [-PITCH, 0.0, PITCH])
def test_origin_is_where_the_turn_came_from(yaw, pitch):
    back = similarity(turned(TEMPLATE, yaw, pitch), TEMPLATE)
    shown = turned(origin(yaw, pitch), yaw, pitch) @ back[:, :2].T + back[:, 2]
    axis = np.arange(112.0)
    assert np.abs(shown - np.stack(np.meshgrid(axis, axis), -1)).max() < 0.1  # pixels


def test_no_turn_shows_every_point_where_it_was():
    axis = np.arange(112.0)
    np.testing.assert_allclose(origin(0, 0), np.stack(np.meshgrid(axis, axis), -1), atol=1e-6)
    assert not turns()[0].any() and all(turn.abs().max() > 0.01 for turn in turns()[1:])


def test_what_stands_out_moves_ahead_of_what_lies_back():
    """The nose goes the way the head is turned, between the eyes that it stood between."""
    x = turned(TEMPLATE, 0.3, 0)[:, 0]
    before = TEMPLATE[:, 0]
    assert (x[2] - x[:2].mean()) - (before[2] - before[:2].mean()) > 3
    assert x[1] - x[0] < before[1] - before[0]
    y = turned(TEMPLATE, 0, 0.15)[:, 1]
    assert y[2] - y[:2].mean() < TEMPLATE[2, 1] - TEMPLATE[:2, 1].mean()


def test_turns_go_with_whatever_else_moves_a_picture():
    """Turned by a table and moved by nothing: the table's points, sampled by hand."""
    ramp = torch.arange(128.0)
    x = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), torch.zeros(128, 128)])
    y = move(x[None].repeat(24, 1, 1, 1), torch.Generator().manual_seed(2), 0.0, aside=1.0)
    axis = torch.arange(112.0)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    shown = (pixels + turns()[1:] * 56 + 8).clamp(0, 127)
    for found in y:
        mirrored = found[0, 0, 0] > found[0, 0, -1]
        points = found[:2].permute(1, 2, 0)
        points = torch.stack([127 - points[..., 0], points[..., 1]], -1) if mirrored else points
        assert (shown - points).abs().amax((1, 2, 3)).min() < 0.02


# Alignment ------------------------------------------------------------------------------------


def test_similarity_recovers_a_known_transform():
    turn = np.deg2rad(25)
    m = 1.7 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    found = similarity(TEMPLATE, TEMPLATE @ m.T + [5, -3])
    np.testing.assert_allclose(found, np.hstack([m, [[5], [-3]]]), atol=1e-9)


def test_crop_puts_the_landmarks_on_the_template():
    from PIL import Image

    points = TEMPLATE * 2 + 20
    picture = np.zeros((280, 280, 3), np.uint8)
    for x, y in points.round().astype(int):
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    small = crop(Image.fromarray(picture), points, 128)
    for x, y in TEMPLATE + 8:
        window = small[int(y) - 5 : int(y) + 7, int(x) - 5 : int(x) + 7, 0].astype(float)
        rows, cols = np.mgrid[int(y) - 5 : int(y) + 7, int(x) - 5 : int(x) + 7]
        assert abs((rows * window).sum() / window.sum() - y) < 0.4
        assert abs((cols * window).sum() / window.sum() - x) < 0.4
