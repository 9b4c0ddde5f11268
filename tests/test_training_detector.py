"""The detector's training: network, anchors, losses, compositions, resuming, figures."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from training import detector, detector_data, detector_eval, detector_export  # noqa: E402
from training.detector_loss import Weights, distillation_loss, quieten  # noqa: E402
from training.detector_net import (  # noqa: E402
    Faces,
    Output,
    RetinaFace,
    anchors,
    decode,
    fold_batchnorm,
    load_teacher,
    split_parameters,
    to_input,
)
from training.detector_noface import no_face_pictures  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared"
shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the project's shared material")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_net(seed: int) -> RetinaFace:
    """A detector whose batch norms are not the identity."""
    torch.manual_seed(seed)
    net = RetinaFace()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


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
            writer.writerow(["file"] + ["x"] * 15)
            for i in range(60):
                w, h = rng.integers(90, 160, 2)
                pixels = rng.integers(0, 255, (h, w, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                archive.writestr(f"{i}.png", file.getvalue())
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


# -- network ---------------------------------------------------------------------------------------


def test_size_and_shapes_of_the_network():
    net = RetinaFace().eval()
    learnt = sum(p.numel() for p in net.parameters())
    assert learnt == pytest.approx(0.4266e6, rel=0.002)
    with torch.no_grad():
        out = net(torch.zeros(2, 3, 100, 130))  # neither a multiple of 32
    count = 2 * (13 * 17 + 7 * 9 + 4 * 5)
    assert out.box.shape == (2, count, 4)
    assert out.logits.shape == (2, count, 2)
    assert out.landmarks.shape == (2, count, 10)
    assert len(anchors(100, 130)) == count


@shared
def test_keys_and_shapes_are_those_of_the_specification():
    net = RetinaFace()
    table = SHARED / "specs/layers/retinaface_mnet025_320x320.tsv"
    with open(table, encoding="utf-8") as file:
        rows = [r for r in csv.reader(file, delimiter="\t") if r[0].isdigit()]
    for _, name, kind, attributes, *_ in rows:
        module = net.get_submodule(name)
        assert type(module).__name__ == kind, name
        if kind == "Conv2d":
            wanted = dict(item.split("=") for item in attributes.split())
            assert module.in_channels == int(wanted["in"]) and module.groups == int(wanted["g"])
            assert module.out_channels == int(wanted["out"])
            assert f"{module.kernel_size[0]}x{module.kernel_size[1]}" == wanted["k"]
            assert module.stride[0] == int(wanted["s"]) and (module.bias is not None) == int(
                wanted["bias"]
            )
    listed = {name for _, name, kind, *_ in rows if kind in ("Conv2d", "BatchNorm2d")}
    assert {key.rpartition(".")[0] for key in net.state_dict()} == listed


@shared
def test_teacher_finds_what_the_golden_file_says():
    teacher = load_teacher(SHARED / "weights" / detector.TEACHER)
    golden = json.loads((SHARED / "golden/real/retinaface_detections.json").read_text())
    for name in ("portrait_female_0.jpg", "group_of_four.jpg"):
        picture = np.array(Image.open(SHARED / "images" / name).convert("RGB"))
        (faces,) = detector_eval.find(teacher, [(picture, np.zeros((0, 14)))], floor=0.5)
        assert len(faces) == len(golden[name])
        for i, wanted in enumerate(golden[name]):
            np.testing.assert_allclose(faces.boxes[i], wanted["box"], atol=0.02)
            np.testing.assert_allclose(faces.points[i], wanted["landmarks"], atol=0.02)
            assert faces.scores[i] == pytest.approx(wanted["score"], abs=1e-4)


def test_folding_batch_norms_changes_nothing():
    net, x = random_net(0), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = net(x)
        after = fold_batchnorm(net)(x)
    for a, b in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())


def test_parts_fed_with_their_own_maps_give_the_same():
    net, x = random_net(1), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        alone = net(x)
        fed = net(x, given=alone)
    for a, b in zip(alone[:3], fed[:3], strict=True):
        torch.testing.assert_close(a, b)


def test_parts_fed_by_another_send_no_gradient_back():
    net, x = random_net(1), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        given = random_net(2)(x)
    net(x, given=given).box.sum().backward()
    assert net.BboxHead[0].conv1x1.weight.grad is not None
    assert net.body.stage1[0][0].weight.grad is None


# -- anchors and decoding --------------------------------------------------------------------------


def test_anchors_by_hand():
    prior = anchors(40, 72)
    np.testing.assert_allclose(prior[:3], [[4, 4, 16], [4, 4, 32], [12, 4, 16]])
    second = 2 * 5 * 9  # the first of stride 16
    np.testing.assert_allclose(prior[second : second + 2], [[8, 8, 64], [8, 8, 128]])
    np.testing.assert_allclose(prior[-1], [80, 48, 512])  # centres may lie outside


def hand_made(height: int, width: int, hits: dict[int, float]) -> Output:
    """Outputs that score `hits` (anchor: log-odds), with boxes equal to the anchors."""
    count = len(anchors(height, width))
    logits = torch.zeros(1, count, 2)
    logits[0, :, 1] = -9
    for index, odds in hits.items():
        logits[0, index, 1] = odds
    marks = torch.zeros(1, count, 10)
    marks[0, :, 0] = -2.5  # the first point a quarter of the side to the left
    return Output(torch.zeros(1, count, 4), logits, marks, (), (), ())


def test_decoding_and_suppression_by_hand():
    neighbour, far = 2, 100  # anchors (12, 4, 16) and, at 5 x 9 cells, one of stride 16
    out = hand_made(40, 72, {0: 2.0, neighbour: 3.0, far: 1.0})
    faces = decode(out, 0, 40, 72, 0.5)
    # 16-pixel boxes 8 apart overlap by 9*17 / (2*289 - 9*17) = 0.36 < 0.4: both stay.
    assert len(faces) == 3
    np.testing.assert_allclose(faces.boxes[0], [4, -4, 20, 12])
    np.testing.assert_allclose(faces.points[0][0], [12 - 4, 4])
    assert faces.scores[0] == pytest.approx(1 / (1 + np.exp(-3)), rel=1e-5)
    out.box[0, neighbour, 0] = -2.5  # 4 pixels to the left: now they overlap by more
    assert len(decode(out, 0, 40, 72, 0.5)) == 2
    assert len(decode(out, 0, 40, 72, 0.99)) == 0


def test_boxes_grow_by_the_exponential():
    out = hand_made(40, 72, {0: 2.0})
    out.box[0, 0, 2:] = torch.tensor([np.log(2) / 0.2, 0.0])
    np.testing.assert_allclose(decode(out, 0, 40, 72, 0.5).boxes, [[-12, -4, 20, 12]], rtol=1e-5)


def test_input_is_bgr_minus_mean():
    x = to_input(torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8))
    assert x.flatten().tolist() == [30 - 104, 20 - 117, 10 - 123]


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
