"""Pictures side by side: work on some at once, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from tinyface import machine

Item = TypeVar("Item")
Result = TypeVar("Result")

# Memory for each: 20 megapixels decoded, and the maps of two networks.
PICTURE_BYTES: Final = 256 << 20


def shares(pictures: int, threads: int) -> tuple[int, int]:
    """How many of the pictures to work on at once, and how many threads each of them has.

    Decoding takes one thread, and networks gain less from a second one than a second picture
    does: on two CPUs a folder takes 0.6 (portraits) to 0.8 (12 megapixels) of the time. Fewer at
    once where memory is short.
    """
    free = machine.available_memory()
    most = threads if free is None else free // PICTURE_BYTES
    at_once = max(1, min(pictures, threads, most))
    return at_once, threads // at_once


def in_order(
    items: Iterable[Item], work: Callable[[Item], Result], at_once: int
) -> Generator[tuple[Item, Callable[[], Result]], None, None]:
    """Every item with a function that gives the result of ``work`` on it, or raises what it raised.

    Args:
        at_once: threads that work, a few items ahead of the caller; with 1, the caller's own. The
            first item is the caller's in any case: it imports and plans what all of them share.
    """
    rest = iter(items)
    for item in islice(rest, None if at_once == 1 else 1):
        yield item, partial(work, item)
    if at_once == 1:
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(at_once)
    waiting: deque[tuple[Item, Callable[[], Result]]] = deque()
    try:
        for item in rest:
            waiting.append((item, pool.submit(work, item).result))
            if len(waiting) > 2 * at_once:
                yield waiting.popleft()
        yield from waiting
    finally:  # Ctrl-C, too: what has begun is done within a picture's time
        pool.shutdown(cancel_futures=True)
