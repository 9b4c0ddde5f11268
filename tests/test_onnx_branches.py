"""ONNX files with If: the branch that a constant condition takes, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface import limits
from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

import onnx_models as small  # noqa: E402
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from tinyface.formats.onnx import read_onnx  # noqa: E402
from tinyface.formats.onnx_file import MAX_DEPTH  # noqa: E402

node = helper.make_node


def graph(nodes: list[Any], outputs: str, **constants: np.ndarray) -> Any:
    return small.graph(nodes, None, outputs.split(), constants)


def branch(kind: str, name: str, **attributes: Any) -> Any:
    """One operator on x, which is made outside."""
    return graph([node(kind, ["x"], [name], **attributes)], name)


def choice(condition: str, then: Any, otherwise: Any, output: str = "y") -> Any:
    return node("If", [condition], [output], then_branch=then, else_branch=otherwise)


def saved(path: Path, nodes: list[Any], outputs: str = "y", **constants: np.ndarray) -> Path:
    proto = small.model(nodes, [1, 3, 1, 4], constants, outputs=outputs.split())
    return small.save(path, proto)


def check(path: Path) -> None:
    """Against the standard's reference."""
    x = np.random.default_rng(0).standard_normal((1, 3, 1, 4)).astype(np.float32)
    got = run_graph(read_onnx(path), {"x": x})
    wanted = ReferenceEvaluator(str(path)).run(None, {"x": x})
    for ours, theirs in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_leaves_a_branch_is_as_large_as_it_says(tmp_path: Path) -> None:
    """Who reads the If's output does not read the branch's."""
    wide = branch("Identity", "b")
    expand = graph([node("Expand", ["x", "shape"], ["a"])], "a", shape=np.array([1, 3, 5, 4]))
    check(saved(tmp_path / "m.onnx", [choice("c", expand, wide)], c=np.array(True)))


@pytest.mark.parametrize("which", [True, False])
def test_the_branch_that_is_taken(tmp_path: Path, which: bool) -> None:
    nodes = [
        choice("c", branch("Relu", "a"), branch("Sigmoid", "b"), "z"),
        node("Neg", ["z"], ["y"]),
    ]
    check(saved(tmp_path / "m.onnx", nodes, c=np.array(which)))


@pytest.mark.parametrize("side", [1, 2])
def test_a_shape_decides(tmp_path: Path, side: int) -> None:
    """What torch.onnx.export writes for squeeze where it does not know the side."""
    squeezed = graph([node("Squeeze", ["x", "axes"], ["a"])], "a", axes=np.array([2]))
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "two"], ["height"], axis=0),
        node("Equal", ["height", "wanted"], ["c"]),
        choice("c", squeezed, branch("Identity", "b"), "z"),
        node("Relu", ["z"], ["y"]),
    ]
    check(saved(tmp_path / "m.onnx", nodes, two=np.array(2), wanted=np.array(side)))


def test_branches_within_branches_and_constants_of_their_own(tmp_path: Path) -> None:
    scaled = graph([node("Mul", ["x", "w"], ["a"])], "a", w=np.float32([2.5]))
    inner = graph([choice("d", branch("Tanh", "b"), scaled, "inner")], "inner")
    nodes = [choice("c", inner, branch("Relu", "e"))]
    check(saved(tmp_path / "m.onnx", nodes, c=np.array(True), d=np.array(False)))


def test_a_branch_may_give_a_constant(tmp_path: Path) -> None:
    shape = graph([], "s", s=np.array([1, 12]))
    other = graph([], "t", t=np.array([3, 4]))
    nodes = [choice("c", shape, other, "to"), node("Reshape", ["x", "to"], ["y"])]
    check(saved(tmp_path / "m.onnx", nodes, c=np.array(True)))


def test_what_is_expanded_is_read_in_a_branch(tmp_path: Path) -> None:
    """Where a reader does not broadcast, the larger tensor is made."""
    to, axes = np.array([1, 3, 6, 4]), np.array([2, 3])
    total = graph([node("ReduceSum", ["big", "axes"], ["a"])], "a", axes=axes)
    nodes = [node("Expand", ["x", "to"], ["big"]), choice("c", total, branch("Relu", "b"))]
    check(saved(tmp_path / "m.onnx", nodes, c=np.array(True), to=to))


def nested(depth: int) -> Any:
    inner = branch("Relu", f"y{depth}")
    for i in reversed(range(depth)):
        inner = graph([choice("c", inner, branch("Relu", f"o{i}"), f"y{i}")], f"y{i}")
    return inner


def refused() -> dict[str, tuple[list[Any], str]]:
    relu, many = branch("Relu", "a"), limits.MAX_NODES // 2 + 1
    long = graph([node("Relu", ["x"], [f"r{i}"]) for i in range(many)], "r0")
    two = graph([node("Relu", ["x"], ["p"]), node("Relu", ["x"], ["q"])], "p q")
    loop = node("Loop", ["", "c", "x"], ["y"], body=relu)
    return {
        "of the picture": ([choice("x", relu, relu)], "the picture says"),
        "made twice": ([node("Relu", ["x"], ["a"]), choice("c", relu, relu)], "a second time"),
        "constants twice": (
            [choice("c", graph([], "c", c=np.array(True)), relu)], "'c' a second time",
        ),
        "no such tensor": ([choice("c", relu, relu), node("Relu", ["a0"], ["z"])], "'a0'"),
        "not made there": ([choice("c", graph([], "a"), relu)], "no node of its branch"),
        "more outputs": ([choice("c", two, two)], "other outputs"),
        "one branch": ([node("If", ["c"], ["y"], then_branch=1, else_branch=relu)], "missing"),
        "a loop": ([loop], "node 0, 'Loop'.*subgraph"),
        "too deep": ([choice("c", nested(MAX_DEPTH), relu)], "subgraph"),
        "too many nodes": ([choice("c", long, long)], "too many nodes"),
    }  # fmt: skip


@pytest.mark.parametrize("case", refused())
def test_refused(tmp_path: Path, case: str) -> None:
    nodes, message = refused()[case]
    with pytest.raises(FormatError, match=message):
        read_onnx(saved(tmp_path / "m.onnx", nodes, c=np.array(True)))
