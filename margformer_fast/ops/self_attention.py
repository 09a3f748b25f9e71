"""Linformer self-attention of the LViT encoder."""

from __future__ import annotations

import torch

from ..backends import Implementation, Operator, Problem
from ..errors import ConfigError
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
    num_queries: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Update of the first `num_queries` tokens, all if that is None, shape (B, Q, D).

    See :func:`margformer_fast.reference.self_attention.self_attention` for the arguments and the formula.

    Raises
    ------
    ConfigError
        If there are not as many tokens.
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    num_tokens = x_BTD.shape[1]
    if num_queries is None:
        num_queries = num_tokens
    if not 0 < num_queries <= num_tokens:
        raise ConfigError(
            f"{num_queries} tokens are to query", where="self_attention", expected=f"1 to {num_tokens}"
        )
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(
        x_BTD,
        norm_weight_D,
        norm_bias_D,
        w_qkv_3DD,
        proj_k_TK,
        proj_v_TK,
        w_out_DD,
        b_out_D,
        num_heads,
        num_queries,
    )
