"""Photometry-to-patch cross-attention."""

from __future__ import annotations

from typing import Any

import torch

from ..backends import Implementation, Operator, Problem, not_in_memory
from ..kernels import cross_attention_folded
from ..kernels.cross_attention_folded import Kept, Weights, accumulation_dtype
from ..reference.cross_attention import cross_attention as _reference
from .dropout import draw_seed, seed_number
from .registration import register

_TENSORS = (
    "Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor w_q, Tensor w_k, Tensor w_v, Tensor proj_k,"
    " Tensor proj_v, Tensor w_out, Tensor b_out"
)
_REST = "Tensor? seed, int num_heads, float dropout"
_NUM_TENSORS = 10


def _fake_forward(x_BTD: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    (B, T, D), K, H = x_BTD.shape, rest[5].shape[1], rest[-2]
    dtype = accumulation_dtype(x_BTD)
    kept = (x_BTD.new_empty((B, H, length), dtype=dtype) for length in (D, T, K, D))
    return x_BTD.new_empty((B, D)), *kept


@register(
    "cross_attention", f"({_TENSORS}, {_REST}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _fake_forward
)
def _forward(x_BTD: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """Return the update of all tokens, shape (B, D), and what the backward needs."""
    *weights, seed, num_heads, dropout = rest
    update_BD, kept = cross_attention_folded.forward(
        x_BTD, Weights(*weights), num_heads, seed_number(seed), dropout
    )
    return update_BD, *kept


def _fake_backward(_grad: torch.Tensor, *rest: Any) -> list[torch.Tensor]:
    return [each.new_empty(each.shape) for each in rest[:_NUM_TENSORS]]


@register(
    "cross_attention_backward",
    f"(Tensor grad, {_TENSORS}, Tensor r, Tensor t, Tensor a, Tensor z, {_REST}) -> Tensor[]",
    _fake_backward,
)
def _backward(grad_BD: torch.Tensor, x_BTD: torch.Tensor, *rest: Any) -> list[torch.Tensor]:
    """Return the gradients of the first ten arguments of the forward."""
    weights, kept = Weights(*rest[: _NUM_TENSORS - 1]), Kept(*rest[_NUM_TENSORS - 1 : -3])
    seed, num_heads, dropout = rest[-3:]
    return list(
        cross_attention_folded.backward(grad_BD, x_BTD, weights, kept, num_heads, seed_number(seed), dropout)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    *tensors, seed, ctx.num_heads, ctx.dropout = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:], seed)


def _differentiate(ctx: Any, grad_BD: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    return *_backward(grad_BD, *ctx.saved_tensors, ctx.num_heads, ctx.dropout), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _run_folded(*arguments: Any) -> torch.Tensor:
    *tensors, num_heads, dropout = arguments
    seed = draw_seed() if dropout > 0 else None
    update_BD: torch.Tensor = _forward(*tensors, seed, num_heads, dropout)[0]
    return update_BD[:, None]


OPERATOR = Operator(
    "cross_attention",
    (Implementation("folded", _run_folded, not_in_memory), Implementation("reference", _reference)),
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
    ``backend`` is ``"folded"``, which forms neither keys nor values, on the CPU alone, ``"reference"`` or
    ``"auto"``. Folded, autocast has no say: products are few, and float32 (float64 if the inputs are); it can
    be differentiated once, and dropout is as in :func:`margformer_fast.ops.feed_forward.feed_forward`.

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
