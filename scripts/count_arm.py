#!/usr/bin/env python3
"""Instructions and DRAM traffic of the C engine on a small ARM board, counted under emulation.

    make count-arm MODEL="fdfacenet mobilefacenet-512"
    python scripts/count_arm.py fdfacenet --board pi4 --steps     every step, where it goes
    python scripts/count_arm.py mobilefacenet --json

Needs qemu-user (with plugins, as Debian's has) and the cross compiler; no emulated Python: the
plan is made here, for the instruction set of the emulated CPU, and a small C program runs it
twice. The second run is counted (the caches are as the first one left them): instructions
executed; lines of 64 bytes filled from DRAM, code and data; lines written back. The counts
depend on nothing but the code and the compiler: two runs differ by nothing.

What is left out: prefetching (it moves fills forward, and adds some), the other cores, the page
tables. What is counted is how much must be moved and done, not how long that takes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tinyface.backends import c as engine
from tinyface.graph import Graph
from tinyface.networks import find, random_state
from tinyface.passes import half_weights, optimise
from tinyface.plan import Isa, Plan, make_plan

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "count-arm"
LINE = 64  # bytes
MIB = 1 << 20


@dataclass(frozen=True)
class Board:
    """Caches as KiB:ways (ARM's and the makers' manuals), and the emulated CPU."""

    what: str
    arch: str
    cpu: str
    l1i: str
    l1d: str
    l2: str


BOARDS = {
    "pi3": Board("Raspberry Pi 3, Cortex-A53", "aarch64", "cortex-a53", "32:2", "32:4", "512:16"),
    "pi4": Board("Raspberry Pi 4, Cortex-A72", "aarch64", "cortex-a72", "48:3", "32:2", "1024:16"),
    "pi5": Board(
        "Raspberry Pi 5, Cortex-A76, its L2 alone", "aarch64", "cortex-a76", "64:4", "64:4", "512:8"
    ),
    "rk3288": Board("RK3288, Cortex-A17, 32 bits", "arm", "cortex-a7", "32:4", "32:4", "1024:16"),
}
CROSS = {"aarch64": "aarch64-linux-gnu-gcc", "arm": "arm-linux-gnueabihf-gcc"}


@dataclass(frozen=True)
class Count:
    """What one step, or one image, took."""

    instructions: int
    accesses: int
    l1i_misses: int
    l1d_misses: int
    l2_misses: int
    written_back: int

    @property
    def fill_mib(self) -> float:
        return self.l2_misses * LINE / MIB

    @property
    def written_mib(self) -> float:
        return self.written_back * LINE / MIB


def need(command: str, package: str) -> str:
    path = shutil.which(command)
    if path is None:
        sys.exit(f"count-arm: {command} is missing: sudo apt install {package}")
    return path


def build(board: Board) -> tuple[list[str], Path]:
    """The command that runs a plan under emulation, and the plugin; both compiled if need be."""
    qemu = need(f"qemu-{board.arch}", "qemu-user")
    cross = need(CROSS[board.arch], "gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf")
    program = runner(cross, "neon", board.arch, "-static")
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", version)
    api = 1 if found and (int(found[1]), int(found[2])) < (8, 2) else 2
    plugin = BUILD / f"cachesim-{api}.so"
    source = ROOT / "scripts/arm/cachesim.c"
    if stale(plugin, [source]):
        hide = ["-shared", "-fPIC", "-fvisibility=hidden", f"-DAPI={api}"]
        compile_([need("gcc", "build-essential"), "-O2", *hide, str(source)], plugin)
    return [qemu, "-cpu", board.cpu, str(program)], plugin


def runner(compiler: str, isa: str, machine: str, *options: str) -> Path:
    """The program that runs a plan, compiled if need be.

    It has this one instruction set under the names of all, which would take four times as long.
    """
    program = BUILD / f"run_plan-{machine}-{isa}"
    kernels = {path.stem.removeprefix("isa_"): path for path in ROOT.glob("csrc/isa_*.c")}
    kernels.pop(isa)
    sources = [*set(ROOT.glob("csrc/*.c")) - set(kernels.values()), ROOT / "scripts/arm/run_plan.c"]
    common = ROOT / "csrc/flags.txt"
    flags = [*common.read_text().split(), "-O2", f"-I{ROOT / 'csrc'}"]
    names = [f"-Wl,--defsym=tf_{other}=tf_{isa}" for other in kernels]
    if stale(program, [*sources, common, *ROOT.glob("csrc/*.h")]):
        BUILD.mkdir(parents=True, exist_ok=True)
        words = [compiler, *flags, *options, *names, *sorted(map(str, sources)), "-lm"]
        compile_(words, program)
    return program


def stale(target: Path, sources: list[Path]) -> bool:
    return not target.exists() or max(s.stat().st_mtime for s in sources) > target.stat().st_mtime


def compile_(command: list[str], target: Path) -> None:
    part = target.with_suffix(".part")
    if subprocess.run([*command, "-o", str(part)]).returncode:
        sys.exit(f"count-arm: {target.name} could not be compiled")
    part.rename(target)


def isa_of(run: list[str]) -> Isa:
    """What the emulated CPU and the build for it have."""
    words = subprocess.run([*run, "--isa"], check=True, capture_output=True, text=True).stdout
    name, *numbers = words.split()
    return Isa(name, *map(int, numbers))


def write_plan(plan: Plan, path: Path) -> None:
    """In the form that run_plan.c reads. A step has the same layout on all of these machines."""
    numbers = engine.number_buffers(plan)
    shapes = [*plan.inputs.values(), *plan.outputs.values()]
    sizes = [plan.arena_bytes, plan.weights.nbytes, *(4 * int(np.prod(s)) for s in shapes)]
    steps = engine.encode_steps(plan, numbers)
    with path.open("wb") as file:
        file.write(np.array([len(plan.steps), len(sizes), *sizes], np.int64).tobytes())
        file.write(bytes(engine._engine.ffi.buffer(steps)))
        file.write(plan.weights.tobytes())


def count(graph: Graph, board: Board, weights: str = "fp32") -> tuple[Plan, list[Count]]:
    """The plan of a network with weights, and a count for each of its steps."""
    run, plugin = build(board)
    graph = optimise(graph)
    plan = make_plan(half_weights(graph) if weights == "fp16" else graph, isa_of(run))
    path, report = BUILD / f"{os.getpid()}.plan", BUILD / f"{os.getpid()}.txt"
    caches = ",".join(f"{key}={getattr(board, key)}" for key in ("l1i", "l1d", "l2"))
    watch = ["-d", "plugin", "-D", str(report), "-plugin", f"file={plugin},{caches}"]
    try:
        write_plan(plan, path)
        subprocess.run([*run[:-1], *watch, run[-1], str(path)], check=True)
        lines = report.read_text().splitlines()
    finally:
        path.unlink(missing_ok=True)
        report.unlink(missing_ok=True)
    rows = [Count(*map(int, line.split())) for line in lines]
    return plan, rows[1 : len(plan.steps) + 1]  # before: the first run; behind: the end


def total(rows: list[Count]) -> Count:
    return Count(*(sum(column) for column in zip(*(asdict(r).values() for r in rows), strict=True)))


def line(name: str, c: Count, compulsory: float, macs: int) -> str:
    each = f"{c.instructions * 4 / macs:5.2f}" if macs else "     "
    return (
        f"{name:44.44} {c.instructions / 1e6:8.2f} {each} {c.accesses / 1e6:8.2f} "
        f"{c.l1d_misses / 1e3:8.1f} {c.fill_mib:8.2f} {c.written_mib:8.2f} {compulsory:8.2f}"
    )


HEAD = (
    f"{'':44} {'M insns':>8} {'/4MAC':>5} {'M access':>8} {'k L1D mi':>8} {'MiB fill':>8} "
    f"{'MiB back':>8} {'MiB wgts':>8}"
)


def show(network: str, plan: Plan, rows: list[Count], every: bool) -> None:
    """A table: instructions (also per four multiply-accumulates, which one NEON instruction can
    do), data accesses, L1D misses, MiB filled from DRAM and written back, MiB of weights."""
    if every:
        for step, row in zip(plan.steps, rows, strict=True):
            cost = step.compulsory
            print(line(f"{step.name} {step.kernel}", row, cost.weight / MIB, cost.macs))
    weights = sum(s.compulsory.weight for s in plan.steps) / MIB
    macs = sum(s.compulsory.macs for s in plan.steps)
    print(line(network, total(rows), weights, macs))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="+", help="names that `tinyface networks` lists")
    parser.add_argument("--board", choices=BOARDS, default="pi4")
    parser.add_argument("--weights", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--steps", action="store_true", help="a line for every step")
    parser.add_argument("--json", action="store_true", help="one document, every step")
    args = parser.parse_args()
    board = BOARDS[args.board]
    if not args.json:
        print(f"{board.what} (emulated); one image, one thread, {args.weights}\n{HEAD}")
    documents = []
    for network in args.networks:
        graph = find(network).build()
        plan, rows = count(graph.bind(random_state(graph)), board, args.weights)
        if not args.json:
            show(network, plan, rows, args.steps)
        steps = [
            {"name": s.name, "kernel": s.kernel, **asdict(r)}
            for s, r in zip(plan.steps, rows, strict=True)
        ]
        documents.append({"network": network, "total": asdict(total(rows)), "steps": steps})
    if args.json:
        about = {"board": asdict(board), "weights": args.weights}
        document = {"schema": "tinyface.count-arm/1", **about}
        print(json.dumps(document | {"networks": documents}, indent=1))


if __name__ == "__main__":
    main()
