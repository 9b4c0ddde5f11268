"""``tinyface evaluate``: failed pairs, pictures, the command; and what its figures are good for."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from PIL import Image

import tinyface
from tinyface import modelstore, plots
from tinyface.cli import roc
from tinyface.cli.evaluate import print_report
from tinyface.cli.main import run
from tinyface.errors import ImageError, UsageError
from tinyface.faces import evaluate as evaluation
from tinyface.faces.evaluate import summarise
from tinyface.faces.pairs import read_pairs
from tinyface.vision.detect import Face

# ------------------------------------------------------------------------------ failures


def report(scores: list[float], same: list[bool], **options: Any) -> evaluation.Report:
    folds = np.arange(len(scores)) % 2
    return summarise(np.array(scores), np.array(same), folds, **options)


def test_failed_pairs_are_wrong_or_left_out() -> None:
    nan = float("nan")
    scores = [0.9, 0.8, 0.1, 0.2, nan, nan, nan, nan]
    same = [True, True, False, False, True, True, False, False]
    wrong = report(scores, same, rates=[0.5])
    assert (wrong.accuracy, wrong.same, wrong.different, wrong.failed) == (0.5, 4, 4, 4)
    assert wrong.auc == 0.5  # two of the four genuine pairs beat every impostor
    assert wrong.points[0].tar.value == 0.5 and wrong.points[0].tar.total == 4
    assert wrong.points[0].fmr.total == 2  # a failure is not a refusal
    skipped = report(scores, same, rates=[0.5], on_failure="skip")
    assert (skipped.accuracy, skipped.auc, skipped.same, skipped.failed) == (1, 1, 2, 4)
    assert skipped.points[0].tar.value == 1


def test_both_kinds_are_needed() -> None:
    for same in ([True] * 4, [False] * 4):
        with pytest.raises(UsageError, match="both kinds"):
            report([0.1, 0.2, 0.3, 0.4], same)
    for rate in (0, 1, -1, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            report([0.1, 0.2, 0.3, 0.4], [True, True, False, False], rates=[rate])


def test_the_report_is_json_whatever_happened() -> None:
    nan = float("nan")
    document = report([0.9, nan, 0.1, 0.2], [True, True, False, False], rates=[1e-3, 0.9]).to_json()
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text)["points"][0]["interval"][1] is None


SCORES = [0.9, 0.4, 0.5, 0.2, 0.8, 0.1, 0.3, 0.1, 0.9, 0.2, 0.2]
SAME = [True, True, False, False] * 2 + [True, False, False]


def test_each_interval_stands_beside_its_share(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(SCORES, SAME, rates=[0.3])
    print_report(found, "m", "")
    out = capsys.readouterr().out
    (point,) = found.points
    row = next(line for line in out.splitlines() if line.lstrip().startswith("0.3"))
    for share, shown in (
        (point.fmr, f"of {point.fmr.total}"),
        (point.tar, f"{point.tar.value:.2%}"),
    ):
        assert row.split(shown, 1)[1].split()[0] == f"{share.interval[0]:.2%}"
    assert f"± {found.deviation:.2%} (deviation" in out
    assert f"standard error {found.standard_error:.2%}" in out


def test_the_curve_rises_at_a_rate_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    found = report(SCORES, SAME, rates=[0.5])
    roc.draw("roc.png", found, "m")
    (axes,) = drawn[0].axes
    assert axes.lines[0].get_drawstyle() == "steps-post" and axes.get_xscale() == "log"
    (point,) = found.points
    assert axes.texts[0].xy == (point.rate, point.tar.value)


# --------------------------------------------------------------------------- the command

PEOPLE = 6


@pytest.fixture
def lfw(tmp_path: Path, only_samples: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six "people" of four pictures, a pairs.txt of six folds; in A's picture 4 is no face.

    A person is a square of coloured noise, hence a face to the sample detector; the pictures
    of one differ in place, and by noise.
    """
    monkeypatch.chdir(tmp_path)
    lines = [f"{PEOPLE}\t3"]
    for p in range(PEOPLE):
        name, other = chr(65 + p), chr(65 + (p + 1) % PEOPLE)
        colours = np.random.default_rng(p).integers(140, 256, (4, 4, 3))
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for i in range(4):
            rgb = np.zeros((256, 256, 3), np.uint8)
            if (name, i) != ("A", 3):
                noise = np.random.default_rng([p, i]).integers(-12, 1, (64, 64, 3))
                square = np.kron(colours, np.ones((16, 16, 1))) + noise
                rgb[64:128, 64 * i : 64 * i + 64] = square
            samples.save_png(tmp_path / "lfw" / name / f"{name}_{i + 1:04d}.png", rgb)
        lines += [f"{name}\t1\t{j}" for j in (2, 3, 4)]
        lines += [f"{name}\t{j}\t{other}\t{j}" for j in (1, 2, 3)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_command(lfw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(["evaluate", "pairs.txt", "--root", ".", "--json", "-o", "scores.csv"])
    out, err = capsys.readouterr()
    assert status == 1  # a picture failed
    document = json.loads(out)
    assert document["schema"] == "tinyface.evaluate/1" and document["model"] == "sample"
    assert [f["file"] for f in document["pictures"]["failed"]] == ["A/A_0004"]
    assert document["pictures"]["total"] == 24
    assert (document["weights"], document["root"]) == ("fp32", ".")
    assert document["tinyface"] == tinyface.__version__
    for role, task in (("model", "embed"), ("detector", "detect")):
        used = document["files"][role]
        assert Path(used["path"]) == modelstore.default(task)
        assert used["sha256"] == hashlib.sha256(Path(used["path"]).read_bytes()).hexdigest()
    assert (
        "A_0004.png: no face found" in err and "1 of 24 pictures failed: 1 pairs are counted" in err
    )
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36 and [row["score"] for row in rows].count("") == 1
    model = tinyface.load()
    for row in rows:  # the same cosine as everywhere else
        if row["score"]:
            a, b = (model.embed(f"lfw/{row[key]}.png") for key in ("a", "b"))
            assert float(row["score"]) == pytest.approx(tinyface.cosine(a, b), abs=1e-6)
    # and the same figures from these scores by hand
    scores = np.array([float(row["score"] or "nan") for row in rows])
    same = np.array([row["same"] == "1" for row in rows])
    folds = np.array([int(row["fold"]) for row in rows])
    again = summarise(scores, same, folds).to_json()
    assert again["accuracy"]["folds"] == document["accuracy"]["folds"]
    assert again["auc"] == document["auc"]
    # noise of the same colours is more alike than noise of others
    assert document["auc"] > 0.9 and document["accuracy"]["mean"] > 0.8


def test_the_figures_for_people(lfw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", "pairs.txt", "--root", "lfw", "--on-failure", "skip", "--fmr", "0.1"]
    assert run(line) == 1
    out, err = capsys.readouterr()
    assert (
        "sample: 17 pairs of one person, 18 of two, 1 failed (skip), 6 folds, central face" in out
    )
    assert "accuracy" in out and "±" in out and "AUC" in out and "equal error" in out
    assert "1 of 18" in out and "left out" in err
    assert run([*line[:-1], "1e-3"]) == 1
    assert "too few" in capsys.readouterr().out


def test_a_picture_is_embedded_once(lfw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    honest = evaluation.embed_picture

    def counting(model: Any, path: Path, **options: Any) -> Any:
        seen.append(str(path))
        return honest(model, path, **options)

    monkeypatch.setattr(evaluation, "embed_picture", counting)
    steps: list[int] = []
    evaluation.evaluate(
        tinyface.load(), read_pairs("pairs.txt"), "lfw", progress=lambda: steps.append(1)
    )
    assert len(seen) == len(set(seen)) == len(steps) == 24


def test_missing_pictures_are_named(lfw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lfw/B/B_0002.png").unlink()
    Path("lfw/C/C_0003.png").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    assert run(["evaluate", "pairs.txt", "--root", "lfw"]) == 2
    out, err = capsys.readouterr()
    assert not out and "1 of 24 pictures are not there (B/B_0002)" in err
    assert run(["evaluate", "pairs.txt", "--root", "lfw", "--on-failure", "skip", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    failed = {f["file"]: f["error"] for f in document["pictures"]["failed"]}
    assert set(failed) == {"A/A_0004", "B/B_0002", "C/C_0003"}
    assert failed["B/B_0002"] == evaluation.MISSING and "damaged" in failed["C/C_0003"]
    assert document["pairs"] == {"same": 15, "different": 14, "failed": 7, "on_failure": "skip"}
    for root in ("nosuch", "lfw/A"):
        assert run(["evaluate", "pairs.txt", "--root", root, "--on-failure", "skip"]) == 2


def test_aligned_crops_flip_and_the_middle(lfw: Path) -> None:
    model = tinyface.load()
    crop = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    path = samples.save_png(lfw / "crop.png", crop)
    plain = evaluation.embed_picture(model, path, aligned=True)
    np.testing.assert_allclose(plain, model.embed(crop, aligned=True), atol=1e-6)
    both = evaluation.embed_picture(model, path, aligned=True, flip=True)
    pair = model.embed([crop, crop[:, ::-1]], aligned=True).sum(axis=0)
    np.testing.assert_allclose(both, pair / np.linalg.norm(pair), atol=1e-6)
    assert abs(np.linalg.norm(both) - 1) < 1e-6 and abs(both - plain).max() > 1e-3
    two = samples.save_png(lfw / "two.png", samples.picture((0, 0), (2, 1)))
    found = {face.box[0]: e for face, e in
             ((f.face, f.embedding) for f in model.embed_faces(str(two)))}  # fmt: skip
    middle = evaluation.embed_picture(model, two, central=True)
    np.testing.assert_allclose(middle, found[128.0], atol=1e-6)
    with pytest.raises(ImageError, match="no face"):
        evaluation.embed_picture(model, lfw / "lfw/A/A_0004.png", central=True)


def test_the_face_in_the_middle_is_large_as_well() -> None:
    """In the middle and large; large and a little beside it; larger, but at the edge; tiny."""
    rgb = np.zeros((250, 250, 3), np.uint8)

    def at(x: float, y: float, side: float) -> Face:
        box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
        return Face(box, 0.9, np.zeros((5, 2)))

    tiny, person, edge = at(126, 124, 12), at(135, 118, 90), at(45, 100, 95)
    assert evaluation.most_central([tiny, edge, person], rgb) == [person, tiny, edge]
    assert evaluation.most_central([tiny, at(125, 125, 9)], rgb)[0] is tiny


def test_the_face_that_a_list_means(lfw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LFW's people stand in the middle of their pictures; of other pictures nobody knows."""
    rows = [f"lfw/{p.a}.png,lfw/{p.b}.png,{p.same:d},{p.fold}" for p in read_pairs("pairs.txt")]
    (lfw / "table.csv").write_text("\n".join(["a,b,same,fold", *rows]))
    for arguments, face in ((["pairs.txt"], "central"), (["table.csv"], "largest"),
                            (["table.csv", "--face", "central"], "central")):  # fmt: skip
        run(["evaluate", *arguments, "--root", ".", "--on-failure", "skip", "--json"])
        assert json.loads(capsys.readouterr().out)["face"] == face


@pytest.mark.parametrize(
    "line",
    [
        "evaluate pairs.txt", "evaluate nosuch.txt --root lfw", "evaluate lfw --root lfw",
        "evaluate pairs.txt --root lfw --plot roc.jpeg", "evaluate pairs.txt --root lfw --fmr 0",
        "evaluate pairs.txt --root lfw -o no/such/folder/x.csv", "evaluate pairs.txt --root nosuch",
        "evaluate pairs.txt --root lfw -m nosuch", "evaluate pairs.txt --root lfw --on-failure x",
        "evaluate pairs.txt --root lfw -o faces.npz",
    ],
)  # fmt: skip
def test_wrong_usage_is_2(lfw: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err and "Traceback" not in err


def test_the_plot(lfw: Path) -> None:
    pytest.importorskip("matplotlib")
    for suffix in ("png", "svg", "pdf"):
        assert run(["evaluate", "pairs.txt", "--root", "lfw", "--plot", f"roc.{suffix}"]) == 1
        assert Path(f"roc.{suffix}").stat().st_size > 1000
    assert Image.open("roc.png").size == (960, 720)
    assert not list(lfw.glob(".roc*"))


def test_without_matplotlib_it_says_what_to_install(
    lfw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(["evaluate", "pairs.txt", "--root", "lfw", "--plot", "roc.png"]) == 2
    assert "pip install 'matplotlib>=3.7'" in capsys.readouterr().err
    assert not Path("roc.png").exists()


# ------------------------------------------------------------------- what it is good for


def test_verify_decides_by_the_rate_that_is_asked_for(
    lfw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sample's card has 0.3 at 1e-2 and 0.5 at 1e-3, the default."""
    for options, limit, rate in (
        ([], 0.5, 1e-3), (["--fmr", "0.01"], 0.3, 1e-2), (["--fmr", "1e-03"], 0.5, 1e-3),
        (["--threshold", "0.9"], 0.9, None),
    ):  # fmt: skip
        pictures = ["lfw/A/A_0001.png", "lfw/C/C_0003.png"]
        status = run(["verify", *pictures, *options, "--json"])
        answer = json.loads(capsys.readouterr().out)
        assert (answer["threshold"], answer["fmr"]) == (limit, rate)
        assert answer["same"] is (answer["cosine"] >= limit) is (status == 0)
    assert run(["verify", *pictures, "--fmr", "1e-5"]) == 2
    assert "take 0.01, 0.001" in capsys.readouterr().err
    assert run(["verify", *pictures, "--fmr", "0.01", "--threshold", "0.9"]) == 2
    assert "give either" in capsys.readouterr().err
