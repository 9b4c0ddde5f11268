"""ONNX import: whole networks, public, exported here, and exported by PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import SHARED, needs_shared

from tinyface import networks
from tinyface.backends.numpy import run_graph
from tinyface.formats.importer import import_file
from tinyface.formats.modelfile import load_model, save_model

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx_models import assert_close, onnxruntime_outputs  # noqa: E402

from tinyface.formats.onnx import read_onnx  # noqa: E402


@needs_shared
def test_public_detector_against_onnxruntime() -> None:
    path = SHARED / "weights" / "yunet_n_320_320.onnx"
    graph = read_onnx(path)
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 320, 320)).astype(np.float32)
    assert_close(run_graph(graph, {"input": x}).values(), onnxruntime_outputs(path, x))
    assert import_file(path).outputs == graph.outputs


ROUND_TRIP = ("lightfacenet", "shufflefacenet-x0.5", "lightcnn9", "retinaface-mnet0.25", "ssd4-rfb")


@pytest.mark.parametrize("name", ROUND_TRIP)
def test_export_and_import_again(tmp_path: Path, name: str) -> None:
    from tinyface.formats.onnx_export import export_onnx

    entry = networks.find(name)
    graph = entry.build(size=64) if entry.task == "detect" else entry.build()
    graph = graph.bind(networks.random_state(graph, 0))
    export_onnx(graph, tmp_path / "x.onnx")
    again = read_onnx(tmp_path / "x.onnx")
    ((key, kind),) = graph.inputs.items()
    x = np.random.default_rng(0).standard_normal(kind.shape).astype(np.float32)
    (own,) = again.inputs
    ours = run_graph(again.with_inputs({own: kind.shape}), {own: x})
    assert_close(ours.values(), run_graph(graph, {key: x}).values())
    if entry.task == "detect":
        x = np.random.default_rng(0).standard_normal((2, 3, 93, 75)).astype(np.float32)
        ours = run_graph(again.with_inputs({own: x.shape}), {own: x})
        assert_close(ours.values(), run_graph(graph.with_inputs({key: x.shape}), {key: x}).values())
        imported = import_file(tmp_path / "x.onnx", name)
        assert imported.graph.outputs == ("loc", "conf", "landms")
        assert imported.card.detector == dict(entry.detector)
        assert imported.card.preprocess.colour == "bgr"


def torch_recogniser(torch: Any) -> Any:
    """Small, with what the exporters of recognisers write: GDC, view, shuffle, norm, gate."""
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
            self.act, self.gate = nn.PReLU(8), nn.Conv2d(8, 8, 1)
            self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.gdc, self.fc, self.bn = (
                nn.Conv2d(8, 8, 8, groups=8),
                nn.Linear(8, 5),
                nn.BatchNorm1d(5),
            )

        def forward(self, x: Any) -> Any:
            x = self.act(self.stem((x - 127.5) / 128))
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            x = x * torch.sigmoid(self.gate(nn.functional.adaptive_avg_pool2d(x, 1)))
            a, b = x.chunk(2, dim=1)
            x = torch.cat([b, a], 1) + nn.functional.hardswish(self.deep(x))
            x = nn.functional.max_pool2d(nn.functional.relu6(x), 2, ceil_mode=True)
            x = self.gdc(nn.functional.interpolate(x, scale_factor=2, mode="nearest")[:, :, :8, :8])
            return nn.functional.normalize(self.bn(self.fc(torch.flatten(x, 1))))

    torch.manual_seed(0)
    net = Net().eval()
    net.bn.running_mean.normal_()
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_torch_export(tmp_path: Path, opset: int) -> None:
    """The older exporter of PyTorch, batch left free; the batch stays free here, too."""
    torch = pytest.importorskip("torch")
    net, path = torch_recogniser(torch), tmp_path / "net.onnx"
    if opset < 14:
        net.forward = torch.no_grad()(net.forward)
    try:
        torch.onnx.export(
            net, torch.zeros(1, 3, 16, 16), path, opset_version=opset, dynamo=False,
            dynamic_axes={"input": {0: "n"}}, input_names=["input"], output_names=["embedding"],
        )  # fmt: skip
    except Exception as error:
        pytest.skip(f"this PyTorch does not export opset {opset}: {type(error).__name__}")
    imported = import_file(path)
    assert imported.card.preprocess.mean == (0, 0, 0)  # the graph does it
    save_model(tmp_path / "m.safetensors", imported.graph, imported.card)
    graph, card = load_model(tmp_path / "m.safetensors")
    assert card.embedding_size == 5
    x = np.random.default_rng(0).uniform(0, 255, (3, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x)).numpy()
    for n in (1, 3):
        (got,) = run_graph(graph.with_inputs({"input": (n, 3, 16, 16)}), {"input": x[:n]}).values()
        assert np.abs(got - wanted[:n]).max() < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_torch_export_newer(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="the newer exporter of PyTorch needs it")
    net, path = torch_recogniser(torch), tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.zeros(1, 3, 16, 16),), path, dynamo=True, external_data=False)
    graph = import_file(path).graph
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x)).numpy()
    (got,) = run_graph(graph, {next(iter(graph.inputs)): x}).values()
    assert np.abs(got - wanted).max() < 1e-5
