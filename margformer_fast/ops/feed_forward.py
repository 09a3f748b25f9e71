"""Feed-forward half of a transformer block."""

from __future__ import annotations

import torch

from ..backends import Implementation, Operator, Problem
from ..reference.feed_forward import feed_forward as _reference

OPERATOR = Operator("feed_forward", (Implementation("reference", _reference),))


def feed_forward(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w1_MD: torch.Tensor,
    b1_M: torch.Tensor,
    w2_DM: torch.Tensor,
    b2_D: torch.Tensor,
    *,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Update of each token, shape (B, T, D).

    See :func:`margformer_fast.reference.feed_forward.feed_forward` for the arguments and the formula.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(x_BTD, norm_weight_D, norm_bias_D, w1_MD, b1_M, w2_DM, b2_D, dropout)
