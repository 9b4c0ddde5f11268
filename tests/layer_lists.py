"""Layer lists of the public implementations (shared material), and the same lists of our graphs.

A list holds every leaf module in the order in which it ran: name, type, attributes, input and
output shape (channels x height x width).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from typing import NamedTuple

from shared import SHARED

from tinyface import ops
from tinyface.graph import Graph, Node

FOLDER = SHARED / "specs" / "layers"


# file -> (name in the registry, options), where it is more than a different spelling
BUILDS: dict[str, tuple[str, dict[str, object]]] = {
    "cnn-8_x1": ("cnn-8", {}),
    "cnn-8-ds_x1": ("cnn-8-ds", {}),
    "ghostfacenets_v1_ellzaf_1.3": ("ghostfacenet-v1-1.3-port", {}),
    "ghostfacenets_v2_ellzaf_1.3": ("ghostfacenet-v2-1.3-port", {}),
    "mobilefacenet_arcface_torch_mbf": ("mobilefacenet-arcface", {}),
    "mobilefacenet_relu6_128": ("mobilefacenet-relu6", {}),
    "mobilefacenet_treb1en_128": ("mobilefacenet", {}),
    "mobilefacenet_treb1en_512": ("mobilefacenet-512", {}),
    "mobilefacenet_xiaoccer_112x96": ("mobilefacenet-xiaoccer", {}),
    "pocketnetm_128": ("pocketnet-m-128", {}),
    "pocketnetm_256": ("pocketnet-m-256", {}),
    "pocketnets_128": ("pocketnet-s-128", {}),
    "pocketnets_256": ("pocketnet-s-256", {}),
    "proxylessfacenas_cpu_512": ("proxylessfacenas-cpu", {}),
    "proxylessfacenas_gpu_512": ("proxylessfacenas-gpu", {}),
    "proxylessfacenas_mobile_512": ("proxylessfacenas-mobile", {}),
    "retinaface_mnet025_250x330": ("retinaface-mnet0.25", {"size": (250, 330)}),
    "retinaface_mnet025_320x320": ("retinaface-mnet0.25", {}),
    "ssd4_rfb_240x320": ("ssd4-rfb", {}),
    "ssd4_slim_240x320": ("ssd4-slim", {}),
}


class Layer(NamedTuple):
    """A leaf module. ``attributes`` are those that change the result, in one spelling."""

    name: str
    kind: str
    attributes: str
    input: str
    output: str


# modules that do nothing, and the classifier that is not part of the network
IGNORED = ("Identity", "Dropout", "Sequential", "ProxylessUnit")
LEARNED = ("Conv", "Linear", "BatchNorm", "PReLU")


def public(file: str) -> list[Layer]:
    """The list in the shared material."""
    with open(FOLDER / f"{file}.tsv", encoding="utf-8", newline="") as f:
        rows = list(csv.reader(f, delimiter="\t"))[1:]
    return [
        _canonical(name, kind, attributes, before, after)
        for _, name, kind, attributes, before, after in rows
        if kind not in IGNORED and name != "fc2" and attributes != "output_size=7"
    ]


def _canonical(name: str, kind: str, attributes: str, before: str, after: str) -> Layer:
    kind = re.sub(r"^(Conv|BatchNorm)\d?d.*", r"\1", kind)
    if kind == "Conv" and "x" not in re.findall(r"k=(\S+)", attributes)[0]:
        kind = "Linear"  # a 1-d convolution over a single position
        attributes = re.sub(r" k=.* bias", " bias", attributes)
    if kind == "MaxPool2d" or kind == "AvgPool2d":
        attributes = re.sub(r" (ceil_mode|count_include_pad).*", "", attributes)
    if kind == "AdaptiveAvgPool2d":
        attributes = ""
    attributes = re.sub(r" p=same", "", attributes) if "p=same" in attributes else attributes
    return Layer(name, kind, attributes, _plain(before), _plain(after))


def _plain(shape: str) -> str:
    """A shape without ones at its end: 512x1x1 is 512."""
    return re.sub(r"(x1)+$", "", shape)


def ours(graph: Graph, same: bool) -> list[Layer]:
    """The list of a graph; ``same``: without the pads of spatial convolutions."""
    return [layer for node in graph.nodes if (layer := _layer(graph, node, same))]


def _layer(graph: Graph, node: Node, same: bool) -> Layer | None:
    op, types = node.op, graph.types
    before, after = types[node.inputs[0]].shape, types[node.outputs[0]].shape
    kinds = {
        ops.ReLU: ("ReLU", ""), ops.Sigmoid: ("Sigmoid", ""), ops.Flatten: ("Flatten", ""),
        ops.GlobalAveragePool: ("AdaptiveAvgPool2d", ""),
    }  # fmt: skip
    if isinstance(op, ops.Conv2d):
        o, per_group, kh, kw = types[node.inputs[1]].shape
        pad = "" if same and max(kh, kw) > 1 and op.groups != o * (after[2] == 1) else (
            f" p={op.pad[0]}x{op.pad[1]}"
        )  # fmt: skip
        bias = int(len(node.inputs) > 2)
        kind, text = "Conv", (
            f"in={per_group * op.groups} out={o} k={kh}x{kw} s={op.stride[0]}{pad} "
            f"d={op.dilation[0]} g={op.groups} bias={bias}"
        )  # fmt: skip
    elif isinstance(op, ops.Linear):
        o, i = types[node.inputs[1]].shape
        kind, text = "Linear", f"in={i} out={o} bias={int(len(node.inputs) > 2)}"
    elif isinstance(op, ops.BatchNorm):
        kind, text = "BatchNorm", f"c={before[1]} eps={op.eps:g}"
    elif isinstance(op, ops.PReLU):
        kind, text = "PReLU", f"slopes={types[node.inputs[1]].size}"
    elif isinstance(op, ops.LeakyReLU):
        kind, text = "LeakyReLU", f"slope={op.alpha:g}"
    elif isinstance(op, ops.Clip) and (op.low, op.high) == (0, 6):
        kind, text = "ReLU6", ""
    elif isinstance(op, (ops.MaxPool, ops.AveragePool)):
        kind = "MaxPool2d" if isinstance(op, ops.MaxPool) else "AvgPool2d"
        text = f"kernel_size={op.kernel[0]} stride={op.stride[0]} padding={op.pad[0]}"
    elif type(op) in kinds:
        kind, text = kinds[type(op)]
    else:
        return None
    sides = ("x".join(map(str, shape[1:])) for shape in (before, after))
    return Layer(node.name, kind, text, *map(_plain, sides))


def learned(layers: list[Layer]) -> list[Layer]:
    """The layers with weights: these must agree in name, attributes, shapes and order."""
    return [layer for layer in layers if layer.kind in LEARNED]


def fixed(layers: list[Layer]) -> Counter[tuple[str, ...]]:
    """The layers without weights, by what they do. Public code calls some of them as functions,
    which leaves no trace in its list."""
    return Counter(layer[1:] for layer in layers if layer.kind not in LEARNED)
