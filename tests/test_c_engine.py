"""The C engine against the NumPy definitions: operators, instruction sets, whole networks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from bounds import tolerance
from cases import SETTINGS, Case
from hypothesis import given
from random_graphs import graphs
from samples import network
from strategies import STRATEGIES
from unplanned import unplanned

from tinyface import ops
from tinyface.backends import c as engine
from tinyface.backends.numpy import run_graph
from tinyface.builder import Builder
from tinyface.errors import BackendError
from tinyface.graph import Graph, Node
from tinyface.ops import OPS
from tinyface.ops.spec import Array
from tinyface.passes import optimise
from tinyface.plan.lower import LOWER

pytestmark = pytest.mark.needs_c

ISAS = [isa.name for isa in engine.isas()] if engine.available() else []
MAPS = {"add", "sub", "mul", "div", "maximum", "concat", "matmul", "resize"}  # all may be maps
RESIDUAL = 4  # its place among the inputs of conv2d and linear


def graph_of(case: Case, constant: bool) -> tuple[Graph, dict[str, Array]]:
    """The operator as a graph, and what to feed it: its weights are constants.

    ``constant``: so is all but the first operand of an operator on several maps.
    """
    names = tuple(f"in{i}" if a is not None else "" for i, a in enumerate(case.inputs))
    arrays = dict(zip(names, case.arrays("float32"), strict=True))
    types = dict(zip(names, case.types("float32"), strict=True))
    several = case.op.kind in MAPS and not constant
    places = (0, RESIDUAL) if case.op.kind in ("conv2d", "linear") else (0,)
    fed = [n for i, n in enumerate(names) if n and (several or i in places)]
    params = {n: arrays[n] for n in names if n and n not in fed}
    outputs = tuple(f"out{i}" for i in range(len(case.infer())))
    node = Node("node", case.op, names, outputs)
    graph = Graph("case", {n: types[n] for n in fed}, outputs, (node,), params)
    return graph, {n: arrays[n] for n in fed}


def broadcasting(x: Array, y: Array, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Operands of an operator on two maps: equal ones, gates, vectors, a number, rows, columns."""
    gate, vector = rng.integers(-99, 99, (2, 7, 1, 1)) / 64.0, rng.integers(9, 99, (7, 1, 1)) / 32.0
    long = rng.integers(1, 99, (2, 3, 2, 77)) / 64.0  # one value for all that follows it
    return [
        *((x, other) for other in (y, gate, vector, np.array(1.5), y[:1, :, :, :1])),
        # (2, 2, 1) beside (2, 2, 2, 1) is no gate: axes are aligned at the end
        (x[:, :2, :1, 0], x[:, :2, :2, :1]),
        *((x[:, 0], y[:1, 0, 0]), (y[:, :1], x), (y, y[:, 1:2])),
        *((long, long[:, :, :, :1]), (long[:, :, 0, :1], long[:, :, 1]), (long, long[0, 0, :, :1])),
    ]


def reductions(x: Array, long: Array) -> list[Case]:
    """Of any axes, and of more values than a window has."""
    some = [(2, 3), (1,), (3,), (1, 2, 3), (2,), (1, 3), (0,), (0, 1), (0, 2), (0, 1, 2, 3)]
    one = [(x[:1], axes) for axes in ((0, 2), (0, 1, 3), (0,))]
    many = [(x[:, 0, 0, 0], (0,)), (long, (2, 3)), (long, (1, 2, 3)), (long, (0, 2, 3))]
    whole = [*((x, axes) for axes in some), *one, *many]
    modes = ("mean", "max", "sum", "l2")
    return [Case(ops.Reduce(mode, axes), (array,)) for mode in modes for array, axes in whole]


def few_a_group(kind: str) -> Iterator[Case]:
    """Convolutions whose groups fill no vector."""
    rng = np.random.default_rng(0)
    for groups, depth, stride in product((1, 3, 5, 16), (2, 4, 8), (1, 2) * (kind == "conv2d")):
        c = groups * depth
        op = OPS["conv2d"](stride=(stride, stride), pad=(1, 1, 1, 1), groups=groups)
        shapes = (1, c, 5, 9), (c, depth, 3, 3)
        yield Case(op, tuple(rng.integers(-99, 99, shape) / 64.0 for shape in shapes))


def sure(kind: str) -> list[Case]:
    """Cases that must run in C, whatever else the strategies draw."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(-999, 999, (2, 2, 7, 5, 3)) / 256.0
    vector = rng.integers(9, 99, 7) / 32.0
    if kind in ("add", "sub", "mul", "div", "maximum"):
        return [Case(OPS[kind](), pair) for pair in broadcasting(x, y, rng)]
    if kind == "transpose":  # of one picture, HWNC is NHWC
        return [
            Case(OPS[kind](p), (x[:1],))
            for p in ((0, 2, 3, 1), (0, 3, 1, 2), (2, 3, 0, 1), (3, 1, 0, 2))
        ]
    if kind == "batch_norm":
        return [Case(OPS[kind](), (a, *[vector] * 4)) for a in (x, x[..., 0], x[..., 0, 0])]
    if kind == "concat":
        more = [(Case(OPS[kind](axis=axis), (x, y, x))) for axis in (0, 2, -1)]
        more += [Case(OPS[kind](axis=axis), (x[0], y[0])) for axis in (1, 2)]
        return [Case(OPS[kind](axis=1), (x, y[:, :3])), *more]
    if kind == "split":
        sides = list(enumerate(x.shape))
        cut = [Case(OPS[kind](axis=i, sizes=(s - 1, 1)), (x,)) for i, s in sides]
        return cut + [Case(OPS[kind](axis=i, sizes=(s,)), (x,)) for i, s in sides]
    if kind == "pad":
        ends = ((0, 2, 1, 0), (0, 1, 0, 3)), ((0, 0, 0, 0), (0, 5, 0, 0)), ((0, 0, 2, 2), (0,) * 4)
        some = [(x, a, b) for a, b in ends]
        some += [
            (x[0], (1, 0, 2), (0, 1, 0)),
            (y, (1, 0, 0, 0), (0, 0, 0, 2)),
            (y[0, :, 0], (0, 1), (2, 0)),
        ]
        return [Case(OPS[kind](a, b, v), (array,)) for array, a, b in some for v in (0.0, -1.5)]
    if kind == "slice":
        op = OPS[kind](axes=(1, 2, 3), starts=(2, 1, 0), ends=(7, 5, 3), steps=(1, 2, 2))
        rows = OPS[kind](axes=(1, 2), starts=(1, 0), ends=(7, 4), steps=(3, 2))
        return [Case(op, (x,)), Case(rows, (x,)), Case(rows, (x[:, :, :, 0],))]
    if kind == "interleave":
        return [Case(OPS[kind](), (x, y, y, x)), Case(OPS[kind]((1, 2)), (x, y))]
    if kind in ("clip", "exp"):
        return [Case(OPS[kind](), (x,))]
    if kind in ("softmax", "l2_normalize"):
        return [Case(OPS[kind](axis=axis), (x,)) for axis in (1, -1)] + [
            Case(OPS[kind](axis=axis), (array,)) for array in (x, y[:, 0]) for axis in (0, -2)
        ]
    if kind == "layer_norm":
        long = rng.integers(-999, 999, (2, 3, 777)) / 256.0
        cases = [Case(OPS[kind](axis=axis), (x,)) for axis in (1, -1, 2, 0)]
        return [*cases, Case(OPS[kind](axis=1), (x, vector, vector)), Case(OPS[kind](), (long,))]
    if kind == "matmul":
        many = rng.integers(-99, 99, (2, 2, 3, 13, 31)) / 64.0
        a, b = many[0], many[1]
        wide = [(a, b.swapaxes(-1, -2)), (a[:, :1], b[0].swapaxes(-1, -2)), (a[0, 0], a[0, 0].T)]
        return [Case(OPS[kind](), pair) for pair in wide]
    if kind == "linear":
        return [Case(OPS[kind](), (x, rng.integers(-99, 99, (17, 3)) / 64.0))]
    if kind == "reduce":
        return reductions(x, rng.integers(-999, 999, (2, 3, 5, 2000)) / 256.0)
    return []


def run(graph: Graph, inputs: dict[str, Array], isa: str, threads: int = 1) -> dict[str, Array]:
    """Run with an arena full of NaN: what is read before it is written shows."""
    executable = engine.CExecutable(graph, threads, isa)
    context = executable._borrow()
    context.arena.view(np.float32)[:] = np.nan
    executable._idle.append(context)
    return executable.run(inputs)


def test_every_operator_has_a_kernel() -> None:
    """But for those that few networks have; NumPy runs them."""
    without = {"compare", "log", "softplus", "where"}
    assert OPS.keys() - LOWER.keys() == without, "add it here until it has one (CONTRIBUTING.md)"
    assert LOWER.keys() <= OPS.keys()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(LOWER))
def test_equals_numpy(kind: str, isa: str) -> None:
    """Within the bound of tests/bounds.py, which holds for any two correct computations."""
    done = 0

    def check(case: Case) -> None:
        nonlocal done
        for constant in (False, True):
            graph, inputs = graph_of(case, constant)
            try:
                outputs = run(graph, inputs, isa)
            except BackendError as error:  # a shape without a kernel: that must be said
                assert "cannot run node" in str(error) and "--backend auto" in str(error)
                continue
            compare(case, graph, outputs)
            done += 1

    for case in (*sure(kind), *few_a_group(kind)):
        check(case)
    SETTINGS(given(STRATEGIES[kind])(check))()
    assert done, "no case of this operator ran in C"


def compare(case: Case, graph: Graph, outputs: dict[str, Array]) -> None:
    """Both computations may be off by the bound, and the result is rounded."""
    result = case.op.run(*case.arrays("float64"))
    results = result if isinstance(result, tuple) else (result,)
    bound = 2 * tolerance(case.op, case.inputs, "float32")
    for name, expected in zip(graph.outputs, results, strict=True):
        ours = outputs[name]
        assert ours.shape == expected.shape
        with np.errstate(invalid="ignore", over="ignore"):
            rounded = expected.astype(np.float32)
            same = (ours == rounded) | (np.isnan(ours) & np.isnan(rounded))
            # A constant divisor becomes its reciprocal, a slope is rounded to float32.
            ulps = 2 if case.op.kind in ("div", "leaky_relu") else 1
            near = np.abs(ours - expected) <= bound + ulps * np.spacing(np.abs(rounded))
        assert (same | near).all()


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(t.shape).astype(np.float32) for name, t in graph.inputs.items()
    }


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
    """The arena's overlaps change no bit."""
    graph = optimise(graph)
    inputs = random_inputs(graph)
    try:
        executable = engine.CExecutable(graph, 1, ISAS[-1])
    except BackendError as error:
        assert "cannot run" in str(error)
        return
    planned = run(graph, inputs, ISAS[-1])
    with unplanned():
        apart = run(graph, inputs, ISAS[-1])
    for key, ours in planned.items():
        assert np.array_equal(ours, apart[key], equal_nan=True)
    assert executable.plan.lower_bound <= executable.plan.arena_bytes


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


@pytest.mark.parametrize("shape", [(1, 1025, 1024), (1, (1 << 20) + 8), (2, 5, 4, 230, 230)])
def test_more_than_a_million_values_an_image(shape: tuple[int, ...]) -> None:
    """What has no weights is not held to the size of a matrix from all values to all values."""
    b = Builder("wide")
    x = b.input("x", shape)
    graph = b.build(b.apply(ops.Add(), x, b.apply(ops.ReLU(), x)))
    inputs = {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    (got,) = engine.CExecutable(graph, 1).run(inputs).values()
    assert np.array_equal(got, inputs["x"] + np.maximum(inputs["x"], 0))


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
        status = 1
        try:
            signal.alarm(60)
            outputs = executable.run(inputs)
            status = 0 if all(np.array_equal(outputs[k], expected[k]) for k in expected) else 1
        finally:
            os._exit(status)
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
    [("op", 99), ("n", 0), ("c", 1 << 30), ("kh", -1), ("groups", 5), ("act", 77), ("tasks", 0),
     ("block", 0), ("pt", -1), ("w", 1 << 40), ("zero", -1), ("size", 8)],
)  # fmt: skip
def test_check_refuses_what_run_could_not_survive(field: str, value: int) -> None:
    executable = engine.CExecutable(network("cnn-8-ds-cifar"), 1)
    first = next(
        i for i, s in enumerate(executable.plan.steps) if s.kernel.startswith(("gemm", "packed"))
    )
    setattr(executable._steps[first], field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()


@pytest.mark.parametrize("operand", ["x", "y"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("off", 1 << 33), ("row", -1), ("img", 1 << 35), ("buf", 7), ("off", -5), ("ld", 1 << 30)],
)
def test_check_refuses_views_beyond_their_buffer(operand: str, field: str, value: int) -> None:
    executable = engine.CExecutable(network("cnn-8-ds-cifar"), 1)
    setattr(getattr(executable._steps[1], operand), field, value)
    with pytest.raises(BackendError, match="step"):
        executable._check()
