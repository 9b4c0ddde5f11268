"""The peers, each behind one function: make(graph, threads, folder) -> run(x) -> outputs.

A peer that is not installed raises ImportError, one that cannot take a network any other
exception: peers.py notes it and goes on. ``folder`` is for the files of this one graph. ``run``
takes a float32 NCHW array and returns the list of outputs in the graph's order.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from tinyface import __version__
from tinyface.formats.onnx_export import export_onnx
from tinyface.graph import Graph
from tinyface.passes import optimise
from tinyface.runtime import Session

Outputs = list[np.ndarray[Any, Any]]
Run = Callable[[np.ndarray[Any, Any]], Outputs]


def onnx_file(graph: Graph, folder: Path) -> Path:
    """The network as ONNX with Conv-BN folded, written once."""
    path = folder / "network.onnx"
    if not path.exists():
        export_onnx(optimise(graph), path)
    return path


def tinyface(graph: Graph, threads: int, folder: Path) -> Run:
    session = Session(graph, "c", threads)
    return lambda x: list(session.run(x).values())


def onnxruntime(graph: Graph, threads: int, folder: Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        str(onnx_file(graph, folder)), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: list(session.run(None, {name: x}))


def openvino(graph: Graph, threads: int, folder: Path) -> Run:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(onnx_file(graph, folder)))
    model.reshape(list(next(iter(graph.inputs.values())).shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(x: np.ndarray[Any, Any]) -> Outputs:
        request.infer([x], share_inputs=True)
        return [np.array(request.get_output_tensor(i).data) for i in range(len(graph.outputs))]

    return run


def pytorch(graph: Graph, threads: int, folder: Path) -> Run:
    import torch

    from benchmarks.torch_graph import TorchGraph

    model = TorchGraph(optimise(graph)).eval()

    def run(x: np.ndarray[Any, Any]) -> Outputs:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return [y.numpy() for y in model(torch.from_numpy(x))]

    return run


def ncnn_files(graph: Graph, folder: Path) -> tuple[Path, Path]:
    """.param and .bin by way of pnnx, fp32."""
    import pnnx
    import torch

    from benchmarks.torch_graph import TorchGraph

    base = folder / "network"
    param, weights = Path(f"{base}.ncnn.param"), Path(f"{base}.ncnn.bin")
    if not param.exists():
        shape = next(iter(graph.inputs.values())).shape
        with torch.inference_mode():
            module = torch.jit.trace(TorchGraph(optimise(graph)).eval(), torch.zeros(shape))
        module.save(f"{base}.pt")
        sides = ",".join(map(str, shape))
        subprocess.run(
            [pnnx.EXEC_PATH, f"{base}.pt", f"inputshape=[{sides}]f32", "fp16=0", "optlevel=2"],
            check=True, capture_output=True, timeout=300, cwd=folder,
        )  # fmt: skip
    return param, weights


def ncnn(graph: Graph, threads: int, folder: Path) -> Run:
    import ncnn as nn

    param, weights = ncnn_files(graph, folder)
    net = nn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise RuntimeError("ncnn refused its own files")
    shapes = [graph.types[name].shape for name in graph.outputs]

    def run(x: np.ndarray[Any, Any]) -> Outputs:
        with net.create_extractor() as extractor:
            extractor.input("in0", nn.Mat(x[0]))
            return [
                np.array(extractor.extract(f"out{i}")[1]).reshape(shape)
                for i, shape in enumerate(shapes)
            ]

    return run


def opencv(graph: Graph, threads: int, folder: Path) -> Run:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(onnx_file(graph, folder)))
    names = net.getUnconnectedOutLayersNames()

    def run(x: np.ndarray[Any, Any]) -> Outputs:
        cv2.setNumThreads(threads)
        net.setInput(x)
        return list(net.forward(names))

    return run


def mnn_file(graph: Graph, folder: Path) -> Path:
    """By MNN's converter, without the command around it: that one installs a package with pip and
    sends what was converted to its makers."""
    path = folder / "network.mnn"
    if not path.exists():
        convert = "import sys, _tools; _tools.mnnconvert(sys.argv)"
        source = str(onnx_file(graph, folder))
        made = subprocess.run(
            [sys.executable, "-c", convert, "-f", "ONNX", "--modelFile", source,
             "--MNNModel", str(path), "--bizCode", "peers"],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if not path.exists():
            raise RuntimeError(f"MNN cannot convert it: {(made.stderr or made.stdout)[-120:]}")
    return path


def mnn(graph: Graph, threads: int, folder: Path) -> Run:
    import MNN

    net = MNN.Interpreter(str(mnn_file(graph, folder)))
    settings = {"backend": "CPU", "numThread": threads, "precision": "high"}  # high: fp32
    session = net.createSession(settings)
    into = net.getSessionInput(session)
    net.resizeTensor(into, tuple(next(iter(graph.inputs.values())).shape))
    net.resizeSession(session)
    outputs = [net.getSessionOutput(session, name) for name in graph.outputs]
    kind, layout = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe

    def run(x: np.ndarray[Any, Any]) -> Outputs:
        into.copyFrom(MNN.Tensor(x.shape, kind, x, layout))
        net.runSession(session)
        results = []
        for output in outputs:
            shape = output.getShape()
            here = MNN.Tensor(shape, kind, np.empty(shape, np.float32), layout)
            output.copyToHostTensor(here)
            results.append(np.array(here.getNumpyData()))
        return results

    return run


ENGINES: dict[str, Callable[[Graph, int, Path], Run]] = {
    "tinyface": tinyface,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "pytorch": pytorch,
    "ncnn": ncnn,
    "mnn": mnn,
    "opencv": opencv,
}
PACKAGES = {"pytorch": ("torch",), "opencv": ("opencv-python", "opencv-python-headless")}


def versions() -> dict[str, str]:
    """Installed version of tinyface and each peer, for the record."""
    wanted = {package for name in ENGINES for package in PACKAGES.get(name, (name,))}
    found = {d.name.lower(): d.version for d in distributions() if d.name.lower() in wanted}
    return found | {"tinyface": __version__}
