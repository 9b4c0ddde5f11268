"""``tinyface evaluate``: figures against brute force and closed forms, lists of pairs, pictures."""

from __future__ import annotations

import csv
import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import tinyface
from tinyface import limits
from tinyface.cli.main import run
from tinyface.errors import ImageError, UsageError
from tinyface.faces import evaluate as evaluation
from tinyface.faces import metrics
from tinyface.faces.evaluate import summarise
from tinyface.faces.pairs import Pair, locate, pictures, read_pairs

# Few different values, so that many scores are equal.
COARSE = st.integers(-8, 8).map(lambda i: i / 8)
FINE = st.floats(-1, 1, allow_subnormal=False)
SCORES = st.one_of(*(st.lists(v, min_size=1, max_size=40) for v in (COARSE, FINE))).map(np.array)
RATES = st.sampled_from([1e-3, 1e-2, 0.1, 0.25, 1 / 3, 0.5, 0.9])


# ------------------------------------------------------------------------------- metrics


@given(SCORES, st.randoms(use_true_random=False))
def test_no_threshold_is_better_than_the_best(scores: Any, random: Any) -> None:
    same = np.array([random.random() < 0.5 for _ in scores])
    candidates = [*scores, np.inf]  # the accuracy changes at scores only
    most = max(int(((scores >= t) == same).sum()) for t in candidates)
    found = metrics.best_threshold(scores, same)
    assert int(((scores >= found) == same).sum()) == most


@given(SCORES, SCORES)
def test_the_area_counts_pairs_of_pairs(genuine: Any, impostor: Any) -> None:
    won = sum((g > i) + Fraction(int(g == i), 2) for g in genuine for i in impostor)
    expected = Fraction(won) / (len(genuine) * len(impostor))
    assert metrics.area_under_roc(genuine, impostor) == pytest.approx(float(expected), abs=1e-12)


@given(SCORES, SCORES)
def test_the_roc_encloses_the_area(genuine: Any, impostor: Any) -> None:
    far, tar, thresholds = metrics.roc(genuine, impostor)
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert (np.diff(far) >= 0).all() and (np.diff(tar) >= 0).all()
    assert (np.diff(thresholds) < 0).all()
    for f, t, threshold in zip(far, tar, thresholds, strict=True):
        assert f == (impostor >= threshold).mean() and t == (genuine >= threshold).mean()
    area = (np.diff(far) * (tar[1:] + tar[:-1]) / 2).sum()
    assert metrics.area_under_roc(genuine, impostor) == pytest.approx(area, abs=1e-9)


@given(SCORES, RATES)
def test_the_largest_set_that_the_rate_allows(impostor: Any, rate: float) -> None:
    threshold = metrics.threshold_at(impostor, rate)
    allowed = math.floor(Fraction(rate).limit_denominator(10**6) * len(impostor))
    accepted = int((impostor >= threshold).sum())
    assert accepted <= allowed
    # the next lower score would let in too many
    refused = impostor[impostor < threshold]
    assert refused.size
    assert int((impostor >= refused.max()).sum()) > allowed


def test_a_thousandth_of_three_thousand_is_three() -> None:
    impostor = np.linspace(-1, 1, 3000)
    for rate, allowed in ((1e-2, 30), (1e-3, 3), (1e-4, 0)):
        point = metrics.operating_point(impostor, impostor, rate)
        assert (point.fmr.count, point.resolved) == (allowed, allowed > 0)
    for total in range(1000, 60_000, 1000):  # some products fall just below the whole number
        assert (np.arange(total) >= metrics.threshold_at(np.arange(total) * 1.0, 1e-3)).sum() == (
            total // 1000
        )


@given(SCORES, SCORES)
def test_equal_error(genuine: Any, impostor: Any) -> None:
    def errors(t: float) -> tuple[float, float]:
        return float((impostor >= t).mean()), float((genuine < t).mean())

    rate, threshold = metrics.equal_error_rate(genuine, impostor)
    fmr, fnmr = errors(threshold)
    assert rate == pytest.approx((fmr + fnmr) / 2)
    least = min(abs(a - b) for a, b in map(errors, [*genuine, *impostor, np.inf]))
    assert abs(fmr - fnmr) == pytest.approx(least, abs=1e-12)


def test_normal_scores_have_the_figures_of_the_closed_form() -> None:
    """Two normal distributions of deviation 1, d apart: AUC = Phi(d/sqrt 2), EER = Phi(-d/2)."""
    from statistics import NormalDist

    normal, d, n = NormalDist(), 2.5, 20_000
    grid = np.array([normal.inv_cdf((i + 0.5) / n) for i in range(n)])
    genuine, impostor = grid + d, grid
    assert metrics.area_under_roc(genuine, impostor) == pytest.approx(
        normal.cdf(d / math.sqrt(2)), abs=1e-4
    )
    rate, threshold = metrics.equal_error_rate(genuine, impostor)
    assert rate == pytest.approx(normal.cdf(-d / 2), abs=1e-4)
    assert threshold == pytest.approx(d / 2, abs=1e-3)
    for fmr in (1e-1, 1e-2, 1e-3):
        point = metrics.operating_point(genuine, impostor, fmr)
        t = normal.inv_cdf(1 - fmr)
        assert point.threshold == pytest.approx(t, abs=0.02)
        assert point.tar.value == pytest.approx(1 - normal.cdf(t - d), abs=0.01)
        assert point.interval[1] is not None
        assert point.interval[0] < point.threshold < point.interval[1]


@given(st.integers(0, 500), st.integers(1, 500))
@example(0, 300)
@example(300, 300)
def test_wilson_solves_its_equation(count: int, extra: int) -> None:
    total = count + extra if count != 300 else 300
    share = count / total
    low, high = metrics.wilson(share, total)
    assert 0 <= low <= share <= high <= 1
    for p in (low, high):
        assert (share - p) ** 2 == pytest.approx(metrics.Z95**2 * p * (1 - p) / total, abs=1e-12)
    if count == 0:  # closed form: z^2 / (n + z^2)
        assert high == pytest.approx(metrics.Z95**2 / (total + metrics.Z95**2))
    assert metrics.wilson(float("nan"), 0) == (0, 1)


def test_wilson_against_a_printed_value() -> None:
    """10 of 100: 5.52 % to 17.44 % (Brown, Cai, DasGupta 2001 print such intervals)."""
    low, high = metrics.Share(10, 100).interval
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)


@given(
    arrays(np.float64, 40, elements=COARSE),
    arrays(np.bool_, 40),
    arrays(np.bool_, 40),
)
def test_folds_one_by_one(scores: Any, same: Any, failed: Any) -> None:
    folds = np.arange(40) // 4
    failed[:2] = False  # something to choose a threshold on, whichever fold is tested
    failed[-2:] = False
    accuracies, thresholds = metrics.fold_accuracies(scores, same, folds, failed)
    for fold, accuracy, threshold in zip(range(10), accuracies, thresholds, strict=True):
        others = [i for i in range(40) if folds[i] != fold and not failed[i]]
        assert threshold == metrics.best_threshold(scores[others], same[others])
        right = sum(
            not failed[i] and (scores[i] >= threshold) == same[i]
            for i in range(40)
            if folds[i] == fold
        )
        assert accuracy == right / 4


def test_a_threshold_is_never_chosen_on_its_own_fold() -> None:
    """Nine folds separate at 0.5, the tenth at 0.9: there half of the answers must be wrong."""
    scores = np.array([0.6, 0.4] * 9 + [0.95, 0.85])
    same = np.array([True, False] * 10)
    accuracies, _ = metrics.fold_accuracies(scores, same, np.arange(20) // 2)
    assert accuracies.tolist() == [1] * 9 + [0.5]
    with pytest.raises(UsageError, match="one fold"):
        metrics.fold_accuracies(scores, same, np.zeros(20, int))


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


# --------------------------------------------------------------------------- pairs files


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lfw_lists(tmp_path: Path) -> None:
    text = "2\t1\nAbel_Pacheco\t1\t4\nAbdel_Madi\t5\tDean_Barker\t1\nA\t2\t3\nB\t1\tC\t12345\n"
    expected = [
        Pair("Abel_Pacheco/Abel_Pacheco_0001", "Abel_Pacheco/Abel_Pacheco_0004", True, 0),
        Pair("Abdel_Madi/Abdel_Madi_0005", "Dean_Barker/Dean_Barker_0001", False, 0),
        Pair("A/A_0002", "A/A_0003", True, 1),
        Pair("B/B_0001", "C/C_12345", False, 1),
    ]
    for form in (
        text,
        text.replace("\t", "   "),
        text.replace("\n", "\r\n") + "\n\n",
        "\ufeff" + text,
    ):
        assert read_pairs(write(tmp_path / "pairs.txt", form)) == expected
    assert pictures(expected)[:3] == [expected[0].a, expected[0].b, expected[1].a]


def test_a_development_list_is_cut_into_folds(tmp_path: Path) -> None:
    lines = [f"P{i}\t1\t2" for i in range(25)] + [f"P{i}\t1\tP{i + 1}\t1" for i in range(25)]
    found = read_pairs(write(tmp_path / "pairsDevTest.txt", "25\n" + "\n".join(lines)))
    for same in (True, False):
        counts = np.bincount([pair.fold for pair in found if pair.same is same])
        assert len(counts) == 10 and set(counts) <= {2, 3}


def test_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'a,b,same\nx/1.jpg,x/2.jpg,1\n"y,1.jpg",z.png,no\n')
    assert read_pairs(path) == [
        Pair("x/1.jpg", "x/2.jpg", True, 0),
        Pair("y,1.jpg", "z.png", False, 0),
    ]
    path = write(tmp_path / "p.csv", "fold, same, b, a\none,true,2,1\ntwo,0,3,1\none,0,3,2\n")
    assert read_pairs(path) == [
        Pair("1", "2", True, 0), Pair("1", "3", False, 1), Pair("2", "3", False, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("hello\n", "line 1"),
        ("10 300 5\n", "line 1"),
        ("-1 300\n", "line 1"),
        ("0\n", "line 1"),
        ("99999999 99999999\nA\t1\t2\n", "there are 1"),
        ("1 1\nA\t1\t2\n", "there are 1"),
        ("1 1\nA\t1\t2\nA\t1\tB\t1\nA\t1\t3\n", "there are 3"),
        ("1 1\nA\t1\t2\nA\t1\tB\n", "line 3"),
        ("1 1\nA\t1\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\tone\t2\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t0\t2\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t1\t²\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t1\t999999999999999999999\nA\t1\tB\t1\n", "line 2"),
        ("1 1\n../../etc\t1\t2\nA\t1\tB\t1\n", "name must be"),
        ("1 1\n..\t1\t2\nA\t1\tB\t1\n", "name must be"),
        ("1 1\nA\t1\t2\nA\t1\tC:\\x\t1\n", "name must be"),
        ("a,b\n1,2\n", "columns"),
        ("a,b,same\n1,2\n", "row 2"),
        ("a,b,same\n1,2,1\n1,2,maybe\n", "row 3"),
        ("a,b,same\n1,2,1,4\n", "row 2"),
        ("a,b,same\n,2,1\n", "row 2"),
        ("a,b,same,fold\n1,2,1,0\n1,2,1,\n", "row 3"),
        ("1 1\nA\0\t1\t2\n", "not a text file"),
    ],
)
def test_malformed_lists_name_the_place(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.txt", text)
    with pytest.raises(UsageError, match=said) as error:
        read_pairs(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_lists_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "nosuch.txt"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_pairs(path)
    monkeypatch.setattr(limits, "MAX_PAIRS_BYTES", 10)
    with pytest.raises(UsageError, match="larger than"):
        read_pairs(write(tmp_path / "pairs.txt", "1 1\n" + "A\t1\t2\n" * 9))


@given(st.binary(max_size=60) | st.text("12 \tA/,.\nabsmef", max_size=60).map(str.encode))
def test_any_bytes_are_a_list_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    path.write_bytes(data)
    try:
        found = read_pairs(path)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 <= pair.fold < len(found) * 10 + 10 for pair in found)


# ------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    "place",
    ["A/A_0001.jpg", "A/A_0001.PNG", "lfw/A/A_0001.webp", "A_0001.jpeg",
     "lfw-deepfunneled/lfw-deepfunneled/A/A_0001.jpg"],
)  # fmt: skip
def test_pictures_of_lfw_are_found(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert locate(["A/A_0001", "A/A_0002"], tmp_path) == {"A/A_0001": path}


def test_a_flat_folder_is_for_names_that_say_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    assert locate(["x/1", "y/1"], tmp_path) == {}
    assert locate(["1.jpg"], tmp_path) == {"1.jpg": tmp_path / "1.jpg"}
    with pytest.raises(UsageError, match="no such folder"):
        locate(["1.jpg"], tmp_path / "nosuch")


# --------------------------------------------------------------------------- the command

PEOPLE = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.install(tmp_path_factory.mktemp("models"))


@pytest.fixture
def lfw(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six "people" of four pictures, a pairs.txt of six folds; in A's picture 4 is no face.

    A person is a square of coloured noise, hence a face to the sample detector; the pictures
    of one differ in place, and by noise.
    """
    monkeypatch.setenv("TINYFACE_CACHE", str(models))
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR", "TINYFACE_THREADS", "TINYFACE_ISA"):
        monkeypatch.delenv(name, raising=False)
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
    write(tmp_path / "pairs.txt", "\n".join(lines) + "\n")
    return tmp_path


def test_the_command(lfw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(["evaluate", "pairs.txt", "--root", ".", "--json", "-o", "scores.csv"])
    out, err = capsys.readouterr()
    assert status == 1  # a picture failed
    document = json.loads(out)
    assert document["schema"] == "tinyface.evaluate/1" and document["model"] == "sample"
    assert [f["file"] for f in document["pictures"]["failed"]] == ["A/A_0004"]
    assert document["pictures"]["total"] == 24
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
    assert "sample: 17 pairs of one person, 18 of two, 1 failed (skip), 6 folds" in out
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
    assert "pip install 'tinyface[plot]'" in capsys.readouterr().err
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
