"""How fast networks run here, for every number of threads and instruction set asked for."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any

from tinyface.runtime import Runnable

Run = tuple["Case", Runnable, Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """What is run: a network, an engine ("c", "numpy", or "c+numpy" where NumPy helps out), its
    instruction set, its threads, and how its weights are kept ("fp32" or "fp16")."""

    network: str
    backend: str
    isa: str
    threads: int
    weights: str = "fp32"


@dataclass(frozen=True)
class Timing:
    """Times of single inferences in ms: minimum, median, and the middle half around it."""

    case: Case
    mmacs: float
    runs: int
    least_ms: float
    median_ms: float
    low_ms: float
    high_ms: float

    @property
    def gmac_per_s(self) -> float:
        """Achieved at the median."""
        return self.mmacs / self.median_ms if self.median_ms else 0.0

    def to_json(self) -> dict[str, Any]:
        doc = asdict(self)
        case: dict[str, Any] = doc.pop("case")
        return case | doc | {"gmac_per_s": round(self.gmac_per_s, 3)}


def take_turns(
    runs: Sequence[Run],
    macs: Mapping[str, int],
    *,
    rounds: int = 10,
    turn_s: float = 0.05,
    progress: Callable[[], object] = lambda: None,
) -> list[Timing]:
    """Time all cases in one interleaved run: in each round, every case has a turn.

    A machine that grows slower meanwhile slows all of them. Each turn begins with a run that is
    not counted and lasts ``turn_s`` seconds or one run, whichever is longer.

    Args:
        runs: case, executable, inputs.
        macs: of each network by name.
        rounds: turns of every case.
        progress: called after every turn.
    """
    times: dict[Case, list[float]] = {case: [] for case, _, _ in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for case, executable, inputs in runs:
                executable.run(inputs)
                begin = before = perf_counter_ns()
                while before - begin < turn_s * 1e9:
                    executable.run(inputs)
                    now = perf_counter_ns()
                    times[case].append((now - before) / 1e6)
                    before = now
                progress()
    finally:
        if collecting:
            gc.enable()
    return [_timing(case, macs[case.network] / 1e6, values) for case, values in times.items()]


def _timing(case: Case, mmacs: float, ms: list[float]) -> Timing:
    # "inclusive": the other way, of two or three times, gives quartiles beyond the extremes.
    quarters = statistics.quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else ms * 3
    low, median, high = quarters
    return Timing(case, mmacs, len(ms), min(ms), median, low, high)
