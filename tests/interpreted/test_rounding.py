"""Factors rounded to tf32, by the host and by kernels: against the nearest numbers, reckoned in float64."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from margformer_fast.kernels.rounding import round_to_tf32, rounded_to_tf32


@triton.jit
def round_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    tl.store(out_ptr + places, round_to_tf32(tl.load(x_ptr + places)))


def nearest(x: np.ndarray) -> np.ndarray:
    """Numbers with eleven binary digits, halves away from zero."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.sign(mantissa) * np.floor(np.abs(mantissa) * 2**11 + 0.5), exponent - 11)


def test_to_the_nearest(rng: np.random.Generator) -> None:
    x = (rng.normal(size=256) * 10.0 ** rng.integers(-30, 30, 256)).astype(np.float32)
    x[:4] = 0.0, -0.0, 1 + 2**-11, -1 - 2**-11  # the last two are halves
    given = torch.from_numpy(x)
    by_kernel = torch.full_like(given, torch.nan)
    round_kernel[(1,)](given, by_kernel, BLOCK=256)
    for got in (rounded_to_tf32(given), by_kernel):
        np.testing.assert_array_equal(got.numpy().astype(np.float64), nearest(x))


def test_infinities_stay() -> None:
    x = torch.tensor([torch.inf, -torch.inf])
    assert torch.equal(rounded_to_tf32(x), x)
