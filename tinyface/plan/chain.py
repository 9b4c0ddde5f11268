"""Chains: which consecutive steps run together, band by band of rows (csrc/chain.c).

In expand -> depthwise -> project the maps in the middle are the widest of a network. A chain never
writes them whole: each thread keeps the few rows in use in its scratch, so that they stay in the
cache. The price: all members' weights pass through the cache once per band, and where the strips of
two threads meet rows are computed twice, all the more of them the longer the chain. So several
threads have shorter ones (CNN-14-DS: 7 % of its first chain at every border).

Between a convolution and a depthwise 3x3 not even rows are kept: each panel of the convolution's
outputs goes on before the next one is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from tinyface.plan.handed import held_floats
from tinyface.plan.model import FLOAT, RIVALS, Band, Buffer, Step
from tinyface.plan.tiling import CACHE

MEMBERS = (
    "TF_CONV", "TF_DEPTHWISE", "TF_GROUPED", "TF_MAXPOOL", "TF_AFFINE", "TF_ADD", "TF_MUL",
    "TF_MAXIMUM",
)  # fmt: skip
LONGEST = 8  # TF_CHAIN_MAX
WEIGHTS = 5 * CACHE // 4  # bytes of all members
# Bytes of the maps between the members; what is smaller stays in L2 anyway. All threads of a board,
# and whatever else is alive, share one.
LEAST, LEAST_BOARD = 2 * CACHE, CACHE
AGAIN = 2  # and of so many times the weights, which are taken from L2 once per band
BAND = CACHE // 2  # bytes of the rows in use
ROOM = 3 * CACHE  # bytes of a board's L2 for the fewest rows of all threads, and the weights
# Multiply-adds that take as long as a byte that goes to memory or comes from there: on x86, where
# it mostly goes to L3; on boards, whose memory all threads share, for each of them.
CROSSING, CROSSING_BOARD = 1, 2
LONG_ROW = 4096  # floats: TF_LONG_ROW of csrc/chain.c


def link(steps: list[Step], threads: int = 1) -> None:
    """Mark the chains among the steps, and move what they hand on out of the arena."""
    uses = Counter(buffer for step in steps for buffer in step.buffers)
    first = 0
    while first < len(steps):
        count = worthwhile(list(_reachable(steps, first, uses)))
        for length in _cut(steps[first : first + count], threads):
            if worthwhile(steps[first : first + length]) > 1:
                _join(steps[first : first + length], steps[first + length :])
            first += length


def worthwhile(members: Sequence[Step]) -> int:
    """How many of these steps, from the first on, should run together: as many as have their
    weights in the cache, if what lies between them is too large for it."""
    weights = list(accumulate(step.compulsory.weight for step in members))
    fits = sum(total <= WEIGHTS for total in weights)
    if fits < 2:
        return 1
    between = sum(step.y.buffer.nbytes for step in members[: fits - 1])
    least = LEAST_BOARD if members[0].isa.board else LEAST
    return fits if between > max(least, AGAIN * weights[fits - 1]) else 1


def _cut(members: Sequence[Step], threads: int) -> list[int]:
    """Lengths of the chains that these steps make for so many threads, for the least work: what
    chains cost at the borders of their strips, and what the maps between chains cost."""
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    per_byte = CROSSING_BOARD * threads if members[0].isa.board else CROSSING
    crossing = [2 * step.y.buffer.nbytes * per_byte for step in members[:-1]] + [0]
    for end in range(1, len(members) + 1):
        costs = []
        for start, (cost, lengths) in enumerate(best):
            some = members[start:end]
            within = 0 if _fits(some, threads) else sum(crossing[start : end - 1])
            own = _twice(some, threads) + within + crossing[end - 1]
            costs.append((cost + own, [*lengths, end - start]))
        best.append(min(costs))
    return best[-1][1]


def _fits(members: Sequence[Step], threads: int) -> bool:
    """Does a board's cache hold the fewest rows that the members can have in use, beside their
    weights? Where not, the maps between them go through memory all the same. Elsewhere the cache is
    larger or has another one behind it: no difference (Zen 3)."""
    if not members[0].isa.board:
        return True
    weights = sum(step.compulsory.weight for step in members)
    return _in_use(members, _least_band(members)) * threads + weights <= ROOM


def _twice(members: Sequence[Step], threads: int) -> float:
    """Multiply-adds of the rows that two neighbouring strips compute both, all borders together."""
    rows, work = 0, 0.0
    for step in reversed(members):
        work += step.compulsory.macs * rows / _number(step, "oh")
        rows = max(0, min((rows - 1) * _number(step, "sh") + _reach(step), _number(step, "h")))
    return (min(threads, _number(members[-1], "oh")) - 1) * work


def _reachable(steps: Sequence[Step], first: int, uses: Counter[Buffer]) -> Iterator[Step]:
    """The steps from ``first`` on that each read just what the one before wrote, row by row."""
    yield steps[first]
    for a, b in zip(steps[first:], steps[first + 1 : first + LONGEST], strict=False):
        own = a.y.buffer.kind == "arena" and not a.y.buffer.shared and uses[a.y.buffer] == 2
        kernels = a.fields["op"] in MEMBERS and b.fields["op"] in MEMBERS
        map_ = a.y.is_map and a.y.dense  # rows of a matrix are none
        if not (own and kernels and a.y == b.x and map_ and _reach(b) < _number(b, "h")):
            return
        yield b


def _join(members: Sequence[Step], later: Sequence[Step]) -> None:
    head, last = members[0], members[-1]
    head.chain, head.band = len(members), _choose_band(members)
    for step, turns in zip(members, zip(*_turns(members, head.band), strict=True), strict=True):
        step.bands = turns
    for a, b in pairwise(members):
        a.y = b.x = replace(a.y, buffer=replace(a.y.buffer, kind="band"))
    for i, step in enumerate(members, 1):
        step.reason += f"; {i} of {len(members)} in a chain, {head.band} rows at a time"
    read = [head.x.buffer, *(step.z.buffer for step in members[:-1] if step.z)]
    if last.y.buffer in read and not last.y.buffer.shared:  # shared: another part of a joint tensor
        # computed in place, where another strip may still have to read
        old, new = last.y.buffer, replace(last.y.buffer)
        last.y = replace(last.y, buffer=new)
        for step in later:
            step.move(old, new)


def by_panels(a: Step, b: Step) -> bool:
    """Does ``a`` hand on to ``b`` panel by panel, as ``by_panels`` of csrc/chain.c decides?"""
    if a.isa.lanes < 8 or a.y.row < LONG_ROW or a.z is not None or a.has(RIVALS):
        return False
    f, sides = b.fields, (b.fields["op"], *(_number(b, name) for name in ("kh", "kw", "dh", "dw")))
    pair = a.fields["op"] == "TF_CONV" and _number(a, "groups") == 1
    window = sides == ("TF_DEPTHWISE", 3, 3, 1, 1) and f["sh"] == f["sw"]
    begins = (_number(b, "oh") - 1) * _number(b, "sh") - _number(b, "pt")  # the last window
    inside = _number(b, "pt") <= 1 and begins < _number(b, "h")
    return pair and window and inside and _number(b, "sh") <= 2 and _number(b, "ow") >= 4


def _least_band(members: Sequence[Step]) -> int:
    """Rows; two where rows of panels are copied once a band."""
    return 2 if any(by_panels(a, b) for a, b in pairwise(members)) else 1


def _choose_band(members: Sequence[Step]) -> int:
    """As many rows as fit."""
    whole = _number(members[-1], "oh")
    for band in range(_least_band(members), whole):
        if _in_use(members, band + 1) > BAND:
            return band
    return whole


def _in_use(members: Sequence[Step], band: int) -> int:
    """Bytes of the rows in use: of a step whose panels go on, those of one panel and what is kept
    of all; its input passes once for every panel."""
    rows, floats = _rows(members, band), 0
    for count, (a, b) in zip(rows, pairwise(members), strict=True):
        floats += held_floats(a, b, count) if by_panels(a, b) else count * a.y.row
    if len(members) > 1 and by_panels(*members[:2]):
        under = (rows[0] - 1) * _number(members[0], "sh") + _reach(members[0])
        floats += under * members[0].x.row
    return floats * FLOAT


def _rows(members: Sequence[Step], band: int) -> list[int]:
    """Rows of each member but the last that are in use while the last makes ``band`` more: the new
    ones, and what windows over them reach. (In the first turn, more.)"""
    rows = []
    for step in reversed(members[1:]):
        stride, side = _number(step, "sh"), _number(step, "h")
        rows.append(min((band - 1) * stride + _reach(step), side))
        band = min(band * stride, side)
    return rows[::-1]


def _reach(step: Step) -> int:
    """Input rows under one output row."""
    return (_number(step, "kh") - 1) * _number(step, "dh") + 1


def _turns(members: Sequence[Step], band: int) -> Iterator[tuple[Band, ...]]:
    """What every member does in each turn of one thread, as plan_band of csrc/chain.c finds it. A
    convolution whose panels go on makes nothing as long as their reader has nothing to make."""
    last = len(members) - 1
    handing = [j for j, (a, b) in enumerate(pairwise(members)) if by_panels(a, b)]
    made, base = [0] * (last + 1), [0] * (last + 1)  # rows made; row at the front of the buffer
    while made[last] < _number(members[last], "oh"):
        first, end, kept = list(made), [0] * (last + 1), [(0, 0)] * (last + 1)
        end[last] = min(first[last] + band, _number(members[last], "oh"))
        for j in range(last, 0, -1):
            low, high = _rows_under(members[j], first[j], end[j])
            if first[j - 1] > low > base[j - 1]:
                kept[j - 1] = first[j - 1] - low, low - base[j - 1]
            base[j - 1] = low
            first[j - 1] = max(first[j - 1], low)
            end[j - 1] = max(first[j - 1], high)
        for j in handing:
            end[j] = end[j] if first[j + 1] < end[j + 1] else first[j]
        made = end
        yield tuple(map(lambda a, b, c, d: Band(a, b, c, *d), first, end, base, kept))


def _rows_under(step: Step, first: int, end: int) -> tuple[int, int]:
    """Input rows that output rows first … end - 1 read, within the map."""
    stride, pad, side = (_number(step, name) for name in ("sh", "pt", "h"))
    low = min(max(first * stride - pad, 0), side)
    return low, max(min((end - 1) * stride - pad + _reach(step), side), low)


def _number(step: Step, field: str) -> int:
    return int(step.fields.get(field, 0))  # absent: element-wise steps have no padding
