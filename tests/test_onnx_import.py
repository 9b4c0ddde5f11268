"""ONNX import: the standard's own node tests, whole networks, and files that are refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyface import networks
from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError, MissingExtraError, TinyfaceError
from tinyface.formats.importer import import_file
from tinyface.formats.modelfile import load_model, save_model
from tinyface.graph import Graph
from tinyface.runtime import Session

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import model, save  # noqa: E402

from tinyface.formats.onnx import OPERATORS, Converter, read_onnx  # noqa: E402
from tinyface.formats.onnx_constants import FOLD  # noqa: E402
from tinyface.formats.onnx_file import open_onnx  # noqa: E402

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
KNOWN = {*OPERATORS, *FOLD, "Shape"}

# ---------------------------------------------------------------- the node tests

# what may be refused, and why: the message must say so
REASONS = {
    "type": r"is of type int64; only float32|elements of type uint64|not of floating point",
    "training": "in training mode",
    "second output": "its output 'z' is not computed here|storage in columns",
    "three axes": "of an input with 5 axes",
    "resize": "known here are nearest and linear|the rule 'tf_crop_and_resize'",
    "norm": "a norm other than L2",
    "constants": "must be a constant|must be integers",
    "pattern": "a power other than|this operator is not known here",
    "old opset": r"opset \d; 7 to|before opset 21",
    "attention": "of a batch|split.sizes|matrix products",
}


def node_tests() -> list[Any]:
    """Those made of operators that are claimed here, whose values NumPy can hold."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    chosen = []
    for case in cases:
        nodes = case.model.graph.node
        if any(n.domain or n.op_type not in KNOWN for n in nodes):
            continue
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(a, np.ndarray | np.generic) for a in (*inputs, *outputs)):
            continue  # sequences, optionals, and element types that NumPy does not have
        if all(np.asarray(a).size for a in (*inputs, *outputs)):
            chosen.append(case)
    return chosen


CASES = {case.name: case for case in node_tests()}


def run_case(path: Path, case: Any, inputs: list[np.ndarray], baked: set[int]) -> None:
    """Make ``baked`` inputs constants, convert, run, compare."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    for i in baked:
        proto.graph.initializer.append(
            numpy_helper.from_array(inputs[i], proto.graph.input[i].name)
        )
    save(path, proto)
    converter = Converter(open_onnx(path), (8, 8))
    for node in converter.file.nodes:
        converter.convert(node)
    tensors = [name for name in converter.file.outputs if name in converter.tensors]
    computed = dict(converter.constants)
    if tensors:
        graph = converter.builder.build(*(converter.tensors[name] for name in tensors))
        given = {proto.graph.input[i].name: a for i, a in enumerate(inputs) if i not in baked}
        results = run_graph(graph.bind(converter.state), given)
        computed |= dict(zip(tensors, results.values(), strict=True))
    for name, wanted in zip(converter.file.outputs, case.data_sets[0][1], strict=False):
        got = computed[name]
        assert got.shape == np.shape(wanted)
        rtol = max(case.rtol, 1e-3 if np.asarray(wanted).dtype == np.float16 else 0)
        np.testing.assert_allclose(
            np.asarray(got, np.float64), np.asarray(wanted, np.float64), rtol=rtol, atol=1e-6
        )


def attempt(path: Path, case: Any) -> str:
    """ "" if the case passes, else the refusal."""
    inputs = [np.asarray(a) for a in case.data_sets[0][0]]
    integers = {i for i, a in enumerate(inputs) if a.dtype.kind in "iub"}
    message = ""
    for baked in (integers, integers | set(range(1, len(inputs)))):
        try:
            run_case(path, case, inputs, baked)
            return ""
        except TinyfaceError as error:
            message = str(error)
            if "must be a constant" not in message:
                break
    return message


PASSED: set[str] = set()


@pytest.mark.parametrize("name", CASES)
def test_node(tmp_path: Path, name: str) -> None:
    """Each of ONNX's tests passes or is refused for one of the reasons above; none is wrong."""
    if name == "test_mod_int64_fmod":
        pytest.skip("Mod with fmod=1 occurs in no network and is computed nowhere")
    refusal = attempt(tmp_path / "x.onnx", CASES[name])
    if refusal:
        assert any(re.search(reason, refusal) for reason in REASONS.values()), refusal
        pytest.skip(refusal.partition(": ")[2][:120])
    PASSED.update(node.op_type for node in CASES[name].model.graph.node)


def test_every_claimed_operator_passed_some_case() -> None:
    if len(PASSED) < 5:
        pytest.skip("only meaningful after all node tests")
    # Upsample is older than the tests of today's onnx package; test_upsample covers it
    assert set(OPERATORS) - {"Upsample"} <= PASSED


# ---------------------------------------------------------------- whole networks


def onnxruntime_outputs(path: Path, x: np.ndarray) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def assert_close(ours: Any, theirs: Any, bound: float = 1e-5) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= bound * max(1.0, float(np.abs(b).max()))


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the shared material is not beside the checkout")
def test_public_detector_against_onnxruntime() -> None:
    path = WEIGHTS / "yunet_n_320_320.onnx"
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


# ---------------------------------------------------------------- by hand


def node(kind: str, *inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs) or ["x"], [outputs], **attributes)


def read(tmp_path: Path, proto: Any) -> Graph:
    return read_onnx(save(tmp_path / "x.onnx", proto))


RNG = np.random.default_rng(0)
DENSE = RNG.standard_normal((48, 5)).astype(np.float32)


def test_keras_sandwich(tmp_path: Path) -> None:
    """NHWC in, Transpose before and behind a convolution, TensorFlow's norm at the end."""
    weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    shape = np.array([-1, 64], np.int64)
    dense = RNG.standard_normal((64, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "w"], ["b"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["c", "s"], ["d"]),
        helper.make_node("MatMul", ["d", "m"], ["e"]),
        helper.make_node("Mul", ["e", "e"], ["f"]),
        helper.make_node("ReduceSum", ["f", "axes"], ["g"], keepdims=1),
        helper.make_node("Max", ["g", "eps"], ["h"]),
        helper.make_node("Sqrt", ["h"], ["i"]),
        helper.make_node("Reciprocal", ["i"], ["j"]),
        helper.make_node("Mul", ["e", "j"], ["y"]),
    ]
    constants = {
        "w": weight, "s": shape, "m": dense, "axes": np.array([1], np.int64),
        "eps": np.float32(1e-12).reshape(()),
    }  # fmt: skip
    path = tmp_path / "x.onnx"
    save(path, model(nodes, ["n", 8, 8, 3], constants))
    imported = import_file(path)
    assert imported.graph.inputs["x:nchw"].shape == (1, 3, 8, 8)
    x = RNG.standard_normal((2, 8, 8, 3)).astype(np.float32)
    graph = imported.graph.with_inputs({"x:nchw": (2, 3, 8, 8)})
    ours = run_graph(graph, {"x:nchw": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    assert_close(ours.values(), onnxruntime_outputs(path, x))


def gate_as_exporters_write_it(expand: bool) -> Any:
    """x * gate.expand_as(x): the shape is computed, too."""
    nodes = [
        node("GlobalAveragePool", outputs="g"),
        node("Shape", outputs="s"),
        node("Expand", "g", "s", outputs="wide"),
        helper.make_node("Mul", ["x", "wide"], ["y"]),
    ]
    return model(nodes, None, None, outputs=("y", "wide") if expand else ("y",))


def test_a_position_embedding_is_computed_on_import(tmp_path: Path) -> None:
    """As EdgeNeXt writes it: sines and cosines of running sums, whose shape is asked for."""
    constants: dict[str, np.ndarray[Any, Any]] = {
        "ones": np.ones((4, 5), np.float32), "axis": np.array(1), "first": np.array([0]),
        "more": np.array([1, 2]), "table": np.arange(1 << 16, dtype=np.float32).reshape(2, -1),
        "where": np.arange(5),
    }  # fmt: skip
    nodes = [
        helper.make_node("CumSum", ["ones", "axis"], ["places"]),
        helper.make_node("Sin", ["places"], ["sin"]),
        helper.make_node("Cos", ["places"], ["cos"]),
        helper.make_node("Mul", ["sin", "cos"], ["waves"]),
        helper.make_node("Shape", ["waves"], ["sides"]),
        helper.make_node("Concat", ["more", "sides"], ["shape"], axis=0),
        helper.make_node("Gather", ["table", "where"], ["columns"], axis=1),
        helper.make_node("Gather", ["columns", "first"], ["row"], axis=0),
        helper.make_node("Add", ["x", "waves"], ["sum"]),
        helper.make_node("Add", ["sum", "row"], ["moved"]),
        helper.make_node("Reshape", ["moved", "shape"], ["y"]),
    ]
    graph = read(tmp_path, model(nodes, [1, 2, 4, 5], constants))
    x = RNG.standard_normal((1, 2, 4, 5)).astype(np.float32)
    assert_close(run_graph(graph, {"x": x}).values(), onnxruntime_outputs(tmp_path / "x.onnx", x))


def test_padding_is_computed_from_the_picture(tmp_path: Path) -> None:
    """max((ceil(side / stride) - 1) stride + kernel - side, 0), as TensorFlow pads; and a tile."""
    constants = {
        "axis": np.array([2]), "stride": np.float32([2]), "one": np.float32([1]),
        "kernel": np.float32([3]), "none": np.float32(0), "most": np.float32(9),
        "before": np.array([0, 0, 0, 0, 0, 0]), "flat": np.array([0]),
        "twice": np.array([1, 2, 1, 3]), "again": np.array([1, 1, 2, 5]),
        "row": np.float32(RNG.standard_normal((1, 3, 2, 1))),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Gather", ["shape", "axis"], ["side"], axis=0),
        make("Cast", ["side"], ["height"], to=TensorProto.FLOAT),
        make("Div", ["height", "stride"], ["steps"]),
        make("Ceil", ["steps"], ["count"]),
        make("Sub", ["count", "one"], ["gaps"]),
        make("Mul", ["gaps", "stride"], ["long"]),
        make("Add", ["long", "kernel"], ["needed"]),
        make("Sub", ["needed", "height"], ["rest"]),
        make("Clip", ["rest", "none"], ["more"]),
        make("Clip", ["more", "", "most"], ["bounded"]),
        make("Cast", ["bounded"], ["whole"], to=TensorProto.INT64),
        make("Concat", ["before", "whole", "flat"], ["pads"], axis=0),
        make("Pad", ["x", "pads"], ["padded"]),
        make("Tile", ["padded", "twice"], ["tiled"]),
        make("Tile", ["row", "again"], ["rows"]),
        make("Slice", ["tiled", "from", "to"], ["part"]),
        make("Concat", ["part", "rows"], ["y"], axis=1),
    ]
    constants |= {"from": np.array([0, 0, 0, 0]), "to": np.array([1, 6, 4, 5])}
    graph = read(tmp_path, model(nodes, [1, 3, 5, 4], constants))
    x = RNG.standard_normal((1, 3, 5, 4)).astype(np.float32)
    assert_close(run_graph(graph, {"x": x}).values(), onnxruntime_outputs(tmp_path / "x.onnx", x))


def test_expanding_is_left_to_what_broadcasts(tmp_path: Path) -> None:
    graph = read(tmp_path, gate_as_exporters_write_it(expand=False))
    assert [n.op.kind for n in graph.nodes] == ["global_average_pool", "mul"]
    graph = read(tmp_path, gate_as_exporters_write_it(expand=True))
    assert [n.op.kind for n in graph.nodes] == ["global_average_pool", "add", "mul"]
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert_close(run_graph(graph, {"x": x}).values(), onnxruntime_outputs(tmp_path / "x.onnx", x))


@pytest.mark.parametrize(
    "kind, attributes, vectors",
    [
        ("InstanceNormalization", {"epsilon": 1e-3}, 2),
        ("LayerNormalization", {"axis": -1}, 2),
        ("LayerNormalization", {"axis": 3}, 1),
        ("Elu", {"alpha": 0.5}, 0),
        ("Tanh", {}, 0),
        ("Erf", {}, 0),
        ("Gelu", {}, 0),
        ("Gelu", {"approximate": "tanh"}, 0),
        ("Exp", {}, 0),
        ("GroupNormalization", {"num_groups": 3}, 2),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no C kernel")
def test_formulas(tmp_path: Path, kind: str, attributes: dict[str, Any], vectors: int) -> None:
    """Operators that are written out agree in both engines with onnxruntime, for a batch, too."""
    side = 5 if kind == "LayerNormalization" else 6
    constants = {f"v{i}": RNG.uniform(0.5, 2, side).astype(np.float32) for i in range(vectors)}
    weight = {"w": RNG.standard_normal((6, 3, 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(kind, ["c", *constants], ["y"], **attributes),
    ]
    graph = read(tmp_path, model(nodes, ["n", 3, 4, 5], {**weight, **constants}, opset=21))
    x = 3 * RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    wanted = onnxruntime_outputs(tmp_path / "x.onnx", x)
    for backend in ("numpy", "auto"):
        assert_close(Session(graph, backend, 1).run(x).values(), wanted)


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_upsample(tmp_path: Path, opset: int) -> None:
    """Upsample of opset 7 and 9 and the first Resize: floor(i / scale)."""
    kind = "Upsample" if opset < 10 else "Resize"
    scales = np.array([1, 1, 2, 3], np.float32)
    attributes = {"scales": scales.tolist()} if opset == 7 else {}
    inputs = ["x"] if opset == 7 else ["x", "s"]
    proto = model(
        [helper.make_node(kind, inputs, ["y"], mode="nearest", **attributes)],
        None, {"s": scales}, opset,
    )  # fmt: skip
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    (got,) = run_graph(read(tmp_path, proto), {"x": x}).values()
    np.testing.assert_array_equal(got, x.repeat(2, 2).repeat(3, 3))


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """As the converter to float16 leaves them: what it inserts at the front stands at the end."""
    nodes = [
        node("Relu", "b", outputs="c"),
        helper.make_node("Add", ["c", "a"], ["y"]),
        node("Neg", "a", outputs="b"),
        node("Cast", "x", outputs="a", to=TensorProto.FLOAT),
    ]
    graph = read(tmp_path, model(nodes))
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    (got,) = run_graph(graph, {"x": x}).values()
    np.testing.assert_array_equal(got, np.maximum(-x, 0) + x)
    straight = [node("Relu", outputs="a"), node("Neg", outputs="b"), node("Neg", "a")]
    proto = model(straight)
    save(tmp_path / "x.onnx", proto)
    assert [n.outputs[0] for n in open_onnx(tmp_path / "x.onnx").nodes] == ["a", "b", "y"]


def test_free_sides(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], ["n", 3, "h", "w"])
    path = tmp_path / "x.onnx"
    save(path, proto)
    assert read_onnx(path).inputs["x"].shape == (1, 3, 112, 112)
    assert read_onnx(path, (64, 48)).inputs["x"].shape == (1, 3, 64, 48)


def test_a_size_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """Half of 7 rows, enlarged, are not 7 again: the file needs a picture of another size."""
    nodes = [
        node("MaxPool", "x", outputs="half", kernel_shape=[2, 2], strides=[2, 2]),
        node("ConvTranspose", "half", "w", outputs="up", strides=[2, 2]),
        node("Add", "x", "up"),
    ]
    proto = model(nodes, ["n", 3, "h", "w"], {"w": np.ones((3, 3, 2, 2), np.float32)})
    path = tmp_path / "free.onnx"
    onnx.save(proto, str(path))
    assert read_onnx(path, (8, 8)).outputs
    with pytest.raises(FormatError, match=r"size free; tried was 7x8, see  tinyface import --size"):
        read_onnx(path, (7, 8))


def test_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    save(path, model([helper.make_node("Relu", ["x"], ["y"])]))
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"tinyface\[onnx\]"):
        read_onnx(path)


# ---------------------------------------------------------------- refused


def relu(**changes: Any) -> Any:
    return model([helper.make_node("Relu", ["x"], ["y"])], **changes)


def with_tensor(**fields: Any) -> Any:
    """A constant whose shape and data do not agree."""
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], None, {"w": np.ones(4, np.float32)})
    tensor = proto.graph.initializer[0]
    for name, value in fields.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, name, value)
    return proto


def with_a_name_of(raw: bytes) -> Any:
    """A file with these bytes where an operator's name belongs."""

    class Damaged:
        @staticmethod
        def SerializeToString() -> bytes:
            good: bytes = model([node("Re")]).SerializeToString()
            return good.replace(b"Re", raw, 1)

    return Damaged()


I = {"i": np.array([1], np.int64), "w": np.ones((2, 3, 1, 1), np.float32)}  # noqa: E741
REFUSED: dict[str, tuple[Any, str]] = {
    "opset 6": (relu(opset=6), "opset 6; 7 to"),
    "opset 999": (relu(opset=999), "opset 999; 7 to"),
    "quantised": (
        model([node("QuantizeLinear", "x", "s"), ], None, {"s": np.float32([1])}),
        "node 0, 'QuantizeLinear'.*quantised",
    ),
    "quantised as it runs": (model([node("DynamicQuantizeLinear", "x")]), "quantised"),
    "rewritten by onnxruntime": (
        model([node("FusedConv", "x", domain="com.microsoft")]), "the one that it was made from",
    ),
    "quantised convolution": (model([node("QLinearConv", "x")]), "quantised"),
    "statistics per pixel": (
        model([node("BatchNormalization", "x", *"wwww", spatial=0)], None, I, opset=7),
        "for every pixel",
    ),
    "power": (model([node("Pow", "x", "e")], None, {"e": np.float32([1.5])}), "a power other"),
    "name that is no text": (with_a_name_of(b"\xff\xfe"), "a name is not text"),
    "custom domain": (model([node("Relu", "x", domain="com.example")]), "com.example"),
    "unknown operator": (model([node("LSTM", "x")]), r"node 0, 'LSTM' \(makes 'y'\)"),
    "unknown tensor": (model([node("Relu", "q")]), "reads 'q'"),
    "cycle": (model([node("Relu", "y")]), "reads 'y'"),
    "made twice": (model([node("Relu"), node("Relu")]), "a second time"),
    "made over the input": (model([helper.make_node("Relu", ["x"], ["x"])]), "a second time"),
    "output missing": (model([node("Relu")], outputs=("z",)), "made by no node"),
    "output constant": (model([node("Relu")], None, I, outputs=("i",)), "is a constant"),
    "input missing": (model([node("Conv", "x")]), "input 1 is missing"),
    "input integers": (model([node("Add", "x", "i")], None, I), "only float32"),
    "attribute type": (model([node("LeakyRelu", "x", alpha=3)]), "attribute alpha"),
    "attribute missing": (model([node("MaxPool", "x")]), "kernel_shape"),
    "strides": (model([node("Conv", "x", "w", strides=[0, 1])], None, I), "stride"),
    "strides of three": (model([node("Conv", "x", "w", strides=[1, 1, 1])], None, I), "length"),
    "pads": (model([node("Conv", "x", "w", pads=[-1, 0, 0, 0])], None, I), "pad"),
    "same with stride 0": (
        model([node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[0, 1])], None, I),
        "below 1",
    ),
    "groups": (model([node("Conv", "x", "w", group=2)], None, I), "groups"),
    "auto pad": (model([node("Conv", "x", "w", auto_pad="MAYBE")], None, I), "MAYBE"),
    "axis": (model([node("Concat", "x", axis=9)]), "axis"),
    "reshape": (model([node("Reshape", "x", "i")], None, I), "does not fit"),
    "shape from a tensor": (model([node("Reshape", "x", "x")]), "must be a constant"),
    "gather": (model([node("Gather", "x", "i", axis=0)], None, I), "indices"),
    "rank": (relu(shape=[1] * 9), "no shape"),
    "input huge": (relu(shape=[1, 3, 1 << 40, 4]), "side of"),
    "constant bomb": (
        model(
            [helper.make_node("ConstantOfShape", ["s"], ["z"]), node("Add", "x", "z")],
            None,
            {"s": np.array([1 << 30, 1 << 30], np.int64)},
        ),
        "a constant of shape",
    ),
    "range bomb": (
        model(
            [helper.make_node("Range", ["a", "b", "c"], ["z"]), node("Reshape", "x", "z")],
            None,
            {"a": np.array(0), "b": np.array(1 << 60), "c": np.array(1)},
        ),
        "a constant of shape",
    ),
    "gather bomb": (
        model(
            [helper.make_node("Gather", ["a", "b"], ["z"]), node("Add", "x", "z")],
            None,
            {"a": np.ones((2, 1 << 15), np.float32), "b": np.zeros(1 << 10, np.int64)},
        ),
        "a constant of shape",
    ),
    "gather along no axis": (
        model(
            [helper.make_node("Gather", ["a", "b"], ["z"], axis=3), node("Add", "x", "z")],
            None,
            {"a": np.ones((2, 2), np.float32), "b": np.zeros(1, np.int64)},
        ),
        "do not fit",
    ),
    "range of step 0": (
        model(
            [helper.make_node("Range", ["a", "b", "c"], ["z"]), node("Reshape", "x", "z")],
            None,
            {"a": np.array(0), "b": np.array(9), "c": np.array(0)},
        ),
        "do not fit",
    ),
    "outer product bomb": (
        model(
            [helper.make_node("Mul", ["a", "b"], ["z"]), node("Add", "x", "z")],
            None,
            {"a": np.ones((1 << 17, 1), np.float32), "b": np.ones((1, 1 << 17), np.float32)},
        ),
        "too large",
    ),
    "matrix products": (model([node("MatMul", "x", "x")], [1, 100, 4, 5]), "matmul: .* multiplied"),
    "tensor dims": (with_tensor(dims=[5]), "tensor 'w': damaged"),
    "tensor dims negative": (with_tensor(dims=[-4]), r"tensor 'w': shape \[-4\]"),
    "tensor dims overflow": (with_tensor(dims=[1 << 40, 1 << 40]), "elements"),
    "tensor rank": (with_tensor(dims=[1] * 9), "tensor 'w': shape"),
    "tensor type": (with_tensor(data_type=99), "tensor 'w': damaged"),
    "tensor name": (
        model([node("Add", "x", "\x1b[2J")], None, {"\x1b[2J": np.ones(3, np.float32)}),
        "named",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    proto, says = REFUSED[case]
    with pytest.raises(FormatError, match=says) as caught:
        read(tmp_path, proto)
    assert "x.onnx" in str(caught.value) and str(caught.value).isprintable()


GOOD = model(
    [
        helper.make_node("Reshape", ["x", "s"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ],
    None,
    {"w": DENSE, "s": np.array([-1, 48], np.int64)},
).SerializeToString()


@settings(max_examples=300)
@given(data=st.data())
def test_mutations(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any changed bytes, any truncation: refused with our own error, or a graph."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(
            st.integers(0, 150) | st.integers(len(content) - 150, len(content) - 1)
        )
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        read_onnx(path)
    except TinyfaceError as error:
        assert "mutated" in str(error)
