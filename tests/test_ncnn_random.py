"""Layers of ncnn with parameters that are drawn, on blobs of one to four axes, beside ncnn itself.

What is refused is no failure: ncnn has forms that no converter writes, and some of them compute
what nobody would expect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from attacks import ncnn as attack
from ncnn_files import run_ncnn, write_ncnn

from tinyface.errors import FormatError, GraphError
from tinyface.formats.ncnn import read_ncnn
from tinyface.runtime import Session

MAP = (8, 6, 10)
BLOBS: dict[tuple[int, ...], str] = {  # sides without the batch -> what makes it of the map
    MAP: "Noop r 1 1 in z",
    (48, 10): "Reshape r 1 1 in z 0=10 1=48",
    (480,): "Reshape r 1 1 in z 0=480",
    (8, 2, 3, 10): "Reshape r 1 1 in z 0=10 1=3 11=2 2=8",
}
Drawn = tuple[list[str], bytes]  # lines that read z and make out; their weights


class Draw:
    """Parameters for a layer that reads a blob of these sides."""

    def __init__(self, random: Random, sides: tuple[int, ...]) -> None:
        self.sides, self.rank = sides, len(sides)
        self.choice, self.uniform = random.choice, random.uniform
        self.below, self.sample = random.randrange, random.sample
        self.numbers = np.random.default_rng(random.randrange(1 << 30))

    def vectors(self, *sizes: int) -> bytes:
        return attack.plain([self.numbers.random(size) + 0.5 for size in sizes])

    def tagged(self, size: int) -> bytes:
        return attack.tagged(self.numbers.standard_normal(size) * 0.3)

    def axis(self) -> int:
        return self.below(-self.rank, self.rank)

    def axes(self) -> list[int]:
        """Some, each once, counted from the front or the back."""
        some = sorted(self.sample(range(self.rank), self.below(1, self.rank + 1)))
        return [axis - self.choice((0, self.rank)) for axis in some]


def array(key: int, values: Sequence[int]) -> str:
    return f"-233{key:02d}={len(values)},{','.join(map(str, values))}"


def memory(sides: Sequence[int]) -> str:
    """A constant, k."""
    keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0)}[len(sides)]
    return "MemoryData m 0 1 k " + " ".join(f"{k}={v}" for k, v in zip(keys, sides, strict=True))


def one(kind: str, params: str, data: bytes = b"") -> Drawn:
    return [f"{kind} l 1 1 z out {params}"], data


# ------------------------------------------------------------------------- layers, drawn


def reduction(d: Draw) -> Drawn:
    kind, everything = d.choice((0, 1, 2, 3, 4, 5, 7, 8, 9, 10)), d.choice((0, 0, 1))
    factor, kept = d.choice((1, 0.5)), d.choice((0, 1))
    return one("Reduction", f"0={kind} 1={everything} 2={factor} {array(3, d.axes())} 4={kept} 5=1")


def group_norm(d: Draw) -> Drawn:
    affine, channels = d.choice((0, 1)), d.sides[0]
    data = d.vectors(channels, channels) if affine else b""
    return one("GroupNorm", f"0={d.choice((1, 2, 4, 8))} 1={channels} 2=0.01 3={affine}", data)


def layer_norm(d: Draw) -> Drawn:
    count, affine = math.prod(d.sides[d.below(d.rank) :]), d.choice((0, 1))
    kind = d.choice(("LayerNorm", "RMSNorm"))
    sizes = [count] * (2 if kind == "LayerNorm" else 1)
    return one(kind, f"0={count} 1=0.01 2={affine}", d.vectors(*sizes) if affine else b"")


def instance_norm(d: Draw) -> Drawn:
    affine, channels = d.choice((0, 1)), d.sides[0]
    data = d.vectors(channels, channels) if affine else b""
    return one("InstanceNorm", f"0={channels} 1=0.01 2={affine}", data)


def normalize(d: Draw) -> Drawn:
    shared, whole = d.choice((0, 1)), d.choice((0, 0, 1))
    count = 1 if shared else d.sides[0]
    how = f"4={d.choice((0, 1, 1))} 9={d.choice((0, 1, 2))}"
    return one("Normalize", f"0={whole} 1={shared} 2=0.001 3={count} {how}", d.vectors(count))


def crop(d: Draw) -> Drawn:
    if d.choice((0, 1)):
        axes = d.axes()
        starts = [d.below(d.sides[axis] - 1) for axis in axes]
        ends = [d.choice((-233, -1, d.sides[axis], d.sides[axis] - 1)) for axis in axes]
        return one("Crop", f"{array(9, starts)} {array(10, ends)} {array(11, axes)}")
    sizes = " ".join(f"{key}={d.choice((-233, 3, 5))}" for key in (3, 4, 5))
    offsets = " ".join(f"{key}={d.choice((0, 1))}" for key in (0, 1, 2, 6, 7, 8))
    return one("Crop", f"{offsets} {sizes}")


def parts(d: Draw) -> Drawn:
    """Cut along an axis, and joined in another order."""
    axis = d.axis()
    side, count = d.sides[axis], d.below(2, 4)
    if d.choice((0, 1)) and side > count:
        how = array(2, sorted(d.sample(range(1, side), count - 1)))
    else:
        how = array(0, [-233] * count)
    names = [f"o{i}" for i in range(count)]
    return [
        f"Slice s 1 {count} z {' '.join(names)} {how} 1={axis}",
        f"Concat l {count} 1 {' '.join(names[::-1])} out 0={axis}",
    ], b""


def pooling(d: Draw) -> Drawn:
    if d.choice((0, 1)):
        sides = f"8={d.choice((1, 2, 3, 7))} 18={d.choice((1, 2, 4, -233))}"
        return one("Pooling", f"0={d.choice((0, 1))} 7=1 {sides}")
    mode = d.choice((0, 1, 2, 3))
    pad = d.choice((0, 1)) if mode < 2 else 0
    window = f"1={d.choice((2, 3))} 11={d.choice((2, 3))} 2={d.choice((1, 2))} 3={pad}"
    return one("Pooling", f"0={d.choice((0, 1))} {window} 5={mode} 6={d.choice((0, 1))}")


def padding(d: Draw) -> Drawn:
    ends = " ".join(f"{key}={d.choice((0, 1, 2))}" for key in (0, 1, 2, 3))
    outer = " ".join(f"{key}={d.choice((0, 0, 1))}" for key in (7, 8))
    return one("Padding", f"{ends} {outer} 4={d.choice((0, 1, 2))} 5={d.choice((0, 0.5))}")


def interp(d: Draw) -> Drawn:
    how = f"0={d.choice((1, 2))} 6={d.choice((0, 1))}"
    if d.choice((0, 1)):
        return one("Interp", f"{how} 3={d.choice((3, 6, 12))} 4={d.choice((5, 10, 21))}")
    return one("Interp", f"{how} 1={d.choice((0.5, 1.5, 2))} 2={d.choice((0.5, 1.5, 2))}")


def tile(d: Draw) -> Drawn:
    if d.choice((0, 1)):
        return one("Tile", f"0={d.axis()} 1={d.choice((1, 2, 3))}")
    return one("Tile", array(2, [d.choice((1, 2, 3)) for _ in range(d.below(1, d.rank + 1))]))


def squeeze(d: Draw) -> Drawn:
    if d.choice((0, 1)):
        return one("Squeeze", array(3, d.axes()))
    return one("Squeeze", " ".join(f"{key}={d.choice((0, 1))}" for key in (0, 1, 2)))


def beside(d: Draw) -> Drawn:
    """An operation with a constant of as many or fewer axes, some of length 1."""
    count = d.below(1, min(d.rank, 3) + 1)
    own = d.sides[-count:] if d.choice((0, 1)) else d.sides[:count]
    sides = [d.choice((side, side, 1)) for side in own]
    order = d.choice(("z k", "k z"))
    lines = [memory(sides), f"BinaryOp l 2 1 {order} out 0={d.choice((0, 1, 2, 4, 5, 7))}"]
    return lines, d.numbers.random(math.prod(sides), np.float32).tobytes()


def product(d: Draw) -> Drawn:
    turned, last = d.choice((0, 1)), d.sides[-1]
    matrix = (3, last) if turned else (last, 3)
    stack = (d.sides[0], *matrix) if d.rank == 3 else matrix
    sides = d.choice(((last,), matrix, stack))
    data = d.numbers.random(math.prod(sides), np.float32).tobytes()
    return [memory(sides), f"MatMul l 2 1 z k out 0={turned}"], data


def gemm(d: Draw) -> Drawn:
    left, right, row = d.choice((0, 1)), d.choice((0, 1)), d.choice((-1, 0, 4))
    depth = d.sides[0] if left else d.sides[-1]
    data = d.tagged(5 * depth) + (b"" if row < 0 else d.tagged(5 if row else 1))
    sizes = f"7={math.prod(d.sides) // depth} 8=5 9={depth}"
    factors = f"0={d.choice((1, 0.5))} 1={d.choice((1, 2))}"
    turns = f"2={left} 3={right} 14={d.choice((0, 1))}"
    return one("Gemm", f"{factors} 10={row} {turns} 4=0 5=1 6=1 {sizes}", data)


def dense(d: Draw) -> Drawn:
    depth = d.choice((d.sides[-1], math.prod(d.sides)))
    return one("InnerProduct", f"0=5 1=1 2={5 * depth}", d.tagged(5 * depth) + d.vectors(5))


def per_channel(d: Draw) -> Drawn:
    kind, count = d.choice((("PReLU", 1), ("Scale", 2), ("Bias", 1), ("BatchNorm", 4)))
    more = {"Scale": " 1=1", "BatchNorm": " 1=0.001"}.get(kind, "")
    return one(kind, f"0={d.sides[0]}{more}", d.vectors(*[d.sides[0]] * count))


def number(d: Draw) -> Drawn:
    """Formulas of one blob, and with a number."""
    kind = d.choice(("UnaryOp", "BinaryOp", "ELU", "Exp", "Power", "HardSwish", "LRN", "MVN"))
    a, b = d.uniform(0.2, 1.5), d.uniform(0.2, 1.5)
    params: dict[str, str] = {
        "UnaryOp": f"0={d.below(20)}",
        "BinaryOp": f"0={d.below(12)} 1=1 2={d.choice((2, 0.5, 3, -1, 1, 1.5, -0.5))}",
        "ELU": f"0={a}",
        "Exp": f"0={d.choice((-1, 2, 3))} 1={a} 2={b}",
        "Power": f"0={d.choice((1, 2, 3))} 1={a} 2={b}",
        "HardSwish": f"0={d.choice((0.16666667, 0.2))} 1={d.choice((0.5, 0.4))}",
        "LRN": f"0=0 1={d.choice((1, 3, 5))} 2={a} 3={d.choice((0.5, 0.75, 1))} 4={1 + b}",
        "MVN": f"0={d.choice((0, 1))} 1={d.choice((0, 1))} 2=0.01",
    }
    return one(kind, params[kind])


def moved(d: Draw) -> Drawn:
    kind = d.choice(("Permute", "Reorg", "PixelShuffle", "ShuffleChannel", "Reshape", "Flip"))
    params = {
        "Permute": f"0={d.below((1, 2, 6, 24)[d.rank - 1])}",
        "ShuffleChannel": f"0={d.choice((1, 2, 4))} 1={d.choice((0, 1))}",
        "Reshape": d.choice(("0=-1", "0=5 1=-1", "0=0 1=-1", "0=0 1=0 2=-1", "0=2 1=-1 2=8")),
        "Flip": array(0, d.axes()),
    }.get(kind, f"0=2 1={d.choice((0, 1))}")
    return one(kind, params)


def along(d: Draw) -> Drawn:
    kind = d.choice(("Softmax", "GLU", "ExpandDims"))
    if kind == "ExpandDims":
        return one(kind, array(3, [d.below(d.rank + 1)]))
    return one(kind, f"0={d.axis()}" + " 1=1" * (kind == "Softmax"))


LAYERS: tuple[Callable[[Draw], Drawn], ...] = (
    along, beside, crop, dense, gemm, group_norm, instance_norm, interp, layer_norm, moved,
    normalize, number, padding, parts, per_channel, pooling, product, reduction, squeeze, tile,
)  # fmt: skip


def compare(ncnn: Any, path: Path, session: Session, x: np.ndarray, lines: list[str]) -> bool:
    """Whether both compute something; it must be the same."""
    try:
        (ours,) = session.run(x).values()
    except GraphError:
        return False
    wanted = run_ncnn(ncnn, path, ncnn.Mat(x[0]).clone())
    if wanted is None or not wanted.size:
        return False
    assert ours[0].shape == wanted.shape, (x.shape, lines)
    message = f"{x.shape} {lines}"
    np.testing.assert_allclose(ours[0], wanted, rtol=2e-4, atol=2e-4, err_msg=message)
    return True


OTHERS = ((8, 10, 6), (8, 12, 5), (8, 12, 20))  # as many pixels; as many again; four times as many


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_as_ncnn_computes_it(tmp_path: Path, layer: Callable[[Draw], Drawn]) -> None:
    """At the size of the file, and at others, where these are not refused."""
    ncnn = pytest.importorskip("ncnn")
    random = Random(layer.__name__)
    compared: Counter[str] = Counter()
    for _ in range(100):
        sides = random.choice([MAP, *BLOBS])
        lines, data = layer(Draw(random, sides))
        picture = f"Input in 0 1 in 0={MAP[2]} 1={MAP[1]} 2={MAP[0]}"
        text = attack.param(picture, BLOBS[sides], *lines, blobs=20)
        path = write_ncnn(tmp_path, text, data or b"\0" * 4)
        try:
            session = Session(read_ncnn(path), "numpy")
        except FormatError:
            continue
        lowest = 0.2 if layer is number else -2.0  # ncnn's own powers of negative numbers are odd
        draw = np.random.default_rng(0).uniform
        x = draw(lowest, 1.5, (1, *MAP)).astype(np.float32)
        compared[lines[-1].split()[0]] += compare(ncnn, path, session, x, lines)
        for other in OTHERS if sides == MAP else ():
            x = draw(lowest, 1.5, (1, *other)).astype(np.float32)
            compare(ncnn, path, session, x, lines)
    for kind, least in LEAST[layer.__name__].items():
        assert compared[kind] >= least, f"of {kind} more is refused, here or by ncnn, than was"


# About two thirds of what is compared with ncnn 1.0.20261020, which refuses forms itself.
LEAST: dict[str, dict[str, int]] = {
    "along": {"ExpandDims": 15, "GLU": 22, "Softmax": 24},
    "beside": {"BinaryOp": 58},
    "crop": {"Crop": 46},
    "dense": {"InnerProduct": 50},
    "gemm": {"Gemm": 14},
    "group_norm": {"GroupNorm": 66},
    "instance_norm": {"InstanceNorm": 30},
    "interp": {"Interp": 27},
    "layer_norm": {"LayerNorm": 21, "RMSNorm": 19},
    "moved": {
        "Flip": 11,
        "Permute": 9,
        "PixelShuffle": 3,
        "Reorg": 3,
        "Reshape": 6,
        "ShuffleChannel": 6,
    },
    "normalize": {"Normalize": 16},
    "number": {
        "BinaryOp": 8,
        "ELU": 10,
        "Exp": 10,
        "HardSwish": 6,
        "LRN": 4,
        "MVN": 2,
        "Power": 4,
        "UnaryOp": 5,
    },
    "padding": {"Padding": 32},
    "parts": {"Concat": 66},
    "per_channel": {"BatchNorm": 9, "Bias": 5, "PReLU": 17, "Scale": 18},
    "pooling": {"Pooling": 26},
    "product": {"MatMul": 66},
    "reduction": {"Reduction": 66},
    "squeeze": {"Squeeze": 66},
    "tile": {"Tile": 56},
}


def test_the_layers_name_each_parameter_once() -> None:
    """A draw that ncnn would read otherwise than we do would compare two different things."""
    random = Random(0)
    for layer in LAYERS:
        for sides in BLOBS:
            for line in layer(Draw(random, sides))[0]:
                keys = [word.partition("=")[0] for word in line.split() if "=" in word]
                assert len(keys) == len(set(keys)), line
