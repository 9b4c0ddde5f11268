"""Makers of safetensors files that break one rule each."""

from __future__ import annotations

import json
from typing import Any

CONV = {
    "name": "c",
    "op": {"kind": "conv2d"},
    "inputs": ["input", "w"],
    "outputs": ["y"],
}
GRAPH: dict[str, Any] = {
    "name": "g",
    "inputs": {"input": [1, 1, 4, 4]},
    "outputs": ["y"],
    "nodes": [CONV],
}
CARD: dict[str, Any] = {
    "name": "m",
    "task": "embed",
    "preprocess": {"height": 4, "width": 4, "colour": "gray", "mean": [0.0], "scale": [1.0]},
    "embedding_size": 2,
}
TENSOR = {"dtype": "F32", "shape": [2, 1, 1, 1], "data_offsets": [0, 8]}
MODEL: dict[str, Any] = {"format": 1, "graph": GRAPH, "card": CARD}


def container(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A safetensors file; a header that is not bytes is written as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def model(
    document: Any = None,
    tensors: dict[str, Any] | None = None,
    data: bytes = bytes(8),
    **changes: Any,
) -> bytes:
    """A model file; ``changes`` replace parts of its graph (or of the card, with ``card_``)."""
    if document is None:
        card = CARD | {k[5:]: v for k, v in changes.items() if k.startswith("card_")}
        graph = GRAPH | {k: v for k, v in changes.items() if not k.startswith("card_")}
        document = {"format": 1, "graph": graph, "card": card}
    text = document if isinstance(document, str) else json.dumps(document)
    return container(
        {"__metadata__": {"tinyface": text}} | ({"w": TENSOR} if tensors is None else tensors), data
    )


def tensor(**changes: Any) -> dict[str, Any]:
    return {"w": TENSOR | changes}


def node(**changes: Any) -> list[dict[str, Any]]:
    return [CONV | changes]


# rule -> (file, what the error says)
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "seven bytes": (bytes(7), "too short"),
    "header length 0": (bytes(8), "not valid JSON"),
    "header length 2^63": (container({}, length=1 << 63), "at most 8388608"),
    "header over the cap": (container({}, length=(8 << 20) + 1), "at most 8388608"),
    "header longer than the file": (container({}, length=1000), "truncated within the header"),
    "header not JSON": (container(b"hello"), "not valid JSON"),
    "header not UTF-8": (container(b'{"\xff\xfe": 1}'), "not valid JSON"),
    "header not an object": (container([1]), "not a JSON object"),
    "header with NaN": (container(b'{"w": NaN}'), "NaN is not a JSON number"),
    "header with an endless number": (container(b'{"w": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "key twice": (container(b'{"w": 1, "w": 1}'), "same key twice"),
    "deep JSON": (container(b'{"w": ' + b"[" * 50 + b"]" * 50 + b"}"), "nested deeper"),
    "very deep JSON": (container(b"[" * 100_000), "nested too deeply"),
    "metadata not an object": (container({"__metadata__": [1]}), "metadata"),
    "metadata not text": (container({"__metadata__": {"tinyface": 1}}), "metadata"),
    "too many tensors": (container({str(i): 0 for i in range(20_001)}), "20001 tensors"),
    "nameless tensor": (model(tensors={"": TENSOR}), "is named ''"),
    "tensor with an escape sequence": (model(tensors={"\x1b[2J": TENSOR}), "is named"),
    "tensor with a long name": (model(tensors={"w" * 513: TENSOR}), "513 characters"),
    "tensor not an object": (model(tensors={"w": 1}), "expected are dtype"),
    "tensor with another field": (model(tensors=tensor(extra=1)), "expected are dtype"),
    "tensor without shape": (
        model(tensors={"w": {"dtype": "F32", "data_offsets": [0, 8]}}),
        "expected are dtype",
    ),
    "unknown dtype": (model(tensors=tensor(dtype="F8_E4M3")), "F8_E4M3"),
    "dtype a list": (model(tensors=tensor(dtype=[])), "element type"),
    "shape a number": (model(tensors=tensor(shape=2)), "list of sizes"),
    "shape negative": (model(tensors=tensor(shape=[-2, -1, 1, 1])), "list of sizes"),
    "shape of floats": (model(tensors=tensor(shape=[2.0, 1, 1, 1])), "list of sizes"),
    "shape of booleans": (model(tensors=tensor(shape=[True, 2, 1, 1])), "list of sizes"),
    "rank 9": (model(tensors=tensor(shape=[2] + [1] * 8)), "at most 8 sides"),
    "side over the cap": (model(tensors=tensor(shape=[1 << 31, 0])), "at most 8 sides"),
    "shape product overflows": (
        model(tensors=tensor(shape=[1 << 24] * 8)),
        "the offsets give 8",
    ),
    "shape and bytes differ": (model(tensors=tensor(shape=[3, 1, 1, 1])), "needs 12 bytes"),
    "offsets not a pair": (model(tensors=tensor(data_offsets=[0, 8, 8])), "two positions"),
    "offsets negative": (model(tensors=tensor(data_offsets=[-8, 0])), "two positions"),
    "offsets backwards": (model(tensors=tensor(data_offsets=[8, 0])), "two positions"),
    "offsets of floats": (model(tensors=tensor(data_offsets=[0.0, 8.0])), "two positions"),
    "offsets overflow": (
        model(tensors=tensor(data_offsets=[(1 << 64) - 8, 1 << 64])),
        "preceded by a hole",
    ),
    "tensors overlap": (
        model(tensors={"w": TENSOR, "v": TENSOR | {"shape": [1], "data_offsets": [4, 8]}}),
        "overlaps another one",
    ),
    "two tensors at one place": (model(tensors={"w": TENSOR, "v": TENSOR}), "overlaps"),
    "hole in front": (
        model(tensors=tensor(data_offsets=[4, 12]), data=bytes(12)),
        "preceded by a hole",
    ),
    "truncated data": (model(data=bytes(7)), "truncated"),
    "bytes behind": (model(data=bytes(9)), "1 bytes follow"),
    "tensor over the cap": (
        container(
            {"w": {"dtype": "F32", "shape": [1 << 20, 257], "data_offsets": [0, 257 << 22]}}, b""
        ),
        "at most 1073741824",
    ),
    "no description": (container({"w": TENSOR}), "tinyface import"),
    "description not JSON": (model("x"), "not valid JSON"),
    "description not an object": (model([1]), "names no format"),
    "description without format": (model({"graph": GRAPH, "card": CARD}), "names no format"),
    "description of the future": (model(MODEL | {"format": 2}), "format 2"),
    "format true": (model(MODEL | {"format": True}), "names no format"),
    "description with more": (model(MODEL | {"code": "x"}), "expected are format"),
    "description without card": (model({"format": 1, "graph": GRAPH}), "expected are format"),
    "description names a key twice": (
        model('{"format": 1, "format": 1, "graph": {}, "card": {}}'),
        "same key twice",
    ),
    "description with infinity": (
        model('{"format": 1, "graph": {}, "card": Infinity}'),
        "Infinity is not a JSON number",
    ),
    "description nested deeply": (
        model('{"format": 1, "graph": {}, "card": ' + "[" * 40 + "]" * 40 + "}"),
        "nested deeper",
    ),
    "description with control characters": (
        model(card_name="\x1b[31mred"),
        "control characters",
    ),
    "weights of integers": (model(tensors=tensor(dtype="I32")), "int32"),
    "weight NaN": (model(data=bytes(6) + b"\xc0\x7f"), "not finite"),
    "weight infinite": (model(data=bytes(6) + b"\x80\xff"), "not finite"),
    "weight of no element": (
        model(tensors=tensor(shape=[0, 1, 1, 1], data_offsets=[0, 0]), data=b""),
        "side of 0",
    ),
    "tensor that nothing reads": (
        model(
            tensors={"w": TENSOR, "v": TENSOR | {"data_offsets": [8, 16]}},
            data=bytes(16),
        ),
        "no operator of the network reads the tensor 'v'",
    ),
    "unaligned tensor": (
        model(
            tensors={
                "v": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
                "w": TENSOR | {"data_offsets": [2, 10]},
            },
            data=bytes(10),
        ),
        "not aligned",
    ),
    # the graph
    "graph not an object": (model(MODEL | {"graph": 1}), "not a graph description"),
    "graph of lists": (model(MODEL | {"graph": []}), "not a graph description"),
    "graph without nodes": (
        model(MODEL | {"graph": {"name": "g", "inputs": {}, "outputs": []}}),
        "not a graph description",
    ),
    "missing tensor": (model(nodes=node(inputs=["input", "v"])), "reads 'v'"),
    "output that is not computed": (model(outputs=["z"]), "output 'z'"),
    "no outputs": (model(outputs=[]), "no outputs"),
    "operator that reads itself": (model(nodes=node(inputs=["y", "w"])), "reads 'y'"),
    "cycle": (
        model(nodes=[CONV | {"inputs": ["z", "w"]}, CONV | {"name": "d", "outputs": ["z"]}]),
        "reads 'z'",
    ),
    "tensor defined twice": (model(nodes=node(outputs=["w"])), "defined twice"),
    "operators of one name": (model(nodes=[CONV, CONV | {"outputs": ["z"]}]), "this name"),
    "unknown operator": (model(nodes=node(op={"kind": "exec"})), "unknown operator 'exec'"),
    "operator without kind": (model(nodes=node(op={})), "'kind'"),
    "operator a text": (model(nodes=node(op="conv2d")), "'kind'"),
    "unknown attribute": (model(nodes=node(op={"kind": "conv2d", "x": 1})), "no attribute 'x'"),
    "stride 0": (model(nodes=node(op={"kind": "conv2d", "stride": [0, 0]})), "stride"),
    "stride huge": (model(nodes=node(op={"kind": "conv2d", "stride": [1 << 40, 1]})), "stride"),
    "stride a text": (model(nodes=node(op={"kind": "conv2d", "stride": "11"})), "stride"),
    "dilation of rank 1": (model(nodes=node(op={"kind": "conv2d", "dilation": [1]})), "dilation"),
    "groups do not divide": (model(nodes=node(op={"kind": "conv2d", "groups": 3})), "groups"),
    "pad negative": (model(nodes=node(op={"kind": "conv2d", "pad": [-1, 0, 0, 0]})), "pad"),
    "too few inputs": (model(nodes=node(inputs=["input"])), "takes"),
    "too many outputs": (model(nodes=node(outputs=["y", "z"])), "outputs"),
    "input of 2^31": (model(inputs={"input": [1, 1, 1 << 31, 4]}), "side of"),
    "input over the memory": (model(inputs={"input": [1 << 20, 1, 1 << 20, 4]}), "bytes"),
    "input shape of text": (model(inputs={"input": ["1", 1, 4, 4]}), "not an integer"),
    "work over the limit": (model(inputs={"input": [1, 1, 1 << 14, 1 << 14]}), "limit|bytes"),
    "a million operators": (
        model(nodes=[{"name": str(i)} | CONV for i in range(10_001)]),
        "more than 10000|at most",
    ),
    "nested operators": (
        model(
            nodes=node(op={"kind": "conv2d", "act": {"kind": "conv2d", "act": {"kind": "relu"}}})
        ),
        "nested too deeply",
    ),
    # the card
    "card a list": (model(MODEL | {"card": []}), "card"),
    "card without name": (
        model(MODEL | {"card": {"task": "embed", "preprocess": {}}}),
        "no 'name'",
    ),
    "card with more": (model(card_code="x"), "unknown fields"),
    "card nameless": (model(card_name=""), "name"),
    "card name a number": (model(card_name=7), "name"),
    "unknown task": (model(card_task="fly"), "task"),
    "task a list": (model(card_task=[]), "task"),
    "embedding of -1": (model(card_embedding_size=-1), "embedding_size"),
    "embedding of 1.5": (model(card_embedding_size=1.5), "embedding_size"),
    "thresholds a list": (model(card_thresholds=[0.3]), "thresholds"),
    "threshold over 1": (model(card_thresholds={"1e-3": 2}), "thresholds"),
    "threshold a text": (model(card_thresholds={"1e-3": "0.3"}), "thresholds"),
    "threshold at rate 0": (model(card_thresholds={"0": 0.3}), "thresholds"),
    "threshold at rate nan": (model(card_thresholds={"nan": 0.3}), "thresholds"),
    "threshold at rate x": (model(card_thresholds={"x": 0.3}), "thresholds"),
    "figures a text": (model(card_figures="good"), "figures"),
    "figures infinite": (
        model(json.dumps(MODEL).replace('"embedding_size"', '"figures": {"a": 1e999}, "x"')),
        "unknown fields|figures",
    ),
    "detector nested": (model(card_detector={"a": [[[[[[1]]]]]]}), "detector"),
    "checksum": (model(card_checksum="abc"), "checksum"),
    "licence too long": (model(card_licence="x" * 20_001), "licence"),
    "no preprocess height": (model(card_preprocess={"width": 4}), "no 'height'"),
    "preprocess a number": (model(card_preprocess=1), "preprocess"),
    "preprocess with more": (
        model(card_preprocess=CARD["preprocess"] | {"x": 1}),
        "unknown fields",
    ),
    "preprocess size 0": (model(card_preprocess=CARD["preprocess"] | {"height": 0}), "height"),
    "preprocess size huge": (
        model(card_preprocess=CARD["preprocess"] | {"width": 1 << 20}),
        "width",
    ),
    "preprocess colour": (model(card_preprocess=CARD["preprocess"] | {"colour": "hsv"}), "colour"),
    "preprocess colour a list": (
        model(card_preprocess=CARD["preprocess"] | {"colour": []}),
        "colour",
    ),
    "preprocess means": (model(card_preprocess=CARD["preprocess"] | {"mean": [1, 2]}), "mean"),
    "preprocess mean a text": (model(card_preprocess=CARD["preprocess"] | {"mean": "1"}), "mean"),
    "preprocess mean huge": (
        model(card_preprocess=CARD["preprocess"] | {"mean": [1 << 70]}),
        "mean",
    ),
    "preprocess scale 0": (model(card_preprocess=CARD["preprocess"] | {"scale": [0]}), "scale"),
}
