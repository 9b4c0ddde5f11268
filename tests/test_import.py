"""Importing weights: which network is it, how is it fed, what does not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from shared import SHARED, needs_shared

from tinyface import networks
from tinyface.backends.numpy import run_graph
from tinyface.errors import CheckpointError, FormatError, UsageError
from tinyface.formats import known, recognise
from tinyface.formats.importer import import_file
from tinyface.formats.modelfile import load_model, save_model
from tinyface.networks.signatures import SIGNATURES, signature


def state_of(name: str, seed: int = 0, **options: Any) -> dict[str, np.ndarray]:
    """Random weights under a network's public names, under which its maps do not overflow."""
    return networks.random_state(networks.find(name).build(**options), seed)


def saved(tmp_path: Path, state: dict[str, np.ndarray]) -> Path:
    path = tmp_path / "weights.bin"
    save_file(state, path)
    return path


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
    with pytest.raises(CheckpointError, match=r"those of no network.*onnx\.export"):
        import_file(saved(tmp_path, {"x": np.ones(3, np.float32)}))
    with pytest.raises(UsageError, match="no network"):
        import_file(saved(tmp_path, state), "foonet")


def test_weights_beside_a_checkpoint_are_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="leave --weights away"):
        import_file(tmp_path / "x.safetensors", weights=tmp_path / "x.bin")


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
    imported = import_file(SHARED / "weights" / file)
    assert imported.graph.name == network
    assert "research" in imported.card.data
    assert imported.card.checksum in known.KNOWN
    if "retina" in file:
        other = "retinaface-mnet0.25" + ("" if "lowres" in file else "-lowres")
        with pytest.raises(CheckpointError, match="nonsense"):
            import_file(SHARED / "weights" / file, other)
