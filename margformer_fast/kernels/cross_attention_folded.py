"""Photometry-to-patch attention with its single query folded into the weights: no keys, no values.

Shapes: B batch, T tokens, D dim, H heads, E = D/H head dim, K slots.

Only token 0 asks, so products may be taken in an order in which no B x T x D keys and values appear. With y
the normalised tokens and q_h the query of a head,

    r_h = W_k,h^T q_h / sqrt(E)    t_h = y r_h    s_h = proj_k^T t_h    a_h = softmax(s_h)
    u_h = proj_v a_h               z_h = y^T u_h  o_h = W_v,h z_h

which is the reference's formula, bracketed otherwise: 4 T D + 4 T K + 4 D E operations a head and object
instead of 4 T D E + 4 T E K + 4 E K, a seventh at D = 64, H = 8, K = 64. Tokens are read three times.
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
    """Return the update of all tokens, shape (B, 1, D); arguments as for the reference."""
    B, _, D = x_BTD.shape
    H, E = num_heads, D // num_heads
    y_BTD = F.layer_norm(x_BTD, (D,), norm_weight_D, norm_bias_D)
    q_HBE = F.linear(y_BTD[:, 0], w_q_DD).mul(E**-0.5).view(B, H, E).transpose(0, 1)
    r_BHD = torch.bmm(q_HBE, w_k_DD.reshape(H, E, D)).transpose(0, 1)
    t_BHT = torch.bmm(r_BHD, y_BTD.transpose(1, 2))
    a_BHK = torch.matmul(t_BHT, proj_k_TK).softmax(dim=-1)
    a_BHK = F.dropout(a_BHK, dropout, training=dropout > 0)
    z_BHD = torch.bmm(torch.matmul(a_BHK, proj_v_TK.T), y_BTD)
    o_HBE = torch.bmm(z_BHD.transpose(0, 1), w_v_DD.reshape(H, E, D).transpose(1, 2))
    return F.linear(o_HBE.transpose(0, 1).reshape(B, D), w_out_DD, b_out_D)[:, None]
