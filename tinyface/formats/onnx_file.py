"""Open an ONNX file and hand out its nodes and constants, checked.

Uses the ``onnx`` package (the extra ``onnx``) for the protobuf; what the numbers in it may
be is checked here and in onnx_tensor.py. Refused outright: loops, sparse tensors, quantised and
custom operators, data outside of the file and its folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tinyface import limits
from tinyface.errors import FormatError, MissingExtraError, UsageError
from tinyface.formats.arrays import Array
from tinyface.formats.onnx_tensor import Beside, read_tensor
from tinyface.once import once

OLDEST_OPSET: Final = 7  # before it, operands were broadcast by other rules
MAX_DEPTH: Final = 4  # of an If within an If
MAX_CALLS: Final = 64  # of local functions within local functions
MAX_ORIGIN: Final = 4096  # characters
CARD_KEY: Final = "tinyface.card"  # of the file's metadata_props
MAX_CARD: Final = limits.MAX_HEADER_BYTES // 2  # as in a model file
_QUANTISED: Final = (
    "Quant", "QLinear", "Dequantize", "DynamicQuantize", "ConvInteger", "MatMulInteger",
)  # fmt: skip


@dataclass(frozen=True)
class OnnxNode:
    """One node. ``inputs`` keep "" for optional ones that are absent. ``origin`` is PyTorch's call
    that it stands for, where the exporter wrote that down."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    where: str
    origin: str = ""

    def refuse(self, problem: str) -> FormatError:
        return FormatError(f"{self.where}: {problem}")

    def has(self, i: int) -> bool:
        """Whether input i is there."""
        return i < len(self.inputs) and bool(self.inputs[i])

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the default's type; a list comes as a tuple.

        Raises:
            FormatError: it has another type.
        """
        value = self.attributes.get(name, default)
        if default is not None and type(value) is not type(default):
            raise self.refuse(f"its attribute {name} is {str(value)[:40]!r}")
        return value

    def ints(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An attribute that is a list of integers and, without a default, must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, tuple) or not all(type(v) is int for v in value):
            raise self.refuse(f"its attribute {name} is missing or no list of integers")
        return value

    def axis(self, default: int, rank: int) -> int:
        """The attribute ``axis`` of an input with ``rank`` axes, counted from the front."""
        axis = self.attribute("axis", default)
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} of an input with {rank} axes")
        return int(axis % rank)


@dataclass(frozen=True)
class Branch:
    """One of the two subgraphs of an ``If``. What it reads and does not make is made outside."""

    nodes: Sequence[OnnxNode]
    constants: Mapping[str, Array]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """What the conversion needs of a file.

    inputs: name -> shape, None for a side that is free. constants: initialisers by name. card: the
    JSON that tinyface wrote beside the network, unchecked; None for files of others. pixels: the
    inputs that are of bytes (uint8), not of floating point.
    """

    path: Path
    name: str
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    nodes: Sequence[OnnxNode]
    constants: Mapping[str, Array]
    card: str | None = None
    pixels: frozenset[str] = frozenset()

    @property
    def free(self) -> bool:
        """Whether the batch has no size."""
        return all(shape and shape[0] is None for shape in self.inputs.values())

    @once
    def makers(self) -> Mapping[str, OnnxNode]:
        """The node that makes each tensor, without those within branches."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @once
    def handed_out(self) -> frozenset[str]:
        """The tensors that leave the file, or a branch."""
        nodes = with_branches(self.nodes)
        branches = [v for n in nodes for v in n.attributes.values() if isinstance(v, Branch)]
        return frozenset(self.outputs).union(*(branch.outputs for branch in branches))

    @once
    def readers(self) -> Mapping[str, Sequence[OnnxNode]]:
        """The nodes that read each tensor, with those within branches."""
        readers: dict[str, list[OnnxNode]] = {}
        for node in with_branches(self.nodes):
            for name in {*node.inputs}:
                readers.setdefault(name, []).append(node)
        return readers


def open_onnx(path: Path) -> OnnxFile:
    """Parse and check.

    Raises:
        MissingExtraError: the ``onnx`` package is not installed.
        FormatError: not ONNX, too large, another opset, or one of the things named above.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx>=1.16", "onnx", "importing ONNX files") from None
    if path.stat().st_size > limits.MAX_PARAM_BYTES:
        raise FormatError(f"{path}: over {limits.MAX_PARAM_BYTES} bytes")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf has its own exceptions, one per implementation
        raise FormatError(f"{path}: not a readable ONNX file ({type(error).__name__})") from None
    opset = _opset(path, model)
    if model.functions:
        _count(path, model.graph.node, {_key(f): f for f in model.functions}, {}, 0)
        model = _inlined(path, model)
    graph = model.graph
    reader = _Reader(path, opset)
    whole = reader.graph(graph, depth=0)
    constants = whole.constants
    fed = [v for v in graph.input if v.name not in constants]
    inputs = {v.name: _read_shape(path, v) for v in fed}
    pixels = frozenset(v.name for v in fed if _type(v) == onnx.TensorProto.UINT8)
    nodes, card = in_order(whole.nodes), _card(path, model)
    # Other exporters call every graph alike (main_graph, torch_jit, tf2onnx): the file says more.
    name = graph.name if model.producer_name == "tinyface" else path.stem
    name = name if name.isprintable() else ""
    name = name[:200] or "imported"
    return OnnxFile(path, name, inputs, whole.outputs, nodes, constants, card, pixels)


def _card(path: Path, model: Any) -> str | None:
    texts = [prop.value for prop in model.metadata_props if prop.key == CARD_KEY]
    if not texts:
        return None
    if len(texts) > 1 or not isinstance(texts[0], str) or len(texts[0]) > MAX_CARD:
        raise FormatError(f"{path}: two cards ({CARD_KEY}), or one that is too long or no text")
    return texts[0]


def in_order(nodes: Sequence[OnnxNode]) -> list[OnnxNode]:
    """The nodes so that each stands behind those it reads from, otherwise in their old order.

    ONNX demands that, but converters (to float16, say) append what they insert at the front. In
    a cycle, which has no such order, the old one stays.
    """
    makers = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
    ordered: list[OnnxNode] = []
    begun: set[int] = set()
    for first in range(len(nodes)):
        waiting = [(first, False)]
        while waiting:
            i, ready = waiting.pop()
            if ready:
                ordered.append(nodes[i])
            elif i not in begun:
                begun.add(i)
                waiting.append((i, True))
                sources = [makers[name] for name in nodes[i].inputs if name in makers]
                waiting += [(j, False) for j in reversed(sources)]
    return ordered


def with_branches(nodes: Sequence[OnnxNode]) -> Iterator[OnnxNode]:
    """The nodes and those of their branches."""
    for node in nodes:
        yield node
        for value in node.attributes.values():
            if isinstance(value, Branch):
                yield from with_branches(value.nodes)


def until(file: OnnxFile, tensors: Sequence[str]) -> OnnxFile:
    """What a file has for these tensors, which become its outputs. Its card goes.

    Raises:
        UsageError: no operator makes one of them; similar names are told.
    """
    for name in tensors:
        if name not in file.makers:
            short = [other for other in file.makers if len(other) <= 200 and other.isprintable()]
            close = difflib.get_close_matches(name[:200], short, n=3, cutoff=0.3)
            like = f"; similar ones are {', '.join(close)}" if close else ""
            raise UsageError(f"{file.path}: no operator makes a tensor {name[:80]!r}{like}")
    needed: set[str] = set()
    waiting = list(tensors)
    while waiting:
        node = file.makers.get(waiting.pop())
        if node is not None and needed.isdisjoint(filter(None, node.outputs)):
            needed.update(filter(None, node.outputs))  # "": one that nobody wants
            waiting += [name for inner in with_branches([node]) for name in inner.inputs]
    nodes = [node for node in file.nodes if not needed.isdisjoint(node.outputs)]
    return replace(file, outputs=tuple(dict.fromkeys(tensors)), nodes=nodes, card=None)


def write_until(path: Path, tensors: Sequence[str], out: Path) -> None:
    """A copy of an ONNX file with these outputs, for other runtimes."""
    import onnx

    model = onnx.load_model(str(path))
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    onnx.save_model(model, str(out))


def _need_text(path: Path, graph: Any) -> None:
    """Refuse names that are not UTF-8, which some builds of protobuf hand out as bytes."""
    names = [graph.name, *(v.name for v in (*graph.initializer, *graph.input, *graph.output))]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for name in names:
        if not isinstance(name, str):
            raise FormatError(f"{path}: a name is not text ({name[:40]!r}); fetch the file again")


def _opset(path: Path, model: Any) -> int:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= opset <= newest:
        how = (
            "pip install -U onnx, or export it again with opset_version=17"
            if opset > newest
            else "Bring it to a newer one: onnx.version_converter.convert_version(model, 17)"
        )
        raise FormatError(f"{path}: opset {opset}; {OLDEST_OPSET} to {newest} are read. {how}")
    return int(opset)


def _key(what: Any) -> tuple[str, ...]:
    """What names a function, and its call."""
    name = getattr(what, "op_type", "") or what.name
    return what.domain, name, getattr(what, "overload", "")


def _count(
    path: Path, nodes: Any, functions: Mapping[Any, Any], sizes: dict[Any, int], depth: int
) -> int:
    """Nodes that these become with functions' bodies in the place of calls: twenty functions that
    call each other twice are a million. sizes: of the functions counted so far.

    Raises:
        FormatError: more than there may be, or functions that call themselves.
    """
    from onnx import AttributeProto

    total = 0
    for node in nodes:
        key = _key(node)
        if key in functions and key not in sizes:
            if depth == MAX_CALLS:
                raise FormatError(f"{path}: local functions within over {MAX_CALLS} others")
            sizes[key] = limits.MAX_NODES  # while it is counted: too many, should it call itself
            sizes[key] = _count(path, functions[key].node, functions, sizes, depth + 1)
        total += 1 + sizes.get(key, 0)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                total += _count(path, attribute.g.node, functions, sizes, depth)
        if total > limits.MAX_NODES:
            raise FormatError(
                f"{path}: its local functions make over {limits.MAX_NODES} nodes, or call "
                "themselves"
            )
    return total


def _inlined(path: Path, model: Any) -> Any:
    """Newer exporters write functions; their bodies take the place of the calls."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception:
        raise FormatError(f"{path}: its local functions cannot be inlined") from None


class _Reader:
    """Nodes and constants of a file's graph and of the branches in it."""

    def __init__(self, path: Path, opset: int) -> None:
        self.path, self.opset, self.beside = path, opset, Beside(path)
        self.nodes = self.tensors = 0  # read so far

    def graph(self, graph: Any, depth: int) -> Branch:
        self.nodes += len(graph.node)
        self.tensors += len(graph.initializer)
        if self.nodes > limits.MAX_NODES or self.tensors > limits.MAX_TENSORS:
            raise FormatError(f"{self.path}: too many nodes ({self.nodes}) or tensors")
        if graph.sparse_initializer:
            raise FormatError(
                f"{self.path}: sparse tensors are not read; export it with dense ones"
            )
        _need_text(self.path, graph)
        constants = {
            t.name: read_tensor(t, self.beside, f"{self.path}: tensor {t.name!r}")
            for t in graph.initializer
        }
        nodes = [self.node(i, node, depth) for i, node in enumerate(graph.node)]
        return Branch(nodes, constants, tuple(v.name for v in graph.output))

    def node(self, index: int, node: Any, depth: int) -> OnnxNode:
        label = next((o for o in node.output if o), node.name)[:80]
        where = f"{self.path}: node {index}, {node.op_type[:40]!r} (makes {label!r})"
        if node.domain not in ("", "ai.onnx"):
            hint = ""
            if node.domain.startswith("com.microsoft"):
                hint = "; onnxruntime has rewritten this file: import the one that it was made from"
            raise FormatError(
                f"{where}: operators of {node.domain[:80]!r} are not known here{hint}"
            )
        if node.op_type.startswith(_QUANTISED):
            raise FormatError(f"{where}: the network is quantised; import the float32 one")
        attributes = {a.name: self.attribute(a, node, depth, where) for a in node.attribute}
        inputs, outputs = tuple(node.input), tuple(node.output)
        kind, origin = node.op_type, _origin(node)
        return OnnxNode(kind, inputs, outputs, attributes, self.opset, where, origin)

    def attribute(self, attribute: Any, node: Any, depth: int, where: str) -> Any:
        from onnx import AttributeProto, helper

        kind = attribute.type
        if kind == AttributeProto.GRAPH and node.op_type == "If" and depth < MAX_DEPTH:
            return self.graph(attribute.g, depth + 1)
        if kind in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise FormatError(f"{where}: it holds a subgraph (control flow), which is not read")
        if kind == AttributeProto.TENSOR:
            return read_tensor(attribute.t, self.beside, where)
        if kind in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING):
            value = helper.get_attribute_value(attribute)
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if kind in (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS):
            return tuple(helper.get_attribute_value(attribute))
        raise FormatError(f"{where}: its attribute {attribute.name[:40]!r} is of no known type")


def _origin(node: Any) -> str:
    """What torch.onnx.export notes: ``call_function[target=torch.ops.aten.relu.default](...)``."""
    for prop in getattr(node, "metadata_props", ()):  # not in packages before 1.16
        if prop.key == "pkg.torch.onnx.fx_node" and isinstance(prop.value, str):
            return prop.value[:MAX_ORIGIN]
    return ""


def _type(value: Any) -> int:
    return int(value.type.tensor_type.elem_type)


def _read_shape(path: Path, value: Any) -> tuple[int | None, ...]:
    from onnx import TensorProto

    kind = value.type.tensor_type
    where = f"{path}: input {value.name[:80]!r}"
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    if _type(value) not in (*floats, TensorProto.UINT8):
        raise FormatError(
            f"{where} is neither of floating point nor of bytes (uint8); export the network for "
            "float32 input"
        )
    if not kind.HasField("shape") or len(kind.shape.dim) > limits.MAX_RANK:
        raise FormatError(f"{where} has no shape; export it with one")
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
