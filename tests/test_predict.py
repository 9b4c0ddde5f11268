"""Expected times on a machine that a file describes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_claim import synthetic
from tests.test_graph import small_graph
from tinyface import ops
from tinyface.builder import Builder
from tinyface.cli.main import run as cli
from tinyface.errors import UsageError
from tinyface.formats.card import Card, Preprocess
from tinyface.formats.modelfile import save_model
from tinyface.networks import find, random_state
from tinyface.passes import optimise
from tinyface.plan import Isa, make_plan
from tinyface.traffic import paper
from tinyface.traffic.device import Device, from_json, read_device, shipped
from tinyface.traffic.predict import HeldOut, fit_device, held_out, predict, predict_steps
from tinyface.traffic.roofs import Level, Roofs
from tinyface.traffic.steps import StepFigures, expected, figures

NEON = Isa("neon", 4, 8, 8)
RATES = (0.02, 0.05, 0.06, 1000.0)


def test_the_sum_by_hand() -> None:
    graph = small_graph()
    cost = optimise(graph).cost
    device = Device("d", (2.0, 3.0, 5.0, 7.0), overhead_ns=11.0)
    result = predict(graph, device)
    assert len(result.steps) == 1 and result.steps[0].kind == "standard"
    features = cost.feature_read + cost.feature_write
    assert result.time_ns == 2 * cost.macs + 3 * features + 5 * cost.weight + 7 + 11


def test_the_most_specific_rates_are_taken() -> None:
    graph = find("dwfn").build()
    steps = expected(optimise(graph), NEON)
    one, zero = (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0)
    gemm = next(s.kernel for s in steps if s.kind == "pointwise")
    depthwise = sum(s.kind == "depthwise" for s in steps)
    with_gemm = sum(s.kernel == gemm for s in steps)
    assert depthwise >= 8 and with_gemm >= 7
    by_kind = Device("d", zero, {"depthwise": one}, isa=NEON)
    assert predict(graph, by_kind).time_ns == depthwise
    by_kernel = Device("d", zero, {"depthwise": one}, {gemm: one}, isa=NEON)
    assert predict(graph, by_kernel).time_ns == depthwise + with_gemm


def test_what_the_kernel_multiplies_is_what_takes_time() -> None:
    """12 outputs are 16 in vectors of 8; a file of version 1 counts the operator's own MACs."""
    b = Builder("padded")
    graph = b.build(y=b.conv(b.input("x", (1, 20, 6, 6)), 12, 1, key="k"))
    isa, rates = Isa("avx2", 8, 6, 12), (1.0, 0.0, 0.0, 0.0)
    device = Device("d", rates, isa=isa)
    assert predict(graph, device).time_ns == 16 * 20 * 36
    document = device.to_json()
    assert document["schema"] == "tinyface.device/2" and document["any"]["products"] == 1
    old = document | {"schema": "tinyface.device/1", "any": {"macs": 1} | ZEROS}
    assert predict(graph, from_json(old, "f.json")).time_ns == 12 * 20 * 36
    with pytest.raises(UsageError, match="'products' is missing"):
        from_json(document | {"any": old["any"]}, "f.json")


ZEROS = {"feature": 0, "weight": 0, "steps": 0}


def test_packing_is_part_of_an_instruction_set() -> None:
    """A file from an ARM board plans as that board does."""
    device = Device("d", RATES, isa=Isa("neon", 4, 8, 12, 12))
    assert from_json(json.loads(json.dumps(device.to_json())), "f.json") == device
    kernels = {step.kernel for step in predict(find("fdfacenet").build(), device).steps}
    assert any(kernel.startswith("packed_neon") for kernel in kernels)


def test_steps_of_a_plan_have_the_kind_of_their_convolution() -> None:
    """A step is named after the activation that ends it."""
    graph = optimise(find("mobilefacenet").build())
    planned = figures(graph, make_plan(graph, NEON).steps)
    listed = expected(graph, None)
    for kind in ("standard", "pointwise", "depthwise", "linear"):
        assert sum(s.kind == kind for s in planned) == sum(s.kind == kind for s in listed) > 0
        assert sum(s.macs for s in planned if s.kind == kind) == sum(
            s.macs for s in listed if s.kind == kind
        )
    layout = [s for s in planned if s.kind == "other" and "nchw" in s.kernel]
    # read and written once; the plan may widen the map by what the next kernel pads
    assert 8 * 3 * 112**2 <= layout[0].feature <= 8 * 3 * 116**2


def test_a_convolution_with_a_multiplier_is_no_depthwise_one() -> None:
    b = Builder("kinds")
    x = b.conv(b.input("input", (1, 4, 8, 8)), 8, 3, groups=4, pad=1, key="twice")
    x = b.conv(x, 8, 3, groups=8, pad=1, key="each")
    x = b.conv(x, 6, 8, key="whole")
    steps = expected(b.build(b.conv(x, 5, 1, key="pixel")), None)
    assert [step.kind for step in steps] == ["grouped", "depthwise", "standard", "linear"]


def test_a_bound_is_of_the_operators_own_macs() -> None:
    """Not of what the kernel multiplies beside them: 10 ns of its 10 us are explained."""
    step = StepFigures("n", "a", "standard", "", 10, 10, 10, products=100_000)
    roofs = Roofs(10.0, (Level("DRAM", 2.0),))
    found = predict_steps("n", [step], Device("d", (0.1, 0, 0, 0), roofs=roofs))
    assert found.bounds == ("overhead",)


def test_bytes_of_maps_and_of_weights() -> None:
    found = predict(small_graph(), Device("d", (2.0, 3.0, 5.0, 7.0)))
    (row,), (step,) = found.to_json()["operators"], found.steps
    assert (row["feature_bytes"], row["weight_bytes"]) == (step.feature, step.weight)


def test_the_worst_error_is_the_devices() -> None:
    found = HeldOut({"a": 0.1, "b": 0.2}, macs_alone={"a": 0.5, "b": 0.9}).to_json()
    assert (found["worst"], found["macs_alone"]["worst"]) == (0.2, 0.9)


def test_a_device_is_found_again_from_its_own_times() -> None:
    device = fit_device(synthetic(RATES, 1), "d")
    assert device.any == pytest.approx(RATES, rel=0.15)
    assert device.kinds["pointwise"] == pytest.approx(RATES, rel=0.25)
    held = held_out(synthetic(RATES, 2))
    assert held.median < 0.05 and held.median_macs_alone > 3 * held.median
    assert set(held.errors) == set(held.macs_alone) and "mobilefacenet" in held.errors
    with pytest.raises(UsageError, match="two families"):
        held_out([m for m in synthetic(RATES, 1) if m.member.designed])


def test_held_out_networks_are_not_seen() -> None:
    """A network that is ten times as slow as all others is mispredicted when held out."""
    measured = synthetic(RATES, 1)
    (odd,) = (i for i, m in enumerate(measured) if m.member.name == "mobilefacenet")
    slow = tuple(10 * ns for ns in measured[odd].step_ns)
    measured[odd] = replace(measured[odd], step_ns=slow, least_ns=sum(slow))
    assert held_out(measured).errors["mobilefacenet"] == pytest.approx(0.9, abs=0.03)


# ------------------------------------------------------------------------------------ files


def test_the_pi_is_what_the_paper_gives() -> None:
    """The shipped file is the fit to the data file, and says where it is from."""
    device = shipped("pi4")
    assert device.to_json() == paper.fit_pi4().to_json()
    assert "nothing was measured" in device.about["source"] and "fitted" in device.about["source"]
    for row in paper.rows("pi4"):
        expected_ms = predict(find(row.network).build(), device).time_ns / 1e6
        error = abs(expected_ms / row.ms - 1)
        assert error == pytest.approx(device.about["errors"][row.network], abs=0.01) and error < 0.2


@pytest.mark.parametrize(
    ("name", "isa", "least", "most"),
    [
        ("epyc-avx2", "avx2", 1e6, 5e6),
        ("epyc-avx512", "avx512", 0.5e6, 5e6),
        ("xeon-avx512", "avx512", 0.5e6, 4e6),
    ],
)
def test_a_measured_device(name: str, isa: str, least: float, most: float) -> None:
    """A median error of 10 % at most, and three times better than MACs alone."""
    device = shipped(name)
    assert device.isa is not None and device.isa.name == isa and device.threads == 1
    assert device.work == "products" and "measured" in device.about["source"]
    held = device.about["held_out"]
    assert held["networks"] >= 30 and held["median"] <= 0.1
    assert 3 * held["median"] < held["macs_alone"]["median"]
    assert "system" not in device.about["machine"]  # the CPU, and nothing of whose it was
    result = predict(find("fdfacenet").build(), device)
    assert device.roofs is not None
    assert set(result.bounds) <= {"compute", "L1d", "L2", "L3", "DRAM", "overhead"}
    assert least < result.time_ns < most


def test_device_files_go_round(tmp_path: Path) -> None:
    roofs = Roofs(24.0, (Level("L2", 20.0, 1 << 20), Level("DRAM", 4.0)))
    device = Device(
        "d", RATES, {"linear": RATES}, {"gemm": RATES}, NEON, None, 5.0, roofs, {"a": [1]}
    )
    path = tmp_path / "d.json"
    path.write_text(json.dumps(device.to_json()), encoding="utf-8")
    assert read_device(str(path)) == device
    bounds = predict(find("fdfacenet").build(), device).bounds
    assert set(bounds) <= {"compute", "L2", "DRAM", "overhead"} and "DRAM" in bounds
    assert set(predict(find("fdfacenet").build(), shipped("pi4")).bounds) == {""}
    document = device.to_json() | {"roofs": {"gmac_per_s": -1, "levels": []}}
    with pytest.raises(UsageError, match="roofs"):
        from_json(document, "f.json")


GOOD: dict[str, Any] = Device("d", RATES, {"linear": RATES}, isa=NEON).to_json()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("schema",), "tinyface.device/3"), (("name",), ""), (("name",), 3), (("threads",), 0),
        (("threads",), True), (("threads",), "2"), (("overhead_ns",), -1.0), (("any",), {}),
        (("any",), 5), (("any", "products"), float("nan")), (("any", "products"), 1e30),
        (("any", "steps"), None), (("any", "weight"), True), (("kinds",), {"odd": GOOD["any"]}),
        (("kinds",), []), (("kinds", "linear", "products"), -1), (("kernels",), {"": GOOD["any"]}),
        (("isa",), {}), (("isa", "lanes"), 0), (("isa", "lanes"), 1.5), (("about",), 3),
        (("kernels",), {"k": None}),
    ],
)  # fmt: skip
def test_malformed_devices_are_refused(where: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(GOOD)
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(UsageError, match=r"f\.json: not a device file"):
        from_json(document, "f.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '"a"', "{}"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="not a device file"):
        read_device(str(path))
    with pytest.raises(UsageError, match="pi4"):
        read_device(str(tmp_path / "none.json"))


def test_the_command_takes_a_model_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = Builder("mine")
    x = b.conv(b.input("input", (1, 3, 32, 32)), 8, 3, pad=1, stride=2, key="first")
    x = b.prelu(b.conv(x, 8, 3, pad=1, groups=4, key="second"), key="act")
    graph = b.build(embedding=b.conv(x, 4, 16, key="third"))
    path = tmp_path / "mine.safetensors"
    preprocess = Preprocess(32, 32, "rgb", (0.0,) * 3, (1.0,) * 3)
    card = Card("mine", task="embed", preprocess=preprocess, embedding_size=4)
    save_model(path, graph.bind(random_state(graph)), card)
    assert cli(["predict", str(path), "--device", "pi4", "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["schema"] == "tinyface.predict/1" and doc["network"] == "mine"
    assert [row["kind"] for row in doc["operators"]] == ["standard", "grouped", "standard"]
    assert doc["time_ns"] == pytest.approx(sum(row["time_ns"] for row in doc["operators"]))
    assert np.sum(list(doc["parts_ns"].values())) == pytest.approx(doc["time_ns"])
    assert cli(["predict", str(path), "--device", "pi4"]) == 0
    out = capsys.readouterr().out
    assert "second" in out and "ms expected" in out and "nothing was measured" in out
    assert cli(["predict", str(path), "--device", "pi5"]) == 2


def test_times_are_in_the_units_of_their_columns(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["predict", "fdfacenet", "--device", "pi4"]
    assert cli([*line, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert cli(line) == 0
    out = capsys.readouterr().out
    assert f"{whole['time_ns'] / 1e6:.3g} ms expected" in out
    first = whole["operators"][0]
    (row,) = (row for row in out.splitlines() if row.split()[:1] == [first["name"]])
    assert f" {first['time_ns'] / 1e3:.1f} " in row


def test_what_has_no_kernel_is_refused_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with one of other commands' options: predict has no --backend."""
    b = Builder("soft")
    x = b.apply(ops.Softplus(), b.conv(b.input("input", (1, 3, 8, 8)), 4, 3, key="first"))
    graph = b.build(embedding=b.linear(b.apply(ops.Flatten(), x), 4, key="fc"))
    path = str(tmp_path / "soft.safetensors")
    card = Card("soft", "embed", Preprocess(8, 8), embedding_size=4)
    save_model(path, graph.bind(random_state(graph)), card)
    assert cli(["predict", path, "--device", "epyc-avx2"]) != 0
    message = capsys.readouterr().err
    assert "no C kernel" in message and "--device pi4" in message and "--backend" not in message
    assert cli(["predict", path, "--device", "pi4"]) == 0
