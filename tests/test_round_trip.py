"""Import, export, onnxruntime, and import again: nobody is locked in, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tinyface import networks
from tinyface.backends.numpy import run_graph
from tinyface.cli.main import run
from tinyface.errors import FormatError
from tinyface.formats.importer import import_file
from tinyface.formats.modelfile import load_model
from tinyface.graph import Graph, Node
from tinyface.ops import BatchNorm, Reshape, Resize
from tinyface.runtime import Session
from tinyface.vision.detect import Detector
from tinyface.vision.image import read_image

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")
pytest.importorskip("onnxruntime", reason="compares with onnxruntime")

from onnx_models import assert_close, onnxruntime_outputs  # noqa: E402

from tinyface.formats.onnx_export import export_onnx  # noqa: E402

ROOT = Path(__file__).parents[1]
# the smallest of each family, and of each structure of its own: name -> options
SMALLEST: dict[str, dict[str, Any]] = {
    "dwfn": {},
    "cnn-8-fd-cifar": {},
    "mobilefacenet": {},
    "mobilefacenet-xiaoccer": {},
    "mobilefacenet-relu6": {},
    "mobilefacenet-arcface": {},
    "shufflefacenet-x0.5": {},
    "lightfacenet": {},
    "proxylessfacenas-cpu": {},
    "vargfacenet": {},
    "varkfacenet-train": {},
    "varkfacenet": {},
    "ghostfacenet-v1-1.0-s2": {},
    "ghostfacenet-v2-1.0-s2": {},
    "ghostfacenet-v2-1.0-port": {},
    "pocketnet-s-128": {},
    "lightcnn9": {},
    "lightcnn29-v2": {},
    "retinaface-mnet0.25": {"size": 160},
    "ssd4-slim": {"size": 160},
    "ssd4-rfb": {"size": 160},
    "resnet18": {"size": 160},
    "resnet50": {"size": 160},
    "vgg16": {"hidden": 64, "classes": 10},
}
SLOW = {"lightcnn29-v2", "resnet18", "resnet50", "vgg16", "mobilefacenet-arcface"}


def rounding(graph: Graph, x: np.ndarray, ours: list[np.ndarray]) -> list[float]:
    """How far float32 is from float64 in this network, relative to the largest output.

    Another runtime adds in another order and is as far away on its own side.
    """
    (given,) = graph.inputs
    exact = run_graph(graph, {given: x.astype(np.float64)}).values()
    pairs = zip(ours, exact, strict=True)
    return [np.abs(a - b).max() / max(1.0, float(np.abs(b).max())) for a, b in pairs]


def calm(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Random weights whose batch norms have the statistics of what reaches them, as after training.

    Without these, maps grow from layer to layer until float32's rounding alone decides: then two
    right answers differ by more than any bound that could find a wrong one.
    """
    state = networks.random_state(graph)
    values: dict[str, Any] = {**state, next(iter(graph.inputs)): x}
    for node in graph.nodes:
        inputs = [values[name] if name else None for name in node.inputs]
        if isinstance(node.op, BatchNorm):
            y = inputs[0]
            rest = tuple(i for i in range(y.ndim) if i != 1)
            single = y.size == y.shape[1]  # one value a channel has no variance: that of all
            mean, var = node.inputs[3:]
            state[mean] = (0 * y if single else y).mean(rest)
            state[var] = (
                np.full_like(state[mean], y.var()) if single else y.var(rest) + y.var() / 10
            )
            inputs[3:] = state[mean], state[var]
        made = node.op.run(*inputs)
        made = made if isinstance(made, tuple) else (made,)
        values |= dict(zip(node.outputs, made, strict=True))
    return state


def test_every_family_is_there() -> None:
    families = {networks.find(name).family for name in SMALLEST}
    assert families == {entry.family for entry in networks.REGISTRY.values()}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SMALLEST]
)
def test_import_export_import(tmp_path: Path, name: str) -> None:
    entry, options = networks.find(name), SMALLEST[name]
    graph = entry.build(**options)
    ((given, kind),) = graph.inputs.items()
    x = np.random.default_rng(0).standard_normal(kind.shape).astype(np.float32)
    state = calm(graph, x)
    if options:  # of another size than the one that is recognised
        graph = graph.bind(state)
    else:
        save_file(state, tmp_path / "x.safetensors")
        graph = import_file(tmp_path / "x.safetensors", name).graph
    wanted = list(run_graph(graph, {given: x}).values())
    path = tmp_path / "x.onnx"
    export_onnx(graph, path)
    errors = rounding(graph, x, wanted)
    assert max(errors) < 1e-4
    assert_close(onnxruntime_outputs(path, x), wanted, [max(1e-5, 4 * error) for error in errors])
    again = import_file(path, name if entry.task == "detect" else None)
    (given,) = again.graph.inputs
    if entry.task == "detect":  # the size is free in the file, so a usual one was taken
        graph = again.graph.with_inputs({given: kind.shape})
    else:
        graph = again.graph
        assert again.card.task == "embed"
        assert again.card.embedding_size == wanted[0].shape[1]
        preprocess = again.card.preprocess
        assert (preprocess.height, preprocess.width) == kind.shape[2:]
    assert_close(run_graph(graph, {given: x}).values(), wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("free", [True, False], ids=["free batch", "fixed batch"])
def test_the_newer_exporter_of_pytorch(tmp_path: Path, free: bool) -> None:
    """What torch.onnx.export writes today, of the layers that face networks are made of."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    nn = torch.nn
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish(), nn.AvgPool2d(2, ceil_mode=True),
        nn.PixelUnshuffle(1), nn.ChannelShuffle(2), nn.Conv2d(8, 8, 4, groups=8), nn.ReLU6(),
        nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6),
    ).eval()  # fmt: skip
    path, example = tmp_path / "net.onnx", torch.zeros(2, 3, 16, 16)
    shapes = ({0: torch.export.Dim("n")},) if free else None
    torch.onnx.export(
        net, (example,), path, dynamo=True, external_data=False, dynamic_shapes=shapes
    )
    imported = import_file(path)
    (given,) = imported.graph.inputs
    for n in (1, 3) if free else (2,):
        x = np.random.default_rng(0).standard_normal((n, 3, 16, 16)).astype(np.float32)
        with torch.no_grad():
            wanted = net(torch.from_numpy(x)).numpy()
        graph = imported.graph.with_inputs({given: x.shape})
        assert_close(run_graph(graph, {given: x}).values(), [wanted])


# ------------------------------------------------------------------------- detectors


def fixed(graph: Graph) -> Graph:
    """As exporters write it who were not told to leave the size free: constants everywhere."""

    def frozen(node: Any) -> Any:
        out = graph.types[node.outputs[0]].shape
        if isinstance(node.op, Resize):
            return replace(node, op=Resize(mode=node.op.mode, size=out[2:]), inputs=node.inputs[:1])
        return replace(node, op=Reshape(shape=out)) if isinstance(node.op, Reshape) else node

    return replace(graph, nodes=tuple(map(frozen, graph.nodes)))


def export_as_others_do(graph: Graph, path: Path, *, constant: bool) -> None:
    """Outputs of other names and in another order."""
    names = {"landms": "586", "loc": "bbox", "conf": "classifications"}
    export_onnx(fixed(graph) if constant else graph, path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    values = {value.name: value for value in model.graph.output}
    del model.graph.output[:]
    for old, new in names.items():
        values[old].name = new
        model.graph.output.append(values[old])
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("constant", [False, True], ids=["size free", "size constant"])
@pytest.mark.parametrize("name", ["retinaface-mnet0.25", "retinaface-mnet0.25-lowres", "ssd4-rfb"])
def test_a_detector_of_others_becomes_ours(tmp_path: Path, name: str, constant: bool) -> None:
    graph = networks.find(name).build(size=(96, 64))
    graph = graph.bind(networks.random_state(graph))
    path = tmp_path / "x.onnx"
    export_as_others_do(graph, path, constant=constant)
    imported = import_file(path, name, preprocess={"colour": "rgb"})
    assert imported.card.task == "detect" and imported.card.preprocess.colour == "rgb"
    assert imported.card.detector == dict(networks.find(name).detector)
    assert not any("of this size only" in line for line in imported.found)
    (given,) = imported.graph.inputs
    for shape in ((1, 3, 96, 64), (1, 3, 75, 131), (2, 3, 64, 64)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        wanted = run_graph(graph.with_inputs({"input": shape}), {"input": x})
        got = run_graph(imported.graph.with_inputs({given: shape}), {given: x})
        assert list(got) == ["loc", "conf", "landms"]
        assert_close(got.values(), [wanted[key] for key in got])
    with pytest.raises(FormatError, match="priors there, so it is another network"):
        import_file(path, "ssd4-slim" if name.startswith("retina") else "retinaface-mnet0.25")


@pytest.mark.parametrize("constant", [False, True], ids=["size free", "size constant"])
def test_detect_with_an_imported_detector(tmp_path: Path, capsys: Any, constant: bool) -> None:
    """The weights that ship, through ONNX and back, find the same faces, from the command line."""
    shipped = ROOT / "weights" / "detector.safetensors"
    picture = ROOT / "tests" / "images" / "portrait_female_0.jpg"
    if not shipped.is_file():
        pytest.skip("no weights here")
    graph, card = load_model(shipped)
    export_as_others_do(graph, tmp_path / "x.onnx", constant=constant)
    model = tmp_path / "again.safetensors"
    command = ["import", str(tmp_path / "x.onnx"), "--network", graph.name, "-o", str(model)]
    assert run(command) == 0
    assert run(["detect", str(picture), "--detector", str(model)]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split("\t")
    first = Detector(Session(graph), card).detect(read_image(picture))[0]
    assert line[1] == ",".join(f"{v:.0f}" for v in first.box)
    assert float(line[2]) == pytest.approx(first.score, abs=1e-3)


def test_a_detector_whose_size_cannot_be_freed_says_so(tmp_path: Path) -> None:
    """Rows that went through (h w, fields) with a constant number of them."""
    graph = networks.find("ssd4-slim").build(size=64)
    graph = graph.bind(networks.random_state(graph))
    loc, *others = graph.outputs
    rows = graph.types[loc].shape[1]
    flat = Node("flat", Reshape(shape=(rows, 4)), (loc,), ("flat",))
    back = Node("back", Reshape(shape=(1, rows, 4)), ("flat",), ("back",))
    outputs = ("back", *others)  # the first keeps its name, inside
    graph = replace(graph, nodes=(*graph.nodes, flat, back), outputs=outputs)
    export_onnx(graph, tmp_path / "x.onnx")
    imported = import_file(tmp_path / "x.onnx", "ssd4-slim")
    assert any(
        "it takes pictures of " in line and " only; export it" in line for line in imported.found
    )
