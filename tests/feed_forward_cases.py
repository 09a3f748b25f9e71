"""What the feed-forward kernels are held to: cases, the float64 answer with dropout's mask, and gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from margformer_fast.kernels import feed_forward as kernels
from margformer_fast.reference.dropout import OF_HIDDEN_UNITS, keep_mask, kept_scale
from margformer_fast.reference.weights import FeedForwardWeights

# Largest relative error of the result and of each gradient.
GATES = {"ieee": 1e-5, "fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}


@dataclass(frozen=True)
class Case:
    """A problem in float64, of numbers that bfloat16 holds; the seed is None for no dropout."""

    x: torch.Tensor
    update: torch.Tensor | None
    weights: FeedForwardWeights
    grad: torch.Tensor
    seed: int | None
    dropout: float
    residual: bool

    def differentiated(self) -> list[torch.Tensor]:
        return [self.x, *([] if self.update is None else [self.update]), *self.weights]


def random_case(
    rng: np.random.Generator,
    B: int,
    T: int,
    D: int,
    M: int,
    *,
    dropout: float = 0.0,
    update: bool = False,
    residual: bool = False,
) -> Case:
    """Tokens with a mean of their own, and an affine norm that is far from the identity."""

    def draw(*shape: int, scale: float = 1.0, centre: float = 0.0) -> torch.Tensor:
        return torch.from_numpy(rng.normal(centre, scale, shape)).bfloat16().double()

    weights = FeedForwardWeights(
        draw(D, scale=0.3, centre=1.0),
        draw(D, scale=0.5),
        draw(M, D, scale=D**-0.5),
        draw(M, scale=0.5),
        draw(D, M, scale=M**-0.5),
        draw(D),
    )
    return Case(
        draw(B, T, D) + 2 * draw(B, T, 1),
        draw(B, D) if update else None,
        weights,
        draw(B, T, D),
        int(rng.integers(2**63)) if dropout > 0 else None,
        dropout,
        residual,
    )


def formula(case: Case, tensors: list[torch.Tensor], keep: torch.Tensor | None) -> torch.Tensor:
    """The reference, with a mask that is given."""
    x_BTD, *rest = tensors
    if case.update is not None:
        x_BTD = x_BTD + rest.pop(0)[:, None]
    norm_weight_D, norm_bias_D, w1_MD, b1_M, w2_DM, b2_D = rest
    y_BTD = F.layer_norm(x_BTD, x_BTD.shape[-1:], norm_weight_D, norm_bias_D)
    h_BTM = F.gelu(F.linear(y_BTD, w1_MD, b1_M))
    if keep is not None:
        h_BTM = h_BTM * keep.to(h_BTM.dtype) * kept_scale(case.dropout)
    out_BTD = F.linear(h_BTM, w2_DM, b2_D)
    return out_BTD + x_BTD if case.residual else out_BTD


def plain(case: Case, dtype: torch.dtype, device: str, precision: str = "ieee") -> list[torch.Tensor]:
    """The result and the gradients by PyTorch, in float64."""
    B, T, _ = case.x.shape
    M = len(case.weights.b1)
    keep = None
    if case.seed is not None:
        keep = keep_mask(case.seed, B * T, M, case.dropout, OF_HIDDEN_UNITS).view(B, T, M).to(device)
    tensors = [each.to(device, dtype).detach().requires_grad_() for each in case.differentiated()]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            out = formula(case, tensors, keep)
        grads = torch.autograd.grad(out, tensors, case.grad.to(device, out.dtype))
    finally:
        torch.set_float32_matmul_precision(before)
    return [each.detach().double().cpu() for each in (out, *grads)]


def ours(
    case: Case, precision: str, device: str, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """The result and the gradients by the kernels; `dtype` is that of tokens, update and gradient."""
    x, grad = case.x.to(device, dtype), case.grad.to(device, dtype)
    update = None if case.update is None else case.update.to(device, dtype)
    weights = FeedForwardWeights(*(each.to(device, torch.float32) for each in case.weights))
    seed = None if case.seed is None else torch.tensor(case.seed, device=device)
    more = {"update_BD": update, "residual": case.residual}
    out = kernels.forward(x, weights, seed, case.dropout, precision, **more)
    return out, *kernels.backward(grad, x, weights, seed, case.dropout, precision, **more)


def relative_errors(got: tuple[torch.Tensor, ...], want: list[torch.Tensor]) -> list[float]:
    return [
        float((g.double().cpu() - w).norm() / w.norm()) if w.any() else float(g.double().norm())
        for g, w in zip(got, want, strict=True)
    ]


def check_accuracy(case: Case, precision: str, device: str, dtype: torch.dtype = torch.float32) -> None:
    """Hold the kernels to their gate, and to twice the error of plain PyTorch plus a noise floor."""
    want = plain(case, torch.float64, "cpu")
    mine = relative_errors(ours(case, precision, device, dtype), want)
    theirs = relative_errors(tuple(plain(case, torch.float32, device, precision)), want)
    rounding = {"ieee": 2**-24, "fp32": 2**-24, "tf32": 2**-11, "bf16": 2**-9}[precision]
    told = f"{case.x.shape} {precision}: {mine}, plain PyTorch {theirs}"
    for error, plain_error in zip(mine, theirs, strict=True):
        assert error <= GATES[precision], told
        assert error <= 2 * plain_error + 4 * rounding, told
