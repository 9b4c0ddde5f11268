"""Attributes, JSON and shapes come from files: what an operator must refuse, and how."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from cases import SETTINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import STRATEGIES

from tinyface import limits, ops
from tinyface.errors import AttributeBoundsError, GraphError
from tinyface.ops import OPS, Op, from_json
from tinyface.types import TensorType

KINDS = sorted(OPS)


# ------------------------------------------------------------------------ bounds


def wrong_values(default: Any, bounds: Any) -> list[Any]:
    """Values that an attribute with this default and these bounds must refuse."""
    low, high = bounds.get("low"), bounds.get("high")
    if default is None:
        return ["relu", 1, {"kind": "relu"}]
    if isinstance(default, tuple):
        one = default[0] if default else 1
        inner = [(value,) * max(len(default), 1) for value in wrong_values(one, bounds)]
        most = bounds["length"] or len(default)
        return [*inner, 3, None, "ab", {}, (one,) * (most + 1)]
    if isinstance(default, bool):
        return [0, 1, None, "true"]
    if isinstance(default, str):
        return ["", "no such mode", None, 1]
    wrong = [None, "1", True, math.nan, math.inf, 10**400, -(10**400), [default], {}]
    wrong += [1.5, 2**31, -(2**31)] if isinstance(default, int) else [1e39, -1e39]
    wrong += [low - 1] if low is not None else []
    wrong += [high + 1] if high is not None else []
    return wrong


@pytest.mark.parametrize("kind", [kind for kind in KINDS if fields(OPS[kind])])
def test_attributes_outside_their_bounds_are_refused(kind: str) -> None:
    for f in fields(OPS[kind]):
        for value in wrong_values(f.default, f.metadata):
            with pytest.raises(AttributeBoundsError, match=f"{kind}.{f.name}"):
                OPS[kind](**{f.name: value})


@pytest.mark.parametrize(
    "make",
    [
        lambda: ops.Clip(1.0, 0.0),
        lambda: ops.Slice((0,), (0,), (1,), (0,)),
        lambda: ops.Slice((0, 1), (0,), (1,), (1,)),
        lambda: ops.Transpose((0, 0, 1)),
        lambda: ops.Reshape((-1, -1)),
        lambda: ops.Resize(size=(3, 0)),
        lambda: ops.Conv2d(act=ops.Softmax()),
        lambda: ops.Linear(act=ops.Add()),
    ],
)
def test_attributes_that_contradict_each_other_are_refused(make: Any) -> None:
    with pytest.raises(GraphError):
        make()


# -------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "doc",
    [
        None,
        [],
        "relu",
        {},
        {"kind": None},
        {"kind": "no such operator"},
        {"kind": ["relu"]},
        {"kind": "relu", "alpha": 1},
        {"kind": "conv2d", "stride": [1]},
        {"kind": "conv2d", "stride": [[1, 1], 1]},
        {"kind": "conv2d", "stride": "11"},
        {"kind": "conv2d", "act": "relu"},
        {"kind": "conv2d", "act": {"kind": "softmax"}},
        {"kind": "conv2d", "act": {"kind": "conv2d", "act": {"kind": "relu"}}},
        {"kind": "conv2d", "groups": {"kind": "relu"}},
        {"kind": "clip", "low": 10**400},
    ],
)
def test_malformed_json_is_refused(doc: Any) -> None:
    with pytest.raises(GraphError):
        from_json(doc)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(SETTINGS, max_examples=5 * SETTINGS.max_examples)
@given(st.data())
def test_no_json_makes_anything_but_an_operator_or_a_graph_error(data: st.DataObject) -> None:
    cls = OPS[data.draw(st.sampled_from(KINDS))]
    names = [f.name for f in fields(cls)]
    keys = st.sampled_from([*names, "kind"]) if names else st.just("other")
    doc = {"kind": cls.kind, **data.draw(st.dictionaries(keys, JSON, max_size=4))}
    try:
        op = from_json(doc)
    except GraphError:
        return
    assert from_json(op.to_json()) == op


# ------------------------------------------------------------------------ shapes


def any_type() -> st.SearchStrategy[TensorType | None]:
    sides = st.sampled_from([1, 1, 2, 3, 7, 8, 1000, limits.MAX_DIM])

    def make(shape: list[int]) -> TensorType | None:
        try:
            return TensorType(tuple(shape))
        except GraphError:
            return None

    return st.lists(sides, max_size=limits.MAX_RANK).map(make)


@settings(SETTINGS, max_examples=10 * SETTINGS.max_examples)
@given(st.data())
def test_any_input_types_give_types_or_a_graph_error(data: st.DataObject) -> None:
    """Shapes come from files: no division by zero, no index error, no absurd output."""
    op = data.draw(STRATEGIES[data.draw(st.sampled_from(KINDS))]).op
    least, most = op.arity
    types = data.draw(st.lists(any_type(), min_size=least, max_size=min(most, 6)))
    try:
        outputs = op.infer(*types)
    except GraphError:
        return
    assert op.macs(tuple(types), outputs) >= 0
    assert op.scratch(tuple(types), outputs) >= 0


def t(*shape: int) -> TensorType:
    return TensorType(shape)


@pytest.mark.parametrize(
    ("op", "types"),
    [
        (ops.Conv2d(), (t(1, 4, 5, 5), t(8, 3, 3, 3))),  # channels
        (ops.Conv2d(groups=3), (t(1, 6, 5, 5), t(8, 2, 3, 3))),  # 8 outputs in 3 groups
        (ops.Conv2d(), (t(1, 4, 2, 5), t(8, 4, 3, 3))),  # the kernel is higher than the map
        (ops.Conv2d(), (t(4, 5, 5), t(8, 4, 3, 3))),
        (ops.Conv2d(), (t(1, 4, 5, 5), None)),
        (ops.Linear(), (t(), t(1, 1))),
        (ops.Linear(), (t(5), t(3, 5))),
        (ops.MatMul(), (t(), t(2, 2))),
        (ops.MatMul(), (t(3, 2, 5), t(2, 5, 4))),
        (ops.LayerNorm(), (t(),)),
        (ops.Concat(axis=0), (t(1), t())),
        (ops.Conv2d(), (t(1, 1, 9, 2000), t(1, 1, 1, 1025))),
        (ops.Conv2d(), (t(1, 4, 5, 5), t(8, 4, 3, 3), t(4))),  # bias
        (ops.Conv2d(act=ops.PReLU()), (t(1, 4, 5, 5), t(8, 4, 3, 3))),  # no slope
        (ops.Conv2d(act=ops.ReLU()), (t(1, 4, 5, 5), t(8, 4, 3, 3), None, t(8))),
        (ops.Conv2d(), (t(1, 4, 5, 5), t(8, 4, 3, 3), None, None, t(1, 8, 5, 5))),  # residual
        (ops.Linear(), (t(2, 5), t(3, 4))),
        (ops.Linear(), (t(2, 5, 1), t(3, 5))),
        (ops.PReLU(), (t(1, 4, 5, 5), t(5))),
        (ops.PReLU(), (t(1, 4, 5, 5), None)),
        (ops.BatchNorm(), (t(1, 4, 5, 5), t(4), t(4), t(4), t(5))),
        (ops.BatchNorm(), (t(4), t(4), t(4), t(4), t(4))),
        (ops.L2Normalize(2), (t(1, 4),)),
        (ops.Softmax(-3), (t(1, 4),)),
        (ops.MaxPool(pad=(2, 0, 0, 0)), (t(1, 4, 5, 5),)),
        (ops.MaxPool(kernel=(6, 1)), (t(1, 4, 5, 5),)),
        (ops.GlobalAveragePool(), (t(1, 4),)),
        (ops.Add(), (t(1, 4, 5, 5), t(1, 3, 5, 5))),
        (ops.MaxFeatureMap(), (t(1, 5, 2, 2),)),
        (ops.Concat(), (t(1, 4, 5, 5), t(1, 4, 5, 6))),
        (ops.Concat(), (t(1, 4, 5, 5), t(1, 4, 5))),
        (ops.Concat(4), (t(1, 4, 5, 5),)),
        (ops.Split(1, (2, 3)), (t(1, 4, 5, 5),)),
        (ops.Slice((2,), (0,), (1,), (1,)), (t(1, 4),)),
        (ops.Slice((1, -1), (0, 0), (1, 1), (1, 1)), (t(1, 4),)),
        (ops.Slice((1,), (3,), (2,), (1,)), (t(1, 4),)),
        (ops.Pad((1,), (1,)), (t(1, 4),)),
        (ops.Reshape((3, -1)), (t(1, 4),)),
        (ops.Reshape((1, 4, 0)), (t(1, 4),)),
        (ops.Reshape((8, -1)), (t(1, 4),)),
        (ops.Flatten(3), (t(1, 4),)),
        (ops.Transpose((0, 1)), (t(1, 4, 5),)),
        (ops.ChannelShuffle(3), (t(1, 4, 5, 5),)),
        (ops.Resize(scale=(0.1, 1.0)), (t(1, 4, 5, 5),)),
        (ops.Resize(size=(limits.MAX_DIM, 64)), (t(1, 4, 5, 5),)),  # more than MAX_TENSOR_BYTES
        (ops.Reduce(axes=(1, -1)), (t(1, 4),)),
        (ops.Reduce(axes=()), (t(1, 4),)),
    ],
    ids=lambda value: str(value) if isinstance(value, Op) else "",
)
def test_inputs_that_do_not_fit_are_refused(op: Op, types: tuple[TensorType | None, ...]) -> None:
    with pytest.raises(GraphError):
        op.infer(*types)
