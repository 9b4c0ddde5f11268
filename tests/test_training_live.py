"""Mixtures made while a student learns, and the teachers' answers to them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import data, live, mixing, recogniser, teachers  # noqa: E402
from training.student import Settings, Student  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Twelve crops, two stand-ins for teachers, and both looks of each at the crops."""

    def load(folder, name):
        torch.manual_seed(teachers.TEACHERS.index(name))
        layers = [torch.nn.Conv2d(3, 128, 7, 7), torch.nn.ReLU(), torch.nn.AvgPool2d((8, 16))]
        return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(256, 128)).eval()

    for module in (data, live):
        monkeypatch.setattr(module, "load_teacher", load)
        monkeypatch.setattr(module, "fast", lambda model, threads: model)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.save(tmp_path / "crops.npy", coarse.repeat(16, 1).repeat(16, 2))
    for name in teachers.TEACHERS:
        for view in range(2):
            data.build_embeddings(tmp_path, "crops", name, view, tmp_path, 1)
    return tmp_path


# Mixing ---------------------------------------------------------------------------------------


def test_ramps_pass_from_none_to_all_in_their_direction():
    flat, right, down = mixing.ramps(
        torch.tensor([0.3, 0.0, torch.pi / 2]), torch.tensor([0.0, 40.0, 40.0]), torch.zeros(3)
    )[:, 0]
    assert torch.equal(flat, torch.full((128, 128), 0.5))
    assert right[:, 0].max() < 1e-6 and right[:, -1].min() > 1 - 1e-6
    torch.testing.assert_close(down, right.T, atol=1e-5, rtol=0)


def test_a_patch_covers_its_ellipse_and_nothing_far_away():
    (share,) = mixing.patches(torch.tensor([[0.0, -0.5, 0.4, 0.2]]), torch.tensor([30.0]))[:, 0]
    assert share[32, 64] > 0.99 and share[32, 64 + 20] > 0.9  # rows go down, columns right
    assert share[96, 64] < 1e-3 and share[32, 127] < 1e-3 and share[64, 64] < 1e-3


def test_shares_are_of_every_kind_and_lie_between_none_and_all():
    share = mixing.shares(300, generator())
    assert share.shape == (300, 1, 128, 128) and share.min() >= 0 and share.max() <= 1
    even = (share.amax((1, 2, 3)) - share.amin((1, 2, 3)) < 1e-6).float().mean()
    assert 0.2 < even < 0.5


def test_a_mixture_is_seeded_in_range_and_unlike_either_face():
    first, second = torch.rand(2, 5, 3, 128, 128, generator=generator()) * 255
    mixed = mixing.mix(first, second, generator(1))
    assert mixed.shape == first.shape and mixed.min() >= 0 and mixed.max() <= 255
    assert torch.equal(mixed, mixing.mix(first, second, generator(1)))
    assert not torch.equal(mixed, mixing.mix(first, second, generator(2)))


def test_colours_of_the_second_face_follow_the_first_as_far_as_asked():
    x, like = torch.rand(2, 2, 3, 32, 32, generator=generator())
    like = like * 0.3 + 0.5
    none, all_ = mixing._toned(x, like, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(none, x[0])
    torch.testing.assert_close(all_.mean((1, 2)), like[1].mean((1, 2)))
    torch.testing.assert_close(all_.std((1, 2)), like[1].std((1, 2)))


# Targets --------------------------------------------------------------------------------------


def test_targets_of_crops_are_those_of_the_pool(work):
    pool = data.Pool(work)
    pixels, goal = pool.batch(np.arange(12))
    found = live.Live(work, 0.5, 2).targets(pixels)
    torch.testing.assert_close(found, goal, atol=1e-5, rtol=0)
    one = live.Live(work, 0.5, 1).targets(pixels)
    assert (one - goal).abs().max() > 1e-3
    narrow = data.Pool(work, width=128)
    found = live.Live(work, 0.5, 2, narrow.narrow).targets(pixels)
    torch.testing.assert_close(found, narrow.batch(np.arange(12))[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("share", "rows"), [(0.0, []), (0.5, [0, 2, 4, 6]), (1.0, range(8))])
def test_a_share_of_the_rows_is_mixed_and_the_others_are_left_alone(work, share, rows):
    pixels, goal = data.Pool(work).batch(np.arange(8))
    before, old = pixels.clone(), goal.clone()
    teacher = live.Live(work, share)
    mixed = teacher(pixels, goal, generator())
    assert mixed.tolist() == list(rows)
    left = [i for i in range(8) if i not in rows]
    assert torch.equal(pixels[left], before[left]) and torch.equal(goal[left], old[left])
    assert all(not torch.equal(pixels[i], before[i]) for i in rows)
    torch.testing.assert_close(goal[mixed], teacher.targets(pixels[mixed]))


def test_a_resumed_live_run_takes_the_same_next_step(work, tmp_path):
    pool = data.Pool(work)
    settings = Settings(batch=6, chunk=3, live=0.5)
    students = [Student(settings), Student(settings)]
    for student in students:
        student.live = live.Live(work, 0.5)
    students[0].step(pool, 0.3)
    students[0].save(tmp_path / "c.pt")
    students[1].load(tmp_path / "c.pt")
    figures = [student.step(pool, 0.31) for student in students]
    assert figures[0] == figures[1] and set(figures[0]) == {"loss", "cosine", "live"}


def test_the_quickest_form_of_a_teacher_gives_its_embeddings():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(8)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    layers = [torch.nn.Conv2d(3, 8, 3), norm, torch.nn.ReLU(), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers).eval()
    x = torch.rand(4, 3, 16, 16)
    run, rates = live.quickest(model, x)
    assert torch.nn.functional.cosine_similarity(run(x), model(x)).min() > 0.999
    assert "float32, channels_last" in rates and all(rate > 0 for rate in rates.values())


@pytest.mark.parametrize(("more", "what"), [(["--live", "1.5"], "share"), (["--live", "1"], "DIR")])
def test_live_wants_a_share_and_teachers(monkeypatch, capsys, more, what):
    monkeypatch.setattr(sys, "argv", ["recogniser", "--data", "d", "--work", "w", *more])
    with pytest.raises(SystemExit):
        recogniser.arguments()
    assert what in capsys.readouterr().err
