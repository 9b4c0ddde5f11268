"""ncnn files: every layer against ncnn itself, a public model, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import ncnn as attack
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import SHARED, needs_shared

from tinyface import limits
from tinyface.backends.numpy import run_graph
from tinyface.errors import FormatError, UsageError
from tinyface.formats.importer import import_file
from tinyface.formats.ncnn import LAYERS, read_ncnn
from tinyface.formats.ncnn_file import _number


def write_ncnn(tmp_path: Path, text: str, data: bytes) -> Path:
    (tmp_path / "m.param").write_text(text)
    (tmp_path / "m.bin").write_bytes(data)
    return tmp_path / "m.param"


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


RNG = np.random.default_rng(5)
PRE = (
    "BinaryOp centre 1 1 in c 0=1 1=1 2=127.5",
    "BinaryOp norm 1 1 c x 0=2 1=1 2=0.02",
    "Convolution pre 1 1 x y 0=8 1=1 5=1 6=24",
)
PRE_WEIGHTS = attack.tagged(RNG.standard_normal(24)) + attack.plain([RNG.standard_normal(8)])


def vectors(*sizes: int) -> bytes:
    return attack.plain([RNG.random(size) + 0.5 for size in sizes])


def conv(size: int, bias: int = 0, half: bool = False) -> bytes:
    weights = attack.tagged(RNG.standard_normal(size) * 0.3, half)
    return weights + (attack.plain([RNG.standard_normal(bias)]) if bias else b"")


# layer lines that read y (8 channels, 9x11) and make "out"; their weights
CASES: dict[str, tuple[tuple[str, ...], bytes]] = {
    "conv 3x3": (("Convolution l 1 1 y out 0=6 1=3 3=2 4=1 5=1 6=432",), conv(432, 6)),
    "conv fp16": (("Convolution l 1 1 y out 0=6 1=3 3=2 4=1 5=1 6=432",), conv(432, 6, True)),
    "conv fp16 of odd size": (
        (
            "Convolution l 1 1 y o 0=1 1=3 11=1 6=24",
            "ConvolutionDepthWise m 1 1 o out 0=1 1=1 6=1 7=1 5=1",
        ),
        conv(24, 0, True) + conv(1, 1, True),
    ),
    "conv asymmetric": (
        ("Convolution l 1 1 y out 0=4 1=3 11=5 2=2 12=1 3=1 13=2 4=0 14=1 15=3 16=2 6=480",),
        conv(480),
    ),
    "conv same upper": (("Convolution l 1 1 y out 0=4 1=3 3=2 4=-233 6=288",), conv(288)),
    "conv same lower": (("Convolution l 1 1 y out 0=4 1=3 3=2 4=-234 6=288",), conv(288)),
    "conv relu": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=1",), conv(32)),
    "conv leaky": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=2 -23310=1,0.1",), conv(32)),
    "conv clip": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=3 -23310=2,-0.5,0.5",), conv(32)),
    "conv sigmoid": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=4",), conv(32)),
    "conv hard-swish": (
        ("Convolution l 1 1 y out 0=4 1=1 6=32 9=6 -23310=2,0.1666667,0.5",),
        conv(32),
    ),
    "depthwise": (("ConvolutionDepthWise l 1 1 y out 0=8 1=3 4=1 6=72 7=8",), conv(72)),
    "grouped": (("ConvolutionDepthWise l 1 1 y out 0=4 1=3 6=144 7=2 5=1",), conv(144, 4)),
    "inner product": (("InnerProduct l 1 1 y out 0=5 1=1 2=3960",), conv(3960, 5)),
    "inner product relu": (("InnerProduct l 1 1 y out 0=5 2=3960 9=1",), conv(3960)),
    "batch norm": (("BatchNorm l 1 1 y out 0=8 1=0.001",), vectors(8, 8, 8, 8)),
    "scale": (("Scale l 1 1 y out 0=8 1=1",), vectors(8, 8)),
    "scale of two": (
        ("Split s 1 2 y a b", "Pooling g 1 1 b g 0=1 4=1", "Scale l 2 1 a g out 0=-233"),
        b"",
    ),
    "bias": (("Bias l 1 1 y out 0=8",), vectors(8)),
    "prelu": (("PReLU l 1 1 y out 0=8",), vectors(8)),
    "prelu of one slope": (("PReLU l 1 1 y out 0=1",), vectors(1)),
    "normalize": (("Normalize l 1 1 y out 0=0 1=0 2=1e-10 3=8 4=1 9=1",), vectors(8)),
    "relu": (("ReLU l 1 1 y out",), b""),
    "leaky relu": (("ReLU l 1 1 y out 0=0.2",), b""),
    "clip": (("Clip l 1 1 y out 0=-1.0 1=2.0",), b""),
    "sigmoid": (("Sigmoid l 1 1 y out",), b""),
    "swish": (("Swish l 1 1 y out",), b""),
    "tanh": (("TanH l 1 1 y out",), b""),
    "gelu": (("GELU l 1 1 y out 0=0",), b""),
    "gelu by tanh": (("GELU l 1 1 y out 0=1",), b""),
    "hard sigmoid": (("HardSigmoid l 1 1 y out 0=0.2 1=0.5",), b""),
    "hard swish": (("HardSwish l 1 1 y out 0=0.166667 1=0.5",), b""),
    "hard swish of Keras": (("HardSwish l 1 1 y out 0=0.2 1=0.5",), b""),
    "softmax over channels": (("Softmax l 1 1 y out 0=0 1=1",), b""),
    "softmax over columns": (("Softmax l 1 1 y out 0=-1 1=1",), b""),
    "dropout": (("Dropout l 1 1 y out",), b""),
    "dropout that scales": (("Dropout l 1 1 y out 0=0.5",), b""),
    "noop": (("Noop n 1 1 y z", "Sigmoid l 1 1 z out"), b""),
    "rsub": (("BinaryOp l 1 1 y out 0=7 1=1 2=3.0",), b""),
    "rdiv": (("BinaryOp l 1 1 y out 0=8 1=1 2=3.0",), b""),
    "max with a number": (("BinaryOp l 1 1 y out 0=4 1=1 2=0.5",), b""),
    "max pool full": (("Pooling l 1 1 y out 0=0 1=2 2=2",), b""),
    "max pool 3x3 full": (("Pooling l 1 1 y out 0=0 1=3 2=2 3=1",), b""),
    "max pool valid": (("Pooling l 1 1 y out 0=0 1=3 2=2 5=1",), b""),
    "max pool same": (("Pooling l 1 1 y out 0=0 1=3 2=2 5=2",), b""),
    "mean pool full": (("Pooling l 1 1 y out 0=1 1=3 2=2 3=1",), b""),
    "mean pool counting pads": (("Pooling l 1 1 y out 0=1 1=3 2=2 3=1 5=1 6=1",), b""),
    "mean pool 2x3": (("Pooling l 1 1 y out 0=1 1=3 11=2 2=1 12=2",), b""),
    "global mean": (("Pooling l 1 1 y out 0=1 4=1",), b""),
    "global max": (("Pooling l 1 1 y out 0=0 4=1",), b""),
    "adaptive mean": (("Pooling l 1 1 y out 0=1 7=1 8=1",), b""),
    "gate": (
        (
            "Split s 1 2 y a b",
            "Pooling g 1 1 b g 0=1 4=1",
            "Convolution p 1 1 g h 0=8 1=1 6=64 9=4 5=1",
            "BinaryOp l 2 1 a h out 0=2",
        ),
        conv(64, 8),
    ),
    "eltwise": (("Split s 1 3 y a b d", "Sigmoid t 1 1 b e", "Eltwise l 3 1 a e d out 0=1"), b""),
    "eltwise product": (("Split s 1 2 y a b", "Eltwise l 2 1 a b out 0=0"), b""),
    "eltwise maximum": (
        ("Split s 1 2 y a b", "Sigmoid t 1 1 b e", "Eltwise l 2 1 a e out 0=2"),
        b"",
    ),
    "max feature map": (
        ("Slice s 1 2 y a b -23300=2,-233,-233 1=0", "Eltwise l 2 1 a b out 0=2"),
        b"",
    ),
    "uneven slices": (
        ("Slice s 1 2 y a b -23300=2,3,-233", "Concat l 2 1 b a out 0=0"),
        b"",
    ),
    "nearest": (("Interp l 1 1 y out 0=1 1=2.0 2=2.0",), b""),
    "nearest to size": (("Interp l 1 1 y out 0=1 3=5 4=7",), b""),
    "bilinear": (("Interp l 1 1 y out 0=2 1=2.0 2=2.0",), b""),
    "bilinear to size": (("Interp l 1 1 y out 0=2 3=5 4=20",), b""),
    "corners on corners": (("Interp l 1 1 y out 0=2 3=5 4=20 6=1",), b""),
    "weighted sum": (
        ("Split s 1 2 y a b", "Sigmoid t 1 1 b e", "Eltwise l 2 1 a e out 0=1 -23301=2,0.1,1.0"),
        b"",
    ),
    "exp": (("Sigmoid s 1 1 y z", "UnaryOp l 1 1 z out 0=7"), b""),
    "minus": (("UnaryOp l 1 1 y out 0=1",), b""),
    "constant": (
        ("MemoryData m 0 1 k 0=1 1=1 2=8", "BinaryOp l 2 1 y k out 0=0"),
        np.arange(8, dtype=np.float32).tobytes(),
    ),
    "transposed": (
        ("Deconvolution l 1 1 y out 0=4 1=4 11=3 3=2 4=1 5=1 6=384 9=1",),
        conv(384, 4),
    ),
    "transposed with more": (
        ("Deconvolution l 1 1 y out 0=4 1=3 3=3 2=2 4=1 18=2 19=1 6=288",),
        conv(288, 0),
    ),
    "transposed by channels": (
        ("DeconvolutionDepthWise l 1 1 y out 0=8 1=4 3=2 4=1 5=1 6=128 7=8",),
        conv(128, 8),
    ),
    "transposed by groups": (
        ("DeconvolutionDepthWise l 1 1 y out 0=4 1=2 3=2 6=64 7=2",),
        conv(64, 0),
    ),
    "pixel shuffle": (("PixelShuffle l 1 1 y out 0=2",), b""),
    "pixel shuffle back": (("PixelShuffle l 1 1 y out 0=2 1=1",), b""),
    "padding": (("Padding l 1 1 y out 0=1 1=2 2=3 3=0 4=0 5=0.5",), b""),
    "shuffle": (("ShuffleChannel l 1 1 y out 0=2",), b""),
    "shuffle back": (("ShuffleChannel l 1 1 y out 0=2 1=1",), b""),
    "flatten": (("Flatten l 1 1 y out",), b""),
    "reshape to a vector": (("Reshape l 1 1 y out 0=-1",), b""),
    "reshape to a matrix": (("Reshape l 1 1 y out 0=11 1=-1",), b""),
    "reshape to a map": (("Reshape l 1 1 y out 0=0 1=-1 2=4",), b""),
    "detector head": (("Permute p 1 1 y z 0=3", "Reshape l 1 1 z out 0=4 1=-1"), b""),
    "mean over the map": (("Reduction l 1 1 y out 0=3 1=0 -23303=2,1,2 4=1 5=1",), b""),
} | {f"permute {i}": ((f"Permute l 1 1 y out 0={i}",), b"") for i in range(6)}


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
    theirs = run_ncnn(ncnn, path, picture)
    assert ours[0].shape == theirs.shape
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=2e-5 * max(1.0, scale))


def run_ncnn(ncnn: Any, path: Path, picture: np.ndarray) -> np.ndarray:
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = 1
    for option in ("fp16_arithmetic", "fp16_storage", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    assert net.load_param(str(path)) == 0
    assert net.load_model(str(path.with_suffix(".bin"))) == 0
    height, width = picture.shape[:2]
    extractor = net.create_extractor()
    # from_pixels, because a Mat over a NumPy array keeps no hold of the array's memory
    rgb = ncnn.Mat.PixelType.PIXEL_RGB
    extractor.input("in", ncnn.Mat.from_pixels(picture, rgb, width, height))
    status, result = extractor.extract("out")
    assert status == 0
    return np.array(result).copy()


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
    theirs = run_ncnn(ncnn, tmp_path / "m.param", picture)
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
