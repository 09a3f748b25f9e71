"""Linformer self-attention of the LViT encoder."""

from __future__ import annotations

import torch

from ..backends import Implementation, Operator, Problem
from ..reference.self_attention import self_attention as _reference

OPERATOR = Operator("self_attention", (Implementation("reference", _reference),))


def self_attention(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w_qkv_3DD: torch.Tensor,
    proj_k_TK: torch.Tensor,
    proj_v_TK: torch.Tensor,
    w_out_DD: torch.Tensor,
    b_out_D: torch.Tensor,
    *,
    num_heads: int,
    backend: str = "auto",
) -> torch.Tensor:
    """Update of each token, shape (B, T, D).

    See :func:`margformer_fast.reference.self_attention.self_attention` for the arguments and the formula.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(
        x_BTD, norm_weight_D, norm_bias_D, w_qkv_3DD, proj_k_TK, proj_v_TK, w_out_DD, b_out_D, num_heads
    )
