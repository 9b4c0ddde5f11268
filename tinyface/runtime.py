"""Run a graph: choose the engine, plan once per input shape, keep the plans."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from tinyface import cpus, tracing
from tinyface.backends.numpy import NumpyExecutable
from tinyface.errors import BackendError, GraphError, NoKernelError
from tinyface.graph import Graph
from tinyface.limits import MAX_THREADS
from tinyface.ops.spec import Array
from tinyface.passes import half_weights, optimise
from tinyface.plan import Packer
from tinyface.plan.tiling import MAX_TASKS
from tinyface.tracing import Record
from tinyface.types import Shape

BACKENDS = ("auto", "c", "numpy")
WEIGHTS = ("fp32", "fp16")
MAX_PLANS = 8  # input shapes kept per session; photographs come in many sizes


class Runnable(Protocol):
    """What runs on arrays by name.

    With a list of ``records`` the run is timed step by step, and one
    :class:`~tinyface.tracing.Record` per step appended to it.
    """

    def run(
        self, inputs: Mapping[str, Array], records: list[Record] | None = None
    ) -> dict[str, Array]: ...


class Executable(Runnable, Protocol):
    """A graph made ready to run for one set of input shapes.

    memory: bytes that it keeps, by what they are for: "arena", "scratch", "weights".
    """

    @property
    def memory(self) -> dict[str, int]: ...


def default_threads() -> int:
    """One for each fast core that this process may keep busy (:mod:`tinyface.cpus`), but no more
    than most steps have tasks; or ``TINYFACE_THREADS``."""
    wanted = os.environ.get("TINYFACE_THREADS", "")
    if wanted:
        if not wanted.isdecimal() or not 1 <= int(wanted) <= MAX_THREADS:
            raise BackendError(
                f"TINYFACE_THREADS={wanted!r}: set it to a number from 1 to {MAX_THREADS}"
            )
        return int(wanted)
    return min(cpus.worthwhile()[0], MAX_TASKS)


def choose_backend(wanted: str) -> str:
    """The engine to use, "c" or "numpy"; "auto" takes C where its extension was built.

    Raises:
        BackendError: an unknown name, or "c" where there is no extension.
    """
    if wanted not in BACKENDS:
        raise BackendError(f"backend {wanted!r} is not one of {', '.join(BACKENDS)}")
    if wanted == "numpy":
        return wanted
    from tinyface.backends import c

    if c.available():
        return "c"
    if wanted == "c":
        raise BackendError(f"{c.missing()}; or use --backend numpy")
    if c.broken():
        # of this place, not of the caller's: said once, whoever asks
        warnings.warn(f"NumPy runs instead: {c.missing()}", RuntimeWarning, stacklevel=1)
    return "numpy"


class Session:
    """A network, ready to run on arrays of any batch size and, where it allows, any image size.

    Args:
        graph: the network, with weights.
        backend: "auto", "c" or "numpy". "auto" is C where its extension was built; operators
            that have no C kernel run in NumPy then, with a warning that names them.
        threads: of the C engine; None for :func:`default_threads`. The result does not
            depend on it, to the bit.
        weights: how they are kept in memory, "fp32" or "fp16" (half as much, rounded;
            :func:`~tinyface.passes.half_weights`).
        chains: may the C engine run steps together, so that the maps between them are never
            written whole? Off for measurements in which every step is to touch all of its maps.

    Safe to use from several Python threads at once, and in a forked child, whatever other threads
    did meanwhile.
    """

    def __init__(
        self,
        graph: Graph,
        backend: str = "auto",
        threads: int | None = None,
        weights: str = "fp32",
        *,
        chains: bool = True,
    ) -> None:
        self.backend = choose_backend(backend)
        self.threads = default_threads() if threads is None else threads
        if not isinstance(self.threads, int | np.integer) or not 1 <= self.threads <= MAX_THREADS:
            raise BackendError(f"{self.threads!r} threads: use a number from 1 to {MAX_THREADS}")
        if weights not in WEIGHTS:
            raise BackendError(f"weights {weights!r}: give one of {', '.join(WEIGHTS)}")
        self.weights = weights
        self.graph = optimise(graph)
        if weights == "fp16":
            self.graph = half_weights(self.graph)
        self.chains = chains
        self._may_fall_back = backend == "auto"
        self._warned = False
        self._one_only: set[tuple[Shape, ...]] = set()  # sizes for which a batch of 1 alone holds
        self._plans: dict[tuple[bool, tuple[Shape, ...]], Executable] = {}
        # Plans for several shapes share the packed weights: by the operators of a part.
        self._packers: dict[tuple[str, ...], Packer] = {}
        self._planning = threading.Lock()
        _living.add(self)

    def run(self, x: Array | Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, from one array (for a network with one input) or several by name.

        Arrays are float32, NCHW, already normalised. Of a network that was written down for a
        batch of 1 and holds for no other, a larger batch is run one picture after another.

        Raises:
            GraphError: an input is missing or unknown, or has a shape the network cannot take.
        """
        inputs = self._named(x)
        several = self._several(inputs)
        if several and self._sizes(inputs) in self._one_only:
            return self._one_by_one(inputs, several)
        try:
            executable = self.executable({name: a.shape for name, a in inputs.items()})
        except GraphError as error:
            if not several:
                raise self._misfit(inputs, error) from None
            return self._one_by_one(inputs, several)
        trace = tracing.current()
        if trace is None:
            outputs = executable.run(inputs)
        else:
            trace.runs.append([])
            outputs = executable.run(inputs, trace.runs[-1])
        if self._cut(inputs, outputs):
            if several:
                return self._one_by_one(inputs, several)
            raise GraphError(f"{self.graph.name} takes a picture of this size for several")
        return outputs

    def _misfit(self, inputs: Mapping[str, Array], error: GraphError) -> GraphError:
        """The error, with what to do where it is a picture's size that does not fit."""
        own = {name: kind for name, kind in self.graph.inputs.items() if kind.rank == 4}
        if all(
            inputs[name].ndim != 4 or inputs[name].shape[2:] == kind.shape[2:]
            for name, kind in own.items()
        ):
            return error
        sides = " and ".join("x".join(map(str, kind.shape[2:])) for kind in own.values())
        return GraphError(
            f"{error}: {self.graph.name} was made for {sides} (height, width) and not every other "
            "size goes through it; scale the picture to that, or import the file again with --size"
        )

    def _cut(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> bool:
        """Does a network of one picture give another number of results than it got pictures? It
        cuts the batch where that of one ends (mirrored copies behind the originals), or a reshape
        took a larger picture for several."""
        types = self.graph.types
        counts = {array.shape[:1] for array in inputs.values()}
        if len(counts) != 1 or any(types[name].shape[:1] != (1,) for name in inputs):
            return False
        return any(
            types[name].shape[:1] == (1,) and array.shape[:1] not in counts
            for name, array in outputs.items()
        )

    def _several(self, inputs: Mapping[str, Array]) -> int:
        """How many pictures these are, for a network that was written down for one; else 0."""
        own = [self.graph.types[name].shape[:1] for name in (*inputs, *self.graph.outputs)]
        batches = {array.shape[:1] for array in inputs.values()}
        if not all(own) or len(batches) != 1 or any(own[i] != (1,) for i in range(len(inputs))):
            return 0
        (count,) = batches.pop() or (0,)
        return count if count > 1 else 0

    @staticmethod
    def _sizes(inputs: Mapping[str, Array]) -> tuple[Shape, ...]:
        return tuple(array.shape[1:] for array in inputs.values())

    def _one_by_one(self, inputs: Mapping[str, Array], count: int) -> dict[str, Array]:
        """Of a network whose reshapes hold for one picture: one after another, results stacked."""
        runs = [
            self.run({name: array[i : i + 1] for name, array in inputs.items()})
            for i in range(count)
        ]
        self._one_only.add(self._sizes(inputs))
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    def executable(self, shapes: Mapping[str, Shape], *, chains: bool | None = None) -> Executable:
        """The plan for these input shapes, made on first use; with ``chains`` as given here, where
        that is not as the session has it."""
        chained = self.chains if chains is None else chains
        key = chained, tuple(tuple(shapes[name]) for name in self.graph.inputs)
        with self._planning:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plan(self.graph.with_inputs(shapes), chained)
                if len(self._plans) >= MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan
        return plan

    def _plan(self, graph: Graph, chains: bool) -> Executable:
        if self.backend == "c":
            from tinyface.backends.c import CExecutable

            try:
                packer = self._packers.setdefault((), Packer())
                return CExecutable(graph, self.threads, packer=packer, chains=chains)
            except NoKernelError:
                self._packers.pop((), None)  # a forked child may have forgotten it
                if not self._may_fall_back:
                    raise
                return self._mixed(graph, chains)
        return NumpyExecutable(graph)

    def _mixed(self, graph: Graph, chains: bool) -> Executable:
        """C with the help of NumPy; all NumPy where C would have nothing to do."""
        from tinyface.backends.mixed import MixedExecutable

        mixed = MixedExecutable(graph, self.threads, self._packers, chains=chains)
        if mixed.foreign and not self._warned:  # none where but an output is a constant
            shown = ", ".join(mixed.foreign[:3]) + (", …" if len(mixed.foreign) > 3 else "")
            warnings.warn(
                f"{graph.name}: {len(mixed.foreign)} of {len(graph.nodes)} operators have no C "
                f"kernel and run in NumPy, slower, with the same results: {shown}",
                RuntimeWarning,
                stacklevel=6,
            )
            self._warned = True
        return mixed

    def _forked(self) -> None:
        """In a child: the thread that was planning, if there was one, is not there to finish."""
        if self._planning.locked():
            self._packers = {}  # one may be half written; plans made before keep its array
            self._planning = threading.Lock()

    def _named(self, x: Array | Mapping[str, Array]) -> dict[str, Array]:
        names = tuple(self.graph.inputs)
        if not isinstance(x, Mapping):
            x = {names[0]: x}
        if set(x) != set(names):
            raise GraphError(f"{self.graph.name} takes the inputs {', '.join(names)}")
        dtype = self.graph.inputs[names[0]].dtype
        return {name: np.asarray(x[name], dtype, order="C") for name in names}


# The only lock that outlives a call: executables and graphs have none.
_living: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_living):
        session._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
