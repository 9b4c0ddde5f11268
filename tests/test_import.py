"""Importing: what is this file, which network is it, how is it fed; ncnn against ncnn itself."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import checkpoints, modelfiles
from attacks import ncnn as attack
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tinyface import networks
from tinyface.backends.numpy import run_graph
from tinyface.errors import CheckpointError, FormatError, ModelError, UsageError
from tinyface.formats import known, recognise
from tinyface.formats.importer import import_file
from tinyface.formats.modelfile import load_model, save_model
from tinyface.formats.ncnn import LAYERS, read_ncnn
from tinyface.formats.sniff import Kind, sniff
from tinyface.networks.signatures import SIGNATURES, signature

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
needs_shared = pytest.mark.skipif(
    not WEIGHTS.exists(), reason="the project's shared material is not beside the checkout"
)


def state_of(name: str, seed: int = 0, **options: Any) -> dict[str, np.ndarray]:
    """Random weights under a network's public names, under which its maps do not overflow."""
    return networks.random_state(networks.find(name).build(**options), seed)


def saved(tmp_path: Path, state: dict[str, np.ndarray], metadata: Any = None) -> Path:
    path = tmp_path / "weights.bin"
    save_file(state, path, metadata)
    return path


# ------------------------------------------------------------------ sniffing

ONNX = b"\x08\x08\x12\x04test:\x00\x42\x02\x10\x11"
CONTENTS: dict[str, tuple[bytes, Kind]] = {
    "empty": (b"", Kind.EMPTY),
    "text": (b"hello", Kind.UNKNOWN),
    "zeros": (bytes(100), Kind.UNKNOWN),
    "model": (modelfiles.model(), Kind.TINYFACE),
    "tensors": (modelfiles.container({"w": modelfiles.TENSOR}), Kind.SAFETENSORS),
    "tensors behind a length like a pickle": (
        modelfiles.container(b"{}".ljust(0x0280), b""),
        Kind.SAFETENSORS,
    ),
    "torch": (checkpoints.zipped(checkpoints.pickled(b"}")), Kind.TORCH_ZIP),
    "torch, truncated": (checkpoints.zipped(checkpoints.pickled(b"}"))[:99], Kind.TORCH_ZIP),
    "old torch": (checkpoints.legacy(checkpoints.pickled(b"}")), Kind.TORCH_LEGACY),
    "script": (
        checkpoints.zipped(checkpoints.pickled(b"}"), {"constants.pkl": b""}),
        Kind.TORCHSCRIPT,
    ),
    "pickle": (checkpoints.pickled(b"N"), Kind.PICKLE),
    "onnx": (ONNX, Kind.ONNX),
    "onnx, truncated": (ONNX[:-1], Kind.UNKNOWN),
    "ncnn": (attack.param(attack.INPUT).encode(), Kind.NCNN_PARAM),
    "binary ncnn": ((7767517).to_bytes(4, "little") + bytes(8), Kind.NCNN_BINARY_PARAM),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(8), Kind.HDF5),
    "tflite": (b"\x20\0\0\0TFL3" + bytes(8), Kind.TFLITE),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_sniff(tmp_path: Path, case: str) -> None:
    content, kind = CONTENTS[case]
    path = tmp_path / "no-suffix"
    path.write_bytes(content)
    assert sniff(path) is kind


def test_sniff_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    assert sniff(tmp_path / "a.npz") is Kind.NUMPY
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("weights.pth", b"x")
    assert sniff(tmp_path / "a.zip") is Kind.ZIP
    with pytest.raises(FormatError, match="cannot be read"):
        sniff(tmp_path / "missing")


@pytest.mark.parametrize(
    "case", ["empty", "text", "model", "script", "pickle", "hdf5", "tflite", "binary ncnn"]
)
def test_import_says_what_a_file_is(tmp_path: Path, case: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[case][0])
    with pytest.raises(FormatError) as caught:
        import_file(path)
    assert CONTENTS[case][1].value in str(caught.value)
    assert caught.value.exit_code == 3


@settings(max_examples=200)
@given(content=st.binary(max_size=200))
def test_sniff_takes_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)
    try:
        sniff(path)
    except ModelError as error:
        assert "anything" in str(error)


# ------------------------------------------------------------------ recognising

SAMPLED = ("dwfn", "mobilefacenet-relu6", "shufflefacenet-x0.5", "pocketnet-m-128", "ssd4-rfb")


@pytest.mark.parametrize("name", SAMPLED)
def test_network_is_recognised_from_names_and_shapes(tmp_path: Path, name: str) -> None:
    state = state_of(name)
    imported = import_file(saved(tmp_path, {f"module.{k}": v for k, v in state.items()}))
    assert f"network {name}, " in " ".join(imported.found)
    assert "'module.'" in imported.found[0]
    assert imported.card == networks.find(name).card(
        imported.graph, checksum=imported.card.checksum, notes=imported.card.notes
    )
    for key, value in state.items():
        np.testing.assert_array_equal(imported.graph.params[key], value)


def test_no_two_networks_are_mistaken() -> None:
    """Equal names and shapes are known cases, in which --network has to be given."""
    groups: dict[Any, list[str]] = {}
    for name, entry in networks.REGISTRY.items():
        key = frozenset((k, v.shape) for k, v in entry.build().params.items())
        groups.setdefault(key, []).append(name)
    assert sorted(names for names in groups.values() if len(names) > 1) == [
        ["cnn-8", "cnn-8-fd-x1"],
        ["cnn-8-cifar", "cnn-8-fd-cifar"],
        ["fdfacenet", "nfn"],
        ["fdfn-star", "nfn-star"],
        ["mobilefacenet-512", "mobilefacenet-facexzoo"],
        ["retinaface-mnet0.25", "retinaface-mnet0.25-lowres"],
    ]


def test_the_index_of_names_is_that_of_the_builders() -> None:
    built = {name: signature(e.build().params) for name, e in networks.REGISTRY.items()}
    changed = dict(built.items() - SIGNATURES.items())
    assert not changed, "enter these in tinyface/networks/signatures.py"
    assert built == SIGNATURES


def test_recognising_builds_only_what_is_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(
        recognise, "_default", lambda name: (built.append(name), networks.find(name).build())[1]
    )
    (match,) = recognise.recognise(state_of("pocketnet-s-128"))
    assert match.entry.name == "pocketnet-s-128"
    assert built == ["pocketnet-s-128", "pocketnet-s-256"]
    built.clear()
    state = state_of("lightcnn9") | {"fc2.weight": np.ones((9, 256)), "fc2.bias": np.ones(9)}
    assert [m.entry.name for m in recognise.recognise(state)] == ["lightcnn9"]
    assert built == ["lightcnn9"]
    monkeypatch.setattr(recognise, "SIGNATURES", {})  # a network that was not entered
    assert [m.entry.name for m in recognise.recognise(state)] == ["lightcnn9"]


@pytest.mark.parametrize("name", ["retinaface-mnet0.25", "retinaface-mnet0.25-lowres"])
def test_networks_of_equal_shapes_need_a_choice(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, state_of(name))
    with pytest.raises(CheckpointError, match=r"mnet0\.25 or .*-lowres.*--network"):
        import_file(path)
    imported = import_file(path, name)
    assert imported.card.detector["min_sizes"][0] == ([10, 20] if "lowres" in name else [16, 32])


def test_other_embedding_size(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of("mobilefacenet-relu6", embedding=64))
    assert import_file(path).card.embedding_size == 64
    assert import_file(path, "mobilefacenet-relu6").card.embedding_size == 64


def test_differences_are_named(tmp_path: Path) -> None:
    state = state_of("lightfacenet")
    first, second = list(state)[:2]
    changed = {k: v for k, v in state.items() if k != first} | {"head.weight": np.ones((2, 3))}
    changed[second] = np.ones((7, 7), np.float32)
    for network in (None, "lightfacenet"):
        with pytest.raises(CheckpointError) as caught:
            import_file(saved(tmp_path, changed), network)
        message = str(caught.value)
        for part in (f"1 missing ('{first}')", "'head.weight'", f"'{second}' is 7x7", "lightface"):
            assert part in message
    with pytest.raises(CheckpointError, match="do not fit shufflefacenet.*they fit lightfacenet"):
        import_file(saved(tmp_path, state), "shufflefacenet-x1.0")
    with pytest.raises(CheckpointError, match="those of no network"):
        import_file(saved(tmp_path, {"x": np.ones(3, np.float32)}))
    with pytest.raises(UsageError, match="no network"):
        import_file(saved(tmp_path, state), "foonet")


def test_ignore(tmp_path: Path) -> None:
    state = {f"backbone.{k}": v for k, v in state_of("lightfacenet").items()}
    path = saved(tmp_path, state | {"head.weight": np.ones((2, 3), np.float32)})
    with pytest.raises(CheckpointError, match=r"1 not in it \('head\.weight'\).*--ignore"):
        import_file(path)
    assert import_file(path, ignore=["head"]).card.name == "lightfacenet"
    with pytest.raises(UsageError, match="'tail'"):
        import_file(path, ignore=["tail"])
    with pytest.raises(CheckpointError, match="no tensors are left"):
        import_file(path, ignore=["head", "backbone"])


def test_element_types(tmp_path: Path) -> None:
    state = state_of("lightfacenet")
    for dtype in ("float16", "float64"):
        path = saved(tmp_path, {k: v.astype(dtype) for k, v in state.items()})
        for key, value in import_file(path).graph.params.items():
            assert value.dtype == np.float32 and value.flags.c_contiguous
            np.testing.assert_array_equal(value, state[key].astype(dtype).astype(np.float32))
    with pytest.raises(CheckpointError, match="int8"):
        import_file(saved(tmp_path, {k: v.astype("int8") for k, v in state.items()}))


def test_preprocessing_can_be_changed(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of("lightfacenet"))
    card = import_file(path, preprocess={"colour": "bgr", "mean": (0, 0, 0)}, name="mine").card
    assert (card.preprocess.colour, card.preprocess.mean) == ("bgr", (0, 0, 0))
    assert card.name == "mine"
    with pytest.raises(UsageError, match="'gamma'"):
        import_file(path, preprocess={"gamma": 2})
    with pytest.raises(FormatError, match="colour"):
        import_file(path, preprocess={"colour": "gray"} | {"colour": "hsv"})


def test_import_save_load(tmp_path: Path) -> None:
    imported = import_file(saved(tmp_path, state_of("lightfacenet")))
    save_model(tmp_path / "m.safetensors", imported.graph, imported.card)
    graph, card = load_model(tmp_path / "m.safetensors")
    assert card == imported.card
    assert card.checksum == hashlib.sha256((tmp_path / "weights.bin").read_bytes()).hexdigest()
    x = np.random.default_rng(0).standard_normal((1, 3, 112, 112)).astype(np.float32)
    (first,), (second,) = (run_graph(g, {"input": x}).values() for g in (graph, imported.graph))
    assert np.isfinite(first).all() and first.any()
    np.testing.assert_array_equal(first, second)


# ------------------------------------------------------------------ public files


@needs_shared
@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("mobilefacenet.pt", "mobilefacenet-relu6"),
        ("retinaface_mnet025.pth", "retinaface-mnet0.25"),
        ("retinaface_mnet025_lowres.pth", "retinaface-mnet0.25-lowres"),
    ],
)
def test_public_checkpoint(tmp_path: Path, file: str, network: str) -> None:
    imported = import_file(WEIGHTS / file)
    assert imported.graph.name == network
    assert "research" in imported.card.data
    assert imported.card.checksum in known.KNOWN
    if "retina" in file:
        other = "retinaface-mnet0.25" + ("" if "lowres" in file else "-lowres")
        with pytest.raises(CheckpointError, match="nonsense"):
            import_file(WEIGHTS / file, other)


@needs_shared
def test_public_mobilefacenet_gives_pytorchs_embeddings() -> None:
    """Embeddings that PyTorch computed from the same checkpoint, on the aligned samples."""
    from PIL import Image

    golden = GOLDEN / "real" / "mobilefacenet_embeddings.safetensors"
    from safetensors import safe_open

    with safe_open(golden, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    imported = import_file(WEIGHTS / "mobilefacenet.pt")
    names = json.loads(metadata["files"]) if "files" in metadata else sorted(tensors)
    assert names
    for name in names[:4]:
        expected = tensors[name].reshape(-1)
        stem = Path(name).stem
        picture = next((GOLDEN.parent / "images" / "aligned").glob(f"{stem}*.png"))
        rgb = np.asarray(Image.open(picture).convert("RGB"))[None]
        (got,) = run_graph(imported.graph, {"input": imported.card.preprocess.apply(rgb)}).values()
        a, b = got[0] / np.linalg.norm(got), expected / np.linalg.norm(expected)
        assert np.abs(a - b).max() < 1e-4


# ------------------------------------------------------------------ ncnn


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

    imported = import_file(WEIGHTS / "mobilefacenet-v1.ncnn.param")
    assert imported.card.embedding_size == 128 and imported.card.preprocess.mean == (0, 0, 0)
    folder = GOLDEN.parent / "images" / "aligned"
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
        content = (WEIGHTS / f"mobilefacenet-v1.ncnn{suffix}").read_bytes()
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
