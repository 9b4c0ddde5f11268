"""Call by its name what an exporter wrote out in small operators.

Frameworks export x / max(||x||, eps) as three operators and a channel shuffle as reshape,
transpose, reshape. As one operator they are easier to read, move less, and have a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tinyface.graph import Graph, Node
from tinyface.limits import MAX_PAD
from tinyface.ops import (
    GELU,
    Add,
    AveragePool,
    ChannelShuffle,
    Clip,
    Conv2d,
    Div,
    Erf,
    HardSigmoid,
    HardSwish,
    L2Normalize,
    LayerNorm,
    MaxFeatureMap,
    Maximum,
    MaxPool,
    Mul,
    Op,
    Pad,
    Reduce,
    Reshape,
    Sigmoid,
    SiLU,
    Slice,
    Split,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
)
from tinyface.ops.activation import CUBIC
from tinyface.ops.pool import Pool
from tinyface.ops.shape import LOWEST
from tinyface.passes.rewrite import Typings, finish, same_shape, typings

_HUGE = float(np.finfo(np.float32).max)
_CLOSE = 1e-6  # how far a constant in float32 may be from what it stands for
_TINY = 1e-30  # where no least norm is given: only a vector of zeros is shorter


def name_patterns(graph: Graph) -> Graph:
    """Replace the last operator of every known pattern by what the whole pattern is.

    The others go unless something else reads what they make. Outputs stay equal to rounding;
    the direction of a vector of zeros, which was NaN, may be zero.
    """
    seen = _Seen(graph, typings(graph), {})
    nodes = []
    for node in graph.nodes:
        for rule in RULES:
            while (named := rule(seen, node)) is not None:  # a convolution behind several pads
                node = named
        seen.made.update(dict.fromkeys(node.outputs, node))
        nodes.append(node)
    return finish(graph, nodes, graph.params)


@dataclass(frozen=True)
class _Seen:
    """What a rule may ask for. made: the producers of tensors so far, patterns already named."""

    graph: Graph
    typings: Typings
    made: dict[str, Node]

    def maker(self, tensor: str, kind: type[Op]) -> Node | None:
        """The operator of this kind that makes the tensor."""
        node = self.made.get(tensor)
        return node if node is not None and isinstance(node.op, kind) else None

    def number(self, tensor: str) -> float | None:
        """The value of a constant of one element."""
        value = self.graph.params.get(tensor)
        return None if value is None or value.size != 1 else float(value.reshape(()))


def _l2_normalise(s: _Seen, node: Node) -> Node | None:
    """x / norm and x (1 / norm), where the norm may be kept from being too small."""
    if isinstance(node.op, Div):
        x, norm = node.inputs
    elif isinstance(node.op, Mul):
        x, inverse = node.inputs
        if not s.maker(inverse, Div):
            x, inverse = inverse, x
        one = s.maker(inverse, Div)
        if one is None or s.number(one.inputs[0]) != 1:
            return None
        norm = one.inputs[1]
    else:
        return None
    least = _TINY
    if (most := s.maker(norm, Maximum)) is not None:
        values = [s.number(name) for name in most.inputs]
        norm = most.inputs[0 if values[0] is None else 1]
        least = next((v for v in values if v is not None), -1.0)
    elif (clip := s.maker(norm, Clip)) is not None and isinstance(clip.op, Clip):
        norm = clip.inputs[0]
        least = clip.op.low if clip.op.high == _HUGE else -1.0
    reduce = s.maker(norm, Reduce)
    if reduce is None or not isinstance(reduce.op, Reduce) or reduce.inputs != (x,):
        return None
    op, rank = reduce.op, s.graph.types[x].rank
    if op.mode != "l2" or len(op.axes) != 1 or not op.keepdims or not 0 <= least <= 1:
        return None
    normalise = L2Normalize(axis=op.axes[0] % rank, eps=max(least, _TINY))
    return Node(node.name, normalise, (x,), node.outputs)


def _layer_norm(s: _Seen, node: Node) -> Node | None:
    """(x - mean) / sqrt(mean of its square + eps) along one axis."""
    root = s.maker(node.inputs[1], Sqrt) if isinstance(node.op, Div) else None
    safe = s.maker(root.inputs[0], Add) if root else None
    if root is None or safe is None:
        return None
    centred = node.inputs[0]
    for name, constant in (safe.inputs, safe.inputs[::-1]):
        eps, var = s.number(constant), s.maker(name, Reduce)
        if eps is None or var is None or not 0 <= eps <= 1:
            continue
        square, apart = s.maker(var.inputs[0], Mul), s.maker(centred, Sub)
        mean = s.maker(apart.inputs[1], Reduce) if apart else None
        if square is None or mean is None or apart is None or mean.op != var.op:
            continue
        op, x = mean.op, mean.inputs[0]
        assert isinstance(op, Reduce)
        plain = op.mode == "mean" and op.keepdims and len(op.axes) == 1
        if plain and square.inputs == (centred, centred) and apart.inputs[0] == x:
            rank = s.graph.types[x].rank
            return Node(node.name, LayerNorm(op.axes[0] % rank, eps), (x,), node.outputs)
    return None


def _shuffle(s: _Seen, node: Node) -> Node | None:
    """(n, g c, h, w) as (n, g, c, ...), two axes exchanged, and back."""
    turned = s.maker(node.inputs[0], Transpose) if isinstance(node.op, Reshape) else None
    apart = s.maker(turned.inputs[0], Reshape) if turned else None
    if turned is None or apart is None or not isinstance(turned.op, Transpose):
        return None
    x, middle = apart.inputs[0], apart.outputs[0]
    perm = turned.op.perm
    if perm != (0, 2, 1, *range(3, len(perm))) or not same_shape(s.typings, x, node.outputs[0]):
        return None
    for types in s.typings:
        whole, parts = types[x].shape, types[middle].shape
        if len(whole) != 4 or parts[0] != whole[0] or parts[1] * parts[2] != whole[1]:
            return None
    groups = s.graph.types[middle].shape[1]
    return Node(node.name, ChannelShuffle(groups=groups), (x,), node.outputs)


def _mean_of_map(s: _Seen, node: Node) -> Node | None:
    """The mean of rows of means: x.mean(3).mean(2)."""
    first = s.maker(node.inputs[0], Reduce) if isinstance(node.op, Reduce) else None
    if first is None or not isinstance(first.op, Reduce) or not isinstance(node.op, Reduce):
        return None
    x = first.inputs[0]
    if s.graph.types[x].rank != 4 or (first.op.mode, node.op.mode) != ("mean", "mean"):
        return None
    if first.op.keepdims != node.op.keepdims or {a % 4 for a in first.op.axes} != {3}:
        return None
    if tuple(a % s.graph.types[node.inputs[0]].rank for a in node.op.axes) != (2,):
        return None
    return Node(node.name, replace(node.op, axes=(2, 3)), (x,), node.outputs)


def _swish(s: _Seen, node: Node) -> Node | None:
    """x times sigmoid or hard-sigmoid of x."""
    for x, gate in (node.inputs, node.inputs[::-1]) if isinstance(node.op, Mul) else ():
        made = s.maker(gate, Sigmoid) or s.maker(gate, HardSigmoid)
        if made is None or made.inputs != (x,):
            continue
        if isinstance(made.op, Sigmoid):
            return Node(node.name, SiLU(), (x,), node.outputs)
        if isinstance(made.op, HardSigmoid) and np.allclose(
            (made.op.alpha, made.op.beta), (1 / 6, 1 / 2), rtol=_CLOSE
        ):
            return Node(node.name, HardSwish(), (x,), node.outputs)
    return None


def _gelu(s: _Seen, node: Node) -> Node | None:
    """x (1 + erf(x / sqrt 2)) / 2, or by tanh, multiplied in any order."""
    if not isinstance(node.op, Mul):
        return None
    constant, factors = _factors(s, node.outputs[0], node)
    if len(factors) != 2 or not math.isclose(constant, 0.5, rel_tol=_CLOSE):
        return None
    for x, share in (factors, factors[::-1]):
        plus = s.maker(share, Add)
        terms = plus.inputs if plus else ()
        curve = next((m for t in terms if (m := s.maker(t, Erf) or s.maker(t, Tanh))), None)
        if curve is None or 1.0 not in map(s.number, terms):
            continue
        inside, of = _factors(s, curve.inputs[0])
        tanh = isinstance(curve.op, Tanh)
        fits = _bent(s, of, x) if tanh else of == [x]
        if fits and math.isclose(inside, math.sqrt(2 / math.pi if tanh else 0.5), rel_tol=_CLOSE):
            return Node(node.name, GELU(tanh), (x,), node.outputs)
    return None


def _max_feature_map(s: _Seen, node: Node) -> Node | None:
    """The larger of the two halves of the channels: of a split, or cut out one by one."""
    names = node.inputs if isinstance(node.op, Maximum) else ()
    parts = sorted(part for name in names if (part := _part(s, name)))
    if len(parts) != 2:
        return None
    (x, *first), (other, *second) = parts
    sides = {types[x].shape[1] for types in s.typings}
    if x != other or len(sides) != 1 or s.graph.types[x].rank > 4:
        return None
    (c,) = sides
    halves = c % 2 == 0 and [first, second] == [[0, c // 2], [c // 2, c]]
    return Node(node.name, MaxFeatureMap(), (x,), node.outputs) if halves else None


def _part(s: _Seen, name: str) -> tuple[str, int, int] | None:
    """(x, first, end) if the tensor is a run of the channels of x."""
    node = s.maker(name, Split) or s.maker(name, Slice)
    if node is None or s.graph.types[x := node.inputs[0]].rank < 2:
        return None
    c, rank = s.graph.types[x].shape[1], s.graph.types[x].rank
    if isinstance(node.op, Split) and node.op.axis % rank == 1:
        place = node.outputs.index(name)
        return x, sum(node.op.sizes[:place]), sum(node.op.sizes[: place + 1])
    if isinstance(node.op, Slice) and [axis % rank for axis in node.op.axes] == [1]:
        first, end, step = node.op.index(rank)[1].indices(c)
        return (x, first, end) if step == 1 else None
    return None


def _bent(s: _Seen, factors: list[str], x: str) -> bool:
    """Is that x + 0.044715 x^3?"""
    plus = s.maker(factors[0], Add) if len(factors) == 1 else None
    for term, other in (plus.inputs, plus.inputs[::-1]) if plus else ():
        constant, of = _factors(s, other)
        if term == x and of == [x] * 3 and math.isclose(constant, CUBIC, rel_tol=_CLOSE):
            return True
    return False


def _factors(
    s: _Seen, tensor: str, node: Node | None = None, depth: int = 5
) -> tuple[float, list[str]]:
    """A product that Mul and Div wrote out: its constant, and its other factors.

    node: the last operator of it, where it is not among the producers yet. depth: how many
    operators are looked through, one behind the other; each may double the factors.
    """
    node = node or s.maker(tensor, Mul) or s.maker(tensor, Div)
    if node is None or depth == 0:
        return 1.0, [tensor]
    constant, factors = 1.0, []
    for place, name in enumerate(node.inputs):
        value = s.number(name)
        divisor = place == 1 and isinstance(node.op, Div)
        if divisor and not value:
            return 1.0, [tensor]
        more, others = _factors(s, name, None, depth - 1) if value is None else (value, [])
        constant *= 1 / more if divisor else more
        factors += others
    return constant, factors


def _pad(s: _Seen, node: Node) -> Node | None:
    """What is put around a map for an operator with windows, which can do that itself."""
    op = node.op
    pad = s.maker(node.inputs[0], Pad) if isinstance(op, (Conv2d, Pool)) else None
    if pad is None or not isinstance(pad.op, Pad) or not isinstance(op, (Conv2d, Pool)):
        return None
    if op.made_for != (0, 0):  # for a map with that pad
        return None
    before, after = pad.op.before, pad.op.after
    if pad.op.value != (LOWEST if isinstance(op, MaxPool) else 0.0) or any(before[:2] + after[:2]):
        return None
    more = (*before[2:], *after[2:])  # top, left, bottom, right
    top, left, bottom, right = (a + b for a, b in zip(op.pad, more, strict=True))
    if max(top, left, bottom, right) > MAX_PAD:
        return None
    wide = replace(op, pad=(top, left, bottom, right))
    if isinstance(wide, Pool) and not _meets_map(wide):
        return None
    if isinstance(wide, AveragePool):  # the zeros of the operator in front count
        if any(op.pad) and not wide.count_include_pad:
            return None
        wide = replace(wide, count_include_pad=True)
    return replace(node, op=wide, inputs=(pad.inputs[0], *node.inputs[1:]))


def _meets_map(op: Pool) -> bool:
    """Is every window, none of which hangs over the end, sure to have a part of the map?"""
    return not op.ceil and all(p < e for p, e in zip(op.pad, op.extent() * 2, strict=True))


Rule = Callable[[_Seen, Node], Node | None]
RULES: tuple[Rule, ...] = (
    _l2_normalise, _layer_norm, _shuffle, _mean_of_map, _swish, _gelu, _max_feature_map, _pad,
)  # fmt: skip
