"""From im2col in NumPy to the engine as it is, one idea at a time, on one network.

    python -m benchmarks.ladder                     a table; docs/ladder.md explains the steps
    python -m benchmarks.ladder nfn --png ladder.png --json ladder.json

All steps take turns within one run. One thread until the step that says otherwise. What the
engine always does is taken away from outside: the first C steps run the network as its file has it,
so that every batch norm is a pass over a map of its own, and pack all weights for every picture.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of NumPy's matrix product

import argparse
import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyface import machine
from tinyface.backends import c as engine
from tinyface.backends.numpy import NumpyExecutable
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.ops.spec import Array
from tinyface.passes import half_weights, optimise
from tinyface.plan import Packer, lower_conv
from tinyface.plan.pack import Pieces
from tinyface.runtime import Executable, default_threads
from tinyface.traffic.bench import Case, Run, Timing, take_turns

AGREE = 2e-3  # of the largest output; fp16 weights move it by less than 1e-3
NAMES = {"sse": "SSE", "avx2": "AVX2 and FMA", "avx512": "AVX-512", "neon": "NEON"}


@dataclass(frozen=True)
class Rung:
    """A step: what is added to the one before."""

    name: str
    run: Executable
    threads: int = 1


class Recorder(Packer):
    """A packer that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[Hashable, Callable[[], Array | Pieces]] = {}

    def add(self, key: Hashable, make: Callable[[], Array | Pieces], *, exact: bool = False) -> int:
        self.given[key] = make
        return super().add(key, make, exact=exact)


class PackedEveryTime:
    """The C engine, but the weights are put into the kernel's order for every picture."""

    def __init__(self, graph: Graph, isa: str) -> None:
        self.packer = Recorder()
        self.engine = engine.CExecutable(graph, 1, isa, self.packer, chains=False)

    def run(self, inputs: Mapping[str, Array], records: Any = None) -> dict[str, Array]:
        again = Packer()
        for key, make in self.packer.given.items():
            again.add(key, make)
        return self.engine.run(inputs, records)


@contextmanager
def direct() -> Iterator[None]:
    """Plans made in here have no Winograd."""
    cut = lower_conv.winograd_cut
    lower_conv.winograd_cut = lambda *_: None
    try:
        yield
    finally:
        lower_conv.winograd_cut = cut


def climb(network: str, threads: int) -> tuple[Graph, list[Rung]]:
    """The network with random weights, and all steps, each ready to run."""
    graph = find(network).build()
    graph = graph.bind(random_state(graph))
    fused = optimise(graph)
    isas = [isa.name for isa in engine.isas()]
    best = isas[-1]
    with direct():
        rungs = [
            Rung("NumPy: im2col, then a product", NumpyExecutable(graph)),
            Rung("C, scalar: no columns", PackedEveryTime(graph, "scalar")),
            *(Rung(NAMES.get(isa, isa), PackedEveryTime(graph, isa)) for isa in isas[1:]),
            Rung("packed once", engine.CExecutable(graph, 1, best, chains=False)),
            Rung("fused", engine.CExecutable(fused, 1, best, chains=False)),
        ]
    rungs += [
        Rung("Winograd, chains", engine.CExecutable(fused, 1, best)),
        Rung(f"{threads} threads", engine.CExecutable(fused, threads, best), threads),
        Rung("fp16 weights", engine.CExecutable(half_weights(fused), threads, best), threads),
    ]
    return graph, rungs


def measure(network: str, threads: int, rounds: int) -> list[Timing]:
    """Times of every step; before that, each must compute what the first one does."""
    graph, rungs = climb(network, threads)
    rng = np.random.default_rng(0)
    x = {k: rng.uniform(-1, 1, t.shape).astype(np.float32) for k, t in graph.inputs.items()}
    (name, truth), *_ = rungs[0].run.run(x).items()
    runs: list[Run] = []
    for rung in rungs:
        off = float(np.abs(rung.run.run(x)[name] - truth).max() / np.abs(truth).max())
        if not off < AGREE:
            raise SystemExit(f"{rung.name}: differs by {off:.1e} of the largest output")
        runs.append((Case(network, rung.name, "", rung.threads), rung.run, x))
    return take_turns(runs, {network: graph.cost.macs}, rounds=rounds)


def table(timings: list[Timing]) -> str:
    """Markdown: median and least time, and how many times as fast as before and at first."""
    lines = ["| step | ms | least | × the step before | × the first | GMAC/s |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    before = first = timings[0]
    for t in timings:
        lines.append(
            f"| {t.case.backend} | {t.median_ms:.2f} | {t.least_ms:.2f} | "
            f"{before.least_ms / t.least_ms:.2f} | {first.least_ms / t.least_ms:.1f} | "
            f"{t.mmacs / t.least_ms:.1f} |"
        )
        before = t
    return "\n".join(lines)


def draw(timings: list[Timing], path: Path) -> None:
    """A dot for each step, on a logarithmic scale, where bars would have no length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 0.5 + 0.4 * len(timings)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names, times = [t.case.backend for t in timings], [t.least_ms for t in timings]
    axes.plot(times, names, "o", color="#3465a4")
    for name, ms in zip(names, times, strict=True):
        axes.annotate(f"{ms:.2f}", (ms, name), (9, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.grid(which="both", color="#dddddd", linewidth=0.5)
    axes.set_xlabel(f"{timings[0].case.network}: ms a picture, the least of many")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("network", nargs="?", default="fdfacenet")
    parser.add_argument("-t", "--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--png", type=Path, help="draw the times (needs matplotlib)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    before = machine.state()
    timings = measure(args.network, args.threads, args.rounds)
    about = machine.describe() | {"before": before, "after": machine.state()}
    print(f"{machine.headline(about)}\n\n{table(timings)}")
    warning = machine.disturbance(before, about["after"])
    if warning:
        print(f"\nThese times are not to be trusted: {warning}.")
    if args.json:
        rows = [t.to_json() | {"step": t.case.backend} for t in timings]
        args.json.write_text(json.dumps({"machine": about, "steps": rows}, indent=1))
    if args.png:
        draw(timings, args.png)


if __name__ == "__main__":
    main()
