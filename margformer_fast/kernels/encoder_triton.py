"""Layers of an encoder in Triton: attention and the feed-forward half, and both as one layer.

Of a whole layer the tokens between its halves are never stored: attention leaves one update an object, which
the feed-forward kernels add to the tokens as they read them. Nothing in between is kept for the backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import torch

from ..reference.weights import AttentionWeights, FeedForwardWeights
from . import cross_attention
from . import feed_forward as hidden

_Half = TypeVar("_Half", AttentionWeights | None, FeedForwardWeights | None)


def forward(
    x_BTD: torch.Tensor,
    attention: AttentionWeights | None,
    feed_forward: FeedForwardWeights | None,
    num_heads: int,
    seed: torch.Tensor | None,
    dropout: float,
    precision: str,
) -> torch.Tensor:
    """Return the update of attention (B, D), that of the feed-forward half, or tokens after a layer of both.

    The arguments are those of :func:`.encoder_cpp.forward`; `precision` is of all products, ``"fp32"``,
    ``"tf32"`` or ``"bf16"``.
    """
    x_BTD, attention, feed_forward = x_BTD.contiguous(), _dense(attention), _dense(feed_forward)
    if attention is None:
        return hidden.forward(x_BTD, cast(FeedForwardWeights, feed_forward), seed, dropout, precision)
    update_BD = cross_attention.forward(x_BTD, attention, num_heads, seed, dropout, precision)
    if feed_forward is None:
        return update_BD
    return hidden.forward(x_BTD, feed_forward, seed, dropout, precision, update_BD=update_BD, residual=True)


def forward_network(
    x_BTD: torch.Tensor,
    layers: Sequence[tuple[AttentionWeights, FeedForwardWeights]],
    num_heads: int,
    precision: str,
) -> torch.Tensor:
    """Return token 0 of each object, (B, D), after all layers, without dropout."""
    *whole, (attention, last) = layers
    for layer in whole:
        x_BTD = forward(x_BTD, *layer, num_heads, None, 0.0, precision)
    update_BD = forward(x_BTD, attention, None, num_heads, None, 0.0, precision)
    cls_B1D, last = x_BTD[:, :1].contiguous(), cast(FeedForwardWeights, _dense(last))
    return hidden.forward(cls_B1D, last, None, 0.0, precision, update_BD=update_BD, residual=True)[:, 0]


def backward(
    grad: torch.Tensor,
    x_BTD: torch.Tensor,
    attention: AttentionWeights | None,
    feed_forward: FeedForwardWeights | None,
    num_heads: int,
    seed: torch.Tensor | None,
    dropout: float,
    precision: str,
) -> list[torch.Tensor]:
    """Return the gradients of `x_BTD` and of each weight, each in the type of what it belongs to.

    `grad` is that of the result of :func:`forward`; the rest is what that was given.
    """
    x_BTD, grad = x_BTD.contiguous(), grad.contiguous()
    attention, feed_forward = _dense(attention), _dense(feed_forward)
    if attention is None:
        weights = cast(FeedForwardWeights, feed_forward)
        return _apart(hidden.backward(grad, x_BTD, weights, seed, dropout, precision))
    if feed_forward is None:
        return _apart(cross_attention.backward(grad, x_BTD, attention, num_heads, seed, dropout, precision))
    update_BD = cross_attention.forward(x_BTD, attention, num_heads, seed, dropout, precision)
    dx_BTD, d_update_BD, *d_hidden = hidden.backward(
        grad, x_BTD, feed_forward, seed, dropout, precision, update_BD=update_BD, residual=True
    )
    dx_of_attention_BTD, *d_attention = cross_attention.backward(
        d_update_BD, x_BTD, attention, num_heads, seed, dropout, precision
    )
    return _apart([dx_BTD.add_(dx_of_attention_BTD), *d_attention, *d_hidden])


def _dense(weights: _Half) -> _Half:
    """Return weights as the kernels read them, row after row: copies of those that lie otherwise."""
    return None if weights is None else type(weights)(*(each.contiguous() for each in weights))


def _apart(grads: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copy gradients that are parts of one tensor: results of an operator share no memory."""
    seen: set[int] = set()
    apart = []
    for grad in grads:
        memory = grad.untyped_storage().data_ptr()
        apart.append(grad.clone() if memory in seen else grad)
        seen.add(memory)
    return apart
