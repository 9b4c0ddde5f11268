"""Training on pictures of one's own: sets by name, few of them, and runs that go on."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training_samples import write_set  # noqa: E402

from training import (  # noqa: E402
    alignment,
    data,
    detector,
    detector_data,
    recogniser,
    recogniser_card,
    teachers,
)
from training.networks import NETWORKS, has_depthwise  # noqa: E402
from training.recogniser_export import export  # noqa: E402
from training.student import Settings, Student  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def work(tmp_path):
    """Crops of two small sets and something in the place of teachers' embeddings."""
    write_set(tmp_path, "mine", 20)
    write_set(tmp_path, "others", 5)
    data.build_crops(tmp_path, tmp_path, 1, ("mine", "others"))
    rng = np.random.default_rng(0)
    for name in teachers.TEACHERS:
        rows = rng.standard_normal((25, 128)).astype(np.float32)
        np.save(tmp_path / f"crops_{name}_0.npy", rows)
    return tmp_path


def run(monkeypatch, work, *more):
    """`training.recogniser` on the work folder, from its arguments on."""
    given = ["recogniser", "--data", str(work), "--work", str(work), "--batch", "8", "--small", "0"]
    monkeypatch.setattr(sys, "argv", [*given, "--kinds", "crops", *map(str, more)])
    monkeypatch.setattr(recogniser.signal, "signal", lambda *_: None)
    before = np.geterr()
    try:
        recogniser.main()
    finally:
        np.seterr(**before)


def test_few_pictures_of_ones_own_are_learnt_from_and_a_tenth_kept(work, monkeypatch):
    assert np.load(work / "crops.npy").shape == (25, 128, 128, 3)
    assert data.held_out(work) == 2
    run(monkeypatch, work, "--samples", 16, "--export", work / "x.safetensors")
    lines = [json.loads(x) for x in (work / "fdfacenet" / "log.jsonl").read_text().splitlines()]
    assert lines[0]["rows"] == 23
    # no named people: no pair test
    assert set(lines[-1]) == {"event", "took", "held_out_cosine", "samples", "minutes", "made"}
    assert (work / "x.safetensors").exists()
    assert json.loads((work / "x.json").read_text())["pool"] == "mine, others"


@pytest.mark.parametrize(("crops", "kept"), [(0, 0), (25, 2), (10239, 1023), (43265, 1024)])
def test_a_tenth_of_a_small_pool_is_kept(crops, kept):
    assert alignment.kept(crops) == kept


def test_sets_that_are_not_whole_are_named(tmp_path):
    write_set(tmp_path, "short", 2)
    (tmp_path / "short.csv").unlink()
    for read in (
        lambda: alignment.faces(tmp_path / "short.zip"),
        lambda: detector_data.Pool(tmp_path, "short"),
    ):
        with pytest.raises(ValueError, match=r"short\.csv: no such file"):
            read()


def test_other_sets_do_not_pass_for_those_that_were_aligned(work, tmp_path):
    data.build_crops(work, work, 1, ("mine", "others"))
    for names, count in ((("mine",), 20), (("others", "mine"), 25)):
        with pytest.raises(ValueError, match=f"holds 25 faces, the archives {count}"):
            data.build_crops(work, work, 1, names)
    (work / "crops.txt").unlink()  # an older version made them
    assert data.pool_of(work) == data.UNKNOWN
    data.build_crops(work, work, 1, ("mine", "others"))
    assert data.pool_of(work) == "mine, others"
    write_set(work, "none", 0)
    with pytest.raises(ValueError, match="no faces in none"):
        data.build_crops(work, work, 1, ("none",))


def test_nothing_to_learn_from_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="let training.data run first"):
        run(monkeypatch, tmp_path, "--samples", 8)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--minutes", "0"], "--minutes 0: give more than 0"),
        (["--samples", "0"], "--samples 0: give more than 0"),
        (["--kinds", "crop"], "invalid choice: 'crop'"),
        (["--frozen", "conv"], "no layer conv to be frozen; fdfacenet has conv1, conv2"),
        (["--weights", "nothing"], "No such file"),
        (["--weights", "crops.txt"], "no safetensors file"),
        (["--weights", "narrow.safetensors"], "not this network's weights: fc.weight"),
        (["--resume", "--changed", "--network", "dwfn"], r"network fdfacenet \(now dwfn\)"),
        (["--resume", "--changed", "--frozen", "conv1"], "frozen"),
    ],
)
def test_what_cannot_be_is_one_sentence(work, monkeypatch, capsys, more, said):
    monkeypatch.chdir(work)
    own = Student(Settings(batch=8, kinds=("crops",), small=0.0))
    if "--resume" in more:
        (work / "fdfacenet").mkdir()
        own.save(work / "fdfacenet" / "checkpoint.pt")
    if "narrow.safetensors" in more:
        own.model.fc.weight.data = own.model.fc.weight.data[:128].clone()
        export(own.model, work / "narrow.safetensors", {})
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, work, "--samples", 8, *more)
    text = capsys.readouterr().err if error.value.code == 2 else str(error.value)
    assert re.search(said, text) and "Traceback" not in text
    assert not list(work.glob("*/log.jsonl"))


def test_the_card_of_another_networks_weights_is_refused(tmp_path, monkeypatch, capsys):
    export(NETWORKS["dwfn"](), tmp_path / "x.safetensors", {})
    given = [tmp_path, "--work", tmp_path, "--state", tmp_path / "x.safetensors", "--out", "x"]
    monkeypatch.setattr(sys, "argv", ["recogniser_card", "--data", *map(str, given)])
    with pytest.raises(SystemExit):
        recogniser_card.main()
    assert "not this network's weights" in capsys.readouterr().err


def test_of_fewer_kinds_than_before_a_run_begins_an_epoch_of_these(work, tmp_path):
    """40 rows were learnt from, of which only 23 are left, and none may be asked for past them."""
    before = Student(Settings(batch=8))
    before.epoch, before.position, before.rows = 2, 8, 40
    before.save(tmp_path / "c.pt")
    student = Student(Settings(batch=8, kinds=("crops",)))
    student.load(tmp_path / "c.pt", changed=True)
    pool = data.Pool(work, ("crops",), held_out=2)
    seen = np.concatenate([student.rows_of(pool) for _ in range(2)])
    assert student.epoch == 3 and student.rows == len(pool) == 23
    assert len(set(seen.tolist())) == 16 and seen.max() < 23


def test_random_numbers_of_another_machine_are_drawn_anew_if_asked_for(tmp_path):
    """A GPU's generator has a state of 16 bytes, which a CPU's cannot take."""
    student = Student(Settings(batch=8))
    student.steps = 7
    student.save(tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save(state | {"numbers": torch.zeros(16, dtype=torch.uint8)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="on a GPU or a CPU.*--changed"):
        Student(Settings(batch=8)).load(tmp_path / "c.pt")
    drawn = []
    for seed in (0, 0, 1):
        student = Student(Settings(batch=8, seed=seed))
        student.load(tmp_path / "c.pt", changed=True)
        drawn.append(torch.rand(4, generator=student.numbers))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    fresh = torch.rand(4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(drawn[0], fresh)  # what the run began with is not drawn again


@pytest.mark.parametrize(
    ("people", "enough"),
    [("", False), ("aabb", True), ("aaaa", False), ("abcd", False), ("aabc", False)],
)
def test_few_named_people_are_no_pair_test(work, people, enough):
    if people:
        write_set(work, data.VALIDATION, [f"{name}/{i}.png" for i, name in enumerate(people)])
    exam = recogniser.Exam(work, work, data.Pool(work, ("crops",)))
    assert (exam.crops is not None) is enough
    if enough:
        found = np.random.default_rng(0).standard_normal((len(people), 4))
        with np.errstate(all="raise", under="ignore"):
            assert recogniser.evaluate(found, exam.people)["genuine"] == 2


def test_a_run_goes_on_with_its_own_settings_or_says_what_differs(work, tmp_path):
    Student(Settings(batch=8, kinds=("crops",))).save(tmp_path / "c.pt")
    Student(Settings(batch=8, kinds=("crops",), chunk=4, fused=True)).load(tmp_path / "c.pt")
    other = Student(Settings(batch=6, muon=0.01, kinds=("crops",)))
    with pytest.raises(ValueError, match=r"batch 8 \(now 6\), muon 0\.025 \(now 0\.01\)") as error:
        other.load(tmp_path / "c.pt")
    assert "--changed" in str(error.value)
    other.load(tmp_path / "c.pt", changed=True)


def test_a_checkpoint_from_before_a_setting_was_known_has_its_default():
    saved = {k: v for k, v in vars(Settings(batch=8)).items() if k not in ("live", "kinds")}
    saved["frozen"] = []
    assert Settings(batch=8, kinds=("crops",)).differing(saved) == []
    assert Settings(batch=8, live=0.5).differing(saved) == ["live 0.0 (now 0.5)"]


def test_a_detectors_run_goes_on_with_its_own_settings(tmp_path):
    def options(**given):
        usual = {"minutes": 1, "threads": 1, "seed": 1, "cache": 1, "lr": 0.02, "device": "cpu"}
        places = {"data": tmp_path, "teachers": tmp_path, "images": None, "work": tmp_path}
        return detector.Options(**(places | {"export_to": tmp_path} | usual | given))

    detector.new_state(options()).save(tmp_path / "c.pt")
    detector.new_state(options(minutes=9, threads=2)).load(tmp_path / "c.pt", "cpu")
    with pytest.raises(detector.click.ClickException, match=r"seed 1 \(now 2\)"):
        detector.new_state(options(seed=2)).load(tmp_path / "c.pt", "cpu")


def test_depthwise_networks_are_known_by_their_layers():
    assert {name: has_depthwise(make()) for name, make in NETWORKS.items()} == {
        "fdfacenet": False,
        "dwfn": True,
        "mobilefacenet": True,
    }
