"""The planner: where every tensor lies, and the list of steps.

Feature maps are channels-last throughout; NCHW exists only at the edges of a graph. What only
renames or joins tensors costs nothing where addressing can do it: a concatenation's parts are
written straight into the joint buffer, slices and splits are views.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from tinyface.errors import BackendError, NoKernelError
from tinyface.graph import Graph, Node
from tinyface.limits import MAX_ARENA_BYTES
from tinyface.ops import Identity
from tinyface.ops.spec import Array
from tinyface.plan import arena
from tinyface.plan.chain import link
from tinyface.plan.homes import Home, find_direct, find_homes
from tinyface.plan.model import FLOAT, Buffer, Isa, Place, Plan, Step, View
from tinyface.plan.pack import Packer
from tinyface.plan.tails import find_tails
from tinyface.plan.tiling import row_tasks
from tinyface.plan.views import fresh_map, one_pixel, pixels_of_rows, whole, whole_map
from tinyface.types import Cost, Shape

ELEMENTWISE = {f"TF_{name}" for name in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "AFFINE")}


def make_plan(
    graph: Graph,
    isa: Isa,
    packer: Packer | None = None,
    *,
    threads: int = 1,
    chains: bool = True,
) -> Plan:
    """Plan an optimised graph for one instruction set.

    threads: how many will share the steps. Any number may run the plan, and to the same bits.
    chains: may steps run together, band by band, so that the maps between them stay in the cache?

    Raises:
        NoKernelError: an operator has no C kernel (it is named).
        BackendError: the arena would be larger than ``limits.MAX_ARENA_BYTES``.
    """
    return Planner(graph, isa, packer or Packer(), threads=threads, chains=chains).plan()


class Planner:
    """Lowers one graph. Used by the functions of ``lower.py``."""

    def __init__(
        self, graph: Graph, isa: Isa, packer: Packer, *, threads: int = 1, chains: bool = True
    ) -> None:
        self.graph, self.isa, self.packer = graph, isa, packer
        self.threads, self.chains = threads, chains
        self.steps: list[Step] = []
        self.views: dict[str, View] = {}
        self.moved: dict[tuple[str, str], View] = {}  # copies in another layout
        self.strided: dict[str, Place] = {}  # what is known by its strides, until it must be moved
        self.homes = find_homes(graph)
        self.direct = find_direct(graph, self.homes)
        self.tails = find_tails(graph, isa)
        self.pending = Counter({name: len(readers) for name, readers in graph.readers.items()})
        self.alive: Counter[Buffer] = Counter()  # readers of anything in a buffer still to come
        self.outputs: dict[str, Buffer] = {}
        self.constants = Buffer("weights", "", 0)  # operands among the weights
        self.node = Node("", Identity(), (), ())  # the one being lowered
        self.charged: dict[str, Step] = {}  # the step that has a node's cost

    # ------------------------------------------------------------------- whole

    def plan(self) -> Plan:
        from tinyface.plan.lower import LOWER

        graph = self.graph
        inputs = {name: Buffer("input", name, t.size) for name, t in graph.inputs.items()}
        for name, buffer in inputs.items():
            self.views[name] = whole(buffer, self.shape(name))
        for source, name in self.direct.items():
            self.outputs[name] = self.outputs[source] = Buffer("output", name, self.size(name))
        skipped = {tail.name for tail in self.tails.values()}
        for node in graph.nodes:
            if node.name in skipped:
                continue
            self.node = node
            lower = LOWER.get(node.op.kind)
            if lower is None:
                raise self.unsupported(node)
            fed = [n for n in (*node.inputs, *node.outputs) if n and n not in graph.params]
            if not all(self.shape(name) for name in fed):
                raise self.unsupported(node, "a scalar")
            lower(self, node)
            for name in {*node.inputs} - {""}:
                self.release(name, node)
        for name in graph.outputs:
            self._deliver(name)
        return self._finish(inputs)

    def _finish(self, inputs: dict[str, Buffer]) -> Plan:
        if self.chains:
            link(self.steps, self.threads)
        life = arena.lives(self.steps)
        size, bound = arena.place(life, len(self.steps))
        if size * FLOAT > MAX_ARENA_BYTES:
            raise BackendError(
                f"{self.graph.name} needs {size * FLOAT >> 20} MiB for its feature maps, more than "
                f"the limit of {MAX_ARENA_BYTES >> 20} MiB: use a smaller image or batch"
            )
        weights = self.packer.finish()
        for step in self.steps:
            if "zero" in step.fields:
                step.fields["zero"] = self.packer.zeros
        types = self.graph.types
        return Plan(
            isa=self.isa,
            steps=tuple(self.steps),
            weights=weights,
            buffers=(*life, *inputs.values(), *self.outputs.values()),
            arena_bytes=size * FLOAT,
            lower_bound=bound * FLOAT,
            inputs={name: t.shape for name, t in self.graph.inputs.items()},
            outputs={name: types[name].shape for name in self.graph.outputs},
        )

    def unsupported(self, node: Node, why: str = "") -> NoKernelError:
        """The error for an operator that has no C kernel."""
        return NoKernelError(
            f"{self.graph.name}: the C engine cannot run {node.name} ({node.op}"
            f"{': ' + why if why else ''}); use --backend auto or numpy",
            node.name,
        )

    def result(self, node: Node) -> str:
        """The tensor that the node's step writes: its own, or its tail's."""
        return self.tails[node.name].outputs[0] if node.name in self.tails else node.outputs[0]

    # ----------------------------------------------------------------- places

    def shape(self, name: str) -> Shape:
        return self.graph.types[name].shape

    def size(self, name: str) -> int:
        return self.graph.types[name].size

    def at(self, name: str) -> View:
        """Where a tensor, no constant, lies; moved there if it was known by its strides only."""
        if name in self.graph.params:
            raise self.unsupported(self.node, f"{name} is a constant")
        if self.unmoved(name) is not None:
            from tinyface.plan.lower_flat import settle

            settle(self, name)
        return self.views[name]

    def unmoved(self, name: str) -> Place | None:
        """The strides of a tensor of which nothing else is known; None where it has a view."""
        return None if name in self.views else self.strided.get(name)

    def keep(self, name: str, place: Place) -> None:
        """Note the strides of a tensor, of which nothing is moved for now."""
        self.strided[name] = place
        self.alive[place[0]] += self.pending[name]

    def param(self, name: str, node: Node) -> Array:
        """A weight's array; only constants can be packed."""
        if name not in self.graph.params:
            raise self.unsupported(node, f"{name} is not a constant")
        return self.graph.params[name]

    def new(self, name: str, shape: Shape | None = None, *, as_map: bool | None = None) -> View:
        """The place into which the step that makes ``name`` writes."""
        shape = shape or self.shape(name)
        as_map = len(shape) in (2, 4) if as_map is None else as_map
        placed = as_map or len(shape) != 4  # elsewhere four axes are a map
        if name in self.homes and placed:
            view = self._inside(self.homes[name], shape, as_map)
        else:
            buffer = self.outputs.get(name) if name in self.direct and placed else None
            buffer = buffer or Buffer("arena", name, math.prod(shape))
            view = whole_map(buffer, shape) if as_map else whole(buffer, shape)
        return self.bind(name, view)

    def spare(self, name: str) -> str:
        """``name`` for what is no tensor of the graph, changed until it is none."""
        while name in self.graph.types or name in self.views:
            name += "'"
        return name

    def joint(self, name: str) -> View:
        """The place of a tensor of which several steps write a part each."""
        view = self.views.get(name) or self.new(name)
        view.buffer.shared = True
        return view

    def _inside(self, home: Home, shape: Shape, as_map: bool) -> View:
        host = self.joint(home.whole)
        at = host.offset + home.offset
        full = shape if len(shape) == 4 else (*shape, 1, 1)
        if host.is_map and as_map and (len(self.shape(home.whole)) == 4 or full[2:] == (1, 1)):
            return host.part(full, at, home.cell, home.block)
        dense = whole_map(host.buffer, shape) if as_map else whole(host.buffer, shape)
        return replace(dense, offset=at, img=host.img)

    def bind(self, name: str, view: View) -> View:
        """Note where a tensor lies."""
        if name not in self.views:
            self.views[name] = view
            self.alive[view.buffer] += self.pending[name] + (name in self.graph.outputs)
        return view

    def release(self, name: str, node: Node) -> None:
        count, place = node.inputs.count(name), self.unmoved(name)
        copies = (self.moved.get((name, layout)) for layout in ("map", "flat"))
        views = (self.views.get(name), *copies)
        self.pending[name] -= count
        for buffer in [view.buffer for view in views if view] if place is None else [place[0]]:
            self.alive[buffer] -= count

    def take_over(self, name: str, source: View, node: Node, readers: int) -> View:
        """A place for an element-wise result: that of ``source`` where this is its last use."""
        buffer, result = source.buffer, self.shape(name)
        free = (
            buffer.kind == "arena"
            and not buffer.shared
            and name not in self.homes
            and name not in self.direct
            and self.alive[buffer] == readers
            and source.dense
            and buffer.size == math.prod(result)
        )
        if not free:
            return self.new(name)
        return self.bind(name, source)

    # ---------------------------------------------------------------- layouts

    def as_map(self, name: str) -> View:
        """The tensor as a channels-last map, moved if need be."""
        view = self.at(name)
        shape = self.shape(name)
        if view.shuffled:
            if (name, "map") not in self.moved:
                self.note_copy(name, "map", self.shuffle_into(name, fresh_map(name, shape)))
            return self.moved[name, "map"]
        if view.is_map and view.planar is None:
            return view
        if len(shape) == 2 and view.planar is None:
            n, d = shape
            return View(view.buffer, (n, d, 1, 1), view.offset, view.img, d, d)
        if len(shape) == 4 and (shape[1] == 1 or shape[2] * shape[3] == 1) and not view.is_map:
            n, c, h, w = shape
            return View(view.buffer, shape, view.offset, view.img, w * c, c)
        if len(shape) == 2:
            return one_pixel(self.as_flat(name))
        if (name, "map") not in self.moved:
            if len(shape) != 4:
                raise self.unsupported(self.node, "a tensor of this rank")
            self.note_copy(name, "map", self.from_planes(name, view, (0, 0, 0, 0)))
        return self.moved[name, "map"]

    def note_copy(self, name: str, layout: str, copy: View) -> None:
        """Keep a copy for later readers, and alive for as long as there will be any."""
        self.moved[name, layout] = copy
        self.alive[copy.buffer] += self.pending[name] + (name in self.graph.outputs)

    def shuffle_into(self, name: str, y: View) -> View:
        """Carry out the channel shuffle under which a tensor is known."""
        view = self.at(name)
        order = view.shuffled
        assert order is not None
        n, _, h, w = view.shape
        x = replace(view, shape=(n, order.groups * order.each, h, w), shuffled=None)
        self.emit(
            f"{name}.shuffled", "channel_shuffle", "shuffle", x, y, op="TF_SHUFFLE",
            groups=order.groups, first=order.first, tasks=row_tasks(n * h, math.prod(y.shape)),
            reason="for a reader that cannot address the channels in another order",
        )  # fmt: skip
        return y

    def from_planes(self, name: str, view: View, pads: tuple[int, int, int, int]) -> View:
        """An NCHW tensor channels-last, with zeros around it."""
        n, c, h, w = view.shape
        top, left, bottom, right = pads
        shape = (n, c, h + top + bottom, w + left + right)
        out = fresh_map(f"{name}.nhwc", shape)
        planes = View(view.buffer, (n, c, h, w), view.offset, view.img, w, h * w)
        self.emit(
            f"{name}.nhwc", "layout", "from_nchw", planes, out,
            op="TF_FROM_NCHW", pt=top, pl=left, tasks=row_tasks(n * shape[2], math.prod(shape)),
            reason="the engine works channels-last",
        )  # fmt: skip
        return out

    def as_flat(self, name: str) -> View:
        """The tensor row-major, moved if need be."""
        view = self.at(name)
        if not view.is_map:
            return view
        if view.shuffled:
            view = self.as_map(name)
        shape = self.shape(name)
        if view.planar is None and (len(shape) == 2 or math.prod(view.shape[2:]) == 1):
            return View(view.buffer, shape, view.offset, view.img)
        if (name, "flat") not in self.moved:
            out = whole(Buffer("arena", f"{name}.nchw", math.prod(shape)), shape)
            self.to_planes(name, view, out)
            self.note_copy(name, "flat", out)
        return self.moved[name, "flat"]

    def to_planes(self, name: str, view: View, out: View) -> None:
        n, c, h, w = (view.shape[0], *(view.planar or view.shape[1:]))
        x = View(view.buffer, (n, c, h, w), view.offset, view.img, view.row, view.ld)
        y = View(out.buffer, (n, c, h, w), out.offset, out.img, w, h * w)
        self.emit(
            f"{name}.nchw", "layout", "to_nchw", x, y,
            op="TF_TO_NCHW", tasks=row_tasks(n * h, math.prod(y.shape)),
            reason="an output or a reshape in NCHW order",
        )  # fmt: skip

    def _deliver(self, name: str) -> None:
        """Bring an output into the caller's array, where it is not there already."""
        shape, view = self.shape(name), self.at(name)
        buffer = self.outputs.setdefault(name, Buffer("output", name, math.prod(shape)))
        if view.buffer is buffer:
            return
        out = whole(buffer, shape)
        if view.shuffled:
            view = self.as_map(name)
        if view.is_map and (view.planar or math.prod(view.shape[2:]) > 1):
            self.to_planes(name, view, out)
            return
        flat = one_pixel(self.as_flat(name))
        self.emit(
            f"{name}.out", "copy", "copy", flat, one_pixel(out), op="TF_AFFINE",
            reason="an output that is also read inside, or a part of another tensor",
        )  # fmt: skip

    # ------------------------------------------------------------------- steps

    def emit(
        self,
        name: str,
        kind: str,
        kernel: str,
        x: View,
        y: View,
        z: View | None = None,
        *,
        reason: str = "",
        params: dict[str, int] | None = None,
        node: Node | None = None,
        **fields: Any,
    ) -> Step:
        """Add a step; shapes and neutral values fill the fields that are not given."""
        narrow = x.shape[1] < self.isa.lanes and x.shape[2:] == (1, 1)
        if narrow and fields.get("op") in ELEMENTWISE:  # a matrix: vectors of several rows
            x, y, z = pixels_of_rows(x), pixels_of_rows(y), z and pixels_of_rows(z)
            fields["tasks"] = 1
        n, c, h, w = x.shape
        _, oc, oh, ow = y.shape
        given = {
            "n": n, "h": h, "wd": w, "c": c, "oh": oh, "ow": ow, "oc": oc,
            "kh": 1, "kw": 1, "sh": 1, "sw": 1, "dh": 1, "dw": 1, "groups": 1, "tasks": 1,
        } | fields  # fmt: skip
        step = Step(name, kind, kernel, self.isa, y.shape, given, x, y, z, params or {}, reason)
        if node:
            self._charge(step, node)
        self.steps.append(step)
        return step

    def _charge(self, step: Step, node: Node) -> None:
        """A node's cost stands at one of its steps: at that which reads most, the last of these."""
        cost = self.graph.node_cost(node)
        if (tail := self.tails.get(node.name)) is not None:
            weight = cost.weight + self.graph.node_cost(tail).weight
            cost = replace(cost, weight=weight, feature_write=FLOAT * self.size(tail.outputs[0]))
        before = self.charged.get(node.name)
        if before is not None and math.prod(before.x.shape) > math.prod(step.x.shape):
            return
        if before is not None:
            before.compulsory = Cost()
        self.charged[node.name], step.compulsory = step, cost
