"""A whole layer of MargFormer's encoder."""

from __future__ import annotations

from functools import partial

import torch

from ..backends import Implementation, Operator, Problem, not_compiled
from ..reference.encoder_layer import encoder_layer as _reference
from ..reference.weights import AttentionWeights, FeedForwardWeights
from .layers import encode, not_triton

OPERATOR = Operator(
    "encoder_layer",
    (
        Implementation("triton", partial(encode, backend="triton"), not_triton),
        Implementation("cpp", partial(encode, backend="cpp"), not_compiled),
        Implementation("reference", _reference),
    ),
)


def encoder_layer(
    x_BTD: torch.Tensor,
    attention: AttentionWeights,
    hidden: FeedForwardWeights,
    *,
    num_heads: int,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Tokens after a layer, shape (B, T, D).

    See :func:`margformer_fast.reference.encoder_layer.encoder_layer` for the arguments and the formula.
    ``backend`` is ``"triton"``, on a GPU, for float32 and bfloat16; ``"cpp"``, on the CPU, which goes through
    both halves while tokens are in the cache; ``"reference"`` or ``"auto"``. Fused, only the tokens are kept
    for the backward, the result has their type also under autocast, and can be differentiated once. Dropout
    rounds its probability to a multiple of 1/65536, and its masks depend on one number drawn from torch's
    global generator a call (:mod:`margformer_fast.reference.dropout`).

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(x_BTD, attention, hidden, num_heads, dropout)
