"""Every network against outputs of its public implementation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from golden_cases import ALL, HERE, Case, entry, from_repository, from_shared, load
from shared import SHARED, needs_shared

from tinyface import passes
from tinyface.backends.numpy import run_graph
from tinyface.graph import Graph
from tinyface.runtime import Session

FLOAT32, FLOAT64, C_ENGINE = 2e-5, 1e-9, 1e-4  # of the largest output
LARGE = 600e6  # MACs above which the float64 runs are left to a thorough round

get = lru_cache(maxsize=2)(load)  # tests of one case run one after the other


def case_of(name: str) -> Case:
    case = get(name)
    if case is None:
        pytest.skip(f"{name} is only in the project's shared material (../shared/golden)")
    return case


def small_batch(case: Case) -> int:
    """Both images of small networks, one of large ones."""
    return 2 if case.meta["macs_conv_fc"] < 300e6 else 1


def run(case: Case, graph: Graph, dtype: str, n: int) -> dict[str, np.ndarray]:
    """Outputs under the names of the file, without the rows that the file does not have."""
    graph = graph.with_inputs({"input": (n, *case.input.shape[1:])}).astype(dtype)
    return _named(case, run_graph(graph, {"input": case.input[:n].astype(dtype)}), n)


def _named(case: Case, values: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    if set(values) != set(case.exact):  # a single output, called "output" in all files
        ((_, value),) = values.items()
        return {"output": value.reshape(n, -1)}
    return {name: value[:, :: case.step] for name, value in values.items()}


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, relative to the largest output."""
    wanted = wanted[: len(got)]
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def rounding(case: Case, name: str) -> float:
    """How far float32 arithmetic took the public implementation from the exact output."""
    return error(case.outputs[name], case.exact[name])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("form", ["raw", "optimised"])
def test_float32(name: str, form: str) -> None:
    """Within 2e-5 of the exact output, or within 1.5 times the public code's own rounding error.

    (That of ProxylessFaceNAS is 4e-5: nothing can be expected to be closer to its float32
    output than the float64 output is. Where the public rounding error is small, the float32
    outputs are compared, too.)
    """
    case = case_of(name)
    graph = passes.optimise(case.graph) if form == "optimised" else case.graph
    for key, got in run(case, graph, "float32", small_batch(case)).items():
        own = rounding(case, key)
        bound = max(FLOAT32, 1.5 * own, case.exactness)
        assert error(got, case.exact[key]) <= bound
        assert error(got, case.outputs[key]) <= bound + own  # both may be off, either way


def _float64_cases() -> list[object]:
    """All cases, those of large networks marked slow."""
    large = {name for name in ALL if entry(name).build().cost.macs > LARGE}
    return [pytest.param(n, marks=pytest.mark.slow) if n in large else n for n in ALL]


@pytest.mark.parametrize("name", _float64_cases())
def test_float64(name: str) -> None:
    """Within 1e-9, as built and with everything folded, merged and fused.

    Passes fold float64 weights here, so that their rounding does not hide a mistake. (The
    weights of LightCNN are known to 5e-6 only.)
    """
    case = case_of(name)
    graph = case.graph.astype("float64")
    bound = max(FLOAT64, case.exactness)
    for form in (graph, passes.optimise(graph)):
        for key, got in run(case, form, "float64", 1).items():
            assert error(got, case.exact[key]) <= bound, (key, form is graph)


@pytest.mark.needs_c
@pytest.mark.parametrize("name", ALL)
def test_c_engine(name: str) -> None:
    """Within 1e-4 of the exact outputs; both images at once."""
    case = case_of(name)
    values = Session(case.graph, backend="c", threads=1).run({"input": case.input})
    for key, got in _named(case, values, len(case.input)).items():
        assert error(got, case.exact[key]) <= C_ENGINE


@pytest.mark.parametrize("name", ["fdfacenet", "lightcnn9", "retinaface_mnet025_320x320"])
def test_repository_and_shared_material_agree(name: str) -> None:
    """The short form of a case holds the same weights and outputs as the long one."""
    shared = from_shared(name)
    if shared is None:
        pytest.skip("needs the project's shared material in ../shared")
    ours = from_repository(name)
    for key, value in shared.graph.params.items():
        assert np.array_equal(value, ours.graph.params[key]), key
    for key, value in shared.exact.items():
        rows = value[:, :: ours.step] if ours.step > 1 else value
        assert np.array_equal(rows, ours.exact[key])


@needs_shared
def test_no_shared_case_is_left_out() -> None:
    assert {path.stem for path in (SHARED / "golden").glob("*.safetensors")} == set(ALL)


def test_the_repository_has_every_family() -> None:
    """So that a checkout alone tests all of them."""
    present = {path.stem for path in HERE.glob("*.safetensors")}
    assert present <= set(ALL)
    assert {entry(name).family for name in present} == {entry(name).family for name in ALL}
