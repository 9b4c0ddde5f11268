"""Where buffers lie: never two alive together in one place, hardly above the least there is.

That no bit depends on it is tested in ``test_c_engine.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import network

from tinyface.backends import c as engine
from tinyface.networks import REGISTRY
from tinyface.plan import Packer, arena, make_plan
from tinyface.plan.model import ALIGN, Buffer

Lives = dict[Buffer, arena.Life]


class Nothing(Packer):
    """Packs no weights: plans for their buffers alone take a fraction of the time."""

    def add(self, key: Hashable, make: Callable[[], object], *, exact: bool = False) -> int:
        return 0


def apart(life: Lives) -> bool:
    """No two buffers that are alive at one step overlap."""
    return all(
        a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
        for a, (a0, a1) in life.items()
        for b, (b0, b1) in life.items()
        if a is not b and a0 <= b1 and b0 <= a1
    )


@pytest.mark.slow
@pytest.mark.needs_c
@pytest.mark.parametrize("name", REGISTRY)
def test_the_arena_is_near_its_lower_bound(name: str) -> None:
    """Of every network here; with and without chains."""
    graph = network(name)
    for chains in (True, False):
        plan = make_plan(graph, engine.isas()[-1], Nothing(), chains=chains)
        assert plan.lower_bound <= plan.arena_bytes <= 1.05 * plan.lower_bound
        assert apart(arena.lives(plan.steps))


def lives(*bufs: tuple[int, int, int]) -> Lives:
    """Buffers of so many cache lines, from one step to another."""
    return {Buffer("arena", "", lines * ALIGN): (first, last) for lines, first, last in bufs}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 11), st.integers(0, 6)), max_size=24),
)
def test_any_lives_find_a_place(drawn: list[tuple[int, int, int]]) -> None:
    bufs = [(lines, first, first + more) for lines, first, more in drawn]
    life, again = lives(*bufs), lives(*bufs)
    size, bound = arena.place(life, 18)
    assert apart(life)
    assert size == max((b.offset + b.size for b in life), default=0)
    assert bound <= size
    assert arena.place(again, 18) == (size, bound)
    assert [b.offset for b in life] == [b.offset for b in again]


def test_what_ends_on_top_goes_first() -> None:
    """None of the usual orders gets here to the lower bound; the search does."""
    life = lives((4, 2, 3), (5, 1, 1), (3, 1, 2), (2, 2, 2))
    assert arena.place(life, 4) == (9 * ALIGN, 9 * ALIGN)
