"""Every operator's NumPy definition against PyTorch, in float32 and float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, note

torch = pytest.importorskip("torch")

from bounds import tolerance  # noqa: E402
from cases import SETTINGS, Case  # noqa: E402
from strategies import STRATEGIES  # noqa: E402

from benchmarks.torch_ops import RUN, oracle  # noqa: E402
from tinyface.ops import OPS, Resize  # noqa: E402

torch.set_num_threads(1)


def test_every_operator_has_an_oracle() -> None:
    assert RUN.keys() == OPS.keys(), "say it with PyTorch in benchmarks/torch_ops.py"


@pytest.mark.parametrize("kind", sorted(OPS))
def test_equals_pytorch(kind: str) -> None:
    """Within the bound of tests/bounds.py; the shape that was inferred; the input's dtype."""

    @SETTINGS
    @given(STRATEGIES[kind])
    def check(case: Case) -> None:
        for dtype in ("float32", "float64"):
            compare(case, dtype)

    check()


def compare(case: Case, dtype: str) -> None:
    arrays = case.arrays(dtype)
    result = case.op.run(*arrays)
    results = result if isinstance(result, tuple) else (result,)
    tensors = tuple(None if a is None else torch.tensor(a) for a in arrays)
    expected = oracle(case.op, tensors)
    bound = tolerance(case.op, case.inputs, dtype)
    types = case.infer(dtype)
    assert len(results) == len(expected) == len(types)
    for ours, theirs, tensor_type in zip(results, expected, types, strict=True):
        assert (ours.shape, str(ours.dtype)) == (tensor_type.shape, dtype)
        theirs = theirs.numpy()
        assert ours.shape == theirs.shape
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0, np.abs(ours.astype(np.float64) - theirs))
        note(f"{dtype}: apart {apart.max()}, allowed {np.max(bound)}")
        assert (apart <= bound).all()


def test_nearest_resize_picks_pytorchs_pixels_for_every_pair_of_sides() -> None:
    """Also where i x in/out is a whole number and float32 rounding decides (2 -> 82)."""
    for side in range(1, 24):
        x = np.arange(side, dtype=np.float32).reshape(1, 1, 1, side)
        for out in range(1, 130):
            ours = Resize(size=(1, out)).run(x)
            theirs = torch.nn.functional.interpolate(torch.tensor(x), size=(1, out))
            assert (ours == theirs.numpy()).all(), (side, out)
