"""Figures of profiles, benches and claims, worked out by hand: which time, which bytes, in which
column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any
from xml.etree.ElementTree import tostring

import pytest

from tests.test_claim import synthetic
from tests.test_graph import small_graph, state_of
from tinyface import machine, runtime
from tinyface.cli import bench as bench_command
from tinyface.cli import claim as claim_command
from tinyface.cli.profile import print_profile
from tinyface.runtime import Session
from tinyface.tracing import Record
from tinyface.traffic import bench, experiment, report
from tinyface.traffic.bench import Case, Timing, take_turns
from tinyface.traffic.claim import analyse
from tinyface.traffic.design import Member
from tinyface.traffic.experiment import Measured
from tinyface.traffic.profile import Profile, Row, _Samples, random_inputs
from tinyface.traffic.report import Subject
from tinyface.traffic.report_sections import kinds_table
from tinyface.types import Cost

COMPULSORY = Cost(macs=1000, feature_read=10, feature_write=20, weight=30)
ALGORITHMIC = Cost(macs=1500, feature_read=100, feature_write=200, weight=300)
RECORD = Record("a", "conv2d", "gemm", (1, 2), COMPULSORY, ALGORITHMIC, 0, 500)
ROWS = (Row(RECORD, 500, 400, 0.5), Row(RECORD, 300, 200, 0.5))
PROFILE = Profile("net", "c", 1, "fp32", 1, ROWS, 1000, 900, 1100)
MEMBER = Member("n", "FDFN", small_graph)


# ------------------------------------------------------------------------------- profiles


def test_rates_are_of_compulsory_macs_and_algorithmic_bytes() -> None:
    row = ROWS[0].to_json()
    assert (row["gmac_per_s"], row["gb_per_s"]) == (2.0, 1.2)  # 1000 and 600 in 500 ns
    assert report.figures(ROWS[0])["gb"] == 1.2


def test_rates_of_whole_networks_and_their_ratios() -> None:
    found = report.totals(PROFILE)
    assert (found["GMAC/s"], found["GB/s"]) == (2, 1.2)  # both rows in 1000 ns
    slower = replace(PROFILE, whole_ns=4000)
    assert report.ratios(PROFILE, slower)["time, median (ms)"] == 4


def test_steps_of_a_kernel_add_up() -> None:
    assert PROFILE.by_kernel() == {"conv2d · gemm": (2, 800, COMPULSORY + COMPULSORY)}


def test_runs_with_step_times_are_told_from_those_without() -> None:
    graph = small_graph()
    session = Session(graph.bind(state_of(graph)), "numpy", threads=1)
    samples = _Samples([1, 2, 3], [5, 6, 7], [[RECORD]] * 3)
    found = samples.profile(session, random_inputs(session))
    assert (found.whole_ns, found.least_ns, found.traced_ns) == (2, 1, 6)


def test_the_median_stands_before_the_least(capsys: pytest.CaptureFixture[str]) -> None:
    print_profile(replace(PROFILE, rows=(Row(RECORD, 5_000_000, 4_000_000, 1.0),)))
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.split()[:1] == [RECORD.name])
    assert line.index("5000.0") < line.index("4000.0")


def test_maps_of_a_kind_are_read_and_written() -> None:
    page = tostring(kinds_table([Subject(PROFILE, small_graph())], 0), "unicode")
    # operators, MACs, bytes of maps and of weights
    assert re.findall(">([^<]+)</td>", page)[:4] == ["2", "2 k", "60", "60"]


# ------------------------------------------------------------------------------- benches


class Counting:
    """Stands in for an executable."""

    runs = 0

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.runs += 1
        return {}


def test_each_turn_begins_with_a_run_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(0, 1_000_000)  # whoever looks at the clock finds it 1 ms on
    monkeypatch.setattr(bench, "perf_counter_ns", lambda: next(ticks))
    engine, case = Counting(), Case("n", "c", "-", 1)
    (found,) = take_turns([(case, engine, {})], {"n": 4_000_000}, rounds=3, turn_s=0.01)
    assert engine.runs == found.runs + 3
    assert (found.least_ms, found.median_ms, found.high_ms) == (1, 1, 1)
    assert found.gmac_per_s == 4


def test_a_row_of_a_bench() -> None:
    timing = Timing(Case("n", "c", "avx2", 2), 4, 9, 1, 2, 1.5, 3)
    row = dict(zip(bench_command.HEADERS, bench_command._row(timing), strict=True))
    assert (row["ms"], row["least"], row["middle half"]) == ("2.000", "1.000", "1.500-3.000")
    assert row["GMAC/s"] == "2.00"


def test_a_bench_has_the_usual_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "default_threads", lambda: 7)
    assert bench_command._numbers("") == [7]


# ------------------------------------------------------------------------------- claims


def test_the_first_run_of_a_turn_warms_up() -> None:
    unused: Any = None
    runs = [(5, [5]), (9, [9]), (8, [10])]  # of the whole, and of its one step
    sampler = experiment._Sampler(unused, unused, unused, runs)
    sampler.end_turn()
    assert (sampler.wholes, sampler.steps) == ([8], [[9]])


def measured(median_ns: float) -> Measured:
    """A network whose fastest turn took 100 ns."""
    return Measured(MEMBER, (), (), median_ns, 110, 150, 100)


def test_noise_is_the_median_by_the_fastest() -> None:
    assert measured(130).noisy and not measured(120).noisy


def test_a_claim_says_how_many_networks_were_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [measured(ns) for ns in (130, 130, 100, 100)]
    monkeypatch.setattr(experiment, "measure", lambda *_, **__: some)
    monkeypatch.setattr(machine, "disturbance", lambda *_: "")
    _, warning, _ = claim_command._measure(True, 1, 1, "numpy")
    assert "2 of 4 networks were interrupted" in warning


def test_what_is_a_small_part_is_not_called_a_large_one() -> None:
    claim = analyse(synthetic((0.02, 0.05, 0.05, 1000), 1))
    small = {one.member.name: 0.15 for one in claim.measured}
    assert "part of the time" in claim.sentence
    assert "part of the time" not in replace(claim, shares=small).sentence
