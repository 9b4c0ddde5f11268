"""What is packed, and the C engine: built where a C compiler works, left out where none does.

Everything else about the package stands in pyproject.toml. Two environment variables decide
about the engine:

- ``TINYFACE_EXTENSION=require``  fail where it cannot be built (wheels, CI);
- ``TINYFACE_EXTENSION=off``      do not build it: the NumPy engine alone.
"""

import os
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ENGINE = "csrc/build_engine.py:ffibuilder"
ABI = "cp310"  # oldest CPython whose stable ABI the wheel promises to work with

NOTICE = """
------------------------------------------------------------------------------
tinyface: {problem}.
The installation goes on with the NumPy engine: same results, but far slower.
For the C engine:  {compiler}
then               pip install --force-reinstall --no-cache-dir tinyface
------------------------------------------------------------------------------
"""
COMPILER = {
    "linux": "sudo apt install build-essential python3-dev",
    "darwin": "xcode-select --install",
    "win32": "a wheel that has it; Microsoft's compiler does not do",
}


def notify(problem: str) -> None:
    """Say on stderr (shown by ``pip -v`` and ``tinyface doctor``'s hint) why there is no engine."""
    compiler = COMPILER.get(sys.platform, "a C11 compiler, gcc or clang")
    print(NOTICE.format(problem=problem, compiler=compiler), file=sys.stderr)


def compiler_works() -> bool:
    """Try the compiler on a program that includes Python.h, as the engine does."""
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.errors import CompileError, DistutilsError
    from setuptools._distutils.sysconfig import customize_compiler

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <Python.h>\nint probe(void) { return PY_VERSION_HEX; }\n")
        try:
            compiler = new_compiler()
            customize_compiler(compiler)
            include = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
            compiler.compile([str(source)], output_dir=folder, include_dirs=include)
        except (CompileError, DistutilsError, OSError):
            return False
    return True


def compile_jobs() -> int:
    """Files to compile at a time: one a CPU, if there is memory for so many; gcc takes 340 MB."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 1
    return max(1, min(os.cpu_count() or 1, memory // (400 << 20)))


class OptionalBuild(build_ext):
    """A compiler that works on a probe but not on the engine must not stop the installation."""

    def build_extensions(self) -> None:
        """Several files at a time: each instruction set takes 11 s of a PC's core."""
        compile_some = self.compiler.compile

        def compile_all(sources: list[str], **options: object) -> list[str]:
            with ThreadPoolExecutor(compile_jobs()) as pool:
                parts = pool.map(lambda source: compile_some([source], **options), sources)
                return [name for part in parts for name in part]

        self.compiler.compile = compile_all
        super().build_extensions()

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            if os.environ.get("TINYFACE_EXTENSION") == "require":
                raise
            notify(f"building the C engine failed ({type(error).__name__}: {error})")

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]


class PackWeights(build_py):
    """``weights/`` of the repository becomes ``tinyface/weights/`` of the wheel.

    An installation in place (``pip install -e``) finds them where they are.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in sorted(Path("weights").glob("*")):
            if path.suffix in (".safetensors", ".md"):
                target = Path(self.build_lib, "tinyface", "weights", path.name)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


def engine_options() -> dict[str, object]:
    """Keyword arguments of ``setup`` that build the C engine, or none of them."""
    wish = os.environ.get("TINYFACE_EXTENSION", "auto")
    if wish not in ("auto", "require", "off"):
        sys.exit(f"TINYFACE_EXTENSION={wish!r}: must be auto, require or off")
    if wish == "off":
        return {}
    if not compiler_works():
        if wish == "require":
            sys.exit("TINYFACE_EXTENSION=require, but no working C compiler with Python.h")
        notify("no working C compiler with the Python headers was found")
        return {}
    options: dict[str, object] = {"cffi_modules": [ENGINE]}
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):  # these builds have no stable ABI
        options["options"] = {"bdist_wheel": {"py_limited_api": ABI}}
    return options


setup(
    packages=find_packages(include=["tinyface", "tinyface.*"]),
    package_dir={"": "."},  # said aloud: an installation in place is then a plain path entry
    package_data={"tinyface": ["py.typed", "**/*.json", "traffic/assets/*"]},
    cmdclass={"build_py": PackWeights, "build_ext": OptionalBuild},
    zip_safe=False,
    **engine_options(),
)
