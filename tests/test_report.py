"""Reports of `tinyface profile`: bounds, the drawn network, feature maps, HTML in a browser."""

from __future__ import annotations

import base64
import builtins
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.test_graph import small_graph, state_of
from tinyface.builder import Builder
from tinyface.cli.main import run as cli
from tinyface.errors import UsageError
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.ops import Add
from tinyface.runtime import Session
from tinyface.traffic.profile import measure, random_inputs
from tinyface.traffic.report import COLOURS, Context, Subject, coloured, points, ratios, roof_lines
from tinyface.traffic.report_graph import lane_rows
from tinyface.traffic.report_html import page
from tinyface.traffic.report_maps import encode_png, feature_maps, tiles
from tinyface.traffic.report_page import asset
from tinyface.traffic.roofs import Level, Roofs
from tinyface.types import Cost

HOSTILE = '</script><script>alert("x")</script><!-- $\\frac &amp; \'"'
ROOFS = Roofs(10.0, (Level("L1d", 100.0, 1000), Level("L2", 20.0, 10_000), Level("DRAM", 2.0)))
CONTEXT = Context("a machine", "", "2026-01-01", "0")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def branched(name: str = "branched") -> Graph:
    """A convolution, a shortcut around two more, and their sum."""
    b = Builder(name)
    x = b.conv(b.input("input", (1, 3, 16, 16)), 8, 3, pad=1, key=f"first{HOSTILE}")
    y = b.prelu(b.conv(x, 8, 3, pad=1, key="second"), key="slope")
    y = b.conv(y, 8, 1, key="third")
    graph = b.build(b.apply(Add(), b.apply(Add(), x, y), y))
    return graph.bind(random_state(graph))


def subject(name: str = "branched", **how: Any) -> Subject:
    session = Session(branched(name), "numpy", threads=1)
    profile = measure(session, random_inputs(session), runs=1)
    return Subject(profile, session.graph, **how)


# ------------------------------------------------------------------------------- roofs


@pytest.mark.parametrize(
    ("cost", "time_ns", "bound"),
    [
        (Cost(macs=10_000, feature_read=100), 1_500, "compute"),  # 1000 ns against 1 ns
        (Cost(macs=10, feature_read=5_000, feature_write=5_000), 800, "L2"),  # 500 ns
        (Cost(macs=10, feature_read=5_000, feature_write=5_001), 5_001, "DRAM"),  # 5000 ns
        (Cost(macs=10, weight=200), 150, "DRAM"),  # with the network's 1 MB: 100 ns
        (Cost(macs=10, feature_read=3_000, weight=100), 300, "L2"),  # 150 ns, weights 50
        (Cost(macs=10, feature_read=3_000, weight=302), 300, "DRAM"),
        (Cost(macs=10_000, feature_read=100), 2_001, "overhead"),
        (Cost(), 5, "overhead"),
    ],
)
def test_bounds_are_what_the_roofs_explain(cost: Cost, time_ns: int, bound: str) -> None:
    assert ROOFS.bound(cost, time_ns, network_weights=1_000_000) == bound


def test_roofs_files(tmp_path: Path) -> None:
    path = tmp_path / "roofs.json"
    path.write_text(json.dumps({"schema": "x", "roofs": ROOFS.to_json()}))
    assert Roofs.read(path) == ROOFS
    good = ROOFS.to_json()
    level = {"name": "a", "gb_per_s": 1}
    for bad in (
        {}, good | {"gmac_per_s": 0}, good | {"gmac_per_s": True}, good | {"levels": []},
        good | {"levels": [level] * 9}, good | {"levels": [level | {"bytes": "1"}]},
        good | {"levels": [level | {"name": 1}]}, good | {"levels": 5}, {"roofs": 3},
        good | {"gmac_per_s": float("nan")},
    ):  # fmt: skip
        path.write_text(json.dumps(bad))
        with pytest.raises(UsageError, match="gmac_per_s and levels"):
            Roofs.read(path)
    for text in ("[1]", "{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(UsageError, match="no roofs file"):
            Roofs.read(path)
    with pytest.raises(UsageError, match="No such file"):
        Roofs.read(tmp_path / "none.json")


def test_points_and_lines_agree() -> None:
    one = subject()
    found = points(one, None)
    for key in ("time", "macs", "maps", "weights"):
        assert sum(p["shares"][key] for p in found) == pytest.approx(1)
    (envelope,) = roof_lines([one], None)
    assert not envelope["measured"]
    for p in found:  # an envelope is above every point
        assert p["gmac"] <= min(envelope["gmac"], envelope["gb"] * p["intensity"]) * (1 + 1e-9)
        assert p["bound"] is None
    assert [line["gb"] for line in roof_lines([one], ROOFS)] == [100.0, 20.0, 2.0]
    assert set(ratios(one.profile, one.profile).values()) <= {1.0, None}


def test_kinds_of_little_time_share_the_last_colour() -> None:
    times = {"d": 5, "b": 1, "a": 2, "c": 9, "e": 1}
    found = [{"kind": kind, "time": time} for kind, time in times.items()]
    assert coloured(found, 5) == ["a", "b", "c", "d", "e"]
    assert coloured([*found, {"kind": "b", "time": 2}], 4) == ["b", "c", "d", "others"]


def test_pages_and_pictures_have_the_same_colours() -> None:
    found = dict(re.findall(r"const (LIGHT|DARK) = (\[.*\]);", asset("charts.js")))
    assert tuple(json.loads(found["LIGHT"])) == COLOURS
    assert len({*json.loads(found["DARK"])}) == len(COLOURS)


# ------------------------------------------------------------------------- the network


def test_lanes_show_branches() -> None:
    rows = lane_rows(branched())
    first, second = rows[1], rows[2]
    assert rows[0].kind == "input" and first.reads == ("input",)
    assert second.lane != first.lane and first.lane in second.through  # the shortcut goes on
    last, before = rows[-1], rows[-2]
    assert set(before.into) == {first.lane, second.lane}
    assert last.reads == (before.name, "third") and len(set(last.into)) == 2
    assert last.out == () and last.through == ()


def test_lanes_are_never_shared() -> None:
    from tinyface import networks

    for name in ("shufflefacenet-x1.0", "retinaface-mnet0.25"):
        try:
            graph = networks.find(name).build()
        except UsageError:
            continue
        alive: set[int] = set()
        for row in lane_rows(graph):
            assert set(row.into) <= alive and set(row.through) <= alive
            assert len(set(row.out)) == len(row.out) and not set(row.out) & set(row.through)
            alive = {*row.through, *row.out}
        assert not alive


# ------------------------------------------------------------------------ feature maps


def test_tiles_are_the_channels_that_vary_most() -> None:
    output = np.zeros((1, 20, 4, 4), np.float32)
    output[0, 7, 0, 0] = 2
    output[0, 3, 3, 3] = -9
    found = tiles("a", "conv2d", output)
    assert found.channels[:2] == (3, 7) and len(found.channels) == 8
    assert (found.low, found.high) == (-9, 2)
    picture = np.asarray(Image.open(io.BytesIO(found.image)))
    assert picture.shape == (56, 8 * 56 + 7 * 2, 2)
    assert picture[-1, 55, 0] == 0 and picture[0, 0, 0] == 255  # its least is black
    assert picture[0, 58, 0] == 255 and picture[-1, 58, 0] == 0  # the second tile
    assert picture[0, 57, 1] == 0  # the gap is clear


@pytest.mark.parametrize(
    "shape", [(1, 600), (1, 4, 1, 1), (2, 1, 113, 3), (1, 2, 1, 300), (1, 3, 5), ()]
)
def test_tiles_of_every_shape(shape: tuple[int, ...]) -> None:
    output = np.asarray(np.random.default_rng(0).normal(size=shape), np.float32)
    output.flat[:2] = [np.nan, np.inf][: output.size]
    picture = Image.open(io.BytesIO(tiles("a", "b", output).image))
    assert max(picture.size) <= 600 and picture.mode == "LA"


def test_feature_maps_are_of_every_operator() -> None:
    session = Session(branched(), "numpy", threads=1)
    found = feature_maps(session.graph, random_inputs(session))
    assert [m.name for m in found] == [node.name for node in session.graph.nodes]
    assert found[0].uri.startswith("data:image/png;base64,")


# -------------------------------------------------------------------------------- HTML


class Outline(HTMLParser):
    """Elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def report(*names: str, script: str = "", roofs: Roofs | None = None) -> str:
    crop = encode_png(np.zeros((8, 8, 3), np.uint8))
    maps = (tiles(HOSTILE, "conv2d", np.ones((1, 2, 4, 4), np.float32)),)
    subjects = [subject(name, crop=crop, maps=maps) for name in names]
    context = Context(HOSTILE, "it was busy", "2026-01-01", "0", roofs)
    return page(subjects, context, script)


def test_names_cannot_become_markup() -> None:
    text = report(HOSTILE, "\ud800 half a pair")
    outline = Outline(text)
    assert len(outline.of("script")) == 4 and "alert(" not in re.sub(
        r"<script[^>]*>.*?</script>", "", text, flags=re.S
    ).replace("&lt;script&gt;alert(", "")
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)
    assert data and json.loads(data[1])["networks"][0]["label"] == f"A: {HOSTILE}"
    assert all(not key.startswith("on") for _, a in outline.found for key in a)


def test_a_page_needs_nothing_else() -> None:
    outline = Outline(report("one", roofs=ROOFS))
    for _, attributes in outline.found:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    policy = next(m for m in outline.of("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in (policy["content"] or "")


def test_a_page_can_be_read_without_seeing_it() -> None:
    outline = Outline(report("one", "other"))
    ids = [a["id"] for _, a in outline.found if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for a in outline.of("a") if a["href"]}  # type: ignore[index]
    assert links <= set(ids)
    assert all(image["alt"] for image in outline.of("img"))
    assert all(a.get("aria-hidden") == "true" for a in outline.of("svg"))
    assert {a.get("aria-labelledby") for a in outline.of("section")} <= set(ids)
    sorts = [a["aria-sort"] for a in outline.of("th") if "aria-sort" in a]
    assert sorts.count("ascending") == 2 and len(outline.of("html")[0]["lang"] or "") == 2
    assert all(a.get("scope") in ("col", "row") for a in outline.of("th"))


def test_without_the_extra_the_command_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinyface.traffic.report_page.find_spec", lambda name: None)
    assert cli(["profile", "fdfacenet", "--html", str(tmp_path / "r.html")]) == 2
    assert "the extra 'report'" in capsys.readouterr().err
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert cli(["profile", "fdfacenet", "--png", str(tmp_path / "r.png")]) == 2
    assert "the extra 'plot'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------- command


def test_wishes_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["a", "b"], "--compare"), (["--compare", "a"], "two networks"),
        (["a", "--picture", "b.jpg"], "--html"), (["--compare", "a", "b", "-o", "t.json"], "trace"),
        (["fdfacenet", "--roofs", str(tmp_path / "no.json")], "no.json"),
    ):  # fmt: skip
        assert cli(["profile", *arguments]) == 2
        assert says in capsys.readouterr().err


def test_json_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tinyface.formats.modelfile import Card, Preprocess, save_model

    graph = small_graph()
    path = tmp_path / "small.safetensors"
    save_model(path, graph.bind(state_of(graph)), Card("small", "embed", Preprocess(8, 8)))
    roofs = tmp_path / "roofs.json"
    roofs.write_text(json.dumps(ROOFS.to_json()))
    common = ["--runs", "1", "--backend", "numpy", "--roofs", str(roofs)]
    assert cli(["profile", "--compare", str(path), str(path), *common, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tinyface.profile-compare/1" and len(document["profiles"]) == 2
    assert document["ratios_b_over_a"]["MACs"] == 1 and document["machine"]["before"]
    bounds = {row["bound"] for p in document["profiles"] for row in p["operators"]}
    assert bounds <= {"compute", "L1d", "L2", "DRAM", "overhead"} and bounds
    assert cli(["profile", "--compare", str(path), str(path), *common]) == 0
    assert "B / A" in capsys.readouterr().out


def test_a_picture_of_a_profile(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tinyface.traffic.report_png import draw

    for roofs in (None, ROOFS):
        context = Context(HOSTILE, "busy", "2026-01-01", "0", roofs)
        draw(str(tmp_path / "a.png"), [subject("$\\frac{"), subject(HOSTILE)], context)
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.width > 800
    with pytest.raises(UsageError, match=r"\.png"):
        draw(str(tmp_path / "a.bmp"), [subject()], CONTEXT)


# ----------------------------------------------------------------------------- browser

PROBE = """
const problems = [];
addEventListener("error", (e) => problems.push(`error: ${e.message}`));
addEventListener("unhandledrejection", (e) => problems.push(`rejected: ${e.reason}`));
addEventListener("securitypolicyviolation", (e) => problems.push(`asked for: ${e.blockedURI}`));
"""
EXERCISE = """
const wait = async (until) => { while (!until()) await new Promise((r) => setTimeout(r, 20)); };
const column = (key) => {
  const table = document.querySelector("table.sortable");
  const heads = [...table.tHead.rows[0].cells].map((th) => th.firstChild.dataset.key);
  return [...table.tBodies[0].rows].map((row) => row.cells[heads.indexOf(key)].dataset.v);
};
const labels = () => [...document.querySelectorAll("#bars-chart .role-axis-label text")]
  .map((t) => t.textContent).filter((t) => /^\\d+ /.test(t));
(async () => {
  const seen = {};
  await wait(() => document.documentElement.classList.contains("drawn"));
  const count = (selector) => document.querySelectorAll(selector).length;
  seen.bars = count("#bars-chart path[aria-roledescription=bar]");
  seen.points = count("#roofline-chart path[aria-roledescription=point]");
  seen.before = column("number");
  document.querySelector("table.sortable button[data-key=time]").click();
  seen.time = column("time");
  seen.sort = document.querySelector("table.sortable th[aria-sort=descending]").textContent;
  document.querySelector("input[value=macs]").click();
  await new Promise((r) => setTimeout(r, 1500));
  seen.labels = labels();
  seen.numbers = column("number");
  document.querySelector("table.sortable tbody a").focus();
  seen.hot = document.querySelectorAll(".hot").length;
  seen.fetched = performance.getEntriesByType("resource").map((r) => r.name)
    .filter((n) => !n.startsWith("data:"));
  seen.problems = problems;
  const out = document.createElement("output");
  out.id = "seen";
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
  document.body.append(out);
})();
"""


def in_browser(page_file: Path, profile: Path) -> str:
    """The page's elements after its scripts have run."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *flags, page_file.as_uri()], capture_output=True, timeout=300, check=True
    )
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.skipif(not BROWSER, reason="no Chromium installed")
def test_in_a_browser(tmp_path: Path) -> None:
    """Drawn from file:// without fetching anything or an error; sorting sorts all of it."""
    pytest.importorskip("vl_convert")
    from tinyface.traffic.report_page import libraries

    text = report(HOSTILE, script=libraries())
    text = text.replace("<style>", f"<script>{PROBE}</script><style>", 1)
    head, _, tail = text.rpartition("</body>")
    text = f"{head}<script>{EXERCISE}</script></body>{tail}"
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    dom = in_browser(file, tmp_path / "profile")
    found = re.search(r'<output id="seen">([^<]*)', dom)
    assert found, dom[-2000:]
    seen = json.loads(base64.b64decode(found[1]))
    steps = len(seen["before"])
    assert seen["problems"] == [] and seen["fetched"] == []
    assert seen["bars"] == 4 * steps and seen["points"] == 3
    assert seen["before"] == [str(i) for i in range(steps)]
    assert seen["sort"] == "µs" and seen["hot"] >= 1
    times = [int(t) for t in seen["time"]]
    assert times == sorted(times, reverse=True)
    assert [label.split(" ")[0] for label in seen["labels"]] == seen["numbers"]
