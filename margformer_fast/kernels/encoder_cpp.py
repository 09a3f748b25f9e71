"""Layers of an encoder on the host, by the compiled module: csrc/cpu/encoder.

Tokens go through the layer in chunks that stay in the cache, each thread with its own. Nothing in between is
kept for the backward, which computes it again. Weights' gradients are summed by thread, so that results are
repeatable for a number of threads, and differ by rounding between numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import _native
from ..reference.dropout import dropped_levels
from ..reference.weights import AttentionWeights, FeedForwardWeights

# The kind of processor to run as; empty for the best that this one is. (Tests run as each.)
TARGET = ""


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

    Parameters
    ----------
    x_BTD : Tensor
        Tokens, in main memory.
    attention, feed_forward : AttentionWeights or FeedForwardWeights or None
        The halves there are.
    num_heads : int
        Heads of attention.
    seed : Tensor or None
        Of dropout, int64 of shape (); None for none.
    dropout : float
        Probability of dropping an attention weight, or a hidden unit.
    precision : str
        ``"bf16"``, of the factors of the feed-forward half's products alone, or any other for that of `x_BTD`
        (float32 at least).
    """
    B, _, D = x_BTD.shape
    dtype = _dtype(x_BTD)
    out = torch.empty(x_BTD.shape if feed_forward else (B, D), dtype=dtype)
    _native.compiled().encode(
        _array(x_BTD, dtype),
        [(_arrays(attention, dtype), _arrays(feed_forward, dtype))],
        out.numpy(),
        first_token=False,
        **_settings(num_heads, seed, dropout, precision),
    )
    return out.to(x_BTD.dtype)


def forward_network(
    x_BTD: torch.Tensor,
    layers: Sequence[tuple[AttentionWeights, FeedForwardWeights]],
    num_heads: int,
    precision: str,
) -> torch.Tensor:
    """Return token 0 of each object, (B, D), after all layers, without dropout.

    An object goes through the whole network while it is in the cache; the last layer computes nothing but
    what token 0 needs. The arguments are those of :func:`forward`.
    """
    B, _, D = x_BTD.shape
    dtype = _dtype(x_BTD)
    out = torch.empty((B, D), dtype=dtype)
    _native.compiled().encode(
        _array(x_BTD, dtype),
        [(_arrays(attention, dtype), _arrays(hidden, dtype)) for attention, hidden in layers],
        out.numpy(),
        first_token=True,
        **_settings(num_heads, None, 0.0, precision),
    )
    return out.to(x_BTD.dtype)


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
    dtype = _dtype(x_BTD)
    tensors = [x_BTD, *(attention or ()), *(feed_forward or ())]
    grads = [torch.empty(each.shape, dtype=dtype) for each in tensors]
    views = [each.numpy() for each in grads]
    num_of_attention = len(attention or ())
    _native.compiled().encode_back(
        _array(x_BTD, dtype),
        [(_arrays(attention, dtype), _arrays(feed_forward, dtype))],
        _array(grad, dtype),
        views[0],
        views[1 : 1 + num_of_attention],
        views[1 + num_of_attention :],
        **_settings(num_heads, seed, dropout, precision),
    )
    return [each.to(tensor.dtype) for each, tensor in zip(grads, tensors, strict=True)]


def _dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _array(tensor: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    array: np.ndarray = tensor.detach().to(dtype).contiguous().numpy()
    return array


def _arrays(tensors: Sequence[torch.Tensor] | None, dtype: torch.dtype) -> list[np.ndarray] | None:
    return None if tensors is None else [_array(each, dtype) for each in tensors]


def _settings(num_heads: int, seed: torch.Tensor | None, dropout: float, precision: str) -> dict[str, Any]:
    return {
        "num_heads": num_heads,
        "seed": None if seed is None else int(seed.item()),
        "dropped_levels": dropped_levels(dropout),
        "halves": precision == "bf16",
        "threads": _native.num_threads(),
        "target": TARGET,
    }
