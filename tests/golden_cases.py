"""Golden cases: a network, its weights, an input, and what the public implementation made of it.

A file of ``golden/networks`` is small because most weights are not in it: each is drawn again from
a generator seeded with the CRC-32 of its name. Stored are the statistics of the batch norms
(they were measured on data, so that maps keep a sane size) and the outputs, in float32 and in
float64. ``golden/README.md`` says where the files come from.

The project's shared material has the same cases, and more, in a longer form; :func:`from_shared`
reads that. The two differ in one point. There, the shifts of batch norms and some biases are
described as "normal, times sqrt(2), times 0.17677669…", a fitted factor that gives them back to
3e-7 only; the factors meant are 0.25 and 0.1, and with these the float64 outputs are met to
1e-13 instead of 1e-7.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from shared import SHARED

from tinyface import networks
from tinyface.graph import Graph
from tinyface.ops import BatchNorm, PReLU

HERE = Path(__file__).parent / "golden" / "networks"

MEASURED = ("mean", "var")  # roles of weights that are stored, not drawn


@dataclass(frozen=True)
class Case:
    """A network with its weights, ready to run, and the outputs it must give.

    outputs, exact: of the public implementation in float32 and in float64, by name. For
    detectors in ``golden/networks`` only every ``step``-th row.
    exactness: relative error with which the weights are known.
    meta: facts about the network (``params``, ``macs_conv_fc``, …).
    """

    name: str
    graph: Graph
    input: np.ndarray
    outputs: Mapping[str, np.ndarray]
    exact: Mapping[str, np.ndarray]
    step: int
    exactness: float
    meta: Mapping[str, Any]


# file -> name in the registry, where they differ in more than spelling
NAMES = {
    "cnn-8_x1": "cnn-8",
    "cnn-8-ds_x1": "cnn-8-ds",
    "dwfn_star_x1.25": "dwfn-star-x1.25",
    "ghostfacenets_v1_ellzaf_1.3": "ghostfacenet-v1-1.3-port",
    "ghostfacenets_v2_ellzaf_1.3": "ghostfacenet-v2-1.3-port",
    "mobilefacenet_treb1en_128": "mobilefacenet",
    "mobilefacenet_treb1en_512": "mobilefacenet-512",
    "mobilefacenet_xiaoccer_112x96": "mobilefacenet-xiaoccer",
    "pocketnetm_128": "pocketnet-m-128",
    "pocketnets_128": "pocketnet-s-128",
    "pocketnets_256": "pocketnet-s-256",
    "proxylessfacenas_cpu_512": "proxylessfacenas-cpu",
    "proxylessfacenas_gpu_512": "proxylessfacenas-gpu",
    "retinaface_mnet025_320x320": "retinaface-mnet0.25",
    "ssd4_slim_240x320": "ssd4-slim",
}
ALL = sorted(
    {
        *NAMES,
        *(f"cnn-14-ds_x{w}" for w in ("0.5", "1", "1.25")),
        *(f"cnn-8-fd_x{w}" for w in ("0.5", "0.75", "1", "1.25")),
        *(f"cnn-8-fd-pooling_x{w}" for w in ("0.5", "0.75")),
        *("dwfn", "fdfacenet", "fdfn_star", "nfn", "nfn_star"),
        *(f"ghostfacenet_v1_{v}" for v in ("1.0_s2", "1.3_s1", "1.3_s2")),
        *(f"ghostfacenet_v2_{v}" for v in ("1.0_s2", "1.3_s2")),
        *("lightcnn9", "lightcnn29", "lightfacenet", "proxylessfacenas_cpu_1432"),
        *("resnet18", "resnet50", "vargfacenet", "varkfacenet_train"),
        *(f"shufflefacenet_x{w}" for w in ("0.5", "1.0", "2.0")),
    }
)
FACTS = ("source", "params", "macs_conv_fc", "macs_paper_rule", "fmap_MB_unfused", "fmap_MB_fused")


def entry(name: str) -> networks.Entry:
    return networks.find(NAMES.get(name, name))


def load(name: str) -> Case | None:
    """The case from ``golden/networks``, else from the shared material; None without either."""
    if (HERE / f"{name}.safetensors").exists():
        return from_repository(name)
    return from_shared(name)


def draw_input(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def draw(role: str, key: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """The weight of that name."""
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    if role == "weight":
        x = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    elif role == "gamma":
        x = rng.uniform(0.7, 1.3, shape)
    elif role == "slope":
        x = rng.uniform(0.05, 0.45, shape)
    else:
        x = {"beta": 0.25, "bias": 0.1}[role] * rng.standard_normal(shape)
    return (x * scale).astype(np.float32)


def roles(graph: Graph) -> dict[str, str]:
    """What each weight is, from the operator that reads it."""
    result: dict[str, str] = {}
    for node in graph.nodes:
        parts = ("weight", "bias")
        if isinstance(node.op, BatchNorm):
            parts = ("gamma", "beta", "mean", "var")
        elif isinstance(node.op, PReLU):
            parts = ("slope",)
        weights = [name for name in node.inputs[1:] if name in graph.params]
        result |= dict(zip(weights, parts, strict=False))
    return result


# ------------------------------------------------------------------------------ our own files


def measured(graph: Graph) -> Iterator[tuple[str, int]]:
    """Name and length of the stored weights, in the order in which they are stored."""
    for key, role in sorted(roles(graph).items()):
        if role in MEASURED:
            yield key, graph.types[key].size


def from_repository(name: str) -> Case:
    with safe_open(HERE / f"{name}.safetensors", "np") as f:
        meta = json.loads(f.metadata()["golden"])
        stored = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    graph = entry(name).build()
    statistics = stored.pop("statistics", np.empty(0, np.float32))
    state, offset = {}, 0
    for key, size in measured(graph):
        state[key] = statistics[offset : offset + size]
        offset += size
    for key, role in roles(graph).items():
        if role not in MEASURED:
            seed, scale = meta["scales"].get(key, (key, 1.0))
            state[key] = draw(role, seed, graph.types[key].shape, scale)
    return _case(name, graph.bind(state), stored, meta, meta["step"])


def _case(
    name: str, graph: Graph, stored: Mapping[str, np.ndarray], meta: Mapping[str, Any], step: int
) -> Case:
    x = draw_input(meta["input_shape"])
    graph = graph.with_inputs({"input": x.shape})
    exact = {k.removesuffix("_f64"): v for k, v in stored.items() if k.endswith("_f64")}
    outputs = {k: v for k, v in stored.items() if not k.endswith("_f64")}
    exactness = 2e-5 if meta.get("scales") else 1e-9
    return Case(name, graph, x, outputs, exact, step, exactness, meta)


def write(name: str, step: int = 1) -> None:
    """Make the file of ``golden/networks`` from the shared one."""
    case = from_shared(name)
    assert case is not None, f"{SHARED} does not have {name}"
    tensors = {key: np.ascontiguousarray(v[..., ::step, :] if step > 1 else v)
               for key, v in case.outputs.items()}  # fmt: skip
    tensors |= {f"{key}_f64": np.ascontiguousarray(v[..., ::step, :] if step > 1 else v)
                for key, v in case.exact.items()}  # fmt: skip
    parts = [case.graph.params[key] for key, _ in measured(case.graph)]
    if parts:
        tensors["statistics"] = np.concatenate(parts).astype(np.float32)
    meta = {k: case.meta[k] for k in (*FACTS, "input_shape", "scales")} | {"step": step}
    HERE.mkdir(parents=True, exist_ok=True)
    save_file(tensors, HERE / f"{name}.safetensors", {"golden": json.dumps(meta)})


# ------------------------------------------------------------------------- the shared material


def from_shared(name: str) -> Case | None:
    path = SHARED / "golden" / f"{name}.safetensors"
    if not path.exists():
        return None
    with safe_open(path, "np") as f:
        meta = json.loads(f.metadata()["golden"])
        rules = json.loads(f.metadata()["state"])
        stored = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    described = {"normal_fan_in": "weight", "bn_gamma": "gamma", "bn_beta": "beta",
                 "prelu": "slope", "bias": "bias"}  # fmt: skip
    network = entry(name)
    graph = network.build()
    state, scales = {}, {}
    for key, rule in rules.items():
        shape, role = tuple(rule["shape"]), described.get(rule["rule"], rule["rule"])
        scale, seed = rule.get("scale", 1.0), rule.get("seed_key", key)
        if role == "weight" and len(shape) == 1:  # see the top of this file
            role, scale = ("beta", 1.0) if round(scale * math.sqrt(2), 3) == 0.25 else ("bias", 1.0)
        if role == "zeros":
            state[key] = np.zeros(shape, np.float32)
        elif role == "stored":
            state[key] = stored[f"state/{key}"]
        else:
            state[key] = draw(role, seed, shape, scale)
            if (seed, scale) != (key, 1.0) and key in graph.params:
                scales[key] = (seed, scale)
    meta["scales"] = scales
    outputs = {key: v for key, v in stored.items() if not key.startswith("state/")}
    return _case(name, network.bind(state), outputs, meta, 1)
