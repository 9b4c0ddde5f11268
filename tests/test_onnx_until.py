"""``tinyface import --until``: the part of an ONNX file in front of some tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyface.errors import FormatError, UsageError
from tinyface.formats.importer import import_file
from tinyface.runtime import Session

pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from onnx import helper
from onnx_models import model, node, onnxruntime_outputs, save

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((4, 7)).astype(np.float32),
    "u": RNG.standard_normal((7, 5)).astype(np.float32),
    "k": np.array([2]),
}
NODES = [
    node("Conv", "x", "w", outputs="map"),
    node("GlobalAveragePool", "map", outputs="mean"),
    node("Flatten", "mean", outputs="flat"),
    node("Gemm", "flat", "v", outputs="embedding"),
    node("Gemm", "embedding", "u", outputs="classes"),
    helper.make_node("TopK", ["classes", "k"], ["best", "y"]),
]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A recogniser with its classifier and a choice among the classes."""
    return save(tmp_path / "classifier.onnx", model(NODES, (1, 3, 8, 8), WEIGHTS))


def test_what_lies_behind_is_left_out(classifier: Path) -> None:
    imported = import_file(classifier, until=["embedding"])
    assert imported.card.task == "embed" and imported.card.embedding_size == 7
    kinds = [n.op.kind for n in imported.graph.nodes]
    assert kinds == ["conv2d", "global_average_pool", "flatten", "linear"]
    x = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    (y,) = Session(imported.graph).run(x).values()
    whole = model(NODES[:-1], (1, 3, 8, 8), WEIGHTS, outputs=("embedding",))
    (wanted,) = onnxruntime_outputs(save(classifier.parent / "whole.onnx", whole), x)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def test_several_outputs_in_the_order_asked_for(classifier: Path) -> None:
    graph = import_file(classifier, until=["classes", "map", "classes"]).graph
    assert [graph.types[name].shape for name in graph.outputs] == [(1, 5), (1, 4, 6, 6)]


def test_outputs_without_names_are_no_links(tmp_path: Path) -> None:
    """Two operators leave an output away: the second is not needed for it."""
    nodes = [
        node("Conv", "x", "w", outputs="map"),
        helper.make_node("Dropout", ["map"], ["a", ""]),
        helper.make_node("TopK", ["a", "k"], ["", "y"]),
    ]
    file = save(tmp_path / "x.onnx", model(nodes, (1, 3, 8, 8), WEIGHTS))
    assert [n.op.kind for n in import_file(file, until=["a"]).graph.nodes] == ["conv2d", "identity"]


def test_the_advice_can_be_pasted(tmp_path: Path) -> None:
    """Whatever the file calls its tensors, a shell takes them for one word."""
    for name, advised in (("a; ls", "--until 'a; ls'"), ("a" * 300, "--until TENSOR")):
        nodes = [node("Flatten", outputs=name), helper.make_node("TopK", [name, "k"], ["", "y"])]
        file = save(tmp_path / "x.onnx", model(nodes, (1, 3, 8, 8), WEIGHTS))
        with pytest.raises(FormatError, match=re.escape(advised)):
            import_file(file)


def test_a_tensor_that_is_not_there(classifier: Path) -> None:
    with pytest.raises(UsageError, match="no operator makes a tensor 'embeddings'.*embedding"):
        import_file(classifier, until=["embeddings"])
    with pytest.raises(UsageError, match="no operator makes a tensor 'x'"):
        import_file(classifier, until=["x"])  # an input


def test_other_files_have_no_such_tensors(tmp_path: Path) -> None:
    (tmp_path / "x.param").write_text("7767517\n1 1\nInput in 0 1 in 0=8 1=8 2=3\n")
    with pytest.raises(UsageError, match="--until is for ONNX files"):
        import_file(tmp_path / "x.param", until=["in"])


def test_at_the_command_line(tinyface: Any, classifier: Path, tmp_path: Path) -> None:
    """The refusal of the whole file says what to ask for; what is asked for is verified."""
    out = tmp_path / "o.safetensors"
    refused = tinyface("import", classifier, "-o", out)
    assert refused.status != 0 and "--until classes" in refused.err
    pytest.importorskip("onnxruntime")
    done = tinyface("import", classifier, "-o", out, "--until", "embedding", "--verify")
    assert done.status == 0 and "verified: onnxruntime runs the file up to there" in done.err
