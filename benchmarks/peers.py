"""tinyface beside the big runtimes: one command, one run, the same networks and weights.

    python -m benchmarks.peers fdfacenet mobilefacenet-512 -t 1,2 --rounds 20
    python -m benchmarks.peers face.onnx --engines tinyface,onnxruntime --json face.json

Every engine gets the same graph (Conv-BN folded) with the same weights: random ones, or those of
an ONNX file. Before anything is timed its outputs are compared with the NumPy definition. Then the
engines take turns, round after round, each time in another order and each as many times: a machine
that slows down slows all of them, and nobody's minimum is one of more draws. Minima and medians are
both printed, and the ratio to the best peer (below 1: tinyface is ahead).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.engines import ENGINES, Outputs, Run, versions
from tinyface import machine
from tinyface.backends import c as engine_c
from tinyface.backends.numpy import run_graph
from tinyface.errors import TinyfaceError
from tinyface.formats.importer import import_file
from tinyface.graph import Graph
from tinyface.networks import find
from tinyface.networks.random import random_state

AGREE = 1e-3  # largest difference over the largest output; Winograd in fp32 stays below 1e-4
QUIET = 0.01  # seconds without work: the threads of the engine before have stopped spinning
PATIENCE = 1.0  # seconds: some never stop
TURN = 0.05  # seconds of an engine's turn, on average over the engines
FEWEST = 3  # inferences of a turn, where one engine is very slow
FIGURES = ("min_ms", "median_ms")
DEFAULT = (
    "fdfacenet", "fdfn-star", "nfn", "dwfn-star-x1.25", "mobilefacenet-512", "shufflefacenet-x1.0",
)  # fmt: skip


def network(name: str) -> Graph:
    """With weights: of the registry, or of an ONNX file.

    Raises:
        TinyfaceError: the file cannot be imported.
    """
    if name.endswith(".onnx"):
        return replace(import_file(name).graph, name=Path(name).stem)
    graph = find(name).build()
    return graph.bind(random_state(graph, seed=0))


def labels(names: Sequence[str]) -> dict[str, str]:
    """What the table calls them: files by their stem, unless two have the same."""
    stems = {name: Path(name).stem if name.endswith(".onnx") else name for name in names}
    shared = list(stems.values())
    return {name: stem if shared.count(stem) == 1 else name for name, stem in stems.items()}


def measure(
    name: str, threads: int, rounds: int, engines: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Times of every engine on one network in milliseconds, and what kept an engine out.

    ``folder`` belongs to this network alone: engines keep their own files of it there.
    """
    out: dict[str, Any] = {"network": name, "threads": threads, "mmac": None, "times": 0}
    out |= {"skipped": {}, "difference": {}, "min_ms": {}, "median_ms": {}, "ratio": {}}
    try:
        graph = network(name)
        if len(graph.inputs) != 1:
            raise TinyfaceError(f"{name}: it has {len(graph.inputs)} inputs; one can be measured")
        x = np.random.default_rng(0).uniform(-1, 1, _input(graph)).astype(np.float32)
        truth = list(run_graph(graph, {next(iter(graph.inputs)): x}).values())
    except TinyfaceError as error:
        return out | {"skipped": {engine: str(error) for engine in engines}}
    out["mmac"] = graph.cost.macs / 1e6
    runs: dict[str, Run] = {}
    for engine in engines:
        run, worst, why = prepare(engine, graph, threads, folder, x, truth)
        if run is None:
            out["skipped"][engine] = why
        else:
            runs[engine], out["difference"][engine] = run, worst
    times = take_turns(runs, x, rounds)
    out["times"] = max(map(len, times.values()), default=0)
    out["min_ms"] = {k: round(min(v), 4) for k, v in times.items()}
    out["median_ms"] = {k: round(statistics.median(v), 4) for k, v in times.items()}
    out["ratio"] = {figure[:-3]: ratio(out, figure) for figure in FIGURES}
    return out


def prepare(
    engine: str,
    graph: Graph,
    threads: int,
    folder: Path,
    x: np.ndarray[Any, Any],
    truth: Outputs,
) -> tuple[Run | None, float, str]:
    """(run, its largest relative difference, ""), or (None, 0, why it was left out)."""
    try:
        run = ENGINES[engine](graph, threads, folder)
        worst = difference(run(x), truth)
    except Exception as error:  # a peer's failure must not end the run
        return None, 0.0, f"{type(error).__name__}: {error}".splitlines()[0][:160]
    if not worst < AGREE:  # NaN, too
        return None, worst, f"differs by {worst:.1e} of the largest output"
    return run, worst, ""


def difference(outputs: Outputs, truth: Outputs) -> float:
    """The largest difference of any output, over that output's largest value (if it is all zeros,
    as it is); NaN where anything is NaN or infinite."""
    gaps = [0.0]
    for ours, right in zip(outputs, truth, strict=True):
        gap = np.abs(ours.reshape(right.shape) - right).max()
        gaps.append(float(gap / (np.abs(right).max() or 1)))
    return float(np.max(gaps))  # unlike max(), it keeps a NaN


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
    """Milliseconds of single inferences, as many of every engine; in each round each has a turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    if not runs:
        return times
    gc.disable()
    try:
        once = sum(min(turn(run, x, 2)) for run in runs.values()) / 1e3
        count = max(FEWEST, round(TURN * len(runs) / once))
        for order in orders(list(runs), rounds):
            for name in order:
                times[name] += turn(runs[name], x, count)
    finally:
        gc.enable()
    return times


def turn(run: Run, x: np.ndarray[Any, Any], count: int) -> list[float]:
    """Milliseconds of ``count`` inferences in a row."""
    settle()
    run(x)  # wakes its threads and warms its caches; not counted
    stamps = [time.perf_counter()]
    for _ in range(count):
        run(x)
        stamps.append(time.perf_counter())
    return [(b - a) * 1e3 for a, b in pairwise(stamps)]


def orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    """Each begins with another engine, every second one goes backwards: nobody is always behind
    the same one, which may have left the caches or the clock in a bad state."""
    for i in range(rounds):
        first = i % len(names)
        order = names[first:] + names[:first]
        yield order[::-1] if i % 2 else order


def ratio(result: dict[str, Any], figure: str) -> float | None:
    """tinyface's time over the best peer's; None where there is nothing to compare."""
    peers = [v for k, v in result[figure].items() if k != "tinyface"]
    own = result[figure].get("tinyface")
    return round(own / min(peers), 4) if peers and own else None


def row(result: dict[str, Any], engines: Sequence[str]) -> str:
    """A line of the table: minimum (median) in ms, and the ratio of the minima and medians."""
    least, median = result["min_ms"], result["median_ms"]
    cells = [f"{least[e]:.2f} ({median[e]:.2f})" if e in least else "-" for e in engines]
    for figure in FIGURES:
        value = ratio(result, figure)
        cells.append("-" if value is None else f"{value:.2f}")
    return "| " + " | ".join([result["network"], str(result["threads"]), *cells]) + " |"


def report(results: list[dict[str, Any]], engines: Sequence[str]) -> str:
    """A Markdown table, the geometric means of its ratios, and which lines have none, and why."""
    lines = ["| network | threads | " + " | ".join(engines) + " | ratio min | ratio median |"]
    lines.append("|" + "---|" * (len(engines) + 4))
    lines += [row(r, engines) for r in results]
    for figure in FIGURES:
        found = [q for q in (ratio(r, figure) for r in results) if q]
        if found:
            mean = math.exp(statistics.fmean(map(math.log, found)))
            lines.append(f"\ngeometric mean of {len(found)} ratios ({figure[:-3]}): {mean:.3f}")
    without = [r for r in results if ratio(r, FIGURES[0]) is None]
    if without:
        lines.append(f"\nleft out of the mean: {len(without)} of {len(results)}")
        lines += [f"  {r['network']}, threads {r['threads']}: {why_none(r)}" for r in without]
    return "\n".join(lines)


def why_none(result: dict[str, Any]) -> str:
    """Why a result has no ratio."""
    if "tinyface" in result["skipped"]:
        return f"tinyface: {result['skipped']['tinyface']}"
    if "tinyface" not in result["min_ms"]:
        return "tinyface was not among the engines"
    return "no other engine ran it"


def commit() -> str | None:
    """Of the checkout that this file is in, with "+" where something was changed; None outside."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head, changed = (
            subprocess.run([*git, *more], capture_output=True, text=True, check=True).stdout
            for more in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; whatever is wrong with it is said before anything runs."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=f"Engines: {', '.join(ENGINES)}; all that are installed unless --engines says less.",
    )
    parser.add_argument("networks", nargs="*", default=list(DEFAULT), metavar="NETWORK")
    parser.add_argument("-t", "--threads", default="1", help="e.g. 1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engines", default=",".join(ENGINES), help="comma-separated")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args(argv)
    args.engines = list(dict.fromkeys(args.engines.split(",")))
    unknown = [name for name in args.engines if name not in ENGINES]
    if unknown:
        parser.error(f"no engine {', '.join(unknown)}: there are {', '.join(ENGINES)}")
    counts = args.threads.split(",")
    if not all(n.isdecimal() and 1 <= int(n) <= 256 for n in counts):
        parser.error(f"-t {args.threads}: give numbers of threads from 1 to 256, such as 1,2")
    args.threads = [int(n) for n in counts]
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: give 1 or more")
    for name in args.networks:
        if wrong := unknown_network(name):
            parser.error(wrong)
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no such folder")
    return args


def unknown_network(name: str) -> str:
    """What is wrong with it; "" where it can be tried."""
    if name.endswith(".onnx"):
        return "" if Path(name).is_file() else f"{name}: there is no such file"
    try:
        find(name)
    except TinyfaceError as error:
        return str(error)
    return ""


def main(argv: Sequence[str] | None = None, out: TextIO = sys.stdout) -> None:
    args = arguments(argv)
    before, results = machine.state(), []
    called = labels(args.networks)
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:  # two networks may have one name
            for threads in args.threads:
                result = measure(name, threads, args.rounds, args.engines, Path(folder))
                results.append(result | {"network": called[name]})
                print(row(results[-1], args.engines), file=sys.stderr)
                for engine, why in result["skipped"].items():
                    print(f"  {engine} left out: {why}", file=sys.stderr)
    described = machine.describe() | {"before": before, "after": machine.state()}
    isa = engine_c.choose_isa().name if engine_c.available() else None
    print(f"{machine.headline(described)}; tinyface with {isa}\n", file=out)
    print(report(results, args.engines), file=out, flush=True)
    warning = machine.disturbance(before, described["after"])
    if warning:
        print(f"these times are not to be trusted: {warning}", file=sys.stderr)
    if args.json:
        record = {"schema": "peers/1", "machine": described, "warning": warning, "isa": isa}
        record |= {"versions": versions(), "commit": commit(), "rounds": args.rounds}
        args.json.write_text(json.dumps(record | {"results": results}, indent=1))


def _input(graph: Graph) -> tuple[int, ...]:
    return next(iter(graph.inputs.values())).shape


if __name__ == "__main__":
    # Libraries print to the stdout of C (MNN names the machine's features): that goes to stderr.
    results_only = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(out=results_only)
