"""How convolutions are cut into tasks: what stays in which cache."""

from __future__ import annotations

import pytest

from tinyface.plan import Isa, tiling


@pytest.mark.parametrize(
    ("isa", "channels", "side", "threads", "cut"),
    [  # tiles of 4x4, of 2x2 on 14x14 with AVX-512; (tiles, panels a task, tasks, in two steps?)
        (Isa("avx512", 16, 12, 12), 64, 28, 1, (25, 2, 2, False)),  # V of half a map fits
        (Isa("avx512", 16, 12, 12), 64, 28, 2, (25, 2, 2, False)),
        (Isa("avx512", 16, 12, 12), 64, 28, 4, (13, 2, 4, False)),
        (Isa("avx512", 16, 12, 12), 256, 14, 1, (49, 8, 1, False)),
        (Isa("avx512", 16, 12, 12), 256, 14, 2, (25, 8, 2, False)),
        (Isa("avx512", 16, 12, 12), 256, 14, 4, (49, 1, 8, True)),  # weights three times more
        (Isa("avx512", 16, 12, 12), 256, 14, 16, (25, 1, 16, True)),
        (Isa("avx512", 16, 12, 12), 512, 14, 2, (49, 1, 16, True)),
        (Isa("avx512", 16, 12, 12), 64, 56, 8, (25, 2, 8, False)),
        (Isa("avx512", 16, 12, 12), 48, 28, 16, (7, 1, 14, True)),
        (Isa("avx2", 8, 6, 12), 64, 112, 2, (25, 4, 32, False)),
        (Isa("neon", 4, 8, 12, 12), 128, 28, 4, (25, 8, 4, False)),
        (Isa("neon", 4, 8, 12, 12), 128, 14, 4, (16, 1, 16, True)),
    ],
)
def test_winograd_is_cut_for_the_threads(
    isa: Isa, channels: int, side: int, threads: int, cut: tuple[int, int, int, bool]
) -> None:
    """Every thread has a part of the map, in blocks whose V stays in the cache."""
    tiles = tiling.winograd_tiles(isa, (1, channels, side, side), channels, 1, threads)
    assert tiles is not None
    assert (tiles.block, tiles.panels, tiles.tasks, tiles.apart) == cut
    alone = tiling.winograd_tiles(isa, (1, channels, side, side), channels, 1)
    assert alone is not None and alone.tile == tiles.tile  # the bits are the same


@pytest.mark.parametrize(
    ("shape", "channels", "stride", "tile"),
    [
        ((1, 256, 56, 56), 128, 1, 4),
        ((1, 192, 28, 28), 256, 2, None),  # V, 1 MiB a block, would pass for each of 24 panels
        ((1, 128, 56, 56), 128, 2, None),  # U, 2.25 MiB, would for each of 12 blocks
        ((1, 512, 28, 28), 512, 1, 2),  # tiles of 4 x 4: 36 MiB for each of four blocks, and V
    ],
)
def test_boards_count_what_passes_their_cache_again(
    shape: tuple[int, int, int, int], channels: int, stride: int, tile: int | None
) -> None:
    tiles = tiling.winograd_tiles(Isa("neon", 4, 8, 12, 12), shape, channels, stride)
    assert (tiles and tiles.tile) == tile
    wide = tiling.winograd_tiles(Isa("avx2", 8, 6, 12), shape, channels, stride)
    assert wide is not None and wide.tile == 4


@pytest.mark.parametrize(
    ("pixels", "k", "panels"),
    [(784, 2304, 6), (784, 1152, 12), (784, 256, 24), (49, 2304, 12)],  # 49: packed once for all
)
def test_weights_of_a_task_stay_in_half_of_a_boards_cache(pixels: int, k: int, panels: int) -> None:
    blocks = tiling.packed_blocks(Isa("neon", 4, 8, 12, 12), pixels, k, 24)
    assert blocks.panels == panels
    assert pixels < 64 or panels * k * 8 * 4 <= 512 << 10
