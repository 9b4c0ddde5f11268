"""Chains of steps: the same bits as one after the other, and less memory."""

from __future__ import annotations

from itertools import accumulate, groupby, product
from typing import Any

import numpy as np
import pytest
from cases import SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from samples import network

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.builder import Builder
from tinyface.errors import BackendError
from tinyface.graph import Graph
from tinyface.networks import random_state
from tinyface.ops.spec import Array
from tinyface.passes import optimise
from tinyface.plan import Isa, chain, make_plan
from tinyface.plan.model import Step

pytestmark = pytest.mark.needs_c


def outputs_of(
    graph: Graph, threads: int = 1, *, chained: bool = True
) -> tuple[engine.CExecutable, list[Array]]:
    """Plan and run, with an arena and scratch full of NaN."""
    executable = engine.CExecutable(graph, threads, chains=chained)
    context = executable._borrow()
    context.arena.view(np.float32)[:] = np.nan
    context.scratch.view(np.float32)[:] = np.nan
    executable._idle.append(context)
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.standard_normal(t.shape).astype(np.float32) for name, t in graph.inputs.items()
    }
    return executable, list(executable.run(inputs).values())


def chains(executable: engine.CExecutable) -> list[list[str]]:
    steps = executable.plan.steps
    return [
        [str(step.fields["op"])[3:].lower() for step in steps[i : i + steps[i].chain]]
        for i in range(len(steps))
        if steps[i].chain > 1
    ]


def chain_all(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    """Chain whatever can be; ``band``: bytes of the rows in use."""
    for name in ("LEAST", "LEAST_BOARD", "AGAIN"):
        monkeypatch.setattr(chain, name, 0)
    for name in ("CROSSING", "CROSSING_BOARD", "ROOM"):  # and is not cut
        monkeypatch.setattr(chain, name, 1e12)
    monkeypatch.setattr(chain, "BAND", band)


@pytest.mark.parametrize(
    "name", ["mobilefacenet", "cnn-8-ds-cifar", "dwfn-star-x1.25", "pocketnet-s-128"]
)
@pytest.mark.parametrize("band", [0, chain.BAND])
def test_networks_keep_their_bits(name: str, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(name)
    plain, expected = outputs_of(graph, chained=False)
    assert not chains(plain)
    chain_all(monkeypatch, band)
    for threads in (1, 2, 3, 8):
        chained, found = outputs_of(graph, threads)
        assert chains(chained)
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, b)


@st.composite
def stacks(draw: Any) -> Graph:
    """Convolutions one behind the other, some with a shortcut round them."""
    b = Builder("stack")
    side = draw(st.integers(4, 12))
    x = b.input("input", (draw(st.integers(1, 2)), draw(st.integers(1, 6)), side, side))
    for i in range(draw(st.integers(2, 6))):
        start, c = x, b.channels(x)
        k, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 1)]))
        depthwise = draw(st.booleans())
        stride = draw(st.sampled_from([1, 1, 2, 3])) if b.shape(x)[2] > 4 else 1
        out = c if depthwise or draw(st.booleans()) else draw(st.integers(1, 9))
        x = b.conv(x, out, k, key=f"conv{i}", pad=k // 2 * dilation, stride=stride,
                   dilation=dilation, groups=c if depthwise else 1)  # fmt: skip
        if draw(st.booleans()):
            x = b.prelu(x, key=f"act{i}")
        if b.shape(x) == b.shape(start) and not depthwise and draw(st.booleans()):
            x = b.apply(ops.Add(), x, start)
        elif b.shape(x)[2:] == b.shape(start)[2:] and draw(st.booleans()):
            x = b.apply(ops.Concat(axis=1), start, x)  # reads and writes parts of one buffer
    graph = b.build(y=x)
    return optimise(graph.bind(random_state(graph)))


@SETTINGS
@given(stacks(), st.integers(1, 4), st.sampled_from([0, 500, 5000]))
def test_any_stack_keeps_its_bits(graph: Graph, threads: int, band: int) -> None:
    _, expected = outputs_of(graph, chained=False)
    with pytest.MonkeyPatch.context() as monkeypatch:
        chain_all(monkeypatch, band)
        _, found = outputs_of(graph, threads)
    assert np.array_equal(found[0], expected[0], equal_nan=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(("channels", "k"), [(37, 1), (40, 3), (48, 1)])
def test_panels_that_go_on_at_once_keep_their_bits(
    stride: int, pad: int, channels: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows long enough for it, whole panels and parts of one, rows that are kept and none."""
    b = Builder("panels")
    x = b.input("input", (1, 5, 13, chain.LONG_ROW // channels + 2))
    x = b.prelu(b.conv(x, channels, k, key="a", pad=k // 2), key="act")
    x = b.conv(x, channels, 3, key="b", pad=pad, stride=stride, groups=channels)
    x = b.prelu(x, key="act2") if pad else b.apply(ops.Clip(low=-0.1, high=0.2), x)
    x = b.conv(x, 9, 1, key="c")
    x = b.apply(ops.ReLU(), b.conv(x, 9, 3, key="d", pad=1, groups=9))
    graph = b.build(y=x)
    graph = optimise(graph.bind(random_state(graph)))
    _, expected = outputs_of(graph, chained=False)
    for band in (0, 10_000_000):
        chain_all(monkeypatch, band)
        for threads in (1, 2, 3):
            executable, found = outputs_of(graph, threads)
            first, second = executable.plan.steps[1:3]
            assert chain.by_panels(first, second) == (first.isa.lanes >= 8)
            assert np.array_equal(found[0], expected[0])


@pytest.mark.parametrize("pads", [(1, 1, 120, 1), (2, 1, 0, 1), (3, 0, 1, 2), (0, 3, 4, 0)])
@pytest.mark.parametrize("band", [0, chain.BAND, 10_000_000])
def test_windows_far_outside_of_the_map_keep_their_bits(
    pads: tuple[int, int, int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may pad a 3x3 by as much as it likes: (1, 1, 120, 1) once wrote behind the scratch."""
    b = Builder("padded")
    x = b.input("input", (1, 3, 9, chain.LONG_ROW // 40 + 2))
    x = b.prelu(b.conv(x, 40, 1, key="a"), key="act")
    x = b.conv(x, 40, 3, key="b", pad=pads, groups=40)
    graph = b.build(y=b.conv(x, 9, 1, key="c"))
    graph = optimise(graph.bind(random_state(graph)))
    _, expected = outputs_of(graph, chained=False)
    chain_all(monkeypatch, band)
    for threads in (1, 3):
        executable, found = outputs_of(graph, threads)
        assert chains(executable)
        assert np.array_equal(found[0], expected[0])


def test_an_idle_reader_keeps_its_convolution_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of the last member see padding alone: chain.c makes no panels for them."""
    b = Builder("idle")
    x = b.conv(b.input("input", (1, 3, 9, chain.LONG_ROW // 40 + 2)), 40, 1, key="a")
    x = b.conv(x, 40, 3, key="b", pad=1, groups=40)
    graph = b.build(y=b.conv(x, 40, 3, key="c", pad=(4, 1, 1, 1), groups=40))
    graph = optimise(graph.bind(random_state(graph)))
    chain_all(monkeypatch, 0)
    for isa in engine.isas():
        one, two, three = engine.CExecutable(graph, 1, isa.name).plan.steps[1:4]
        assert one.chain == 3
        assert (two.bands[0].first, two.bands[0].end, three.bands[0].end) == (0, 0, one.band)
        assert one.bands[0].end == (0 if chain.by_panels(one, two) else 1)
        made = [band.end - band.first for band in one.bands]
        assert sum(made) == 9  # every row once


def test_wide_maps_are_never_written_whole() -> None:
    graph = network("mobilefacenet")
    chained = engine.CExecutable(graph, 1)
    assert ["conv", "depthwise", "conv"] in chains(chained)
    plain = engine.CExecutable(graph, 1, chains=False)
    assert chained.plan.arena_bytes + chained._scratch < 0.4 * plain.plan.arena_bytes


def computed(members: list[Step], threads: int) -> float:
    """Multiply-adds when every thread makes a strip of the last member's rows."""
    work, height = 0.0, members[-1].y.shape[2]
    for t in range(threads):
        low, high = height * t // threads, height * (t + 1) // threads
        for step in reversed(members):
            work += step.compulsory.macs * (high - low) / step.y.shape[2]
            low, high = chain._rows_under(step, low, high)
    return work


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("crossing", [0.5, 1, 2, 1e12])
def test_chains_are_cut_for_the_least_work(
    threads: int, crossing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all ways to cut the longest chain of CNN-14-DS none costs less than the chosen one."""
    monkeypatch.setattr(chain, "CROSSING", crossing)
    monkeypatch.setattr(chain, "CROSSING_BOARD", crossing / threads)
    monkeypatch.setattr(chain, "ROOM", 1e12)
    plain = engine.CExecutable(network("cnn-14-ds-x1"), 1, chains=False).plan.steps
    members = plain[1:9]  # from the first convolution on
    single = [computed([step], 1) for step in members]

    def cost(lengths: list[int]) -> float:
        ends = list(accumulate(lengths))
        parts = [members[end - length : end] for length, end in zip(lengths, ends, strict=True)]
        maps = sum(2 * members[end - 1].y.buffer.nbytes for end in ends[:-1])
        return sum(computed(part, threads) for part in parts) + maps * crossing - sum(single)

    every = [
        [len(list(run)) for _, run in groupby(accumulate((0, *cuts)))]
        for cuts in product((0, 1), repeat=len(members) - 1)
    ]
    found = chain._cut(members, threads)
    assert cost(found) <= min(map(cost, every)) * (1 + 1e-9) + 1
    assert (found == [8]) == (threads == 1 or crossing == 1e12)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_boards_cache_holds_what_chains_have_in_use(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of CNN-8-DS's chains: the rows that are there, of all threads, and the weights.
    Of the longest chain it would not (a Pi 4 filled 33 MiB an image, and 11 without it)."""

    def found() -> list[list[Step]]:
        steps = make_plan(network("cnn-8-ds"), Isa("neon", 4, 8, 8, 12), threads=threads).steps
        return [steps[i : i + step.chain] for i, step in enumerate(steps) if step.chain > 1]

    def in_use(members: list[Step]) -> int:
        turns = [step.bands[len(step.bands) // 2] for step in members[:-1]]
        rows = [band.end - band.base for band in turns]
        floats = sum(r * step.y.row for r, step in zip(rows, members, strict=False))
        return 4 * floats * threads + sum(step.compulsory.weight for step in members)

    assert found() and all(in_use(members) <= chain.ROOM for members in found())
    monkeypatch.setattr(chain, "ROOM", 1e12)
    assert max(map(in_use, found())) > 1 << 20


@pytest.mark.parametrize(
    ("isa", "most"), [(Isa("avx2", 8, 6, 12), 0.02), (Isa("neon", 4, 8, 8, 12), 0.05)]
)
def test_several_threads_compute_little_twice(isa: Isa, most: float) -> None:
    """Of the whole of CNN-8-DS, at every border between two threads. Boards pay more for memory."""
    graph = network("cnn-8-ds")
    for threads in (2, 4, 8):
        steps = make_plan(graph, isa, threads=threads).steps
        found = [steps[i : i + step.chain] for i, step in enumerate(steps) if step.chain > 1]
        once = sum(step.compulsory.macs for step in steps)
        more = sum(computed(m, threads) - computed(m, 1) for m in found)
        assert found and more < most * (threads - 1) * once


def test_every_member_has_its_record() -> None:
    graph = network("mobilefacenet")
    executable = engine.CExecutable(graph, 2)
    records: list[Any] = []
    executable.run({"input": np.zeros((1, 3, 112, 112), np.float32)}, records)
    assert [r.name for r in records] == [s.name for s in executable.plan.steps]
    ends = [r.start_ns + r.time_ns for r in records]
    assert [r.start_ns for r in records] == [0, *ends[:-1]]
    assert all(r.time_ns > 0 for r in records)


@pytest.mark.parametrize(
    ("member", "field", "value"),
    [(0, "chain", 9), (0, "chain", 1), (0, "chain", 1 << 30), (0, "band", 0), (0, "band", -1),
     (1, "chain", 2), (1, "op", 4), (1, "h", 1), (1, "wd", 1), (0, "n", 2)],
)  # fmt: skip
def test_check_refuses_broken_chains(member: int, field: str, value: int) -> None:
    executable = engine.CExecutable(network("mobilefacenet"), 1)
    first = next(i for i, s in enumerate(executable.plan.steps) if s.chain > 1)
    setattr(executable._steps[first + member], field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()


@pytest.mark.parametrize(
    ("member", "operand", "field", "value"),
    [(0, "x", "buf", -2), (1, "x", "buf", 0), (0, "y", "buf", -1), (1, "z", "buf", -2),
     (0, "y", "row", 1), (0, "y", "ld", 1), (0, "y", "off", 64), (1, "x", "off", 64),
     (1, "x", "row", 1 << 33)],
)  # fmt: skip
def test_check_refuses_broken_links(member: int, operand: str, field: str, value: int) -> None:
    executable = engine.CExecutable(network("mobilefacenet"), 1)
    first = next(i for i, s in enumerate(executable.plan.steps) if s.chain > 1)
    setattr(getattr(executable._steps[first + member], operand), field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()


@pytest.mark.parametrize(
    "channels, width, groups",
    [(40, chain.LONG_ROW // 40 + 2, 2), (chain.LONG_ROW // 3 + 8, 3, 1)],
    ids=["grouped", "three pixels wide"],
)
def test_what_hands_on_no_panels(
    channels: int, width: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder("long")
    x = b.input("input", (1, 40 if groups > 1 else 3, 9, width))
    x = b.conv(x, channels, 1, key="a", groups=groups)
    x = b.conv(x, channels, 3, key="b", pad=1, groups=channels)
    graph = b.build(b.conv(x, 9, 1, key="c"))
    graph = optimise(graph.bind(random_state(graph)))
    _, wanted = outputs_of(graph, chained=False)
    chain_all(monkeypatch, 0)
    _, got = outputs_of(graph, 1)
    assert np.array_equal(got[0], wanted[0])


@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 1), (3, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("joined", [False, True])
def test_other_windows_and_sums_take_whole_rows(
    stride: tuple[int, int],
    dilation: tuple[int, int],
    joined: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows long enough for panels, but for what the kernel for these does not do. The sum's operand
    is an output, too, lest the sum take its place."""
    b = Builder("rows")
    x = b.conv(b.input("input", (1, 5, 13, chain.LONG_ROW // 40 + 2)), 40, 1, key="a")
    y = b.conv(b.apply(ops.ReLU(), x), 40, 1, key="b")
    y = b.apply(ops.Add(), y, x) if joined else y
    y = b.conv(y, 40, 3, key="c", pad=1, stride=stride, dilation=dilation, groups=40)
    graph = b.build(y=b.conv(y, 9, 1, key="d"), x=x)
    graph = optimise(graph.bind(random_state(graph)))
    _, wanted = outputs_of(graph, chained=False)
    for band in (0, 10_000_000):
        chain_all(monkeypatch, band)
        executable, got = outputs_of(graph, 1)
        assert chains(executable)
        assert np.array_equal(got[0], wanted[0])
