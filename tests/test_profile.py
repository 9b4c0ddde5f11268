"""Traces, profiles, benches, and the machine they were taken on."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import tinyface
from tests.test_graph import small_graph, state_of
from tinyface import machine
from tinyface.backends import c
from tinyface.backends.numpy import NumpyExecutable
from tinyface.cli.main import run as cli
from tinyface.errors import UsageError
from tinyface.limits import MAX_THREADS
from tinyface.runtime import Session
from tinyface.tracing import Record, Trace
from tinyface.traffic.bench import Case, _timing, take_turns
from tinyface.traffic.cache import Cache
from tinyface.traffic.profile import measure, random_inputs
from tinyface.types import Cost


def session(backend: str = "numpy") -> Session:
    graph = small_graph()
    return Session(graph.bind(state_of(graph)), backend, threads=1)


def test_without_a_trace_nothing_is_recorded() -> None:
    x = np.ones((1, 3, 8, 8), np.float32)
    with tinyface.trace() as trace:
        pass
    session().run(x)
    assert trace.runs == []


def test_a_trace_has_one_record_per_step_of_every_run() -> None:
    s = session()
    x = np.ones((1, 3, 8, 8), np.float32)
    with tinyface.trace() as trace:
        traced = s.run(x)["act"]
        s.run(x)
    assert [len(run) for run in trace.runs] == [1, 1]  # conv and PReLU are one step
    record = trace.records[0]
    assert record.compulsory == s.graph.cost and record.output_shape == (1, 4, 4, 4)
    assert record.algorithmic.scratch > 0 and record.time_ns > 0
    assert np.array_equal(traced, s.run(x)["act"])


def test_traces_of_two_threads_do_not_mix() -> None:
    from concurrent.futures import ThreadPoolExecutor

    s = session()
    x = np.ones((1, 3, 8, 8), np.float32)

    def one(times: int) -> int:
        with tinyface.trace() as trace:
            for _ in range(times):
                s.run(x)
        return len(trace.runs)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(8))) == list(range(8))


def test_trace_files(tmp_path: Path) -> None:
    cost = Cost(macs=1000, feature_read=10, feature_write=20, weight=30)
    trace = Trace([[Record("a", "conv2d", "im2col", (1, 2), cost, cost, 0, 500)]])
    for name in ("t.json", "t.csv", "t.chrome.json"):
        trace.write(tmp_path / name)
    doc = json.loads((tmp_path / "t.json").read_text())
    assert doc["schema"] == 1 and doc["runs"][0][0]["macs"] == 1000
    assert doc["runs"][0][0]["algorithmic"]["weight_bytes"] == 30
    (row,) = csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
    assert row["feature_write_bytes"] == "20" and row["gmac_per_s"] == "2.0"
    (event,) = json.loads((tmp_path / "t.chrome.json").read_text())["traceEvents"]
    assert event["ph"] == "X" and event["dur"] == 0.5
    with pytest.raises(UsageError, match=r"\.json"):
        trace.write(tmp_path / "t.txt")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_profile_adds_up() -> None:
    s = session()
    calls: list[int] = []
    result = measure(s, random_inputs(s), runs=3, progress=lambda: calls.append(1))
    assert len(calls) == 4 and result.runs == 3 and len(result.rows) == 1
    assert result.cost == s.graph.cost
    assert sum(row.share for row in result.rows) == pytest.approx(1)
    assert result.least_ns <= result.whole_ns
    doc = result.to_json()
    wanted = {
        "name", "op", "kernel", "output_shape", "macs", "feature_read_bytes",
        "feature_write_bytes", "weight_bytes", "scratch_bytes", "algorithmic", "time_ns",
    }  # fmt: skip
    assert wanted <= doc["operators"][0].keys()
    assert doc["totals"]["macs"] == s.graph.cost.macs


@pytest.mark.needs_c
def test_bytes_past_a_cache_stand_beside_the_times(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of 12.7 MB pass 1 MiB in every run; what the model says of each step adds up."""
    args = ["profile", "fdfacenet", "--runs", "1", "-t", "1", "--cache", "1M:16"]
    assert cli([*args, "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    model, rows = doc["cache_model"], [row["past_cache"] for row in doc["operators"]]
    assert (model["bytes"], model["ways"]) == (1 << 20, 16) and model["filled_bytes"] > 12.7e6
    for key in ("filled_bytes", "written_back_bytes"):
        assert model[key] == sum(row[key] for row in rows)
    assert cli(args) == 0
    out = capsys.readouterr().out
    assert "past a cache of 1 MiB, 16 ways, by the model" in out and "past cache B" in out
    assert cli(["profile", "fdfacenet", "--runs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cache_model"] is None
    assert cli([*args, "--backend", "numpy"]) == 2
    assert "--cache follows plans of the C engine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "cache"),
    [("512K", Cache(512 << 10)), (" 1m:16", Cache(1 << 20, 16)), ("64k:1025", None), ("1", None),
     ("0M", None), ("1M:0", None), ("2G", None), ("4096M", None), ("-1M", None)],
)  # fmt: skip
def test_sizes_of_caches(text: str, cache: Cache | None) -> None:
    if cache is not None:
        assert Cache.parse(text) == cache
        return
    with pytest.raises(UsageError, match="1M:16"):
        Cache.parse(text)


@pytest.mark.parametrize("ms", [[4.0], [3.0, 9.0], [1.0, 2.0, 8.0]])
def test_the_middle_half_lies_within_the_times(ms: list[float]) -> None:
    timing = _timing(Case("net", "c", "avx2", 1), 1.0, ms)
    assert min(ms) <= timing.low_ms <= timing.median_ms <= timing.high_ms <= max(ms)


def test_cases_take_turns() -> None:
    s = session()
    inputs = random_inputs(s)
    runs = [(Case("small", "numpy", "-", t), NumpyExecutable(s.graph), inputs) for t in (1, 2)]
    macs = {"small": s.graph.cost.macs}
    turns: list[int] = []
    one, two = take_turns(runs, macs, rounds=2, turn_s=0.001, progress=lambda: turns.append(1))
    assert len(turns) == 4 and (one.case.threads, two.case.threads) == (1, 2)
    assert one.least_ms <= one.low_ms <= one.median_ms <= one.high_ms
    assert one.runs >= 2 and one.gmac_per_s > 0


def test_commands_print_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["profile", "fdfacenet", "--runs", "1", "--backend", "numpy", "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["schema"] == "tinyface.profile/1" and doc["backend"] == "numpy"
    assert cli(["profile", "fdfacenet", "--runs", "1"]) == 0
    out = capsys.readouterr().out
    assert "GMAC/s" in out and ("memory: arena " in out) == c.available()
    assert cli(["bench", "fdfacenet", "-t", "1", "--rounds", "1", "-o", "json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["timings"][0]["network"] == "fdfacenet" and doc["machine"]["cpu"]
    for threads in ("none", "0", str(MAX_THREADS + 1)):
        assert cli(["bench", "-t", threads]) == 2
    assert cli(["tables", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    row = next(r for r in rows if r["network"] == "fdfacenet")
    assert row["fits"]["fmap"] == ["U"] and not row["misfits"]


def test_how_weights_were_kept_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["profile", "fdfacenet", "--runs", "1", "--weights", "fp16", "-t", "1", "--json"]
    assert cli(line) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == "fp16"


def test_what_disturbs_a_measurement_is_said() -> None:
    calm = {"mhz": 1500, "celsius": 50.0, "load": 0.0, "throttled": []}
    assert machine.disturbance(calm, calm) == ""
    assert "1500 to 600" in machine.disturbance(calm, calm | {"mhz": 600})
    assert "throttled" in machine.disturbance(calm, calm | {"throttled": ["throttled"]})
    assert "other work" in machine.disturbance(calm | {"load": 99.0}, calm)
    unknown = dict.fromkeys(calm)
    assert machine.disturbance(unknown, unknown) == ""


def test_what_disturbs_little_is_not() -> None:
    """A clock that falls by a tenth, half of the CPUs at work."""
    calm = {"mhz": 1500, "celsius": 50.0, "load": 0.0, "throttled": []}
    cpus = len(machine.usable())
    assert machine.disturbance(calm, calm | {"mhz": 1300})
    assert not machine.disturbance(calm, calm | {"mhz": 1400})
    assert machine.disturbance(calm | {"load": 0.6 * cpus}, calm)
    assert not machine.disturbance(calm | {"load": 0.4 * cpus}, calm)


def test_a_pi_that_throttles_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "vcgencmd"
    tool.write_text("#!/bin/sh\necho throttled=0x50005\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.throttled() == ["under-voltage", "throttled"]
    tool.write_text("#!/bin/sh\necho nonsense\n")
    assert machine.throttled() is None


def test_the_machine_is_described() -> None:
    described = machine.describe()
    assert described["cpu"] and described["usable_cpus"] >= 1
    assert described["cpu"] in machine.headline(described)
