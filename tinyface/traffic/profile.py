"""Where the time of a network goes: its steps, timed over many runs, beside what they cost."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Any

import numpy as np

from tinyface.errors import UsageError
from tinyface.runtime import Session
from tinyface.tracing import Record, trace
from tinyface.traffic.cache import Cache, Past, past_cache
from tinyface.traffic.counters import Counters, Measured
from tinyface.traffic.roofs import Roofs
from tinyface.types import Cost


@dataclass(frozen=True)
class Row:
    """One step: its record of the median run, and the spread of its times.

    time_ns: median over the runs; least_ns: minimum. share: of the sum of medians, 0…1.
    """

    record: Record
    time_ns: int
    least_ns: int
    share: float

    def to_json(self) -> dict[str, Any]:
        """The record's columns with this row's times."""
        row = self.record.to_json()
        row.pop("start_ns")
        gmacs = self.record.compulsory.macs / self.time_ns if self.time_ns else 0.0
        rate = self.record.algorithmic.bytes / self.time_ns if self.time_ns else 0.0
        return row | {
            "time_ns": self.time_ns,
            "least_ns": self.least_ns,
            "share": round(self.share, 5),
            "gmac_per_s": round(gmacs, 3),
            "gb_per_s": round(rate, 3),
        }


@dataclass(frozen=True)
class Profile:
    """A network, measured.

    rows: in the order of execution. whole_ns: median of whole runs without step times;
    traced_ns: median with them. The difference is what the clock costs. weights: how they are
    kept, "fp32" or "fp16".
    measured: what the machine's counters say of a run; unmeasured: why there is nothing.
    cache, past: a last cache, and what of every step's bytes passes it by the model; none unless
    asked for. memory: bytes that the engine keeps, "arena", "scratch" and "weights"; none of NumPy.
    """

    network: str
    backend: str
    threads: int
    weights: str
    runs: int
    rows: tuple[Row, ...]
    whole_ns: int
    least_ns: int
    traced_ns: int
    measured: Measured | None = None
    unmeasured: str = "not asked for"
    cache: Cache | None = None
    past: tuple[Past, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """Compulsory cost of all steps."""
        return Cost.total(row.record.compulsory for row in self.rows)

    @property
    def algorithmic(self) -> Cost:
        """What the kernels touch, all steps together."""
        return Cost.total(row.record.algorithmic for row in self.rows)

    @property
    def past_sum(self) -> Past:
        """Past the cache, all steps together."""
        return Past(sum(p.filled for p in self.past), sum(p.written for p in self.past))

    def by_kernel(self) -> dict[str, tuple[int, int, Cost]]:
        """kernel -> (steps, ns, compulsory cost), the slowest first."""
        sums: dict[str, tuple[int, int, Cost]] = {}
        for row in self.rows:
            key = f"{row.record.op} · {row.record.kernel}"
            steps, ns, cost = sums.get(key, (0, 0, Cost()))
            sums[key] = (steps + 1, ns + row.time_ns, cost + row.record.compulsory)
        return dict(sorted(sums.items(), key=lambda item: -item[1][1]))

    def bounds(self, roofs: Roofs | None) -> list[str | None]:
        """Which roof holds each step (:meth:`Roofs.bound`); None where no roofs are known."""
        if roofs is None:
            return [None] * len(self.rows)
        weights = self.cost.weight
        return [roofs.bound(row.record.compulsory, row.time_ns, weights) for row in self.rows]

    def to_json(self, roofs: Roofs | None = None) -> dict[str, Any]:
        """Totals and the list ``operators``, for machines."""
        bounds = self.bounds(roofs)
        return {
            "network": self.network,
            "backend": self.backend,
            "threads": self.threads,
            "weights": self.weights,
            "runs": self.runs,
            "totals": {
                "time_ns": self.whole_ns,
                "least_ns": self.least_ns,
                "traced_ns": self.traced_ns,
                "macs": self.cost.macs,
                **self.cost.byte_counts(),
                "algorithmic": {"macs": self.algorithmic.macs, **self.algorithmic.byte_counts()},
            },
            "memory": dict(self.memory),
            "measured": self.measured.to_json() if self.measured else None,
            "unmeasured": "" if self.measured else self.unmeasured,
            "cache_model": self._cache_json(),
            "operators": [
                row.to_json() | {"bound": bound} | past
                for row, bound, past in zip(self.rows, bounds, self._past_json(), strict=True)
            ],
        }

    def _cache_json(self) -> dict[str, Any] | None:
        if self.cache is None:
            return None
        return {"bytes": self.cache.nbytes, "ways": self.cache.ways} | self.past_sum.to_json()

    def _past_json(self) -> list[dict[str, Any]]:
        if self.cache is None:
            return [{}] * len(self.rows)
        return [{"past_cache": past.to_json()} for past in self.past]


def measure(
    session: Session,
    inputs: Mapping[str, Any],
    *,
    runs: int = 30,
    progress: Callable[[], object] = lambda: None,
) -> Profile:
    """Run the network ``runs`` times with step times and as often without, in turns.

    Args:
        session: the network, ready to run.
        inputs: float32 arrays by name.
        runs: timed runs of each sort, at least 1; one more of each warms up.
        progress: called after every pair of runs.
    """
    return measure_in_turns([(session, inputs)], runs=runs, progress=progress)[0]


def measure_in_turns(
    cases: Sequence[tuple[Session, Mapping[str, Any]]],
    *,
    runs: int = 30,
    progress: Callable[[], object] = lambda: None,
) -> list[Profile]:
    """:func:`measure` for several networks that take turns, so that they can be compared even
    where the machine's speed drifts meanwhile."""
    samples = [_Samples() for _ in cases]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(runs + 1):
            for (session, inputs), sample in zip(cases, samples, strict=True):
                sample.take(session, inputs, keep=number > 0)  # the first pair warms up
            progress()
    finally:
        if collecting:
            gc.enable()
    return [sample.profile(*case) for case, sample in zip(cases, samples, strict=True)]


def count(
    profile: Profile, session: Session, inputs: Mapping[str, Any], counters: Counters, runs: int
) -> Profile:
    """The profile with what the machine's counters say of further runs.

    counters: opened before the session's first run, which starts its threads.
    """
    found = counters.count(lambda: session.run(inputs), runs)
    return replace(profile, measured=found, unmeasured=counters.reason)


def model_cache(session: Session, cache: Cache) -> tuple[Past, ...]:
    """For every step of a network, the bytes that pass a cache, by the model: one thread.

    Raises:
        UsageError: NumPy runs some of the network; only plans of the C engine can be followed.
    """
    shapes = {name: t.shape for name, t in session.graph.inputs.items()}
    plan = getattr(session.executable(shapes), "plan", None)
    if plan is None:
        raise UsageError(
            f"{session.graph.name}: --cache follows plans of the C engine, and NumPy runs some or "
            "all of this network; leave it out"
        )
    return tuple(past_cache(plan, cache.nbytes, cache.ways))


@dataclass
class _Samples:
    """Times of whole runs without step times and with them, ns, and the records of the latter."""

    plain: list[int] = field(default_factory=list)
    traced: list[int] = field(default_factory=list)
    records: list[list[Record]] = field(default_factory=list)

    def take(self, session: Session, inputs: Mapping[str, Any], *, keep: bool) -> None:
        begin = perf_counter_ns()
        session.run(inputs)
        middle = perf_counter_ns()
        with trace() as opened:
            session.run(inputs)
        end = perf_counter_ns()
        if keep:
            self.plain.append(middle - begin)
            self.traced.append(end - middle)
            self.records.append(opened.runs[0])

    def profile(self, session: Session, inputs: Mapping[str, Any]) -> Profile:
        return Profile(
            network=session.graph.name,
            backend=session.backend,
            threads=session.threads,
            weights=session.weights,
            runs=len(self.plain),
            rows=_rows(self.records),
            whole_ns=_median(self.plain),
            least_ns=min(self.plain),
            traced_ns=_median(self.traced),
            memory=session.executable({name: a.shape for name, a in inputs.items()}).memory,
        )


def random_inputs(session: Session, seed: int = 0) -> dict[str, Any]:
    """Values in [-1, 1) of the graph's own input shapes. The times do not depend on them."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(-1, 1, t.shape).astype(np.float32)
        for name, t in session.graph.inputs.items()
    }


def _rows(collected: list[list[Record]]) -> tuple[Row, ...]:
    steps = list(zip(*collected, strict=True))  # per step, its record in every run
    medians = [_median([record.time_ns for record in step]) for step in steps]
    total = sum(medians) or 1
    return tuple(
        Row(step[0], median, min(record.time_ns for record in step), median / total)
        for step, median in zip(steps, medians, strict=True)
    )


def _median(values: list[int]) -> int:
    return int(statistics.median(values))
