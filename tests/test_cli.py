"""The command line: what it prints, where, with which exit status, and what it leaves behind."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from attacks import ncnn
from PIL import Image

from tinyface import limits, modelstore, ops
from tinyface.backends import c as engine
from tinyface.builder import Builder
from tinyface.cli.main import COMMANDS, run
from tinyface.formats.modelfile import save_model
from tinyface.networks import random_state

ONE = samples.picture((1, 2))
TWO = samples.picture((0, 0), (2, 1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.install(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def surroundings(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own, with pictures; the sample models and no others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYFACE_CACHE", str(models))
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR", "TINYFACE_THREADS", "TINYFACE_ISA"):
        monkeypatch.delenv(name, raising=False)
    samples.save_png(tmp_path / "one.png", ONE)
    samples.save_png(tmp_path / "two.png", TWO)
    samples.save_png(tmp_path / "night.png", samples.picture())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")


class Outcome:
    """What a command did."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *args: str) -> None:
        capsys.readouterr()
        self.status = run(args)
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def tinyface(capsys: pytest.CaptureFixture[str]) -> Any:
    """``tinyface("embed", "one.png")`` runs that command line."""
    return lambda *args: Outcome(capsys, *map(str, args))


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".") or ".part" in p.name]


# ---------------------------------------------------------------------- all the commands


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(tinyface: Any, command: str) -> None:
    done = tinyface(command, "--help")
    assert done.status == 0
    assert f"Example:\n    tinyface {command}" in done.out or f"tinyface {command}" in done.out
    assert "--json" in done.out
    assert "Example:" in done.out


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


def test_json_has_a_schema(tinyface: Any) -> None:
    for args in (
        ["embed", "one.png"], ["verify", "one.png", "two.png"], ["detect", "one.png"],
        ["align", "one.png", "-o", "crops"], ["info", "fdfacenet"], ["doctor"],
    ):  # fmt: skip
        done = tinyface(*args, "--json")
        name, version = done.json["schema"].split("/")
        assert name == f"tinyface.{args[0]}" and int(version) >= 1
        assert done.out.count("\n") == 1


# --------------------------------------------------------------------------------- embed


def test_embed_one(tinyface: Any) -> None:
    done = tinyface("embed", "one.png")
    assert done.status == 0
    assert done.out.startswith("one.png: face 0 at 64,128 64x64") and "16 values" in done.out
    assert done.out.count("\n") == 1


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


# ----------------------------------------------------- verify, detect, align, info, import


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


def test_align(tinyface: Any) -> None:
    Path("other").mkdir()
    samples.save_png(Path("other/two.png"), ONE)
    done = tinyface("align", "two.png", "other/two.png", "-o", "new/crops")
    assert done.out.split() == [
        "new/crops/two_0.png", "new/crops/two_1.png", "new/crops/two-2_0.png",
    ]  # fmt: skip
    with Image.open("new/crops/two_0.png") as crop:
        assert crop.size == (112, 112)
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


@pytest.mark.skipif(not engine.available(), reason="the C engine was not built")
def test_bench_with_the_help_of_numpy(tinyface: Any) -> None:
    """Slices backwards have no kernel."""
    b = Builder("lonely")
    x = b.conv(b.input("x", (1, 3, 8, 8)), 4, 1, key="conv")
    graph = b.build(b.apply(ops.Slice((2,), (-1,), (-limits.MAX_INDEX,), (-1,)), x))
    _, card = samples.recogniser()
    graph = graph.bind(random_state(graph))
    save_model(Path("lonely.safetensors"), graph, replace(card, task="other", embedding_size=0))
    done = tinyface("bench", "lonely.safetensors", "-t", "1,2", "--rounds", "1", "--json")
    assert [row["threads"] for row in done.json["timings"]] == [1, 2]
    assert done.err.count("NumPy runs what has no C kernel") == 1


def test_models(tinyface: Any) -> None:
    done = tinyface("models", "--json").json
    assert {"fdfacenet", "detector"} <= {row["name"] for row in done["weights"]}
    by_name = {row["name"]: row for row in done["networks"]}
    assert by_name["fdfacenet"]["status"] == "pinned"
    assert by_name["fdfacenet"]["macs"] == pytest.approx(130e6, rel=0.01)  # Table 7: 130 M


def test_doctor(tinyface: Any) -> None:
    done = tinyface("doctor", "--json")
    report = done.json
    assert report["models"]["recogniser"]["licence"] == "CC0-1.0"
    assert report["engine"]["backend"] in ("c", "numpy")
    assert report["packages"]["numpy"] == np.__version__
    assert (done.status == 0) == (report["engine"]["backend"] == "c")


def test_import(tinyface: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    from tinyface.networks import find, random_state

    save_file(random_state(find("mobilefacenet-relu6").build()), "weights.bin")
    options = ("--network", "mobilefacenet-relu6", "--threshold", "1e-3=0.25")
    done = tinyface("import", "weights.bin", *options, "-o", "mine.safetensors", "--half")
    assert (done.status, done.out) == (0, "mine.safetensors\n")
    assert "mobilefacenet-relu6" in done.err
    card = tinyface("info", "mine.safetensors", "--json").json["card"]
    assert card["thresholds"] == {"1e-3": 0.25}
    assert tinyface("embed", "one.png", "-m", "mine.safetensors").status == 0
    # without -o it goes where it is found by name
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "new" / "folder"))
    done = tinyface("import", "weights.bin", *options, "--name", "mine", "--json")
    assert done.json["model"] == str(tmp_path / "new" / "folder" / "mine.safetensors")
    assert tinyface("embed", "one.png", "--aligned").status == 0


def test_import_refuses(tinyface: Any, tmp_path: Path) -> None:
    import pickle

    Path("evil.pth").write_bytes(pickle.dumps({"weight": os.system}))
    for name in ("evil.pth", "one.png", "nosuch.pth"):
        done = tinyface("import", name, "-o", "out.safetensors")
        assert done.status in (2, 3) and name in done.err and done.out == ""
        assert done.err.count("\n") == 1
    assert not Path("out.safetensors").exists() and not leftovers(tmp_path)


def test_import_takes_the_size_that_a_file_leaves_open(tinyface: Any) -> None:
    """The layer has a weight for every pixel of 3 channels, so it fits one size only."""
    from tests.attacks import ncnn

    layer = "InnerProduct fc 1 1 in out 0=2 2=96"
    Path("x.param").write_text(ncnn.param("Input in 0 1 in", layer))
    Path("x.bin").write_bytes(ncnn.tagged(np.arange(96.0)))
    done = tinyface("import", "x.param", "-o", "x.safetensors", "--size", "8x2")
    assert done.status == 0 and "taken is (x - 127.5)" in done.err
    card = tinyface("info", "x.safetensors", "--json").json["card"]
    assert (card["preprocess"]["height"], card["preprocess"]["width"]) == (8, 2)
    assert tinyface("import", "x.param", "-o", "y.safetensors").status == 3
    for size in ("8", "0x2", "8x2x3", "ax2", "8x99999"):
        assert tinyface("import", "x.param", "--size", size).status == 2


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_name_of_two_lines_stays_in_one(tinyface: Any) -> None:
    Path("two\nlines.png").write_bytes(Path("one.png").read_bytes())
    Path("bad\nlines.png").write_bytes(b"no picture")
    for command in ("embed", "detect"):
        done = tinyface(command, "two\nlines.png", "bad\nlines.png")
        assert done.status == 1
        assert done.out.startswith("two\\nlines.png") and done.out.count("\n") == 1
        assert [line.split(".png")[0] for line in done.err.splitlines()[:1]] == ["bad\\nlines"]


def test_a_checkpoint_given_as_a_model_says_what_to_do(tinyface: Any) -> None:
    torch_file = Path("weights.pt")
    torch_file.write_bytes(b"PK\3\4 and so on")
    for name, what in ((str(torch_file), "a PyTorch checkpoint"), ("one.png", "no format")):
        done = tinyface("embed", "one.png", "-m", name)
        assert done.status == 3 and what in done.err and f"tinyface import {name}" in done.err


# ---------------------------------------------------------------------- as a process


def spawn(*args: str, **how: Any) -> subprocess.Popen[bytes]:
    """Start a command as a terminal does: what a script starts in its background would be born
    with Ctrl-C ignored."""
    command = [sys.executable, "-m", "tinyface", *args]
    give_back = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, preexec_fn=give_back, **how)


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))


@pytest.mark.usefixtures("as_process")
def test_a_closed_pipe_is_no_drama() -> None:
    process = spawn("embed", *["two.png"] * 200, "--all-faces", "-o", "-")
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141
    assert process.stderr.read() == b""


@pytest.mark.usefixtures("as_process")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    process = spawn("embed", *["two.png"] * 50_000, "-o", "faces.csv", "-t", "1")
    deadline = time.monotonic() + 60
    while not leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in err and b"stopped" in err
    assert not leftovers(tmp_path) and not Path("faces.csv").exists()


@pytest.mark.usefixtures("as_process")
def test_closed_output_streams_are_no_reason_to_fail() -> None:
    """As a daemon's children are born: Python has no sys.stdout then, and no sys.stderr."""
    script = '"$0" -m tinyface embed two.png -o faces.npy >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, sys.executable], check=False).returncode == 0
    assert Path("faces.npy").exists()
