"""What attention, the feed-forward half, and the layer of both are to torch: one operator for all three.

Only its tokens are kept for the backward. It can be differentiated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from ..backends import Problem, no_triton
from ..errors import ConfigError
from ..kernels import encoder_cpp
from ..reference.weights import AttentionWeights, FeedForwardWeights
from .dropout import draw_seed
from .registration import product_precision, register

# An empty list of weights stands for a half that is not there.
_REST = (
    "Tensor[] attention, Tensor[] feed_forward, Tensor? seed, int num_heads, float dropout, str precision,"
    " str backend"
)


def _kernels(backend: str) -> ModuleType:
    if backend == "triton":
        # Not at the top: Triton may be missing.
        from ..kernels import encoder_triton

        return encoder_triton
    return encoder_cpp


_NUM_OF_ATTENTION = len(AttentionWeights._fields)

Layer = tuple[AttentionWeights, FeedForwardWeights]


def _halves(
    attention: list[torch.Tensor], feed_forward: list[torch.Tensor]
) -> tuple[AttentionWeights | None, FeedForwardWeights | None]:
    return (
        AttentionWeights(*attention) if attention else None,
        FeedForwardWeights(*feed_forward) if feed_forward else None,
    )


def _fake_encode(
    x_BTD: torch.Tensor, _attention: list[torch.Tensor], feed_forward: list[torch.Tensor], *_: Any
) -> torch.Tensor:
    B, _T, D = x_BTD.shape
    return x_BTD.new_empty(x_BTD.shape if feed_forward else (B, D))


@register("encode", f"(Tensor x, {_REST}) -> Tensor", _fake_encode)
def _encode(
    x_BTD: torch.Tensor,
    attention: list[torch.Tensor],
    feed_forward: list[torch.Tensor],
    seed: torch.Tensor | None,
    num_heads: int,
    dropout: float,
    precision: str,
    backend: str,
) -> torch.Tensor:
    """Return the update of attention, (B, D), that of the feed-forward half, or tokens after both halves."""
    return _kernels(backend).forward(
        x_BTD, *_halves(attention, feed_forward), num_heads, seed, dropout, precision
    )


def _fake_encode_back(
    _grad: torch.Tensor,
    x: torch.Tensor,
    attention: list[torch.Tensor],
    feed_forward: list[torch.Tensor],
    *_: Any,
) -> list[torch.Tensor]:
    return [each.new_empty(each.shape) for each in (x, *attention, *feed_forward)]


@register("encode_back", f"(Tensor grad, Tensor x, {_REST}) -> Tensor[]", _fake_encode_back)
def _encode_back(
    grad: torch.Tensor,
    x_BTD: torch.Tensor,
    attention: list[torch.Tensor],
    feed_forward: list[torch.Tensor],
    seed: torch.Tensor | None,
    num_heads: int,
    dropout: float,
    precision: str,
    backend: str,
) -> list[torch.Tensor]:
    """Return the gradients of the tokens and of all weights."""
    return _kernels(backend).backward(
        grad, x_BTD, *_halves(attention, feed_forward), num_heads, seed, dropout, precision
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    x_BTD, attention, feed_forward, seed, *ctx.settings = inputs
    ctx.num_of_attention = len(attention)
    ctx.save_for_backward(x_BTD, seed, *attention, *feed_forward)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x_BTD, seed, *weights = ctx.saved_tensors
    cut = ctx.num_of_attention
    dx_BTD, *grads = _encode_back(grad, x_BTD, weights[:cut], weights[cut:], seed, *ctx.settings)
    return dx_BTD, grads[:cut], grads[cut:], None, None, None, None, None


_encode.register_autograd(_differentiate, setup_context=_save)


def _fake_encode_network(x_BTD: torch.Tensor, *_: Any) -> torch.Tensor:
    B, _T, D = x_BTD.shape
    return x_BTD.new_empty((B, D))


@register(
    "encode_network",
    "(Tensor x, Tensor[] weights, int num_heads, str precision, str backend) -> Tensor",
    _fake_encode_network,
)
def _encode_network(
    x_BTD: torch.Tensor, weights: list[torch.Tensor], num_heads: int, precision: str, backend: str
) -> torch.Tensor:
    """Return token 0 after all layers, (B, D), without derivative; `weights` is layer after layer."""
    size = _NUM_OF_ATTENTION + len(FeedForwardWeights._fields)
    layers = [
        (
            AttentionWeights(*weights[first : first + _NUM_OF_ATTENTION]),
            FeedForwardWeights(*weights[first + _NUM_OF_ATTENTION : first + size]),
        )
        for first in range(0, len(weights), size)
    ]
    return _kernels(backend).forward_network(x_BTD, layers, num_heads, precision)


def encode(
    x_BTD: torch.Tensor,
    attention: AttentionWeights | None,
    feed_forward: FeedForwardWeights | None,
    num_heads: int,
    dropout: float,
    *,
    backend: str,
) -> torch.Tensor:
    """Run the halves there are on a backend; see the operators that call this.

    Raises
    ------
    ConfigError
        If a weight has another shape than the rest asks for: kernels would read past its end.
    """
    _check_shapes(x_BTD, attention, feed_forward, num_heads)
    seed = draw_seed(x_BTD.device) if dropout > 0 else None
    weights = list(attention or ()), list(feed_forward or ())
    out: torch.Tensor = _encode(x_BTD, *weights, seed, num_heads, dropout, product_precision(x_BTD), backend)
    return out


def encode_network(
    x_BTD: torch.Tensor,
    layers: Sequence[Layer],
    num_heads: int,
    dropout: float,
    *,
    backend: str,
) -> torch.Tensor:
    """Run layers on a backend, down to token 0, (B, D): at once if nothing of it is to be remembered."""
    for layer in layers:
        _check_shapes(x_BTD, *layer, num_heads)
    *weights, (last_attention, last_hidden) = layers
    tensors = [tensor for layer in layers for half in layer for tensor in half]
    needs_grad = torch.is_grad_enabled() and any(each.requires_grad for each in (x_BTD, *tensors))
    if dropout == 0 and not needs_grad:
        out: torch.Tensor = _encode_network(x_BTD, tensors, num_heads, product_precision(x_BTD), backend)
        return out
    for attention, hidden in weights:
        x_BTD = encode(x_BTD, attention, hidden, num_heads, dropout, backend=backend)
    # Token 0 alone is read: the last layer takes no patch token further than the attention reads it.
    cls_B1D = x_BTD[:, :1] + encode(x_BTD, last_attention, None, num_heads, dropout, backend=backend)[:, None]
    return (cls_B1D + encode(cls_B1D, None, last_hidden, num_heads, dropout, backend=backend))[:, 0]


def _check_shapes(
    x_BTD: torch.Tensor,
    attention: AttentionWeights | None,
    feed_forward: FeedForwardWeights | None,
    num_heads: int,
) -> None:
    if x_BTD.ndim != 3:
        raise ConfigError(f"tokens have {x_BTD.ndim} axes", expected="objects, tokens, dim")
    _, T, D = x_BTD.shape
    for half in (attention, feed_forward):
        if half is None:
            continue
        if isinstance(half, AttentionWeights):
            if num_heads < 1 or D % num_heads:
                raise ConfigError(f"{num_heads} heads share a dim of {D}", expected="a divisor of it")
            K = half.proj_k.shape[-1]
            shapes = [(D,), (D,), (D, D), (D, D), (D, D), (T, K), (T, K), (D, D), (D,)]
        else:
            M = half.b1.shape[-1]
            shapes = [(D,), (D,), (M, D), (M,), (D, M), (D,)]
        for name, tensor, shape in zip(half._fields, half, shapes, strict=True):
            if tuple(tensor.shape) != shape:
                raise ConfigError(
                    f"{name} has the shape {tuple(tensor.shape)}", where="encoder layer", expected=str(shape)
                )


def not_triton(problem: Problem) -> tuple[str, ...]:
    """Say why the Triton kernels cannot run."""
    reasons = no_triton(problem)
    if problem.dtype not in ("float32", "bfloat16"):
        reasons += (f"tokens are {problem.dtype}, not float32 or bfloat16",)
    return reasons
