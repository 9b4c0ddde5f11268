"""ncnn files: every layer against ncnn itself, a public model, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import ncnn as attack
from hypothesis import given, settings
from hypothesis import strategies as st
from ncnn_cases import PRE, PRE_WEIGHTS, USUAL
from ncnn_files import run_ncnn, write_ncnn
from ncnn_more_cases import MORE
from shared import SHARED, needs_shared

from tinyface import limits
from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError, UsageError
from tinyface.formats.importer import import_file
from tinyface.formats.ncnn import LAYERS, read_ncnn
from tinyface.formats.ncnn_file import _number


def test_the_ncnn_attacks_differ_from_a_good_file_in_one_thing(tmp_path: Path) -> None:
    path = write_ncnn(tmp_path, attack.param(attack.INPUT, attack.CONV), attack.WEIGHTS)
    graph = read_ncnn(path)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = np.einsum("oc,nchw->nohw", weight, x)
    np.testing.assert_allclose(run_graph(graph, {"in": x})["conv"], expected, rtol=1e-5)


@pytest.mark.parametrize("rule", attack.BROKEN)
def test_broken_ncnn(tmp_path: Path, rule: str) -> None:
    text, data, says = attack.BROKEN[rule]
    with pytest.raises(FormatError, match=says) as caught:
        read_ncnn(write_ncnn(tmp_path, text, data))
    assert str(caught.value).isprintable()


def test_the_largest_float_of_ncnn() -> None:
    """FLT_MAX in nine digits is a little more than it is: what pnnx writes of clamp(min=0.5)."""
    assert _number("3.40282347e38") == -_number("-3.40282347e38") == limits.MAX_FLOAT
    for text in ("3.403e38", "inf", "nan"):
        with pytest.raises(ValueError):
            _number(text)


def test_ncnn_files(tmp_path: Path) -> None:
    (tmp_path / "m.param").write_text(attack.param(attack.INPUT))
    with pytest.raises(FormatError, match=r"no m\.bin beside"):
        read_ncnn(tmp_path / "m.param")
    (tmp_path / "m.param").write_bytes(b"7767517\n\xff\xfe")
    (tmp_path / "m.bin").write_bytes(b"\0")
    with pytest.raises(FormatError, match="not a text file"):
        read_ncnn(tmp_path / "m.param")


@settings(max_examples=200)
@given(data=st.data())
def test_mutated_ncnn(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    lines = attack.param(attack.INPUT, attack.CONV + " 3=1 4=0 9=2 -23310=1,0.1")
    text = list(lines)
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.characters(codec="utf-8"))
    folder = tmp_path_factory.getbasetemp()
    try:
        read_ncnn(write_ncnn(folder, "".join(text), attack.WEIGHTS))
    except FormatError as error:
        assert "m.param" in str(error) or "m.bin" in str(error)


CASES = USUAL | MORE


@pytest.mark.parametrize("case", CASES)
def test_layer_against_ncnn(tmp_path: Path, case: str) -> None:
    ncnn = pytest.importorskip("ncnn")
    lines, data = CASES[case]
    text = attack.param("Input in 0 1 in 0=11 1=9 2=3", *PRE, *lines, blobs=20)
    path = write_ncnn(tmp_path, text, PRE_WEIGHTS + data)
    picture = np.random.default_rng(3).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    x = picture.transpose(2, 0, 1)[None].astype(np.float32)
    graph = read_ncnn(path)
    assert len(graph.outputs) == 1
    (ours,) = run_graph(graph, {"in": x}).values()
    theirs = of_picture(ncnn, path, picture)
    assert ours[0].shape == theirs.shape
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=2e-5 * max(1.0, scale))


def of_picture(ncnn: Any, path: Path, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    # from_pixels, because a Mat over a NumPy array keeps no hold of the array's memory
    rgb = ncnn.Mat.PixelType.PIXEL_RGB
    found = run_ncnn(ncnn, path, ncnn.Mat.from_pixels(picture, rgb, width, height))
    assert found is not None
    return found


def test_every_ncnn_layer_is_tested() -> None:
    tested = {line.split()[0] for lines, _ in CASES.values() for line in lines} | {"Input"}
    assert tested | {line.split()[0] for line in PRE} == set(LAYERS)


@needs_shared
def test_public_ncnn_model() -> None:
    """Same persons are alike and others are not: what a wrong layer would destroy."""
    from PIL import Image

    imported = import_file(SHARED / "weights" / "mobilefacenet-v1.ncnn.param")
    assert imported.card.embedding_size == 128 and imported.card.preprocess.mean == (0, 0, 0)
    folder = SHARED / "images" / "aligned"
    names = ("group_of_four_0", "portrait_female_10_0", "portrait_male_10_0")
    rgb = np.stack([np.asarray(Image.open(folder / f"{n}.png").convert("RGB")) for n in names])
    graph = imported.graph.with_inputs({"data": (3, 3, 112, 112)})
    (e,) = run_graph(graph, {"data": imported.card.preprocess.apply(rgb)}).values()
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    assert e[0] @ e[1] > 0.9 and abs(e[0] @ e[2]) < 0.3


@needs_shared
def test_public_ncnn_model_against_ncnn(tmp_path: Path) -> None:
    ncnn = pytest.importorskip("ncnn")
    for suffix in (".param", ".bin"):
        content = (SHARED / "weights" / f"mobilefacenet-v1.ncnn{suffix}").read_bytes()
        (tmp_path / f"m{suffix}").write_bytes(
            content.replace(b" data", b" in").replace(b" fc1 0", b" out 0")
            if suffix == ".param"
            else content
        )
    picture = np.random.default_rng(3).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    graph = read_ncnn(tmp_path / "m.param")
    x = picture.transpose(2, 0, 1)[None].astype(np.float32)
    (ours,) = run_graph(graph, {"in": x}).values()
    theirs = of_picture(ncnn, tmp_path / "m.param", picture)
    np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_ncnn_tasks(tmp_path: Path) -> None:
    two = attack.param(attack.INPUT, "Split s 1 2 in p q", "Sigmoid a 1 1 p a", "ReLU b 1 1 q b")
    assert import_file(write_ncnn(tmp_path, two, b"\0")).card.task == "other"
    path = write_ncnn(tmp_path, attack.param(attack.INPUT, attack.CONV), attack.WEIGHTS)
    assert import_file(path).card.task == "other"  # a map is no embedding
    with pytest.raises(FormatError, match="not one embedding"):
        import_file(path, "fdfacenet")
    with pytest.raises(FormatError, match="not boxes, scores and landmarks"):
        import_file(path, "retinaface")
    with pytest.raises(UsageError, match="itself"):
        import_file(path, ignore=["conv"])
    head = "InnerProduct fc 1 1 in out 0=2 2=96"
    weights = attack.tagged(np.arange(96.0))
    path = write_ncnn(tmp_path, attack.param(attack.INPUT, head), weights)
    card = import_file(path, preprocess={"colour": "bgr"}).card
    assert (card.task, card.embedding_size) == ("embed", 2)
    assert (card.preprocess.height, card.preprocess.colour) == (4, "bgr")
