"""Which elements dropout keeps, on the host: fast, and a function of a seed, so that no mask is stored.

PyTorch draws a Bernoulli number an element on one thread, about a tenth of a billion a second. Here one
64-bit word decides four elements, 16 bits each, so that a probability is rounded to a multiple of 1/65536 and
what is kept is scaled by the rounded one: the mean is exact.
"""

from __future__ import annotations

import numpy as np
import torch

LEVELS = 1 << 16


class KeepStream:
    """Decides element after element which are kept; two streams of one seed decide alike.

    Parameters
    ----------
    seed : int
        At least 0. Seeds give independent streams (NumPy's ``SFC64``, seeded through ``SeedSequence``).
    probability : float
        Of dropping an element, from 0 to 1.

    Attributes
    ----------
    scale : float
        What kept elements are to be multiplied by; 0 where none is kept.
    """

    def __init__(self, seed: int, probability: float) -> None:
        self._words = np.random.SFC64(seed)
        self._num_dropped_levels = round(probability * LEVELS)
        num_kept_levels = LEVELS - self._num_dropped_levels
        self.scale = LEVELS / num_kept_levels if num_kept_levels else 0.0

    def draw(self, out: torch.Tensor) -> torch.Tensor:
        """Fill a tensor in main memory, of any type, with 1 for elements that are kept and 0 for others."""
        count = out.numel()
        words: np.ndarray = self._words.random_raw(-(-count // 4))
        level = torch.from_numpy(words.view(np.int16)[:count]).view(out.shape)
        if not self.scale:
            return out.zero_()
        return torch.ge(level, self._num_dropped_levels - LEVELS // 2, out=out)
