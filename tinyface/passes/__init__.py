"""Passes: pure functions from a graph to a graph that computes the same with less.

One file, one pass. None changes the graph it is given.
"""

from tinyface.graph import Graph
from tinyface.passes.drop_noops import drop_noops
from tinyface.passes.fold_batchnorm import fold_batchnorm
from tinyface.passes.fuse_activation import fuse_activation
from tinyface.passes.reparameterize import reparameterize

PASSES = (drop_noops, fold_batchnorm, reparameterize, fuse_activation)
"""In the order in which they help each other."""


def optimise(graph: Graph) -> Graph:
    """All passes: the graph that the engines run. Outputs equal the given graph's to rounding."""
    for one_pass in PASSES:
        graph = one_pass(graph)
    return graph


__all__ = [
    "PASSES", "drop_noops", "fold_batchnorm", "fuse_activation", "optimise", "reparameterize",
]  # fmt: skip
