"""Passes: pure functions from a graph to a graph that computes the same with less.

One file, one pass. None changes the graph it is given.
"""

from tinyface.graph import Graph
from tinyface.passes.computed_weights import computed_weights
from tinyface.passes.drop_noops import drop_noops
from tinyface.passes.fold_affine import fold_affine
from tinyface.passes.fold_batchnorm import fold_batchnorm
from tinyface.passes.fold_constants import fold_constants
from tinyface.passes.fold_scale import fold_scale
from tinyface.passes.fuse_activation import fuse_activation
from tinyface.passes.half_weights import half_weights
from tinyface.passes.name_patterns import name_patterns
from tinyface.passes.reparameterize import reparameterize
from tinyface.passes.rewrite import trimmed
from tinyface.passes.split_multiplier import split_multiplier
from tinyface.passes.through_interleave import through_interleave
from tinyface.passes.turn_maps import turn_maps

PASSES = (
    fold_constants, computed_weights, drop_noops, through_interleave, fold_batchnorm, fold_scale,
    fold_affine, reparameterize, fuse_activation, split_multiplier, name_patterns, turn_maps,
)  # fmt: skip


def optimise(graph: Graph) -> Graph:
    """The graph that the engines run. Outputs equal the given graph's to rounding.

    What follows an interleave goes in front of it once, so that the others can take it up.
    Six make work for each other (merged branches can take up the batch norm behind
    their sum), so they go round until nothing is left to do; fusing and splitting end it.
    ``name_patterns`` has been at work already when a file was imported.
    """
    graph = fold_constants(computed_weights(fold_constants(trimmed(graph))))
    size, graph = 0, through_interleave(graph)
    while len(graph.nodes) != size:
        size = len(graph.nodes)
        graph = fold_batchnorm(turn_maps(drop_noops(graph)))
        graph = reparameterize(fold_affine(fold_scale(graph)))
    return split_multiplier(fuse_activation(graph))


__all__ = [
    "PASSES", "computed_weights", "drop_noops", "fold_affine", "fold_batchnorm", "fold_constants",
    "fold_scale", "fuse_activation", "half_weights", "name_patterns", "optimise", "reparameterize",
    "split_multiplier", "through_interleave", "turn_maps",
]  # fmt: skip
