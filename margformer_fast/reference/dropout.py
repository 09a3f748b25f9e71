"""Which elements dropout keeps: a function of a seed and of the element's place, the same on every backend.

So no mask is stored: the backward asks again. One counter of Philox4x32-10 decides eight neighbouring units,
16 bits each; a probability is therefore rounded to a multiple of 1/65536, and what is kept is scaled by the
rounded one, so that the mean is exact.
"""

from __future__ import annotations

import numpy as np
import torch

from .random import philox

LEVELS = 1 << 16

OF_HIDDEN_UNITS = 0
OF_ATTENTION_WEIGHTS = 1
"""What is dropped: each purpose has a stream of its own, so that a layer needs one seed."""


def dropped_levels(probability: float) -> int:
    """Return how many of the 65536 levels of 16 random bits drop an element."""
    return round(probability * LEVELS)


def kept_scale(probability: float) -> float:
    """Return what kept elements are multiplied by; 0 where none is kept."""
    kept = LEVELS - dropped_levels(probability)
    return LEVELS / kept if kept else 0.0


def keep_mask(seed: int, num_rows: int, num_units: int, probability: float, purpose: int) -> torch.Tensor:
    """Return which elements of a matrix are kept.

    Parameters
    ----------
    seed : int
        In [0, 2**63).
    num_rows, num_units : int
        Hidden units: a row is a token, counted through the batch. Attention weights: a row is a head of an
        object, heads counting faster, and a unit a slot.
    probability : float
        Of dropping an element, from 0 to 1.
    purpose : int
        ``OF_HIDDEN_UNITS`` or ``OF_ATTENTION_WEIGHTS``.

    Returns
    -------
    Tensor of bool, shape (num_rows, num_units)

    Notes
    -----
    Unit u of row r is kept if bits 16 (u mod 2) and up of word (u mod 8) // 2 of the counter
    (u // 8, r mod 2**32, r // 2**32, purpose), under the key (seed mod 2**32, seed // 2**32), are at least
    :func:`dropped_levels`.
    """
    groups = -(-num_units // 8)
    rows = np.arange(num_rows, dtype=np.uint64)[:, None]
    counter = np.empty((num_rows, groups, 4), np.uint32)
    counter[..., 0] = np.arange(groups)
    counter[..., 1] = rows & np.uint64(0xFFFFFFFF)
    counter[..., 2] = rows >> np.uint64(32)
    counter[..., 3] = purpose
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    level = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1).reshape(num_rows, -1)
    return torch.from_numpy(level[:, :num_units] >= dropped_levels(probability))
