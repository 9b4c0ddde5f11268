"""The C engine behind the interface of the reference: plan once, then one C call per run.

A run longer than :data:`PATIENCE_NS` is more calls than one, so that Python can answer Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyface.errors import BackendError, NoKernelError
from tinyface.graph import Graph
from tinyface.limits import MAX_ARENA_BYTES, MAX_NODE_OPERATIONS
from tinyface.ops.spec import Array
from tinyface.plan import Isa, Plan, Step, View, make_plan
from tinyface.plan.pack import Packer
from tinyface.tracing import Record

MODULE, NOT_BUILT = "tinyface._engine", "was not built"


def _load() -> tuple[Any, str]:
    """The extension, or None; and, for where there is none, what is wrong."""
    try:
        return importlib.import_module(MODULE), NOT_BUILT
    except ImportError as error:  # of another system, say, or for a newer one
        absent = isinstance(error, ModuleNotFoundError) and error.name == MODULE
        return None, NOT_BUILT if absent else f"cannot be loaded ({error})"


COMPILER = {
    "linux": "sudo apt install build-essential python3-dev, then reinstall tinyface",
    "darwin": "xcode-select --install, then reinstall tinyface",
}
_engine, _wrong = _load()

LINE = 64  # bytes: scratch and arenas begin on a cache line
VECTORS = ("w", "bias", "slope", "zero")
PATIENCE_NS = 250_000_000  # after which no further step is begun before Python had its turn
ARENA, WEIGHTS = 0, 1  # numbers of buffers; the caller's arrays follow


def available() -> bool:
    """Was the extension built, and does it load?"""
    return _engine is not None


def broken() -> bool:
    """Is the extension there, and does not load?"""
    return _engine is None and _wrong != NOT_BUILT


def missing() -> str:
    """Where there is no engine: that, why, and what to do about it. No full stop."""
    advice = COMPILER.get(sys.platform, "install a wheel of tinyface that has it")
    return f"the C engine {_wrong}: {advice}"


def isas() -> list[Isa]:
    """Instruction sets that this CPU can run, best last."""
    ffi, lib = _engine.ffi, _engine.lib
    table = ffi.new("tf_isa[8]")
    return [_isa(table[i]) for i in range(lib.tf_isa_list(table, 8))]


def _isa(found: Any) -> Isa:
    name = _engine.ffi.string(found.name).decode()
    return Isa(name, found.lanes, found.rows_wide, found.rows_slim, found.rows_pack)


def choose_isa(name: str | None = None) -> Isa:
    """The instruction set of that name, of ``TINYFACE_ISA``, or the best there is.

    Raises:
        BackendError: this CPU or build does not have it.
    """
    known = isas()
    wanted = name or os.environ.get("TINYFACE_ISA") or known[-1].name
    for isa in known:
        if isa.name == wanted:
            return isa
    raise BackendError(
        f"instruction set {wanted!r}{'' if name else ' (TINYFACE_ISA)'}: this CPU or build has "
        f"only {', '.join(isa.name for isa in known)}; take one of these"
    )


class CExecutable:
    """A graph planned for the C engine at one set of input shapes.

    Args:
        graph: optimised, with weights.
        threads: including the calling one. The attribute becomes fewer, with a warning, in the run
            that cannot start so many.
        isa: name of an instruction set; None for ``TINYFACE_ISA`` or the best.
        packer: of another plan of the same network, to share the packed weights.
        chains: may steps run together, band by band? The bits are the same.

    Raises:
        BackendError: an operator has no kernel, or the instruction set is not there.

    Safe to call from several Python threads: each run in progress has its own arena and pool.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int,
        isa: str | None = None,
        packer: Packer | None = None,
        *,
        chains: bool = True,
    ) -> None:
        if _engine is None:
            raise BackendError(f"{missing()}; or use --backend numpy")
        self.graph, self.threads = graph, threads
        # Python has no turn within a chain, which may be the whole graph.
        chains = chains and graph.operations <= MAX_NODE_OPERATIONS
        self.plan: Plan = make_plan(graph, choose_isa(isa), packer, threads=threads, chains=chains)
        self._kernels = _engine.lib.tf_kernels_for(self.plan.isa.name.encode())
        self._steps = encode_steps(self.plan, number_buffers(self.plan))
        self._scratch = self._check()
        # Its append and pop are atomic: no lock, which a fork could leave locked for the child.
        self._idle: list[_Context] = []

    def run(
        self, inputs: Mapping[str, Array], records: list[Record] | None = None
    ) -> dict[str, Array]:
        """Outputs by name, fresh arrays. Inputs are float32, C-contiguous, of the planned shape."""
        arrays = {name: _as_input(inputs[name], shape) for name, shape in self.plan.inputs.items()}
        outputs = {name: np.empty(s, np.float32) for name, s in self.plan.outputs.items()}
        context = self._borrow()
        try:
            ticks = context.run(self, arrays, outputs, timed=records is not None)
        finally:
            self._idle.append(context)
        if records is not None:
            records += [
                _record(step, ticks[i] - ticks[0], ticks[i + 1] - ticks[i])
                for i, step in enumerate(self.plan.steps)
            ]
        return outputs

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: of the arena and the scratch of a run (each in progress has its own), and of the
        packed weights, which plans for other shapes share."""
        scratch = self._scratch * self.threads
        return {
            "arena": self.plan.arena_bytes, "scratch": scratch, "weights": self.plan.weights.nbytes
        }  # fmt: skip

    def _check(self) -> int:
        """Validate every step; bytes of scratch per thread."""
        ffi, lib, plan = _engine.ffi, _engine.lib, self.plan
        shapes = [*plan.inputs.values(), *plan.outputs.values()]
        sizes = [plan.arena_bytes, plan.weights.nbytes, *(4 * int(np.prod(s)) for s in shapes)]
        scratch, bad = ffi.new("int64_t *"), ffi.new("int32_t *")
        status = lib.tf_check(
            self._kernels, self._steps, len(plan.steps), sizes, len(sizes), scratch, bad
        )
        if status != lib.TF_OK:
            step = plan.steps[bad[0]]
            why = ffi.string(lib.tf_strerror(status)).decode()
            message = f"{self.graph.name}: step {step.name} ({step.kernel}): {why}"
            if status == lib.TF_BAD_SHAPE:  # larger than a step may be: NumPy can do it
                raise NoKernelError(message, step.name)
            raise BackendError(message)
        if scratch[0] * self.threads > MAX_ARENA_BYTES:
            raise BackendError(
                f"{self.graph.name} needs {scratch[0] >> 20} MiB beside its maps for each of "
                f"{self.threads} threads: use fewer, a smaller image or batch, or --backend numpy"
            )
        return int(scratch[0])

    def _borrow(self) -> _Context:
        while self._idle:
            try:
                context = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if context.pid == os.getpid():  # threads do not survive a fork
                return context
        context = _Context(self.plan.arena_bytes, self._scratch, self.threads)
        self.threads = context.threads  # asked for no more the next time
        return context


class _Context:
    """What one run in progress needs for itself: arena, scratch, threads."""

    def __init__(self, arena_bytes: int, scratch: int, threads: int) -> None:
        ffi, lib = _engine.ffi, _engine.lib
        self.pid = os.getpid()
        self.arena = _aligned(arena_bytes)
        self.stride = scratch
        self.pool = ffi.NULL
        if threads > 1:
            memory = _aligned(lib.tf_pool_bytes())
            memory[:] = 0  # a pool without threads, which can be stopped
            self.pool = ffi.cast("tf_pool *", ffi.from_buffer(memory))
            # First: Ctrl-C while threads start is raised as soon as all of them have.
            stop = weakref.finalize(self, _stop, lib, self.pool, memory, self.pid)
            # Not when Python ends: a daemon thread may still be at work, with what this keeps.
            stop.atexit, self._memory = False, memory
            started = lib.tf_pool_start(self.pool, threads)
            if started < threads:
                warnings.warn(
                    f"only {started} of {threads} threads could be started (a limit on "
                    "processes?): slower, with the same results",
                    RuntimeWarning,
                    stacklevel=5,
                )
            threads = started
        self.threads = threads  # that there are, the caller included
        self.scratch = _aligned(scratch * threads)

    def run(
        self,
        owner: CExecutable,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        timed: bool,
    ) -> list[int]:
        ffi, lib = _engine.ffi, _engine.lib
        memory = [self.arena, owner.plan.weights, *inputs.values(), *outputs.values()]
        held = [ffi.from_buffer(array) for array in memory]
        table = ffi.new("void *[]", [ffi.cast("void *", pointer) for pointer in held])
        count = len(owner.plan.steps)
        ticks = ffi.new("int64_t[]", count + 1) if timed else ffi.NULL
        done = 0
        while done < count:
            done += lib.tf_run(
                owner._kernels, owner._steps + done, count - done, table,
                ffi.from_buffer(self.scratch), self.stride, self.pool,
                ticks + done if timed else ffi.NULL, PATIENCE_NS,
            )  # fmt: skip
        return list(ticks) if timed else []


def _stop(lib: Any, pool: Any, memory: Array, pid: int) -> None:
    """End the threads of a pool, whose memory lives until now; a forked child has none."""
    if os.getpid() == pid:
        lib.tf_pool_stop(pool)


def _aligned(nbytes: int) -> Array:
    """Uninitialised bytes that begin on a cache line."""
    raw = np.empty(nbytes + LINE, np.uint8)
    skip = -raw.ctypes.data % LINE
    return raw[skip : skip + nbytes]


def _as_input(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise BackendError(f"planned for an input of shape {shape}, got {array.shape}")
    return np.asarray(array, np.float32, order="C")


def number_buffers(plan: Plan) -> dict[str, int]:
    """The table of buffers: arena 0, weights 1, then inputs and outputs."""
    names = [f"input {name}" for name in plan.inputs]
    names += [f"output {name}" for name in plan.outputs]
    return {name: i + 2 for i, name in enumerate(names)}


def encode_steps(plan: Plan, numbers: Mapping[str, int]) -> Any:
    """The plan as an array of tf_step."""
    ffi, lib = _engine.ffi, _engine.lib
    out = ffi.new("tf_step[]", max(1, len(plan.steps)))
    for c, step in zip(out, plan.steps, strict=False):
        c.size = ffi.sizeof("tf_step")
        for key, value in step.fields.items():
            setattr(c, key, getattr(lib, value) if isinstance(value, str) else value)
        c.wbuf = WEIGHTS
        c.chain, c.band = step.chain, step.band
        for key in VECTORS:
            setattr(c, key, step.params.get(key, step.fields.get(key, -1)))
        for key in ("x", "y", "z"):
            _fill(getattr(c, key), getattr(step, key), numbers)
    return out


def _fill(out: Any, view: View | None, numbers: Mapping[str, int]) -> None:
    if view is None:
        out.buf = -1
        return
    buffer = view.buffer
    fixed = {"arena": ARENA, "weights": WEIGHTS, "band": _engine.lib.TF_BAND}.get(buffer.kind)
    out.buf = numbers[f"{buffer.kind} {buffer.name}"] if fixed is None else fixed
    out.off = view.offset + (buffer.offset if buffer.kind == "arena" else 0)
    out.img, out.row, out.ld = view.img, view.row, view.ld


def _record(step: Step, start: int, time: int) -> Record:
    return Record(
        step.name, step.op, step.kernel, step.output_shape,
        step.compulsory, step.algorithmic, start, time,
    )  # fmt: skip
