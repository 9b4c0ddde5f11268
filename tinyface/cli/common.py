"""What all commands share: options, messages, tables, JSON, progress."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyface import __version__
from tinyface.errors import UsageError
from tinyface.limits import MAX_THREADS

if TYPE_CHECKING:
    from tinyface.model import Model
    from tinyface.vision.detect import Face

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Rows = Sequence[Sequence[str]]
FOLDED = 24  # letters to which a column of text may be folded in a table

# ------------------------------------------------------------------------------ options

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
model_option = click.option(
    "-m", "--model", metavar="MODEL", default=None,
    help="Recogniser: the name of installed weights, or a model file.  [default: see doctor]",
)  # fmt: skip
detector_option = click.option(
    "--detector", metavar="MODEL", default=None,
    help="Face detector: the name of installed weights, or a model file.",
)  # fmt: skip
aligned_option = click.option(
    "--aligned", is_flag=True, help="The pictures are aligned crops already: detect nothing."
)
recursive_option = click.option(
    "-r", "--recursive", is_flag=True, help="Look into the folders inside folders, too."
)
weights_option = click.option(
    "--weights", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True,
    help="How the recogniser's weights are kept in memory. fp16: half the bytes, rounded.",
)  # fmt: skip


def decision_options(command: Decorated) -> Decorated:
    """``--fmr`` and ``--threshold``, of which :func:`decisive_rate` takes one."""
    command = click.option(
        "--threshold", type=click.FloatRange(-1, 1), default=None, metavar="COSINE",
        help="Decide by this cosine instead.",
    )(command)  # fmt: skip
    return click.option(
        "--fmr", type=Rate(), default=None,
        metavar="RATE",
        help="False-match rate whose threshold, from the model's card, decides.  [default: 0.001]",
    )(command)  # fmt: skip


class Rate(click.FloatRange):
    """A share between 0 and 1, neither included."""

    name = "rate: 0.001 is one in a thousand"

    def __init__(self) -> None:
        super().__init__(0, 1, min_open=True, max_open=True)


def decisive_rate(fmr: float | None, threshold: float | None) -> float:
    """The false-match rate that was asked for, or the usual one; UsageError where both options are
    given."""
    from tinyface.faces.verify import DEFAULT_FMR

    if fmr is not None and threshold is not None:
        raise UsageError("--fmr chooses a threshold and --threshold is one: give either")
    return DEFAULT_FMR if fmr is None else fmr


def engine_options(command: Decorated) -> Decorated:
    """``--backend`` and ``-t``, for every command that runs a network."""
    command = click.option(
        "--backend", type=click.Choice(["auto", "c", "numpy"]), default="auto", show_default=True,
        help="Engine: compiled C kernels, or the readable NumPy ones.",
    )(command)  # fmt: skip
    return click.option(
        "-t", "--threads", type=click.IntRange(1, MAX_THREADS), default=None,
        help="Threads of the C engine.  [default: one for each fast core]",
    )(command)  # fmt: skip


# ----------------------------------------------------------------------------- messages


def check_folders(*paths: str | None, inputs: Iterable[str] = ()) -> None:
    """UsageError where a file cannot be written, is one of the ``inputs``, or is another one of
    those to write: better refused before minutes of work."""
    wanted = [path for path in paths if path]
    for path in wanted:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise UsageError(f"{path}: there is no folder {folder}; make it first")
        if os.path.isdir(path):
            raise UsageError(f"{path}: is a folder; name a file in it")
        if not os.access(folder, os.W_OK) and (os.path.isfile(path) or not os.path.exists(path)):
            raise UsageError(f"{path}: {folder} may not be written in; choose another")
    check_kept(inputs, *wanted)
    for i, path in enumerate(wanted):
        if any(_same_file(path, other) for other in wanted[:i]):
            raise UsageError(f"{path}: is named for two outputs; give each a name of its own")


def _same_file(one: str, other: str) -> bool:
    """Whether they are, or would be: neither need be there."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def check_kept(inputs: Iterable[str], *outputs: str | None) -> None:
    """UsageError where a file that is to be written is one that is read: it would be lost."""
    read = [path for path in inputs if os.path.isfile(path)]
    for path in filter(None, outputs):
        if os.path.isfile(path) and any(os.path.samefile(path, one) for one in read):
            raise UsageError(f"{path}: is what is read, and would be lost; write to another file")


def note(message: str) -> None:
    """One line on stderr, for people."""
    sys.stderr.write(f"{one_line(message)}\n")


def note_turn(name: str, faces: Sequence[Face]) -> None:
    """On stderr: that a picture was taken to be turned."""
    turned = faces[0].turned if faces else 0
    if turned:
        how = "upside down" if turned == 180 else "lying on its side"
        note(f"{name}: {how}, by its faces; taken as if it were turned by {turned} degrees")


def note_choice(name: str, face: Face, of: int) -> None:
    """On stderr: which face was taken, where a picture shows several, or is turned."""
    note_turn(name, [face])
    if of > 1:
        note(f"{name}: {of} faces; the largest is taken, at {place(face)}")


def place(face: Face) -> str:
    """Corner and size of a face's box in whole pixels: ``103,66 93x127``."""
    left, top, right, bottom = face.box.round().astype(int)
    return f"{left},{top} {right - left}x{bottom - top}"


def one_line(text: str) -> str:
    """With escapes for what is not printable, which names of files may have in them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# --------------------------------------------------------------------------------- data


def print_json(schema: str, document: dict[str, Any]) -> None:
    """One JSON document on stdout; ``schema`` names and numbers its form (``embed/1``).

    Legible letters where the terminal has them, else escapes: names of files may be anything.
    """
    whole = {"schema": f"tinyface.{schema}", **document}
    text = json.dumps(whole, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(whole)
    click.echo(text)


def failed(failures: Mapping[str, str]) -> list[dict[str, str]]:
    """What failed, and why, as documents list it."""
    return [{"file": file, "error": why} for file, why in failures.items()]


def print_line(text: str) -> None:
    """One line on stdout while pictures are worked on.

    Not by click.echo: that writes past the progress bar, whose line it would then end up on.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_table(
    headers: Sequence[str], rows: Rows, *, right: Sequence[int] = (), footer: Sequence[str] = ()
) -> None:
    """A table on stdout; ``right`` are the columns of figures.

    On a terminal on which it does not fit, each row becomes a few lines (see :func:`_records`).
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe wants its lines whole
    if _least_width(headers, rows, right, footer) > console.width:
        click.echo("\n".join(_records(headers, rows, right, footer, console.width)))
        return
    with console.capture() as capture:
        console.print(_table(headers, rows, right, footer))
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip()))


def _table(headers: Sequence[str], rows: Rows, right: Sequence[int], footer: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=bool(footer), pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(
            header,
            footer=footer[i] if footer else "",
            justify="right" if i in right else "left",
            no_wrap=i in right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    return table


def _widths(*rows: Sequence[str]) -> list[int]:
    """Of the longest cell of every column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _least_width(
    headers: Sequence[str], rows: Rows, right: Sequence[int], footer: Sequence[str]
) -> int:
    """Of a table that is still easily read: text is folded to no less than ``FOLDED`` letters."""
    widths = _widths(headers, *rows, *([footer] if footer else []))
    texts = (width if i in right else min(width, FOLDED) for i, width in enumerate(widths))
    return sum(texts) + 3 * (len(widths) - 1) + 2


def _records(
    headers: Sequence[str], rows: Rows, right: Sequence[int], footer: Sequence[str], width: int
) -> Iterator[str]:
    """A table for a terminal that is too narrow for it: the first cell of a row is on a line of its
    own, and so is text that takes more than half of one; the others follow in columns, as many
    side by side as have room."""
    rows = [*rows, *([footer] if footer else [])]
    widths = _widths([""] * len(headers), *rows)
    whole = [f"{h} {{:{'>' if i in right else '<'}{w}}}" for i, (h, w) in
             enumerate(zip(headers, widths, strict=True))]  # fmt: skip
    for row in rows:
        yield from _wrapped(row[0], width, "")
        line = ""
        for i, cell in enumerate(row[1:], 1):
            if not cell:
                continue
            if i not in right and 2 * widths[i] > width:
                yield from [line.rstrip()] if line else []
                line = ""
                yield from _wrapped(f"{headers[i]} {cell}", width, "  ")
                continue
            part = whole[i].format(cell)
            if line and len(line) + 2 + len(part) > width:
                yield line.rstrip()
                line = ""
            line += "  " + part
        if line:
            yield line.rstrip()


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    """Lines of at most that many letters; the first begins with ``indent``, others further in."""
    return textwrap.wrap(
        text, max(width, 20), initial_indent=indent, subsequent_indent=f"{indent}    "
    )


def print_text(text: str) -> None:
    """Text on stdout, on a terminal broken between words."""
    if sys.stdout.isatty():
        text = "\n".join(_wrapped(text, shutil.get_terminal_size().columns, ""))
    click.echo(text)


def brief(text: str | None) -> str:
    """The first sentence of a field of a card, for one line; "not stated" where it is empty."""
    first = (text or "not stated").split("\n")[0].split(". ")[0].rstrip(".")
    return first if len(first) <= 80 else f"{first[:79]}…"


def si(number: float, unit: str = "") -> str:
    """1234567 -> "1.23 M"."""
    number = float(f"{number:.3g}")  # first, so that 999,648 is 1 M
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number:g} {unit}".rstrip()


# ------------------------------------------------------------------------------- models


def load_model(
    name: str | None,
    detector: str | None,
    backend: str,
    threads: int | None,
    weights: str = "fp32",
) -> Model:
    """The recogniser that the options ask for."""
    from tinyface.model import load

    model = load(name, backend, threads, detector, weights)
    if backend == "auto" and model.session.backend == "numpy":
        note_numpy()
    return model


def note_numpy() -> None:
    """Say why the slower engine runs. (The library warns where the other is there and broken.)"""
    from tinyface.backends import c

    if not c.broken():
        note(f"NumPy runs, with the same results but slower: {c.missing()}")


def origin(model: str | None, detector: str | None, aligned: bool) -> dict[str, Any]:
    """What the figures are of: the version, and paths and SHA-256 of the model files."""
    from tinyface import modelstore
    from tinyface.formats.importer import sha256

    used = {"model": modelstore.chosen(model, "embed")}
    if not aligned:
        used["detector"] = modelstore.chosen(detector, "detect")
    files = {role: {"path": str(path), "sha256": sha256(path)} for role, path in used.items()}
    return {"tinyface": __version__, "files": files}


# ----------------------------------------------------------------------------- progress


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[], object]]:
    """A bar of ``total`` steps on stderr where a person is watching; gives what advances it."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
