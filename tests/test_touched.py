"""Algorithmic bytes of the C kernels: against counts by hand, and against every window listed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyface import ops
from tinyface.builder import Builder
from tinyface.limits import MAX_THREADS
from tinyface.networks import find
from tinyface.passes import optimise
from tinyface.plan import Isa, Step, depthwise, make_plan, model, tiling
from tinyface.plan.chain import LONG_ROW, LONGEST
from tinyface.plan.lower_rows import MAX_WINDOW
from tinyface.plan.model import POINTER, Buffer, View
from tinyface.plan.packed import CHUNK, JOB, LONG, ROWS
from tinyface.plan.tiling import PACK_PANELS
from tinyface.plan.touched import Window, map_floats
from tinyface.types import Cost

ISA = Isa("avx2", 8, 6, 12)
CSRC = Path(__file__).resolve().parent.parent / "csrc"


def plan_of(
    build: object, shape: tuple[int, ...], *, threads: int = 1, chains: bool = False
) -> tuple[Step, ...]:
    """The steps of a network of one input, without the changes of layout."""
    b = Builder("case")
    y = build(b, b.input("x", shape))  # type: ignore[operator]
    graph = b.build(y=y)
    return make_plan(optimise(graph), ISA, threads=threads, chains=chains).steps


def counts(step: Step) -> tuple[int, int, int, int]:
    a = step.algorithmic
    return a.feature_read, a.feature_write, a.weight, a.scratch


def only(build: object, shape: tuple[int, ...], op: str, *, threads: int = 1) -> Step:
    (step,) = (s for s in plan_of(build, shape, threads=threads) if s.fields["op"] == op)
    return step


def test_convolution_by_hand() -> None:
    """3x3, 20 channels to 12, on 6x6 pixels: one task, one panel of 16 outputs."""
    layout, conv, _ = plan_of(
        lambda b, x: b.conv(x, 12, 3, pad=1, bias=True, key="k"), (1, 20, 6, 6)
    )
    assert layout.compulsory == Cost() and counts(layout) == (4 * 720, 4 * 720, 0, 0)
    weights = 16 * 20 * 9 + 16 + 20  # 12 outputs padded to 16, their bias, zeros for the padding
    table = 36 * (9 + 1) * POINTER  # nine inputs and an output for every pixel
    assert counts(conv) == (4 * 20 * 36, 4 * 12 * 36, 4 * weights, 2 * table)
    assert conv.compulsory.macs == 12 * 36 * 20 * 9
    assert conv.algorithmic.macs == 16 * 36 * 20 * 9  # those of the padding, too


def test_depthwise_that_rolls_by_hand() -> None:
    """3x3 over whole vectors on aarch64: no table, and no output twice where 4 does not divide."""
    b = Builder("case")
    x = b.input("x", (1, 16, 6, 6))
    graph = b.build(y=b.conv(x, 16, 3, pad=1, groups=16, bias=True, key="k"))
    _, conv, _ = make_plan(optimise(graph), Isa("neon", 4, 8, 12, 12)).steps
    assert conv.kernel == "depthwise_neon_roll"
    assert counts(conv) == (4 * 16 * 36, 4 * 16 * 36, 4 * (9 * 16 + 16 + 16), 0)


def test_blocks_of_pixels_read_the_weights_again() -> None:
    """3x3 stride 3, 48 to 128 channels, 84x84 to 28x28. The weights fit the cache: blocks of 48
    pixels, whose 105 KiB fit beside them, 17 tasks; each reads all panels."""
    conv = only(
        lambda b, x: b.conv(x, 128, 3, stride=3, pad=1, bias=True, key="k"),
        (1, 48, 84, 84), "TF_CONV",
    )  # fmt: skip
    assert (conv.fields["block"], conv.fields["tasks"]) == (48, 17)
    assert conv.algorithmic.weight == 4 * 17 * (128 * 48 * 9 + 128 + 48)
    # 48 pixels are 1 row of 28 and 20 of the next, or parts of three rows: listed below
    assert conv.algorithmic.feature_read == 4 * listed(conv, 48)
    assert conv.algorithmic.feature_write == 4 * 128 * 28 * 28
    assert conv.algorithmic.scratch == 2 * POINTER * 28 * 28 * 10


def test_ranges_of_panels_read_the_map_again() -> None:
    """1x1, 600 channels to 300 on 7x7: 19 panels, 2 a task: ten tasks read all of the map. A single
    thread reads it once."""

    def shared_by(threads: int) -> Step:
        return only(
            lambda b, x: b.conv(x, 300, 1, bias=True, key="k"), (1, 600, 7, 7), "TF_CONV",
            threads=threads,
        )  # fmt: skip

    alone, conv = shared_by(1), shared_by(2)
    assert (alone.fields["panels"], alone.fields["tasks"]) == (19, 1)
    assert counts(alone)[0] == 4 * 600 * 49
    assert (conv.fields["panels"], conv.fields["tasks"]) == (2, 10)
    assert counts(conv) == (
        10 * 4 * 600 * 49, 4 * 300 * 49, 4 * 304 * 601, 10 * 49 * 2 * POINTER * 2,
    )  # fmt: skip
    assert conv.algorithmic.macs == 304 * 600 * 49


def test_packed_inputs_by_hand() -> None:
    """1x1 on 5x5, 16 to 40 channels: three jobs of 12, 12 and 1 pixels, the last rounded up to 4.
    3x3 on 4x4, 32 to 40, two tasks of 12 and 4 pixels: a tap takes those whose input exists, of the
    first task 6 to 12 of them, of the second 3, 4 or, below the map, none."""
    isa = Isa("neon", 4, 8, 12, 12)

    def conv(c: int, kernel: int, side: int) -> Step:
        b = Builder("case")
        y = b.conv(b.input("x", (1, c, side, side)), 40, kernel, pad=kernel // 2, key="k")
        steps = make_plan(optimise(b.build(y=y)), isa).steps
        return next(s for s in steps if s.fields["op"] == "TF_CONV")

    one, three = conv(16, 1, 5), conv(32, 3, 4)
    assert one.kernel == three.kernel == "packed_neon_12x8" and one.fields["tasks"] == 1
    assert counts(one)[3] == 2 * (25 * 3 * POINTER + 3 * JOB + 4 * 28 * 16)
    assert one.algorithmic.macs == 28 * 16 * 40
    rows = (3 * 8 + 6 * 12) + (6 * 4 + 3 * 0)
    assert three.algorithmic.macs == rows * 32 * 40 < three.compulsory.macs
    assert counts(three)[3] == 2 * (16 * (9 + 2) * POINTER + (9 + 6) * JOB + 4 * rows * 32)


MIRRORED = {  # in an enumeration of csrc/ -> what Python has for it
    **{f"TF_{name}": getattr(model, name) for name in (
        "RESIDUAL", "HALF", "COUNT_PAD", "TRANSFORMED", "CORNERS", "ACROSS", "SPREAD",
    )},
    "TF_PACK_ROWS": ROWS, "TF_PACK_BYTES": CHUNK, "TF_PACK_PANELS": PACK_PANELS, "LONG": LONG,
    "ROLL_CHANNELS": depthwise.CHANNELS, "ROLL_BYTES": depthwise.BYTES, "STRIP": depthwise.STRIP,
    "TF_LONG_ROW": LONG_ROW, "TF_CHAIN_MAX": LONGEST, "MAX_WINDOW": MAX_WINDOW,
    "TF_MAX_THREADS": MAX_THREADS, "TF_RIVALS": model.RIVALS, "TF_MIRRORED": model.MIRRORED,
    "EVEN_WINDOW": tiling.EVEN_WINDOW,
}  # fmt: skip


def test_numbers_are_as_the_engine_has_them() -> None:
    if not CSRC.exists():
        pytest.skip("not a checkout")
    found = {}
    for path in CSRC.glob("*.[ch]"):
        for block in re.findall(
            r"\benum\b[^{;]*\{(.*?)\}", path.read_text(encoding="utf-8"), re.DOTALL
        ):
            for name, number, shift in re.findall(r"(\w+) = (\d+)(?: << (\d+))?", block):
                found[name] = int(number) << int(shift or 0)
    assert {name: found.get(name) for name in MIRRORED} == MIRRORED


def test_winograd_by_hand() -> None:
    """48 to 24 channels on 24x24: each of four threads transforms nine of 36 tiles for itself."""
    conv = only(
        lambda b, x: b.conv(x, 24, 3, pad=1, bias=True, key="k"),
        (1, 48, 24, 24), "TF_WINOGRAD", threads=4,
    )  # fmt: skip
    assert (conv.fields["tile"], conv.fields["block"], conv.fields["tasks"]) == (4, 9, 4)
    rows = 6 + 6 - 1  # nine tiles are a row and a half of six: they lie over eleven rows
    u, v, m = 36 * 48 * 24, 36 * 36 * 48, 36 * 36 * 24
    assert conv.algorithmic.feature_write == 4 * 24 * 24 * 24
    assert conv.algorithmic.weight == 4 * 4 * (u + 24 + 48)
    assert conv.algorithmic.scratch == 2 * (4 * (v + m) + 36 * 2 * POINTER)
    assert conv.algorithmic.feature_read < 4 * 48 * 24 * (4 * rows)
    assert conv.algorithmic.macs == 36 * 36 * 48 * 24 == conv.compulsory.macs // 4


def test_winograd_in_two_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 to 24 channels on 12x12, as if weights could not be read again: 9 tiles of 6x6; two panels
    share what is transformed."""
    monkeypatch.setattr(tiling, "AGAIN", 0)
    steps = plan_of(
        lambda b, x: b.conv(x, 24, 3, pad=1, bias=True, key="k"), (1, 16, 12, 12), threads=2
    )
    tiles, conv = (s for s in steps if s.fields["op"] in ("TF_WINO_IN", "TF_WINOGRAD"))
    u, v, m = 36 * 16 * 24, 9 * 36 * 16, 9 * 36 * 24
    assert (tiles.fields["tasks"], conv.fields["tasks"]) == (4, 2)
    # tasks own tiles 0-1, 2-3, 4-5, 6-8; a tile at a border lies over 5 rows or columns
    pixels = 5 * 9 + (5 * 5 + 6 * 5) + 6 * 9 + 5 * 12
    assert counts(tiles) == (4 * 16 * pixels, 4 * v, 4 * 4 * 16, 0)
    assert counts(conv) == (
        2 * 4 * v, 4 * 24 * 144, 4 * (u + 24), 2 * (4 * m + 2 * 9 * 2 * POINTER),
    )  # fmt: skip


def test_depthwise_by_hand() -> None:
    """10 channels: two vectors of 8 that overlap. On 6x6, strips of 4 write 8 outputs for 6; on
    40x40, 16 tasks share rows."""
    small = only(
        lambda b, x: b.conv(x, 10, 3, pad=1, groups=10, bias=True, key="k"),
        (1, 10, 6, 6), "TF_DEPTHWISE",
    )  # fmt: skip
    table = 6 * 3 * 8 * POINTER  # for every output row, 3 rows of 6 + 2 pixels
    assert counts(small) == (4 * 360, 4 * 6 * 8 * 16, 4 * (90 + 10 + 10), 2 * table)
    assert small.algorithmic.macs == 6 * 8 * 16 * 9  # and 16 channels for 10
    large = only(
        lambda b, x: b.conv(x, 10, 3, pad=1, groups=10, bias=True, key="k"),
        (1, 10, 40, 40), "TF_DEPTHWISE",
    )  # fmt: skip
    assert large.fields["tasks"] == 16
    halo = 2 * 15  # two tasks at a border read each other's row
    assert large.algorithmic.feature_read == 4 * (40 + halo) * 40 * 10
    assert large.algorithmic.weight == 16 * 4 * (90 + 10 + 10)


def test_grouped_by_hand() -> None:
    """Groups of 4 inputs and outputs: a depthwise step with filters of 4 times the weights."""
    step = only(
        lambda b, x: b.conv(x, 24, 3, pad=1, groups=6, bias=True, key="k"),
        (1, 24, 6, 8), "TF_GROUPED",
    )  # fmt: skip
    table = 6 * 3 * 10 * POINTER
    read = 4 * (2 + 4 * 3 + 2) * 8 * 24  # six tasks, a row each
    assert counts(step) == (read, 4 * 24 * 48, 6 * 4 * (24 * 36 + 24 + 24), 2 * table)
    assert step.algorithmic.macs == 6 * 8 * 24 * 36


def test_fully_connected_by_hand() -> None:
    (step,) = plan_of(lambda b, x: b.linear(x, 40, key="k"), (1, 30))
    assert step.fields["tasks"] == 1
    assert counts(step) == (4 * 30, 4 * 40, 4 * 40 * 31, 0)
    wide = plan_of(lambda b, x: b.linear(x, 500, key="k"), (1, 600))[0]
    assert wide.fields["tasks"] == 5
    assert counts(wide) == (5 * 4 * 600, 4 * 500, 4 * 504 * 601, 0)  # 500 padded to 63 vectors


def test_a_row_of_tokens_by_hand() -> None:
    """Seven times seven tokens in one block of a whole row: a tile each, without padding."""
    (step,) = plan_of(
        lambda b, x: b.apply(ops.Linear(), x, b.param("w", (40, 30)), b.param("bias", (40,))),
        (1, 49, 30),
    )
    assert step.fields["op"] == "TF_CONV" and step.fields["block"] == step.y.shape[3] == 49
    assert counts(step) == (4 * 49 * 30, 4 * 49 * 40, 4 * 40 * 31, 2 * 49 * 2 * POINTER)


def test_an_image_is_padded_while_it_is_turned() -> None:
    """3 channels: the map gets its border in the change of layout, and each kernel row is one run
    of 9 floats that overlaps the next."""
    layout, conv, _ = plan_of(
        lambda b, x: b.conv(x, 24, 3, pad=1, bias=True, key="k"), (1, 3, 12, 12)
    )
    assert counts(layout) == (4 * 3 * 144, 4 * 3 * 14 * 14, 0, 0)
    assert conv.algorithmic.feature_read == 4 * 3 * 14 * 14
    assert conv.algorithmic.weight == 4 * 24 * 28 and conv.fields["tasks"] == 1


def test_what_only_moves_or_adds() -> None:
    def block(b: Builder, x: str) -> str:
        gate = b.apply(ops.Sigmoid(), b.apply(ops.GlobalAveragePool(), x))
        return b.apply(ops.Add(), b.apply(ops.Mul(), x, gate), x)

    found = {s.fields["op"]: counts(s) for s in plan_of(block, (1, 8, 6, 6))}
    assert found["TF_AVGPOOL"] == (4 * 288, 4 * 8, 0, 0)
    assert found["TF_MUL"] == (4 * (288 + 8), 4 * 288, 0, 0)  # the gate once
    assert found["TF_ADD"] == (2 * 4 * 288, 4 * 288, 0, 0)
    rows = only(
        lambda b, x: b.apply(ops.Mul(), x, b.apply(ops.Reduce("max", (3,)), x)),
        (1, 2, 5, 70), "TF_MUL",
    )  # fmt: skip
    assert counts(rows)[:2] == (4 * (700 + 10), 4 * 700)  # one value a row
    pool = only(
        lambda b, x: b.apply(ops.MaxPool(kernel=(2, 2), stride=(3, 3)), x),
        (1, 8, 6, 6), "TF_MAXPOOL",
    )  # fmt: skip
    assert counts(pool)[:2] == (4 * 8 * 4 * 4, 4 * 8 * 4)  # every third row is never read
    up = only(
        lambda b, x: b.apply(ops.Resize(mode="nearest", scale=(0.5, 0.5)), x),
        (1, 8, 6, 6), "TF_NEAREST",
    )  # fmt: skip
    assert counts(up) == (4 * 8 * 9, 4 * 8 * 9, 0, 0)


def test_a_product_by_hand() -> None:
    """3 rows by 20 columns, 5 values each, twice: of 2 panels, the last has 8 of 16 columns."""
    b = Builder("case")
    y = b.apply(ops.MatMul(), b.input("a", (2, 3, 5)), b.input("b", (2, 5, 20)))
    (step,) = make_plan(b.build(y=y), ISA).steps
    read, second, table = 2 * 3 * 5, 2 * 5 * 20, 4 * 3 * 2 * POINTER
    packed = 4 * 2 * 5 * 24
    assert counts(step) == (4 * (read + second), 4 * 2 * 3 * 20, 0, 2 * (packed + table))
    assert (step.compulsory.macs, step.algorithmic.macs) == (2 * 3 * 5 * 20, 2 * 3 * 5 * 24)


def test_a_chain_by_hand() -> None:
    """1x1 to 32 channels, depthwise 3x3, 1x1 back to 8, on 112x112: maps of 1.5 MiB in between.
    Each turn of a member is a task. The wide maps are scratch; a turn keeps two rows of the first
    for the next turn's windows, and moves them."""

    def block(b: Builder, x: str) -> str:
        wide = b.conv(x, 32, 1, bias=True, key="a")
        deep = b.conv(wide, 32, 3, pad=1, groups=32, bias=True, key="b")
        return b.conv(deep, 8, 1, bias=True, key="c")

    _, one, two, three, _ = plan_of(block, (1, 8, 112, 112), chains=True)
    assert (one.chain, one.band) == (3, 3)
    turns = 38  # the last one makes row 111, for which the turn before made all rows of the first
    assert [len(step.bands) for step in (one, two, three)] == [turns] * 3
    row = 4 * 32 * 112
    moved = 2 * (turns - 1)
    pointers = 2 * POINTER * 112 * 112 * 2
    assert counts(one) == (
        4 * 8 * 112 * 112, 0, (turns - 1) * 4 * (8 * 32 + 32),
        112 * row + 2 * moved * row + pointers,
    )  # fmt: skip
    read = 112 + 2 * (turns - 1)  # a turn reads a row above and one below its own
    table = 2 * POINTER * 112 * 3 * 114
    assert counts(two) == (0, 0, turns * 4 * (9 + 1 + 1) * 32, (read + 112) * row + table)
    assert counts(three) == (
        0, 4 * 8 * 112 * 112, turns * 4 * (32 * 8 + 8), 112 * row + pointers,
    )  # fmt: skip


def listed(step: Step, block: int) -> int:
    """Floats under blocks of outputs, by listing every element of every window."""
    f, (_, c, h, w), (_, _, oh, ow) = step.fields, step.x.shape, step.y.shape
    total = 0
    for first in range(0, oh * ow, block):
        seen = set()
        for o in range(first, min(first + block, oh * ow)):
            for ky in range(int(f["kh"])):
                for kx in range(int(f["kw"])):
                    y = o // ow * int(f["sh"]) - int(f["pt"]) + ky
                    x = o % ow * int(f["sw"]) - int(f["pl"]) + kx
                    if 0 <= y < h and 0 <= x < w:
                        seen.add((y, x))
        total += len(seen) * c
    return total


small = st.integers(1, 3)


@given(
    kernel=st.tuples(small, small), stride=st.tuples(small, small),
    dilation=st.tuples(small, small), pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)), ld=st.integers(1, 7),
    channels=st.integers(1, 5), run=st.tuples(st.integers(0, 49), st.integers(1, 50)),
)  # fmt: skip
def test_floats_under_a_run_of_outputs(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int],
    pad: tuple[int, int], grid: tuple[int, int], ld: int, channels: int, run: tuple[int, int],
) -> None:  # fmt: skip
    n, h, w = 2, 7, 6
    ends = sorted(min(r, n * math.prod(grid)) for r in run)
    row, img = 100, 1000  # rows and images do not overlap, pixels may
    view = View(Buffer("arena", "x", n * img), (n, channels, h, w), 0, img, row, ld)
    seen = set()
    for o in range(*ends):
        i, at = divmod(o, math.prod(grid))
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                y = at // grid[1] * stride[0] - pad[0] + ky * dilation[0]
                x = at % grid[1] * stride[1] - pad[1] + kx * dilation[1]
                if 0 <= y < h and 0 <= x < w:
                    seen |= {i * img + y * row + x * ld + c for c in range(channels)}
    assert map_floats(view, (ends[0], ends[1]), Window(kernel, stride, dilation, pad, grid)) == len(
        seen
    )


@pytest.mark.parametrize("name", ["fdfacenet", "retinaface-mnet0.25", "shufflefacenet-x1.5"])
def test_whole_networks(name: str) -> None:
    """Every step counts its output at least once, and its weights unless they are transformed."""
    for chains in (False, True):
        for step in make_plan(optimise(find(name).build()), ISA, chains=chains).steps:
            a, c = step.algorithmic, step.compulsory
            handed = step.x.buffer.kind == "band", step.y.buffer.kind == "band"
            assert a.macs >= c.macs or step.fields["op"] == "TF_WINOGRAD"
            assert (a.feature_read > 0) != (handed[0] and step.z is None)
            written = a.scratch if handed[1] else a.feature_write
            assert written >= max(c.feature_write, 4 * math.prod(step.y.shape))
            assert a.weight >= c.weight


@pytest.mark.parametrize("name", ["cnn-8", "vargfacenet", "ghostfacenet-v2-1.3-s2", "few"])
def test_every_operator_is_counted_once(name: str) -> None:
    """However many steps it becomes: a mean band by band, a map with zeros laid around it."""
    b = Builder("few")
    few = b.conv(b.input("x", (1, 3, 112, 112)), 4, 3, pad=1, key="a")
    made = b.build(y=b.conv(few, 16, 3, pad=1, key="c"))
    graph = optimise(made if name == "few" else find(name).build())
    total = Cost.total(step.compulsory for step in make_plan(graph, ISA).steps)
    assert (total.macs, total.weight) == (graph.cost.macs, graph.cost.weight)
    assert total.feature_read <= graph.cost.feature_read
    assert total.feature_write <= graph.cost.feature_write
