"""Write a graph as ONNX, so that nobody who uses tinyface is locked in.

Every operator becomes the ONNX operators that mean the same at opset 17; what was fused is
taken apart again (Conv, Add, activation). Batch size stays free, and image size with it
wherever the network allows other sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from tinyface.errors import GraphError, MissingExtraError
from tinyface.files import atomic_write
from tinyface.formats.card import Card
from tinyface.formats.onnx_axes import batch_of, larger
from tinyface.formats.onnx_file import CARD_KEY
from tinyface.formats.onnx_writer import Emit, Writer, simple
from tinyface.graph import Graph, Node
from tinyface.ops import FUSABLE
from tinyface.ops.activation import CUBIC

OPSET = 17
IR_VERSION = 8


def _activation(w: Writer, op: Any, x: str, slope: str, y: str, rank: int) -> None:
    if op.kind == "prelu":
        shaped = w.graph.params[slope].reshape((-1,) + (1,) * (rank - 2)) if rank > 2 else None
        name = w.param(slope) if shaped is None else w.constant(y, shaped, np.float32)
        w.emit("PRelu", [x, name], [y])
    elif op.kind == "clip":
        low, high = (w.constant(y, v, np.float32) for v in (op.low, op.high))
        w.emit("Clip", [x, low, high], [y])
    elif op.kind in ("silu", "gelu"):
        _smooth(w, op, x, y)
    else:
        kind = {
            "relu": "Relu", "leaky_relu": "LeakyRelu", "sigmoid": "Sigmoid", "tanh": "Tanh",
            "hard_sigmoid": "HardSigmoid", "hard_swish": "HardSwish", "erf": "Erf",
        }[op.kind]  # fmt: skip
        attrs = {k: getattr(op, k) for k in ("alpha", "beta") if hasattr(op, k)}
        w.emit(kind, [x], [y], **attrs)


def _smooth(w: Writer, op: Any, x: str, y: str) -> None:
    """Activations that ONNX has no operator for (GELU: before opset 20)."""
    if op.kind == "silu":
        w.emit("Sigmoid", [x], [w.part(y, "gate")])
        w.emit("Mul", [x, w.part(y, "gate")], [y])
        return
    one, half = (w.constant(y, v, np.float32) for v in (1.0, 0.5))
    curve = "Tanh" if op.tanh else "Erf"
    if op.tanh:
        _bent(w, x, y, w.part(y, "scaled"))
    else:
        root = w.constant(y, math.sqrt(2), np.float32)
        w.emit("Div", [x, root], [w.part(y, "scaled")])
    w.emit(curve, [w.part(y, "scaled")], [w.part(y, "curve")])
    w.emit("Add", [w.part(y, "curve"), one], [w.part(y, "share")])
    w.emit("Mul", [x, w.part(y, "share")], [w.part(y, "double")])
    w.emit("Mul", [w.part(y, "double"), half], [y])


def _bent(w: Writer, x: str, y: str, z: str) -> None:
    """sqrt(2 / pi) (x + 0.044715 x^3), for the GELU y by tanh."""
    square, cube, small, whole = (w.part(y, p) for p in ("square", "cube", "small", "whole"))
    w.emit("Mul", [x, x], [square])
    w.emit("Mul", [square, x], [cube])
    w.emit("Mul", [cube, w.constant(y, CUBIC, np.float32)], [small])
    w.emit("Add", [x, small], [whole])
    w.emit("Mul", [whole, w.constant(y, math.sqrt(2 / math.pi), np.float32)], [z])


def _stand_alone(w: Writer, node: Node, op: Any) -> None:
    slope = node.inputs[1] if len(node.inputs) > 1 else ""
    _activation(w, op, node.inputs[0], slope, node.outputs[0], w.rank(node.inputs[0]))


def _with_epilogue(
    w: Writer, node: Node, op: Any, product: Callable[[list[str], str], None]
) -> None:
    """Conv or Gemm, then what was fused behind it."""
    x, weight, bias, slope, residual = (*node.inputs, "", "", "", "")[:5]
    y = node.outputs[0]
    stage = w.part(y, "product") if residual or op.act else y
    product([x, w.param(weight), *([w.param(bias)] if bias else [])], stage)
    if residual:
        summed = w.part(y, "sum") if op.act else y
        w.emit("Add", [stage, w.param(residual)], [summed])
        stage = summed
    if op.act:
        _activation(w, op.act, stage, slope, y, w.rank(y))


def _conv2d(w: Writer, node: Node, op: Any) -> None:
    def product(inputs: list[str], y: str) -> None:
        attrs = {"strides": op.stride, "pads": op.pad, "dilations": op.dilation, "group": op.groups}
        w.emit("Conv", inputs, [y], kernel_shape=w.graph.types[node.inputs[1]].shape[2:], **attrs)

    _with_epilogue(w, node, op, product)


def _linear(w: Writer, node: Node, op: Any) -> None:
    def product(inputs: list[str], y: str) -> None:
        if w.rank(inputs[0]) == 2:
            w.emit("Gemm", inputs, [y], transB=1)
            return
        x, weight, *bias = inputs  # Gemm knows matrices only
        turned = w.part(y, "weight")
        w.emit("Transpose", [weight], [turned], perm=(1, 0))
        w.emit("MatMul", [x, turned], [w.part(y, "rows") if bias else y])
        if bias:
            w.emit("Add", [w.part(y, "rows"), *bias], [y])

    _with_epilogue(w, node, op, product)


def _pool(kind: str) -> Emit:
    def emit(w: Writer, node: Node, op: Any) -> None:
        attrs: dict[str, Any] = {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.pad}
        attrs["ceil_mode"] = int(op.ceil)
        if kind == "AveragePool":
            attrs["count_include_pad"] = int(op.count_include_pad)
        if tuple(op.dilation) != (1, 1):
            if kind == "AveragePool":
                raise GraphError(f"{node.name}: ONNX opset {OPSET} has no dilated average pooling")
            attrs["dilations"] = op.dilation
        w.emit(kind, node.inputs, node.outputs, **attrs)

    return emit


_CENTRES: Final = {"bilinear": "half_pixel", "corners": "align_corners"}


def _resize(w: Writer, node: Node, op: Any) -> None:
    x, y = node.inputs[0], node.outputs[0]
    like = node.inputs[1] if len(node.inputs) > 1 else ""
    modes = (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if op.mode == "nearest"
        else {"mode": "linear", "coordinate_transformation_mode": _CENTRES[op.mode]}
    )
    if not like and op.size == (0, 0):
        scales = w.constant(y, (1, 1, *op.scale), np.float32)
        w.emit("Resize", [x, "", scales], [y], **modes)
        return
    w.emit("Shape", [x], [w.part(y, "nc")], start=0, end=2)
    if like:
        w.emit("Shape", [like], [w.part(y, "hw")], start=2, end=4)
        side = w.part(y, "hw")
    else:
        side = w.constant(y, op.size)
    w.emit("Concat", [w.part(y, "nc"), side], [w.part(y, "size")], axis=0)
    w.emit("Resize", [x, "", "", w.part(y, "size")], [y], **modes)


def _max_feature_map(w: Writer, node: Node, op: Any) -> None:
    y = node.outputs[0]
    w.emit("Split", node.inputs, [w.part(y, "a"), w.part(y, "b")], axis=1)
    w.emit("Max", [w.part(y, "a"), w.part(y, "b")], [y])


def _channel_shuffle(w: Writer, node: Node, op: Any) -> None:
    x, y = node.inputs[0], node.outputs[0]
    c = w.graph.types[x].shape[1]
    apart = w.constant(y, (0, op.groups, c // op.groups, -1))  # (n, g, c/g, h w)
    w.emit("Shape", [x], [w.part(y, "shape")])
    w.emit("Reshape", [x, apart], [w.part(y, "apart")])
    w.emit("Transpose", [w.part(y, "apart")], [w.part(y, "dealt")], perm=(0, 2, 1, 3))
    w.emit("Reshape", [w.part(y, "dealt"), w.part(y, "shape")], [y])


def _interleave(w: Writer, node: Node, op: Any) -> None:
    y, (bh, bw) = node.outputs[0], op.block
    w.emit("Concat", node.inputs, [w.part(y, "parts")], axis=1)
    if bh == bw:
        w.emit("DepthToSpace", [w.part(y, "parts")], [y], blocksize=bh)
        return
    _, c, h, w_ = w.graph.types[node.inputs[0]].shape
    w.emit(
        "Reshape", [w.part(y, "parts"), w.constant(y, (0, bh, bw, c, h, w_))], [w.part(y, "block")]
    )
    w.emit("Transpose", [w.part(y, "block")], [w.part(y, "rows")], perm=(0, 3, 4, 1, 5, 2))
    w.emit("Reshape", [w.part(y, "rows"), w.constant(y, (0, c, h * bh, w_ * bw))], [y])


def _split(w: Writer, node: Node, op: Any) -> None:
    sizes = w.constant(node.name, op.sizes)
    w.emit("Split", [node.inputs[0], sizes], node.outputs, axis=op.axis)


def _slice(w: Writer, node: Node, op: Any) -> None:
    parts = [w.constant(node.name, v) for v in (op.starts, op.ends, op.axes, op.steps)]
    w.emit("Slice", [node.inputs[0], *parts], node.outputs)


def _pad(w: Writer, node: Node, op: Any) -> None:
    widths = w.constant(node.name, (*op.before, *op.after))
    value = w.constant(node.name, op.value, np.float32)
    w.emit("Pad", [node.inputs[0], widths, value], node.outputs)


def _reshape(w: Writer, node: Node, op: Any) -> None:
    w.emit("Reshape", [node.inputs[0], w.constant(node.name, op.shape)], node.outputs)


def _reduce(w: Writer, node: Node, op: Any) -> None:
    attrs: dict[str, Any] = {"keepdims": int(op.keepdims)}
    inputs = list(node.inputs)
    if op.mode == "sum":  # the one whose axes had become an input by opset 13
        inputs.append(w.constant(node.name, op.axes))
    else:
        attrs["axes"] = op.axes
    kind = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "l2": "ReduceL2"}
    w.emit(kind[op.mode], inputs, node.outputs, **attrs)


def _l2_normalize(w: Writer, node: Node, op: Any) -> None:
    x, y = node.inputs[0], node.outputs[0]
    w.emit("ReduceL2", [x], [w.part(y, "norm")], axes=[op.axis], keepdims=1)
    w.emit("Max", [w.part(y, "norm"), w.constant(y, op.eps, np.float32)], [w.part(y, "safe")])
    w.emit("Div", [x, w.part(y, "safe")], [y])


def _layer_norm(w: Writer, node: Node, op: Any) -> None:
    """Of another axis than the last one between two transpositions."""
    x, y = node.inputs[0], node.outputs[0]
    rank = w.rank(x)
    axis = op.axis % rank
    side = w.graph.types[x].shape[axis]
    given = [w.param(name) for name in node.inputs[1:]]
    given = given or [w.constant(y, np.ones(side), np.float32)]
    perm = (*(i for i in range(rank) if i != axis), axis)
    last = axis == rank - 1
    if not last:
        w.emit("Transpose", [x], [w.part(y, "turned")], perm=perm)
    source, result = (x, y) if last else (w.part(y, "turned"), w.part(y, "normalised"))
    w.emit("LayerNormalization", [source, *given], [result], axis=-1, epsilon=op.eps)
    if not last:
        w.emit("Transpose", [result], [y], perm=tuple(int(i) for i in np.argsort(perm)))


def _matmul(w: Writer, node: Node, op: Any) -> None:
    y = node.outputs[0]
    inputs = [w.param(name) for name in node.inputs]
    w.emit("MatMul", inputs, [w.part(y, "product") if op.scale != 1 else y])
    if op.scale != 1:
        w.emit("Mul", [w.part(y, "product"), w.constant(y, op.scale, np.float32)], [y])


def _compare(w: Writer, node: Node, op: Any) -> None:
    """Truth values, as numbers."""
    kind = "".join(part.capitalize() for part in op.mode.split("_"))
    kind = {"GreaterEqual": "GreaterOrEqual", "LessEqual": "LessOrEqual"}.get(kind, kind)
    w.emit(kind, [w.param(name) for name in node.inputs], [w.part(node.outputs[0], "true")])
    w.emit("Cast", [w.part(node.outputs[0], "true")], node.outputs, to=1)


def _where(w: Writer, node: Node, op: Any) -> None:
    condition, *others = (w.param(name) for name in node.inputs)
    truth = w.part(node.outputs[0], "truth")
    w.emit("Cast", [condition], [truth], to=9)
    w.emit("Where", [truth, *others], node.outputs)


EMIT: dict[str, Emit] = {
    "conv2d": _conv2d,
    "linear": _linear,
    **dict.fromkeys((cls.kind for cls in FUSABLE), _stand_alone),
    "softmax": simple("Softmax", "axis"),
    "exp": simple("Exp"),
    "sqrt": simple("Sqrt"),
    "log": simple("Log"),
    "softplus": simple("Softplus"),
    "batch_norm": lambda w, node, op: w.emit(
        "BatchNormalization", [w.param(n) for n in node.inputs], node.outputs, epsilon=op.eps
    ),
    "l2_normalize": _l2_normalize,
    "layer_norm": _layer_norm,
    "matmul": _matmul,
    "max_pool": _pool("MaxPool"),
    "average_pool": _pool("AveragePool"),
    "global_average_pool": simple("GlobalAveragePool"),
    "global_max_pool": simple("GlobalMaxPool"),
    "add": simple("Add"),
    "sub": simple("Sub"),
    "mul": simple("Mul"),
    "div": simple("Div"),
    "maximum": simple("Max"),
    "compare": _compare,
    "where": _where,
    "max_feature_map": _max_feature_map,
    "reduce": _reduce,
    "resize": _resize,
    "concat": simple("Concat", "axis"),
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "flatten": simple("Flatten", "axis"),
    "transpose": simple("Transpose", "perm"),
    "channel_shuffle": _channel_shuffle,
    "interleave": _interleave,
    "identity": simple("Identity"),
}


def export_onnx(graph: Graph, path: str | Path, card: Card | None = None) -> None:
    """Write ``graph`` to ``path`` (ONNX opset 17, float32). The file appears whole or not at all.

    Args:
        card: goes along as JSON, under ``tinyface.card`` in the file's metadata.

    Raises:
        MissingExtraError: the package ``onnx`` is not installed.
        GraphError: an operator has no ONNX counterpart.
        UsageError: the file cannot be written.
    """
    model = to_onnx(graph)
    if card:
        text = json.dumps(card.to_json(), allow_nan=False)
        model.metadata_props.add(key=CARD_KEY, value=text)
    with atomic_write(path) as stream:
        stream.write(model.SerializeToString())


def to_onnx(graph: Graph) -> Any:
    """The ``onnx.ModelProto`` of a graph, checked by the ``onnx`` package. Errors as above."""
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise MissingExtraError("onnx>=1.16", "onnx", "writing ONNX files") from None
    w = Writer(graph)
    for node in graph.nodes:
        emit = EMIT.get(node.op.kind)
        if emit is None:
            raise GraphError(f"{node.name}: operator {node.op.kind!r} has no ONNX counterpart here")
        emit(w, node, node.op)

    bigger, batch = larger(graph), batch_of(graph)

    def value(name: str) -> Any:
        own, other = graph.types[name].shape[1:], bigger.types[name].shape[1:]
        pairs = enumerate(zip(own, other, strict=True), 1)
        sides = (a if a == b else f"{name}_{i}" for i, (a, b) in pairs)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, *sides))

    proto = helper.make_graph(
        w.nodes,
        graph.name,
        [value(name) for name in graph.inputs],
        [value(name) for name in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in w.constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(proto, opset_imports=opsets, producer_name="tinyface")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model
