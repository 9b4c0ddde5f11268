"""The recogniser's training: pair figures, alignment, augmentation, steps, resuming, teachers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import data, pairs, teachers  # noqa: E402
from training.alignment import TEMPLATE, crop, similarity  # noqa: E402
from training.fused import FusedTail, StridedDepthwise, norm_prelu, use_fused  # noqa: E402
from training.gemm import GemmConv2d, use_gemm  # noqa: E402
from training.muon import Muon, orthogonalise  # noqa: E402
from training.networks import NETWORKS, WIDTHS, ConvUnit, FDFaceNet  # noqa: E402
from training.recogniser_card import unlabelled  # noqa: E402
from training.recogniser_export import export  # noqa: E402
from training.student import Settings, Student, distance, shape  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared"
shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the project's shared material")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def work(tmp_path):
    """A work folder as `training.data` leaves it, of 80 random crops and 24 mixtures."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (80, 128, 128, 3), np.uint8)
    np.save(tmp_path / "crops.npy", crops)
    np.save(tmp_path / "mixed.npy", np.stack(list(data.mixtures(crops, 24))))
    for name in teachers.TEACHERS:
        rows = rng.standard_normal((80, 128)).astype(np.float32)
        rows[70:] = np.nan  # this teacher is not through yet
        np.save(tmp_path / f"crops_{name}_0.npy", rows)
        np.save(tmp_path / f"mixed_{name}_0.npy", rng.standard_normal((24, 128)).astype(np.float32))
    return tmp_path


# Pair figures ---------------------------------------------------------------------------------


def test_area_is_the_share_of_ordered_pairs():
    genuine, impostor = np.array([0.9, 0.5, 0.3]), np.array([0.5, 0.1])
    # 0.9 beats both; 0.5 beats one and ties; 0.3 beats one: (2 + 1.5 + 1) / 6
    assert pairs.area(genuine, impostor) == pytest.approx(4.5 / 6)


def test_best_threshold_lies_between_the_classes():
    scores = np.array([0.1, 0.7, 0.2, 0.9, 0.65])
    same = np.array([False, True, False, True, False])
    assert pairs.best_threshold(scores, same) == pytest.approx((0.65 + 0.7) / 2)
    assert pairs.best_threshold(scores, np.ones(5, bool)) < 0.1
    assert pairs.best_threshold(scores, np.zeros(5, bool)) > 0.9


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.25])
def test_threshold_at_lets_no_more_than_the_rate_pass(rate):
    scores = np.random.default_rng(1).normal(size=400)
    at = pairs.threshold_at(scores, rate)
    assert (scores >= at).sum() == int(rate * 400)


def test_fold_accuracy_does_not_see_the_fold_it_judges():
    scores = np.array([0.9, 0.8, 0.2, 0.1, 0.1, 0.2])
    same = np.array([True, True, False, False, True, False])
    folds = np.array([0, 0, 0, 0, 1, 1])
    by_fold = pairs.fold_accuracy(scores, same, folds)
    assert by_fold[1] == 0.5  # the genuine 0.1 is refused by the threshold from fold 0


def test_pair_test_of_perfect_and_of_random_embeddings():
    rng = np.random.default_rng(2)
    people = [f"p{i // 4}" for i in range(160)]
    centres = rng.normal(size=(40, 32)).repeat(4, 0)
    good = pairs.evaluate(centres + 0.05 * rng.normal(size=centres.shape), people)
    assert good["accuracy"] == 1 and good["auc"] == 1 and good["tar@1e-03"] == 1
    assert good["genuine"] == 40 * 6 and good["impostor"] == 160 * 159 // 2 - 240
    bad = pairs.evaluate(rng.normal(size=centres.shape), people)
    assert 0.35 < bad["accuracy"] < 0.65 and 0.4 < bad["auc"] < 0.6


def test_folds_have_no_person_in_common():
    people = [f"p{i // 3}" for i in range(90)]
    folds = pairs.folds_of(people)
    assert all(len(set(folds[np.array(people) == p])) == 1 for p in set(people))
    assert sorted(set(folds)) == list(range(10))


def test_unlabelled_pictures_give_thresholds_whose_intervals_shrink_with_their_number():
    rng = np.random.default_rng(3)

    def of(count):
        goal = rng.normal(size=(count, 64))
        goal[1] = goal[0]  # surely the same person: left out
        figures = unlabelled(rng.normal(size=(count, 8)), goal)
        assert figures["left_out_as_same"] == 1
        assert figures["impostor_pairs"] == count * (count - 1) // 2 - 1
        point = figures["rates"]["1e-2"]
        low, high = point["interval"]
        assert low <= point["threshold"] <= high + 1e-4 and "tar" not in point
        return high - low

    assert of(300) < of(40)


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


# Mixtures -------------------------------------------------------------------------------------


def test_mixtures_lie_between_their_two_faces():
    crops = np.stack([np.full((128, 128, 3), v, np.uint8) for v in (10, 200)])
    for mixed in data.mixtures(crops, 12):
        assert mixed.shape == (128, 128, 3) and mixed.min() >= 10 and mixed.max() <= 200


# Networks, steps, checkpoints -----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_have_the_published_size(name):
    model = NETWORKS[name]().eval()
    count = sum(p.numel() for p in model.parameters())
    # FDFaceNet: Table 7's weights, 3.157 M, with BN, PReLU and bias; MobileFaceNet: 1.003 M;
    # DWFN: 0.604 M of convolutions and fully connected layer, "less than 0.6 M" in the text.
    sizes = {"fdfacenet": 3173152, "mobilefacenet": 1003136, "dwfn": 615264}
    assert count == sizes[name]
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 112, 112)).shape == (2, WIDTHS[name])


@pytest.mark.parametrize(("inp", "side", "stride"), [(256, 4, 1), (192, 4, 1), (256, 7, 2)])
def test_matrix_product_convolutions_give_the_same_gradients(inp, side, stride):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(inp, 20, 3, stride, 1, bias=False)).double()
    other = copy.deepcopy(plain)
    use_gemm(other)
    assert type(other[0]) is GemmConv2d
    x = torch.randn(3, inp, side, side, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for model in (plain, other):
        own = x.clone().requires_grad_()
        y = model(own)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append((y, own.grad, model[0].weight.grad))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()


def test_orthogonalise_brings_singular_values_to_about_one():
    torch.manual_seed(0)
    for shape_ in ((24, 90), (90, 24), (32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape_)))
        assert values.max() < 1.3 and values.quantile(0.1) > 0.3


def test_muon_keeps_lengths_and_steps_by_the_rate():
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(16, 8, 3, 3))
    before = w.detach().clone()
    w.grad = torch.randn_like(w)
    Muon([w], lr=0.02).step()
    assert w.norm().item() == pytest.approx(before.norm().item(), rel=1e-5)
    assert ((w - before).norm() / before.norm()).item() == pytest.approx(0.02, rel=0.1)


def test_rate_rises_and_ends_at_zero():
    assert shape(0) < 0.1 and shape(0.1) == 1 and shape(1) == 0
    assert 0 < shape(0.99) < 0.02


def test_distance_is_zero_for_the_target_itself():
    target = torch.nn.functional.normalize(torch.randn(8, 512), dim=1)
    loss, cosine = distance(3 * target, target, 20.0)
    assert loss.item() == pytest.approx(0, abs=1e-5) and cosine.item() == pytest.approx(1)


def test_targets_have_the_mean_of_the_teachers_cosines():
    torch.manual_seed(0)
    a, b = torch.randn(6, 128), torch.randn(6, 128)
    t = teachers.targets([a, b])
    unit = [torch.nn.functional.normalize(e, dim=1) for e in (a, b)]
    wanted = sum(u @ u.T for u in unit) / 2
    assert t.shape == (6, 512) and torch.allclose(t @ t.T, wanted, atol=1e-5)


def test_pool_gives_only_rows_that_are_ready(work):
    pool = data.Pool(work, held_out=10)
    assert len(pool) == 60 + 24
    x, t = pool.batch(np.array([0, 59, 60, 83]))
    crops, mixed = np.load(work / "crops.npy"), np.load(work / "mixed.npy")
    for i, wanted in enumerate((crops[10], crops[69], mixed[0], mixed[23])):
        assert np.array_equal(x[i].permute(1, 2, 0).numpy(), wanted)
    assert torch.allclose(t.norm(dim=1), torch.ones(4), atol=1e-5)
    narrow = data.Pool(work, width=128)
    assert narrow.batch(np.array([3]))[1].shape == (1, 128)


def test_a_resumed_run_takes_the_same_next_step(work, tmp_path):
    settings = Settings(batch=8, chunk=4)
    pool = data.Pool(work)
    first = Student(settings)
    for _ in range(2):
        first.step(pool, 0.3)
    first.save(tmp_path / "c.pt")
    second = Student(Settings(batch=8, chunk=4, seed=5))  # its own start must not matter
    second.settings = settings
    second.load(tmp_path / "c.pt")
    assert second.samples == 16
    assert first.step(pool, 0.31) == second.step(pool, 0.31)
    for (name, a), b in zip(
        first.average.state_dict().items(), second.average.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("frozen", "progress", "resting"),
    [
        ((), 0.0, set()),
        ((), 0.7, {"conv1", "conv2"}),
        (("conv1", "conv3"), 0.0, {"conv1", "conv3"}),
        (("conv5",), 0.7, {"conv1", "conv2", "conv5"}),
    ],
)
def test_layers_come_to_rest_or_never_move(work, frozen, progress, resting):
    student = Student(Settings(batch=4, chunk=4, frozen=frozen))
    before = {k: v.clone() for k, v in student.model.named_parameters()}
    student.step(data.Pool(work), progress)
    still = {
        k.split(".")[0]
        for k, v in student.model.named_parameters()
        if torch.equal(v, before[k]) and k.endswith("conv.weight")
    }
    assert still == resting


def test_export_writes_float32_under_the_networks_names(tmp_path):
    from safetensors.torch import load_file

    model = FDFaceNet()
    export(model, tmp_path / "x.safetensors", {"accuracy": 0.5})
    state = load_file(tmp_path / "x.safetensors")
    assert state["conv1.act.weight"].shape == (48,) and "bn.running_var" in state
    assert all(v.dtype == torch.float32 for v in state.values())
    assert json.loads((tmp_path / "x.json").read_text()) == {"accuracy": 0.5}
    assert {p.name for p in tmp_path.iterdir()} == {"x.safetensors", "x.json"}


# Teachers -------------------------------------------------------------------------------------

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


@shared
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


# Fast on a CPU --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [7, 8])
def test_strided_depthwise_equals_pytorch(side):
    plain = torch.nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False)
    fast = copy.deepcopy(plain)
    fast.__class__ = StridedDepthwise
    x = torch.randn(2, 6, side, side, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    found, wanted = fast(y), plain(x)
    grad = torch.randn_like(wanted)
    wanted.backward(grad)
    found.backward(grad)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


def test_norm_prelu_equals_pytorch():
    """The uncompiled function; the compiler has tests of its own."""
    norm, act = torch.nn.BatchNorm2d(5), torch.nn.PReLU(5)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    torch.nn.init.uniform_(act.weight, -0.5, 0.5)
    x = torch.randn(4, 5, 6, 6, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    wanted = act(norm(x))
    found, mean, variance = norm_prelu(y, norm.weight, norm.bias, act.weight, norm.eps)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(mean * 0.1, norm.running_mean)
    torch.testing.assert_close(variance * (144 / 143) * 0.1 + 0.9, norm.running_var)
    grad = torch.randn_like(wanted)
    wanted.backward(grad)
    found.backward(grad)
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_fused_networks_answer_as_plain_ones(name):
    """In evaluation nothing is fused: the same answers, under the same names."""
    torch.manual_seed(0)
    plain = NETWORKS[name]().eval()
    fused = copy.deepcopy(plain)
    use_fused(fused, ConvUnit)
    assert any(isinstance(m, FusedTail) for m in fused.modules())
    assert list(fused.state_dict()) == list(plain.state_dict())
    x = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-5)


def test_a_run_may_start_from_a_model_file(tmp_path):
    first = Student(Settings(batch=8, chunk=4))
    export(first.average, tmp_path / "state.safetensors", {})
    second = Student(Settings(batch=8, chunk=4, seed=5))
    second.start_from(tmp_path / "state.safetensors")
    for name, value in first.average.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(second.model.state_dict()[name], value)
    with pytest.raises(ValueError, match="not this network's weights"):
        Student(Settings(network="dwfn")).start_from(tmp_path / "state.safetensors")
