"""Random weights for tests and benchmarks. They make no sense of any face."""

from __future__ import annotations

import math
import zlib

import numpy as np

from tinyface.graph import Graph
from tinyface.ops import BatchNorm, PReLU
from tinyface.ops.spec import Array


def random_state(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Weights for every parameter of a graph: float32, the same for the same name and seed.

    Convolutions and linear maps get normal values of variance 2 / fan-in (He et al. 2015), batch
    norms positive variances near 1: maps do not vanish, and although residual networks make
    them grow (to 1e12 in PocketNet), they stay far from what float32 can hold.
    """
    roles = _roles(graph)
    return {
        key: _draw(roles.get(key, "weight"), graph.types[key].shape, key, seed)
        for key in graph.params
    }


def _roles(graph: Graph) -> dict[str, str]:
    """What each parameter is, from the operator that reads it."""
    roles: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, BatchNorm):
            roles.update(zip(node.inputs[1:], ("gamma", "beta", "mean", "var"), strict=True))
        elif isinstance(node.op, PReLU):
            roles[node.inputs[1]] = "slope"
        else:
            names = ("weight", "bias", "slope")
            roles.update({n: role for n, role in zip(node.inputs[1:], names, strict=False) if n})
    return roles


def _draw(role: str, shape: tuple[int, ...], key: str, seed: int) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if role in ("gamma", "var"):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if role == "slope":
        return rng.uniform(0.05, 0.45, shape).astype(np.float32)
    if role in ("beta", "bias", "mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    deviation = math.sqrt(2 / math.prod(shape[1:]))
    weight: Array = (rng.standard_normal(shape) * deviation).astype(np.float32)
    return weight
