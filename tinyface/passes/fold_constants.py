"""Compute once what depends on no input."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from tinyface.graph import Graph
from tinyface.passes.rewrite import finish

LARGEST: Final = 1 << 22  # elements: what would be larger is computed when it is needed


def fold_constants(graph: Graph) -> Graph:
    """Replace operators on weights alone by what they make: a position that is encoded by a
    convolution, a mask that is reshaped. Outputs of the graph stay what they are."""
    params, nodes = dict(graph.params), []
    for node in graph.nodes:
        sizes = [math.prod(graph.types[name].shape) for name in node.outputs]
        given = [params.get(name) if name else None for name in node.inputs]
        known = all(name in params for name in node.inputs if name) and any(node.inputs)
        if not known or sum(sizes) > LARGEST or {*node.outputs} & {*graph.outputs}:
            nodes.append(node)
            continue
        with np.errstate(all="ignore"):
            made = node.op.run(*given)
        parts = made if isinstance(made, tuple) else (made,)
        # not ascontiguousarray, which would give a single number an axis
        whole = [np.asarray(part, order="C") for part in parts]
        params.update(zip(node.outputs, whole, strict=True))
    return finish(graph, nodes, params)
