"""Photometry-to-patch attention with its single query folded into the weights: no keys, no values.

Shapes: B batch, b objects of a tile, T tokens, D dim, H heads, E = D/H head dim, K slots.

Only token 0 asks, so products may be taken in an order in which no B x T x D keys and values appear. With y
the normalised tokens and q_h the query of a head,

    r_h = W_k,h^T q_h / sqrt(E)    t_h = y r_h    s_h = proj_k^T t_h    a_h = softmax(s_h)
    u_h = proj_v a_h               z_h = y^T u_h  o_h = W_v,h z_h

which is the reference's formula, bracketed otherwise: 4 T D + 4 T K + 4 D E operations a head and object
instead of 4 T D E + 4 T E K + 4 E K, a seventh at D = 64, H = 8, K = 64. What is left is reading tokens, so
objects go through in tiles that stay in the cache, and normalised tokens are made anew in the backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .dropout import KeepStream

EPSILON = 1e-5
# Elements of the tokens of a tile; beside them a tile has its gradients and scores.
TILE_ELEMENTS = 1 << 18


class Weights(NamedTuple):
    """The arguments of the operator that are trained, as in the reference."""

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    w_q: torch.Tensor
    w_k: torch.Tensor
    w_v: torch.Tensor
    proj_k: torch.Tensor
    proj_v: torch.Tensor
    w_out: torch.Tensor
    b_out: torch.Tensor


class Kept(NamedTuple):
    """What the forward leaves for the backward: B H (2 D + T + K) numbers beside the B T D of the tokens."""

    r: torch.Tensor
    t: torch.Tensor
    a: torch.Tensor
    """Before dropout."""
    z: torch.Tensor


def accumulation_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type that everything is computed in: float64 of float64, float32 of all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _normalise(x: torch.Tensor, weights: Weights) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return normalised vectors, and the means and reciprocal deviations of what they were."""
    return torch.native_layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, EPSILON)


def _tiles(x_BTD: torch.Tensor) -> list[slice]:
    B, T, D = x_BTD.shape
    height = max(1, TILE_ELEMENTS // (T * D))
    return [slice(top, min(top + height, B)) for top in range(0, B, height)]


def _by_head(w_DD: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return rows of a weight by head, (H, E, D)."""
    return w_DD.reshape(num_heads, -1, w_DD.shape[1])


def _heads(x_BD: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return vectors cut by head, (H, B, E)."""
    return x_BD.view(len(x_BD), num_heads, -1).transpose(0, 1)


def _joined(x_HBE: torch.Tensor) -> torch.Tensor:
    """Undo :func:`_heads`."""
    return x_HBE.transpose(0, 1).flatten(1)


def _widened(x_BTD: torch.Tensor, weights: Weights) -> Weights:
    return Weights(*(weight.to(accumulation_dtype(x_BTD)) for weight in weights))


def forward(
    x_BTD: torch.Tensor, weights: Weights, num_heads: int, seed: int | None, dropout: float
) -> tuple[torch.Tensor, Kept]:
    """Return the update of all tokens, shape (B, D), and what the backward needs.

    Parameters
    ----------
    x_BTD : Tensor
        Tokens before normalisation, in main memory.
    weights : Weights
        See the reference.
    num_heads : int
        Number of heads.
    seed : int or None
        Of dropout; None for none.
    dropout : float
        Probability of dropping an attention weight.
    """
    (B, T, D), H, dtype = x_BTD.shape, num_heads, accumulation_dtype(x_BTD)
    w = _widened(x_BTD, weights)
    stream = None if seed is None else KeepStream(seed, dropout)
    y_BD = _normalise(x_BTD[:, 0].to(dtype), w)[0]
    q_HBE = _heads(y_BD @ w.w_q.T, H) * (D // H) ** -0.5
    kept = Kept(
        torch.bmm(q_HBE, _by_head(w.w_k, H)).transpose(0, 1).contiguous(),
        *(x_BTD.new_empty((B, H, length), dtype=dtype) for length in (T, w.proj_k.shape[1], D)),
    )
    for tile in _tiles(x_BTD):
        y_bTD = _normalise(x_BTD[tile].to(dtype), w)[0]
        t_bHT = torch.bmm(kept.r[tile], y_bTD.transpose(1, 2), out=kept.t[tile])
        a_bHK = kept.a[tile].copy_((t_bHT @ w.proj_k).softmax(-1))
        if stream is not None:
            a_bHK = a_bHK * stream.draw(torch.empty_like(a_bHK)).mul_(stream.scale)
        torch.bmm(a_bHK @ w.proj_v.T, y_bTD, out=kept.z[tile])
    o_BD = _joined(torch.bmm(kept.z.transpose(0, 1), _by_head(w.w_v, H).transpose(1, 2)))
    return torch.addmm(w.b_out, o_BD, w.w_out.T).to(x_BTD.dtype), kept


def backward(
    grad_BD: torch.Tensor,
    x_BTD: torch.Tensor,
    weights: Weights,
    kept: Kept,
    num_heads: int,
    seed: int | None,
    dropout: float,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of `x_BTD` and of each of `weights`, each in the type of what it belongs to.

    `grad_BD` is that of the first result of :func:`forward`; the rest is what that was given and has kept.
    """
    D, H, dtype = x_BTD.shape[2], num_heads, accumulation_dtype(x_BTD)
    w = _widened(x_BTD, weights)
    stream = None if seed is None else KeepStream(seed, dropout)
    total = Weights(*(torch.zeros_like(weight) for weight in w))
    w_k_HED, w_v_HED = _by_head(w.w_k, H), _by_head(w.w_v, H)
    y_BD = _normalise(x_BTD[:, 0].to(dtype), w)[0]
    q_HBE = _heads(y_BD @ w.w_q.T, H) * (D // H) ** -0.5
    # From the update to z.
    grad_BD = grad_BD.to(dtype)
    z_HBD = kept.z.transpose(0, 1)
    total.b_out.add_(grad_BD.sum(0))
    total.w_out.addmm_(grad_BD.T, _joined(torch.bmm(z_HBD, w_v_HED.transpose(1, 2))))
    do_HBE = _heads(grad_BD @ w.w_out, H)
    total.w_v.add_(torch.bmm(do_HBE.transpose(1, 2), z_HBD).view(D, D))
    dz_BHD = torch.bmm(do_HBE, w_v_HED).transpose(0, 1).contiguous()
    dx_BTD = torch.empty_like(x_BTD, memory_format=torch.contiguous_format)
    dr_BHD = torch.empty_like(kept.r)
    dq_BD = torch.empty_like(grad_BD)
    for tile in _tiles(x_BTD):
        x_bTD, r_bHD, dz_bHD, a_bHK = (each[tile] for each in (x_BTD, kept.r, dz_BHD, kept.a))
        x_bTD = x_bTD.to(dtype)
        y_bTD, mean, rstd = _normalise(x_bTD, w)
        # From z to the softmax.
        du_bHT = torch.bmm(dz_bHD, y_bTD.transpose(1, 2))
        da_bHK = du_bHT @ w.proj_v
        dropped_bHK = a_bHK
        if stream is not None:
            keep_bHK = stream.draw(torch.empty_like(a_bHK)).mul_(stream.scale)
            dropped_bHK = a_bHK * keep_bHK
            da_bHK.mul_(keep_bHK)
        total.proj_v.addmm_(du_bHT.flatten(0, 1).T, dropped_bHK.flatten(0, 1))
        # From the softmax to r and q.
        ds_bHK = torch.ops.aten._softmax_backward_data(da_bHK, a_bHK, -1, dtype)  # noqa: SLF001
        total.proj_k.addmm_(kept.t[tile].flatten(0, 1).T, ds_bHK.flatten(0, 1))
        dt_bHT = ds_bHK @ w.proj_k.T
        dr_bHD = torch.bmm(dt_bHT, y_bTD, out=dr_BHD[tile])
        dq_HbE = torch.bmm(dr_bHD.transpose(0, 1), w_k_HED.transpose(1, 2))
        dq_bD = dq_BD[tile].copy_(_joined(dq_HbE)).mul_((D // H) ** -0.5)
        # Tokens are met in z, in t, and token 0 in q.
        u_bHT = dropped_bHK @ w.proj_v.T
        dy_bTD = torch.bmm(torch.cat([u_bHT, dt_bHT], 1).transpose(1, 2), torch.cat([dz_bHD, r_bHD], 1))
        dy_bTD[:, 0].addmm_(dq_bD, w.w_q)
        dx_BTD[tile], d_weight_D, d_bias_D = torch.ops.aten.native_layer_norm_backward(
            dy_bTD, x_bTD, [D], mean, rstd, w.norm_weight, w.norm_bias, [True, True, True]
        )
        total.norm_weight.add_(d_weight_D)
        total.norm_bias.add_(d_bias_D)
    total.w_q.addmm_(dq_BD.T, y_BD)
    total.w_k.add_(torch.bmm(q_HBE.transpose(1, 2), dr_BHD.transpose(0, 1)).view(D, D))
    return dx_BTD, *(grad.to(weight.dtype) for grad, weight in zip(total, weights, strict=True))
