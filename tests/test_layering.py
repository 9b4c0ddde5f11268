"""The rules that keep the source readable, held by reading it: layers, imports, sizes."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tinyface"

# From the bottom up; a module imports only from its own layer or from below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "limits", "files", "once", "plots", "cpus", "machine", "ahead", "fetch"),
    ("types",),
    ("ops",),
    ("graph", "builder"),
    ("passes", "networks", "formats"),
    ("plan", "backends", "runtime", "tracing"),
    ("vision", "faces", "traffic", "model", "modelstore", "crosscheck"),
    ("cli", "__main__", ""),  # "" is tinyface/__init__.py, the public API
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

NEVER = {"torch", "torchvision", "onnxruntime", "ncnn"}  # nowhere in the package, at any depth
LAZY = {"PIL", "rich", "click", "matplotlib", "onnx"}  # inside functions, or in cli/
MAX_LINES = 400
MAX_FUNCTION = 60

SOURCES = sorted(p for p in PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def unit(path: Path) -> str:
    """The layer's name for a file: its folder or file name below tinyface/."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def type_checking_only(module: ast.Module) -> set[ast.AST]:
    """Everything under ``if TYPE_CHECKING:``: never run."""
    return {
        inner
        for node in ast.walk(module)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for body in node.body
        for inner in ast.walk(body)
    }


def imports(path: Path, *, module_level: bool = False) -> Iterator[tuple[str, int]]:
    """Full names of what a file imports, with line numbers."""
    module = tree(path)
    skipped = type_checking_only(module)
    if module_level:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        for node in ast.walk(module):
            if isinstance(node, functions):
                skipped.update(inner for inner in ast.walk(node) if inner is not node)
    for node in ast.walk(module):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: import by the full name"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def ours(name: str) -> str | None:
    """The unit of tinyface that an import names, or None if it is another package."""
    head, _, rest = name.partition(".")
    if head != "tinyface":
        return None
    first = rest.partition(".")[0]
    return first if first in LEVEL or (PACKAGE / first).is_dir() else ""


def test_every_module_belongs_to_a_layer() -> None:
    without = {unit(path) for path in SOURCES} - LEVEL.keys()
    assert not without, "enter it in LAYERS, as low as its imports allow"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_from_below(path: Path) -> None:
    mine = LEVEL[unit(path)]
    for name, line in imports(path):
        other = ours(name)
        if other is not None and not name.startswith("tinyface._engine"):
            assert LEVEL[other] <= mine, f"{path}:{line}: {name} stands above"


def test_modules_do_not_import_each_other_in_circles() -> None:
    """Within a layer there is an order, too. Counts what runs on import only."""
    modules = {module_name(path): path for path in SOURCES}
    edges = {
        name: sorted({resolve(other, modules) for other, _ in imports(path, module_level=True)})
        for name, path in modules.items()
    }
    done: set[str] = {""}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"import circle: {' -> '.join((*above, name))}"
        if name not in done:
            for other in edges[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def module_name(path: Path) -> str:
    """tinyface/ops/conv.py -> tinyface.ops.conv; tinyface/ops/__init__.py -> tinyface.ops."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def resolve(name: str, modules: Container[str]) -> str:
    """The module of ours that an imported name is, or is in; "" for other packages."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_imported_late_or_never(path: Path) -> None:
    for name, line in imports(path):
        assert name.partition(".")[0] not in NEVER, f"{path}:{line}: imports {name}"
    if unit(path) not in ("cli", "__main__"):
        for name, line in imports(path, module_level=True):
            head = name.partition(".")[0]
            assert head not in LAZY, f"{path}:{line}: import {head} where it is used"


def test_importing_the_package_imports_none_of_them() -> None:
    """What the reading above may miss (an import of a module that imports…)."""
    late = sorted(NEVER | LAZY)
    code = f"import sys, tinyface; print([m for m in {late!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


# --------------------------------------------------------------------------- sizes

FOLDERS = ("benchmarks", "csrc", "docs", "scripts", "tests", "tinyface", "training")
GENERATED = {"_engine.c"}  # by cffi, where the engine is built in place


def written_by_us(*endings: str) -> list[Path]:
    """All files of ours that end so, whatever they are for; ``training/out`` is not ours."""
    found = [path for path in ROOT.iterdir() if path.suffix in endings]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*.*") if path.suffix in endings]
    out = ROOT / "training" / "out"
    return sorted(p for p in found if p.name not in GENERATED and out not in p.parents)


PYTHON = written_by_us(".py")
C = written_by_us(".c", ".h", ".inc")


def test_the_folders_are_all_there_are() -> None:
    git = shutil.which("git")
    tracked = git and subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if not tracked or tracked.returncode:
        pytest.skip("needs git and a checkout")
    sources = {ROOT / name for name in tracked.stdout.splitlines()}
    missed = {p for p in sources if p.suffix in (".py", ".c", ".h", ".inc")} - {*PYTHON, *C}
    assert not {p for p in missed if p.exists()}, "enter the folder in FOLDERS"


@pytest.mark.parametrize("path", [*PYTHON, *C], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: split it"


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_needs_scrolling(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            where = f"{path.name}:{node.lineno} {node.name}"
            assert length <= MAX_FUNCTION, f"{where}: {length} lines"


def c_functions(text: str) -> Iterator[tuple[int, int]]:
    """First and last line of every top-level block in C source formatted by clang-format."""
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.endswith("{") and line[0] not in " #/}" and "=" not in line:
            start = number
        elif line.startswith("}") and start:
            yield start, number
            start = 0


@pytest.mark.parametrize("path", C, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_c_function_needs_scrolling(path: Path) -> None:
    for first, last in c_functions(path.read_text(encoding="utf-8")):
        assert last - first + 1 <= MAX_FUNCTION, f"{path.name}:{first}: {last - first + 1} lines"


# ----------------------------------------------------------- the rules can be broken


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch.nn", {"torch.nn"}),
        ("def f():\n    from PIL import Image", set()),
        ("if True:\n    import rich", {"rich"}),
        ("class A:\n    import click", {"click"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx", set()),
    ],
)
def test_the_reader_of_imports_sees_them(code: str, found: set[str], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(code, encoding="utf-8")
    names = {name for name, _ in imports(path, module_level=True)}
    assert names - {"typing.TYPE_CHECKING"} == found


def test_the_reader_of_c_sees_functions() -> None:
    text = "static int f(int a) {\n  if (a) {\n    return 1;\n  }\n  return 0;\n}\n"
    assert list(c_functions(text)) == [(1, 6)]
