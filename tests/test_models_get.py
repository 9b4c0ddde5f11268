"""``tinyface models``: what it lists, and ``models get`` from a server on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import samples
from safetensors.numpy import save_file
from shared import SHARED, needs_shared

from tinyface import networks
from tinyface.cli.common import si
from tinyface.cli.main import run
from tinyface.formats import known
from tinyface.formats.modelfile import load_model, save_model
from tinyface.networks import random_state


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served over HTTP, with weights in it that are the only public ones."""
    folder = tmp_path / "site"
    folder.mkdir()
    graph = networks.find("shufflefacenet-x0.5").build()
    save_file(random_state(graph), folder / "w.safetensors")
    content = (folder / "w.safetensors").read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    file = known.Known(
        "weights of the test",
        "shufflefacenet-x0.5",
        {"name": "mine", "licence": "CC0-1.0", "data": "random numbers", "figures": {"LFW": 0.5}},
        addresses=(f"http://127.0.0.1:{server.server_port}/w.safetensors",),
        size=len(content),
    )
    monkeypatch.setattr(known, "KNOWN", {hashlib.sha256(content).hexdigest(): file})
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("TINYFACE_OFFLINE", raising=False)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_get(site: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["models", "get", "mine"]) == 0
    out, err = capsys.readouterr()
    model = tmp_path / "cache" / "mine.safetensors"
    assert out.strip() == str(model)
    assert "this is weights of the test" in err
    assert "licence: CC0-1.0. Trained on: random numbers" in err
    graph, card = load_model(model)
    assert (graph.name, card.name, card.licence) == ("shufflefacenet-x0.5", "mine", "CC0-1.0")
    assert run(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [w["name"] for w in listed["weights"] if w["file"] == str(model)] == ["mine"]
    assert [p["name"] for p in listed["public"]] == ["mine"]
    # once more, offline: the download is there, the model is made anew
    monkeypatch.setenv("TINYFACE_OFFLINE", "1")
    model.unlink()
    assert run(["models", "get", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(model)
    assert model.is_file()


def test_it_takes_no_other_models_place(site: Path, tmp_path: Path, capsys: Any) -> None:
    model = tmp_path / "cache" / "mine.safetensors"
    model.parent.mkdir()
    save_model(model, *samples.recogniser())
    before = model.read_bytes()
    assert run(["models", "get", "mine"]) == 2
    assert "mine.safetensors is a model of other weights; rename" in capsys.readouterr().err
    assert model.read_bytes() == before
    model.write_bytes(before[:100])  # of no use to anyone
    assert run(["models", "get", "mine"]) == run(["models", "get", "mine"]) == 0
    assert load_model(model)[1].name == "mine"


def test_what_cannot_be_had(site: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["models", "get", "yours"]) == 2
    assert "these can: mine" in capsys.readouterr().err
    path = site / "w.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert run(["models", "get", "mine"]) == 1
    err = capsys.readouterr().err
    assert "another file" in err and "by hand:  curl" in err and err.count("\n") == 1
    cache = tmp_path / "cache"
    assert [str(p.relative_to(cache)) for p in cache.rglob("*")] == ["downloads"]


def test_the_list_of_public_weights(site: Path, capsys: Any) -> None:
    assert run(["models", "get", "--json"]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads(out)["public"]
    assert run(["models", "--json", "get"]) == 0 and capsys.readouterr().out == out
    assert (row["name"], row["figures"], row["licence"]) == ("mine", {"LFW": 0.5}, "CC0-1.0")
    assert run(["models", "get"]) == 0
    out = capsys.readouterr().out
    assert row["address"] in out and row["sha256"] in out and "random numbers" in out


@pytest.mark.parametrize("name", known.public())
def test_what_is_said_of_public_weights(name: str) -> None:
    """Everything that the list and the card need; the address is of a commit, by https."""
    sha256, file = known.public()[name]
    assert len(sha256) == 64 and file.size > 0
    assert file.addresses[0].startswith("https://github.com/")
    commit = file.addresses[0].split("/raw/")[1].partition("/")[0]
    assert len(commit) == 40 and set(commit) <= set("0123456789abcdef")
    assert all(file.card[key] for key in ("name", "licence", "data", "source"))
    assert not file.network or networks.find(file.network)


@needs_shared
def test_the_shared_copies_are_the_public_files() -> None:
    folder = SHARED / "weights"
    files = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in folder.iterdir()}
    for sha256, file in known.public().values():
        assert files[sha256].stat().st_size == file.size


def test_figures_are_those_of_the_tables(capsys: Any) -> None:
    assert run(["models", "--json"]) == 0
    listed = {n["name"]: n for n in json.loads(capsys.readouterr().out)["networks"]}
    assert run(["tables", "--json"]) == 0
    rows = [r for r in json.loads(capsys.readouterr().out)["rows"] if r["network"]]
    assert len(rows) > 25
    for row in rows:
        network = listed[row["network"]]
        pairs = [
            (network["parameters"], row["params"]["computed"]["trainable"]),
            (network["macs"], row["macs"]["computed"]["pure"]),
            (network["macs_paper"], row["macs"]["computed"]["paper"]),
            (network["macs_pooled"], row["macs"]["computed"]["paper+pool"]),
            (network["fmap_unfused_bytes"], row["fmap"]["computed"]["U"]),
            (network["fmap_folded_bytes"], row["fmap"]["computed"]["Z"]),
        ]
        for count, millions in pairs:
            assert count == pytest.approx(1e6 * millions, rel=1e-12)
        printed = [row[column]["printed"] for column in ("params", "macs", "fmap")]
        shown = [network["published"].get(k, "") for k in ("params_M", "macs_M", "fmap_MB")]
        assert printed == shown
        assert network["status"] in ("public", "pinned", "reconstruction") and network["source"]


def test_the_table_shows_them(capsys: Any) -> None:
    assert run(["models", "--networks"]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.split()[:1] == ["nfn-star"])
    assert "7.10 M, 660 M MACs" in line and "pinned" in line
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    assert ", nfn-star," in out and "models --networks" in out
    assert "tinyface models get: mobilefacenet-foamliu" in out


def test_rounding_does_not_end_in_an_exponent() -> None:
    assert [si(n) for n in (999_648, 999_400, 12, 999.9)] == ["1 M", "999 k", "12", "1 k"]


def test_a_file_that_cannot_be_read_does_not_hide_the_others(
    site: Path, tmp_path: Path, capsys: Any
) -> None:
    samples.install(tmp_path / "cache")
    (tmp_path / "cache" / "torn.safetensors").write_bytes(b"nothing")
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["torn", "unreadable", "not", "stated"] in lines
    assert ["detector", "detect", "CC0-1.0"] in lines and "torn.safetensors" in err
