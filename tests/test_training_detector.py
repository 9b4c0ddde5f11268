"""The detector's training: losses, compositions, resuming, export, figures."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch")

from training_samples import png, random_net  # noqa: E402

from training import alignment, detector, detector_data, detector_eval, detector_export  # noqa: E402
from training.detector_loss import Weights, distillation_loss, quieten  # noqa: E402
from training.detector_net import Faces, Output, RetinaFace, split_parameters  # noqa: E402
from training.detector_noface import no_face_pictures  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Pools of drawn "portraits": an oval on a ground, with a csv row each."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for pool in detector_data.POOLS:
        with (
            zipfile.ZipFile(folder / f"{pool}.zip", "w") as archive,
            open(folder / f"{pool}.csv", "w", newline="", encoding="utf-8") as table,
        ):
            writer = csv.writer(table)
            writer.writerow(["file", *detector_data.COLUMNS, "score"])
            for i in range(60):
                w, h = rng.integers(90, 160, 2)
                pixels = rng.integers(0, 255, (h, w, 3), dtype=np.uint8)
                archive.writestr(f"{i}.png", png(Image.fromarray(pixels)))
                points = np.array([[45, 50], [65, 50], [55, 60], [47, 70], [63, 70]])
                writer.writerow([f"{i}.png", 40, 35, 30, 45, *points.ravel(), 0.9])
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    torch.save(random_net(3).state_dict(), folder / detector.TEACHER)
    return folder


def options(data: Path, teachers: Path, work: Path, **changes) -> detector.Options:
    fields = {
        "data": data,
        "teachers": teachers,
        "images": None,
        "work": work,
        "export_to": work,
        "minutes": 1.0,
        "threads": 1,
        "seed": 5,
        "cache": 20,
        "lr": 0.02,
        "device": "cpu",
    }
    return detector.Options(**(fields | changes))


# -- losses and optimizer --------------------------------------------------------------------------


def outputs(seed: int) -> Output:
    torch.manual_seed(seed)
    with torch.no_grad():
        return random_net(seed)(torch.randn(2, 3, 64, 64) * 50)


def test_loss_vanishes_at_the_teacher_and_only_there():
    teacher = outputs(1)
    total, terms = distillation_loss(teacher, teacher, Weights(), hint=1.0)
    assert float(total) == pytest.approx(0, abs=1e-5)
    assert set(terms) == {"score", "hard", "box", "landmarks", "body", "fpn", "ssh"}
    for field in ("box", "logits", "landmarks"):
        moved = teacher._replace(**{field: getattr(teacher, field) + torch.randn(1) * 0.3})
        if field == "logits":  # a shift of both logits changes no score
            moved.logits[..., 1] += 0.3
        assert float(distillation_loss(moved, teacher, Weights(), hint=1.0)[0]) > 1e-3, field
    far = teacher._replace(ssh=tuple(m + 0.2 for m in teacher.ssh))
    assert float(distillation_loss(far, teacher, Weights(), hint=1.0)[0]) > 1e-3
    assert float(distillation_loss(far, teacher, Weights(), hint=0.0)[0]) < 1e-5


def test_offsets_count_only_where_the_teacher_sees_a_face():
    teacher = outputs(1)
    teacher.logits[..., 1] = teacher.logits[..., 0] - 9
    wild = teacher._replace(box=teacher.box + 5, landmarks=teacher.landmarks - 5)
    _, terms = distillation_loss(wild, teacher, Weights(), hint=1.0)
    assert float(terms["box"]) == float(terms["landmarks"]) == 0


def test_false_alarms_of_the_teacher_are_quietened():
    teacher = outputs(1)
    teacher.logits[:, 0] = torch.tensor([0.0, 8.0])
    calm = quieten(teacher, torch.tensor([True, False]))
    margins = calm.logits[..., 1] - calm.logits[..., 0]
    assert float(margins[0].max()) <= -3 + 1e-5
    assert torch.equal(calm.logits[1], teacher.logits[1])
    assert float(teacher.logits[0, 0, 1]) == 8  # the original is left alone


def test_every_parameter_has_one_optimizer():
    net = RetinaFace()
    matrices, rest = split_parameters(net)
    assert {id(p) for p in matrices} | {id(p) for p in rest} == {id(p) for p in net.parameters()}
    assert len(matrices) + len(rest) == len(list(net.parameters()))


def test_learning_rate_rises_and_comes_down():
    rates = [detector.learning_rate(d) for d in np.linspace(0, 1, 101)]
    assert rates[0] < 0.1 and max(rates) == 1 and rates[-1] < 0.01
    assert (np.diff(rates[5:]) <= 0).all()


# -- pictures --------------------------------------------------------------------------------------


def portraits(data: Path, held_out: bool = False) -> detector_data.Portraits:
    pools = [detector_data.Pool(data, name) for name in detector_data.POOLS]
    return detector_data.Portraits(pools, 10, np.random.default_rng(1), held_out)


def test_held_out_pictures_are_never_trained_on(data):
    trained, held = ({n for _, n in portraits(data, flag).source} for flag in (False, True))
    assert trained and held and not trained & held


@pytest.mark.parametrize("kind", [k for k, _ in detector_data.BACKGROUNDS])
def test_backgrounds_fill_odd_sizes(data, kind):
    for seed in range(5):
        picture = kind(np.random.default_rng(seed), 67, 51, portraits(data))
        assert picture.size == (67, 51) and picture.mode == "RGB"


def test_compositions_repeat_with_their_seed(data):
    made = [
        detector_data.batch(np.random.default_rng(9), 12, 80, 64, portraits(data)) for _ in range(2)
    ]
    pictures, empty = made[0]
    assert pictures.shape == (12, 64, 80, 3) and pictures.dtype == np.uint8
    assert empty.shape == (12,) and empty.dtype == bool
    np.testing.assert_array_equal(pictures, made[1][0])
    other, _ = detector_data.batch(np.random.default_rng(10), 12, 80, 64, portraits(data))
    assert (other != pictures).any()


def test_pictures_upside_down_count_as_faceless(data, monkeypatch):
    monkeypatch.setattr(detector_data, "relight", lambda _, picture: np.asarray(picture))
    made = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(detector_data, "HEADSTAND", share)
        rng = [np.random.default_rng(seed) for seed in range(12)]
        made.append([detector_data.composition(r, 48, 64, portraits(data)) for r in rng])
    upright, turned = made
    assert [faceless for _, faceless in turned] == [True] * 12
    assert 0 < sum(faceless for _, faceless in upright) < 12
    for (picture, faceless), (same, _) in zip(upright, turned, strict=True):
        np.testing.assert_array_equal(same, picture if faceless else picture[::-1, ::-1])


def test_strips_keep_clear_of_every_face():
    picture = Image.new("RGB", (200, 100))
    face = np.array([[60, 20, 50, 70, *[0] * 10]], float)
    for seed in range(20):
        strip = detector_data.face_free_strip(np.random.default_rng(seed), picture, face)
        assert strip is not None and strip.size in ((60, 100), (90, 100))  # above, below: too thin
    assert detector_data.face_free_strip(np.random.default_rng(0), picture, face, 95) is None


def test_faceless_pictures_repeat_with_their_seed(data):
    pools = [detector_data.Pool(data, name) for name in detector_data.POOLS]
    first, again = (list(no_face_pictures(pools, 9, seed=4)) for _ in range(2))
    assert len(first) == 9 and all(p.ndim == 3 and p.dtype == np.uint8 for p in first)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_where_faces_leave_nothing_a_faceless_picture_is_drawn(data):
    """And sets without a held-out picture do not end the exam."""
    full, none = (detector_data.Pool(data, name) for name in detector_data.POOLS[:2])
    full.faces = {name: np.array([[0, 0, 500, 500, *[0] * 10]], float) for name in full.names}
    none.names = [name for name in none.names if not detector_data.is_held_out(name)]
    assert len(list(no_face_pictures([full, none], 9, seed=4))) == 9
    judged = detector_eval.Evaluation(data, None, [full, none], random_net(3))
    assert list(judged.sets()) == [full.label, "composed", "no_face"]


# -- a run -----------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_where_it_was(data, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "SIZES", ((64, 64, 2, 1.0),))
    run = detector.Run(options(data, teachers, tmp_path), resume=False)
    for _ in range(3):
        terms = detector.train_step(run.state, run.teacher, run.batches.draw(), 0.3)
    assert all(np.isfinite(float(v)) for v in terms.values())
    run.state.seconds = 12.0
    run.state.save(run.checkpoint)
    again = detector.Run(options(data, teachers, tmp_path), resume=True)
    assert (again.state.step, again.state.pictures, again.state.seconds) == (3, 6, 12.0)
    for name in ("net", "ema"):
        saved, loaded = (getattr(r.state, name).state_dict() for r in (run, again))
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)
    made = detector_data.batch(np.random.default_rng(2), 2, 64, 64, run.portraits)
    for r in (run, again):  # the optimizers' moments came back as well
        detector.train_step(r.state, r.teacher, made, 0.5)
    saved, loaded = run.state.net.state_dict(), again.state.net.state_dict()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_without_a_picture_for_the_exam_no_run_begins(data, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "is_held_out", lambda name: False)
    with pytest.raises(ValueError, match="one picture in 20.*none is; add pictures"):
        detector.Run(options(data, teachers, tmp_path), resume=False)


def test_without_a_checkpoint_nothing_is_exported(data, teachers, tmp_path):
    given = ["--data", data, "--teachers", teachers, "--work", tmp_path / "w", "--evaluate-only"]
    answer = CliRunner().invoke(detector.main, [*map(str, given), "--export", str(tmp_path)])
    assert answer.exit_code == 1 and "checkpoint.pt: no such file; train first" in answer.output
    assert not list(tmp_path.iterdir())


def test_the_card_names_the_sets_that_were_learnt_from(data, teachers, tmp_path, monkeypatch):
    for name in ("refresh_batchnorm", "evaluate", "summary"):
        monkeypatch.setattr(detector, name, lambda *_, **__: {})
    detector.Run(options(data, teachers, tmp_path), resume=False).export(1)
    said = json.loads((tmp_path / "detector_card.json").read_text())["training"]["pool"]
    assert said == "faces_utk, faces_more, faces_masks" and alignment.is_the_pool(said)


def test_learning_lowers_the_loss(data, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "SIZES", ((64, 64, 4, 1.0),))
    run = detector.Run(options(data, teachers, tmp_path), resume=False)
    made = detector_data.batch(np.random.default_rng(2), 4, 64, 64, run.portraits)
    losses = [
        float(detector.train_step(run.state, run.teacher, made, 0.1)["total"]) for _ in range(25)
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_export_is_read_back_with_the_right_keys(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    net = random_net(4)
    detector_export.export(net, tmp_path, {"x": 1}, {"steps": 2})
    state = safetensors.load_file(tmp_path / "detector_state.safetensors")
    missing, unexpected = RetinaFace().load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    assert all(value.dtype == torch.float32 for value in state.values())
    card = json.loads((tmp_path / "detector_card.json").read_text())
    assert card["figures"] == {"x": 1} and 0 < card["fp16_largest_relative_change"] < 1e-3
    assert not list(tmp_path.glob("*.part"))


def test_tamed_variances_fit_fp16_and_change_nothing():
    net, x = random_net(4), torch.randn(1, 3, 64, 64)
    norm = net.body.stage1[0][1]
    norm.running_var.mul_(torch.logspace(0, 8, len(norm.running_var)))
    with torch.no_grad():
        before = net(x)
        detector_export.tame_variances(net)
        after = net(x)
    assert float(norm.running_var.max()) <= 1e3
    assert detector_export.half_cost(net) < 1e-3
    for a, b in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


# -- figures ---------------------------------------------------------------------------------------


def test_figures_of_a_detector_against_itself(data):
    pools = [detector_data.Pool(data, name) for name in detector_data.POOLS]
    net = random_net(3)
    judged = detector_eval.Evaluation(data, None, pools, net)
    figures = detector_eval.evaluate(net, judged, 4)
    for name, entry in figures.items():
        at = entry["0.5"]
        if name == "no_face":
            assert at["alarms"] == at["teacher_alarms"]
        else:
            assert at["not_in_teacher"] == 0
            assert at["found"] == (1 if at["teacher_faces"] else 0)
            assert at["error_mean"] == (0 if at["teacher_faces"] else 1)
    assert len(detector_eval.summary(figures).splitlines()) == len(figures)


def test_matching_and_errors_by_hand():
    faces = Faces(
        np.array([[0, 0, 9, 9], [0, 0, 10, 10.0]]), np.array([0.9, 0.4]), np.zeros((2, 5, 2))
    )
    assert detector_eval.match(np.array([0, 0, 10, 10.0]), faces, 0.3) == 1
    assert detector_eval.match(np.array([0, 0, 10, 10.0]), faces, 0.5) == 0
    assert detector_eval.match(np.array([50, 0, 60, 10.0]), faces, 0.3) is None
    reference = np.array([[0, 0], [10, 0], [5, 5], [0, 10], [10, 10.0]])
    moved = reference + np.array([3, 4])
    assert detector_eval.landmark_error(moved, reference) == pytest.approx(0.5)
