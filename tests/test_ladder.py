"""The ladder of docs/ladder.md: every step computes the same, and the table has them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyface.backends import c as engine

ladder = pytest.importorskip("benchmarks.ladder", reason="benchmarks/ is not installed")
pytestmark = pytest.mark.needs_c


def test_every_step_is_measured_and_checked() -> None:
    timings = ladder.measure("cnn-8-ds-cifar", 2, 1)  # refuses a step with other outputs
    steps = [t.case.backend for t in timings]
    assert len(set(steps)) == len(steps) == 7 + len(engine.isas()) - 1
    assert steps[0].startswith("NumPy") and steps[-1] == "fp16 weights"
    lines = ladder.table(timings).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == steps
    assert lines[2].split(" | ")[3:5] == ["1.00", "1.0"]


def test_a_step_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "AGREE", 0.0)
    with pytest.raises(SystemExit, match="differs by"):
        ladder.measure("cnn-8-ds-cifar", 1, 1)


def test_winograd_can_be_left_out_and_comes_back() -> None:
    graph, rungs = ladder.climb("cnn-8", 1)
    kernels = {
        r.name: {s.kernel for s in r.run.plan.steps} for r in rungs if hasattr(r.run, "plan")
    }
    assert not any(k.startswith("winograd") for k in kernels["fused"])
    assert any(k.startswith("winograd") for k in kernels["Winograd, chains"])
    assert any(k.endswith("_fp16") for k in kernels["fp16 weights"])


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ladder.draw(ladder.measure("cnn-8-ds-cifar", 1, 1), tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
