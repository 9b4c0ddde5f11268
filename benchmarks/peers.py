"""tinyface beside the big runtimes: one command, one run, the same networks and weights.

    python -m benchmarks.peers fdfacenet mobilefacenet-512 -t 1,2 --rounds 20
    python -m benchmarks.peers face.onnx

Every engine gets the same graph (Conv-BN folded) with the same weights: random ones, or those of
an ONNX file. Before anything is timed its outputs are compared with the NumPy definition. Then the
engines take turns, round after round, so that a machine that slows down slows all of them: minima
and medians are both printed, and the ratio to the best peer (below 1: tinyface is ahead).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ENGINES, Run, versions
from tinyface.backends.numpy import run_graph
from tinyface.formats.importer import import_file
from tinyface.graph import Graph
from tinyface.networks import REGISTRY
from tinyface.networks.random import random_state

AGREE = 1e-3  # largest difference over the largest output; Winograd in fp32 stays below 1e-4
QUIET = 0.01  # seconds without work: the threads of the engine before have stopped spinning
PATIENCE = 1.0  # seconds: some never stop
DEFAULT = (
    "fdfacenet", "fdfn-star", "nfn", "dwfn-star-x1.25", "mobilefacenet-512", "shufflefacenet-x1.0",
)  # fmt: skip


def network(name: str) -> Graph:
    """With weights: of the registry, or of an ONNX file."""
    if name.endswith(".onnx"):
        return replace(import_file(name).graph, name=Path(name).stem)
    graph = REGISTRY[name].build()
    return graph.bind(random_state(graph, seed=0))


def measure(
    name: str, threads: int, rounds: int, engines: list[str], folder: Path
) -> dict[str, Any]:
    """Times of every engine on one network in milliseconds, and what kept an engine out."""
    graph = network(name)
    x = np.random.default_rng(0).uniform(-1, 1, _input(graph)).astype(np.float32)
    truth = list(run_graph(graph, {next(iter(graph.inputs)): x}).values())
    runs: dict[str, Run] = {}
    out: dict[str, Any] = {"network": graph.name, "threads": threads, "mmac": graph.cost.macs / 1e6}
    out["skipped"], out["difference"] = {}, {}
    for engine in engines:
        run, worst, why = prepare(engine, graph, threads, folder, x, truth)
        if run is None:
            out["skipped"][engine] = why
        else:
            runs[engine], out["difference"][engine] = run, worst
    times = take_turns(runs, x, rounds)
    out["min_ms"] = {k: round(min(v), 4) for k, v in times.items()}
    out["median_ms"] = {k: round(statistics.median(v), 4) for k, v in times.items()}
    return out


def prepare(
    engine: str,
    graph: Graph,
    threads: int,
    folder: Path,
    x: np.ndarray[Any, Any],
    truth: list[np.ndarray[Any, Any]],
) -> tuple[Run | None, float, str]:
    """(run, its largest relative difference, ""), or (None, 0, why it was left out)."""
    try:
        run = ENGINES[engine](graph, threads, folder)
        worst = max(
            float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max())
            for a, b in zip(run(x), truth, strict=True)
        )
    except Exception as error:  # a peer's failure must not end the run
        return None, 0.0, f"{type(error).__name__}: {error}".splitlines()[0][:120]
    if not worst < AGREE:
        return None, worst, f"differs by {worst:.1e} of the largest output"
    return run, worst, ""


def settle() -> None:
    """Wait until no thread of this process works: onnxruntime's spin for some 60 ms after a run,
    and would take a core from whoever comes next."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline:
        busy = time.process_time()
        time.sleep(QUIET)
        if time.process_time() - busy < QUIET / 10:
            return


def take_turns(
    runs: dict[str, Run], x: np.ndarray[Any, Any], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of single inferences; in each round every engine has a short turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                settle()
                run(x)  # wakes its threads and warms its caches; not counted
                deadline = time.perf_counter() + 0.05
                while True:
                    begin = time.perf_counter()
                    run(x)
                    end = time.perf_counter()
                    times[name].append((end - begin) * 1e3)
                    if end > deadline:
                        break
    finally:
        gc.enable()
    return times


def ratio(result: dict[str, Any], figure: str) -> float:
    """tinyface's time over the best peer's."""
    peers = [v for k, v in result[figure].items() if k != "tinyface"]
    own = result[figure].get("tinyface")
    return own / min(peers) if peers and own else math.nan


def report(results: list[dict[str, Any]], engines: list[str]) -> str:
    """A Markdown table: minimum (median) in ms, and the ratio of the minima and medians."""
    lines = ["| network | threads | " + " | ".join(engines) + " | ratio min | ratio median |"]
    lines.append("|" + "---|" * (len(engines) + 4))
    for r in results:
        cells = [
            f"{r['min_ms'][e]:.2f} ({r['median_ms'][e]:.2f})" if e in r["min_ms"] else "-"
            for e in engines
        ]
        ratios = [f"{ratio(r, 'min_ms'):.2f}", f"{ratio(r, 'median_ms'):.2f}"]
        lines.append("| " + " | ".join([r["network"], str(r["threads"]), *cells, *ratios]) + " |")
    for figure in ("min_ms", "median_ms"):
        ratios_found = [q for q in (ratio(r, figure) for r in results) if not math.isnan(q)]
        if ratios_found:
            mean = math.exp(statistics.fmean(map(math.log, ratios_found)))
            lines.append(f"\ngeometric mean of the ratios ({figure[:-3]}): {mean:.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("networks", nargs="*", default=list(DEFAULT))
    parser.add_argument("-t", "--threads", default="1", help="e.g. 1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engines", default=",".join(ENGINES), help="comma-separated")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    engines = args.engines.split(",")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            for threads in map(int, args.threads.split(",")):
                result = measure(name, threads, args.rounds, engines, Path(folder))
                results.append(result)
                print(report([result], engines).splitlines()[2], file=sys.stderr)
                for engine, why in result["skipped"].items():
                    print(f"  {engine} left out: {why}", file=sys.stderr)
    print(report(results, engines))
    if args.json:
        record = {"machine": platform.processor(), "versions": versions(), "results": results}
        args.json.write_text(json.dumps(record, indent=1))


def _input(graph: Graph) -> tuple[int, ...]:
    return next(iter(graph.inputs.values())).shape


if __name__ == "__main__":
    main()
