"""What an option says reaches the work: folders, models, engine; and forms of what is printed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples

from tinyface.cli import models
from tinyface.cli.common import place, print_json
from tinyface.vision import image
from tinyface.vision.detect import Face

pytestmark = pytest.mark.usefixtures("surroundings")


@pytest.mark.parametrize("line", ["detect a", "align a -o crops", "search one.png a"])
def test_every_command_looks_into_folders_inside_folders(tinyface: Any, line: str) -> None:
    Path("a/b").mkdir(parents=True)
    samples.save_png(Path("a/b/deep.png"), samples.picture((1, 2)))
    assert tinyface(*line.split()).status == 1
    done = tinyface(*line.split(), "-r")
    assert done.status == 0 and "deep" in done.out


def test_an_empty_name_is_not_the_current_folder(tinyface: Any) -> None:
    """As a script gives it, whose variable is not set."""
    for line in (["embed"], ["detect"], ["align", "-o", "crops"]):
        done = tinyface(*line, "")
        assert done.status == 1 and done.out == ""
        assert done.err == '"": no such file or directory; check the spelling\n'
    done = tinyface("align", "one.png", "-o", "")
    assert done.status == 2 and "name a folder for the crops" in done.err
    assert not Path("one_0.png").exists()
    Path("pairs.csv").write_text("a,b,same\none.png,one.png,1\none.png,two.png,0\n")
    assert tinyface("evaluate", "pairs.csv", "--root", "").status == 2


@pytest.mark.parametrize(
    "line",
    ["detect one.png", "align one.png -o crops", "verify one.png two.png",
     "search one.png two.png", "embed one.png"],
)  # fmt: skip
def test_the_detector_that_is_named_is_taken(tinyface: Any, line: str) -> None:
    assert tinyface(*line.split(), "--detector", "nosuch").status == 2
    assert tinyface(*line.split(), "--detector", "fdfacenet").status == 3  # no detector


@pytest.mark.parametrize(
    "line",
    ["embed one.png", "verify one.png two.png", "search one.png two.png",
     "evaluate pairs.csv --root ."],
)  # fmt: skip
def test_engine_and_weights_reach_the_model(
    tinyface: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pairs.csv").write_text("a,b,same,fold\none.png,one.png,1,0\none.png,two.png,0,1\n")
    asked: list[tuple[Any, ...]] = []

    def load(*args: Any) -> None:
        asked.append(args)
        raise MemoryError

    monkeypatch.setattr("tinyface.model.load", load)
    options = ["-m", "M", "--detector", "D", "--backend", "numpy", "-t", "3", "--weights", "fp16"]
    assert tinyface(*line.split(), *options).status == 1
    assert asked == [("M", "numpy", 3, "D", "fp16")]


def test_a_picture_too_large_for_memory_does_not_end_the_batch(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image.read_image

    def read(source: str) -> Any:
        if source == "one.png":
            raise MemoryError
        return whole(source)

    monkeypatch.setattr(image, "read_image", read)
    done = tinyface("detect", "one.png", "two.png")
    assert done.status == 1 and "one.png: too large" in done.err and "two.png\t" in done.out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are counted otherwise")
def test_a_name_may_be_as_long_as_names_can_be(tinyface: Any) -> None:
    """255 bytes; letters of other scripts take several."""
    names = ["n" * 251 + ".png", "n" * 250 + "m.png", "ã" * 125 + "n.png"]
    for name in names:
        Path(name).write_bytes(Path("one.png").read_bytes())
    done = tinyface("align", *names, "one.png", "-o", "crops")
    assert done.status == 0, done.err
    assert [Path(line).name for line in done.out.splitlines()] == [
        f"{'n' * 200}_0.png", f"{'n' * 200}-2_0.png", f"{'ã' * 100}_0.png", "one_0.png",
    ]  # fmt: skip
    output = "ã" * 125 + ".npy"
    assert tinyface("embed", "one.png", "-o", output).status == 0 and Path(output).is_file()


# ------------------------------------------------------------------------ what is printed


def test_the_place_of_a_face_is_width_by_height() -> None:
    assert place(Face(np.array([1.0, 2, 11.4, 32]), 0.9, np.zeros((5, 2)))) == "1,2 10x30"


def test_json_is_json_on_a_terminal_of_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "latin-1", "backslashreplace"))
    print_json("x/1", {"file": "é😀.png"})
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode("latin-1"))["file"] == "é😀.png"


def test_bytes_read_and_written_stand_in_their_columns(tinyface: Any) -> None:
    row = tinyface("info", "fdfacenet", "--json").json["operators"][0]
    lines = tinyface("info", "fdfacenet").out.splitlines()
    (line,) = (line for line in lines if line.split()[:1] == [row["name"]])
    keys = ("feature_read_bytes", "feature_write_bytes", "weight_bytes")
    assert line.split()[-3:] == [f"{row[key]:,}" for key in keys]


def test_both_sums_of_feature_maps_are_listed(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(U), with norms as layers of their own, before (Z), with norms folded."""
    row = {
        "name": "net", "parameters": 1, "macs": 2, "fmap_unfused_bytes": 4000,
        "fmap_folded_bytes": 3000, "published": {}, "status": "public", "source": "paper",
    }  # fmt: skip
    monkeypatch.setattr(models, "network_rows", lambda: [row])
    header, _, line = tinyface("models", "--networks").out.splitlines()
    assert header.index("F (U)") < header.index("F (Z)")
    assert line.split() == ["net", "1", "2", "4", "kB", "3", "kB", "-", "public", "paper"]
