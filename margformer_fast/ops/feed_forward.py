"""Feed-forward half of a transformer block."""

from __future__ import annotations

from typing import Any

import torch

from ..backends import Implementation, Operator, Problem, not_in_memory
from ..kernels import feed_forward_tiled
from ..kernels.feed_forward_tiled import Weights
from ..reference.feed_forward import feed_forward as _reference
from .dropout import draw_seed, seed_number
from .registration import product_dtype, register

_WEIGHTS = (
    "Tensor norm_weight, Tensor norm_bias, Tensor w1, Tensor b1, Tensor w2, Tensor b2,"
    " Tensor? seed, float dropout, ScalarType dtype"
)


def _fake_forward(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x.new_empty(x.shape)


@register("feed_forward", f"(Tensor x, {_WEIGHTS}) -> Tensor", _fake_forward)
def _forward(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w1_MD: torch.Tensor,
    b1_M: torch.Tensor,
    w2_DM: torch.Tensor,
    b2_D: torch.Tensor,
    seed: torch.Tensor | None,
    dropout: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the update of each token, shape (B, T, D), contiguous."""
    weights = Weights(norm_weight_D, norm_bias_D, w1_MD, b1_M, w2_DM, b2_D)
    out_RD = feed_forward_tiled.forward(_rows(x_BTD), weights, seed_number(seed), dropout, dtype)
    return out_RD.view(x_BTD.shape)


def _fake_backward(_grad: torch.Tensor, *tensors: Any) -> list[torch.Tensor]:
    return [each.new_empty(each.shape) for each in tensors[:7]]


@register("feed_forward_backward", f"(Tensor grad, Tensor x, {_WEIGHTS}) -> Tensor[]", _fake_backward)
def _backward(
    grad_BTD: torch.Tensor,
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w1_MD: torch.Tensor,
    b1_M: torch.Tensor,
    w2_DM: torch.Tensor,
    b2_D: torch.Tensor,
    seed: torch.Tensor | None,
    dropout: float,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """Return the gradients of the first seven arguments of the forward."""
    weights = Weights(norm_weight_D, norm_bias_D, w1_MD, b1_M, w2_DM, b2_D)
    dx_RD, *grads = feed_forward_tiled.backward(
        _rows(grad_BTD), _rows(x_BTD), weights, seed_number(seed), dropout, dtype
    )
    return [dx_RD.view(x_BTD.shape), *grads]


def _rows(x_BTD: torch.Tensor) -> torch.Tensor:
    return x_BTD.reshape(-1, x_BTD.shape[-1]).contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.dropout, ctx.dtype = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_BTD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *_backward(grad_BTD, *ctx.saved_tensors, ctx.dropout, ctx.dtype), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _run_tiled(x_BTD: torch.Tensor, *rest: Any) -> torch.Tensor:
    *weights, dropout = rest
    seed = draw_seed() if dropout > 0 else None
    update_BTD: torch.Tensor = _forward(x_BTD, *weights, seed, dropout, product_dtype(x_BTD))
    return update_BTD


OPERATOR = Operator(
    "feed_forward",
    (Implementation("tiled", _run_tiled, not_in_memory), Implementation("reference", _reference)),
)


def feed_forward(
    x_BTD: torch.Tensor,
    norm_weight_D: torch.Tensor,
    norm_bias_D: torch.Tensor,
    w1_MD: torch.Tensor,
    b1_M: torch.Tensor,
    w2_DM: torch.Tensor,
    b2_D: torch.Tensor,
    *,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Update of each token, shape (B, T, D).

    See :func:`margformer_fast.reference.feed_forward.feed_forward` for the arguments and the formula.
    ``backend`` is ``"tiled"``, on the CPU alone, ``"reference"`` or ``"auto"``. Tiles keep no hidden unit and
    no mask for the backward, return the type of `x_BTD` also under autocast, can be differentiated once, and
    round the probability of dropout to a multiple of 1/65536; their masks depend on one number drawn from
    torch's global generator a call.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(x_BTD, norm_weight_D, norm_bias_D, w1_MD, b1_M, w2_DM, b2_D, dropout)
