"""What cross-attention's Triton kernels are held to: cases, the float64 answer, the error that is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from encoder_cases import differentiate, random_tensors, relative_errors

from margformer_fast.kernels import cross_attention as kernels
from margformer_fast.reference.dropout import OF_ATTENTION_WEIGHTS, keep_mask, kept_scale
from margformer_fast.reference.weights import AttentionWeights

# Largest relative error of the update and of the gradients.
# Products follow each other: plain PyTorch in tf32 errs by up to 1.4e-3 on an H200.
GATES = {"ieee": 1e-5, "fp32": 1e-5, "tf32": 2e-3, "bf16": 1e-2}
ROUNDING = {"ieee": 2**-24, "fp32": 2**-24, "tf32": 2**-11, "bf16": 2**-9}

Answer = list[torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Tokens, weights and the gradient of the update, in float64; the seed of dropout."""

    tensors: list[torch.Tensor]
    grad: torch.Tensor
    num_heads: int
    dropout: float = 0.0
    seed: int = 0


def random_case(
    rng: np.random.Generator, B: int, T: int, D: int, H: int, K: int, dropout: float = 0.0
) -> Case:
    """Tokens that are neither centred nor of unit deviation, scales of the norm around one."""
    x, gain, *rest = random_tensors(
        rng, (B, T, D), (D,), (D,), (D, D), (D, D), (D, D), (T, K), (T, K), (D, D), (D,)
    )  # fmt: skip
    x, gain = ((part * scale + 1).bfloat16().double() for part, scale in ((x, 2), (gain, 0.25)))
    grad = torch.from_numpy(rng.normal(size=(B, D))).bfloat16().double()
    return Case([x, gain, *rest], grad, H, dropout, int(rng.integers(2**63)))


def by_definition(case: Case, *tensors: torch.Tensor) -> torch.Tensor:
    """The reference's formula, with dropout's mask told."""
    x, gain, offset, w_q, w_k, w_v, proj_k, proj_v, w_out, b_out = tensors
    (B, _, D), H, K = x.shape, case.num_heads, proj_k.shape[1]
    y = torch.nn.functional.layer_norm(x, (D,), gain, offset)
    q = (y[:, 0] @ w_q.T).view(B, H, 1, D // H)
    keys, values = (
        (proj.T @ (y @ w.T)).view(B, K, H, -1).transpose(1, 2) for w, proj in ((w_k, proj_k), (w_v, proj_v))
    )
    a = (q @ keys.transpose(2, 3) / math.sqrt(D / H)).softmax(-1)
    if case.dropout:
        mask = keep_mask(case.seed, B * H, K, case.dropout, OF_ATTENTION_WEIGHTS).view(B, H, 1, K)
        a = a * mask.to(a) * kept_scale(case.dropout)
    return (a @ values).reshape(B, D) @ w_out.T + b_out


def exact(case: Case) -> Answer:
    return differentiate(lambda *tensors: by_definition(case, *tensors), case.tensors, case.grad)


def plain(case: Case, precision: str, dtype: torch.dtype, device: str) -> Answer:
    """Plain PyTorch in the same precision."""

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return by_definition(case, *tensors)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        tensors = [tensor.to(device) for tensor in case.tensors]
        return [each.cpu() for each in differentiate(run, tensors, case.grad.to(device), dtype)]
    finally:
        torch.set_float32_matmul_precision(before)


def ours(case: Case, precision: str, dtype: torch.dtype, device: str) -> Answer:
    """The update and all gradients, in float64; tokens of `dtype`, weights of float32."""
    x, *rest = (tensor.to(device, torch.float32) for tensor in case.tensors)
    x, weights = x.to(dtype), AttentionWeights(*rest)
    seed = torch.tensor(case.seed, device=device) if case.dropout else None
    given = (x, weights, case.num_heads, seed, case.dropout, precision)
    got = (kernels.forward(*given), *kernels.backward(case.grad.to(device, dtype), *given))
    assert [each.dtype for each in got] == [dtype, dtype] + [torch.float32] * 9
    assert [each.shape for each in got] == [case.grad.shape, x.shape, *(weight.shape for weight in weights)]
    return [each.double().cpu() for each in got]


def check_accuracy(
    case: Case, precision: str, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> None:
    """Hold the kernels to their gate, and to twice the error of plain PyTorch plus a noise floor.

    That error is the largest of any result: of small cases a gradient is few numbers, whose roundings fall
    either way, and the same roundings make the errors of all.
    """
    want = exact(case)
    mine = relative_errors(ours(case, precision, dtype, device), want)
    theirs = relative_errors(plain(case, precision, dtype, device), want)
    told = f"{tuple(case.tensors[0].shape)} {precision} {dtype}: {mine}, plain PyTorch {theirs}"
    assert max(mine) <= 2 * max(theirs) + 24 * ROUNDING[precision], told
    # Where plain PyTorch misses the gate, the gate is about the type.
    assert max(mine) <= max(GATES[precision], 2 * max(theirs)), told
