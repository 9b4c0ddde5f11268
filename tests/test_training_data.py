"""Targets from several looks of each teacher; mixtures; first layers that seldom learn."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import alignment, data, teachers  # noqa: E402
from training.student import Settings, Student  # noqa: E402


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def work(tmp_path):
    """Nine crops, and two looks of each teacher; the second of the second has got to row 4."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "crops.npy", rng.integers(0, 256, (9, 128, 128, 3), np.uint8))
    for name in teachers.TEACHERS:
        for view in range(2):
            rows = rng.standard_normal((9, 128)).astype(np.float32) * (1 + 9 * view)
            rows[4 if view and name == teachers.TEACHERS[1] else 7 :] = np.nan
            np.save(tmp_path / f"crops_{name}_{view}.npy", rows)
    return tmp_path


def test_first_two_looks_are_the_middle_and_its_mirror_once_each():
    x = torch.rand(3, 3, 128, 128) * 255
    plain = teachers.middle(x)
    assert torch.equal(plain, x[:, :, 8:120, 8:120])
    first, second = teachers.TEACHERS
    for name, view, mirrored in [(first, 0, 0), (first, 1, 1), (second, 0, 1), (second, 1, 0)]:
        wanted = plain.flip(3) if mirrored else plain
        assert torch.equal(data.look(x, 0, name, view), wanted)


def test_further_looks_are_moved_and_the_same_again_for_the_same_rows():
    x = torch.rand(4, 3, 128, 128) * 255
    seen = [data.look(x, 8, teachers.TEACHERS[0], view) for view in (2, 3)]
    assert all(y.shape == (4, 3, 112, 112) and y.min() >= 0 and y.max() <= 255 for y in seen)
    assert not torch.equal(*seen)
    assert torch.equal(seen[0], data.look(x, 8, teachers.TEACHERS[0], 2))
    assert not torch.equal(seen[0], data.look(x, 12, teachers.TEACHERS[0], 2))


def test_a_target_is_the_mean_direction_of_the_looks_that_are_ready(work):
    found = data.teacher_embeddings(work, "crops", teachers.TEACHERS[1])
    a, b = (np.load(work / f"crops_{teachers.TEACHERS[1]}_{view}.npy") for view in range(2))
    assert len(found) == 7
    np.testing.assert_allclose(unit(found[:4]), unit(unit(a[:4]) + unit(b[:4])), atol=1e-6)
    np.testing.assert_allclose(unit(found[4:]), unit(a[4:7]), atol=1e-6)
    assert data.teacher_embeddings(work, "mixed", teachers.TEACHERS[1]) is None
    assert len(data.Pool(work)) == 7


def test_each_look_goes_on_where_it_was_stopped(work, monkeypatch):
    name, seen = teachers.TEACHERS[0], []

    def model(x):
        seen.append(x)
        return x.mean((2, 3)).repeat(1, 43)[:, :128]

    monkeypatch.setattr(data, "load_teacher", lambda folder, name: model)
    monkeypatch.setattr(data, "fast", lambda model, threads: model)
    before = np.load(work / f"crops_{name}_1.npy")[:7]
    data.build_embeddings(work, "crops", name, 1, work, 1)
    after = np.load(work / f"crops_{name}_1.npy")
    assert np.array_equal(after[:7], before) and not np.isnan(after).any()
    crops = torch.from_numpy(np.load(work / "crops.npy")[7:]).permute(0, 3, 1, 2).float()
    assert torch.equal(torch.cat(seen), data.look(crops, 7, name, 1))


def test_embeddings_that_were_hardly_begun_do_not_pass_for_computed(work, monkeypatch):
    whole = data.open_memmap

    def killed(path, mode, *more):
        made = whole(path, mode, *more)
        if mode == "w+":
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(data, "open_memmap", killed)
    with pytest.raises(KeyboardInterrupt):
        data.build_embeddings(work, "crops", teachers.TEACHERS[0], 2, work, 1)
    found = data.teacher_embeddings(work, "crops", teachers.TEACHERS[0])
    assert len(found) == 7 and np.isfinite(found).all()
    assert not (work / f"crops_{teachers.TEACHERS[0]}_2.npy").exists()


def test_seldom_layers_move_in_one_step_of_so_many(work):
    student = Student(Settings(batch=4, chunk=4, seldom=3))
    pool = data.Pool(work)

    def weights():
        return [getattr(student.model, f"conv{i}").conv.weight.clone() for i in (1, 3, 4)]

    moved = []
    for _ in range(6):
        before = weights()
        student.step(pool, 0.1)
        moved.append([not torch.equal(a, b) for a, b in zip(before, weights(), strict=True)])
    assert moved == [[i % 3 == 0] * 2 + [True] for i in range(6)]


# Mixtures -------------------------------------------------------------------------------------


def test_mixtures_lie_between_their_two_faces():
    crops = np.stack([np.full((128, 128, 3), v, np.uint8) for v in (10, 200)])
    for mixed in data.mixtures(crops, 12):
        assert mixed.shape == (128, 128, 3) and mixed.min() >= 10 and mixed.max() <= 200


def test_mixtures_are_of_faces_that_are_learnt_from(tmp_path):
    """Those that are held out are white here, and nothing of them may be seen."""
    crops = np.full((20, 128, 128, 3), 100, np.uint8)
    crops[: alignment.kept(20)] = 255
    np.save(tmp_path / "crops.npy", crops)
    data.build_mixtures(tmp_path, 30)
    mixed = np.load(tmp_path / "mixed.npy")
    assert mixed.shape == (30, 128, 128, 3) and mixed.max() == 100
    data.build_mixtures(tmp_path, 30)
    with pytest.raises(ValueError, match="holds 30 mixtures, not 40"):
        data.build_mixtures(tmp_path, 40)
