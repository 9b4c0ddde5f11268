"""The C engine against the NumPy definitions: every operator, every instruction set, whole graphs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from bounds import tolerance
from hypothesis import assume, given
from random_graphs import graphs
from strategies import SETTINGS, STRATEGIES, Case

from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.errors import BackendError
from tinyface.graph import Graph, Node
from tinyface.networks import find, random_state
from tinyface.ops import OPS
from tinyface.ops.spec import Array
from tinyface.passes import optimise
from tinyface.plan import arena
from tinyface.plan.lower import LOWER

pytestmark = pytest.mark.skipif(not engine.available(), reason="the C engine was not built")

ISAS = [isa.name for isa in engine.isas()] if engine.available() else []
WITHOUT_KERNEL = {
    "pad": "the passes move it into the convolution behind it; alone it runs in NumPy",
}
FIRST_OPERAND_ONLY = {"add", "sub", "mul", "div", "maximum", "concat"}  # all inputs are maps


def graph_of(case: Case) -> tuple[Graph, dict[str, Array]]:
    """The operator as a graph: its first input is fed in, its weights are constants."""
    names = [f"in{i}" if a is not None else "" for i, a in enumerate(case.inputs)]
    arrays = dict(zip(names, case.arrays("float32"), strict=True))
    arrays.pop("", None)
    fed = {n for n in names if n} if case.op.kind in FIRST_OPERAND_ONLY else {names[0]}
    fed |= {n for i, n in enumerate(names) if n and (i == 4 and case.op.kind in ("conv2d", "linear"))}
    if case.op.kind == "resize":
        fed = {n for n in names if n}
    types = dict(zip(names, case.types("float32"), strict=True))
    inputs = {n: types[n] for n in names if n in fed}
    params = {n: arrays[n] for n in names if n and n not in fed}
    outputs = tuple(f"out{i}" for i in range(len(case.infer())))
    node = Node("node", case.op, tuple(names), outputs)
    return Graph("case", inputs, outputs, (node,), params), {n: arrays[n] for n in inputs}


def run(graph: Graph, inputs: dict[str, Array], isa: str, threads: int = 1) -> dict[str, Array]:
    """Run with an arena full of NaN: what is read before it is written shows."""
    executable = engine.CExecutable(graph, threads, isa)
    context = executable._borrow()
    context.arena.view(np.float32)[:] = np.nan
    executable._idle.append(context)
    return executable.run(inputs)


def test_every_operator_has_a_kernel_or_a_reason() -> None:
    assert LOWER.keys() | WITHOUT_KERNEL.keys() == OPS.keys()
    assert not LOWER.keys() & WITHOUT_KERNEL.keys()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(LOWER))
def test_equals_numpy(kind: str, isa: str) -> None:
    """Within the bound of tests/bounds.py, which holds for any two correct computations."""
    done = 0

    @SETTINGS
    @given(STRATEGIES[kind])
    def check(case: Case) -> None:
        nonlocal done
        graph, inputs = graph_of(case)
        try:
            outputs = run(graph, inputs, isa)
        except BackendError as error:
            assert "cannot run node" in str(error) and "--backend numpy" in str(error)
            assume(False)
        done += 1
        result = case.op.run(*case.arrays("float64"))
        results = result if isinstance(result, tuple) else (result,)
        bound = 2 * tolerance(case.op, case.inputs, "float32")
        for name, expected in zip(graph.outputs, results, strict=True):
            ours = outputs[name]
            assert ours.shape == expected.shape
            with np.errstate(invalid="ignore", over="ignore"):
                rounded = expected.astype(np.float32)
                same = (ours == rounded) | (np.isnan(ours) & np.isnan(rounded))
                apart = np.where(same, 0, np.abs(ours - expected))
            assert (apart <= bound + np.spacing(np.abs(rounded))).all()

    check()
    assert done, "no case of this operator ran in C"


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(t.shape).astype(np.float32) for name, t in graph.inputs.items()
    }


def network(name: str) -> Graph:
    graph = find(name).build()
    return optimise(graph.bind(random_state(graph)))


SMALL = ("fdfacenet", "mobilefacenet", "retinaface", "shufflefacenet-x0.5", "cnn-8-ds-cifar")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SMALL)
def test_networks_equal_numpy(name: str, isa: str) -> None:
    graph = network(name)
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    for key, ours in run(graph, inputs, isa).items():
        assert np.abs(ours - expected[key]).max() <= 2e-5 * np.abs(expected[key]).max()


@pytest.mark.parametrize("name", SMALL)
def test_same_bits_for_any_number_of_threads(name: str) -> None:
    graph = network(name)
    inputs = random_inputs(graph)
    expected = run(graph, inputs, ISAS[-1])
    for threads in (2, 3, 8):
        executable = engine.CExecutable(graph, threads, ISAS[-1])
        for _ in range(3):
            for key, ours in executable.run(inputs).items():
                assert np.array_equal(ours, expected[key])


@SETTINGS
@given(graphs())
def test_planned_equals_unplanned(graph: Graph) -> None:
    """The arena's overlaps change no bit; it stays near the lower bound."""
    graph = optimise(graph)
    inputs = random_inputs(graph)
    try:
        executable = engine.CExecutable(graph, 1, ISAS[-1])
    except BackendError:
        assume(False)
    planned = run(graph, inputs, ISAS[-1])
    place, arena.place = arena.place, apart
    try:
        unplanned = run(graph, inputs, ISAS[-1])
    finally:
        arena.place = place
    for key, ours in planned.items():
        assert np.array_equal(ours, unplanned[key], equal_nan=True)
    assert executable.plan.lower_bound <= executable.plan.arena_bytes


def apart(life: dict[arena.Buffer, arena.Life], steps: int) -> tuple[int, int]:
    """Every buffer in a place of its own."""
    size = 0
    for buffer in life:
        buffer.offset = size
        size += arena.padded(buffer)
    return size, size


@pytest.mark.parametrize("name", SMALL)
def test_the_arena_is_near_its_lower_bound(name: str) -> None:
    plan = engine.CExecutable(network(name), 1).plan
    assert plan.arena_bytes <= 1.05 * plan.lower_bound


def test_buffers_alive_together_do_not_overlap() -> None:
    plan = engine.CExecutable(network("retinaface"), 1).plan
    life = arena.lives(plan.steps)
    for a, (a0, a1) in life.items():
        for b, (b0, b1) in life.items():
            if a is not b and a0 <= b1 and b0 <= a1:
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset


@pytest.mark.parametrize("batch", [2, 3])
def test_a_batch_equals_its_images(batch: int) -> None:
    for name in ("fdfacenet", "mobilefacenet", "retinaface"):
        graph = network(name)
        shapes = {n: (batch, *t.shape[1:]) for n, t in graph.inputs.items()}
        inputs = random_inputs(graph.with_inputs(shapes))
        together = run(graph.with_inputs(shapes), inputs, ISAS[-1])
        for i in range(batch):
            alone = run(graph, {n: x[i : i + 1] for n, x in inputs.items()}, ISAS[-1])
            for key, ours in alone.items():
                scale = np.abs(ours).max()
                assert np.abs(together[key][i : i + 1] - ours).max() <= 1e-5 * scale


def test_two_python_threads_may_run_one_model() -> None:
    graph = network("mobilefacenet")
    executable = engine.CExecutable(graph, 2)
    many = [random_inputs(graph, seed) for seed in range(4)]
    expected = [executable.run(inputs) for inputs in many]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(5):
            outputs = executable.run(many[seed])
            if any(not np.array_equal(outputs[k], expected[seed][k]) for k in outputs):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_runs_after_fork() -> None:
    """The threads of the pool stay with the parent; the child makes its own."""
    graph = network("cnn-8-ds-cifar")
    executable = engine.CExecutable(graph, 2)
    inputs = random_inputs(graph)
    expected = executable.run(inputs)
    child = os.fork()
    if child == 0:
        outputs = executable.run(inputs)
        os._exit(0 if all(np.array_equal(outputs[k], expected[k]) for k in expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(np.array_equal(v, expected[k]) for k, v in executable.run(inputs).items())


def test_nothing_spins_while_idle() -> None:
    graph = network("cnn-8-ds-cifar")
    executable = engine.CExecutable(graph, 4)
    executable.run(random_inputs(graph))
    threading.Event().wait(0.05)
    before = os.times()
    threading.Event().wait(0.3)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.1


def test_an_unknown_isa_is_an_error() -> None:
    code = "from tinyface.backends.c import choose_isa; choose_isa()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TINYFACE_ISA": "mmx"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "instruction set 'mmx' (TINYFACE_ISA): this CPU or build has only scalar" in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [("op", 99), ("n", 0), ("c", 1 << 30), ("kh", -1), ("groups", 3), ("act", 77), ("tasks", 0),
     ("block", 0), ("pt", -1), ("w", 1 << 40), ("zero", -1), ("size", 8)],
)  # fmt: skip
def test_check_refuses_what_run_could_not_survive(field: str, value: int) -> None:
    executable = engine.CExecutable(network("cnn-8-ds-cifar"), 1)
    first = next(i for i, s in enumerate(executable.plan.steps) if s.kernel.startswith("gemm"))
    setattr(executable._steps[first], field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()


@pytest.mark.parametrize("operand", ["x", "y"])
@pytest.mark.parametrize(("field", "value"), [("off", 1 << 33), ("row", -1), ("img", 1 << 35),
                                              ("buf", 7), ("off", -5), ("ld", 1 << 30)])  # fmt: skip
def test_check_refuses_views_beyond_their_buffer(operand: str, field: str, value: int) -> None:
    executable = engine.CExecutable(network("cnn-8-ds-cifar"), 1)
    setattr(getattr(executable._steps[1], operand), field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()
