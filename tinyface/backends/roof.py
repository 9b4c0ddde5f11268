"""The engine's two steps that compute nothing: they find what the machine can do at most.

``TF_PEAK`` multiplies and adds in registers, ``TF_STREAM`` reads memory (csrc/roof.h). They run
like all other steps: the same threads, the same clock.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyface.backends import c
from tinyface.ops.spec import Array
from tinyface.plan import Isa

SUMS = 12  # independent multiply-adds of TF_PEAK
UNIT = 8  # vectors that TF_STREAM reads at a time
ROW = 1 << 20  # floats of its longest row
REPEATS = 6  # the first of them warms up
FOREVER = (1 << 63) - 1  # ns: all of them in one call


def peak(isa: Isa, threads: int, rounds: int) -> tuple[int, int, Array]:
    """(MACs, least ns, results) of ``rounds`` times 12 multiply-adds a thread in registers.

    results: (threads, lanes), each the sum of 12 numbers that run towards 1.
    """
    x = np.zeros((threads, SUMS * isa.lanes), np.float32)
    x[:] = np.arange(SUMS * isa.lanes) / 1024
    ns, y = _run(isa, "TF_PEAK", x, threads, rounds)
    return threads * SUMS * isa.lanes * rounds, ns, y


def stream(isa: Isa, x: Array, rounds: int) -> tuple[int, int, Array]:
    """(bytes, least ns, results) of reading ``x`` ``rounds`` times, each row by its own thread.

    x: (threads, floats) float32, C-contiguous; :func:`whole` floats. results: (threads, lanes),
    whose sum is that of the row times ``rounds``.
    """
    ns, y = _run(isa, "TF_STREAM", x, len(x), rounds)
    return x.nbytes * rounds, ns, y


def whole(isa: Isa, floats: int) -> int:
    """The nearest number of floats, at most ``floats`` if possible, that TF_STREAM can read."""
    unit = UNIT * isa.lanes
    if floats > ROW:
        return floats // ROW * ROW
    return max(1, floats // unit) * unit


def _run(isa: Isa, op: str, x: Array, threads: int, rounds: int) -> tuple[int, Array]:
    engine: Any = c._engine
    ffi, lib = engine.ffi, engine.lib
    row = min(x.shape[1], ROW)
    y = np.empty((threads, isa.lanes), np.float32)
    steps = ffi.new("tf_step[]", REPEATS)
    for s in steps:
        s.size, s.op, s.wbuf, s.first = ffi.sizeof("tf_step"), getattr(lib, op), -1, rounds
        s.n = s.tasks = threads
        s.h, s.c, s.oc = x.shape[1] // row, row, isa.lanes
        for name in ("wd", "oh", "ow", "kh", "kw", "sh", "sw", "dh", "dw", "groups"):
            setattr(s, name, 1)
        s.w = s.bias = s.slope = s.zero = -1
        s.x.buf, s.x.ld, s.x.row, s.x.img = 0, row, row, x.shape[1]
        s.y.buf, s.y.ld, s.y.row, s.y.img = 1, isa.lanes, isa.lanes, isa.lanes
        s.z.buf = -1
    kernels = lib.tf_kernels_for(isa.name.encode())
    scratch, bad = ffi.new("int64_t *"), ffi.new("int32_t *")
    status = lib.tf_check(kernels, steps, REPEATS, [x.nbytes, y.nbytes], 2, scratch, bad)
    if status != lib.TF_OK:
        raise AssertionError(ffi.string(lib.tf_strerror(status)).decode())
    context = c._Context(64, 64, threads)
    return _least(context, kernels, steps, [x, y]), y


def _least(context: Any, kernels: Any, steps: Any, arrays: list[Array]) -> int:
    ffi, lib = c._engine.ffi, c._engine.lib
    held = [ffi.from_buffer(array) for array in arrays]
    table = ffi.new("void *[]", [ffi.cast("void *", pointer) for pointer in held])
    ticks = ffi.new("int64_t[]", REPEATS + 1)
    lib.tf_run(
        kernels, steps, REPEATS, table, ffi.from_buffer(context.scratch), context.stride,
        context.pool, ticks, FOREVER,
    )  # fmt: skip
    return max(1, min(int(ticks[i + 1]) - int(ticks[i]) for i in range(1, REPEATS)))
