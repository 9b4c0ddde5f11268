"""What people run into on their first day: each time something is said, and what to do about it."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples

import tinyface
from tinyface import modelstore
from tinyface.backends import c
from tinyface.cli.main import run
from tinyface.errors import ImageError, UsageError
from tinyface.files import atomic_write
from tinyface.formats.modelfile import load_model
from tinyface.model import Model
from tinyface.tracing import Trace
from tinyface.vision.folder import collect_images
from tinyface.vision.image import read_image

ONE = samples.picture((1, 2))


@pytest.fixture(autouse=True)
def installed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The sample models and no others, in an empty folder of one's own."""
    folder = samples.install(tmp_path_factory.mktemp("models"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYFACE_CACHE", str(folder))
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR", "TINYFACE_ISA"):
        monkeypatch.delenv(name, raising=False)
    return folder


# ----------------------------------------------------------------------------------- folders


def test_a_phones_pictures_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.tif", ".d.heic"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"\.heic, \.tif is not read, convert .*\(-r\)"):
        collect_images(tmp_path)
    (tmp_path / "e.jpg").touch()
    with pytest.warns(UserWarning, match=r"3 of other formats \(\.heic, \.tif\) left out; .*JPEG"):
        assert collect_images(tmp_path) == [tmp_path / "e.jpg"]


def test_embed_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    samples.save_png(Path("photos/one.png"), ONE)
    Path("photos/two.heic").touch()
    assert run(["embed", "photos", "-o", "-"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err.count("\n") == 1
    assert err.startswith("photos: 1 of other formats (.heic) left out")


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.jpg").touch()
    closed = str(tmp_path / "in")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    if not any(_walks(tmp_path)):
        pytest.skip("this Python's os.walk does not look scandir up")
    with pytest.raises(ImageError, match="in: may not be read; name a directory that you may"):
        collect_images(closed)
    with pytest.warns(UserWarning, match="in: may not be read and is left out"):
        assert collect_images(tmp_path, recursive=True) == [tmp_path / "a.jpg"]


def _walks(folder: Path) -> list[OSError]:
    errors: list[OSError] = []
    list(os.walk(folder, onerror=errors.append))
    return errors


def test_nothing_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(ImageError, match="standard input: nothing came; pipe one picture in"):
        read_image("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ImageError, match="standard input: is closed; pipe one picture in"):
        read_image("-")


# Latin-1 names on a UTF-8 system (an old USB stick), and a Latin-1 terminal.
@pytest.mark.needs_c
@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1"])
def test_names_and_terminals_of_another_encoding(encoding: str) -> None:
    try:
        with open(b"k\xe9.png", "wb") as file:
            file.write(samples.save_png(Path("one.png"), ONE).read_bytes())
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    environment = os.environ | {"PYTHONIOENCODING": encoding}

    def output(*args: str | bytes) -> bytes:
        command = [sys.executable, "-m", "tinyface", *args]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    assert (
        json.loads(output("embed", b"k\xe9.png", "--json"))["results"][0]["file"] == "k\udce9.png"
    )
    assert output("embed", b"k\xe9.png").startswith(b"k\\udce9.png: face 0 at ")


# ----------------------------------------------------------------------------- commands, files


@pytest.mark.parametrize(
    "line, message",
    [
        ("info theirs.onnx", "theirs.onnx: no such file; check the spelling"),
        ("bench models/net", "models/net: no such file"),
        ("info nix", "there is no network 'nix'; see  tinyface models"),
        ("verify a.png b.png --threshold nan", "a threshold of nan: give a cosine, from -1 to 1"),
        ("profile cnn-8-cifar -o trace.txt", "trace.txt: name a trace .json"),
        ("profile cnn-8-cifar -o nowhere/trace.json", "nowhere; make it first"),
        ("evaluate a.csv --root . -o folder.csv", "folder.csv: is a folder; name a file in it"),
        ("embed one.png -o out.json", ".jsonl (--json prints one document)"),
    ],
)
def test_refused_at_once(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder.csv").mkdir()
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    "word, meant",
    [
        ("one.png", "tinyface embed one.png"),
        ("compare", "tinyface verify"),
        ("detct", "tinyface detect"),
        ("help", "tinyface --help"),
        ("qqqq", "No such command 'qqqq'.\n"),
    ],
)
def test_what_is_no_command(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.png").touch()
    assert run([word]) == 2
    assert meant in capsys.readouterr().err


def test_a_default_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TINYFACE_MODEL", "nope")
    assert run(["verify", "a.png", "b.png"]) == 2
    assert "TINYFACE_MODEL is set: no weights named 'nope'" in capsys.readouterr().err


def test_what_a_model_does_is_looked_for_in_the_package() -> None:
    with pytest.raises(AttributeError, match=r"load\(\) gives a Model, with \.embed\(\)"):
        tinyface.embed  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(tinyface, "nothing")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("command", ["embed one.png two.png", "detect one.png two.png"])
def test_lines_do_not_end_up_behind_the_progress_bar(command: str) -> None:
    import pty

    for name in ("one.png", "two.png"):
        samples.save_png(Path(name), ONE)
    seen = b""

    def read(terminal: int) -> bytes:
        nonlocal seen
        data = os.read(terminal, 1024)
        seen += data
        return b"\n"  # nothing of it on the terminal of the tests

    assert pty.spawn([sys.executable, "-m", "tinyface", *command.split()], read) == 0
    line = next(part for part in seen.split(b"\n") if b"one.png" in part)
    assert line.rpartition(b"\x1b[2K")[2].startswith(b"one.png")


def test_an_instruction_set_without_the_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(c, "available", lambda: False)
    assert run(["bench", "cnn-8-cifar", "--isa", "avx2", "--rounds", "1"]) == 2
    assert "--isa avx2: the C engine was not built: " in capsys.readouterr().err


def test_networks_with_a_dot_in_the_name_are_no_files() -> None:
    assert run(["info", "cnn-8-fd-x0.5"]) == 0


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "e.npz"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "e.npz")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_models_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "file" / "models"))
    with pytest.raises(UsageError, match="cannot be made .*; set TINYFACE_CACHE to a folder"):
        modelstore.made_user_folder()


# ------------------------------------------------------------------------------------- Python


def test_a_loaded_model_goes_to_other_processes(installed: Path) -> None:
    model = tinyface.load(threads=1, backend="numpy")
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.embed(ONE) == model.embed(ONE)).all()
    assert (copy.session.threads, copy.session.backend) == (1, "numpy")
    made = Model(*load_model(installed / "fdfacenet.safetensors"))
    with pytest.raises(TypeError, match=r"cannot be pickled; load\(\) it from a file"):
        pickle.dumps(made)


@pytest.mark.parametrize(
    "crops", [np.zeros((1, 112, 112, 3), np.float32), np.zeros((112, 112, 3), np.uint8),
              np.zeros((1, 3, 112, 112), np.uint8), np.zeros((1, 100, 100, 3), np.uint8)]
)  # fmt: skip
def test_crops_of_another_kind(crops: Any) -> None:
    with pytest.raises(ImageError, match=r"crops of type .* give uint8 RGB of shape \(N, "):
        tinyface.load().embed_crops(crops)


def test_a_detector_by_its_name() -> None:
    asked = modelstore.default("detect").stem
    by_name = tinyface.detect(ONE, asked)
    assert [f.score for f in by_name] == [f.score for f in tinyface.detect(ONE)]
    assert (tinyface.align(ONE, detector=asked) == tinyface.align(ONE)).all()


@pytest.mark.parametrize("threshold", [float("nan"), 5.0])
def test_a_threshold_that_is_no_cosine(threshold: float) -> None:
    with pytest.raises(UsageError, match="give a cosine, from -1 to 1"):
        tinyface.verify(ONE, ONE, threshold=threshold)


def test_a_trace_is_shown_in_one_line() -> None:
    assert repr(Trace([[], []])) == "<tinyface.Trace of 2 runs, 0 steps>"
