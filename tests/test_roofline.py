"""The machine's roofs: the two C steps that find them, what is kept, who uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tinyface import machine
from tinyface.backends import c, roof
from tinyface.cli.main import run as cli
from tinyface.errors import UsageError
from tinyface.traffic import roofline
from tinyface.traffic.roofline import Entry, regions
from tinyface.traffic.roofs import Level, Roofs

ISAS = c.isas() if c.available() else []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_the_peak_step_does_its_multiply_adds(isa: c.Isa) -> None:
    x = np.arange(12 * isa.lanes) / 1024
    for rounds in (1, 5):
        macs, ns, y = roof.peak(isa, 2, rounds)
        assert macs == 2 * 12 * isa.lanes * rounds and ns > 0
        sums = ((x - 1) / 2**rounds + 1).reshape(12, isa.lanes).sum(0)  # v -> v / 2 + 1 / 2
        np.testing.assert_allclose(y, [sums, sums], rtol=1e-6)


@pytest.mark.needs_c
@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_the_stream_step_reads_every_float(isa: c.Isa) -> None:
    floats = roof.whole(isa, 5000)
    x = np.random.default_rng(0).integers(-99, 99, (3, floats)).astype(np.float32)
    nbytes, ns, y = roof.stream(isa, x, 2)
    assert nbytes == 2 * x.nbytes and ns > 0
    assert np.array_equal(y.sum(1), 2 * x.sum(1))  # whole numbers: exact
    assert roof.whole(isa, 3 * roof.ROW + 5) == 3 * roof.ROW
    long = np.ones((1, 2 * roof.ROW), np.float32)
    assert roof.stream(isa, long, 1)[2].sum() == 2 * roof.ROW


@pytest.mark.needs_c
def test_steps_beyond_their_buffers_are_refused() -> None:
    with pytest.raises(AssertionError, match="out of range"):
        roof.stream(ISAS[-1], np.ones((1, 8 * ISAS[-1].lanes + 1), np.float32), 1)
    with pytest.raises(AssertionError, match="out of range"):
        roof.peak(ISAS[-1], 1, 0)


def test_regions_are_half_a_level() -> None:
    pi4 = {"L1d": 32 << 10, "L2": 1 << 20}
    assert regions(pi4, {"L1d": 1, "L2": 4}, 1) == {
        "L1d": 16 << 10, "L2": 512 << 10, "DRAM": 32 << 20,
    }  # fmt: skip
    assert regions(pi4, {"L1d": 1, "L2": 4}, 4)["L2"] == 128 << 10
    crowded = regions(pi4, {"L1d": 1, "L2": 64}, 64)
    assert crowded == {"L1d": 16 << 10, "DRAM": 512 << 10}  # 8 KiB of L2 each would lie in L1
    assert regions({"L3": 1 << 30}, {}, 1)["DRAM"] == 512 << 20
    assert regions({"L2": 16 << 20}, {}, 1)["DRAM"] == 64 << 20  # four times the last cache


def test_sharing_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, (level, kind, size, users) in enumerate(
        [("1", "Data", "32K", "0"), ("1", "Instruction", "48K", "0"), ("2", "Unified", "1M", "0-3")]
    ):
        index = tmp_path / f"index{i}"
        index.mkdir()
        for name, text in zip(
            ("level", "type", "size", "shared_cpu_list"), (level, kind, size, users), strict=True
        ):
            (index / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    assert machine.caches() == {"L1d": 32 << 10, "L2": 1 << 20}
    assert machine.cache_sharing() == {"L1d": 1, "L2": 4}
    (tmp_path / "index2" / "shared_cpu_list").write_text("0-1,8,?\n")
    assert machine.cache_sharing()["L2"] == 1


@pytest.mark.needs_c
def test_roofs_are_work_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    second = 10**9
    monkeypatch.setattr(roof, "peak", lambda isa, threads, rounds: (8 * 10**9, second, None))
    monkeypatch.setattr(roof, "stream", lambda isa, x, rounds: (6 * 10**9, second, None))
    (entry,) = roofline.measure(ISAS[-1:], [1])
    assert entry.roofs.gmac_per_s == 8
    assert {level.gb_per_s for level in entry.roofs.levels} == {6}


@pytest.mark.needs_c
def test_measured_kept_and_found_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "TARGET_NS", 20_000)
    monkeypatch.setattr(roofline, "LEAST_DRAM", 1 << 20)
    monkeypatch.setattr(roofline, "MOST_DRAM", 1 << 20)
    monkeypatch.setattr(machine, "disturbance", lambda *_: "")
    calls: list[int] = []
    isas, counts = ISAS[:2], [1, 2]
    found = roofline.measure(isas, counts, progress=lambda: calls.append(1))
    assert len(calls) == roofline.measurements(isas, counts)
    assert [(e.isa, e.threads) for e in found] == [(i.name, t) for i in isas for t in counts]
    assert roofline.kept(isas[0].name, 1) is None
    assert cli(["doctor", "--roofline", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tinyface.roofs/1" and Path(document["file"]) == roofline.path()
    assert {entry["isa"] for entry in document["engines"]} == {isa.name for isa in ISAS}
    for isa in ISAS:
        one = roofline.kept(isa.name, 1)
        assert one is not None and one.levels[-1].name == "DRAM"
    monkeypatch.setattr(machine, "disturbance", lambda *_: "other work was running")
    assert cli(["doctor", "--roofline"]) == 0
    done = capsys.readouterr()
    assert "DRAM GB/s" in done.out and "not used by profile: other work was running" in done.err
    assert roofline.kept(isas[0].name, 1) is None  # measured again where they are needed


@pytest.mark.needs_c
def test_every_row_of_a_profile_has_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    roofs = Roofs(1e-3, (Level("L2", 1e9, 1 << 30), Level("DRAM", 1e9)))  # only MACs cost time
    entry = Entry(c.choose_isa().name, 1, roofs)
    roofline.save(roofline.document([entry]))
    assert roofline.of_this_machine(2) == roofs  # the nearest number of threads
    assert cli(["profile", "fdfacenet", "--runs", "1", "-t", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    bounds = {row["op"]: row["bound"] for row in document["operators"]}
    assert bounds["conv2d"] == "compute" and bounds["layout"] == "overhead"
    assert document["roofs"] == roofs.to_json()


@pytest.mark.needs_c
def test_roofs_of_another_machine_or_engine_are_not_taken() -> None:
    entry = Entry("none", 1, Roofs(1.0, (Level("DRAM", 1.0),)))
    roofline.save(roofline.document([entry]))
    assert roofline.kept("none", 1) == entry.roofs and roofline.kept("other", 1) is None
    document = roofline.document([entry]) | {"machine": {"cpu": "another"}}
    roofline.save(document)
    assert roofline.kept("none", 1) is None
    for damaged in ("[" * 100_000, "{}", "[]", '{"machine": 3}'):
        roofline.path().write_text(damaged)
        assert roofline.kept("none", 1) is None
    for bad in ({"engines": []}, {"engines": [{"threads": 1}] * 65}, {"engines": 3}):
        with pytest.raises(UsageError, match="malformed"):
            Roofs.from_json(bad)


def test_roofs_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="TINYFACE_CACHE"):
        roofline.save({})
