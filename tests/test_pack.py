"""Packing: every element where the micro-kernel looks for it, whatever is packed later."""

from __future__ import annotations

import numpy as np
import pytest

from tinyface.plan import pack
from tinyface.plan.pack import Packer, conv_panels


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("o", "c", "groups"), [(1, 1, 1), (19, 5, 1), (16, 3, 1), (10, 3, 2)])
def test_panels_by_their_definition(o: int, c: int, groups: int, dtype: type) -> None:
    """Group by group, panel by panel: rows ky, kx, c of 2 lanes columns; the last may have 1."""
    lanes, weight = 4, np.arange(o * c * 6).reshape(o, c, 2, 3).astype(dtype)
    expected: list[float] = []
    for group in np.split(weight, groups):
        for first in range(0, len(group), 2 * lanes):
            rest = len(group) - first
            width = 2 * lanes if rest > lanes else lanes
            for y, x, k in np.ndindex(2, 3, c):
                column = group[first : first + width, k, y, x]
                expected += [*column, *[0] * (width - len(column))]
    packer = Packer()
    offset = packer.add("w", lambda: conv_panels(weight, groups, lanes))
    found = packer.finish()[offset:].view(dtype)[: len(expected)]
    assert found.tolist() == expected


def test_what_is_packed_later_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "FIRST", 16)
    packer = Packer()
    one = packer.add("one", lambda: np.arange(5.0))
    packer.need_zeros(20)
    early, zeros = packer.finish(), packer.zeros
    two = packer.add("two", lambda: [np.ones(3, np.float16), np.full(1000, 2, np.float16)])
    packer.need_zeros(3000)
    late = packer.finish()
    assert packer.add("one", lambda: np.zeros(1)) == one  # known: not made again
    for weights in (early, late):
        assert weights[one : one + 5].tolist() == [0, 1, 2, 3, 4]
        assert not weights[zeros : zeros + 20].any()
        assert weights.ctypes.data % 64 == 0
    assert late[two:].view(np.float16)[:1004].tolist() == [1] * 3 + [2] * 1000 + [0]
    assert not late[packer.zeros : packer.zeros + 3000].any()
    assert all(offset % 16 == 0 for offset in (one, two, zeros, packer.zeros))


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_no_room_is_no_end(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    monkeypatch.setattr(pack, "FIRST", 16)
    packer = Packer()
    one = packer.add("one", lambda: np.arange(5.0))

    def none_left(size: int) -> np.ndarray:
        raise error

    with monkeypatch.context() as short:
        short.setattr(pack, "aligned", none_left)
        with pytest.raises(error):
            packer.add("two", lambda: np.ones(1000))
    two = packer.add("two", lambda: np.full(1000, 2.0))
    weights = packer.finish()
    assert weights[one : one + 5].tolist() == [0, 1, 2, 3, 4]
    assert (weights[two : two + 1000] == 2).all()
