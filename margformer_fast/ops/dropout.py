"""Where the random numbers of dropout come from: torch's global generator, by one draw a call."""

from __future__ import annotations

import torch


def draw_seed(device: torch.device) -> torch.Tensor:
    """Return a seed, an int64 of shape () on a device, from torch's global generator there.

    A tensor, so that it is drawn when a captured graph runs and not when it is captured.
    """
    return torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64, device=device)
