#!/usr/bin/env python3
"""Wheels with the C engine for Linux, macOS and Windows, made on one Linux machine.

    make wheels                                             all platforms, into dist/
    python scripts/wheels.py -o dist macosx_11_0_arm64      some of them

One Python part, built once, is packed with an engine for each platform. Its compiler is zig's
clang, from PyPI, which brings the headers and the libraries of all of them; 32-bit ARM is gcc's,
because clang knows no NEON there that only some functions may use. Of Python the engine needs what
has a stable ABI, so that one wheel does for every CPython from 3.10 on: abi3audit checks that,
auditwheel that an engine for Linux asks for no newer C library than its wheel's name says.

Needs the packages of tinyface's extra `release`, and for armv7l Debian's gcc-arm-linux-gnueabihf.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
ENGINE = runpy.run_path(str(ROOT / "csrc" / "build_engine.py"))
TAG, LIMITED = "cp310", "0x030A0000"  # the oldest CPython, as setup.py has it
PYTHON = (sys.executable,)
ZIG = (*PYTHON, "-m", "ziglang")


@dataclass(frozen=True)
class Platform:
    """Its name in a wheel's; the compiler's; what links an extension module."""

    tag: str
    compiler: Sequence[str]
    link: Sequence[str] = ()
    suffix: str = ".abi3.so"

    @property
    def audited(self) -> bool:
        """auditwheel knows glibc. zig's musl has a name that only musl's loader understands."""
        return self.tag.startswith("manylinux")


def zig(tag: str, target: str, *link: str, suffix: str = ".abi3.so") -> Platform:
    """Nothing of clang's own library is needed outside of Windows: zig would have to compile it."""
    if suffix == ".abi3.so":
        link = ("-nostdlib", "-lc", *link)
    return Platform(tag, (*ZIG, "cc", "-target", target), link, suffix)


# Python is there when the module is loaded; the name of the file is none of the linker's business.
MAC = ("-Wl,-undefined,dynamic_lookup", "-Wl,-install_name,_engine.abi3.so")
PLATFORMS = (  # Windows first: zig compiles its C library, which takes minutes
    zig("win_amd64", "x86_64-windows-gnu", suffix=".pyd"),
    zig("win_arm64", "aarch64-windows-gnu", suffix=".pyd"),
    zig("manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17"),
    zig("manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17"),
    Platform("manylinux_2_34_armv7l", ("arm-linux-gnueabihf-gcc",)),
    zig("musllinux_1_2_x86_64", "x86_64-linux-musl"),
    zig("musllinux_1_2_aarch64", "aarch64-linux-musl"),
    zig("macosx_11_0_arm64", "aarch64-macos.11.0", *MAC),
    zig("macosx_10_13_x86_64", "x86_64-macos.10.13", *MAC),
)

# What Python.h asks about a platform, as far as the limited API goes.
PYCONFIG = """
#define _GNU_SOURCE 1 /* alloca */
#ifndef __APPLE__ /* whose sizes pymacconfig.h knows */
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#endif
#define SIZEOF_SHORT __SIZEOF_SHORT__
#define SIZEOF_INT __SIZEOF_INT__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#define HAVE_STDINT_H 1
#define HAVE_INTTYPES_H 1
#define HAVE_STDDEF_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_SSIZE_T 1
#ifdef _WIN32
#define MS_WINDOWS 1
#define MS_WIN64 1
#define Py_ENABLE_SHARED 1
#define HAVE_DECLSPEC_DLL 1
#endif
"""


def call(*command: object, env: dict[str, str] | None = None) -> str:
    """What the command prints; where it fails, what it had to say, and the end."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, env=env).stdout
    except FileNotFoundError:
        sys.exit(f"wheels: no {words[0]} here; see the top of this file")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(words)}\n{error.stdout}{error.stderr}")


def pure_wheel(folder: Path, dist: Path) -> Path:
    """tinyface without its engine; its source, of which it is made, goes to ``dist``."""
    env = os.environ | {"TINYFACE_EXTENSION": "off"}
    call(*PYTHON, "-m", "build", "--outdir", folder, ROOT, env=env)
    shutil.copy(next(folder.glob("*.tar.gz")), dist)
    return next(folder.glob("*-none-any.whl"))


def binding(folder: Path) -> Path:
    """cffi's part of the engine, as C."""
    source = folder / "_engine.c"
    with contextlib.redirect_stdout(io.StringIO()):  # that it generates it
        ENGINE["ffibuilder"].emit_c_code(str(source))
    return source


def headers(folder: Path) -> Path:
    """This Python's headers, with a pyconfig.h that is true on every platform."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        sys.exit(f"wheels: {include} has no Python.h: apt install python3-dev")
    copy = folder / "include"
    shutil.copytree(include, copy)
    (copy / "pyconfig.h").write_text(PYCONFIG, encoding="utf-8")
    return copy


def import_library(platform: Platform, flags: Sequence[object], source: Path, out: Path) -> Path:
    """What python3.dll will have, for Windows' linker: every name that Python.h declares."""
    text = call(*platform.compiler, *flags, "-E", source)
    names = sorted(set(re.findall(r"\b_?Py[A-Za-z_]\w*", text)))
    definition, library = out / "python3.def", out / "libpython3.a"
    definition.write_text("\n".join(["LIBRARY python3.dll", "EXPORTS", *names]), encoding="utf-8")
    machine = "i386:x86-64" if platform.tag == "win_amd64" else "arm64"
    call(*ZIG, "dlltool", "-d", definition, "-l", library, "-m", machine)
    return library


def engine(platform: Platform, source: Path, include: Path, out: Path) -> Path:
    """The engine as an extension module of this platform."""
    module = out / f"_engine{platform.suffix}"
    flags = [*ENGINE["FLAGS"], f"-I{include}", f"-I{ROOT / 'csrc'}", f"-DPy_LIMITED_API={LIMITED}"]
    link: list[object] = ["-shared", "-s", *platform.link]
    if platform.suffix == ".pyd":
        last: list[object] = [import_library(platform, flags, source, out)]
    else:
        flags.append("-fPIC")
        last = ["-lm"]
    sources = [source, *(ROOT / "csrc" / name for name in ENGINE["SOURCES"])]
    call(*platform.compiler, *flags, *link, *sources, *last, "-o", module)
    return module


def make(platform: Platform, pure: Path, source: Path, include: Path, dist: Path) -> Path:
    """The pure wheel and this platform's engine, as one wheel in ``dist``, checked."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        call(*PYTHON, "-m", "wheel", "unpack", "-d", work, pure)
        (tree,) = (path for path in work.iterdir() if path.is_dir())
        (work / "engine").mkdir()
        shutil.copy(engine(platform, source, include, work / "engine"), tree / "tinyface")
        (about,) = tree.glob("*.dist-info/WHEEL")
        tag = re.sub(r"manylinux_\d+_\d+", "linux", platform.tag)  # auditwheel finds out which
        tags = f"Root-Is-Purelib: false\nTag: {TAG}-abi3-{tag}"
        text = about.read_text(encoding="utf-8")
        text = re.sub(r"Root-Is-Purelib: true\nTag: .*", tags, text)
        about.write_text(text, encoding="utf-8")
        call(*PYTHON, "-m", "wheel", "pack", "-d", work, tree)
        (wheel,) = work.glob("*.whl")
        call(*PYTHON, "-m", "abi3audit", "--strict", wheel)
        if not platform.audited:
            return Path(shutil.copy(wheel, dist))
        call(*PYTHON, "-m", "auditwheel", "repair", "-w", work / "audited", wheel)
        (wheel,) = (work / "audited").iterdir()
        if platform.tag not in wheel.name:
            sys.exit(f"wheels: {platform.tag} was wanted, and the engine asks for {wheel.name}")
        return Path(shutil.copy(wheel, dist))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [platform.tag for platform in PLATFORMS]
    parser.add_argument("platforms", nargs="*", help=f"of {', '.join(names)}; none named: all")
    parser.add_argument("-o", "--outdir", type=Path, default=ROOT / "dist")
    args = parser.parse_args()
    if unknown := set(args.platforms) - set(names):
        parser.error(f"no platform {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    wanted = [p for p in PLATFORMS if p.tag in (args.platforms or names)]
    args.outdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        parts = pure_wheel(folder, args.outdir), binding(folder), headers(folder)
        jobs = [pool.submit(make, platform, *parts, args.outdir) for platform in wanted]
        made = [job.result() for job in track(jobs, "wheels")]
    for wheel in made:
        print(wheel, f"{wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
