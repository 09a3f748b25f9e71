"""What every backend of an encoder's operators is held to: gradients, and the error that is allowed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

# Largest relative error of values and gradients.
GATES = {"fp32": 1e-5, "bf16": 1e-2}
ROUNDING = {"fp32": 2**-24, "bf16": 2**-9}

Op = Callable[..., torch.Tensor]


def random_tensors(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Float64 tensors whose numbers bfloat16 holds exactly, scaled to keep products near one."""
    return [
        torch.from_numpy(rng.normal(size=shape) * shape[-1] ** (-0.5 if len(shape) == 2 else 0))
        .bfloat16()
        .double()
        for shape in shapes
    ]


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


def check_accuracy(op: Op, reference: Op, tensors: list[torch.Tensor], grad: torch.Tensor, kind: str) -> None:
    """Hold an operator to its gate, and to twice the error of plain PyTorch plus a noise floor."""
    want = differentiate(reference, tensors, grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        mine = relative_errors(differentiate(op, tensors, grad, torch.float32), want)
        theirs = relative_errors(differentiate(reference, tensors, grad, torch.float32), want)
    told = f"{tuple(tensors[0].shape)} {kind}: {mine}, plain PyTorch {theirs}"
    for error, plain_error in zip(mine, theirs, strict=True):
        assert error <= 2 * plain_error + 8 * ROUNDING[kind], told
        # Where plain PyTorch misses the gate, the gate is about the type.
        assert error <= max(GATES[kind], 2 * plain_error), told
