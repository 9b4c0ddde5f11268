"""The claim put to the test: the design, the rule, the commands, the paper's figures."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from test_report import BROWSER, PROBE, in_browser

from tinyface import networks
from tinyface.cli.main import run as cli
from tinyface.errors import GraphError, UsageError
from tinyface.passes import optimise
from tinyface.traffic import design, paper
from tinyface.traffic.claim import ALONE, FULL, WITH_F, analyse, verdict
from tinyface.traffic.design import Member, chain, depthwise_chain, members, solve
from tinyface.traffic.experiment import Measured, measure
from tinyface.traffic.fit import correlation
from tinyface.traffic.predict import HeldOut, held_out
from tinyface.traffic.steps import StepFigures, expected, totals

COLUMNS = ("macs", "feature", "weight", "steps")


@cache
def steps_of(name: str) -> tuple[StepFigures, ...]:
    (member,) = (m for m in members() if m.name == name)
    return expected(optimise(member.build()), None)


# ------------------------------------------------------------------------------ the design


def test_figures_of_a_chain_by_hand() -> None:
    graph = chain("c", 2, 3, 8, 6, 4)  # 4 -> 6 -> 4 channels on 8 x 8
    cost = graph.cost
    assert cost.macs == 2 * 9 * 24 * 64
    assert cost.feature_read + cost.feature_write == 4 * 2 * 10 * 64
    assert cost.weight == 4 * 2 * 9 * 24


def test_chains_meet_what_is_asked_of_them() -> None:
    side, a, b = solve(64e6, 6.4e6, 0.64e6, 8, 1)
    cost = chain("c", 8, 1, side, a, b).cost
    assert cost.macs == pytest.approx(64e6, rel=0.02) and cost.weight == pytest.approx(
        0.64e6, rel=0.02
    )
    assert cost.feature_read + cost.feature_write == pytest.approx(6.4e6, rel=0.02)
    with pytest.raises(GraphError, match="raise F"):
        solve(64e6, 1e6, 0.64e6, 8, 1)


FAMILIES = {family: list(found) for family, found in groupby(design.designed(), lambda m: m.family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_design_separates_what_it_says(family: str) -> None:
    """No two of MACs, F, weights and operators go together; what should stay, stays."""
    rows = [(m, totals(steps_of(m.name))) for m in FAMILIES[family]]
    table = {column: [t[column] for _, t in rows] for column in COLUMNS}
    assert max(map(abs, correlation(table).values())) < 0.3
    (centre,) = (t for m, t in rows if not m.varies)
    for member, t in rows:
        ratios = {column: t[column] / centre[column] for column in COLUMNS}
        varied = ratios.pop(member.varies) if member.varies else 0.5
        assert abs(math.log(varied)) > 0.15, member.name
        assert all(0.9 < ratio < 1.1 for ratio in ratios.values()), (member.name, ratios)


def test_ordinary_families_do_not_separate_them() -> None:
    """Why the design is needed: among widths of one network everything rises together."""
    names = ("cnn-14-ds-x0.25", "cnn-14-ds-x0.5", "cnn-14-ds-x1")
    sums = [totals(steps_of(name)) for name in names]
    found = correlation({column: [t[column] for t in sums] for column in COLUMNS[:3]})
    assert min(found.values()) > 0.95


def test_the_members_are_what_the_question_names() -> None:
    everything = members()
    names = [m.name for m in everything]
    assert len(set(names)) == len(names)
    assert {"cnn-14-ds-x0.5", "cnn-14-ds-x1.25", "cnn-8-fd-x0.75", "fdfacenet", "nfn", "dwfn",
            "mobilefacenet", "vargfacenet"} <= set(names)  # fmt: skip
    assert {m.name for m in members(quick=True)} < set(names)
    groups = {m.name: m.held_out_with for m in everything}
    assert groups["mobilefacenet"] == groups["mobilefacenet-arcface"] == "mobilefacenet"
    assert groups["varkfacenet"] != groups["vargfacenet"] and groups["nfn-x0.5"] == "NFN"
    kinds = {step.kind for name in ("fdfacenet", "varkfacenet") for step in steps_of(name)}
    assert {"standard", "pointwise", "depthwise", "grouped", "linear", "other"} == kinds


# -------------------------------------------------------------------------------- the rule

SOME = (
    "cnn-8-fd-x0.25", "cnn-8-fd-x0.5", "cnn-8-fd-x1", "cnn-14-ds-x0.25", "cnn-14-ds-x0.5",
    "cnn-14-ds-x1", "fdfacenet", "nfn", "dwfn", "mobilefacenet",
)  # fmt: skip


def synthetic(rates: tuple[float, float, float, float], seed: int) -> list[Measured]:
    """Times that follow a model exactly, but for noise of 4 % per step."""
    rng = np.random.default_rng(seed)
    result = []
    for member in members():
        if member.name not in SOME and not member.designed:
            continue
        steps = steps_of(member.name)
        figures = [(s.macs, s.feature, s.weight, 1) for s in steps]
        ns = [float(np.dot(rates, f) * rng.normal(1, 0.04)) for f in figures]
        result.append(Measured(member, steps, tuple(ns), sum(ns), sum(ns), sum(ns), sum(ns)))
    return result


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_traffic_that_counts_is_found(seed: int) -> None:
    claim = analyse(synthetic((0.02, 0.05, 0.05, 1000), seed))
    assert claim.verdict == "yes" and claim.pooled[FULL].error < 0.05
    assert claim.sentence == analyse(synthetic((0.02, 0.05, 0.05, 1000), seed + 10)).sentence
    assert "large part of the time of CNN-14-DS" in claim.sentence and "NFN" in claim.sentence
    fit = claim.pooled[FULL]
    assert fit.coefficient("feature") == pytest.approx(0.05, rel=0.1)
    assert claim.shares["nfn"] < 0.1 < claim.shares["cnn-14-ds-x0.5"]
    for kind in ("standard", "pointwise"):
        assert claim.by_kind[kind][FULL].positive("feature")


@pytest.mark.parametrize("rates", [(0.02, 0, 0, 0), (0.02, 0, 0.05, 0), (0.01, 0, 0, 2e5)])
@pytest.mark.parametrize("seed", [1, 2])
def test_traffic_that_does_not_count_is_not(
    rates: tuple[float, float, float, float], seed: int
) -> None:
    """Times by MACs, by MACs and weights, and by the number of operators, as on a GPU."""
    claim = analyse(synthetic(rates, seed))
    assert claim.verdict in ("no", "confounded")
    assert claim.sentence == analyse(synthetic(rates, seed + 10)).sentence


def test_too_few_networks_decide_nothing() -> None:
    claim = analyse(synthetic((0.02, 0.05, 0.05, 1000), 1)[:3])
    assert verdict({}) == claim.verdict == "unknown" and "cannot be told" in claim.sentence
    json.dumps(claim.to_json(), allow_nan=False)


# --------------------------------------------------------------------- measuring, commands


def small_members(*, quick: bool = False) -> list[Member]:
    chains = [
        Member(f"c{n}", "design pointwise", partial(chain, f"c{n}", n, 1, 8, 16, 8))
        for n in (2, 4, 6)
    ]
    kinds = {"FDFN": "fdfacenet", "DWFN": "dwfn"}
    return chains + [
        Member(f"{name}-x{w}", family, partial(networks.find(name).build, width=w, size=56))
        for family, name in kinds.items()
        for w in (0.125, 0.25)
    ]


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_measuring(backend: str) -> None:
    calls: list[int] = []
    found = measure(
        small_members(), backend=backend, rounds=2, turn_s=0.001, progress=lambda: calls.append(1)
    )
    assert len(calls) == 7 * 3
    for m in found:
        assert len(m.steps) == len(m.step_ns) and min(m.step_ns) > 0
        assert 0 < m.least_ns <= m.low_ns <= m.whole_ns <= m.high_ns
        static = totals(expected(optimise(m.member.build()), None))
        assert m.totals["macs"] == static["macs"] and m.totals["weight"] == static["weight"]
    made = [m for m in found if m.member.designed]
    assert [len(m.steps) for m in made] == [2, 4, 6]  # no changes of layout
    assert {s.kind for m in made for s in m.steps} == {"pointwise"}


@pytest.mark.needs_c
def test_whole_runs_are_of_the_engine_as_it_is() -> None:
    """Chains and all; the steps are timed without."""
    wide = Member("wide", "FDFN", partial(depthwise_chain, "wide", 3, 3, 64, 64))
    plain = Member("plain", "FDFN", partial(chain, "plain", 2, 1, 8, 16, 8))
    found = measure([wide, plain], backend="c", rounds=1, turn_s=0.001)
    assert [m.chained for m in found] == [True, False]
    assert [len(m.steps) for m in found] == [5, 4]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(design, "members", small_members)
    device, table = tmp_path / "here.json", tmp_path / "claim.csv"
    args = ["claim", "--quick", "--rounds", "1", "-t", "2", "-o", str(table)]
    args += ["--device", str(device)]
    assert cli([*args, "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["schema"] == "tinyface.claim/1" and doc["machine"]["cpu"] and doc["sentence"]
    assert set(doc["pooled"]) >= {ALONE, WITH_F} and len(doc["networks"]) == 7
    assert doc["prediction"]["held_out"]["networks"] == 4
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == 7 and int(rows[0]["macs"]) == 2 * 64 * 128
    assert rows[0]["cpu"] == doc["machine"]["cpu"] and rows[0]["threads"] == "2"
    assert doc["prediction"]["device"]["threads"] == 2
    assert rows[0]["warning"] == doc["warning"]
    assert cli(["predict", "fdfacenet", "--device", str(device)]) == 0
    assert "ms expected" in capsys.readouterr().out
    assert cli(args) == 0
    out = capsys.readouterr().out
    assert "95 % intervals" in out and "Prediction of 4 networks" in out


@pytest.mark.parametrize(
    "args", [["-o", "x.txt"], ["--plot", "x.jpeg"], ["--html", "x.htm"],
             ["--device", "nowhere/x.json"], ["-o", "x.json", "--device", "x.json"],
             ["--paper", "-o", "x.csv"], ["--paper", "--quick"], ["--paper", "--rounds", "3"]]
)  # fmt: skip
def test_what_cannot_be_written_is_refused_first(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["claim", *args]) == 2
    assert capsys.readouterr().out == ""


def test_what_a_plot_needs_is_missed_before_minutes_are_spent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(design, "members", None)  # measuring would fail
    assert cli(["claim", "--plot", "x.png"]) == 2
    assert "'plot'" in capsys.readouterr().err


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tinyface.traffic.claim_plot import draw

    claim = analyse(synthetic((0.02, 0.05, 0.05, 1000), 1))
    draw(claim, tmp_path / "claim.png", "a machine")
    assert (tmp_path / "claim.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"\.png"):
        draw(claim, tmp_path / "claim.jpeg", "a machine")


def test_a_picture_of_doubtful_times_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is passed on without what stood on stderr."""
    from tinyface.cli import claim as command
    from tinyface.traffic import claim_plot

    titles: list[str] = []
    monkeypatch.setattr(claim_plot, "draw", lambda _claim, _path, title: titles.append(title))
    found = analyse(synthetic((0.02, 0.05, 0.05, 1000), 1))
    for warning in ("", "it was busy"):
        names = (None, "x.png", None, None)
        command._files(found, None, None, names, {"cpu": "a machine"}, warning, 1)  # type: ignore[arg-type]
    assert titles[0] == "a machine"
    assert titles[1].splitlines()[1:] == ["the times are not to be trusted: it was busy"]


# ------------------------------------------------------------------------------- the page


def the_page(script: str = "", warning: str = "") -> str:
    from tinyface.traffic.claim_html import About, page

    found = synthetic((0.02, 0.05, 0.05, 1000), 1)
    about = About("a </script><b>machine", "1 thread", "2026-01-01", "0", warning)
    return page(analyse(found), held_out(found), about, script)


def test_the_page_has_the_answer_and_every_figure() -> None:
    found = synthetic((0.02, 0.05, 0.05, 1000), 1)
    claim, held = analyse(found), held_out(found)
    text = the_page(warning="it was busy")
    assert claim.sentence in text and "not to be trusted: it was busy" in text
    for name in [m.member.name for m in found] + list(claim.pooled):
        assert f">{name}<" in text
    fit = claim.pooled[FULL]
    value, low, high = (
        v[fit.names.index("feature")] for v in (fit.coefficients, fit.low, fit.high)
    )
    assert f"{value:.3g} [{low:.3g} … {high:.3g}]" in text
    assert f"{fit.r2:.3f}" in text and f"{fit.mean:.1%}" in text and f"{held.median:.1%}" in text
    assert "<b>" not in text and "&lt;b&gt;machine" in text


def test_the_page_needs_nothing_else_and_can_be_heard() -> None:
    text = the_page()
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert "default-src 'none'" in text and 'lang="en"' in text
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'aria-labelledby="([^"]+)"', text):
        assert name in ids
    assert text.count("<table") == text.count("<caption") == text.count('tabindex="0"')


def test_networks_that_are_not_pooled_have_no_share() -> None:
    """Depthwise kernels beyond 3 x 3 take part in the fits by kind alone."""
    found = synthetic((0.02, 0.05, 0.05, 1000), 1)
    pooled = [m.member.pooled for m in found]
    rows = analyse(found).to_json()["networks"]
    assert [row["f_share"] is not None for row in rows] == pooled and not all(pooled)


def test_too_few_networks_are_no_page(tmp_path: Path) -> None:
    from tinyface.traffic.claim_html import About, page

    few = analyse(synthetic((0.02, 0.05, 0.05, 1000), 1)[:3])
    with pytest.raises(UsageError, match="too few networks"):
        page(few, HeldOut({}, {}), About("", "", "", ""), "")


@pytest.mark.skipif(not BROWSER, reason="no Chromium installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Five charts are drawn from file://, nothing is fetched, nothing fails."""
    pytest.importorskip("vl_convert")
    from tinyface.traffic.report_page import libraries

    look = """
    (async () => {
      while (!document.documentElement.classList.contains("drawn"))
        await new Promise((r) => setTimeout(r, 20));
      const marks = (name, kind) =>
        document.querySelectorAll(`#${name} path[aria-roledescription=${kind}]`).length;
      const seen = [marks("errors-chart", "bar"), marks("terms-chart", "point"),
        marks("fitted-chart", "point"), marks("share-chart", "bar"), marks("design-chart", "point"),
        problems.length, performance.getEntriesByType("resource")
          .filter((r) => !r.name.startsWith("data:")).length];
      const out = document.createElement("output");
      out.textContent = `seen ${seen.join(" ")}`;
      document.body.append(out);
    })();
    """
    text = the_page(libraries()).replace("<style>", f"<script>{PROBE}</script><style>", 1)
    head, _, tail = text.rpartition("</body>")
    file = tmp_path / "claim.html"
    file.write_text(f"{head}<script>{look}</script></body>{tail}", encoding="utf-8")
    seen = re.search(r"<output>seen ([0-9 ]+)", in_browser(file, tmp_path / "profile"))
    assert seen
    claim = analyse(synthetic((0.02, 0.05, 0.05, 1000), 1))
    groups = [claim.pooled, *claim.by_kind.values()]
    pooled = [m for m in claim.measured if m.member.pooled]
    assert list(map(int, seen[1].split())) == [
        sum(math.isfinite(fit.mean) for fits in groups for fit in fits.values()),
        sum(len(fit.names) for fit in claim.pooled.values()),
        len(pooled), sum(not m.member.designed for m in pooled), len(pooled), 0, 0,
    ]  # fmt: skip


# --------------------------------------------------------------------------- the paper's own


def test_the_papers_rows_are_networks_with_printed_figures() -> None:
    rows = paper.rows()
    assert {row.machine for row in rows} == set(paper.MACHINES)
    by_name = {row.network: row for row in rows}
    assert by_name["cnn-14-ds-x0.5"].layers == by_name["cnn-14-ds-x1.25"].layers == 83
    assert by_name["proxylessfacenas-cpu"].layers == 167
    assert by_name["lightfacenet"].layers == 0 and by_name["lightfacenet"].note
    assert by_name["fdfacenet"].feature == 7.39e6
    assert by_name["fdfacenet"].feature_z == pytest.approx(4.92e6, rel=1e-3)


def test_the_regression_of_table_4_says_what_is_told_of_it() -> None:
    regression = paper.document()["regressions"][0]
    by_name = {row.network: row for row in paper.rows("pi4")}
    for name, ms in regression["predicts"].items():
        row = by_name[name]
        fitted = regression["constant_ms"] + 1e-6 * (
            regression["ns_per_mac"] * row.macs + regression["ns_per_feature_byte"] * row.feature
        )
        assert fitted == pytest.approx(ms, rel=0.01) and not 0.65 < row.ms / fitted < 1.5


def test_what_the_papers_figures_support() -> None:
    fits = paper.fits("pi4")
    assert fits["MACs + F"].rows == 4 and not fits["MACs + F"].positive("feature")
    assert "layers" in paper.fits("tx2") and paper.fits("tx2")["layers"].rows == 3
    weights = paper.weight_bandwidth()
    assert weights["weight_bytes"] == 4 * 512 * (8192 - 512) - 4 * (512 * 16 + 1024)
    assert 1.3 < weights["gb_per_s"] < weights["gb_per_s_less_macs"] < 1.6
    assert paper.correlations()["3, 4"]["F", "layers"] > 0.8
    assert len(paper.conclusions()) == 5


def test_the_papers_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["claim", "--paper", "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["schema"] == "tinyface.claim-paper/1" and len(doc["conclusions"]) == 5
    assert cli(["claim", "--paper"]) == 0
    assert "Not supported" in capsys.readouterr().out
