"""MargFormer's encoder. Shapes: B batch, T tokens, D dim."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .cross_attention import cross_attention
from .encoder_layer import encoder_layer
from .feed_forward import feed_forward
from .weights import AttentionWeights, FeedForwardWeights


def encoder(
    x_BTD: torch.Tensor,
    layers: Sequence[tuple[AttentionWeights, FeedForwardWeights]],
    num_heads: int,
    dropout: float,
) -> torch.Tensor:
    """Token 0 after all layers.

    Parameters
    ----------
    x_BTD : Tensor, shape (B, T, D)
        Tokens; token 0 carries the photometry.
    layers : sequence of pairs of AttentionWeights and FeedForwardWeights
        Weights of the layers, the first applied first.
    num_heads, dropout
        As of :func:`.encoder_layer.encoder_layer`.

    Returns
    -------
    Tensor, shape (B, D)

    Notes
    -----
    Nothing else is read, so the last layer takes no patch token further than the attention reads it.
    """
    *whole, (attention, hidden) = layers
    for each in whole:
        x_BTD = encoder_layer(x_BTD, *each, num_heads, dropout)
    cls_B1D = x_BTD[:, :1] + cross_attention(x_BTD, *attention, num_heads, dropout)
    return (cls_B1D + feed_forward(cls_B1D, *hidden, dropout))[:, 0]
