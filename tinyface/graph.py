"""The network as data: an immutable, validated, shape-inferred list of operators.

A graph is in single-assignment form: every tensor has one name and one producer (an input,
a parameter, or a node). Nodes stand in an order in which they can run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyface import limits
from tinyface.errors import GraphError
from tinyface.once import once
from tinyface.ops import Op, from_json
from tinyface.ops.spec import Array, MaybeType
from tinyface.types import ITEMSIZE, Cost, Shape, TensorType


@dataclass(frozen=True)
class Node:
    """One operator at its place. An input named "" is an optional one that is absent."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        given = ", ".join(name or "-" for name in self.inputs)
        return f"{', '.join(self.outputs)} = {self.op}({given})"


@dataclass(frozen=True)
class Graph:
    """A network.

    Attributes:
        name: of the network.
        inputs: the tensors fed in, by name.
        outputs: names of the results, in order.
        nodes: operators, in an order in which they can run.
        params: weights by name; networks that were built but not loaded hold zeros that take
            no memory (:func:`blank`).
        types: every tensor's type, inferred on construction.
        operations: of all nodes, as :meth:`~tinyface.ops.Op.operations` counts them.

    Raises:
        GraphError: on construction, naming the node: an unknown or twice-defined tensor, a
            wrong number of inputs, shapes that do not fit, or a limit exceeded.
    """

    name: str
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    params: Mapping[str, Array]
    types: Mapping[str, TensorType] = field(init=False, compare=False, repr=False)
    operations: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))
        object.__setattr__(self, "types", MappingProxyType(_infer(self)))
        object.__setattr__(self, "operations", _count(self))

    # ------------------------------------------------------------------ asking

    def type_of(self, name: str) -> MaybeType:
        """Type of a tensor; None for the absent input ""."""
        return self.types[name] if name else None

    @once
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each tensor (a node that reads it twice counts twice)."""
        readers: dict[str, tuple[Node, ...]] = dict.fromkeys(self.types, ())
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    readers[name] += (node,)
        return MappingProxyType(readers)

    @once
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each tensor (inputs and parameters have none)."""
        return MappingProxyType({name: node for node in self.nodes for name in node.outputs})

    def node_cost(self, node: Node) -> Cost:
        """Compulsory cost of one node: every operand once, in its stored type.

        A view (reshape, flatten) moves nothing.
        """
        ins = tuple(self.type_of(name) for name in node.inputs)
        outs = tuple(self.types[name] for name in node.outputs)
        if node.op.view:
            return Cost()
        maps = {n for n in node.inputs if n and n not in self.params}
        weights = {n for n in node.inputs if n in self.params}
        return Cost(
            macs=node.op.macs(ins, outs),
            feature_read=sum(self.types[name].nbytes for name in maps),
            feature_write=sum(t.nbytes for t in outs),
            weight=sum(self.types[name].nbytes for name in weights),
        )

    @once
    def cost(self) -> Cost:
        """Compulsory cost of all nodes."""
        return Cost.total(self.node_cost(node) for node in self.nodes)

    @property
    def param_count(self) -> int:
        """Number of stored weights, batch-norm statistics included."""
        return sum(self.types[name].size for name in self.params)

    # ---------------------------------------------------------------- changing

    def with_inputs(self, shapes: Mapping[str, Shape]) -> Graph:
        """The same network for inputs of other shapes (batch size, image size)."""
        unknown = sorted(shapes.keys() - self.inputs.keys())
        if unknown:
            raise GraphError(f"{self.name} has no input {unknown[0]!r}: {_names(self.inputs)}")
        inputs = {
            name: TensorType(tuple(shapes.get(name, old.shape)), old.dtype)
            for name, old in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def bind(self, state: Mapping[str, Array], *, ignore: Iterable[str] = ()) -> Graph:
        """The same network with the weights of ``state`` in place of its own.

        Raises:
            GraphError: a tensor is missing, is not a parameter of this network (unless its
                name ends with one of ``ignore``), or has another shape; each is named.
        """
        endings = tuple(ignore)
        extra = [k for k in state if k not in self.params and not (endings and k.endswith(endings))]
        missing = [k for k in self.params if k not in state]
        if missing or extra:
            raise GraphError(
                f"these weights do not fit {self.name}: "
                + "; ".join(
                    f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
                    for what, keys in (("missing", missing), ("not in it", extra))
                    if keys
                )
            )
        for key, own in self.params.items():
            if tuple(state[key].shape) != own.shape:
                raise GraphError(
                    f"these weights do not fit {self.name}: {key} has shape "
                    f"{tuple(state[key].shape)}, the network needs {own.shape}"
                )
        return replace(self, params={key: state[key] for key in self.params})

    def astype(self, dtype: str) -> Graph:
        """The same network with inputs and weights of another float type."""
        return replace(
            self,
            inputs={name: TensorType(t.shape, dtype) for name, t in self.inputs.items()},
            params={name: value.astype(dtype) for name, value in self.params.items()},
        )

    # ----------------------------------------------------------------- storing

    def to_json(self) -> dict[str, Any]:
        """Everything but the weights, for a model file's metadata."""
        return {
            "name": self.name,
            "inputs": {name: list(t.shape) for name, t in self.inputs.items()},
            "outputs": list(self.outputs),
            "nodes": [
                {
                    "name": node.name,
                    "op": node.op.to_json(),
                    "inputs": list(node.inputs),
                    "outputs": list(node.outputs),
                }
                for node in self.nodes
            ],
        }

    @staticmethod
    def from_json(doc: Any, params: Mapping[str, Array]) -> Graph:
        """The graph that :meth:`to_json` wrote, with its weights.

        Raises:
            GraphError: the document does not have that form, or the graph is not valid.
        """
        try:
            inputs = {
                _text(name): TensorType(tuple(shape)) for name, shape in doc["inputs"].items()
            }
            nodes = tuple(
                Node(
                    _text(n["name"]),
                    from_json(n["op"]),
                    tuple(map(_text, n["inputs"])),
                    tuple(map(_text, n["outputs"])),
                )
                for n in doc["nodes"]
            )
            return Graph(
                _text(doc["name"]), inputs, tuple(map(_text, doc["outputs"])), nodes, params
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise GraphError(f"not a graph description: {error!r}") from error


def blank(shape: Shape, dtype: str = "float32") -> Array:
    """Zeros of any shape that take no memory: the parameters of a network not yet loaded."""
    TensorType(shape, dtype)  # checks the bounds
    return np.broadcast_to(np.zeros((), dtype), shape)


_DTYPES = {np.dtype(name): name for name in ITEMSIZE}  # str(dtype) takes its time


def _infer(graph: Graph) -> dict[str, TensorType]:
    """Types of all tensors; the checks of :class:`Graph` are made on the way."""
    if len(graph.nodes) > limits.MAX_NODES:
        raise GraphError(f"{graph.name}: more than {limits.MAX_NODES} operators")
    types: dict[str, TensorType] = {}

    def define(name: str, tensor_type: TensorType, where: str) -> None:
        if not name or len(name) > limits.MAX_NAME_LENGTH:
            raise GraphError(f"{where}: a tensor needs a name of 1…{limits.MAX_NAME_LENGTH}")
        if name in types:
            raise GraphError(f"{where}: tensor {name!r} is defined twice")
        types[name] = tensor_type

    for name, tensor_type in graph.inputs.items():
        define(name, tensor_type, "inputs")
    for name, value in graph.params.items():
        dtype = _DTYPES.get(value.dtype) or str(value.dtype)
        define(name, TensorType(tuple(value.shape), dtype), "parameters")
    names = set()
    for node in graph.nodes:
        where = f"{graph.name}: {node.name} ({node.op.kind})"
        if node.name in names:
            raise GraphError(f"{where}: two operators have this name")
        names.add(node.name)
        least, most = node.op.arity
        if not least <= len(node.inputs) <= most:
            raise GraphError(f"{where}: takes {least} to {most} inputs, not {len(node.inputs)}")
        for name in node.inputs:
            if name and name not in types:
                raise GraphError(
                    f"{where}: reads {name!r}, which no input, weight or earlier operator provides"
                )
        try:
            outputs = node.op.infer(*(types[name] if name else None for name in node.inputs))
        except GraphError as error:
            raise type(error)(f"{where}: {error}") from None
        if len(outputs) != len(node.outputs):
            raise GraphError(f"{where}: has {len(outputs)} outputs, not {len(node.outputs)}")
        for name, tensor_type in zip(node.outputs, outputs, strict=True):
            define(name, tensor_type, where)
    if not graph.outputs:
        raise GraphError(f"{graph.name}: has no outputs")
    for name in graph.outputs:
        if name not in types:
            raise GraphError(f"{graph.name}: output {name!r} is not computed by any operator")
    return types


def _count(graph: Graph) -> int:
    """Operations of all nodes; GraphError where they are more than the limits allow."""
    total = 0
    for node in graph.nodes:
        ins = tuple(graph.type_of(name) for name in node.inputs)
        count = node.op.operations(ins, tuple(graph.types[name] for name in node.outputs))
        total += count
        if count > limits.MAX_NODE_OPERATIONS:
            where = f"{graph.name}: {node.name} ({node.op.kind})"
            raise _too_many(where, count, limits.MAX_NODE_OPERATIONS)
    if total > limits.MAX_OPERATIONS:
        raise _too_many(graph.name, total, limits.MAX_OPERATIONS)
    return total


def _too_many(where: str, count: int, limit: int) -> GraphError:
    return GraphError(
        f"{where}: {count:.2g} operations for one run are more than the limit of {limit:.2g}; "
        "use smaller inputs, or fewer of them at a time"
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise GraphError(f"not a graph description: {value!r} stands where a name belongs")
    return value


def _names(names: Iterable[str]) -> str:
    return "there are " + ", ".join(map(repr, names))
