"""Does another runtime compute the same? For ``tinyface import --verify``.

onnxruntime, ncnn and PyTorch are no dependencies and never imported here: each is started in a
process of its own, if the user has it, so that a crash or a megabyte-hungry runtime stays there.
What can be compared depends on what the file holds:

- an ONNX file or an ncnn model is a network: its own runtime runs it, on a picture of random
  pixels, prepared as the card says, and all outputs are compared;
- a checkpoint holds tensors and no network. PyTorch reads it once more and the tensors are
  compared; and onnxruntime runs our own ONNX export of the network, which checks the arithmetic
  here, but not that this is the network the weights were trained as.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from tinyface.errors import FormatError, TinyfaceError
from tinyface.formats.importer import Imported
from tinyface.formats.onnx_export import export_onnx
from tinyface.formats.onnx_file import write_until
from tinyface.formats.sniff import Kind, sniff
from tinyface.ops.spec import Array
from tinyface.runtime import Session

BOUND: Final = 1e-3  # of the largest output; float32 in another order gives 1e-6 to 1e-5
TIMEOUT: Final = 300  # seconds


@dataclass(frozen=True)
class Check:
    """One comparison.

    what: was compared, in words. difference: the largest absolute one; None: not compared, and
    ``problem`` says why. largest: absolute value on the other side.
    """

    runtime: str
    what: str
    difference: float | None = None
    largest: float = 0.0
    problem: str = ""

    @property
    def good(self) -> bool:
        """Compared and equal up to rounding, or not compared."""
        return self.difference is None or self.difference <= BOUND * max(self.largest, 1e-6)

    def __str__(self) -> str:
        if self.difference is None:
            return f"not verified: {self.what}: {self.problem}"
        by = f"largest difference {self.difference:.2g}, largest value {self.largest:.3g}"
        return f"{'verified' if self.good else 'DIFFERS'}: {self.what}: {self.problem or by}"


def crosscheck(
    path: str | os.PathLike[str],
    imported: Imported,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> list[Check]:
    """Compare an imported network with what other runtimes make of its file.

    Args:
        path: the file it came from. weights: the .bin beside an ncnn .param, as for the import.
        seed: of the random picture.

    Returns:
        what was compared or why not; look at ``good``.
    """
    path, kind = Path(path), sniff(Path(path))
    with tempfile.TemporaryDirectory(prefix="tinyface-verify-") as folder:
        if kind is Kind.ONNX:
            what, file = "onnxruntime runs the file itself", path
            if imported.until:
                what, file = "onnxruntime runs the file up to there", Path(folder, "until.onnx")
                write_until(path, imported.until, file)
            return [_outputs("onnxruntime", what, [file], imported, folder, seed)]
        if kind is Kind.NCNN_PARAM:
            files = [path, Path(weights) if weights else path.with_suffix(".bin")]
            return [_outputs("ncnn", "ncnn runs the file itself", files, imported, folder, seed)]
        checks = [] if kind is Kind.SAFETENSORS else [_tensors(path, imported, folder)]
        return [*checks, _own_export(imported, folder, seed)]


def _own_export(imported: Imported, folder: str, seed: int) -> Check:
    what = (
        f"onnxruntime runs our ONNX export of {imported.graph.name} (the file holds no network, "
        "so this checks the arithmetic and not the choice of the network)"
    )
    try:
        export_onnx(imported.graph, Path(folder, "export.onnx"))
    except TinyfaceError as error:
        return Check("onnxruntime", what, problem=str(error))
    return _outputs("onnxruntime", what, [Path(folder, "export.onnx")], imported, folder, seed)


def _outputs(
    runtime: str, what: str, files: Sequence[Path], imported: Imported, folder: str, seed: int
) -> Check:
    """Run both on one random picture and compare all outputs, each against its largest value."""
    preprocess = imported.card.preprocess
    shape = (1, preprocess.height, preprocess.width, 3)
    picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    x = preprocess.apply(picture)
    np.save(Path(folder, "in.npy"), x)
    try:
        theirs = list(_elsewhere(runtime, files, folder).values())
    except FormatError as error:
        return Check(runtime, what, problem=str(error))
    (name,) = imported.graph.inputs
    graph = replace(imported.graph, outputs=imported.outputs or imported.graph.outputs)
    ours = list(Session(graph).run({name: x}).values())
    if (
        imported.card.task == "detect" and not imported.outputs
    ):  # loc, conf, landms, in whatever order they are there
        theirs.sort(key=lambda a: (4, 2, 10).index(a.shape[-1]) if a.shape[-1] in (4, 2, 10) else 3)
    if [a.size for a in ours] != [a.size for a in theirs]:
        shapes = [a.shape for a in theirs]
        return Check(runtime, what, float("inf"), problem=f"gives outputs of shapes {shapes}")
    worst = max(
        (_compared(a.reshape(-1), b.reshape(-1)) for a, b in zip(ours, theirs, strict=True)),
        key=lambda pair: pair[0] / max(pair[1], 1e-6),
    )
    return Check(runtime, what, *worst)


def _compared(ours: Array, theirs: Array) -> tuple[float, float]:
    """Largest difference, largest value; infinitely different where only one is not a number."""
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf"), float("inf")
    finite = np.isfinite(theirs)
    a, b = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    return float(np.abs(a - b).max(initial=0)), float(np.abs(b).max(initial=0))


def _tensors(path: Path, imported: Imported, folder: str) -> Check:
    """Read the checkpoint with PyTorch, which alone defines its format; compare every tensor."""
    what = "torch.load reads the same tensors"
    try:
        theirs = _elsewhere("torch", [path], folder)
    except FormatError as error:
        return Check("torch", what, problem=str(error))
    ends: dict[str, Array] = {}
    for name, value in theirs.items():  # container.module.conv1.weight -> all that it ends with
        parts = name.split(".")
        ends |= {".".join(parts[i:]): value for i in range(len(parts))}
    worst, missing = (0.0, 0.0), []
    for name, value in imported.graph.params.items():
        other = ends.get(name)
        if other is None or other.size != value.size:
            missing.append(name)
            continue
        worst = max(worst, _compared(value.reshape(-1), other.astype(np.float32).reshape(-1)))
    if len(missing) == len(imported.graph.params):
        return Check("torch", what, problem="it has other names there")
    left = f", {len(missing)} of them not found under these names" if missing else ""
    return Check("torch", f"{what} ({len(imported.graph.params)}{left})", *worst)


# -- the other process


def _elsewhere(runtime: str, files: Sequence[Path], folder: str) -> dict[str, Array]:
    """What ``runtime`` makes of ``files``, in a process of its own.

    Raises:
        FormatError: it is not installed, fails, crashes, or takes too long.
    """
    if find_spec(runtime) is None:
        raise FormatError(f"{runtime} is not installed (pip install {runtime})")
    names = [str(file.absolute()) for file in files]
    command = [sys.executable, "-m", "tinyface.crosscheck", runtime, folder, *names]
    home = str(Path(__file__).parent.parent)
    environment = {
        **os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, cwd=folder
        )
    except subprocess.TimeoutExpired:
        raise FormatError(f"{runtime} took more than {TIMEOUT} seconds") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        said = "".join(c if c.isprintable() else "?" for c in lines[-1])[:300]
        raise FormatError(f"{_version(runtime)} fails: {said}")
    with np.load(Path(folder, "out.npz"), allow_pickle=False) as file:
        order: list[str] = file["names"].tolist()
        return {name: file[f"a{i}"] for i, name in enumerate(order)}


def _version(runtime: str) -> str:
    try:
        return f"{runtime} {version(runtime)}"
    except PackageNotFoundError:
        return runtime


def _onnxruntime(module: Any, folder: Path, model: str) -> dict[str, Array]:
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    session = module.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = np.load(folder / "in.npy")
    if given.shape[1] not in (1, 3) and given.shape[3] in (1, 3):  # as importer.channels_first
        x = x.transpose(0, 2, 3, 1)
    kinds = {"float16": np.float16, "double": np.float64, "uint8": np.uint8}
    kind: Any = kinds.get(given.type[len("tensor(") : -1], np.float32)
    names = [output.name for output in session.get_outputs()]
    made = session.run(names, {given.name: np.ascontiguousarray(x, kind)})
    return dict(zip(names, made, strict=True))


def _ncnn(module: Any, folder: Path, param: str, weights: str) -> dict[str, Array]:
    net = module.Net()
    net.opt.num_threads = 1
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    if net.load_param(param) or net.load_model(weights):
        raise SystemExit("it does not load the model")
    extractor = net.create_extractor()
    x = np.load(folder / "in.npy")[0]  # a Mat keeps no hold of the array that it is made of
    extractor.input(net.input_names()[0], module.Mat(x).clone())
    results: dict[str, Array] = {}
    for name in net.output_names():
        status, value = extractor.extract(name)
        if status:
            raise SystemExit(f"it computes no {name}")
        results[name] = np.array(value)
    return results


def _torch(module: Any, folder: Path, checkpoint: str) -> dict[str, Array]:
    found: dict[str, Array] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}")
        elif isinstance(value, module.Tensor) and value.is_floating_point():
            found[name] = value.detach().float().cpu().numpy()

    walk(module.load(checkpoint, map_location="cpu", weights_only=True), "")
    return found


RUN: Final[dict[str, Callable[..., dict[str, Array]]]] = {
    "onnxruntime": _onnxruntime, "ncnn": _ncnn, "torch": _torch
}  # fmt: skip


def main(runtime: str, folder: str, *files: str) -> None:
    """The other process: run ``files`` in ``runtime``, write ``out.npz``."""
    from importlib import import_module

    made = RUN[runtime](import_module(runtime), Path(folder), *files)
    arrays: dict[str, Any] = {f"a{i}": value for i, value in enumerate(made.values())}
    np.savez(Path(folder, "out.npz"), names=np.array(list(made)), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
