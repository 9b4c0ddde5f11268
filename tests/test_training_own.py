"""Training on pictures of one's own: sets by name, few of them, and runs that go on."""

from __future__ import annotations

import csv
import json
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from training import alignment, data, detector, detector_data, recogniser, teachers  # noqa: E402
from training.networks import NETWORKS, has_depthwise  # noqa: E402
from training.student import Settings, Student  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def write_set(folder, name, count, columns=alignment.LANDMARKS):
    """An archive of `count` grey pictures, and its table."""
    with (
        zipfile.ZipFile(folder / f"{name}.zip", "w") as archive,
        open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["file", *columns])
        for i in range(count):
            with archive.open(f"{i}.png", "w") as out:
                Image.new("RGB", (112, 112), (i, i, i)).save(out, "PNG")
            table.writerow([f"{i}.png", *alignment.TEMPLATE.ravel()[: len(columns)]])


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


@pytest.mark.parametrize(("crops", "kept"), [(0, 0), (25, 2), (10239, 1023), (43265, 1024)])
def test_a_tenth_of_a_small_pool_is_kept(crops, kept):
    assert alignment.kept(crops) == kept


def test_sets_that_are_not_whole_are_named(tmp_path):
    write_set(tmp_path, "short", 2, alignment.LANDMARKS[:-1])
    with pytest.raises(ValueError, match=r"short\.csv: no column mouth_r_y"):
        alignment.faces(tmp_path / "short.zip")
    (tmp_path / "short.csv").unlink()
    for read in (
        lambda: alignment.faces(tmp_path / "short.zip"),
        lambda: detector_data.Pool(tmp_path, "short"),
    ):
        with pytest.raises(ValueError, match=r"short\.csv: no such file"):
            read()


def test_other_sets_do_not_pass_for_those_that_were_aligned(work, tmp_path):
    with pytest.raises(ValueError, match="holds 25 faces, the archives 20"):
        data.build_crops(work, work, 1, ("mine",))
    write_set(work, "none", 0)
    with pytest.raises(ValueError, match="no faces in none"):
        data.build_crops(work, work, 1, ("none",))


def test_nothing_to_learn_from_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="let training.data run first"):
        run(monkeypatch, tmp_path, "--samples", 8)


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
