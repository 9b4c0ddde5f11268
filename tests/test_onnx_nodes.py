"""ONNX import: the standard's own tests of each operator pass or are refused for a known reason."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.backends.numpy import run_graph
from tinyface.errors import TinyfaceError

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import numpy_helper  # noqa: E402
from onnx_models import save  # noqa: E402

from tinyface.formats.onnx import OPERATORS, Converter  # noqa: E402
from tinyface.formats.onnx_constants import FOLD  # noqa: E402
from tinyface.formats.onnx_file import open_onnx  # noqa: E402
from tinyface.ops import OPS  # noqa: E402

KNOWN = {*OPERATORS, *FOLD, "Shape"}

# what may be refused, and why: the message must say so
REASONS = {
    "type": r"is of type int64; only float32|elements of type uint64|"
    r"neither of floating point nor of bytes|computes with bytes",
    "training": "in training mode",
    "second output": r"its output '\w+' is not computed here|storage in columns",
    "three axes": "of an input with 5 axes",
    "resize": "the rule 'tf_crop_and_resize'|known here are height and width",
    "constants": "must be a constant|must be integers",
    "pattern": "a power other than|this operator is not known here",
    "old opset": r"opset \d; 7 to",
    "equation": "known are one or two operands",
    "attention": "of a batch|split.sizes|matrix products|earlier keys|hides everything|its mask is",
    "batch": "batch_dims",
    "places": "some of every axis|adds to what is there",
}


LEFT_OUT = {
    "test_mod_int64_fmod": "Mod with fmod=1 occurs in no network and is computed nowhere",
    "test_resize_downsample_scales_linear_align_corners": "PyTorch and onnxruntime differ from it",
    "test_resize_downsample_scales_cubic_align_corners": "PyTorch and onnxruntime differ from it",
}


def node_tests() -> list[Any]:
    """Those made of operators that are claimed here, whose values NumPy can hold."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    chosen = []
    for case in cases:
        if case.model is None or case.data_sets is None:
            continue  # an older onnx keeps them in files
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
        rtol = max(case.rtol, 2**-9 if np.asarray(wanted).dtype == np.float16 else 0)
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
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    refusal = attempt(tmp_path / "x.onnx", CASES[name])
    if refusal:
        assert any(re.search(reason, refusal) for reason in REASONS.values()), refusal
        pytest.skip(refusal.partition(": ")[2][:120])
    PASSED.update(node.op_type for node in CASES[name].model.graph.node)


def test_what_an_operator_names_is_read() -> None:
    named = {name for cls in OPS.values() for name in cls.onnx}
    assert named <= OPERATORS.keys(), "write a make_ function for it in tinyface/formats/onnx_*.py"


def test_every_claimed_operator_passed_some_case() -> None:
    if len(PASSED) < 5:
        pytest.skip("only meaningful after all node tests")
    # no tests of today's onnx package, or of opset 1: covered by hand in other files
    assert set(OPERATORS) - {"Upsample", "Not"} <= PASSED
