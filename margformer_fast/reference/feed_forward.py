"""The feed-forward half of a transformer block. Shapes: B batch, T tokens, D dim, M hidden."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def feed_forward(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w1_MD: torch.Tensor,
    b1_M: torch.Tensor,
    w2_DM: torch.Tensor,
    b2_D: torch.Tensor,
    dropout: float,
) -> torch.Tensor:
    """LayerNorm, linear, exact (erf) GELU, dropout, linear.

    Parameters
    ----------
    x_BTD : Tensor, shape (B, T, D)
        Tokens before normalisation.
    norm_weight_D, norm_bias_D : Tensor, shape (D,)
        LayerNorm applied first (epsilon 1e-5).
    w1_MD, b1_M, w2_DM, b2_D : Tensor
        The two linear maps, as in ``torch.nn.Linear``.
    dropout : float
        Probability of dropping a hidden unit; 0 to keep all.

    Returns
    -------
    Tensor, shape (B, T, D)
        The update of each token.
    """
    y_BTD = F.layer_norm(x_BTD, x_BTD.shape[-1:], norm_weight_D, norm_bias_D)
    h_BTM = F.dropout(F.gelu(F.linear(y_BTD, w1_MD, b1_M)), dropout, training=dropout > 0)
    return F.linear(h_BTM, w2_DM, b2_D)
