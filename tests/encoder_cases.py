"""What every backend of an encoder's operators is held to: formulas with masks, gradients, errors allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from margformer_fast.reference.dropout import (
    OF_ATTENTION_WEIGHTS,
    OF_HIDDEN_UNITS,
    keep_mask,
    kept_scale,
)
from margformer_fast.reference.weights import AttentionWeights, FeedForwardWeights

# Largest relative error of values and gradients.
GATES = {"fp32": 1e-5, "bf16": 1e-2}
# What plain PyTorch's own error may be exceeded by. Sums of few terms cancel by chance: of thousands that a
# test looks at some are unlucky. (At the published size `margformer_fast.verify` allows a third of it.)
NOISE = {"fp32": 24 * 2**-24, "bf16": 8 * 2**-9}

NUM_ATTENTION = len(AttentionWeights._fields)

Op = Callable[..., torch.Tensor]


def random_tensors(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Float64 tensors whose numbers bfloat16 holds exactly, scaled to keep products near one."""
    return [
        torch.from_numpy(rng.normal(size=shape) * shape[-1] ** (-0.5 if len(shape) == 2 else 0))
        .bfloat16()
        .double()
        for shape in shapes
    ]


def random_layer(
    rng: np.random.Generator, B: int, T: int, D: int, K: int, M: int
) -> tuple[torch.Tensor, AttentionWeights, FeedForwardWeights]:
    """Tokens, and the weights of both halves."""
    (x,) = random_tensors(rng, (B, T, D))
    attention = random_tensors(rng, (D,), (D,), (D, D), (D, D), (D, D), (T, K), (T, K), (D, D), (D,))
    hidden = random_tensors(rng, (D,), (D,), (M, D), (M,), (D, M), (D,))
    return x, AttentionWeights(*attention), FeedForwardWeights(*hidden)


def masked_attention(
    x: torch.Tensor, w: AttentionWeights, num_heads: int, seed: int, dropout: float
) -> torch.Tensor:
    """The reference's formula with dropout's own masks; (B, 1, D)."""
    B, _, D = x.shape
    K = w.proj_k.shape[1]
    y = F.layer_norm(x, (D,), w.norm_weight, w.norm_bias)
    q = (y[:, 0] @ w.w_q.T).view(B, num_heads, 1, -1)
    keys, values = (
        (proj.T @ (y @ weight.T)).view(B, K, num_heads, -1).transpose(1, 2)
        for weight, proj in ((w.w_k, w.proj_k), (w.w_v, w.proj_v))
    )
    a = (q @ keys.transpose(2, 3) * (D // num_heads) ** -0.5).softmax(-1)
    mask = keep_mask(seed, B * num_heads, K, dropout, OF_ATTENTION_WEIGHTS).view(a.shape)
    return ((a * mask * kept_scale(dropout)) @ values).reshape(B, 1, D) @ w.w_out.T + w.b_out


def masked_feed_forward(x: torch.Tensor, w: FeedForwardWeights, seed: int, dropout: float) -> torch.Tensor:
    """The reference's formula with dropout's own masks; (B, T, D)."""
    y = F.layer_norm(x, x.shape[-1:], w.norm_weight, w.norm_bias)
    h = F.gelu(F.linear(y, w.w1, w.b1))
    mask = keep_mask(seed, h[..., 0].numel(), h.shape[-1], dropout, OF_HIDDEN_UNITS).view(h.shape)
    return F.linear(h * mask * kept_scale(dropout), w.w2, w.b2)


def differentiate(
    op: Op, tensors: list[torch.Tensor], grad: torch.Tensor, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    """Return, in float64, the value of ``op(*tensors)`` in a type, and the gradient of each tensor."""
    leaves = [tensor.to(dtype, copy=True).detach().requires_grad_() for tensor in tensors]
    value = op(*leaves)
    value.backward(grad.to(value.dtype))
    return [each.detach().double() for each in (value, *(leaf.grad for leaf in leaves))]


def relative_errors(got: list[torch.Tensor], want: list[torch.Tensor]) -> list[float]:
    return [float((g - w).norm() / w.norm()) for g, w in zip(got, want, strict=True)]


Problem = tuple[Op, Op, list[torch.Tensor], torch.Tensor]
"""An operator, its reference, the tensors both take, and the gradient of the value."""


def check_accuracy(problems: Sequence[Problem], kind: str) -> None:
    """Hold an operator to its gate, and to twice the error of plain PyTorch plus a noise floor.

    Errors are medians over problems of one shape: one in a thousand of these small ones is so ill-conditioned
    that which rounding is lucky decides, and plain PyTorch is as often the unlucky one.
    """
    mine, theirs = [], []
    for op, reference, tensors, grad in problems:
        want = differentiate(reference, tensors, grad)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            mine.append(relative_errors(differentiate(op, tensors, grad, torch.float32), want))
            theirs.append(relative_errors(differentiate(reference, tensors, grad, torch.float32), want))
    told = f"{tuple(problems[0][2][0].shape)} {kind}: {mine}, plain PyTorch {theirs}"
    for error, plain_error in zip(np.median(mine, axis=0), np.median(theirs, axis=0), strict=True):
        assert error <= 2 * plain_error + NOISE[kind], told
        # Where plain PyTorch misses the gate, the gate is about the type.
        assert error <= max(GATES[kind], 2 * plain_error), told
