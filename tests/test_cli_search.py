"""``tinyface search``: ranks faces in pictures and in files of embeddings."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples

from tinyface import modelstore
from tinyface.formats.modelfile import save_model
from tinyface.model import load

pytestmark = pytest.mark.usefixtures("surroundings")
FACES = [("copy.png", 0), ("two.png", 0), ("two.png", 1)]


@pytest.fixture(autouse=True)
def copy(surroundings: None) -> None:
    """Of one.png, which is the only picture of the same "person"."""
    shutil.copy("one.png", "copy.png")


def test_all_faces_of_a_folder_are_ranked(tinyface: Any) -> None:
    done = tinyface("search", "one.png", ".", "--json")
    assert done.status == 1 and "broken.jpg" in done.err  # a picture that failed
    found = done.json
    assert [row["file"] for row in found["failed"]] == ["broken.jpg"]
    assert sorted((row["file"], row["face"]) for row in found["results"]) == FACES
    cosines = [row["cosine"] for row in found["results"]]
    assert cosines == sorted(cosines, reverse=True) and cosines[0] == pytest.approx(1)
    assert found["results"][0]["file"] == "copy.png" and found["results"][0]["same"]
    assert (found["threshold"], found["fmr"], found["compared"]) == (0.5, 1e-3, 3)
    assert found["query"]["box"] == [64, 128, 128, 192]
    pair = tinyface("verify", "one.png", "two.png", "--json").json
    assert min(abs(pair["cosine"] - c) for c in cosines) < 1e-6
    assert "3 faces in 3 pictures, no face in 1 of them; threshold 0.5000" in done.err


def test_lines_for_people_and_the_status(tinyface: Any) -> None:
    done = tinyface(
        "search", "one.png", "copy.png", "two.png", "--top", "2", "--threshold", "0.999"
    )
    first, second = done.out.splitlines()
    assert done.status == 0
    assert first == "same        1.0000  copy.png: face 0 at 64,128 64x64"
    assert second.startswith("different") and "two.png: face " in second
    assert "threshold 0.9990 (yours, sample)" in done.err
    assert tinyface("search", "one.png", "two.png", "--threshold", "0.999").status == 10
    assert tinyface("search", "one.png", "one.png", "two.png", "--json").json["compared"] == 2
    done = tinyface("search", "two.png", "one.png", "--fmr", "1e-2")
    assert "two.png: 2 faces; the largest is taken" in done.err and "threshold 0.3000" in done.err


@pytest.mark.parametrize("suffix", ["npz", "jsonl"])
def test_a_file_of_embeddings_stands_for_its_pictures(tinyface: Any, suffix: str) -> None:
    pictures = ("one.png", "copy.png", "two.png", "night.png")
    tinyface("embed", *pictures, "--all-faces", "-o", f"faces.{suffix}")
    there = tinyface("search", "one.png", *pictures, "--json").json["results"]
    done = tinyface("search", "one.png", f"faces.{suffix}", "--json")
    assert done.status == 0
    for row, expected in zip(done.json["results"], there, strict=True):
        assert row.pop("cosine") == pytest.approx(expected.pop("cosine"), abs=1e-6)
        assert {**row, "score": 0} == {**expected, "score": 0}
    assert "3 faces in 2 pictures" in done.err  # one.png is not counted
    both = tinyface("search", "one.png", f"faces.{suffix}", "two.png", "--json").json
    assert both["compared"] == 5


def test_a_file_of_embeddings_keeps_how_a_picture_lay(tinyface: Any) -> None:
    tinyface("embed", "two.png", "--all-faces", "-o", "faces.npz")
    arrays = dict(np.load("faces.npz"))
    np.savez("faces.npz", **arrays | {"turned": np.array([90, 180])})
    found = tinyface("search", "one.png", "faces.npz", "--json").json["results"]
    assert {row["face"]: row["turned"] for row in found} == {0: 90, 1: 180}


def test_a_face_at_the_threshold_is_found(tinyface: Any) -> None:
    line = ("search", "one.png", "two.png", "--top", "1", "--json")
    (row,) = tinyface(*line).json["results"]
    done = tinyface(*line, "--threshold", repr(row["cosine"]))
    assert done.json["results"][0]["same"] and done.status == 0


def test_a_picture_of_the_same_name_is_not_the_query(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras call them alike: the file may have been written in another folder."""
    Path("other").mkdir()
    shutil.copy("two.png", "other/one.png")
    tinyface("embed", "one.png", "two.png", "--all-faces", "-o", "faces.npz")
    assert tinyface("search", "one.png", "faces.npz", "--json").json["compared"] == 2
    monkeypatch.chdir("other")
    assert tinyface("search", "one.png", "../faces.npz", "--json").json["compared"] == 3


def test_aligned_crops_have_no_place(tinyface: Any) -> None:
    tinyface("align", "copy.png", "-o", "crops")
    for suffix in ("npz", "jsonl"):
        tinyface("embed", "crops", "--aligned", "-o", f"faces.{suffix}")
        assert tinyface("search", "one.png", f"faces.{suffix}").out == (
            f"same        1.0000  {Path('crops/copy_0.png')}: aligned crop\n"
        )


def test_how_many_would_pass_by_chance_is_said(tinyface: Any) -> None:
    tinyface("embed", "two.png", "--all-faces", "-o", "two.jsonl")
    Path("many.jsonl").write_text(Path("two.jsonl").read_text() * 100)
    done = tinyface("search", "one.png", "many.jsonl", "--fmr", "1e-2")
    assert "200 faces in 1 picture;" in done.err and "other people 2 would be above it" in done.err


def test_a_model_without_thresholds_ranks_all_the_same(tinyface: Any) -> None:
    graph, card = samples.recogniser()
    save_model("plain.safetensors", graph, replace(card, thresholds={}))
    done = tinyface("search", "one.png", "copy.png", "-m", "plain.safetensors")
    assert (done.status, done.out) == (0, " 1.0000  copy.png: face 0 at 64,128 64x64\n")
    assert "carries no threshold" in done.err
    options = ("-m", "plain.safetensors", "--fmr", "1e-3")
    assert tinyface("search", "one.png", "copy.png", *options).status == 2


def test_what_cannot_be_searched(tinyface: Any) -> None:
    done = tinyface("search", "night.png", "one.png")
    assert done.status == 1 and "no face found" in done.err and "--aligned" not in done.err
    assert tinyface("search", "one.png", "two.png", "--fmr", "1e-3", "--threshold", "1").status == 2
    for suffix in ("npy", "csv"):
        tinyface("embed", "two.png", "-o", f"faces.{suffix}")
        done = tinyface("search", "one.png", f"faces.{suffix}")
        assert done.status == 2 and "embed -o FILE.npz" in done.err
    tinyface("embed", "two.png", "-o", "faces.npz")
    graph, card = samples.recogniser(seed=1)
    save_model("other.safetensors", graph, replace(card, name="other"))
    done = tinyface("search", "one.png", "faces.npz", "-m", "other.safetensors")
    assert done.status == 2 and "of the model 'sample', not 'other'" in done.err


@pytest.mark.parametrize("suffix", ["npz", "jsonl"])
def test_other_weights_of_the_same_name_are_not_compared(tinyface: Any, suffix: str) -> None:
    """A model trained again, or of a newer version, has embeddings of its own."""
    tinyface("embed", "one.png", "two.png", "-o", f"faces.{suffix}")
    graph, card = samples.recogniser()
    for model, preprocess in (
        (samples.recogniser(seed=1)[0], card.preprocess),
        (graph, replace(card.preprocess, colour="bgr")),
    ):
        save_model("again.safetensors", model, replace(card, preprocess=preprocess))
        done = tinyface("search", "one.png", f"faces.{suffix}", "-m", "again.safetensors")
        assert done.status == 2 and "other weights than those that 'sample' has here" in done.err
    save_model("same.safetensors", graph, replace(card, thresholds={}))
    assert tinyface("search", "one.png", f"faces.{suffix}", "-m", "same.safetensors").status == 0
    if suffix == "jsonl":  # as versions before wrote it
        rows = [json.loads(line) for line in Path("faces.jsonl").read_text().splitlines()]
        assert [row.pop("fingerprint") for row in rows] == [
            load("same.safetensors").fingerprint
        ] * 2
        Path("old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert tinyface("search", "one.png", "old.jsonl", "-m", "same.safetensors").status == 0


def archive(**changes: Any) -> bytes:
    """What ``embed -o x.npz`` writes of one face, but for the changes; None leaves out."""
    good = {
        "embeddings": np.ones((1, 16), np.float32), "files": np.array(["a.png"]),
        "faces": np.array([0]), "scores": np.ones(1), "boxes": np.ones((1, 4)),
        "landmarks": np.ones((1, 5, 2)), "model": np.array("sample"),
    }  # fmt: skip
    stream = io.BytesIO()
    np.savez(stream, **{k: v for k, v in {**good, **changes}.items() if v is not None})
    return stream.getvalue()


def bomb() -> bytes:
    """A member that says of itself that it is 3 GiB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("embeddings.npy", bytes(1000))
        file.infolist()[0].file_size = 3 << 30
    return stream.getvalue()


def boastful() -> bytes:
    """A member whose header says that it holds 128 GB."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (2 * 10**9, 16)}
    )
    return member(stream.getvalue() + bytes(64))


def headed(header: bytes) -> bytes:
    """A member whose header, a dictionary as Python writes it, is none."""
    return member(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))


def member(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("embeddings.npy", content)
    return packed.getvalue()


LINE = {"schema": "tinyface.embed/1", "model": "sample", "file": "a", "face": 0}
GOOD = {**LINE, "embedding": [1.0] * 16}
BAD: dict[str, bytes] = {
    "empty.npz": b"",
    "text.npz": b"nothing",
    "cut.npz": archive()[:-50],
    "bomb.npz": bomb(),
    "boastful.npz": boastful(),
    "unclosed.npz": headed(b"{'descr': (\n"),
    "broken.npz": headed(b"{,}\n"),
    "nested.npz": headed(b"(" * 9000),
    "objects.npz": archive(files=np.array([print], object)),
    "missing.npz": archive(boxes=None),
    "model.npz": archive(model=None),
    "few.npz": archive(files=np.array(["a", "b"])),
    "wide.npz": archive(embeddings=np.ones((1, 17), np.float32)),
    "flat.npz": archive(embeddings=np.float32(1)),
    "nan.npz": archive(embeddings=np.full((1, 16), np.nan, np.float32)),
    "texts.npz": archive(scores=np.array(["a"])),
    "boxes.npz": archive(boxes=np.ones((1, 3))),
    "text.jsonl": b"nothing\n",
    "list.jsonl": b"[]\n",
    "schema.jsonl": json.dumps({**GOOD, "schema": "x"}).encode(),
    "vector.jsonl": json.dumps({**GOOD, "embedding": "abc"}).encode(),
    "short.jsonl": json.dumps({**GOOD, "embedding": [1.0]}).encode(),
    "ragged.jsonl": json.dumps({**GOOD, "embedding": [[1.0], 2]}).encode(),
    "large.jsonl": json.dumps({**GOOD, "embedding": [1e300] * 16}).encode(),
    "face.jsonl": json.dumps({**GOOD, "face": "x"}).encode(),
    "box.jsonl": json.dumps({**GOOD, "box": [1]}).encode(),
    "nothing.jsonl": json.dumps(LINE).encode(),
    "deep.jsonl": b"[" * 100_000,
    "long.jsonl": b" " * (5 << 20),
    "bytes.jsonl": b"\xff\xfe\n",
}


def test_no_array_is_made_for_what_a_header_claims(tinyface: Any) -> None:
    Path("x.npz").write_bytes(boastful())
    done = tinyface("search", "one.png", "x.npz")
    assert "(2000000000, 16), of which the file holds a part" in done.err


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("error")
def test_files_of_others_are_refused_in_one_line(tinyface: Any, name: str) -> None:
    Path(name).write_bytes(BAD[name])
    done = tinyface("search", "one.png", name)
    assert done.status == 2 and done.out == ""
    assert done.err.startswith(f"tinyface: {name}") and done.err.count("\n") == 1


def test_a_file_that_is_not_there(tinyface: Any) -> None:
    done = tinyface("search", "one.png", "nosuch.npz")
    assert done.status == 2 and "nosuch.npz: no such file" in done.err


def test_names_with_control_characters_are_escaped(tinyface: Any) -> None:
    Path("odd.npz").write_bytes(archive(files=np.array(["\x1b[2J"])))
    assert "\x1b" not in tinyface("search", "one.png", "odd.npz").out
    assert modelstore.default("embed").stem == "fdfacenet"


def test_the_query_alone_is_nothing_to_search(tinyface: Any) -> None:
    done = tinyface("search", "one.png", "one.png")
    assert "0 faces in 0 pictures (QUERY itself is left out)" in done.err
