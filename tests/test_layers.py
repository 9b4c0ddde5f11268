"""The code's structure, as docs/architecture.md promises it: layers, imports, sizes."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tinyface"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest first. A file imports from the rows above its own and from its own row, never below;
# the most specific entry that matches a module decides.
LAYERS = (
    ("errors", "limits", "files"),
    ("types",),
    ("ops",),
    ("graph",),
    ("builder", "tracing"),
    ("passes", "networks", "formats"),
    ("plan", "backends"),
    ("runtime",),
    ("vision", "traffic"),
    ("modelstore",),
    ("faces.locate",),
    ("model",),
    ("faces",),
    ("", "cli", "__main__"),
)
# heavy: only inside functions, so that `import tinyface` stays light
INSIDE_FUNCTIONS = {"PIL", "rich", "matplotlib", "onnx", "onnxruntime"}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """errors, ops.conv; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def layer(module: str) -> int:
    """Row of the most specific entry that the module is or stands in."""
    matches = [
        (len(entry), row)
        for row, entries in enumerate(LAYERS)
        for entry in entries
        if module == entry or (entry and module.startswith(f"{entry}."))
    ]
    assert matches, f"tinyface.{module} has no layer: enter it in LAYERS"
    return max(matches)[1]


def imports(tree: ast.AST, top_only: bool = False) -> Iterator[str]:
    """Names of the modules that run-time code imports (not those under TYPE_CHECKING)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, top_only)


def own_imports(path: Path) -> set[str]:
    """Modules of tinyface that a file imports, anywhere in it."""
    names = set()
    for name in imports(parse(path)):
        if name.startswith("tinyface."):
            candidate = name.removeprefix("tinyface.")
            if candidate in MODULES:
                names.add(candidate)
    return names


def test_imports_point_downwards() -> None:
    wrong = [
        f"tinyface.{module} imports tinyface.{name}"
        for module, path in MODULES.items()
        for name in own_imports(path)
        if layer(name) > layer(module)
    ]
    assert not wrong, "against the layers: " + "; ".join(wrong)


def test_no_circles() -> None:
    graph = {}
    for module, path in MODULES.items():
        # A package's __init__ gathers its files; a file that asks for its own package is fine.
        graph[module] = {n for n in own_imports(path) if not module.startswith(f"{n}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import each other in a circle: {' -> '.join(error.args[1])}")


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    for module, path in MODULES.items():
        tree = parse(path)
        everywhere = {name.split(".")[0] for name in imports(tree)}
        at_the_top = {name.split(".")[0] for name in imports(tree, top_only=True)}
        assert "torch" not in everywhere, module
        assert not at_the_top & INSIDE_FUNCTIONS, module
        assert module.startswith("cli") or "click" not in everywhere, module


def test_files_are_short() -> None:
    for path in [*FILES, *sorted(ROOT.glob("csrc/*.[ch]"))]:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines: split it"


def test_functions_fit_a_screen() -> None:
    """About 50 lines, docstring not counted."""
    for path in FILES:
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.FunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{path.name}: {node.name} has {lines} lines: split it"
