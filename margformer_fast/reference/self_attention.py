"""Linformer self-attention of the LViT encoder.

Shapes: B batch, T tokens, Q of them that query, D dim, H heads, E = D/H head dim, K slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def self_attention(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w_qkv_3DD: torch.Tensor,
    proj_k_TK: torch.Tensor,
    proj_v_TK: torch.Tensor,
    w_out_DD: torch.Tensor,
    b_out_D: torch.Tensor,
    num_heads: int,
    num_queries: int,
) -> torch.Tensor:
    """Let the first tokens query all tokens through Linformer-compressed keys and values.

    Parameters
    ----------
    x_BTD : Tensor, shape (B, T, D)
        Tokens before normalisation.
    norm_weight_D, norm_bias_D : Tensor, shape (D,)
        LayerNorm applied first (epsilon 1e-5).
    w_qkv_3DD : Tensor, shape (3 D, D)
        Fused weights; their output is read as (query | key | value, head, channel).
    proj_k_TK, proj_v_TK : Tensor, shape (T, K)
        Projections of keys and values along the sequence, shared by heads.
    w_out_DD, b_out_D : Tensor, shapes (D, D) and (D,)
        Output projection.
    num_heads : int
        Number of heads.
    num_queries : int
        How many tokens query, and are updated.

    Returns
    -------
    Tensor, shape (B, Q, D)
        The update of each of the first tokens (Wang et al. 2020, arXiv 2006.04768).
    """
    B, T, D = x_BTD.shape
    Q, H, E = num_queries, num_heads, D // num_heads
    y_BTD = F.layer_norm(x_BTD, (D,), norm_weight_D, norm_bias_D)
    q_BHQE = F.linear(y_BTD[:, :Q], w_qkv_3DD[:D]).reshape(B, Q, H, E).transpose(1, 2)
    k_BHTE, v_BHTE = F.linear(y_BTD, w_qkv_3DD[D:]).reshape(B, T, 2, H, E).permute(2, 0, 3, 1, 4)
    k_BHKE = torch.einsum("bhte,tk->bhke", k_BHTE, proj_k_TK)
    v_BHKE = torch.einsum("bhte,tk->bhke", v_BHTE, proj_v_TK)
    a_BHQK = (q_BHQE @ k_BHKE.transpose(-1, -2)).mul(E**-0.5).softmax(dim=-1)
    o_BQD = (a_BHQK @ v_BHKE).transpose(1, 2).reshape(B, Q, D)
    return F.linear(o_BQD, w_out_DD, b_out_D)
