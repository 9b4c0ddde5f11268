"""Networks that keep apart what ordinary networks mix up.

In families of real networks F, MACs, weights and the number of operators rise together, so that
a fit cannot say which of them takes the time. Here one of the four is changed and the others
stay.

A *chain* is n convolutions k x k (stride 1, "same" padding, no bias) on maps of s x s pixels
that go back and forth between a and b channels. It has

    MACs  M = n k² a b s²            weights  W = 4 n k² a b bytes = 4 M / s²
    F = 4 n (a + b) s² bytes         operators  n

so that for wanted M, F, W and n, s² = 4 M / W, a b = M / (n k² s²), a + b = F / (4 n s²): two
numbers with known sum and product. They exist where (a + b)² ≥ 4 a b, that is
F² k² W ≥ 256 n M². For depthwise chains (a = b = c, groups = c): M = n k² c s², F = 8 n c s²,
W = 4 n k² c; there M / F = k² / 8 is a matter of the kernel alone, so k changes where M or F do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tinyface import networks
from tinyface.builder import Builder
from tinyface.errors import GraphError
from tinyface.graph import Graph

FACE_FAMILY = "face networks"


@dataclass(frozen=True)
class Member:
    """A network of the experiment.

    family: "design pointwise", "CNN-14-DS" …; varies: for the design's own, which figure differs
    from the centre ("" at the centre). quick: is it in the short experiment?
    pooled: does it count in the models over all networks? Depthwise kernels of 5 x 5 and 7 x 7 do
    not: the networks in question hardly have them, and engines often have no fast code for them.
    """

    name: str
    family: str
    build: Callable[[], Graph]
    varies: str = ""
    quick: bool = False
    pooled: bool = True

    @property
    def designed(self) -> bool:
        return self.family.startswith("design")

    @property
    def held_out_with(self) -> str:
        """What is left out of a fit together with it: widths and variants of one network know each
        other. Of the face networks, those whose names begin with the same word."""
        return self.name.partition("-")[0] if self.family == FACE_FAMILY else self.family


def chain(name: str, count: int, kernel: int, side: int, a: int, b: int) -> Graph:
    """Convolutions b -> a -> b …: (1, b, side, side) -> map (1, b or a, side, side)."""
    builder = Builder(name)
    x = builder.input("input", (1, b, side, side))
    for i in range(count):
        x = builder.conv(x, b if i % 2 else a, kernel, pad=kernel // 2, key=f"conv{i}")
    return builder.build(x)


def depthwise_chain(name: str, count: int, kernel: int, side: int, c: int) -> Graph:
    """Depthwise convolutions: (1, c, side, side) -> the same shape."""
    builder = Builder(name)
    x = builder.input("input", (1, c, side, side))
    for i in range(count):
        x = builder.conv(x, c, kernel, pad=kernel // 2, groups=c, key=f"conv{i}")
    return builder.build(x)


def solve(macs: float, feature: float, weight: float, count: int, kernel: int) -> tuple[int, ...]:
    """(side, a, b) of the chain with these figures: whole numbers, a and b multiples of 4, a ≥ b.

    The side is rounded first and a, b are found for what it became, so that MACs and F are kept
    and the weights take up the rounding.

    Raises:
        GraphError: no chain has these figures.
    """
    side = max(1, round(math.sqrt(4 * macs / weight)))
    product = macs / (count * kernel**2 * side**2)
    total = feature / (4 * count * side**2)
    if total**2 < 4 * product:
        raise GraphError(f"no chain of {count} has F = {feature:g} for {macs:g} MACs: raise F")
    small = (total - math.sqrt(total**2 - 4 * product)) / 2
    b = max(4, 4 * round(small / 4))  # whole vectors: odd numbers of channels cost extra
    return side, 4 * round(product / b / 4), b


# per kernel: MACs, F and weight bytes of the centre, its number of operators
CENTRES: dict[int, tuple[float, float, float, int]] = {
    1: (64e6, 6.4e6, 0.64e6, 8),
    3: (128e6, 2.1e6, 3.55e6, 8),
}
LEVELS = {
    "macs": (0.6, 0.8, 1.25, 1.5),
    "feature": (0.7, 1.4, 1.8),
    "weight": (0.6, 1.5, 2.2),
    "steps": (0.5, 1.5, 2.0),
}
AXES = tuple(LEVELS)
KIND_OF = {1: "pointwise", 3: "standard"}
QUICK_LEVELS = (0.6, 1.5, 0.7, 1.8, 2.2, 0.5, 2.0)

# depthwise: what varies, operators, kernel, side, channels; the centre first
DEPTHWISE: tuple[tuple[str, int, int, int, int], ...] = (
    ("", 8, 3, 28, 128),
    ("macs", 8, 5, 46, 48),
    ("macs", 8, 7, 65, 24),
    ("feature", 8, 5, 28, 48),
    ("feature", 8, 7, 28, 24),
    ("weight", 8, 3, 20, 256),
    ("weight", 8, 3, 40, 64),
    ("steps", 4, 3, 28, 256),
    ("steps", 16, 3, 28, 64),
)


def designed() -> Iterator[Member]:
    """The separating design: chains of pointwise, of standard and of depthwise convolutions."""
    for kernel, (macs, feature, weight, count) in CENTRES.items():
        family = f"design {KIND_OF[kernel]}"
        points = [("", 1.0)] + [(axis, level) for axis in AXES for level in LEVELS[axis]]
        for axis, level in points:
            wanted = dict(zip(AXES, (macs, feature, weight, float(count)), strict=True))
            if axis:
                wanted[axis] *= level
            n = round(wanted["steps"])
            side, a, b = solve(wanted["macs"], wanted["feature"], wanted["weight"], n, kernel)
            name = f"{KIND_OF[kernel]}-{axis or 'centre'}" + (f"-x{level:g}" if axis else "")
            build = partial(chain, name, n, kernel, side, a, b)
            yield Member(name, family, build, axis, not axis or level in QUICK_LEVELS)
    for axis, count, kernel, side, c in DEPTHWISE:
        name = f"depthwise-{count}x{c}-k{kernel}-{side}"
        build = partial(depthwise_chain, name, count, kernel, side, c)
        yield Member(name, "design depthwise", build, axis, quick=True, pooled=kernel == 3)


def families() -> Iterator[Member]:
    """The paper's families, at its widths and more, and the face networks."""
    for label, base in (("CNN-8-FD", "cnn-8-fd-x1"), ("CNN-14-DS", "cnn-14-ds-x1")):
        for width in (0.25, 0.375, 0.5, 0.75, 1.0, 1.25):
            name = f"{base[:-1]}{width:g}"
            build = partial(networks.find(base).build, width=width, name=name)
            yield Member(name, label, build, quick=width in (0.25, 0.5, 1.0))
    yield _known("cnn-8-ds", "CNN-14-DS", quick=False)
    for width in (0.5, 0.75, 1.0, 1.25):
        for label, base in (("FDFN", "fdfacenet"), ("NFN", "nfn"), ("DWFN", "dwfn")):
            name = base if width == 1 else f"{base}-x{width:g}"
            build = partial(networks.find(base).build, width=width, name=name)
            yield Member(name, label, build, quick=width == 1)
    for name, label in (("fdfn-star", "FDFN"), ("nfn-star", "NFN"), ("dwfn-star-x1.25", "DWFN")):
        yield _known(name, label, quick=name == "fdfn-star")
    for name in FACES:
        yield _known(name, FACE_FAMILY, quick=name in FACES[:3])


FACES = (
    "mobilefacenet", "shufflefacenet-x1.0", "ghostfacenet-v1-1.3-s2", "shufflefacenet-x0.5",
    "lightfacenet", "varkfacenet", "vargfacenet", "pocketnet-s-128", "mobilefacenet-arcface",
)  # fmt: skip


def _known(name: str, family: str, *, quick: bool) -> Member:
    return Member(name, family, networks.find(name).build, quick=quick)


def members(*, quick: bool = False) -> list[Member]:
    """All networks of the experiment, or those of the short one."""
    return [m for m in (*designed(), *families()) if m.quick or not quick]
