"""The weights that ship, and how they are made: loading, cards, thresholds, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from tinyface.errors import ModelError, TinyfaceError, UsageError
from tinyface.faces.locate import load_detector
from tinyface.faces.verify import thresholds
from tinyface.formats.card import Card
from tinyface.formats.modelfile import load_model
from tinyface.model import Model
from tinyface.vision.image import read_image

cards = pytest.importorskip("training.cards", reason="the training scripts are not here")
ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "tests" / "images"
WEIGHTS = sorted((ROOT / "weights").glob("*.safetensors"))


# ----------------------------------------------------------------------- what ships


def test_the_readme_is_that_of_the_files() -> None:
    if not WEIGHTS:
        pytest.skip("no weights here")
    assert (ROOT / "weights" / "README.md").read_text(encoding="utf-8") == cards.readme(
        ROOT / "weights"
    ), "run  python -m training.cards weights"


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda p: p.name)
def test_a_card_says_everything(path: Path) -> None:
    graph, card = load_model(path)
    assert path.stat().st_size <= 7_000_000
    assert card.licence and card.data and card.source and len(card.checksum) == 64
    assert "research" in card.notes and card.figures["storage_costs"] < 1e-3
    assert graph.param_count > 0
    if card.task == "embed":
        assert card.name == path.stem
        limits = list(thresholds(card).items())
        assert [rate for rate, _ in limits] == [1e-2, 1e-3, 1e-4]
        assert limits[0][1] < limits[1][1] < limits[2][1]
        assert card.figures["different_pairs"] * 1e-4 >= 10  # enough to tell


def test_the_detector_finds_the_sample_faces() -> None:
    path = ROOT / "weights" / "detector.safetensors"
    if not path.is_file():
        pytest.skip("no detector here")
    detector = load_detector(path)
    eyes = {
        "portrait_male_0": ((219, 200), (315, 196)),
        "portrait_female_0": ((205, 189), (273, 187)),
    }
    for name, places in eyes.items():
        [face] = detector.detect(read_image(IMAGES / f"{name}.jpg"))
        apart = np.linalg.norm(np.subtract(*places))
        assert np.abs(face.landmarks[:2] - places).max() < 0.15 * apart
    assert len(detector.detect(read_image(IMAGES / "group_of_four.jpg"))) >= 4
    for colour in (0, 128, 255):
        assert not detector.detect(np.full((240, 320, 3), colour, np.uint8))


def test_the_recogniser_knows_a_changed_copy() -> None:
    path = ROOT / "weights" / "fdfacenet.safetensors"
    detector = ROOT / "weights" / "detector.safetensors"
    if not (path.is_file() and detector.is_file()):
        pytest.skip("no recogniser here")
    model = Model(*load_model(path), detector=detector)
    folder = ROOT / "docs" / "images"
    a, changed, b = (
        model.embed(folder / f"portrait_{name}.jpg") for name in ("a", "a_changed", "b")
    )
    limit = thresholds(model.card)[1e-3]
    assert a @ changed >= limit > a @ b


# ---------------------------------------------------------------------- thresholds


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-4, 4)), min_size=3, max_size=12).filter(
        lambda rows: len({p for p, _ in rows}) > 1
    ),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.sampled_from([0.01, 0.2, 0.5]),
)
def test_weighted_thresholds_by_brute_force(
    rows: list[tuple[int, int]], drawn: list[int], rate: float
) -> None:
    identities = pytest.importorskip("training.identities")
    names = [str(p) for p, _ in rows]
    angle = np.array([value for _, value in rows]) / 4
    scores = identities.score(np.stack([np.cos(angle), np.sin(angle)], 1), names)
    people = sorted(set(names))
    w = np.array([drawn[i] for i in range(len(people))], float)
    pairs = [
        (np.cos(angle[i] - angle[j]), w[people.index(names[i])] * w[people.index(names[j])])
        for i in range(len(rows)) for j in range(i) if names[i] != names[j]
    ]  # fmt: skip
    allowed = rate * sum(weight for _, weight in pairs) + 1e-9
    found = identities.threshold(scores, rate, w)

    def reached(t: float) -> float:
        return sum(weight for value, weight in pairs if value >= t)

    assert reached(found + 1e-9) <= allowed
    if allowed > 1:  # the next lower score would let in too much
        assert reached(found - 1e-9) > allowed


def test_operating_points_have_their_rates() -> None:
    identities = pytest.importorskip("training.identities")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 32))
    names = [str(i // 5) for i in range(300)]
    vectors = centres[np.arange(300) // 5] + 0.5 * rng.normal(size=(300, 32))
    scores = identities.score(vectors, names)
    points = identities.operating_points(scores, replicates=50)
    for rate, point in points.items():
        most = float(rate) * len(scores.impostor)
        assert 0.5 * most <= point["let_in"] <= most
        low, high = point["interval"]
        assert low <= point["threshold"] <= high + 1e-4 and low < high
        assert point["tar_interval"][0] <= point["tar"] <= point["tar_interval"][1]
    again = identities.operating_points(scores, replicates=50)
    assert again == points


def test_spoilt_crops_keep_their_shape() -> None:
    identities = pytest.importorskip("training.identities")
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    for change in identities.HARD.values():
        spoilt = change(crops)
        assert spoilt.shape == crops.shape and spoilt.dtype == np.uint8
        assert (spoilt != crops).any()
    assert (identities.masked(crops)[:, :60] == crops[:, :60]).all()


# ------------------------------------------------------------------------- packaging


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``trained(name, seed)``: a random state and its card, as a training writes them."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("training.package")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("trained")

    def make(network: str, seed: int = 0) -> tuple[Path, Path]:
        torch.manual_seed(seed)
        net = package.module(network)
        state = {k: v for k, v in net.state_dict().items() if not k.endswith("tracked")}
        for key, value in state.items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif key.endswith("running_mean"):
                value.uniform_(-0.1, 0.1)
        paths = folder / f"{network}-{seed}.safetensors", folder / f"{network}-{seed}.json"
        save_file(state, paths[0])
        figures: dict[str, Any] = {"held_out_cosine": 0.5, "samples": 10, "minutes": 1.0}
        if network.startswith("retinaface"):
            at = {"teacher_faces": 4, "found": 1.0, "not_in_teacher": 0, "error_mean": 0.01}
            figures = {
                "threshold": 0.7, "nms_iou": 0.3, "doubt": [0.2, 0.9],
                "fp16_largest_relative_change": float("inf"),
                "training": {"pictures": 3, "steps": 1, "sizes": [[8, 8]], "loss": float("nan")},
                "figures": {"portraits": {"pictures": 4, "0.7": at, "0.5": {}},
                            "no_face": {"pictures": 2, "0.7": {"alarms": 0, "teacher_alarms": 0}}},
            }  # fmt: skip
        paths[1].write_text(json.dumps(figures))
        return paths

    return make


def test_a_recogniser(trained: Any, tmp_path: Path) -> None:
    from training import package

    state, card = trained("fdfacenet")
    out = tmp_path / "fdfacenet.safetensors"
    packed = package.package("fdfacenet", state, card, out)
    assert packed.card.stored == "float16" and out.stat().st_size < 7_000_000
    assert packed.card.checksum == cards.sha256(state)
    assert packed.card.thresholds == {}  # none were measured, so none are claimed
    assert 0 < packed.rounding < 1e-3 and packed.loading < 1e-4
    again = tmp_path / "again.safetensors"
    package.package("fdfacenet", state, card, again)
    assert again.read_bytes() == out.read_bytes()
    text = cards.readme(tmp_path)
    assert cards.sha256(out) in text and "not measured" in text
    assert "InterfaceGAN. No picture of LFW." in packed.card.data
    card.write_text(json.dumps(json.loads(card.read_text()) | {"made": 18368}))
    data = package.package("fdfacenet", state, card, again).card.data
    assert "InterfaceGAN; 18,368 faces of people who do not exist" in data


def test_a_recogniser_of_ones_own_pictures_does_not_claim_ours(trained: Any) -> None:
    from training import package

    figures = json.loads(trained("fdfacenet")[1].read_text())
    _, card = samples.recogniser()

    def told(about: str | None = None, **more: object) -> Card:
        return package.describe(card, "fdfacenet", "mine", {**figures, **more}, about)

    ours = told()
    assert told(pool="faces_more, faces_utk, faces_masks").data == ours.data
    mine = told(pool="mine, {others}", made=5)
    assert "The maker's own sets: mine, {others}; 5 faces of people" in mine.data
    said = told("Photographs of my class, with their consent.", pool="mine")
    assert said.data.startswith("Photographs of my class, with their consent. Unlabelled")
    assert told("Ours and more.").data.startswith("Ours and more. Unlabelled")
    for other in (mine, said):
        assert "UTKFace" not in other.data and "LFW" not in other.data
        assert "Apache-2.0;" not in other.licence and "to be said" in other.licence
        assert "MobileFaceNet" in other.data and "this project's own" not in other.notes


@pytest.mark.parametrize(("pool", "given"), [("mine", False), (None, True)])
def test_rates_by_group_are_of_those_that_learnt_from_the_pool(
    pool: str | None, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from training import groups, identities, package

    graph, card = samples.recogniser()
    card = replace(card, figures={"training": {"samples": 1} | ({"pool": pool} if pool else {})})
    for name in ("faces_utk", "faces_masks", "faces_more"):
        (tmp_path / f"{name}.zip").touch()
    monkeypatch.setattr(groups, "examine", lambda *_: {"everyone": {}})
    points = {"operating_points": {"1e-3": {"threshold": 0.4}}}
    monkeypatch.setattr(identities, "examine", lambda *_: dict(points))
    monkeypatch.setattr(package, "load_detector", lambda _: None)
    detector = tmp_path / "d.safetensors"
    detector.write_bytes(b"d")
    found = package.with_figures(card, Model(graph, card), tmp_path, str(detector))
    assert ("groups" in found.figures) is given


def test_a_folder_of_other_things_keeps_its_readme(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"what a training exported")
    assert "not written" in cards.renew(tmp_path)
    assert not (tmp_path / "README.md").exists()
    (tmp_path / "README.md").write_text("# My project")
    assert "not written" in cards.renew(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"
    (tmp_path / "state.safetensors").unlink()
    (tmp_path / "README.md").write_text("# The weights that ship\n\nof yesterday")
    assert cards.renew(tmp_path).endswith("README.md: written")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == cards.readme(tmp_path)


def test_measured_anew_the_weights_stay(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import package, remeasure

    def figured(card: Card, *_: object) -> Card:
        point = {"threshold": 0.4, "interval": [0.3, 0.5], "let_in": 1, "tar": 0.9,
                 "tar_interval": [0.8, 0.95]}  # fmt: skip
        figures = {"operating_points": {"1e-3": point}, "different_pairs": 1000}
        return replace(card, thresholds={"1e-3": 0.4}, figures={**card.figures, **figures})

    out = tmp_path / "fdfacenet.safetensors"
    package.package("fdfacenet", *trained("fdfacenet"), out)
    before, card = load_model(out)
    monkeypatch.setattr(remeasure, "with_figures", figured)
    assert remeasure.remeasure(out, tmp_path)[0][:2] == ["1e-3", "0.4000"]
    after, changed = load_model(out)
    assert thresholds(changed) == {1e-3: 0.4} and changed.stored == card.stored == "float16"
    assert changed.figures["storage_costs"] == card.figures["storage_costs"]
    for name, value in before.params.items():
        np.testing.assert_array_equal(after.params[name], value)
    detector = ROOT / "weights" / "detector.safetensors"
    with pytest.raises(UsageError, match="is no recogniser"):
        remeasure.remeasure(detector, tmp_path)


def test_a_detector(trained: Any, tmp_path: Path) -> None:
    from training import package

    out = tmp_path / "detector.safetensors"
    packed = package.package("detector", *trained("retinaface-mnet0.25"), out)
    card = packed.card
    assert (card.name, card.task, card.stored) == ("detector", "detect", "float32")
    assert (card.detector["score"], card.detector["overlap"]) == (0.7, 0.3)
    assert "loss" not in card.figures["training"]  # no number
    text = cards.readme(tmp_path)
    assert "portraits" in text and "100.0%" in text
    assert cards.write(tmp_path).read_text(encoding="utf-8") == text


def test_other_weights_than_the_file_has_are_noticed(trained: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from training import package

    out = tmp_path / "m.safetensors"
    state, card = trained("fdfacenet")
    package.package("fdfacenet", state, card, out)
    other = load_file(trained("fdfacenet", 1)[0])
    with pytest.raises(ModelError, match="differs from PyTorch"):
        package.check(out, "fdfacenet", other)
    moved = {**load_file(state)}
    moved["bn.bias"] = moved["bn.bias"] + 1e-2
    with pytest.raises(ModelError, match="differs from PyTorch"):
        package.check(out, "fdfacenet", moved)


def test_what_cannot_ship_is_not_written(trained: Any, tmp_path: Path) -> None:
    from training import package

    out = tmp_path / "m.safetensors"
    state, card = trained("fdfacenet")
    with pytest.raises(ModelError, match="use float16"):
        package.package("fdfacenet", state, card, out, dtype="float32")
    with pytest.raises(TinyfaceError):
        package.package("retinaface-mnet0.25", state, card, out)
    with pytest.raises(UsageError, match="not trained here"):
        package.module("resnet18")
    assert not list(tmp_path.iterdir())
