"""``tinyface import``: where the model goes, and what is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from attacks import ncnn
from command_line import leftovers

from tinyface import modelstore

pytestmark = pytest.mark.usefixtures("surroundings")


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


def test_import_takes_no_other_models_place(
    tinyface: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of the user's own model of the name, nor of one that ships, without --force."""
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "mine"))
    shipped = samples.install(tmp_path / "shipped")
    monkeypatch.setattr(modelstore, "packaged_folder", lambda: shipped)
    Path("x.param").write_text(
        ncnn.param("Input in 0 1 in 0=2 1=8 2=3", "InnerProduct fc 1 1 in out 0=2 2=96")
    )
    Path("x.bin").write_bytes(ncnn.tagged(np.arange(96.0)))
    first = tinyface("import", "x.param", "--name", "a/b")
    mine = Path(first.out.strip())
    assert (first.status, mine.name) == (0, "a-b.safetensors")
    before = mine.read_bytes()
    for name in ("a/b", "a-b", "fdfacenet"):
        done = tinyface("import", "x.param", "--name", name, "--mean", "1,2,3")
        stem = name.replace("/", "-")
        assert done.status == 2 and done.out == "" and done.err.count("\n") == 1
        assert f"a model named {stem} is there already" in done.err and "--force" in done.err
    assert mine.read_bytes() == before
    for wrong in ("1,2", "1,2,3,4", "a,b,c"):
        done = tinyface("import", "x.param", "--mean", wrong)
        assert done.status == 2 and f"'{wrong}': give three numbers" in done.err
    done = tinyface("import", "x.param", "--name", "a/b", "--mean", "1,2,3", "--force")
    assert done.status == 0 and mine.read_bytes() != before
    for extra in ([], ["--force"]):  # a hidden file would not be found again
        done = tinyface("import", "x.param", "--name", ".x", *extra)
        assert done.status == 2 and "choose another (--name)" in done.err
        assert not list(mine.parent.glob(".*"))
    # a file that is named is replaced, as by every other command
    assert tinyface("import", "x.param", "-o", mine).status == 0
    # the name may come from the file
    Path("new.bin").write_bytes(Path("x.bin").read_bytes())
    Path("new.param").write_text(Path("x.param").read_text())
    assert tinyface("import", "new.param").status == 0
    done = tinyface("import", "new.param", "--verify")
    assert done.status == 2 and "is there already" in done.err


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
