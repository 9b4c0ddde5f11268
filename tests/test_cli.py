"""The command line: what it prints, where, with which exit status, and what it leaves behind."""

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from attacks import ncnn
from command_line import ONE, TWO, leftovers
from PIL import Image

from tinyface import limits, machine, ops
from tinyface.builder import Builder
from tinyface.cli.main import COMMANDS
from tinyface.formats.modelfile import save_model
from tinyface.networks import random_state

pytestmark = pytest.mark.usefixtures("surroundings")


# ---------------------------------------------------------------------- all the commands


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(tinyface: Any, command: str) -> None:
    done = tinyface(command, "--help")
    assert done.status == 0
    assert all(part in done.out for part in ("Example:", f"tinyface {command}", "--json"))


def test_help_and_version(tinyface: Any) -> None:
    done = tinyface("--help")
    assert done.status == 0 and all(command in done.out for command in COMMANDS)
    assert tinyface("--version").out.startswith("tinyface, version ")


@pytest.mark.parametrize(
    "line",
    [
        "nosuch", "embed", "embed --nosuch", "embed one.png -t 0", "embed one.png --backend cuda",
        "embed one.png -m nosuch", "embed one.png -o faces.txt",
        "embed one.png -o no/such/folder/faces.npy", "embed one.png --aligned --all-faces",
        "verify one.png", "verify one.png two.png --fmr 7", "verify one.png two.png --fmr 0.2",
        "align one.png -o one.png", "align one.png -o crops --size 100",
        "detect one.png two.png --draw x.png", "detect one.png --draw x.gif",
        "info nosuch", "models nosuch", "import one.png -o model.pt",
        "bench --isa scalar, --rounds 1",
        "import one.png --mean a,b,c", "import one.png --threshold 0.3",
    ],
)  # fmt: skip
def test_wrong_usage_is_2(tinyface: Any, line: str, tmp_path: Path) -> None:
    done = tinyface(*line.split())
    assert done.status == 2, done.err
    assert done.out == ""
    assert done.err and "Traceback" not in done.err
    assert not leftovers(tmp_path)


def test_a_bad_model_is_3(tinyface: Any) -> None:
    Path("bad.safetensors").write_bytes(b"\xff" * 100)
    for args in (["embed", "one.png", "-m"], ["info"], ["verify", "one.png", "two.png", "-m"]):
        done = tinyface(*args, "bad.safetensors")
        assert done.status == 3
        assert "bad.safetensors" in done.err and done.err.count("\n") == 1
    assert tinyface("embed", "one.png", "-m", "detector").status == 3
    assert tinyface("embed", "one.png", "--detector", "fdfacenet").status == 3


@pytest.mark.parametrize(
    "line, status",
    [
        ("verify one.png nosuch.png", 1),
        ("verify one.png night.png", 1),
        ("embed one.png -m nosuch", 2),
        ("embed one.png --threads none", 2),
        ("embed", 2),
        ("embed one.png two.png -o -", 2),  # prints lines, not one document
        ("bench --rounds 1 -o csv", 2),
        ("bench --rounds 1 -o md", 2),
        ("info broken.jpg", 3),
        ("embed night.png broken.jpg -o faces.npy", 1),
    ],
)
def test_json_says_why_there_is_nothing(tinyface: Any, line: str, status: int) -> None:
    done = tinyface(*line.split(), "--json")
    assert done.status == status
    if done.json["schema"] == "tinyface.error/1":
        assert done.json["status"] == status and done.json["error"] in done.err
    else:  # what failed stands in the command's own
        assert {row["file"] for row in done.json["failed"]} == {"night.png", "broken.jpg"}


def test_json_has_a_schema(tinyface: Any) -> None:
    for args in (
        ["embed", "one.png"], ["verify", "one.png", "two.png"], ["detect", "one.png"],
        ["align", "one.png", "-o", "crops"], ["info", "fdfacenet"], ["doctor"],
    ):  # fmt: skip
        done = tinyface(*args, "--json")
        name, version = done.json["schema"].split("/")
        assert name == f"tinyface.{args[0]}" and int(version) >= 1
        assert done.out.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "detect one.png --draw one.png", "detect one.png --draw folder/../one.png",
        "detect one.png --draw link.png", "import plain.safetensors -o plain.safetensors",
        "profile shared.onnx --html shared.onnx", "evaluate pairs.csv --root . -o pairs.csv",
        "profile fdfacenet --html x.html --picture one.png --png one.png",
        "profile fdfacenet --roofs roofs.json -o roofs.json",
        "evaluate pairs.csv --root . -o one.png", "evaluate pairs.csv --root . --plot link.png",
        "evaluate pairs.csv --root . -m plain.safetensors -o plain.safetensors",
    ],
)  # fmt: skip
def test_what_is_read_is_not_written_over(tinyface: Any, line: str) -> None:
    Path("folder").mkdir()
    Path("link.png").symlink_to("one.png")
    Path("pairs.csv").write_text("a,b,same\none.png,one.png,1\none.png,two.png,0\n")
    for name in ("plain.safetensors", "shared.onnx", "roofs.json"):
        Path(name).write_bytes(b"precious")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    done = tinyface(*line.split())
    assert done.status == 2 and "is what is read" in done.err, done.err
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "line",
    [
        "evaluate pairs.csv --root . -o roc.png --plot roc.png",
        "evaluate pairs.csv --root . -o roc.png --plot folder/../roc.png",
        "evaluate pairs.csv --root . -o there.png --plot link.png",
        "claim --quick --rounds 1 --plot there.png --html link.html",
        "profile fdfacenet --png there.png --html link.html",
    ],
)
def test_two_outputs_are_two_files(tinyface: Any, line: str) -> None:
    Path("folder").mkdir()
    Path("there.png").write_bytes(b"older")
    for link in ("link.png", "link.html"):
        Path(link).symlink_to("there.png")
    Path("pairs.csv").write_text("a,b,same\none.png,one.png,1\none.png,two.png,0\n")
    before = sorted(Path().iterdir())
    done = tinyface(*line.split())
    assert done.status == 2 and "is named for two outputs" in done.err, done.err
    assert sorted(Path().iterdir()) == before and Path("there.png").read_bytes() == b"older"


# ------------------------------------------------------------- verify, detect, align, info


def test_verify(tinyface: Any) -> None:
    done = tinyface("verify", "one.png", "one.png")
    assert done.status == 0 and done.out.startswith("same  cosine=1.0000  threshold=0.5000")
    answer = tinyface("verify", "one.png", "two.png", "--threshold", "1", "--json")
    assert answer.status == 10
    assert answer.json["same"] is False and answer.json["threshold"] == 1
    assert tinyface("verify", "one.png", "night.png").status == 1
    assert tinyface("verify", "one.png", "nosuch.png").status == 1
    assert "night.png: no face" in tinyface("verify", "night.png", "one.png").err


def test_detect(tinyface: Any) -> None:
    done = tinyface("detect", "two.png", "--draw", "marked.png")
    assert done.status == 0
    boxes = {line.split("\t")[1] for line in done.out.splitlines()}
    assert boxes == {"0,0,64,64", "128,64,192,128"}
    with Image.open("marked.png") as image:
        assert image.size == (256, 256) and not np.array_equal(np.asarray(image), TWO)
    faces = tinyface("detect", "two.png", "--json").json["results"][0]["faces"]
    assert len(faces) == 2 and np.shape(faces[0]["landmarks"]) == (5, 2)
    least = min(face["score"] for face in faces)
    assert len(tinyface("detect", "two.png", "--score", str(least - 0.01)).out.splitlines()) == 2
    assert tinyface("detect", "two.png", "--score", "0.999999").status == 1
    assert tinyface("detect", "two.png", "--score", "1").status == 2
    nothing = tinyface("detect", "night.png", "--json")
    assert nothing.status == 1 and nothing.json["results"][0]["faces"] == []
    # what it advises is an option that it has
    assert "--score" in nothing.err and "--aligned" not in nothing.err
    assert "--aligned" not in tinyface("align", "night.png", "-o", "none").err


def test_align(tinyface: Any) -> None:
    Path("other").mkdir()
    samples.save_png(Path("other/two.png"), ONE)
    done = tinyface("align", "two.png", "other/two.png", "-o", "new/crops")
    assert done.out.split() == [
        "new/crops/two_0.png", "new/crops/two_1.png", "new/crops/two-2_0.png",
    ]  # fmt: skip
    with Image.open("new/crops/two_0.png") as crop:
        assert crop.size == (112, 112)
    # where the crops go among the pictures, no picture is lost
    Path("album").mkdir()
    for name in ("two", "two_1"):
        samples.save_png(Path(f"album/{name}.png"), TWO)
    picture = Path("album/two_1.png").read_bytes()
    assert tinyface("align", "album", "-o", "album", "-t", "1").out.split() == [
        "album/two-2_0.png", "album/two-2_1.png", "album/two_1_0.png", "album/two_1_1.png",
    ]  # fmt: skip
    assert Path("album/two_1.png").read_bytes() == picture
    done = tinyface("align", "two.png", "-o", "big", "--size", "224", "--largest", "--json")
    assert [row["crop"] for row in done.json["results"]] == ["big/two_0.png"]


def test_info(tinyface: Any) -> None:
    table = tinyface("info", "fdfacenet").out
    assert "conv1" in table and "bn2" in table and "operators" in table
    plain = tinyface("info", "fdfacenet", "--json").json
    assert plain["card"]["name"] == "sample"
    assert [row["op"] for row in plain["operators"]][:2] == ["conv2d", "prelu"]
    assert plain["total"]["macs"] == sum(row["macs"] for row in plain["operators"])
    assert plain["operators"][0]["macs"] == 8 * 28 * 28 * 3 * 5 * 5
    fused = tinyface("info", "fdfacenet", "--optimised", "--json").json
    assert "batch_norm" not in {row["op"] for row in fused["operators"]}
    network = tinyface("info", "MobileFaceNet", "--json").json
    assert "card" not in network and network["total"]["parameters"] > 900_000
    assert tinyface("models", "mobilefacenet", "--json").json == network


def test_files_of_other_formats_are_looked_at_as_they_are(tinyface: Any) -> None:
    Path("theirs.param").write_text(ncnn.param(ncnn.INPUT, ncnn.CONV))
    Path("theirs.bin").write_bytes(ncnn.WEIGHTS)
    rows = tinyface("info", "theirs.param", "--json").json["operators"]
    assert [row["op"] for row in rows] == ["conv2d"]
    timed = tinyface("bench", "theirs.param", "-t", "1", "--rounds", "1", "--json").json
    assert timed["timings"][0]["network"] == "theirs.param"
    steps = tinyface("profile", "theirs.param", "--runs", "1", "--json").json["operators"]
    assert any(step["macs"] == 2 * 3 * 16 for step in steps)
    assert "conv" in tinyface("predict", "theirs.param", "--device", "pi4").out


@pytest.mark.needs_c
def test_bench_with_the_help_of_numpy(tinyface: Any) -> None:
    """Long slices backwards have no kernel."""
    b = Builder("lonely")
    x = b.conv(b.input("x", (1, 3, 20, 8)), 4, 1, key="conv")
    graph = b.build(b.apply(ops.Slice((2,), (-1,), (-limits.MAX_INDEX,), (-1,)), x))
    _, card = samples.recogniser()
    graph = graph.bind(random_state(graph))
    save_model(Path("lonely.safetensors"), graph, replace(card, task="other", embedding_size=0))
    done = tinyface("bench", "lonely.safetensors", "-t", "1,2", "--rounds", "1", "--json")
    assert [row["threads"] for row in done.json["timings"]] == [1, 2]
    assert {row["backend"] for row in done.json["timings"]} == {"c+numpy"}
    assert done.err.count("NumPy runs what has no C kernel") == 1
    lines = tinyface("bench", "lonely.safetensors", "-t", "1", "--rounds", "1", "-o", "csv").out
    (row,) = csv.DictReader(lines.splitlines())
    assert row["backend"] == "c+numpy" and machine.cpu_name() in row["machine"] and "warning" in row


def test_models(tinyface: Any) -> None:
    done = tinyface("models", "--json").json
    assert {"fdfacenet", "detector"} <= {row["name"] for row in done["weights"]}
    by_name = {row["name"]: row for row in done["networks"]}
    assert by_name["fdfacenet"]["status"] == "pinned"
    assert by_name["fdfacenet"]["macs"] == pytest.approx(130e6, rel=0.01)  # Table 7: 130 M


@pytest.mark.needs_c
@pytest.mark.parametrize("wrong", ["was not built", "cannot be loaded (too old)"])
def test_the_slower_engine_is_spoken_of(
    tinyface: Any, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr("tinyface.backends.c._engine", None)
    monkeypatch.setattr("tinyface.backends.c._wrong", wrong)
    done = tinyface("embed", "one.png")
    assert done.status == 0 and "NumPy runs" in done.err
    assert f"the C engine {wrong}: " in done.err
    assert tinyface("embed", "one.png", "--backend", "numpy").err == ""
    assert f"everything is slow here, because the C engine {wrong}" in tinyface("doctor").err


def test_doctor(tinyface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tinyface("doctor", "--json")
    report = done.json
    assert report["models"]["recogniser"]["licence"] == "CC0-1.0"
    assert report["engine"]["backend"] in ("c", "numpy")
    assert report["packages"]["numpy"] == np.__version__
    assert (done.status == 0) == (report["engine"]["backend"] == "c")
    monkeypatch.setenv("TINYFACE_DETECTOR", "fdfacenet")  # which finds no faces
    done = tinyface("doctor")
    assert done.status == 1 and "name another in TINYFACE_DETECTOR" in done.err


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_name_of_two_lines_stays_in_one(tinyface: Any) -> None:
    Path("two\nlines.png").write_bytes(Path("one.png").read_bytes())
    Path("bad\nlines.png").write_bytes(b"no picture")
    for command in ("embed", "detect"):
        done = tinyface(command, "two\nlines.png", "bad\nlines.png")
        assert done.status == 1
        assert done.out.startswith("two\\nlines.png") and done.out.count("\n") == 1
        assert [line.split(".png")[0] for line in done.err.splitlines()[:1]] == ["bad\\nlines"]
