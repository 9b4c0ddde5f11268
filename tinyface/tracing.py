"""What a run did: one record per step, with its time and its bytes.

>>> with tinyface.trace() as trace:          # doctest: +SKIP
...     model.embed("photo.jpg", aligned=True)
>>> trace.write("trace.json")                # doctest: +SKIP

Off by default: without an open ``trace()`` an engine takes no time stamps.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyface.errors import UsageError
from tinyface.files import atomic_write
from tinyface.types import Cost, Shape

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One step of one run.

    Attributes:
        name: of the node (of the first one, where a step fuses several).
        op: its kind.
        kernel: what computed it ("im2col", "gemm_avx2_6x16", …).
        output_shape: NCHW.
        compulsory: every operand once.
        algorithmic: what this kernel really touches (docs/definitions.md).
        start_ns, time_ns: from the monotonic clock; start counts from the run's first step.
        thread: 0; kept for the Chrome format.
    """

    name: str
    op: str
    kernel: str
    output_shape: Shape
    compulsory: Cost
    algorithmic: Cost
    start_ns: int
    time_ns: int
    thread: int = 0

    @property
    def gmac_per_s(self) -> float:
        """Achieved 10^9 multiply-accumulates a second."""
        return self.compulsory.macs / self.time_ns if self.time_ns else 0.0

    @property
    def gb_per_s(self) -> float:
        """Achieved 10^9 algorithmic bytes a second."""
        return self.algorithmic.bytes / self.time_ns if self.time_ns else 0.0

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: MACs per compulsory byte."""
        return self.compulsory.macs / self.compulsory.bytes if self.compulsory.bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """Flat row: the compulsory figures at the top, the algorithmic ones below."""
        return {
            "name": self.name,
            "op": self.op,
            "kernel": self.kernel,
            "output_shape": list(self.output_shape),
            "macs": self.compulsory.macs,
            **self.compulsory.byte_counts(),
            "algorithmic": {"macs": self.algorithmic.macs, **self.algorithmic.byte_counts()},
            "start_ns": self.start_ns,
            "time_ns": self.time_ns,
            "gmac_per_s": round(self.gmac_per_s, 3),
            "gb_per_s": round(self.gb_per_s, 3),
            "intensity": round(self.intensity, 3),
        }


@dataclass(repr=False)
class Trace:
    """The records of the runs made while it was open: one list per run, in order."""

    runs: list[list[Record]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<tinyface.Trace of {len(self.runs)} runs, {len(self.records)} steps>"

    @property
    def records(self) -> list[Record]:
        """All records of all runs."""
        return [record for run in self.runs for record in run]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "runs": [[r.to_json() for r in run] for run in self.runs]}

    def to_csv(self) -> str:
        """One line per record; the algorithmic bytes in columns of their own."""
        out = io.StringIO()
        rows = []
        for number, run in enumerate(self.runs):
            for record in run:
                row = {"run": number, **record.to_json()}
                row["output_shape"] = "x".join(map(str, record.output_shape))
                extra = row.pop("algorithmic")
                rows.append(row | {f"algorithmic_{k}": v for k, v in extra.items()})
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return out.getvalue()

    def to_chrome(self) -> dict[str, Any]:
        """Chrome's trace-event format (times in microseconds), one process per run."""
        events = [
            {
                "name": r.name,
                "cat": r.op,
                "ph": "X",
                "ts": r.start_ns / 1e3,
                "dur": r.time_ns / 1e3,
                "pid": number,
                "tid": r.thread,
                "args": {"kernel": r.kernel, **asdict(r.compulsory)},
            }
            for number, run in enumerate(self.runs)
            for r in run
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def write(self, path: str | Path) -> None:
        """Write by suffix: ``.json``, ``.csv``, or ``.chrome.json`` for chrome://tracing.

        The file appears whole or not at all. Raises UsageError for another suffix, or where
        the file cannot be written.
        """
        check_name(path)
        name = Path(path).name
        if name.endswith(".chrome.json"):
            text = json.dumps(self.to_chrome())
        elif name.endswith(".json"):
            text = json.dumps(self.to_json())
        else:
            text = self.to_csv()
        with atomic_write(path, "w", encoding="utf-8") as stream:
            stream.write(text)


def check_name(path: str | Path) -> None:
    """UsageError unless a trace can be written under that name."""
    if not Path(path).name.endswith((".json", ".csv")):
        raise UsageError(f"{path}: name a trace .json, .chrome.json or .csv")


_current: ContextVar[Trace | None] = ContextVar("tinyface_trace", default=None)


def current() -> Trace | None:
    """The open trace of this thread or task, if there is one."""
    return _current.get()


@contextmanager
def trace() -> Iterator[Trace]:
    """Record every run made inside the ``with`` block (of this thread or task)."""
    opened = Trace()
    token = _current.set(opened)
    try:
        yield opened
    finally:
        _current.reset(token)
