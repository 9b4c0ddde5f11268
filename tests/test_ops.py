"""What holds for every operator: complete declarations, bounds, JSON, shapes, edge values."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from bounds import BOUNDS
from cases import SETTINGS, Case
from hypothesis import given
from strategies import STRATEGIES

from tinyface import limits, ops
from tinyface.ops import OPS, Op, from_json
from tinyface.types import TensorType

NO_ONNX = {
    "silu": "exporters write Sigmoid, Mul",
    "channel_shuffle": "exporters write Reshape, Transpose, Reshape",
    "max_feature_map": "exporters write Split and Max",
}

KINDS = sorted(OPS)


# ------------------------------------------------------------------ declarations


@pytest.mark.parametrize("kind", KINDS)
def test_declaration_is_complete(kind: str) -> None:
    """An operator that lacks a part of its declaration cannot be registered unnoticed."""
    cls = OPS[kind]
    assert cls.kind == kind
    assert cls.infer is not Op.infer
    assert cls.run is not Op.run
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), "needs a docstring"
    assert (kind in NO_ONNX) != bool(cls.onnx), "an ONNX name, or a reason in NO_ONNX"
    assert 1 <= cls.arity[0] <= cls.arity[1] <= limits.MAX_INPUTS
    assert cls.__name__ in ops.__all__


def test_every_operator_has_a_strategy_and_a_bound() -> None:
    assert STRATEGIES.keys() == BOUNDS.keys() == OPS.keys(), "tests/strategies.py, tests/bounds.py"


def test_onnx_names_are_claimed_once() -> None:
    names = [name for cls in OPS.values() for name in cls.onnx]
    assert len(names) == len(set(names))


def test_kind_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match="taken"):
        ops.spec.register(type("Again", (Op,), {"kind": "relu"}))


def test_operators_are_values() -> None:
    """Equal and hashed by kind and attributes, printed with them, never changed."""
    op = ops.Clip(1, high=2.5)
    assert op == ops.Clip(low=1, high=2.5) != ops.Clip(0.0, 2.5)
    assert hash(op) == hash(ops.Clip(1, 2.5)) and ops.Exp() != ops.Sqrt()
    assert repr(op) == "Clip(low=1, high=2.5)"
    assert replace(op, low=2.0) == ops.Clip(2.0, 2.5) and pickle.loads(pickle.dumps(op)) == op
    for change in (lambda: setattr(op, "low", 3.0), lambda: delattr(op, "low")):
        with pytest.raises(FrozenInstanceError, match="low"):
            change()
    for wrong in (lambda: ops.Clip(1, low=2), lambda: ops.Clip(high=1, hgih=2), lambda: ops.Exp(1)):
        with pytest.raises(TypeError, match=r"Clip\(low, high\)|Exp\(\)"):
            wrong()


# -------------------------------------------------------------------- every case


@pytest.mark.parametrize("kind", KINDS)
def test_runs_as_declared(kind: str) -> None:
    """Shape and dtype are those inferred, read-only inputs do, JSON brings the operator back."""

    @SETTINGS
    @given(STRATEGIES[kind])
    def check(case: Case) -> None:
        for dtype in ("float32", "float64"):
            result = case.op.run(*case.arrays(dtype))
            results = result if isinstance(result, tuple) else (result,)
            types = tuple(TensorType(y.shape, str(y.dtype)) for y in results)
            assert types == case.infer(dtype)
        given = case.types("float64")
        least = max(case.op.macs(given, types), sum(y.size for y in types))
        assert case.op.operations(given, types) >= least
        again = from_json(json.loads(json.dumps(case.op.to_json())))
        assert (again, hash(again)) == (case.op, hash(case.op))

    check()


# -------------------------------------------------------------------------- cost


def t(*shape: int) -> TensorType:
    return TensorType(shape)


def test_macs_are_those_of_table_2() -> None:
    """FDFaceNet, Table 2: K²MNHW for a standard convolution, a g-th of it for g groups."""
    k, m, n, h, w = 3, 8, 12, 5, 7
    for groups in (1, 2, 4):
        op = ops.Conv2d(pad=(1, 1, 1, 1), groups=groups)
        types = (t(1, m, h, w), t(n, m // groups, k, k))
        assert op.macs(types, op.infer(*types)) == k * k * m * n * h * w // groups
    types = (t(3, 8), t(5, 8))
    assert ops.Linear().macs(types, ops.Linear().infer(*types)) == 3 * 8 * 5


# -------------------------------------------------------------------- scratch


SCRATCH = [
    (ops.Conv2d(pad=(1, 1, 1, 1)), [(1, 16, 40, 40), (16, 16, 3, 3)]),
    (ops.Conv2d(), [(1, 16, 40, 40), (64, 16, 1, 1)]),
    (ops.Conv2d(stride=(2, 2)), [(1, 16, 80, 80), (16, 16, 1, 1)]),
    (ops.Conv2d(groups=16, pad=(0, 1, 2, 3)), [(1, 16, 40, 40), (16, 1, 3, 3), (16,)]),
    (ops.Conv2d(act=ops.PReLU()), [(1, 16, 60, 60), (16, 16, 1, 1), (16,), (16,)]),
    (ops.Linear(act=ops.Sigmoid()), [(500, 8), (100, 8), (100,)]),
    (ops.PReLU(), [(1, 16, 60, 60), (16,)]),
    (ops.LeakyReLU(), [(1, 16, 60, 60)]),
    (ops.ReLU(), [(1, 16, 60, 60)]),
    (ops.Clip(), [(1, 16, 60, 60)]),
    (ops.Sigmoid(), [(1, 16, 60, 60)]),
    (ops.Exp(), [(1, 16, 60, 60)]),
    (ops.Sqrt(), [(1, 16, 60, 60)]),
    (ops.Log(), [(1, 16, 60, 60)]),
    (ops.Softplus(), [(1, 16, 60, 60)]),
    (ops.Compare(), [(1, 16, 200, 200), (1, 16, 1, 1)]),
    (ops.Where(), [(1, 16, 200, 200), (1, 16, 1, 1), (1,)]),
    (ops.LayerNorm(axis=1), [(1, 16, 60, 60), (16,), (16,)]),
    (ops.MatMul(), [(8, 40, 50), (50, 60)]),
    (ops.HardSigmoid(), [(1, 16, 60, 60)]),
    (ops.HardSwish(), [(1, 16, 60, 60)]),
    (ops.Softmax(1), [(1, 2, 200, 200)]),
    (ops.BatchNorm(), [(1, 16, 60, 60), (16,), (16,), (16,), (16,)]),
    (ops.L2Normalize(), [(1, 4, 100, 100)]),
    (ops.MaxPool(), [(1, 16, 80, 80)]),
    (ops.MaxPool((3, 3), pad=(1, 1, 1, 1), ceil=True), [(1, 16, 80, 80)]),
    (ops.AveragePool((3, 3), pad=(1, 1, 1, 1)), [(1, 16, 80, 80)]),
    (ops.GlobalAveragePool(), [(1, 16, 80, 80)]),
    (ops.Add(), [(1, 16, 60, 60), (1, 16, 60, 60)]),
    (ops.Div(), [(1, 16, 60, 60), (1, 16, 1, 1)]),
    (ops.MaxFeatureMap(), [(1, 16, 60, 60)]),
    (ops.Concat(), [(1, 16, 60, 60), (1, 16, 60, 60)]),
    (ops.Split(1, (4, 12)), [(2, 16, 60, 60)]),
    (ops.Transpose(), [(1, 16, 60, 60)]),
    (ops.ChannelShuffle(), [(1, 16, 60, 60)]),
    (ops.Pad((0, 0, 1, 1), (0, 0, 1, 1)), [(1, 16, 60, 60)]),
    (ops.Resize(scale=(2.0, 2.0)), [(1, 8, 50, 50)]),
    (ops.Resize("bilinear", scale=(2.0, 2.0)), [(1, 8, 50, 50)]),
    (ops.Reduce("l2", (2, 3)), [(1, 16, 60, 60)]),
    (ops.Reduce("mean", (2, 3)), [(1, 16, 60, 60)]),
]


@pytest.mark.parametrize(
    ("op", "shapes"), SCRATCH, ids=lambda value: str(value) if isinstance(value, Op) else ""
)
def test_scratch_covers_what_the_kernel_allocates(op: Op, shapes: list[tuple[int, ...]]) -> None:
    """Never more temporaries alive at once than declared, and never none where some are."""
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    types = tuple(TensorType(shape) for shape in shapes)
    outputs = op.infer(*types)
    op.run(*arrays)  # caches of NumPy and BLAS are filled now
    tracemalloc.start()
    result = op.run(*arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    written = sum(out.nbytes for out in outputs)
    temporaries, declared = peak - written, op.scratch(types, outputs) // 2
    slack = 96 * 1024  # NumPy's iterator buffers (8192 elements an operand), Python objects
    assert temporaries <= declared + slack
    if declared > 4 * slack:
        assert temporaries > slack


# ---------------------------------------------------------------- special values

TINY = np.float32(1e-42)  # subnormal
SPECIAL = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 3e38]], np.float32)


@pytest.mark.parametrize("act", ops.FUSABLE, ids=lambda cls: cls.kind)
def test_activations_keep_nan_and_subnormals(act: type[Op]) -> None:
    slope = (np.float32([0.25]),) if act is ops.PReLU else ()
    with np.errstate(invalid="ignore"):
        y = act().run(SPECIAL, *slope)[0]
    assert np.isnan(y[0])
    assert y.dtype == np.float32
    if act in (ops.ReLU, ops.PReLU, ops.LeakyReLU):
        assert y[1] == np.inf
        assert y[3] == y[4] == 0
        assert y[5] == TINY
    if act in (ops.PReLU, ops.LeakyReLU):
        assert y[2] == -np.inf
        factor = np.float32(0.25 if act is ops.PReLU else 0.01)
        assert y[6] == -TINY * factor


def test_sigmoid_overflows_nowhere() -> None:
    with np.errstate(all="raise", under="ignore"):
        y = ops.Sigmoid().run(np.float32([-1000, -90, 0, 90, 1000]))
    assert y.tolist()[2:] == [0.5, 1, 1]
    assert 0 <= y[0] <= y[1] < 1e-38


@pytest.mark.parametrize("op", [ops.MaxPool((1, 8), (1, 1)), ops.GlobalMaxPool()], ids=str)
def test_maxima_pass_nan_on(op: Op) -> None:
    assert np.isnan(op.run(SPECIAL.reshape(1, 1, 1, 8))).all()
    assert op.run(SPECIAL[:, 1:8].reshape(1, 1, 1, 7)[..., [1, 1, 2, 3, 4, 5, 5, 5]]).item() == TINY


def test_maximum_passes_nan_on_from_either_side() -> None:
    a, b = np.float32([np.nan, 1.0]), np.float32([1.0, np.nan])
    assert np.isnan(ops.Maximum().run(a, b)).all()
    assert np.isnan(ops.MaxFeatureMap().run(np.concatenate([a, b])[None])).all()


def test_division_follows_ieee_without_a_warning() -> None:
    y = ops.Div().run(np.float32([1, -1, 0]), np.float32([0, 0, 0]))
    assert y[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(y[2])


def test_unit_length_of_a_zero_vector_is_zero() -> None:
    assert ops.L2Normalize().run(np.zeros((2, 4), np.float32)).tolist() == [[0.0] * 4] * 2


def test_pool_windows_that_meet_nothing() -> None:
    """A dilated window whose elements all lie beside a map of one element."""
    x = np.float32([[[[5.0]]]])
    shape = {"kernel": (1, 2), "stride": (1, 1), "pad": (0, 1, 0, 1), "dilation": (1, 2)}
    assert ops.MaxPool(**shape).run(x).tolist() == [[[[-np.inf]]]]
    assert ops.AveragePool(**shape).run(x).tolist() == [[[[0.0]]]]


# --------------------------------------------------------------- worked examples


def test_channel_shuffle_deals_the_groups_out() -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    assert ops.ChannelShuffle(2).run(x).ravel().tolist() == [0, 3, 1, 4, 2, 5]


def test_bilinear_uses_half_pixel_centres() -> None:
    x = np.float32([[[[0, 4]]]])
    y = ops.Resize("bilinear", size=(1, 4)).run(x)
    assert y.ravel().tolist() == [0, 1, 3, 4]


def test_ceil_mode_drops_a_window_that_would_start_behind_the_map() -> None:
    """Side 2 with pads of 1, kernel 2, stride 3: floor gives 1 window, ceil 2, PyTorch's rule 1."""
    pool = ops.MaxPool((2, 2), (3, 3), (1, 1, 1, 1), ceil=True)
    assert pool.infer(t(1, 1, 2, 2)) == (t(1, 1, 1, 1),)
    assert pool.infer(t(1, 1, 3, 3)) == (t(1, 1, 2, 2),)


def test_tensorflow_same_padding_is_asymmetric() -> None:
    """k3 s2 on an even side: pads (0, 1). It is not the same network as pads (1, 1)."""
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    corner = np.zeros((1, 1, 3, 3), np.float32)
    corner[0, 0, 0, 0] = 1
    y = ops.Conv2d((2, 2), (0, 0, 1, 1)).run(x, corner)
    assert y.tolist() == [[[[0, 2], [8, 10]]]]
