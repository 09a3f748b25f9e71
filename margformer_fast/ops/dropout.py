"""Where the random numbers of dropout come from: torch's global generator, by one draw a call."""

from __future__ import annotations

import torch


def draw_seed() -> torch.Tensor:
    """Return a seed, an int64 of shape () in main memory, from torch's global generator.

    A tensor, so that under ``torch.compile`` it is drawn when the graph runs and not when it is captured.
    """
    return torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64)


def seed_number(seed: torch.Tensor | None) -> int | None:
    """Return a seed as a number, None as it is."""
    return None if seed is None else int(seed.item())
