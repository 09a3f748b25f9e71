"""What every backend of NT-Xent is held to: cases, the float64 answer, and the error that is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from margformer_fast import _native
from margformer_fast.ops.nt_xent import nt_xent
from margformer_fast.reference.nt_xent import nt_xent as reference

# Largest relative error of the loss and of the gradients at ordinary temperatures.
GATES = {"ieee": 1e-5, "fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}


# Kinds of processors that the compiled module has code for.
TARGETS = ("avx512_bf16", "avx512", "avx2", "baseline")


def skip_unless_usable(target: str) -> None:
    if target not in _native.compiled().targets():
        pytest.skip(f"this processor is no {target}")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Let torch fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    assert torch.empty(4, dtype=torch.uint8).view(torch.float32).isnan()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Case:
    """A batch of pairs in float64."""

    z1: torch.Tensor
    z2: torch.Tensor
    temperature: float
    group: torch.Tensor | None = None


def random_case(
    rng: np.random.Generator, n: int, dim: int, temperature: float, *, grouped: bool = False
) -> Case:
    """Pairs around a few centres, so that there are near and far negatives, and some equal rows.

    No row is zero: its gradient is 1e12 times that of the others, which would be lost beside it.
    """
    centres = rng.normal(size=(max(2, n // 8), dim))[rng.integers(0, max(2, n // 8), n)]
    z1, z2 = (centres + 0.7 * rng.normal(size=(n, dim)) for _ in range(2))
    if n >= 5:
        z1[1] = z1[0]
        z2[2] = z1[3]
    group = torch.from_numpy(rng.integers(0, max(2, n // 3), n)) if grouped else None
    # What the coarsest type holds exactly, so that every backend is given the same numbers.
    z1_ND, z2_ND = (torch.from_numpy(z).bfloat16().double() for z in (z1, z2))
    return Case(z1_ND, z2_ND, temperature, group)


Answer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def differentiate(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], case: Case, dtype: torch.dtype, device: str
) -> Answer:
    """Return the loss and both gradients in float64, of inputs of another type."""
    z1, z2 = (z.to(device, dtype, copy=True).detach().requires_grad_() for z in (case.z1, case.z2))
    value = loss(z1, z2)
    value.backward()
    return value.detach().double().cpu(), z1.grad.double().cpu(), z2.grad.double().cpu()


def exact(case: Case) -> Answer:
    """The float64 answer, from log(1 + sum of exp(negative - positive)).

    The cross-entropy of the reference is 0 where the loss is below 1e-16, and so is half of its gradient.
    """

    def loss(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        n = len(z1)
        z = F.normalize(torch.cat([z1, z2]), dim=1)
        number = (torch.arange(n) if case.group is None else case.group).repeat(2)
        s = z @ z.T / case.temperature
        negatives = s.masked_fill(number[:, None] == number, -torch.inf)
        return F.softplus(negatives.logsumexp(1) - s.diagonal(n).repeat(2), threshold=40).mean()

    return differentiate(loss, case, torch.float64, "cpu")


def plain(case: Case, precision: str, device: str) -> Answer:
    """Plain PyTorch in the same precision."""
    group = None if case.group is None else case.group.to(device)

    def loss(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return reference(z1, z2, case.temperature, group)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return differentiate(loss, case, torch.float32, device)
    finally:
        torch.set_float32_matmul_precision(before)


def ours(case: Case, precision: str, device: str, backend: str, dtype: torch.dtype = torch.float32) -> Answer:
    group = None if case.group is None else case.group.to(device)
    return differentiate(
        lambda a, b: nt_xent(
            a, b, temperature=case.temperature, group_N=group, precision=precision, backend=backend
        ),
        case,
        dtype,
        device,
    )


def relative_errors(got: Answer, want: Answer) -> list[float]:
    return [
        float((g - w).norm() / w.norm()) if w.any() else float(g.norm())
        for g, w in zip(got, want, strict=True)
    ]


def check_accuracy(case: Case, precision: str, device: str, backend: str) -> None:
    """Hold a backend to its gate, and to twice the error of plain PyTorch plus a noise floor."""
    want = exact(case)
    mine = relative_errors(ours(case, precision, device, backend), want)
    theirs = relative_errors(plain(case, precision, device), want)
    # A similarity of up to 1 / temperature is rounded once; its error is that of every probability.
    rounding = {"ieee": 2**-24, "fp32": 2**-24, "tf32": 2**-11, "bf16": 2**-9}[precision]
    # Of two pairs the gradient is what is left when a few numbers cancel.
    floor = (4 if len(case.z1) > 4 else 16) * rounding * max(1.0, 1 / case.temperature)
    told = f"{case.z1.shape} {case.temperature} {precision}: {mine}, plain PyTorch {theirs}"
    for error, plain_error in zip(mine, theirs, strict=True):
        assert error <= 2 * plain_error + floor, told
        if case.temperature >= 0.1:
            assert error <= GATES[precision], told
