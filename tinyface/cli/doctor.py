"""``tinyface doctor``: what this installation is made of."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from tinyface import __version__
from tinyface.cli import common
from tinyface.errors import TinyfaceError

PACKAGES = ("numpy", "cffi", "pillow", "safetensors", "click", "rich")
EXTRAS = ("onnx", "matplotlib")


@click.command("doctor", short_help="What this installation is made of.")
@common.json_option
def command(as_json: bool) -> int:
    """Show the machine, the engine and its instruction set, versions, and the default models.

    The place to look when something is slow or missing, and what to send with a bug report.
    Exit status 1 if something needed is not there.

    \b
    Example:
      tinyface doctor
    """
    report = {
        "tinyface": __version__,
        "machine": machine(),
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


def machine() -> dict[str, Any]:
    """Processor, system and Python."""
    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "executable": sys.executable,
    }


def engine() -> dict[str, Any]:
    """The engine that "auto" chooses, its instruction set and threads."""
    from tinyface.runtime import choose_backend, default_threads

    found: dict[str, Any] = {"backend": choose_backend("auto"), "threads": default_threads()}
    if found["backend"] == "c":
        from tinyface.backends import c

        known = [isa.name for isa in c.isas()]
        found |= {"isa": c.choose_isa().name, "instruction sets": known}
    else:
        found["problem"] = _why_no_extension()
    return found


def _why_no_extension() -> str:
    try:
        import tinyface._engine  # noqa: F401
    except ImportError as error:
        return str(error)
    return "it was built, but does not work here"


def _cpu_name() -> str:
    """As /proc/cpuinfo has it on x86 and on a Raspberry Pi; else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    fields = {key.strip(): value.strip() for key, value in reversed(pairs)}
    for key in ("model name", "Model", "Hardware"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or "unknown"


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
    return {"name": card.name, "file": str(path), "licence": card.licence, "data": card.data}


def _folders() -> dict[str, str]:
    from tinyface import modelstore

    return {
        "packaged models": str(modelstore.packaged_folder()),
        "your models": str(modelstore.user_folder()),
    }


def _advice(report: dict[str, Any]) -> list[str]:
    """What to do about what is missing."""
    advice = [
        f"{name} is not installed: pip install {name}"
        for name in PACKAGES
        if report["packages"][name] is None
    ]
    if "problem" in report["engine"]:
        advice.append(
            f"the C engine is not there ({report['engine']['problem']}), so everything is slow: "
            "sudo apt install build-essential python3-dev, then reinstall tinyface"
        )
    problems = (model.get("problem") for model in report["models"].values())
    return advice + [problem for problem in problems if problem]


def _print(report: dict[str, Any]) -> None:
    """The report, a line an entry, in groups."""
    entries: list[tuple[str, str]] = [("tinyface", report["tinyface"])]
    for group, values in report.items():
        if not isinstance(values, dict):
            continue
        for name, value in values.items():
            if isinstance(value, dict):
                found = "problem" not in value
                text = f"{value['name']} ({value['licence']})" if found else "none"
            elif isinstance(value, list):
                text = ", ".join(map(str, value))
            else:
                text = "not installed" if value is None else str(value)
            if name != "problem":
                entries.append((f"{group}: {name}" if group == "packages" else name, text))
    width = max(len(name) for name, _ in entries)
    for name, text in entries:
        click.echo(f"{name:<{width}}  {text}")
