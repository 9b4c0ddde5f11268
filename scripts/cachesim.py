#!/usr/bin/env python3
"""The model of the bytes past the last cache, beside a simulation of the same plan.

    make cachesim                                    FDFaceNet, MobileFaceNet, CNN-14-DS
    python scripts/cachesim.py fdfacenet --steps     every step
    python scripts/cachesim.py mine.safetensors --board pi3

The simulation is valgrind's callgrind with a board's caches: it runs the C engine's own machine
code, for this machine's best instruction set that valgrind knows. The model (tinyface/traffic/
cache.py) runs nothing and looks at the plan only. Both count the second of two inferences: lines
of 64 bytes filled from memory, and lines written back. For real ARM code see count_arm.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from count_arm import BOARDS, Board, isa_of, need, runner, write_plan

from tinyface.backends import c as engine
from tinyface.cli.profile import open_network
from tinyface.plan import Plan, make_plan
from tinyface.traffic.cache import Past, past_cache

NETWORKS = ("fdfacenet", "mobilefacenet", "cnn-14-ds")
KNOWN = ("scalar", "sse", "avx2", "neon")  # to valgrind
LINE = 64
FILLS = ("ILmr", "DLmr", "DLmw")
BACK = ("ILdmr", "DLdmr", "DLdmw")  # misses that had to write a line back first


@dataclass(frozen=True)
class Row:
    """One step: what the model says, and what was simulated."""

    name: str
    kernel: str
    model: Past
    simulated: Past


def simulate(plan: Plan, run: list[str], board: Board) -> list[Past]:
    """Bytes past the last cache, of every step, by callgrind."""
    caches = [
        f"--{option}={int(kib) << 10},{ways},{LINE}"
        for option, (kib, _, ways) in (
            (name, getattr(board, field).partition(":"))
            for name, field in (("I1", "l1i"), ("D1", "l1d"), ("LL", "l2"))
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan")
        write_plan(plan, path)
        subprocess.run(
            [need("valgrind", "valgrind"), "--tool=callgrind", "--cache-sim=yes", "--quiet",
             "--simulate-wb=yes", "--dump-before=tf_mark", *caches,
             f"--callgrind-out-file={folder}/out", *run, str(path)],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        # out.1 ends at the first mark: the start and the first run. The last is the end.
        return [_totals(Path(folder, f"out.{i + 2}")) for i in range(len(plan.steps))]


def _totals(path: Path) -> Past:
    text = path.read_text()
    names = re.findall(r"^events: (.*)$", text, re.M)[0].split()
    sums = re.findall(r"^(?:totals|summary): (.*)$", text, re.M)[-1].split()
    found = dict(zip(names, map(int, sums), strict=False))  # trailing zeros are left out
    filled, back = (sum(found.get(name, 0) for name in kind) for kind in (FILLS, BACK))
    return Past(filled * LINE, back * LINE)


def compare(network: str, board: Board) -> list[Row]:
    """Every step of a network's plan."""
    best = [isa.name for isa in engine.isas() if isa.name in KNOWN][-1]
    os.environ["TINYFACE_ISA"] = best
    session, _ = open_network(network, "c", 1)
    run = [str(runner(need("gcc", "build-essential"), best, "native"))]
    plan = make_plan(session.graph, isa_of(run))
    kib, _, ways = board.l2.partition(":")
    model = past_cache(plan, int(kib) << 10, int(ways))
    simulated = simulate(plan, run, board)
    return [
        Row(step.name, step.kernel, a, b)
        for step, a, b in zip(plan.steps, model, simulated, strict=True)
    ]


def total(rows: list[Row]) -> Row:
    sums = [
        Past(sum(p.filled for p in column), sum(p.written for p in column))
        for column in ([r.model for r in rows], [r.simulated for r in rows])
    ]
    return Row("", f"{len(rows)} steps", *sums)


def line(name: str, row: Row) -> str:
    off = row.model.bytes / row.simulated.bytes - 1 if row.simulated.bytes else 0.0
    figures = (row.model.filled, row.model.written, row.simulated.filled, row.simulated.written)
    return f"{name:44.44} " + " ".join(f"{v / 1e6:9.3f}" for v in figures) + f" {off:+8.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="names or model files")
    parser.add_argument("--board", choices=BOARDS, default="pi4")
    parser.add_argument("--steps", action="store_true", help="a line for every step")
    parser.add_argument("--json", action="store_true", help="one document, every step")
    args = parser.parse_args()
    board = BOARDS[args.board]
    found = {network: compare(network, board) for network in args.networks or NETWORKS}
    if args.json:
        steps = {
            network: [
                {"name": r.name, "kernel": r.kernel, "model": vars(r.model),
                 "simulated": vars(r.simulated)}
                for r in rows
            ]
            for network, rows in found.items()
        }  # fmt: skip
        document = {"schema": "tinyface.cachesim/1", "board": vars(board), "networks": steps}
        print(json.dumps(document, indent=1))
        return
    print(f"{board.what}: caches of {board.l1d} and {board.l2} (KiB:ways); MB of 10^6 bytes")
    heads = ("filled", "back", "filled", "back", "off")
    print(f"{'':44} {'model':^19} {'simulated':^19}")
    print(" " * 44, *(f"{head:>{8 if head == 'off' else 9}}" for head in heads))
    for network, rows in found.items():
        for row in rows if args.steps else []:
            print(line(f"{row.name} {row.kernel}", row))
        print(line(network, total(rows)))


if __name__ == "__main__":
    sys.exit(main())
