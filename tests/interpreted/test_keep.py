"""Dropout's decisions inside kernels: the bits of the reference, whichever way they are dealt out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from margformer_fast.kernels.keep import keep_tile, keep_tile_by_thread, unit_of_column
from margformer_fast.reference.dropout import (
    OF_ATTENTION_WEIGHTS,
    OF_HIDDEN_UNITS,
    dropped_levels,
    keep_mask,
)
from margformer_fast.reference.random import philox

ROWS = 32


@triton.jit
def _decide(
    seed_ptr,
    keep_ptr,
    first_row,
    first_unit,
    levels,
    BY_THREAD: tl.constexpr,
    PURPOSE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    seed = tl.load(seed_ptr)
    first_row = tl.cast(first_row, tl.int64)
    local = tl.arange(0, BLOCK_R)
    if BY_THREAD:
        keep = keep_tile_by_thread(seed, first_row, first_unit, levels, PURPOSE, BLOCK_R, BLOCK_U)
        units = unit_of_column(BLOCK_U)
    else:
        keep = keep_tile(seed, first_row + local, first_unit, levels, PURPOSE, BLOCK_R, BLOCK_U)
        units = tl.arange(0, BLOCK_U)
    tl.store(keep_ptr + local[:, None] * BLOCK_U + units[None, :], keep)


def decided(
    seed: int,
    first_row: int,
    first_unit: int,
    num_units: int,
    probability: float,
    purpose: int,
    by_thread: bool,
) -> torch.Tensor:
    keep = torch.empty(ROWS, num_units, dtype=torch.bool)
    _decide[(1,)](
        torch.tensor(seed), keep, first_row, first_unit, dropped_levels(probability),
        BY_THREAD=by_thread, PURPOSE=purpose, BLOCK_R=ROWS, BLOCK_U=num_units,
    )  # fmt: skip
    return keep


@pytest.fixture(params=[False, True], ids=["in order", "by thread"])
def by_thread(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.mark.parametrize("purpose", [OF_HIDDEN_UNITS, OF_ATTENTION_WEIGHTS])
@pytest.mark.parametrize(
    ("first_row", "first_unit", "probability"), [(0, 0, 0.1), (7, 8, 0.5), (1000, 96, 1 - 2**-16)]
)
def test_bits_of_the_reference(
    rng: np.random.Generator,
    by_thread: bool,
    first_row: int,
    first_unit: int,
    purpose: int,
    probability: float,
) -> None:
    for seed in (0, 2**63 - 1, int(rng.integers(2**63))):
        want = keep_mask(seed, first_row + ROWS, first_unit + 64, probability, purpose)
        got = decided(seed, first_row, first_unit, 64, probability, purpose, by_thread)
        assert torch.equal(got, want[first_row:, first_unit:])


@pytest.mark.parametrize("first_row", [2**32 - 16, 2**32 + 5, 3 * 2**33 + 1])
def test_rows_beyond_32_bits(rng: np.random.Generator, by_thread: bool, first_row: int) -> None:
    """The reference's definition, spelled out for rows that its matrix cannot reach."""
    seed, probability = int(rng.integers(2**63)), 0.3
    rows = (first_row + np.arange(ROWS, dtype=np.uint64))[:, None]
    counter = np.empty((ROWS, 4, 4), np.uint32)
    counter[..., 0] = np.arange(4)
    counter[..., 1] = rows & np.uint64(0xFFFFFFFF)
    counter[..., 2] = rows >> np.uint64(32)
    counter[..., 3] = OF_HIDDEN_UNITS
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(ROWS, 16)
    levels = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], -1).reshape(ROWS, 32)
    got = decided(seed, first_row, 0, 32, probability, OF_HIDDEN_UNITS, by_thread)
    assert np.array_equal(got.numpy(), levels >= dropped_levels(probability))


def test_nothing_is_dropped_at_0(by_thread: bool) -> None:
    assert decided(5, 0, 0, 32, 0.0, OF_HIDDEN_UNITS, by_thread).all()
