"""Linformer self-attention of the LViT encoder.

Shapes: B batch, T tokens, D dim, H heads, E = D/H head dim, K slots.
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
) -> torch.Tensor:
    """Let every token query all tokens through Linformer-compressed keys and values.

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

    Returns
    -------
    Tensor, shape (B, T, D)
        The update of each token (Wang et al. 2020, arXiv 2006.04768).
    """
    B, T, D = x_BTD.shape
    H, E = num_heads, D // num_heads
    y_BTD = F.layer_norm(x_BTD, (D,), norm_weight_D, norm_bias_D)
    q_BHTE, k_BHTE, v_BHTE = F.linear(y_BTD, w_qkv_3DD).reshape(B, T, 3, H, E).permute(2, 0, 3, 1, 4)
    k_BHKE = torch.einsum("bhte,tk->bhke", k_BHTE, proj_k_TK)
    v_BHKE = torch.einsum("bhte,tk->bhke", v_BHTE, proj_v_TK)
    a_BHTK = (q_BHTE @ k_BHKE.transpose(-1, -2)).mul(E**-0.5).softmax(dim=-1)
    o_BTD = (a_BHTK @ v_BHKE).transpose(1, 2).reshape(B, T, D)
    return F.linear(o_BTD, w_out_DD, b_out_D)
