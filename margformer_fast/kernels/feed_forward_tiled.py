"""The feed-forward half of a block on the host, by tiles of rows that stay in the cache.

Shapes: R = B x T rows, D dim, M hidden. Hidden units exist for one tile of rows at a time, in the forward and
in the backward, which computes them again: one product in six, against writing and reading R x M numbers.
Dropout is decided by a stream that starts anew from its seed, so there is no mask either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from .dropout import KeepStream

EPSILON = 1e-5
# Hidden units of a tile. Three buffers of them share the cache; much smaller tiles starve the matrix product.
TILE_ELEMENTS = 1 << 19


class Weights(NamedTuple):
    """The arguments of the operator that are trained, as in the reference."""

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    w1: torch.Tensor
    """(M, D)"""
    b1: torch.Tensor
    w2: torch.Tensor
    """(D, M)"""
    b2: torch.Tensor


class _Tile(NamedTuple):
    """Rows, and what their forward pass leaves; hidden tensors live until the next tile."""

    rows: slice
    y: torch.Tensor
    """Normalised, in the type of the products."""
    pre: torch.Tensor
    hidden: torch.Tensor
    """After GELU and dropout, not yet scaled."""
    keep: torch.Tensor | None
    mean: torch.Tensor
    rstd: torch.Tensor


class _Forward:
    """The forward pass up to the hidden units, tile by tile through the same buffers."""

    def __init__(
        self, x_RD: torch.Tensor, weights: Weights, seed: int | None, dropout: float, dtype: torch.dtype
    ) -> None:
        self.x_RD, self.weights = x_RD, weights
        self.stream = None if seed is None else KeepStream(seed, dropout)
        self.scale = 1.0 if self.stream is None else self.stream.scale
        M = len(weights.b1)
        self._height = max(1, min(len(x_RD), TILE_ELEMENTS // M))
        self.w1_MD, self.b1_M = weights.w1.to(dtype), weights.b1.to(dtype)
        # Scaling weights is cheaper than scaling what they are multiplied with.
        self.w2_DM = (weights.w2 * self.scale).to(dtype)
        self._buffers = [x_RD.new_empty((self._height, M), dtype=dtype) for _ in range(3)]
        self.dtype = dtype

    def __iter__(self) -> Iterator[_Tile]:
        for top in range(0, len(self.x_RD), self._height):
            rows = slice(top, min(top + self._height, len(self.x_RD)))
            pre, hidden, keep = (buffer[: rows.stop - rows.start] for buffer in self._buffers)
            y_RD, mean_R1, rstd_R1 = torch.native_layer_norm(
                self.x_RD[rows],
                self.x_RD.shape[1:],
                self.weights.norm_weight,
                self.weights.norm_bias,
                EPSILON,
            )
            y_RD = y_RD.to(self.dtype)
            torch.addmm(self.b1_M, y_RD, self.w1_MD.T, out=pre)
            torch.ops.aten.gelu.out(pre, out=hidden)
            if self.stream is not None:
                hidden.mul_(self.stream.draw(keep))
            kept = keep if self.stream is not None else None
            yield _Tile(rows, y_RD, pre, hidden, kept, mean_R1, rstd_R1)


def forward(
    x_RD: torch.Tensor, weights: Weights, seed: int | None, dropout: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return the update of each row, shape (R, D), in the type of `x_RD`.

    Parameters
    ----------
    x_RD : Tensor
        Rows before normalisation, contiguous, in main memory.
    weights : Weights
        See the reference.
    seed : int or None
        Of dropout; None for none.
    dropout : float
        Probability of dropping a hidden unit.
    dtype : torch.dtype
        Of the factors of matrix products and of hidden units.
    """
    out_RD = torch.empty_like(x_RD)
    passes = _Forward(x_RD, weights, seed, dropout, dtype)
    b2_D = weights.b2.to(dtype)
    for tile in passes:
        if x_RD.dtype == dtype:
            torch.addmm(b2_D, tile.hidden, passes.w2_DM.T, out=out_RD[tile.rows])
        else:
            out_RD[tile.rows] = torch.addmm(b2_D, tile.hidden, passes.w2_DM.T)
    return out_RD


def backward(
    grad_RD: torch.Tensor,
    x_RD: torch.Tensor,
    weights: Weights,
    seed: int | None,
    dropout: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of `x_RD` and of each of `weights`, each in the type of what it belongs to.

    `grad_RD` is that of the result of :func:`forward`, contiguous; the rest is what that was given.
    """
    wide = torch.float64 if x_RD.dtype == torch.float64 else torch.float32
    dx_RD = torch.empty_like(x_RD)
    d_norm_weight_D, d_norm_bias_D, dw1_MD, db1_M, dw2_DM, db2_D = (
        torch.zeros_like(weight, dtype=wide) for weight in weights
    )
    passes = _Forward(x_RD, weights, seed, dropout, dtype)
    for tile in passes:
        g_RD = grad_RD[tile.rows].to(dtype)
        _add_product(dw2_DM, g_RD.T, tile.hidden)
        # The hidden units have served: their buffer takes their gradient.
        d_RM = torch.mm(g_RD, passes.w2_DM, out=tile.hidden)
        if tile.keep is not None:
            d_RM.mul_(tile.keep)
        torch.ops.aten.gelu_backward.grad_input(d_RM, tile.pre, grad_input=d_RM)
        _add_product(dw1_MD, d_RM.T, tile.y)
        db1_M += d_RM.sum(0, dtype=wide)
        dx_RD[tile.rows], d_weight_D, d_bias_D = torch.ops.aten.native_layer_norm_backward(
            torch.mm(d_RM, passes.w1_MD).to(x_RD.dtype),
            x_RD[tile.rows],
            x_RD.shape[1:],
            tile.mean,
            tile.rstd,
            weights.norm_weight,
            weights.norm_bias,
            [True, True, True],
        )
        d_norm_weight_D += d_weight_D
        d_norm_bias_D += d_bias_D
        db2_D += grad_RD[tile.rows].sum(0, dtype=wide)
    grads = (d_norm_weight_D, d_norm_bias_D, dw1_MD, db1_M, dw2_DM.mul_(passes.scale), db2_D)
    return dx_RD, *(grad.to(weight.dtype) for grad, weight in zip(grads, weights, strict=True))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right))
