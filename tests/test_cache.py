"""The model of the bytes past the last cache: against counts by hand, and against simulations."""

from __future__ import annotations

import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyface import ops
from tinyface.builder import Builder
from tinyface.graph import Graph
from tinyface.networks import find
from tinyface.passes import optimise
from tinyface.plan import Isa, make_plan
from tinyface.plan.addresses import REGION, SCRATCH, WEIGHTS
from tinyface.plan.chain import LONG_ROW, by_panels
from tinyface.plan.lines import lines, run
from tinyface.plan.walk import Walker
from tinyface.traffic.cache import _Lru, past_cache

NEON = Isa("neon", 4, 8, 12)
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def fully_connected(k: int, o: int) -> Graph:
    b = Builder("fc")
    x = b.input("x", (1, k))
    return optimise(b.build(y=b.linear(x, o, key="fc")))


def test_lines_of_runs() -> None:
    assert lines(np.array([0, 32, 12]), 16).tolist() == [0, 2, 0, 1]  # 16 floats are a line
    assert lines(np.array([0, 15, 30]), 2).tolist() == [0, 0, 1, 1]  # 15 and 16; 30 and 31
    assert lines(np.array([], np.int64), 4).tolist() == []
    assert run(17, 40).tolist() == [1, 2, 3]


def test_what_does_not_fit_is_filled_in_every_run() -> None:
    """8 MiB of weights through 1 MiB; the vectors and the bias are what else there is."""
    (past,) = past_cache(make_plan(fully_connected(1024, 2048), NEON), 1 << 20)
    weights = 1024 * 2048 * 4
    assert weights <= past.filled <= weights + 4 * (1024 + 2 * 2048)
    assert past.written <= 4 * 2048  # the result, as it goes out


def test_what_fits_is_filled_once() -> None:
    plan = make_plan(fully_connected(256, 512), NEON)
    (first,) = past_cache(plan, 1 << 20, runs=1)
    assert first.filled == 4 * (256 * 512 + 512 + 256 + 512)  # weights, bias, x, y
    assert past_cache(plan, 1 << 20) == [type(first)(0, 0)]
    (small,) = past_cache(plan, 256 << 10)
    assert small.filled >= 4 * 256 * 512  # in turns through a cache that is too small: nothing


def test_a_map_stays_where_the_next_step_reads_it_soon() -> None:
    """Maps of 1 MiB: all stay in 64 MiB; through 256 KiB each is filled (when it is read, and when
    lines are written that are not there) and written back."""
    b = Builder("copies")
    x = b.input("x", (1, 16, 128, 128))
    one = {"kernel": (1, 1), "stride": (1, 1)}
    y = b.apply(ops.MaxPool(**one), b.apply(ops.AveragePool(**one), x))
    plan = make_plan(optimise(b.build(y=y)), NEON)
    map_bytes = 4 * 16 * 128 * 128
    assert all(p.bytes == 0 for p in past_cache(plan, 64 << 20))
    for step, past in zip(plan.steps, past_cache(plan, 256 << 10), strict=True):
        # what the step before wrote last, up to 256 KiB, may still be there
        assert past.filled == pytest.approx(2 * map_bytes, rel=0.13), step.name
        assert past.written == pytest.approx(map_bytes, rel=0.13), step.name


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=200), st.integers(1, 4))
def test_the_cache_is_least_recently_used(touches: list[tuple[int, bool]], ways: int) -> None:
    cache, sets = _Lru(4, ways), [OrderedDict[int, bool]() for _ in range(4)]
    filled = written = 0
    for line, write in touches:
        cache.touch([line], write)
        own = sets[line % 4]
        if line in own:
            own[line] |= write
            own.move_to_end(line)
            continue
        filled += 1
        if len(own) == ways:
            written += own.popitem(last=False)[1]
        own[line] = write
    assert (cache.filled, cache.written) == (filled, written)


@pytest.mark.parametrize("name", ["mobilefacenet", "shufflefacenet-x1.5", "retinaface-mnet0.25"])
@pytest.mark.parametrize("isa", [NEON, Isa("neon", 4, 8, 12, 12)])
def test_every_line_of_weights_and_results_is_walked(name: str, isa: Isa) -> None:
    """Each step's passes cover all its packed weights and all of its output, unless that is handed
    on within a chain; and write nothing else but scratch."""
    plan = make_plan(optimise(find(name).build()), isa)
    walker = Walker(plan)
    read: list[set[int]] = [set() for _ in plan.steps]
    written: list[set[int]] = [set() for _ in plan.steps]
    for number, some, write in walker.steps():
        (written if write else read)[number].update(some.tolist())
    scratch = range(SCRATCH * REGION // 16, (SCRATCH + 1) * REGION // 16)
    assert any(step.chain > 1 for step in plan.steps)
    for i, step in enumerate(plan.steps):
        own = {line for line in written[i] if line not in scratch}
        if step.y.buffer.kind == "band":
            assert not own and written[i], step.name
        elif step.fields["op"] != "TF_TO_NCHW":
            n, _, h, _ = step.y.shape
            rows = [walker.map_row(step.y, j, y) for j in range(n) for y in range(h)]
            assert own == set(np.concatenate(rows).tolist()), step.name
        if "w" in step.params and step.op in ("conv2d", "linear"):
            first = WEIGHTS * REGION // 16 + step.params["w"] // 16
            count = step.compulsory.weight // 64 - step.y.shape[1] // 8  # less bias and slope
            assert read[i] >= set(range(first, first + count)), step.name


def test_element_wise_members_of_a_chain_walk_the_rows_of_their_turn() -> None:
    """And not their whole map in every turn: each row is written once."""
    b = Builder("active")
    x = b.input("x", (1, 64, 64, 64))
    y = b.conv(b.apply(ops.PReLU(), x, b.param("slope", (64,))), 16, 1, key="conv")
    z = b.conv(x, 16, 1, key="other")  # reads x, too: nothing is computed in its place
    plan = make_plan(optimise(b.build(y=y, z=z)), NEON)
    first = next(i for i, step in enumerate(plan.steps) if step.chain == 2)
    walks = [some for number, some, write in Walker(plan).steps() if number == first and write]
    assert plan.steps[first].fields["op"] == "TF_AFFINE"
    assert sum(some.size for some in walks) == 64 * 64 * 64 // 16


@pytest.mark.parametrize("channels", [20, 48, 64])  # two vectors of 16 floats, three, four
def test_what_panels_hand_on_has_a_place_of_its_own(channels: int) -> None:
    """Between a convolution and its reader: the new rows of one panel, and behind them, of every
    vector, those that are kept. A table of pixels and the rows of the next member lie elsewhere."""
    width, vectors = LONG_ROW // channels + 4, -(-channels // 16)
    b = Builder("panels")
    x = b.conv(b.input("x", (1, 8, 20, width)), channels, 1, key="a")
    x = b.conv(x, channels, 3, pad=1, groups=channels, key="b")
    graph = optimise(b.build(y=b.conv(x, 8, 1, key="c")))
    plan = make_plan(graph, Isa("avx512", 16, 12, 12))
    one, two = plan.steps[1:3]
    assert one.chain == 3 and by_panels(one, two)
    scratch = range(SCRATCH * REGION // 16, (SCRATCH + 1) * REGION // 16)
    reads, writes = [[list[set[int]]() for _ in plan.steps] for _ in range(2)]
    for number, some, write in Walker(plan).steps():
        if some.size and int(some[0]) in scratch:
            (writes if write else reads)[number].append(set(some.tolist()))
    new, kept = reads[2][::2], reads[2][1::2]
    row = width + 2  # lines of a row of a vector: a pixel is one
    wide = [min(2, vectors - first) for first in range(0, vectors, 2)]
    rows = one.bands[0].end
    assert [len(some) for some in new[: len(wide)]] == [count * rows * row for count in wide]
    assert [len(some) for some in kept[: len(wide)]] == [count * 2 * row for count in wide]
    places = [set().union(*new), set().union(*kept), writes[1][0], set().union(*reads[3])]
    assert len(places[1]) == vectors * 2 * row
    assert len(set().union(*places)) == sum(len(place) for place in places)  # none twice


@pytest.mark.slow
@pytest.mark.needs_c
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is absent")
@pytest.mark.skipif(not (SCRIPTS / "cachesim.py").exists(), reason="not a checkout")
@pytest.mark.parametrize("name", ["fdfacenet", "dwfn"])
def test_the_model_agrees_with_a_simulation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 10 % on a Raspberry Pi 4's caches: what is filled, and all together."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("TINYFACE_ISA", "")  # put back what compare() sets
    sys.modules.pop("cachesim", None)
    import cachesim

    whole = cachesim.total(cachesim.compare(name, cachesim.BOARDS["pi4"]))
    assert whole.model.filled == pytest.approx(whole.simulated.filled, rel=0.1)
    assert whole.model.bytes == pytest.approx(whole.simulated.bytes, rel=0.1)


@pytest.mark.slow
@pytest.mark.needs_c
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-gcc")),
    reason="qemu-user or the cross compiler is absent",
)
@pytest.mark.skipif(not (SCRIPTS / "count_arm.py").exists(), reason="not a checkout")
@pytest.mark.parametrize("name", ["fdfacenet", "mobilefacenet"])
def test_the_model_agrees_with_emulated_arm_code(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import count_arm

    from tinyface.networks import random_state

    graph = find(name).build()
    plan, rows = count_arm.count(graph.bind(random_state(graph)), count_arm.BOARDS["pi4"])
    model = past_cache(plan, 1 << 20)
    filled, back = sum(row.l2_misses for row in rows), sum(row.written_back for row in rows)
    assert sum(p.filled for p in model) == pytest.approx(64 * filled, rel=0.1)
    assert sum(p.bytes for p in model) == pytest.approx(64 * (filled + back), rel=0.1)
