"""The card goes along with an exported network, and is believed no more than any other file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples
from command_line import Outcome

from tinyface.errors import FormatError
from tinyface.formats.card import Card
from tinyface.formats.importer import import_file
from tinyface.formats.modelfile import load_model, save_model
from tinyface.graph import Graph
from tinyface.networks import find, random_state

onnx = pytest.importorskip("onnx", reason="needs the extra tinyface[onnx]")

from tinyface.formats.onnx_export import export_onnx  # noqa: E402
from tinyface.formats.onnx_file import CARD_KEY, MAX_CARD  # noqa: E402


def retinaface() -> tuple[Graph, Card]:
    entry = find("retinaface-mnet0.25")
    graph = entry.build(size=160)
    graph = graph.bind(random_state(graph))
    return graph, entry.card(graph, name="faces", licence="CC0-1.0")


@pytest.mark.parametrize(
    "model",
    [samples.recogniser(), samples.recogniser((96, 80), colour="gray"),
     samples.recogniser(colour="bgr"), samples.detector(), retinaface()],
    ids=["recogniser", "gray", "bgr", "squares", "retinaface"],
)  # fmt: skip
def test_it_comes_back_whole(model: tuple[Graph, Card], tmp_path: Path) -> None:
    graph, card = model
    card = replace(card, notes="of a test\nin two lines", figures={"LFW": 0.5, "more": [1, None]})
    export_onnx(graph, tmp_path / "x.onnx", card)
    again = import_file(tmp_path / "x.onnx")
    assert replace(again.card, checksum="") == card and len(again.card.checksum) == 64
    assert any(f"carries the card of {card.name}" in line for line in again.found)
    if card.task == "detect":
        assert set(again.graph.outputs) == {"loc", "conf", "landms"}


def test_what_the_user_says_goes_before_it(tmp_path: Path) -> None:
    graph, card = samples.recogniser()
    export_onnx(graph, tmp_path / "x.onnx", card)
    told = import_file(tmp_path / "x.onnx", name="mine", preprocess={"colour": "bgr"}).card
    assert (told.name, told.preprocess.colour) == ("mine", "bgr")
    assert told.preprocess.mean == card.preprocess.mean and told.thresholds == card.thresholds
    export_onnx(*retinaface()[:1], tmp_path / "d.onnx", retinaface()[1])
    other = import_file(tmp_path / "d.onnx", "retinaface-mnet0.25", preprocess={"height": 160})
    assert "its card, of faces, is left aside" in " ".join(other.found)
    assert other.card.licence != "CC0-1.0"


def test_without_a_card_nothing_is_made_up(tmp_path: Path) -> None:
    export_onnx(samples.recogniser()[0], tmp_path / "x.onnx")
    card = import_file(tmp_path / "x.onnx").card
    assert (card.name, card.thresholds, card.licence) == ("sample", {}, "")


GOOD = samples.recogniser()[1].to_json()
SHAPE = GOOD["preprocess"]
DETECTOR: dict[str, Any] = {**samples.detector()[1].to_json(), "preprocess": SHAPE}
BAD = {
    "no JSON": "{",
    "no object": "[]",
    "empty": "",
    "deep": "[" * 100_000,
    "NaN": json.dumps(GOOD).replace("0.5", "NaN"),
    "a key twice": json.dumps(GOOD)[:-1] + ', "name": "b"}',
    "control characters": json.dumps({**GOOD, "licence": "\x1b[2J"}),
    "unknown": json.dumps({**GOOD, "run": "me"}),
    "no name": json.dumps({k: v for k, v in GOOD.items() if k != "name"}),
    "threshold": json.dumps({**GOOD, "thresholds": {"1e-3": 2}}),
    "scale": json.dumps({**GOOD, "preprocess": {**SHAPE, "scale": [0, 0, 0]}}),
    "huge": json.dumps({**GOOD, "preprocess": {**SHAPE, "height": 10**9}}),
    "too long": json.dumps({**GOOD, "notes": "a" * MAX_CARD}),
    "other embedding": json.dumps({**GOOD, "embedding_size": 17}),
    "other channels": json.dumps(
        {**GOOD, "preprocess": {**SHAPE, "colour": "gray", "mean": [0], "scale": [1]}}
    ),
    "other task": json.dumps({**DETECTOR}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(samples.recogniser()[0], path)
    model = onnx.load(path)
    model.metadata_props.add(key=CARD_KEY, value=BAD[name])
    onnx.save(model, path)
    with pytest.raises(FormatError, match=r"x\.onnx") as caught:
        import_file(path)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 500


@pytest.mark.parametrize("bad", [{}, {"steps": [64]}, {"steps": 1, "min_sizes": 1},
                                 {"steps": ["a"], "min_sizes": [[1]]},
                                 {"steps": [0], "min_sizes": [[1]]},
                                 {"steps": [32], "min_sizes": [[1]]}])  # fmt: skip
def test_priors_that_are_not_the_networks_are_refused(bad: dict[str, Any], tmp_path: Path) -> None:
    graph, card = samples.detector()
    export_onnx(graph, tmp_path / "x.onnx", replace(card, detector=bad))
    with pytest.raises(FormatError, match=r"x\.onnx.*(does not describe a detector|priors there)"):
        import_file(tmp_path / "x.onnx")


def test_two_cards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(*samples.recogniser()[:1], path, samples.recogniser()[1])
    model = onnx.load(path)
    model.metadata_props.add(key=CARD_KEY, value="{}")
    onnx.save(model, path)
    with pytest.raises(FormatError, match=r"x\.onnx: two cards"):
        import_file(path)


@pytest.mark.usefixtures("surroundings")
def test_commands_take_it_along(tinyface: Any, tmp_path: Path) -> None:
    def run(*args: str) -> Outcome:
        done: Outcome = tinyface(*args)
        assert done.status == 0, done.err
        return done

    save_model("mine.safetensors", *samples.recogniser((96, 80)))
    for more in ([], ["--optimised"]):
        run("export", "mine.safetensors", "-o", "mine.onnx", *more)
        run("import", "mine.onnx", "-o", "again.safetensors")
        card = load_model("again.safetensors")[1]
        assert replace(card, checksum="") == samples.recogniser((96, 80))[1]
    assert "thresholds: 0.300 at FMR 1e-2" in run("info", "mine.onnx").out


@pytest.mark.parametrize("name", ["main_graph", "torch_jit", ""])
@pytest.mark.usefixtures("surroundings")
def test_what_other_exporters_write_is_called_after_its_file(tinyface: Any, name: str) -> None:
    """They call every graph alike, and two models must not want one place, nor one headline."""
    export_onnx(samples.recogniser()[0], Path("mine.onnx"))
    model = onnx.load("mine.onnx")
    model.producer_name, model.graph.name = "pytorch", name
    onnx.save(model, "mine.onnx")
    assert import_file("mine.onnx").graph.name == import_file("mine.onnx").card.name == "mine"
    found = import_file("mine.onnx", name="yours")
    assert found.graph.name == found.card.name == "yours"
    assert tinyface("info", "mine.onnx").out.startswith("mine: input")
