"""Write a network down the way its paper's table does: one line, one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tinyface.errors import GraphError
from tinyface.graph import Graph, Node, blank
from tinyface.ops import BatchNorm, Conv2d, Linear, Op, PReLU
from tinyface.ops.spec import Array
from tinyface.types import Shape, TensorType

Size = int | tuple[int, int]


def pair(value: Size) -> tuple[int, int]:
    """3 -> (3, 3)."""
    return (value, value) if isinstance(value, int) else value


class Builder:
    """Collects nodes; every method takes tensor names and returns the new tensor's name.

    Parameters are created as zeros without memory under the key of the public checkpoint
    (``key + ".weight"`` …), so that ``graph.bind(state_dict)`` loads one.

    >>> b = Builder("tiny")
    >>> x = b.input("input", (1, 3, 8, 8))
    >>> x = b.conv(x, 4, 3, pad=1, key="conv")
    >>> b.build(b.prelu(x, key="act")).types["act"].shape
    (1, 4, 8, 8)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._inputs: dict[str, TensorType] = {}
        self._params: dict[str, Array] = {}
        self._nodes: list[Node] = []
        self._types: dict[str, TensorType] = {}

    def input(self, name: str, shape: Shape) -> str:
        """Declare an input; images are (n, c, h, w)."""
        self._inputs[name] = self._types[name] = TensorType(shape)
        return name

    def param(self, name: str, shape: Shape) -> str:
        """Declare a weight; using one twice (shared weights) is fine."""
        known = self._params.get(name)
        if known is not None and known.shape != shape:
            raise GraphError(f"{self.name}: weight {name} is used as {known.shape} and as {shape}")
        self._params[name] = blank(shape)
        self._types[name] = TensorType(shape)
        return name

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor made so far."""
        return self._types[tensor].shape

    def channels(self, tensor: str) -> int:
        return self.shape(tensor)[1]

    def apply(self, op: Op, *inputs: str, name: str = "") -> str:
        """Add an operator with one output."""
        return self.apply_many(op, *inputs, names=(name,))[0]

    def apply_many(self, op: Op, *inputs: str, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Add an operator with several outputs (split)."""
        types = op.infer(*(self._types[name] if name else None for name in inputs))
        base = next((n for n in names if n), "") or f"{op.kind}_{len(self._nodes)}"
        outputs = (
            tuple(names)
            if len(names) == len(types) and all(names)
            else tuple(base if len(types) == 1 else f"{base}.{i}" for i in range(len(types)))
        )
        self._types.update(zip(outputs, types, strict=True))
        self._nodes.append(Node(base, op, inputs, outputs))
        return outputs

    def conv(
        self,
        x: str,
        out: int,
        kernel: Size,
        *,
        key: str,
        stride: Size = 1,
        pad: Size | tuple[int, int, int, int] = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> str:
        """Convolution with weights ``key.weight`` and, if asked for, ``key.bias``.

        ``pad``: one number, (vertical, horizontal), or (top, left, bottom, right).
        """
        kh, kw = pair(kernel)
        if isinstance(pad, int) or len(pad) == 2:
            v, h = pair(pad)
            pad = (v, h, v, h)
        op = Conv2d(stride=pair(stride), pad=pad, dilation=pair(dilation), groups=groups)
        inputs = [x, self.param(f"{key}.weight", (out, self.channels(x) // groups, kh, kw))]
        if bias:
            inputs.append(self.param(f"{key}.bias", (out,)))
        return self.apply(op, *inputs, name=key)

    def linear(self, x: str, out: int, *, key: str, bias: bool = True) -> str:
        """Fully connected layer on (n, k)."""
        inputs = [x, self.param(f"{key}.weight", (out, self.shape(x)[1]))]
        if bias:
            inputs.append(self.param(f"{key}.bias", (out,)))
        return self.apply(Linear(), *inputs, name=key)

    def batch_norm(self, x: str, *, key: str, eps: float = 1e-5) -> str:
        """Batch norm with ``key.weight``, ``.bias``, ``.running_mean`` and ``.running_var``."""
        c = (self.channels(x),)
        names = (f"{key}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
        return self.apply(BatchNorm(eps=eps), x, *(self.param(n, c) for n in names), name=key)

    def prelu(self, x: str, *, key: str, slopes: int | None = None) -> str:
        """PReLU with ``key.weight``: one slope per channel, or ``slopes=1`` for all."""
        count = self.channels(x) if slopes is None else slopes
        return self.apply(PReLU(), x, self.param(f"{key}.weight", (count,)), name=key)

    def build(self, *outputs: str, **renamed: str) -> Graph:
        """The finished, validated graph.

        ``build(embedding=x)`` gives the tensor ``x`` the name by which a caller gets it.
        """
        new = {tensor: name for name, tensor in renamed.items()}

        def rename(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(new.get(name, name) for name in names)

        nodes = tuple(
            replace(node, inputs=rename(node.inputs), outputs=rename(node.outputs))
            for node in self._nodes
        )
        return Graph(self.name, self._inputs, (*outputs, *renamed), nodes, self._params)
