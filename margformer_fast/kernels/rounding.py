"""Factors of products rounded to the nearest, where the units that multiply would cut them off."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Half of the last bit that tf32 keeps of a float32, and the bits that it keeps.
_HALF = 0x1000
_KEPT = 0xFFFFE000
_HALF_TL = tl.constexpr(_HALF)
_KEPT_TL = tl.constexpr(_KEPT)


@triton.jit
def round_to_tf32(value):
    """Return float32 rounded to the nearest number of tf32, halves away from zero.

    Hopper's units read the upper 19 bits of a float32 and ignore the rest: on an H200 an error four times
    that of cuBLAS, which rounds. Infinities stay; the largest numbers, within 2^-11 of the end, become one.
    """
    bits = value.to(tl.uint32, bitcast=True) + _HALF_TL
    return (bits & _KEPT_TL).to(tl.float32, bitcast=True)


def rounded_to_tf32(value: torch.Tensor) -> torch.Tensor:
    """Return the same of a tensor of float32, for factors that many programs read."""
    return ((value.view(torch.int32) + _HALF) & (_KEPT - 2**32)).view(torch.float32)
