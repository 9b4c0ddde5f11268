"""Weights between two runs: the ends are the runs, and the best by held-out cosine is exported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from training import soup  # noqa: E402
from training.recogniser_export import export  # noqa: E402
from training.student import Settings, Student  # noqa: E402


def test_the_ends_are_the_runs() -> None:
    a = {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(4)}
    b = {"w": torch.tensor([2.0, 1.0]), "n": torch.tensor(7)}
    assert torch.equal(soup.between(a, b, 0.0)["w"], a["w"])
    assert torch.equal(soup.between(a, b, 1.0)["w"], b["w"])
    middle = soup.between(a, b, 0.25)
    assert middle["w"].tolist() == [1.25, 2.5] and middle["n"] == 7


class Taste:
    """An exam that likes a bias that lies 0.6 of the way from one run to the other."""

    low, high = 0.0, 1.0

    def __init__(self, *_: Any) -> None:
        pass

    def take(self, student: Student) -> tuple[torch.nn.Module, dict[str, float]]:
        at = float(student.average.fc.bias[0])
        return student.average, {
            "held_out_cosine": 1 - abs((at - self.low) / (self.high - self.low) - 0.6)
        }


def test_the_best_share_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for seed in (1, 2):
        student = Student(Settings(seed=seed))
        ends.append(float(student.average.fc.bias[0]))
        export(student.average, tmp_path / f"{seed}.safetensors", {})
    monkeypatch.setattr(soup, "Exam", Taste)
    monkeypatch.setattr(soup, "Pool", lambda *_, **__: None)
    monkeypatch.setattr(soup, "held_out", lambda _: 0)
    monkeypatch.setattr(Taste, "low", ends[0])
    monkeypatch.setattr(Taste, "high", ends[1])
    best = soup.stir(
        argparse.Namespace(
            began=tmp_path / "1.safetensors", ended=tmp_path / "2.safetensors", network="fdfacenet",
            work=tmp_path, data=tmp_path, kinds=["crops", "mixed"], share=[0.0, 0.5, 1.0],
            export=tmp_path / "mean.safetensors",
        )
    )  # fmt: skip
    assert best["share"] == 0.5 and best["pool"] == "not recorded"
    assert json.loads((tmp_path / "mean.json").read_text()) == best
    one, two, mean = (load_file(tmp_path / f"{n}.safetensors") for n in ("1", "2", "mean"))
    torch.testing.assert_close(mean["fc.weight"], (one["fc.weight"] + two["fc.weight"]) / 2)
