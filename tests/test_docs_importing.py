"""docs/importing.md: every command in it is run, in its order; the helper is the file beside it."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from attacks import ncnn as attack
from safetensors.numpy import save_file

from tests.test_detectors import SCRFD
from tests.test_detectors import network as scrfd_like
from tinyface import networks
from tinyface.builder import Builder
from tinyface.cli.main import run
from tinyface.formats import known
from tinyface.formats.importer import import_file
from tinyface.graph import Graph
from tinyface.ops import Flatten, GlobalAveragePool, Linear

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "importing.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (tinyface (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)


def test_the_helper_is_the_file() -> None:
    code = re.search(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    helper = ROOT / "docs" / "save_for_tinyface.py"
    assert code and code[1] == helper.read_text(encoding="utf-8").strip()
    assert len(code[1].splitlines()) <= 20


def test_the_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state dict with a shared tensor, a step counter, and half precision comes through."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "docs")
    from save_for_tinyface import save_for_tinyface

    sys.modules.pop("save_for_tinyface")
    state = networks.random_state(networks.find("shufflefacenet-x0.5").build())

    class Trained(torch.nn.Module):  # type: ignore[misc]
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            tensors = {f"module.{k}": torch.from_numpy(v).half() for k, v in state.items()}
            return {**tensors, "module.bn.num_batches_tracked": torch.tensor(7)}

    save_for_tinyface(Trained(), str(tmp_path / "face.safetensors"))
    graph = import_file(tmp_path / "face.safetensors").graph
    assert graph.name == "shufflefacenet-x0.5"
    for key, value in state.items():
        np.testing.assert_array_equal(graph.params[key], value.astype(np.float16))
    layer = torch.nn.Linear(3, 3)
    tied = torch.nn.Sequential(layer, layer)
    save_for_tinyface(tied, str(tmp_path / "tied.safetensors"))


def classifier() -> Graph:
    """A recogniser with a classifier behind it."""
    b = Builder("classifier")
    y = b.apply(GlobalAveragePool(), b.conv(b.input("x", (1, 3, 112, 112)), 8, 3, key="conv"))
    y = b.apply(Flatten(), y)
    embedding = b.apply(Linear(), y, b.param("e", (16, 8)), name="embedding")
    graph = b.build(b.apply(Linear(), embedding, b.param("c", (5, 16)), name="classes"))
    return graph.bind(networks.random_state(graph))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the page takes for granted."""
    pytest.importorskip("onnx")
    from tinyface.formats.modelfile import load_model
    from tinyface.formats.onnx_export import export_onnx

    shipped = ROOT / "weights" / "detector.safetensors"
    if not shipped.is_file():
        pytest.skip("no weights here")
    monkeypatch.chdir(tmp_path)
    cache = samples.install(tmp_path / "cache")
    monkeypatch.setenv("TINYFACE_CACHE", str(cache))
    monkeypatch.setenv("TINYFACE_OFFLINE", "1")
    for name in ("TINYFACE_MODEL", "TINYFACE_DETECTOR"):
        monkeypatch.delenv(name, raising=False)
    save_file(
        networks.random_state(networks.find("mobilefacenet").build()), Path("face.safetensors")
    )
    export_onnx(samples.recogniser()[0], "face.onnx")
    export_onnx(load_model(shipped)[0], "detector.onnx")
    export_onnx(scrfd_like(SCRFD), "scrfd_500m_bnkps.onnx")
    export_onnx(classifier(), "classifier.onnx")
    head = "InnerProduct fc 1 1 in out 0=2 2=96"
    Path("face.param").write_text(attack.param(attack.INPUT, head))
    Path("face.bin").write_bytes(attack.tagged(np.arange(96.0)))
    samples.save_png(Path("photo.jpg"), samples.picture((1, 2)))
    Path("photos").mkdir()
    for i in range(4):
        samples.save_png(Path(f"photos/{i}.png"), samples.picture((1, i)))
    pairs = [f"{i}.png,{j}.png,{i % 2 == j % 2:d}" for i in range(4) for j in range(i)]
    Path("pairs.csv").write_text("\n".join(["a,b,same", *pairs]))
    shutil.copy(ROOT / "tests" / "images" / "group_of_four.jpg", "group.jpg")
    state = networks.random_state(networks.find("shufflefacenet-x0.5").build())
    downloads = cache / "downloads"
    downloads.mkdir()
    download = downloads / "mobilefacenet-foamliu-w.bin"
    save_file(state, download)
    public = known.Known(
        "stands for it",
        "shufflefacenet-x0.5",
        {"name": "mobilefacenet-foamliu", "licence": "none", "data": "none"},
        addresses=("https://example.org/w.bin",),
        size=download.stat().st_size,
    )
    sha256 = hashlib.sha256(download.read_bytes()).hexdigest()
    monkeypatch.setattr(known, "KNOWN", {sha256: public})


def test_every_command_works(desk: None, capsys: Any) -> None:
    assert len(COMMANDS) >= 9
    for command in COMMANDS:
        arguments = shlex.split(command.replace("\\\n", " "))[1:]
        assert run(arguments) == 0, (command, capsys.readouterr().err)
    assert run(["export", "face", "-o", "out.onnx"]) == 0
