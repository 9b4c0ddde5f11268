"""The detector's training network: shapes, names, folding, anchors, decoding, its input."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from shared import SHARED, needs_shared

torch = pytest.importorskip("torch")

from training_samples import random_net  # noqa: E402

from training import detector, detector_eval  # noqa: E402
from training.detector_net import (  # noqa: E402
    Output,
    RetinaFace,
    anchors,
    decode,
    fold_batchnorm,
    load_teacher,
    to_input,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


@needs_shared
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


@needs_shared
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
