"""``tinyface embed``: what it prints and writes, and what becomes of bad pictures."""

import csv
import errno
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import samples
from command_line import ONE, leftovers
from PIL import Image

from tinyface import detect, modelstore
from tinyface.cli.writers import Npy, Row

pytestmark = pytest.mark.usefixtures("surroundings")


def test_embed_one(tinyface: Any) -> None:
    done = tinyface("embed", "one.png")
    assert done.status == 0
    assert done.out.startswith("one.png: face 0 at 64,128 64x64") and "16 values" in done.out
    assert done.out.count("\n") == 1


def test_which_of_several_faces_is_taken_is_said(tinyface: Any) -> None:
    done = tinyface("embed", "one.png", "two.png", "--json")
    assert done.err == "two.png: 2 faces; the largest is taken, at 0,0 64x64\n"
    assert [row["of"] for row in done.json["results"]] == [1, 2]
    assert tinyface("embed", "two.png", "--all-faces").err == ""
    done = tinyface("verify", "one.png", "two.png", "--json")
    assert "two.png: 2 faces" in done.err and "one.png" not in done.err
    assert [(f["of"], f["box"][:2]) for f in done.json["faces"]] == [(1, [64, 128]), (2, [0, 0])]
    done = tinyface("verify", "one.png", "one.png", "--aligned", "--json")
    assert "faces" not in done.json


def test_embed_prints_the_vector_when_asked(tinyface: Any) -> None:
    import tinyface as package

    expected = package.load().embed(ONE)
    row = tinyface("embed", "one.png", "--json").json["results"][0]
    np.testing.assert_array_equal(np.float32(row["embedding"]), expected)
    assert row["file"] == "one.png" and row["face"] == 0
    line = tinyface("embed", "one.png", "-o", "-").json
    np.testing.assert_array_equal(np.float32(line["embedding"]), expected)
    assert line["schema"] == "tinyface.embed/1"


def test_one_bad_picture_does_not_end_the_batch(tinyface: Any, tmp_path: Path) -> None:
    done = tinyface("embed", ".", "nosuch.png", "-o", "faces.npz", "--json")
    assert done.status == 1
    for bad in ("broken.jpg", "night.png", "nosuch.png"):
        assert done.err.count(f"{bad}: ") == 1
    assert "3 of 5 inputs failed" in done.err
    assert {row["file"] for row in done.json["failed"]} == {
        "broken.jpg", "night.png", "nosuch.png",
    }  # fmt: skip
    assert [(r["row"], r["file"]) for r in done.json["results"]] == [(0, "one.png"), (1, "two.png")]
    with np.load("faces.npz", allow_pickle=False) as stored:
        assert stored["files"].tolist() == ["one.png", "two.png"]
        assert stored["embeddings"].shape == (2, 16)
        assert stored["embeddings"].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(stored["embeddings"], axis=1), 1, atol=1e-6)
    assert not leftovers(tmp_path)


def test_output_formats_agree(tinyface: Any) -> None:
    for suffix in ("npy", "npz", "csv", "jsonl"):
        done = tinyface("embed", "one.png", "two.png", "--all-faces", "-o", f"faces.{suffix}")
        assert (done.status, done.out) == (0, "")
        assert f"faces.{suffix}: 3 embeddings" in done.err
    expected = np.load("faces.npy", allow_pickle=False)
    assert expected.shape == (3, 16) and expected.dtype == np.float32
    with np.load("faces.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["embeddings"], expected)
        assert stored["faces"].tolist() == [0, 0, 1] and stored["boxes"].shape == (3, 4)
        assert str(stored["model"]) == "sample"
    with open("faces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [[float(row[f"e{i}"]) for i in range(16)] for row in rows]
    np.testing.assert_array_equal(np.float32(values), expected)
    assert [row["file"] for row in rows] == ["one.png", "two.png", "two.png"]
    assert float(rows[0]["left"]) == 64
    lines = [json.loads(line) for line in Path("faces.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.float32([line["embedding"] for line in lines]), expected)


def test_boxes_are_exact_in_a_file_and_whole_on_the_screen(tinyface: Any) -> None:
    picture = Image.fromarray(samples.picture((0, 0), (2, 1), size=(640, 640)))
    picture.resize((645, 645), Image.Resampling.NEAREST).save("big.png")
    tinyface("embed", "big.png", "--all-faces", "-o", "faces.npz")
    boxes = np.array([face.box for face in detect("big.png")])
    assert (boxes % 1).any()
    with np.load("faces.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["boxes"], boxes)
    shown = [line.split("\t")[1] for line in tinyface("detect", "big.png").out.splitlines()]
    assert shown == [",".join(map(str, box.round().astype(int))) for box in boxes]


def test_jsonl_names_what_failed(tinyface: Any) -> None:
    assert tinyface("embed", "one.png", "broken.jpg", "-o", "faces.jsonl").status == 1
    lines = [json.loads(line) for line in Path("faces.jsonl").read_text().splitlines()]
    assert lines[1]["file"] == "broken.jpg" and "damaged" in lines[1]["error"]


def test_nothing_is_written_where_nothing_was_embedded(tinyface: Any, tmp_path: Path) -> None:
    Path("faces.npy").write_text("older")
    done = tinyface("embed", "broken.jpg", "night.png", "-o", "faces.npy")
    assert done.status == 1
    assert "faces.npy is not written" in done.err
    assert Path("faces.npy").read_text() == "older"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "jsonl"])
def test_what_cannot_be_written_is_said_in_one_document(
    tinyface: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = tinyface("embed", "one.png", "-o", f"faces.{suffix}", "--json")
    assert done.status == 1 and done.json["schema"] == "tinyface.error/1"
    assert not Path(f"faces.{suffix}").exists() and not leftovers(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no such limit there")
def test_the_last_bytes_of_an_array_are_missed() -> None:
    """A file that may not grow beyond NumPy's header stands for a full disk."""
    import resource

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="large"), open("faces.npy", "wb") as stream:
        writer = Npy(stream, SimpleNamespace(fingerprint=""))  # type: ignore[arg-type]
        writer.write(Row("one.png", 0, None, np.zeros(16, np.float32)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, usual[1]))
        try:
            writer.finish({})
            stream.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_aligned(tinyface: Any) -> None:
    assert tinyface("align", "two.png", "-o", "crops").status == 0
    done = tinyface("embed", "crops", "--aligned", "--json").json["results"]
    direct = tinyface("embed", "two.png", "--all-faces", "--json").json["results"]
    for a, b in zip(done, direct, strict=True):
        np.testing.assert_allclose(a["embedding"], b["embedding"], atol=1e-6)
    assert "box" not in done[0]
    # a picture without a face is fine, because nothing is detected
    assert tinyface("embed", "night.png", "--aligned").status == 0


def test_standard_input(tinyface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(Path("one.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    row = tinyface("embed", "-", "--json").json["results"][0]
    assert row["file"] == "-"
    assert (
        row["embedding"] == tinyface("embed", "one.png", "--json").json["results"][0]["embedding"]
    )


def test_folders_are_searched_when_asked(tinyface: Any) -> None:
    Path("a/b").mkdir(parents=True)
    samples.save_png(Path("a/b/deep.png"), ONE)
    done = tinyface("embed", "a")
    assert done.status == 1 and "no picture in this directory" in done.err
    assert tinyface("embed", "a", "-r").out.startswith("a/b/deep.png: ")


def test_what_is_not_there_is_named_once_as_it_was_written(tinyface: Any) -> None:
    Path("bare").mkdir()
    for name in ("./gone.jpg", "bare/", ".//gone/", "gone.jpg"):
        done = tinyface("embed", name)
        assert done.status == 1 and done.err.startswith(f"{name}: no ")
        assert done.err.count(name.strip("./")) == 1


def test_odd_names(tinyface: Any) -> None:
    for name in ("Zoë Müller.png", "-dash.png", "a,b\"c'.png", "[bold]x.png", "新.png"):
        samples.save_png(Path(name), ONE)
        argument = f"./{name}"
        assert tinyface("embed", argument, "-o", "out.csv").status == 0
        with open("out.csv", newline="", encoding="utf-8") as file:
            assert next(csv.DictReader(file))["file"] == argument
    raw = os.fsdecode(b"caf\xe9.png")  # not UTF-8
    samples.save_png(Path(raw), ONE)
    assert tinyface("embed", raw).status == 0
    assert tinyface("embed", raw, "-o", "out.jsonl").status == 0
    assert json.loads(Path("out.jsonl").read_text())["file"] == raw
    assert tinyface("embed", raw, "-o", "out.csv").status == 0
    assert tinyface("embed", raw, "-o", "out.npz").status == 0


def test_without_weights_it_says_how_to_import_some(
    tinyface: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(modelstore, "packaged_folder", lambda: tmp_path / "none")
    done = tinyface("embed", "one.png")
    assert done.status == 2
    assert "tinyface import" in done.err and done.err.count("\n") == 1
    report = tinyface("doctor")
    assert report.status == 1 and "tinyface import" in report.err


def test_a_checkpoint_given_as_a_model_says_what_to_do(tinyface: Any) -> None:
    torch_file = Path("weights.pt")
    torch_file.write_bytes(b"PK\3\4 and so on")
    for name, what, advice in (
        (str(torch_file), "a PyTorch checkpoint", "tinyface import weights.pt"),
        ("one.png", "no format", "tinyface models"),  # import would not take it either
    ):
        done = tinyface("embed", "one.png", "-m", name)
        assert done.status == 3 and what in done.err and advice in done.err
