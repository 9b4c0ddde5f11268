"""Builds ``tinyface._engine``: the C engine as one extension module (cffi, API mode).

The declarations are read from ``tinyface.h`` itself, between its two markers, so that they are
written down once. All instruction sets are compiled into the one module; the compiler's base
stays at the floor of the ABI, and faster code stands behind ``#pragma GCC target``.
"""

from pathlib import Path

from cffi import FFI

HERE = Path("csrc")
SOURCES = (
    "chain.c", "check.c", "cpu.c", "pool.c", "run.c",
    "isa_scalar.c", "isa_sse.c", "isa_avx2.c", "isa_avx512.c", "isa_neon.c",
)  # fmt: skip
# flags.txt is for every program with this code. No vectoriser, so that the scalar kernels are what
# they say; -ffp-contract=off so that a product is fused with a sum only where a kernel asks for it.
# -g0 because Python's own flags ask for debug information, fifteen times the size of the code.
FLAGS = [*HERE.joinpath("flags.txt").read_text(encoding="utf-8").split(), "-O2", "-g0"]


def declarations(header: str) -> str:
    """The part of ``tinyface.h`` that cffi parses."""
    return header.split("/* cffi-begin */")[1].split("/* cffi-end */")[0]


ffibuilder = FFI()
ffibuilder.cdef(declarations(HERE.joinpath("tinyface.h").read_text(encoding="utf-8")))
ffibuilder.set_source(
    "tinyface._engine",
    '#include "tinyface.h"',
    sources=[str(HERE / name) for name in SOURCES],
    depends=sorted(str(path) for path in (*HERE.glob("*.h"), HERE / "flags.txt")),
    include_dirs=[str(HERE)],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    libraries=["m"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
