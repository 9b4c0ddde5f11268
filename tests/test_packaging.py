"""What is installed, what is packed, and how light `import tinyface` is."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import tinyface

ROOT = Path(__file__).parent.parent
CHECKOUT = (ROOT / "pyproject.toml").is_file()


def python(code: str, *flags: str) -> str:
    """Output of a fresh interpreter that sees this tinyface."""
    environment = {**os.environ, "PYTHONPATH": str(Path(tinyface.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


@pytest.mark.skipif(not CHECKOUT, reason="pyproject.toml is not installed")
def test_errors_name_the_packages_that_the_extras_bring() -> None:
    """tinyface[onnx] would not do: on PyPI another project has the name."""
    project = (ROOT / "pyproject.toml").read_text()
    asked = [
        match.groups()
        for path in (ROOT / "tinyface").rglob("*.py")
        for match in re.finditer(r'MissingExtraError\("([^"]+)", "(\w+)"', path.read_text())
    ]
    assert {extra for _, extra in asked} == {"onnx", "plot", "report"}
    for requirement, extra in asked:
        assert f'\n{extra} = ["{requirement}"]' in project
        message = str(tinyface.MissingExtraError(requirement, extra, "it"))
        assert f"pip install '{requirement}'" in message


# ------------------------------------------------------------------------ import tinyface


def test_import_is_light() -> None:
    """Under 120 ms on top of NumPy. CPU time, so that a busy machine does not matter."""
    code = (
        "import numpy, time; t = time.process_time(); import tinyface; "
        "print(time.process_time() - t)"
    )
    seconds = [float(python(code)) for _ in range(3)]
    assert statistics.median(seconds) < 0.120


def test_import_brings_nothing_heavy() -> None:
    code = "import sys, tinyface; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    modules = set(python(code).split())
    assert not modules & {"torch", "PIL", "rich", "click", "onnx", "matplotlib", "safetensors"}


def test_all_of_the_api_works_without_pytorch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import tinyface\n"
        "for name in tinyface.__all__: getattr(tinyface, name)\n"
        "assert 'rich' not in sys.modules and 'click' not in sys.modules\n"
        "import tinyface.cli.main as main\n"
        "print(main.run(['--help']))"
    )
    assert python(code).splitlines()[-1] == "0"


def test_api_is_what_it_says() -> None:
    assert set(tinyface.__all__) <= set(dir(tinyface))
    assert all(getattr(tinyface, name).__doc__ for name in tinyface.__all__ if name[0] != "_")
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = tinyface.nosuch
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", tinyface.__version__)


def test_python_m_tinyface() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinyface", "--version"],
        env={**os.environ, "PYTHONPATH": str(Path(tinyface.__file__).parent.parent)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"tinyface, version {tinyface.__version__}\n")


# ------------------------------------------------------------------------- sdist and wheel


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> "Build":
    if not CHECKOUT:
        pytest.skip("packing is tested from a source checkout")
    pytest.importorskip("setuptools", "77")
    return Build(tmp_path_factory.mktemp("build"))


class Build:
    """An sdist of this checkout, unpacked, and wheels built from it: as a user's pip does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hook("build_sdist", ROOT, folder)
        [archive] = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            self.sdist_names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
        shutil.unpack_archive(archive, folder)
        self.source = folder / archive.name.removesuffix(".tar.gz")

    def wheel(self, extension: str) -> zipfile.ZipFile:
        out = self.folder / f"wheel-{extension}"
        environment = {"TINYFACE_EXTENSION": extension}
        if os.name == "posix":  # what is in a wheel does not depend on how good its code is
            quick = self.folder / "quick-cc"
            quick.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "cc")} "$@" -O0\n')
            quick.chmod(0o755)
            environment["CC"] = str(quick)
        self._hook("build_wheel", self.source, out, **environment)
        [path] = out.glob("*.whl")
        return zipfile.ZipFile(path)

    @staticmethod
    def _hook(name: str, source: Path, out: Path, **environment: str) -> None:
        """Call a hook of the build backend (PEP 517), without a download."""
        out.mkdir(exist_ok=True)
        code = f"from setuptools import build_meta; build_meta.{name}({str(out)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=source, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def weights() -> set[str]:
    return {path.name for path in (ROOT / "weights").glob("*.safetensors")}


def test_sdist_is_complete(build: Build) -> None:
    wanted = {
        "LICENSE", "README.md", "Makefile", "setup.py", "csrc/tinyface.h",
        "csrc/build_engine.py", "tinyface/py.typed", "tests/test_packaging.py",
    }  # fmt: skip
    wanted |= {f"csrc/{path.name}" for path in (ROOT / "csrc").glob("*.[ch]")}
    wanted |= {f"weights/{name}" for name in weights()}
    assert wanted <= build.sdist_names
    assert not [name for name in build.sdist_names if name.endswith((".so", ".pyc", ".o"))]


def test_wheel_without_a_compiler(build: Build) -> None:
    """Pure Python, for every platform, with the weights inside the package."""
    with build.wheel("off") as wheel:
        names = set(wheel.namelist())
        assert str(wheel.filename).endswith("-py3-none-any.whl")
    assert {f"tinyface/weights/{name}" for name in weights()} <= names
    python_files = {f"tinyface/{p.relative_to(ROOT / 'tinyface').as_posix()}"
                    for p in (ROOT / "tinyface").rglob("*.py")}  # fmt: skip
    assert python_files <= names
    assert "tinyface/py.typed" in names
    assert not {name.split("/")[0] for name in names} & {"tests", "csrc", "training", "weights"}


@pytest.mark.slow
def test_wheel_with_the_engine(build: Build) -> None:
    """One wheel for all versions of CPython: the stable ABI."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("the stable ABI is tested where CPython has one")
    with build.wheel("auto") as wheel:
        names = set(wheel.namelist())
        if not any("_engine" in name for name in names):
            pytest.skip("there is no C compiler here")
        assert re.search(r"-cp310-abi3-\w+\.whl$", str(wheel.filename))
    assert "tinyface/_engine.abi3.so" in names or "tinyface/_engine.pyd" in names
