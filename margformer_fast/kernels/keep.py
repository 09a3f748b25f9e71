"""Dropout's decisions inside a Triton kernel; see `reference/dropout.py` for what they are."""

from __future__ import annotations

import triton
import triton.language as tl

# Of Philox4x32: what words 0 and 2 are multiplied by, and what the keys grow by in a round.
MULTIPLIER_0 = tl.constexpr(0xD2511F53)
MULTIPLIER_2 = tl.constexpr(0xCD9E8D57)
STEP_0 = tl.constexpr(0x9E3779B9)
STEP_1 = tl.constexpr(0xBB67AE85)


@triton.jit
def _philox(seed, c0, c1, c2, c3):
    """The four words of counters of four words, all uint32 and of one shape.

    `tl.philox` takes both halves of a product by two instructions; a widening product is one, and the ten
    rounds are half of what dropout costs.
    """
    key_0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    key_1 = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        product_0 = c0.to(tl.uint64) * MULTIPLIER_0
        product_2 = c2.to(tl.uint64) * MULTIPLIER_2
        c0 = (product_2 >> 32).to(tl.uint32) ^ c1 ^ key_0
        c2 = (product_0 >> 32).to(tl.uint32) ^ c3 ^ key_1
        c1 = product_2.to(tl.uint32)
        c3 = product_0.to(tl.uint32)
        # In 64 bits and back: the interpreter warns where uint32 numbers of its own overflow.
        key_0 = ((key_0.to(tl.uint64) + STEP_0) & 0xFFFFFFFF).to(tl.uint32)
        key_1 = ((key_1.to(tl.uint64) + STEP_1) & 0xFFFFFFFF).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _words(seed, rows, group, PURPOSE: tl.constexpr):
    """Four words for each eight units `group` of each row, int64 and int32 tensors that broadcast."""
    zero = (rows & 0).to(tl.uint32) + (group & 0).to(tl.uint32)
    w0, w1, w2, w3 = _philox(
        seed,
        group.to(tl.uint32) + zero,
        (rows & 0xFFFFFFFF).to(tl.uint32) + zero,
        (rows >> 32).to(tl.uint32) + zero,
        zero + PURPOSE,
    )
    # Trailing axes: upper and lower bit of the word's number.
    return tl.join(tl.join(w0, w2), tl.join(w1, w3))


@triton.jit
def keep_tile(
    seed,
    rows,
    first_unit,
    dropped_levels,
    PURPOSE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Which of `BLOCK_U` units, from a multiple of 8 on, of some rows are kept.

    `rows` is an int64 tensor of `BLOCK_R` numbers, `seed` an int64; int1 (`BLOCK_R`, `BLOCK_U`) comes back.
    """
    group = first_unit // 8 + tl.arange(0, BLOCK_U // 8)
    words = _words(seed, rows[:, None], group[None, :], PURPOSE)
    levels = tl.join(words & 0xFFFF, words >> 16)
    return tl.reshape(levels, (BLOCK_R, BLOCK_U)) >= dropped_levels


@triton.jit
def unit_of_column(BLOCK_U: tl.constexpr):
    """The order of units in :func:`keep_tile_by_thread`: bits 1-2 and 3-4 of the number change places."""
    column = tl.arange(0, BLOCK_U)
    return column // 32 * 32 + column // 2 % 4 * 8 + column // 8 % 4 * 2 + column % 2


@triton.jit
def keep_tile_by_thread(
    seed,
    first_row,
    first_unit,
    dropped_levels,
    PURPOSE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """As :func:`keep_tile`, `BLOCK_U` a multiple of 32, for units in the order of :func:`unit_of_column`.

    A thread of a tensor core's accumulator holds columns 8j + 2q and 8j + 2q + 1 of its rows, q from 0 to 3.
    In this order these are, for four j, eight neighbouring units: what one counter decides stays in the
    thread that asked, and no decision goes through shared memory. The order of hidden units is free: it only
    has to be that of the rows of the weights.
    """
    # Axes: half of 16 rows and 32 units; 16 rows; row; eight units. As the compiler deals out a tensor of
    # this shape, the last three are the warp and the thread, as they are of the accumulator.
    HALVES: tl.constexpr = BLOCK_U // 16
    half = tl.arange(0, HALVES)[:, None, None, None]
    sixteen = tl.arange(0, BLOCK_R // 16)[None, :, None, None]
    eighth = tl.arange(0, 8)[None, None, :, None]
    quarter = tl.arange(0, 4)[None, None, None, :]
    row = first_row + (sixteen * 16 + half % 2 * 8 + eighth)
    words = _words(seed, row, first_unit // 8 + half // 2 * 4 + quarter, PURPOSE)
    words = tl.reshape(words, (HALVES // 2, 2, BLOCK_R // 16, 8, 4, 4))
    # The lower half is moved up, the upper keeps what is below it, which cannot change the answer. All 65536
    # levels would overflow: what is dropped for certain is dropped by its scale of 0.
    levels = tl.permute(tl.join(words << 16, words), (2, 1, 3, 0, 5, 4, 6))
    return tl.reshape(levels, (BLOCK_R, BLOCK_U)) >= (tl.cast(dropped_levels, tl.uint32) << 16)
