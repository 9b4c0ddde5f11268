"""Teachers: their ncnn files, their targets, and that they know people apart."""

from __future__ import annotations

import numpy as np
import pytest
from shared import SHARED, needs_shared

torch = pytest.importorskip("torch")

from training import data, pairs, teachers  # noqa: E402
from training.alignment import crop  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_targets_have_the_mean_of_the_teachers_cosines():
    torch.manual_seed(0)
    a, b = torch.randn(6, 128), torch.randn(6, 128)
    t = teachers.targets([a, b])
    unit = [torch.nn.functional.normalize(e, dim=1) for e in (a, b)]
    wanted = sum(u @ u.T for u in unit) / 2
    assert t.shape == (6, 512) and torch.allclose(t @ t.T, wanted, atol=1e-5)


PARAM = """7767517
6 6
Input            data  0 1 data
BinaryOp         scale 1 1 data x 0=2 1=1 2=0.500000
Convolution      conv  1 1 x y 0=2 1=3 11=3 3=2 13=2 4=1 14=1 5=0 6=54
BatchNorm        bn    1 1 y z 0=2
PReLU            act   1 1 z a 0=2
InnerProduct     fc    1 1 a out 0=3 1=1 2=6
"""


def _ncnn(folder, tag=0.0, spare=0):
    rng = np.random.default_rng(0)
    parts = {
        "conv": rng.normal(size=54),
        "bn": np.concatenate([rng.normal(size=4), rng.uniform(0.5, 2, 2), rng.normal(size=2)]),
        "act": rng.normal(size=2),
        "fc": rng.normal(size=6),
        "bias": rng.normal(size=3),
    }
    parts = {k: v.astype("<f4") for k, v in parts.items()}
    flag = np.array([tag], "<f4")
    words = [
        flag,
        parts["conv"],
        parts["bn"],
        parts["act"],
        flag,
        parts["fc"],
        parts["bias"],
        np.zeros(spare, "<f4"),
    ]
    (folder / "t.param").write_text(PARAM)
    np.concatenate(words).tofile(folder / "t.bin")
    return parts


def test_ncnn_reader_computes_what_the_files_say(tmp_path):
    parts = _ncnn(tmp_path)
    graph = teachers.NcnnGraph(tmp_path / "t.param", tmp_path / "t.bin").eval()
    x = torch.randn(4, 3, 2, 2)
    with torch.no_grad():
        found = graph(x)
    y = (
        torch.nn.functional.conv2d(
            x * 0.5, torch.from_numpy(parts["conv"]).view(2, 3, 3, 3), stride=2, padding=1
        )
        .flatten(1)
        .numpy()
    )
    slope, mean, var, bias = parts["bn"].reshape(4, 2)
    y = (y - mean) / np.sqrt(var) * slope + bias
    y = np.where(y > 0, y, y * parts["act"])
    wanted = y @ parts["fc"].reshape(3, 2).T + parts["bias"]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_ncnn_reader_refuses_files_that_do_not_fit(tmp_path):
    _ncnn(tmp_path, spare=9)
    with pytest.raises(ValueError, match="left over"):
        teachers.NcnnGraph(tmp_path / "t.param", tmp_path / "t.bin")
    _ncnn(tmp_path, tag=1.0)
    with pytest.raises(ValueError, match="quantised"):
        teachers.NcnnGraph(tmp_path / "t.param", tmp_path / "t.bin")
    _ncnn(tmp_path)
    (tmp_path / "t.bin").write_bytes((tmp_path / "t.bin").read_bytes()[:-8])
    with pytest.raises(ValueError, match="ends before"):
        teachers.NcnnGraph(tmp_path / "t.param", tmp_path / "t.bin")
    (tmp_path / "t.param").write_text(PARAM.replace("PReLU", "Swish"))
    _ncnn_numbers = tmp_path / "t.bin"
    with pytest.raises(ValueError, match="Swish"):
        teachers.NcnnGraph(tmp_path / "t.param", _ncnn_numbers)


@needs_shared
@pytest.mark.parametrize("name", teachers.TEACHERS)
def test_teachers_know_people_apart(name):
    found = data.faces(SHARED / "data" / "validation_identities.zip")[:24]
    crops = np.stack([crop(data.open_face(face), face.points, 112) for face in found])
    people = [face.name.split("/")[0] for face in found]
    model = teachers.load_teacher(SHARED / "weights", name)
    e = pairs.unit(torch.cat(list(teachers.embed(model, crops))).numpy())
    same, other = pairs.all_pairs(people)
    scores = e @ e.T
    assert pairs.area(scores[tuple(same.T)], scores[tuple(other.T)]) > 0.97
