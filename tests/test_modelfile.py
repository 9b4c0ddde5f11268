"""The model file: what is written is read back to the bit, and every broken rule is named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import modelfiles as attack
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tinyface import limits
from tinyface.errors import FormatError, ModelError, UsageError
from tinyface.formats import safetensors
from tinyface.formats.card import to_gray
from tinyface.formats.modelfile import Card, Preprocess, load_model, read_card, save_model
from tinyface.graph import Graph, Node
from tinyface.model import load
from tinyface.ops import Conv2d, Flatten
from tinyface.types import TensorType

CARD = Card(
    name="small",
    task="embed",
    preprocess=Preprocess(8, 6, "bgr", (104, 117, 123), (1, 0.5, 1 / 3)),
    embedding_size=16,
    thresholds={"1e-3": 0.31, "1e-2": 0.2},
    licence="CC0-1.0",
    data="nothing",
    source="made here: 'quotes', \"more\", ünïcode",
    figures={"accuracy": 0.5, "pairs": 6000, "note": "random", "ok": True},
    notes="two\nlines",
    checksum="0" * 64,
)


def small(seed: int = 0) -> Graph:
    """One convolution, 3 -> 4 channels, on an 8x6 picture."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    nodes = (
        Node("conv", Conv2d(stride=(2, 2)), ("input", "b.weight", "a.bias"), ("y",)),
        Node("flatten", Flatten(), ("y",), ("embedding",)),
    )
    params = {"b.weight": weight, "a.bias": bias}
    return Graph("small", {"input": TensorType((1, 3, 8, 6))}, ("embedding",), nodes, params)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    graph = small()
    save_model(path, graph, CARD)
    again, card = load_model(path)
    assert card == CARD == read_card(path)
    assert again.to_json() == graph.to_json()
    assert list(again.params) == list(graph.params)
    for name, value in graph.params.items():
        np.testing.assert_array_equal(again.params[name], value, strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.safetensors"]


def test_parameters_are_views_of_the_file(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small(), CARD)
    params = load_model(tmp_path / "m")[0].params
    for value in params.values():
        assert not value.flags.owndata and not value.flags.writeable
        assert value.ctypes.data % 4 == 0
    # and stay readable when the file is replaced by another model
    before = {name: value.copy() for name, value in params.items()}
    save_model(tmp_path / "m", small(1), CARD)
    for name, value in params.items():
        np.testing.assert_array_equal(value, before[name])


def test_same_model_same_bytes(tmp_path: Path) -> None:
    save_model(tmp_path / "a", small(), CARD)
    save_model(tmp_path / "b", *load_model(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_precision(tmp_path: Path) -> None:
    graph = small()
    save_model(tmp_path / "half", graph, CARD, dtype="float16")
    save_model(tmp_path / "full", graph, CARD)
    again, card = load_model(tmp_path / "half")
    assert (card.stored, read_card(tmp_path / "full").stored) == ("float16", "float32")
    for name, value in graph.params.items():
        assert again.params[name].dtype == np.float32
        np.testing.assert_array_equal(again.params[name], value.astype(np.float16))
    saved = (tmp_path / "full").stat().st_size - (tmp_path / "half").stat().st_size
    assert saved == 2 * graph.param_count


def test_the_safetensors_package_reads_and_writes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small(), CARD)
    theirs = load_file(path)
    assert theirs.keys() == small().params.keys()
    for name, value in small().params.items():
        np.testing.assert_array_equal(theirs[name], value, strict=True)
    rng = np.random.default_rng(0)
    tensors = {
        kind: (rng.standard_normal((3, 5)) * 10).astype(kind)
        for kind in set(safetensors.DTYPES.values()) - {"bfloat16"}
    }
    tensors["scalar"] = np.array(3.0)
    tensors["empty"] = np.empty((0, 4), np.float32)
    save_file(tensors, path, {"a": "b"})
    ours = safetensors.open_file(path)
    assert ours.metadata == {"a": "b"}
    assert ours.entries.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(ours.tensor(name), value, strict=True)


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    header = {"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    (tmp_path / "m").write_bytes(attack.container(header, b"\x80\x3f\x00\xc0"))
    got = safetensors.open_file(tmp_path / "m").tensor("w")
    np.testing.assert_array_equal(got, np.float32([1, -2]), strict=True)


# ------------------------------------------------------------------ refusals


def test_the_attacks_differ_from_a_good_file_in_one_thing(tmp_path: Path) -> None:
    """Guards the test below: without the broken rule the file is accepted."""
    (tmp_path / "m").write_bytes(attack.model())
    graph, card = load_model(tmp_path / "m")
    assert graph.types["y"].shape == (1, 2, 4, 4)
    assert card.preprocess.colour == "gray"


@pytest.mark.parametrize("rule", attack.BROKEN)
def test_broken_rule_is_named(tmp_path: Path, rule: str) -> None:
    content, says = attack.BROKEN[rule]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        load_model(path)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "bad.safetensors" in message and message.isprintable() and len(message) < 1000


def test_every_truncation(tmp_path: Path) -> None:
    whole = attack.model()
    for length in range(len(whole)):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            load_model(tmp_path / "m")


@settings(max_examples=300)
@given(data=st.data())
def test_mutations(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any changed bytes: refused with our own error, or a valid graph."""
    content = bytearray(attack.model())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    try:
        load_model(path)
    except ModelError as error:
        assert "mutated" in str(error)


FIELDS = [*sorted(attack.CARD), "thresholds", "detector", "notes"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=300)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_json_in_a_card(field: str, value: object) -> None:
    try:
        card = Card.from_json(attack.CARD | {field: value})
    except FormatError:
        return
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


@settings(max_examples=200)
@given(field=st.sampled_from(sorted(attack.GRAPH) + sorted(attack.CONV)), value=JSON)
def test_any_json_in_a_graph(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    changed = {field: value} if field in attack.GRAPH else {"nodes": attack.node(**{field: value})}
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(attack.model(**changed))
    try:
        load_model(path)
    except ModelError as error:
        assert "any.safetensors" in str(error)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FormatError, match="cannot be read"):
            load_model(path)


def test_total_size_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PARAM_BYTES", 7)
    (tmp_path / "m").write_bytes(attack.model())
    with pytest.raises(FormatError, match="8 bytes of tensors"):
        load_model(tmp_path / "m")


# -------------------------------------------------------------------- saving


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (-np.inf, "float32"), (70_000, "float16")]
)
def test_weights_that_cannot_be_stored(tmp_path: Path, value: float, dtype: str) -> None:
    graph = small()
    bias = np.float32([0, value, 0, 0])
    graph = graph.bind({**graph.params, "a.bias": bias})
    with pytest.raises(FormatError, match=r"'a\.bias'.*not finite"):
        save_model(tmp_path / "m", graph, CARD, dtype)
    assert not list(tmp_path.iterdir())


def test_nothing_partial_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    save_model(path, small(), CARD)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(path, small(1), CARD)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_where_and_how_to_save(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        save_model(tmp_path / "no folder" / "m", small(), CARD)
    with pytest.raises(FormatError, match="float64"):
        save_model(tmp_path / "m", small(), CARD, dtype="float64")
    with pytest.raises(FormatError, match="as JSON"):
        notes = {str(i): "x" * 15_000 for i in range(300)}
        save_model(tmp_path / "m", small(), replace(CARD, figures=notes))


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": {"1e-3": 0.9, "0.001": -0.5}},
        {"preprocess": {"height": 8, "width": 6, "scale": [1e-300, 1, 1]}},
    ],
)
def test_cards_that_would_call_everybody_the_same(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"each once|other than 0"):
        Card.from_json({**CARD.to_json(), **change})


def test_a_card_of_another_embedding(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", small(), replace(CARD, embedding_size=77))
    with pytest.raises(ModelError, match="embeddings of 77 values"):
        load(tmp_path / "m.safetensors")


# ------------------------------------------------------------- preprocessing


def test_preprocess_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    x = CARD.preprocess.apply(images)
    assert x.shape == (2, 3, 8, 6) and x.dtype == np.float32 and x.flags.c_contiguous
    for channel, (mean, scale) in enumerate(zip((104, 117, 123), (1, 0.5, 1 / 3), strict=True)):
        expected = (images[..., 2 - channel].astype(float) - mean) * scale  # BGR
        np.testing.assert_allclose(x[:, channel], expected, rtol=1e-6)
    rgb = replace(CARD.preprocess, colour="rgb").apply(images)
    np.testing.assert_allclose(rgb[:, 0], images[..., 0].astype(float) - 104)


def test_gray_is_pillows() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_gray(image), np.asarray(Image.fromarray(image).convert("L")))
    x = Preprocess(64, 64, "gray", (0,), (1 / 255,)).apply(image[None])
    assert x.shape == (1, 1, 64, 64) and x.min() >= 0 and x.max() <= 1
