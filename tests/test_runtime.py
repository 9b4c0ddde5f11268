"""Sessions: which engine runs, when plans are made, what they share."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.test_graph import small_graph, state_of
from tinyface import limits, ops, runtime, tracing
from tinyface.backends import c
from tinyface.backends.mixed import MixedExecutable
from tinyface.backends.numpy import NumpyExecutable
from tinyface.builder import Builder
from tinyface.errors import BackendError, GraphError, NoKernelError
from tinyface.graph import Graph
from tinyface.networks.random import random_state
from tinyface.runtime import MAX_PLANS, Session, choose_backend, default_threads
from tinyface.types import Shape


def bound() -> Graph:
    graph = small_graph()
    return graph.bind(state_of(graph))


BACKWARDS = ((-1,), (-limits.MAX_INDEX,), (-1,))


def mirror() -> Graph:
    """A graph that the C engine has no kernel for: it copies no more than 16 slices of a map."""
    b = Builder("mirror")
    return b.build(b.apply(ops.Slice((2,), *BACKWARDS), b.input("x", (1, 2, 20, 3))))


def test_unknown_backends_and_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="'cuda' is not one of auto, c, numpy"):
        Session(bound(), "cuda")
    with pytest.raises(BackendError, match="'2' threads"):
        Session(small_graph(), threads="2")  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="0 threads"):
        Session(bound(), threads=0)
    monkeypatch.setenv("TINYFACE_THREADS", "many")
    with pytest.raises(BackendError, match="TINYFACE_THREADS='many'"):
        default_threads()
    monkeypatch.setenv("TINYFACE_THREADS", "3")
    assert default_threads() == 3


def test_without_the_extension_numpy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "_engine", None)
    assert choose_backend("auto") == "numpy"
    monkeypatch.setattr(c, "_wrong", c.NOT_BUILT)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(BackendError, match="was not built: sudo apt install build-essential"):
        choose_backend("c")
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(BackendError, match="was not built: install a wheel"):
        choose_backend("c")


def test_an_extension_that_does_not_load_is_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_broken.abi3.so").write_bytes(b"not a library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(c, "MODULE", "_broken")
    engine, wrong = c._load()
    assert engine is None
    monkeypatch.setattr(c, "_engine", engine)
    monkeypatch.setattr(c, "_wrong", wrong)
    with pytest.warns(RuntimeWarning, match="NumPy runs instead: the C engine cannot be loaded"):
        assert choose_backend("auto") == "numpy"


@pytest.mark.needs_c
def test_what_has_no_kernel_runs_in_numpy_and_is_named() -> None:
    x = np.arange(120, dtype=np.float32).reshape(1, 2, 20, 3)
    with pytest.warns(RuntimeWarning, match="1 of 1 operators have no C kernel.*slice"):
        (y,) = Session(mirror()).run(x).values()
    assert np.array_equal(y, x[:, :, ::-1])
    with pytest.raises(NoKernelError, match="cannot run .*slice"):
        Session(mirror(), "c").run(x)


def interrupted() -> Graph:
    """Convolutions with operators between them that have no kernel, one of these twice."""
    b = Builder("interrupted")
    x = b.conv(b.input("x", (1, 3, 20, 20)), 8, 3, pad=1, key="one")
    upended = b.apply(ops.Slice((2,), *BACKWARDS), x, name="upended")
    x = b.apply(ops.ReLU(), b.conv(upended, 8, 3, key="two"), name="relu")
    turned = b.apply(ops.Slice((2,), *BACKWARDS), x, name="turned")
    y = b.apply(ops.Add(), b.conv(turned, 8, 1, key="three"), x, name="sum")
    graph = b.build(b.apply(ops.Flatten(), y, name="flat"), x)
    return graph.bind(random_state(graph))


@pytest.mark.needs_c
@pytest.mark.filterwarnings("ignore:.*no C kernel")
def test_the_engines_take_turns() -> None:
    graph = interrupted()
    session = Session(graph, threads=1)
    for side in (20, 23, 20):
        x = np.random.default_rng(side).standard_normal((2, 3, side, side)).astype(np.float32)
        wanted = Session(graph, "numpy").run(x)
        with tracing.trace() as trace:
            got = session.run(x)
        for name, value in wanted.items():
            assert np.abs(got[name] - value).max() < 1e-5 * np.abs(value).max()
    plan = session.executable({"x": x.shape})
    assert isinstance(plan, MixedExecutable)
    assert plan.foreign == ("upended", "turned")
    assert [type(part) for part in plan.parts] == [c.CExecutable, NumpyExecutable] * 2 + [
        c.CExecutable
    ]
    (records,) = trace.runs
    names = [record.name for record in records]
    assert [n for n in names if "." not in n] == ["one", "upended", "two", "turned", "three"]
    starts = [record.start_ns for record in records]
    assert starts == sorted(starts)


@pytest.mark.needs_c
def test_the_help_of_numpy_is_announced_once() -> None:
    session = Session(mirror(), threads=1)
    with pytest.warns(RuntimeWarning) as caught:
        for side in (20, 21, 22):
            session.run(np.ones((1, 2, side, side), np.float32))
    assert len(caught) == 1


@pytest.mark.needs_c
def test_plans_for_several_sizes_share_the_packed_weights() -> None:
    session = Session(bound(), "c", threads=1)
    one = session.executable({"input": (1, 3, 8, 8)})
    two = session.executable({"input": (2, 3, 17, 9)})
    assert isinstance(one, c.CExecutable) and isinstance(two, c.CExecutable)
    assert np.shares_memory(one.plan.weights, two.plan.weights)
    for shape in ((1, 3, 8, 8), (2, 3, 17, 9)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        wanted = NumpyExecutable(session.graph.with_inputs({"input": shape})).run({"input": x})
        got = session.run(x)
        assert np.abs(got["act"] - wanted["act"]).max() < 1e-5


@pytest.mark.needs_c
@pytest.mark.parametrize(
    "shapes", [[(1, 2, 4, 4), (1, 2, 7, 5), (1, 2, 3, 3)], [(1, 2, 3, 3), (3, 2, 3, 3)]]
)
def test_plans_share_no_constants_that_are_as_long_as_the_picture(shapes: list[Shape]) -> None:
    """What is no map has one factor, slope or border for every value, or for every picture."""
    b = Builder("rows")
    x = b.input("x", shapes[0])
    rows = b.apply(ops.Reshape((0, 2, -1)), x)
    turned = b.apply(ops.Transpose((1, 0, 2, 3)), x)
    factor = b.param("factor", (1,))
    graph = b.build(
        b.apply(ops.Mul(), rows, factor),
        b.apply(ops.LeakyReLU(0.25), rows),
        b.apply(ops.Pad((0, 0, 1), (0, 0, 2), 0.5), rows),
        b.apply(ops.Add(), turned, factor),
        b.apply(ops.LeakyReLU(0.5), turned),
        b.apply(ops.Pad((0, 0, 1, 0), (0, 0, 0, 1), 0.5), turned),
    )
    graph = graph.bind({"factor": np.float32([3])})
    session, rng = Session(graph, "c", 1), np.random.default_rng(0)
    for shape in shapes:
        given = rng.standard_normal(shape, dtype=np.float32)
        expected = Session(graph, "numpy").run(given)
        for name, y in session.run(given).items():
            assert np.array_equal(y, expected[name])


@pytest.mark.needs_c
def test_element_wise_steps_of_tokens_are_shared_and_need_little() -> None:
    """Threads share the lines of what is no map, and a factor takes no more than one line."""
    b = Builder("tokens")
    x = b.input("x", (1, 300, 72))
    graph = b.build(b.apply(ops.Mul(), x, b.param("factor", (1,))))
    session = Session(graph.bind({"factor": np.float32([3])}), "c", 2)
    for count in (300, 500):
        executable = session.executable({"x": (1, count, 72)})
        assert isinstance(executable, c.CExecutable)
        assert executable.plan.steps[0].fields["tasks"] > 1
        assert executable.plan.weights.size < 300
        given = np.ones((1, count, 72), np.float32)
        assert (session.run(given)[graph.outputs[0]] == 3).all()


def test_only_so_many_plans_are_kept() -> None:
    session = Session(bound(), "numpy")
    first = session.executable({"input": (1, 3, 8, 8)})
    assert session.executable({"input": (1, 3, 8, 8)}) is first
    for side in range(9, 9 + MAX_PLANS):
        session.executable({"input": (1, 3, side, side)})
    assert session.executable({"input": (1, 3, 8, 8)}) is not first


def test_several_threads_may_plan_at_once() -> None:
    session = Session(bound(), "auto", threads=1)
    results: list[float] = []

    def work(side: int) -> None:
        x = np.ones((1, 3, side, side), np.float32)
        results.append(float(session.run(x)["act"].sum()))

    threads = [threading.Thread(target=work, args=(8 + i % 3,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12 and len(set(results)) == 3


def test_inputs_are_checked() -> None:
    session = Session(bound(), "numpy")
    with pytest.raises(GraphError, match="takes the inputs input"):
        session.run({"image": np.ones((1, 3, 8, 8), np.float32)})
    with pytest.raises(GraphError, match="does not fit 2 channels"):
        session.run(np.ones((1, 2, 8, 8), np.float32))
    assert runtime.BACKENDS == ("auto", "c", "numpy")


@pytest.mark.filterwarnings("error:.*no C kernel")
@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("nodes", [0, 1, 2])
def test_an_output_may_be_a_weight(backend: str, nodes: int) -> None:
    """Even if nothing is computed; and what is, is computed as ever, with no warning."""
    b = Builder("weight")
    x = b.input("x", (1, 2, 3, 3))
    for _ in range(nodes):
        x = b.apply(ops.ReLU(), x)
    graph = b.build(b.param("w", (3,)), *[x] * (nodes > 0))
    graph = graph.bind({"w": np.float32([1, 2, 3])})
    session = Session(graph, backend, 1)
    given = np.float32([-1, 2] * 9).reshape(1, 2, 3, 3)
    found, *others = session.run(given).values()
    assert np.array_equal(found, [1, 2, 3]) and not np.shares_memory(found, graph.params["w"])
    assert all(np.array_equal(y, np.maximum(given, 0)) for y in others)
