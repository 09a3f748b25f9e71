"""A layer of MargFormer's encoder. Shapes: B batch, T tokens, D dim."""

from __future__ import annotations

import torch

from .cross_attention import cross_attention
from .feed_forward import feed_forward
from .weights import AttentionWeights, FeedForwardWeights


def encoder_layer(
    x_BTD: torch.Tensor,
    attention: AttentionWeights,
    hidden: FeedForwardWeights,
    num_heads: int,
    dropout: float,
) -> torch.Tensor:
    """Attention by token 0, then the feed-forward half, each added to what it was computed from.

    Parameters
    ----------
    x_BTD : Tensor, shape (B, T, D)
        Tokens; token 0 carries the photometry.
    attention, hidden : AttentionWeights and FeedForwardWeights
        Weights of the halves, each with a LayerNorm of its own.
    num_heads : int
        Number of heads; D is a multiple of it.
    dropout : float
        Probability of dropping an attention weight, and a hidden unit; 0 to keep all.

    Returns
    -------
    Tensor, shape (B, T, D)

    Notes
    -----
    The attention's update has one token; the sum gives it to all T of them, as in the published model.
    """
    x_BTD = x_BTD + cross_attention(x_BTD, *attention, num_heads, dropout)
    return x_BTD + feed_forward(x_BTD, *hidden, dropout)
