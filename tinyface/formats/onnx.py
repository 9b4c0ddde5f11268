"""Read an ONNX file as a Graph. One function per operator; :data:`OPERATORS` is the whole list.

What a node computes from constants alone is computed here (shapes, mostly); everything else
becomes operators of :mod:`tinyface.ops`. A batch of free size is read as 1 and stays free
(:mod:`tinyface.formats.onnx_batch`).
Source of the semantics: the ONNX operator specification, opset 7 and newer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Final

import numpy as np

from tinyface import limits
from tinyface.builder import Builder
from tinyface.errors import MISFITS, FormatError, GraphError, cause
from tinyface.formats import (
    onnx_attention,
    onnx_choose,
    onnx_einsum,
    onnx_gather,
    onnx_layers,
    onnx_matmul,
    onnx_moves,
    onnx_pad,
    onnx_reduce,
    onnx_resize,
    onnx_scatter,
    onnx_smooth,
    onnx_transposed,
    onnx_windows,
    onnx_written_out,
)
from tinyface.formats.arrays import Array
from tinyface.formats.fixsize import hold_size
from tinyface.formats.formulas import Formulas
from tinyface.formats.freesize import size_hint
from tinyface.formats.onnx_batch import free_batch
from tinyface.formats.onnx_constants import FOLD, MAX_ALL_PRODUCTS, fold, products
from tinyface.formats.onnx_file import Branch, OnnxFile, OnnxNode, in_order, open_onnx
from tinyface.graph import Graph
from tinyface.ops import Op, Transpose
from tinyface.types import Shape


class Converter:
    """Turns nodes into operators, in order.

    constants: values that are known. tensors: ONNX's name -> the graph's, for all others.
    made: the operator that makes a tensor. turned: what a Transpose has turned, and how. origins:
    the tensors whose shapes went into a constant. state: the weights. computed: bytes of the
    constants and weights computed so far. multiplied: numbers, for products of constants, or read.
    pixels: ONNX's names of tensors that are still of bytes.
    """

    def __init__(self, file: OnnxFile, size: tuple[int, int], batch: int = 1) -> None:
        self.file = file
        self.builder = Builder(file.name)
        self.constants: dict[str, Array] = dict(file.constants)
        self.tensors: dict[str, str] = {}
        self.state: dict[str, Array] = {}
        self.made: dict[str, Op] = {}
        self.turned: dict[str, tuple[str, Shape]] = {}
        self.origins: dict[str, set[str]] = {}
        self.computed = self.multiplied = 0
        self.pixels: set[str] = {*file.pixels}
        for name, shape in file.inputs.items():
            usual: tuple[int, ...] = (1,) * len(shape)
            if len(shape) == 4:
                usual = (1, *size, 3) if shape[3] in (1, 3) else (1, 3, *size)  # NHWC: Keras
            usual = (batch, *usual[1:]) if shape else ()
            sides = tuple(side or other for side, other in zip(shape, usual, strict=True))
            self.tensors[name] = self.builder.input(self.checked(name), sides)

    def checked(self, name: str) -> str:
        if not name.isprintable() or not 1 <= len(name) <= limits.MAX_NAME_LENGTH:
            raise FormatError(f"{self.file.path}: a tensor is named {name[:80]!r}")
        return name

    # -- what a node reads

    def constant(self, node: OnnxNode, i: int) -> Array | None:
        """Input i where it must be known beforehand; None where it is absent."""
        if not node.has(i):
            return None
        if node.inputs[i] not in self.constants:
            raise node.refuse(f"its input {i} ({node.inputs[i]!r}) must be a constant")
        return self.constants[node.inputs[i]]

    def integers(self, node: OnnxNode, i: int, attribute: str = "") -> tuple[int, ...] | None:
        """Integers from input i (newer opsets) or else from an attribute; None: not given."""
        value = self.constant(node, i)
        if value is not None:
            if value.dtype.kind not in "iub":
                raise node.refuse(f"its input {i} must be integers")
            return tuple(int(v) for v in value.reshape(-1))
        return node.ints(attribute) if attribute and attribute in node.attributes else None

    def axes(self, node: OnnxNode, rank: int) -> tuple[int, ...] | None:
        """Axes, from input 1 or the attribute, counted from the front; None: not given."""
        axes = self.integers(node, 1, "axes")
        if axes is None:
            return None
        front = tuple(axis % rank for axis in axes if -rank <= axis < rank)
        if len(front) != len(axes) or len({*front}) != len(axes):
            raise node.refuse(f"axes {axes} of {rank}")
        return front

    def is_constant(self, node: OnnxNode, i: int) -> bool:
        return node.has(i) and node.inputs[i] in self.constants

    def tensor(self, node: OnnxNode, i: int) -> str:
        """Input i as a tensor of the graph; a constant becomes a weight of its own name."""
        if not node.has(i):
            raise node.refuse(f"its input {i} is missing")
        name = node.inputs[i]
        if name in self.tensors:
            return self.tensors[name]
        if name not in self.constants:
            raise node.refuse(f"reads {name[:80]!r}, which no earlier node makes")
        value = self.constants[name]
        return self.weight(node, name, value if value.ndim else value.reshape(1))

    def weight(self, node: OnnxNode, name: str, value: Array) -> str:
        """A weight of the graph."""
        if value.dtype.kind != "f":
            raise node.refuse(f"{name[:80]!r} is of type {value.dtype}; only float32 is computed")
        value = np.ascontiguousarray(value, np.float32)
        while name in self.state and not np.array_equal(self.state[name], value):
            name = f"{node.outputs[0]}:{name}"
        self.state[self.checked(name)] = value
        return self.builder.param(name, value.shape)

    def own_weight(self, node: OnnxNode, part: str, value: Array) -> str:
        """A weight made for this node."""
        self.count(node, 4 * value.size)
        return self.weight(node, f"{node.outputs[0]}:{part}", value)

    def formulas(self, node: OnnxNode) -> Formulas:
        """Writes what has no operator of ours, as nodes and weights of this node."""

        def step(op: Op, *inputs: str, part: str = "") -> str:
            return self.apply(op, *inputs, node=node, part=part)

        return Formulas(step, lambda part, value: self.own_weight(node, part, value))

    def count(self, node: OnnxNode, size: int) -> None:
        """Bytes that the file has not, lest a small one takes much memory."""
        self.computed += size
        if self.computed > limits.MAX_PARAM_BYTES:
            raise node.refuse("constants computed up to here take too much memory")

    def shape(self, tensor: str) -> Shape:
        return self.builder.shape(tensor)

    # -- what it makes

    def apply(self, op: Op, *inputs: str, node: OnnxNode, part: str = "") -> str:
        """An operator named after the node's output; ``part`` for those on the way to it."""
        name = f"{node.outputs[0]}:{part}" if part else node.outputs[0]
        if len(self.made) >= limits.MAX_NODES:
            raise node.refuse(f"there are more than {limits.MAX_NODES} operators up to here")
        self.made[name] = op
        return self.builder.apply(op, *inputs, name=self.checked(name))

    def transpose(self, x: str, perm: Shape, node: OnnxNode) -> str:
        """Of what is turned already, the two turns as one."""
        source, before = self.turned.get(x, (x, tuple(range(len(perm)))))
        whole = tuple(before[axis] for axis in perm)
        made = self.apply(Transpose(perm=whole), source, node=node)
        self.turned[made] = (source, whole)
        return made

    def convert(self, node: OnnxNode) -> None:
        """Add one node.

        Raises:
            FormatError: an operator that is not known, or that cannot be expressed; with place.
        """
        if not any(node.outputs):
            raise node.refuse("makes nothing")
        for name in node.outputs:
            if name in self.tensors or name in self.constants:
                raise node.refuse(f"makes {name[:80]!r} a second time")
        known = [name in self.constants for name in node.inputs if name]
        if node.kind == "Shape" and node.has(0) and node.inputs[0] in self.tensors:
            self.constants[node.outputs[0]] = onnx_moves.shape_of(self, node)
            self.origins[node.outputs[0]] = {self.tensors[node.inputs[0]]}
            return
        if all(known) and node.kind in FOLD and (node.has(0) or not node.inputs):
            arrays = tuple(self.constants[name] for name in node.inputs if name)
            self.constants[node.outputs[0]] = value = fold(node, arrays)
            self.multiplied += products(node, arrays) + sum(array.size for array in arrays)
            if self.multiplied > MAX_ALL_PRODUCTS:
                raise node.refuse("constants computed up to here take too long")
            if not any(np.may_share_memory(value, array) for array in arrays):  # else it is a view
                self.count(node, value.nbytes)
            self.origins[node.outputs[0]] = set().union(
                *(self.origins.get(name, ()) for name in node.inputs)
            )
            return
        if node.kind == "If":
            self.take_branch(node)
            return
        if not self.pixels.isdisjoint(node.inputs):
            self.carry_pixels(node)
        make = OPERATORS.get(node.kind)
        if make is None:
            raise node.refuse(f"this operator is not known here; {_advice(node)}")
        try:
            with np.errstate(all="ignore"):  # weights that are not finite are refused later
                made = make(self, node)
        except MISFITS as error:
            raise node.refuse(cause(error)[:300]) from None
        wanted = [name for name in node.outputs[len(made) :] if name]
        if wanted:
            raise node.refuse(f"its output {wanted[0][:80]!r} is not computed here")
        self.tensors.update(zip(node.outputs, made, strict=False))

    def carry_pixels(self, node: OnnxNode) -> None:
        """Bytes may be moved, and cast to numbers that are computed with: the same values here.
        Sums of bytes would wrap around, and quotients lose their fractions."""
        if node.kind in MOVING:
            self.pixels.update(node.outputs)
        elif node.kind != "Cast":
            raise node.refuse("computes with bytes (uint8): cast the picture to float32 before it")

    def take_branch(self, node: OnnxNode) -> None:
        """The nodes of that branch of an If which its condition, a constant, chooses: exporters
        write one where a shape decides (squeeze)."""
        if not self.is_constant(node, 0):
            raise node.refuse(
                "its condition is no constant: which branch is taken, the picture says"
            )
        condition = self.constants[node.inputs[0]]
        taken = node.attributes.get("then_branch" if np.all(condition) else "else_branch")
        if not isinstance(taken, Branch) or len(taken.outputs) != len(node.outputs):
            raise node.refuse("its branches are missing or have other outputs")
        twice = {*taken.constants} & {*self.constants, *self.tensors}
        if twice:
            raise node.refuse(f"makes {min(twice)[:80]!r} a second time")
        self.constants |= taken.constants
        for inner in in_order(taken.nodes):
            self.convert(inner)
        made = {*taken.constants, *(name for inner in taken.nodes for name in inner.outputs)}
        for outer, name in zip(node.outputs, taken.outputs, strict=True):
            if name not in made:
                raise node.refuse(f"no node of its branch makes {name[:80]!r}")
            if name in self.constants:
                self.constants[outer] = self.constants[name]
                self.origins[outer] = self.origins.get(name, set())
            else:
                self.tensors[outer] = self.tensors[name]
                if name in self.pixels:
                    self.pixels.add(outer)


def _is_short(name: str) -> bool:
    return 0 < len(name) <= 200 and name.isprintable()


def _advice(node: OnnxNode) -> str:
    if node.kind in CHOOSING:
        read = node.inputs[: 2 if node.kind == "NonMaxSuppression" else 1]
        options = "".join(f" --until {quote(name)}" for name in read if _is_short(name))
        options = options or " --until TENSOR"
        return f"it chooses among results: import what comes before, with{options}"
    return "write it in others in front of the export, or leave it out"


CHOOSING: Final = (
    "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "OneHot", "RoiAlign", "TopK", "Unique",
)  # fmt: skip
MOVING: Final = (
    "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip
Make = Callable[[Converter, OnnxNode], list[str]]
MODULES: Final = (
    onnx_attention, onnx_choose, onnx_einsum, onnx_gather, onnx_layers, onnx_matmul, onnx_moves,
    onnx_pad, onnx_reduce, onnx_resize, onnx_scatter, onnx_smooth, onnx_transposed, onnx_windows,
    onnx_written_out,
)  # fmt: skip
OPERATORS: Final[dict[str, Make]] = {
    name.removeprefix("make_"): getattr(module, name)
    for module in MODULES
    for name in dir(module)
    if name.startswith("make_")
}


def read_onnx(path: str | os.PathLike[str], size: tuple[int, int] = (112, 112)) -> Graph:
    """The network of an ONNX file.

    Args:
        path: one file, opset 7 or newer.
        size: height and width of the picture where the file leaves them free.

    Returns:
        a graph with ONNX's names of inputs and, as far as they stay tensors, of outputs.

    Raises:
        MissingExtraError: the ``onnx`` package is not installed.
        FormatError: see :func:`tinyface.formats.onnx_file.open_onnx`, and operators or uses of
            them that are not known here; each with the node's place.
    """
    return to_graph(open_onnx(Path(path)), size)


def to_graph(file: OnnxFile, size: tuple[int, int] = (112, 112)) -> Graph:
    """The network of an ONNX file that is open; see :func:`read_onnx`."""

    def read(batch: int, size: tuple[int, int] = size) -> Graph:
        converter = Converter(file, size, batch)
        for node in file.nodes:
            converter.convert(node)
        return _finish(converter)

    try:
        graph = free_batch(read) if file.free else read(1)
        return hold_size(graph, partial(read, 1), size) if _sizeless(file) else graph
    except GraphError as error:
        raise FormatError(f"{file.path}: {error}{_hint(file, size)}") from None
    except FormatError as error:
        raise FormatError(f"{error}{_hint(file, size)}") from None


def _hint(file: OnnxFile, size: tuple[int, int]) -> str:
    """What to do about maps that do not fit each other, where the size was our choice."""
    return size_hint(*size) if _sizeless(file) else ""


def _sizeless(file: OnnxFile) -> bool:
    """Does the file leave the picture's size free?"""
    return any(len(shape) == 4 and None in shape[1:] for shape in file.inputs.values())


def _finish(c: Converter) -> Graph:
    outputs = []
    for name in c.file.outputs:
        if name not in c.tensors:
            what = "is a constant" if name in c.constants else "is made by no node"
            raise FormatError(f"{c.file.path}: the output {name[:80]!r} {what}")
        outputs.append(c.tensors[name])
    return c.builder.build(*outputs).bind(c.state)
