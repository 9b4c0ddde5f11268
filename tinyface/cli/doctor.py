"""``tinyface doctor``: what this installation is made of."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

import click

from tinyface import __version__, machine
from tinyface.cli import common
from tinyface.errors import TinyfaceError

PACKAGES = ("numpy", "cffi", "pillow", "safetensors", "click", "rich")
EXTRAS = ("onnx", "matplotlib", "vl-convert-python")


@click.command("doctor", short_help="What this installation is made of.")
@click.option(
    "--roofline", is_flag=True,
    help="Measure the machine's peak arithmetic and memory bandwidth, and keep them.",
)  # fmt: skip
@common.json_option
def command(roofline: bool, as_json: bool) -> int:
    """Show the machine, the engine and its instruction set, versions, and the default models.

    The place to look when something is slow or missing, and what to send with a bug report.
    Exit status 1 if something needed is not there.

    --roofline measures, for every instruction set, with one thread and with all: multiply-adds
    in registers, and how fast each cache and main memory can be read. It takes seconds; nothing
    else should be running. The result is kept for 'tinyface profile'.

    \b
    Example:
      tinyface doctor
      tinyface doctor --roofline
    """
    if roofline:
        return measure_roofs(as_json)
    report = {
        "tinyface": __version__,
        "machine": {
            **machine.describe(),
            "state": machine.state(),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "executable": sys.executable,
        },
        "engine": engine(),
        "packages": {name: _version(name) for name in (*PACKAGES, *EXTRAS)},
        "models": {"recogniser": _default("embed"), "detector": _default("detect")},
        "folders": _folders(),
    }
    advice = _advice(report)
    if as_json:
        common.print_json("doctor/1", {**report, "advice": advice})
    else:
        _print(report)
    for line in advice:
        common.note(line)
    return 1 if advice else 0


def measure_roofs(as_json: bool) -> int:
    """Measure, keep and print the machine's roofs."""
    from tinyface.backends import c
    from tinyface.errors import BackendError
    from tinyface.traffic import roofline as r

    if not c.available():
        raise BackendError(f"roofs are measured by the C engine, and {c.missing()}")
    isas, counts = c.isas(), r.thread_counts()
    before = machine.state()
    with common.progress_bar(r.measurements(isas, counts), "measuring") as advance:
        entries = r.measure(isas, counts, progress=advance)
    disturbance = machine.disturbance(before, machine.state())
    found = r.document(entries, disturbance)
    kept = r.save(found)
    if disturbance:
        common.note(f"the figures are doubtful, and not used by profile: {disturbance}")
    if as_json:
        common.print_json("roofs/1", {**found, "file": str(kept)})
        return 0
    click.echo(found["machine"]["cpu"])
    levels = [f"{level.name} GB/s" for level in entries[-1].roofs.levels]
    common.print_table(
        ["instruction set", "threads", "GMAC/s", *levels], list(r.rows(entries)), right=range(1, 9)
    )
    if not disturbance:
        common.note(f"kept for profile: {kept}")
    return 0


def engine() -> dict[str, Any]:
    """The engine that "auto" chooses, its instruction set and threads."""
    from tinyface import cpus
    from tinyface.backends import c
    from tinyface.runtime import choose_backend, default_threads

    found: dict[str, Any] = {"backend": choose_backend("auto"), "threads": default_threads()}
    threads, fewer = cpus.worthwhile()
    if fewer and threads == found["threads"]:
        found["other CPUs"] = fewer
    if found["backend"] == "c":
        known = [isa.name for isa in c.isas()]
        found |= {"isa": c.choose_isa().name, "instruction sets": known}
    else:
        found["problem"] = c.missing()
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _default(task: str) -> dict[str, Any]:
    from tinyface import modelstore
    from tinyface.formats.modelfile import read_card

    try:
        path = modelstore.default(task)
        card = read_card(path)
    except TinyfaceError as error:
        return {"problem": str(error)}
    if card.task != task:
        wanted = f"its task is {card.task!r}, where {task!r} is wanted"
        return {"problem": f"{path}: {wanted}; name another in {modelstore.OVERRIDES[task]}"}
    return {"name": card.name, "file": str(path), "licence": card.licence, "data": card.data}


def _folders() -> dict[str, str]:
    from tinyface import modelstore

    try:
        yours = str(modelstore.user_folder())
    except TinyfaceError as error:
        yours = f"none: {error}"
    return {"packaged models": str(modelstore.packaged_folder()), "your models": yours}


def _advice(report: dict[str, Any]) -> list[str]:
    """What to do about what is missing."""
    advice = [
        f"{name} is not installed: pip install {name}"
        for name in PACKAGES
        if report["packages"][name] is None
    ]
    if "problem" in report["engine"]:
        advice.append(f"everything is slow here, because {report['engine']['problem']}")
    problems = (model.get("problem") for model in report["models"].values())
    return advice + [problem for problem in problems if problem]


def _print(report: dict[str, Any]) -> None:
    """The report, a line an entry."""
    found = report["machine"]
    clock = found["state"]
    entries = {
        "tinyface": report["tinyface"],
        "machine": machine.headline({**found, "after": clock}),
        "caches": ", ".join(f"{name} {size // 1024} KiB" for name, size in found["caches"].items()),
        "system": found["system"],
        "python": f"{found['python']} ({found['executable']})",
    }
    engine = {k: v for k, v in report["engine"].items() if k != "problem"}
    entries |= {k: ", ".join(v) if isinstance(v, list) else str(v) for k, v in engine.items()}
    entries["packages"] = ", ".join(f"{k} {v or 'missing'}" for k, v in report["packages"].items())
    for role, model in report["models"].items():
        entries[role] = f"{model['name']}: {model['file']}" if "name" in model else "none"
        if "name" in model:
            entries[f"{role} licence"] = common.brief(model["licence"])
    entries |= report["folders"]
    width = max(map(len, entries))
    for name, text in entries.items():
        click.echo(f"{name:<{width}}  {text}")
