"""Photometry-to-patch cross-attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..backends import Implementation, Operator, Problem, not_compiled
from ..reference.cross_attention import cross_attention as _reference
from ..reference.weights import AttentionWeights
from .layers import encode, not_triton


def _run(x_BTD: torch.Tensor, *rest: Any, backend: str) -> torch.Tensor:
    *weights, num_heads, dropout = rest
    return encode(x_BTD, AttentionWeights(*weights), None, num_heads, dropout, backend=backend)[:, None]


OPERATOR = Operator(
    "cross_attention",
    (
        Implementation("triton", partial(_run, backend="triton"), not_triton),
        Implementation("cpp", partial(_run, backend="cpp"), not_compiled),
        Implementation("reference", _reference),
    ),
)


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
    *,
    num_heads: int,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Update of all tokens by the photometric query, shape (B, 1, D).

    See :func:`margformer_fast.reference.cross_attention.cross_attention` for the arguments and the formula.
    ``backend`` is ``"triton"`` or ``"cpp"``, which form neither keys nor values, ``"reference"`` or
    ``"auto"``. On the CPU autocast has no say: products are few, and float32 (float64 if the inputs are). The
    rest is told by :func:`margformer_fast.ops.encoder_layer.encoder_layer`.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(
        x_BTD,
        norm_weight_D,
        norm_bias_D,
        w_q_DD,
        w_k_DD,
        w_v_DD,
        proj_k_TK,
        proj_v_TK,
        w_out_DD,
        b_out_D,
        num_heads,
        dropout,
    )
