"""``import --verify``: other runtimes agree, do not, are not there, or fall over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import ncnn as attack
from safetensors.numpy import save_file

from tinyface import crosscheck as module
from tinyface import networks, ops
from tinyface.builder import Builder
from tinyface.cli.main import run
from tinyface.crosscheck import Check, crosscheck
from tinyface.formats.importer import Imported, import_file

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")


@pytest.fixture
def recogniser(tmp_path: Path) -> Path:
    """A small one as ONNX: 3x8x8 -> 5."""
    from tinyface.formats.onnx_export import export_onnx

    b = Builder("small")
    x = b.prelu(b.conv(b.input("x", (1, 3, 8, 8)), 4, 3, stride=2, key="c"), key="act")
    graph = b.build(b.linear(b.apply(ops.Flatten(), x), 5, key="fc"))
    export_onnx(graph.bind(networks.random_state(graph)), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def doubled(imported: Imported) -> Imported:
    """The same network with other weights: what a wrong importer would give."""
    state = {name: 2 * value for name, value in imported.graph.params.items()}
    return replace(imported, graph=imported.graph.bind(state))


def test_onnx(recogniser: Path) -> None:
    pytest.importorskip("onnxruntime")
    imported = import_file(recogniser)
    (check,) = crosscheck(recogniser, imported)
    assert check.runtime == "onnxruntime" and check.good and not check.problem
    assert check.difference is not None and check.difference < 1e-5 * check.largest
    (wrong,) = crosscheck(recogniser, doubled(imported))
    assert not wrong.good and wrong.difference is not None
    assert wrong.difference > 0.5 * wrong.largest


def test_onnx_with_channels_last(recogniser: Path) -> None:
    """As Keras has them: the other runtime gets its picture as (n, h, w, c)."""
    pytest.importorskip("onnxruntime")
    model = onnx.load(recogniser)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    for side, value in zip(sides, (1, 8, 8, 3), strict=True):
        side.dim_value = value
    for node in model.graph.node:
        node.input[:] = ["nchw" if name == "x" else name for name in node.input]
    first = onnx.helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2])
    model.graph.node.insert(0, first)
    onnx.save(model, recogniser)
    (check,) = crosscheck(recogniser, import_file(recogniser))
    assert check.good and check.difference is not None, check


def test_ncnn(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    (tmp_path / "m.param").write_text(
        attack.param(attack.INPUT, "InnerProduct fc 1 1 in out 0=2 2=96")
    )
    (tmp_path / "other.bin").write_bytes(attack.tagged(np.arange(96.0)))
    imported = import_file(tmp_path / "m.param", weights=tmp_path / "other.bin")
    (check,) = crosscheck(tmp_path / "m.param", imported, tmp_path / "other.bin")
    assert check.runtime == "ncnn" and check.good and check.difference is not None, check
    (wrong,) = crosscheck(tmp_path / "m.param", doubled(imported), tmp_path / "other.bin")
    assert not wrong.good


def test_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    graph = networks.find("shufflefacenet-x0.5").build()
    state = {f"module.{k}": torch.from_numpy(v) for k, v in networks.random_state(graph).items()}
    path = tmp_path / "x.pth"
    torch.save({"state_dict": state, "epoch": 3}, path)
    imported = import_file(path)
    tensors, outputs = crosscheck(path, imported)
    assert (tensors.runtime, tensors.difference) == ("torch", 0.0)
    assert f"({len(graph.params)})" in tensors.what
    assert outputs.runtime == "onnxruntime" and outputs.good and outputs.difference is not None
    assert "our ONNX export of shufflefacenet-x0.5" in outputs.what
    assert "not the choice of the network" in outputs.what
    tensors, _ = crosscheck(path, doubled(imported))
    assert not tensors.good


def test_safetensors_has_no_runtime_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    graph = networks.find("shufflefacenet-x0.5").build()
    save_file(networks.random_state(graph), tmp_path / "x.safetensors")
    checks = crosscheck(tmp_path / "x.safetensors", import_file(tmp_path / "x.safetensors"))
    assert [check.runtime for check in checks] == ["onnxruntime"]


def test_not_installed(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (check,) = crosscheck(recogniser, import_file(recogniser))
    assert check.good and check.difference is None
    assert "onnxruntime is not installed (pip install onnxruntime)" in str(check)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ValueError('no\\x07 such operator')", "fails: ValueError: no? such operator"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "fails: status -11"),
        ("import time; time.sleep(60)", "took more than 2 seconds"),
    ],
)
def test_a_runtime_that_fails_takes_nothing_with_it(
    recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "onnxruntime.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.setattr(module, "TIMEOUT", 2 if "sleep" in code else 60)
    (check,) = crosscheck(recogniser, import_file(recogniser))
    assert check.difference is None and says in check.problem


@pytest.mark.parametrize(
    ("difference", "good"), [(None, True), (1e-4, True), (2e-3, False), (float("inf"), False)]
)
def test_what_counts_as_equal(difference: float | None, good: bool) -> None:
    assert Check("r", "w", difference, largest=1.0).good is good


def test_not_a_number_is_a_difference() -> None:
    nan, one = np.array([np.nan, 1.0]), np.array([1.0, 1.0])
    assert module._compared(nan, one)[0] == float("inf")
    assert module._compared(nan, nan) == (0.0, 1.0)


def test_command(
    recogniser: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "m.safetensors"
    assert run(["import", str(recogniser), "-o", str(out), "--verify", "--json"]) == 0
    printed = capsys.readouterr()
    (check,) = json.loads(printed.out)["verified"]
    assert check["runtime"] == "onnxruntime" and check["difference"] < 1e-3
    assert "verified: onnxruntime runs the file itself: largest difference" in printed.err
    out.unlink()
    wrong = [Check("r", "r runs the file itself", 0.5, 1.0)]
    monkeypatch.setattr(module, "crosscheck", lambda *args: wrong)
    assert run(["import", str(recogniser), "-o", str(out), "--verify"]) == 3
    assert "DIFFERS" in capsys.readouterr().err and not out.exists()
    assert run(["import", str(recogniser), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] == []
