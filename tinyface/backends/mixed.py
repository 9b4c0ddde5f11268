"""C wherever it has a kernel, NumPy for the rest: a graph cut where the engine changes.

A network from elsewhere may have one operator in a hundred that the C engine does not know. It
would be a pity to run the other ninety-nine in NumPy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from time import perf_counter_ns

from tinyface.backends.c import CExecutable
from tinyface.backends.numpy import NumpyExecutable, results
from tinyface.errors import NoKernelError
from tinyface.graph import Graph, Node
from tinyface.ops import Conv2d, Linear
from tinyface.ops.spec import Array
from tinyface.plan import Packer
from tinyface.tracing import Record


class MixedExecutable:
    """A list of parts of one graph, each run by one engine, in order.

    Args:
        graph, threads, chains, isa: as for ``CExecutable``.
        packers: packed weights by the operators of a part, kept for plans of other shapes.

    ``foreign`` are the names of the operators that run in NumPy.

    Raises:
        BackendError: as the two engines do; never for want of a kernel.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int,
        packers: dict[tuple[str, ...], Packer],
        *,
        chains: bool = True,
        isa: str | None = None,
    ) -> None:
        self.graph, self.threads = graph, threads
        self.parts: list[CExecutable | NumpyExecutable] = []
        foreign: set[str] = set()
        planned: dict[tuple[str, ...], CExecutable] = {}  # by their operators: planned once
        if not graph.nodes:  # its outputs are inputs and weights, which C does not give
            self.parts.append(NumpyExecutable(graph))
        while not self.parts:
            for nodes, in_c in _runs(graph.nodes, foreign):
                part = extract(graph, nodes)
                names = tuple(node.name for node in nodes)
                if not in_c:
                    self.parts.append(NumpyExecutable(part))
                    continue
                try:
                    if names not in planned:
                        packer = packers.setdefault(names, Packer())
                        planned[names] = CExecutable(part, threads, isa, packer, chains=chains)
                except NoKernelError as error:
                    packers.pop(names)
                    foreign.update({error.node} & {*names} or names)
                    self.parts = []
                    break
                self.parts.append(planned[names])
        self.foreign = tuple(node.name for node in graph.nodes if node.name in foreign)

    @property
    def memory(self) -> dict[str, int]:
        """That of the parts in C, which keep it between runs."""
        total: Counter[str] = Counter()
        for part in set(self.parts):  # one plan may serve several
            total.update(part.memory)
        return dict(total)

    def run(
        self, inputs: Mapping[str, Array], records: list[Record] | None = None
    ) -> dict[str, Array]:
        """As that of the engines. Between the parts, tensors are row-major (NCHW)."""
        values = {**self.graph.params, **inputs}
        begin = perf_counter_ns()
        for part in self.parts:
            start = perf_counter_ns() - begin
            given = {name: values[name] for name in part.graph.inputs}
            own: list[Record] | None = None if records is None else []
            values.update(part.run(given, own))
            if records is not None and own is not None:
                records += [replace(r, start_ns=r.start_ns + start) for r in own]
        return results(self.graph, inputs, values)


def _runs(nodes: Iterable[Node], foreign: set[str]) -> list[tuple[list[Node], bool]]:
    """Neighbours that one engine runs, and whether it is C.

    Moving a map from one engine to the other costs about as much as reading and writing it; where
    nothing is multiplied between two operators that C cannot run, NumPy does it all.
    """
    runs: list[tuple[list[Node], bool]] = []
    for in_c, group in groupby(nodes, key=lambda node: node.name not in foreign):
        run = list(group)
        in_c = in_c and (not foreign or any(isinstance(n.op, (Conv2d, Linear)) for n in run))
        if runs and not in_c and not runs[-1][1]:
            runs[-1][0].extend(run)
        else:
            runs.append((run, in_c))
    return runs


def extract(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """Some neighbouring operators of a graph as a graph: what they read from outside goes in,
    what others read, or the graph gives, comes out."""
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.inputs if name} - made
    inside = {node.name for node in nodes}
    wanted = tuple(
        name
        for node in nodes
        for name in node.outputs
        if name in graph.outputs or any(r.name not in inside for r in graph.readers[name])
    )
    return Graph(
        graph.name,
        {name: graph.types[name] for name in sorted(read - graph.params.keys())},
        wanted or (nodes[-1].outputs[0],),  # an operator that nobody needs
        tuple(nodes),
        {name: value for name, value in graph.params.items() if name in read},
    )
