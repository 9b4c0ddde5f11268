"""The measurement behind ``tinyface claim``: many networks, taking turns, step by step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

from tinyface.networks import random_state
from tinyface.ops.spec import Array
from tinyface.runtime import Executable, Session
from tinyface.tracing import Record
from tinyface.traffic.bench import Case, Run, take_turns
from tinyface.traffic.design import Member
from tinyface.traffic.profile import random_inputs
from tinyface.traffic.steps import StepFigures, figures, totals

NOISY = 1.25  # median turn by fastest turn: beyond this, other work has interfered


@dataclass(frozen=True)
class Measured:
    """A network and its times.

    step_ns: of every step, the least of all runs: what the machine takes when nothing interferes,
    which is what the models are about. Of designed networks, which are nothing but convolutions,
    the changes of layout at both ends are left out: they would spoil the design.
    whole_ns: of whole runs of the engine as it is, steps not timed, the median over the turns of
    the least within a turn; low_ns, high_ns: the middle half of the turns; least_ns: the fastest.
    chained: does the engine run some of the steps together? They are timed one by one.
    """

    member: Member
    steps: tuple[StepFigures, ...]
    step_ns: tuple[float, ...]
    whole_ns: float
    low_ns: float
    high_ns: float
    least_ns: float
    chained: bool = False

    @property
    def time_ns(self) -> float:
        """Inside the engine: the sum of the steps."""
        return sum(self.step_ns)

    @property
    def noisy(self) -> bool:
        return self.whole_ns > NOISY * self.least_ns

    @property
    def totals(self) -> Mapping[str, int]:
        """MACs, F, weight bytes and number of steps."""
        return totals(self.steps)

    def to_json(self) -> dict[str, Any]:
        """For JSON and CSV."""
        t = self.totals
        return {
            "network": self.member.name,
            "family": self.member.family,
            "varies": self.member.varies,
            "macs": t["macs"],
            "feature_bytes": t["feature"],
            "weight_bytes": t["weight"],
            "steps": t["steps"],
            "time_ns": round(self.time_ns),
            "whole_ns": round(self.whole_ns),
            "low_ns": round(self.low_ns),
            "high_ns": round(self.high_ns),
            "least_ns": round(self.least_ns),
        }


@dataclass
class _Sampler:
    """Stands in for an executable in :func:`~tinyface.traffic.bench.take_turns`.

    Each call runs the network twice: as the engine does, timed as a whole, and step by step.
    """

    whole: Executable
    single: Executable
    graph: Any
    current: list[tuple[int, list[int]]] = field(default_factory=list)
    wholes: list[int] = field(default_factory=list)  # least of every turn
    steps: list[list[int]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def run(
        self, inputs: Mapping[str, Array], records: list[Record] | None = None
    ) -> dict[str, Array]:
        begin = perf_counter_ns()
        self.whole.run(inputs)
        whole = perf_counter_ns() - begin
        mine: list[Record] = []
        outputs = self.single.run(inputs, mine)
        self.current.append((whole, [record.time_ns for record in mine]))
        self.records = mine
        return outputs

    def end_turn(self) -> None:
        """Keep the least times of the turn; its first call has warmed up."""
        if not self.current:
            return
        counted = self.current[1:]
        self.wholes.append(min(whole for whole, _ in counted))
        self.steps.append([min(times) for times in zip(*(s for _, s in counted), strict=True)])
        self.current.clear()

    def result(self, member: Member) -> Measured:
        low, median, high = (
            statistics.quantiles(self.wholes, n=4, method="inclusive")
            if len(self.wholes) > 1
            else self.wholes * 3
        )
        steps = figures(self.graph, self.records)
        least = [float(min(step)) for step in zip(*self.steps, strict=True)]
        kept = [i for i, step in enumerate(steps) if not (member.designed and step.kind == "other")]
        return Measured(
            member,
            tuple(steps[i] for i in kept),
            tuple(least[i] for i in kept),
            median,
            low,
            high,
            min(self.wholes),
            chained=self.whole is not self.single,
        )


def measure(
    members: Sequence[Member],
    *,
    backend: str = "auto",
    threads: int = 1,
    rounds: int = 10,
    turn_s: float = 0.05,
    progress: Callable[[], object] = lambda: None,
) -> list[Measured]:
    """Measure all networks in one interleaved run, with random weights and inputs.

    Args:
        rounds: turns of every network. turn_s: seconds of a turn, at least one run.
        progress: called once per network that is ready, and after every turn.
    """
    samplers: dict[str, _Sampler] = {}
    runs: list[Run] = []
    macs: dict[str, int] = {}
    for member in members:
        graph = member.build()
        session = Session(graph.bind(random_state(graph)), backend, threads)
        sampler = _Sampler(*_executables(session), session.graph)
        samplers[member.name] = sampler
        macs[member.name] = session.graph.cost.macs
        case = Case(member.name, session.backend, "", session.threads)
        runs.append((case, sampler, random_inputs(session)))
        progress()

    def turned() -> None:
        for sampler in samplers.values():
            sampler.end_turn()
        progress()

    take_turns(runs, macs, rounds=rounds, turn_s=turn_s, progress=turned)
    return [samplers[member.name].result(member) for member in members]


def _executables(session: Session) -> tuple[Executable, Executable]:
    """The network as the engine runs it, and step by step: chains would keep in the cache what the
    models suppose to be written and read. One and the same where there are none."""
    shapes = {name: t.shape for name, t in session.graph.inputs.items()}
    whole = session.executable(shapes)
    plan = getattr(whole, "plan", None)
    if session.backend != "c" or (plan and all(step.chain == 1 for step in plan.steps)):
        return whole, whole
    return whole, session.executable(shapes, chains=False)
