"""The recogniser's training: networks, steps, resuming, frozen layers, export."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import data, teachers  # noqa: E402
from training.muon import Muon, orthogonalise  # noqa: E402
from training.networks import NETWORKS, WIDTHS, FDFaceNet  # noqa: E402
from training.recogniser_export import export  # noqa: E402
from training.student import Settings, Student, distance, shape  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


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
