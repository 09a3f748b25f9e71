"""Feed-forward half of a transformer block."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..backends import Implementation, Operator, Problem, not_compiled
from ..reference.feed_forward import feed_forward as _reference
from ..reference.weights import FeedForwardWeights
from .layers import encode, not_triton


def _run(x_BTD: torch.Tensor, *rest: Any, backend: str) -> torch.Tensor:
    *weights, dropout = rest
    return encode(x_BTD, None, FeedForwardWeights(*weights), 1, dropout, backend=backend)


OPERATOR = Operator(
    "feed_forward",
    (
        Implementation("triton", partial(_run, backend="triton"), not_triton),
        Implementation("cpp", partial(_run, backend="cpp"), not_compiled),
        Implementation("reference", _reference),
    ),
)


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
    ``backend`` is ``"triton"``, ``"cpp"``, ``"reference"`` or ``"auto"``; what fusing means for types,
    gradients and dropout is told by :func:`margformer_fast.ops.encoder_layer.encoder_layer`.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(x_BTD, norm_weight_D, norm_bias_D, w1_MD, b1_M, w2_DM, b2_D, dropout)
