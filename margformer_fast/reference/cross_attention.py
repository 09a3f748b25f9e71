"""Photometry-to-patch attention of MargFormer.

Shapes: B batch, T tokens, D dim, H heads, E = D/H head dim, K slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_attention(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w_q_DD: torch.Tensor,
    w_k_DD: torch.Tensor,
    w_v_DD: torch.Tensor,
    proj_k_TK: torch.Tensor,
    proj_v_TK: torch.Tensor,
    w_out_DD: torch.Tensor,
    b_out_D: torch.Tensor,
    num_heads: int,
    dropout: float,
) -> torch.Tensor:
    """Let token 0 (the photometry) query all tokens through Linformer-compressed keys and values.

    Parameters
    ----------
    x_BTD : Tensor, shape (B, T, D)
        Tokens before normalisation; token 0 carries the photometry.
    norm_weight_D, norm_bias_D : Tensor, shape (D,)
        LayerNorm applied first (epsilon 1e-5).
    w_q_DD, w_k_DD, w_v_DD : Tensor, shape (D, D)
        Query, key and value weights, as in ``torch.nn.Linear`` without bias.
    proj_k_TK, proj_v_TK : Tensor, shape (T, K)
        Projections of keys and values along the sequence, shared by heads.
    w_out_DD, b_out_D : Tensor, shapes (D, D) and (D,)
        Output projection.
    num_heads : int
        Number of heads H; D is a multiple of it.
    dropout : float
        Probability of dropping an attention weight; 0 to keep all.

    Returns
    -------
    Tensor, shape (B, 1, D)
        One update vector for each object. Adding it to (B, T, D) tokens gives every token the same update.

    Notes
    -----
    softmax(q K'^T / sqrt(E)) V' with K' = proj_k^T K (Wang et al. 2020, arXiv 2006.04768), K and V made from
    all T tokens, the photometry's own included.
    """
    B, _, D = x_BTD.shape
    H, E = num_heads, D // num_heads
    y_BTD = F.layer_norm(x_BTD, (D,), norm_weight_D, norm_bias_D)
    v_BKHE = torch.einsum("btd,tk->bkd", F.linear(y_BTD, w_v_DD), proj_v_TK).reshape(B, -1, H, E)
    a_BHK = slot_weights(y_BTD, w_q_DD, w_k_DD, proj_k_TK, num_heads)
    a_BHK = F.dropout(a_BHK, dropout, training=dropout > 0)
    o_BD = torch.einsum("bhk,bkhe->bhe", a_BHK, v_BKHE).reshape(B, D)
    return F.linear(o_BD, w_out_DD, b_out_D)[:, None]


def slot_weights(
    y_BTD: torch.Tensor, w_q_DD: torch.Tensor, w_k_DD: torch.Tensor, proj_k_TK: torch.Tensor, num_heads: int
) -> torch.Tensor:
    """Return how much of each slot token 0 takes, (B, H, K), which sums to 1 over slots.

    Parameters
    ----------
    y_BTD : Tensor, shape (B, T, D)
        Tokens after normalisation.
    w_q_DD, w_k_DD, proj_k_TK, num_heads
        As for :func:`cross_attention`.
    """
    B, _, D = y_BTD.shape
    H, E = num_heads, D // num_heads
    q_BHE = F.linear(y_BTD[:, 0], w_q_DD).reshape(B, H, E)
    k_BKHE = torch.einsum("btd,tk->bkd", F.linear(y_BTD, w_k_DD), proj_k_TK).reshape(B, -1, H, E)
    return torch.einsum("bhe,bkhe->bhk", q_BHE, k_BKHE).mul(E**-0.5).softmax(dim=-1)
