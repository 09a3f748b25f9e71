"""NT-Xent, forward and backward: against the materialised loss, lightly's, and the compiled reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from memory import bytes_kept
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.ops.nt_xent import nt_xent
from margformer_fast.reference.nt_xent import nt_xent as reference

DIM = 128
TEMPERATURE = 0.1
TOLERANCE = {"fp32": 1e-5, "ieee": 1e-5, "tf32": 1e-3, "bf16": 1e-2}

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def as_lightly(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """What lightly's NTXentLoss computes in one process, in our words.

    Views are normalised. Similarities within a view lose their diagonal by a boolean index; those across
    views stand left of them, so that the target of either view's row i is column i.
    """
    n = len(z1)
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    others = ~torch.eye(n, dtype=torch.bool, device=z1.device)
    across = z1 @ z2.T / TEMPERATURE
    rows = [
        torch.cat([positives, (z @ z.T / TEMPERATURE)[others].view(n, n - 1)], 1)
        for z, positives in ((z1, across), (z2, across.T))
    ]
    return F.cross_entropy(torch.cat(rows), torch.arange(n, device=z1.device).repeat(2))


def as_pytorch_metric_learning(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed"
    )
    label = torch.arange(len(z1), device=z1.device).repeat(2)
    return losses.NTXentLoss(temperature=TEMPERATURE)(torch.cat([z1, z2]), label)


def as_inf_cl(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """InfoNCE of all rows by inf-cl's kernels: the same work, but a row counts as a negative of itself."""
    kernels = pytest.importorskip("inf_cl", reason="inf-cl is not installed")
    z, partner = rows_and_partners(z1, z2)
    return kernels.cal_flash_loss(z, z, partner, 1 / TEMPERATURE, head_dim=z.shape[1]).mean()


def with_itself(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """What inf-cl computes, materialised."""
    z, partner = rows_and_partners(z1, z2)
    return F.cross_entropy(z @ z.T / TEMPERATURE, partner)


def rows_and_partners(z1: torch.Tensor, z2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return F.normalize(torch.cat([z1, z2]), dim=1), torch.arange(2 * len(z1), device=z1.device).roll(len(z1))


def ours(precision: str, backend: str) -> Loss:
    return lambda z1, z2: nt_xent(z1, z2, temperature=TEMPERATURE, precision=precision, backend=backend)


def materialised(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    return reference(z1, z2, TEMPERATURE)


def views(rng: np.random.Generator, n: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs that have begun to find each other."""
    centres = rng.normal(size=(n, DIM))
    z1, z2 = (torch.tensor(centres + rng.normal(size=(n, DIM)), dtype=torch.float32) for _ in range(2))
    return z1.to(device).requires_grad_(), z2.to(device).requires_grad_()


def step(loss: Loss, z1: torch.Tensor, z2: torch.Tensor) -> tuple[torch.Tensor, ...]:
    value = loss(z1, z2)
    return value.detach(), *torch.autograd.grad(value, (z1, z2))


Problem = tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]


@lru_cache(maxsize=1)
def problem(n: int, device: str, loss: Loss = materialised) -> Problem:
    """Fresh views, the same for all ways, and the float64 loss and gradients of them."""
    z1, z2 = views(np.random.default_rng(), n, device)
    return z1, z2, step(loss, *(z.detach().double().requires_grad_() for z in (z1, z2)))


def check(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...], tolerance: float) -> None:
    for mine, exact in zip(got, want, strict=True):
        assert (mine.double() - exact).norm() <= tolerance * exact.norm()


WAYS: dict[str, tuple[Loss, str]] = {
    "cpp": (ours("fp32", "cpp"), "fp32"),
    "cpp, bf16": (ours("bf16", "cpp"), "bf16"),
    "materialised": (materialised, "fp32"),
    "lightly's formula": (as_lightly, "fp32"),
    "torch.compile of materialised": (torch.compile(materialised), "fp32"),
    "pytorch-metric-learning": (as_pytorch_metric_learning, "fp32"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_pairs", [256, 1024, 4096])
def bench_nt_xent(benchmark: BenchmarkFixture, way: str, num_pairs: int) -> None:
    """One forward and backward of `num_pairs` x 128, with the normalisation, on all threads."""
    if way == "pytorch-metric-learning" and num_pairs > 256:
        pytest.skip("its memory grows with the cube of the batch: 9 GiB at 512 pairs")
    loss, precision = WAYS[way]
    z1, z2, exact = problem(num_pairs, "cpu")
    check(step(loss, z1, z2), exact, TOLERANCE[precision])
    benchmark.group = f"NT-Xent, {num_pairs} pairs, forward and backward"
    benchmark.extra_info.update(
        pairs=num_pairs,
        gflop=4 * (2 * num_pairs) ** 2 * DIM / 1e9,
        baseline=way == "materialised",
        precision=precision,
    )
    if "compile" not in way:  # whose graphs do not tell what they keep
        benchmark.extra_info["kept_megabytes"] = bytes_kept(lambda: loss(z1, z2), [z1, z2]) / 1e6
    benchmark(step, loss, z1, z2)


DEVICE_WAYS: dict[str, tuple[Loss, str]] = {
    **{f"triton, {precision}": (ours(precision, "triton"), precision) for precision in TOLERANCE},
    "materialised": (materialised, "fp32"),
    "lightly's formula": (as_lightly, "fp32"),
    "torch.compile of materialised": (torch.compile(materialised, dynamic=False), "fp32"),
    "inf-cl": (as_inf_cl, "tf32"),
}
MATERIALISES = ("materialised", "lightly's formula", "torch.compile of materialised")


def check_by_slices(loss: Loss, z1: torch.Tensor, z2: torch.Tensor, tolerance: float) -> None:
    """Hold the loss, and the gradients of the first 64 pairs, to float64, a slice of the matrix at a time."""
    n, own = len(z1), 64
    z = F.normalize(torch.cat([z1, z2]).detach().double(), dim=1)
    partner = torch.arange(2 * n, device=z.device).roll(n)

    def similarities(rows: torch.Tensor) -> torch.Tensor:
        s = z[rows] @ z.T / TEMPERATURE
        s[torch.arange(len(rows), device=z.device), rows] = -torch.inf
        return s

    slices = torch.arange(2 * n, device=z.device).split(2048)
    log_total = torch.cat([similarities(rows).logsumexp(1) for rows in slices])
    positive = (z[:n] * z[n:]).sum(1).repeat(2) / TEMPERATURE
    value, *grads = step(loss, z1, z2)
    assert abs(value.item() / (log_total - positive).mean().item() - 1) <= tolerance
    for first, got, view in ((0, grads[0], z1), (n, grads[1], z2)):
        rows = torch.arange(first, first + own, device=z.device)
        s = similarities(rows)
        dz = ((s - log_total[rows, None]).exp() + (s - log_total).exp()) @ z - 2 * z[partner[rows]]
        dz -= (dz * z[rows]).sum(1, keepdim=True) * z[rows]
        dz /= 2 * n * TEMPERATURE * view.detach()[:own].double().norm(dim=1, keepdim=True)
        assert (got[:own].double() - dz).norm() <= tolerance * dz.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("way", DEVICE_WAYS)
@pytest.mark.parametrize("num_pairs", [256, 1024, 4096, 8192, 16384, 32768, 65536])
def bench_nt_xent_on_device(
    benchmark: BenchmarkFixture, rng: np.random.Generator, cuda: torch.device, way: str, num_pairs: int
) -> None:
    """The same on a GPU; the rate counts 4 M^2 D operations whatever a way really does.

    Beyond 16,384 pairs the matrices of the materialised losses do not fit. Beyond 4,096 the check is of the
    loss and of some rows' gradients, by slices; inf-cl's loss, which is another one, is checked at 4,096.
    """
    if num_pairs > 16384 and way in MATERIALISES:
        pytest.skip("matrices of M x M do not fit")
    if "compile" in way and num_pairs != 4096:
        pytest.skip("compiled for one size alone: it takes long")
    loss, precision = DEVICE_WAYS[way]
    if way == "inf-cl":
        z1, z2, exact = problem(min(num_pairs, 4096), cuda.type, with_itself)
        check(step(loss, z1, z2), exact, TOLERANCE[precision])
        z1, z2 = views(rng, num_pairs, cuda.type)
    elif num_pairs <= 4096:
        z1, z2, exact = problem(num_pairs, cuda.type)
        check(step(loss, z1, z2), exact, TOLERANCE[precision])
    else:
        z1, z2 = views(rng, num_pairs, cuda.type)
        check_by_slices(loss, z1, z2, TOLERANCE[precision])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(loss, z1, z2)
    memory = torch.cuda.max_memory_allocated() - before
    launches = max(1, 4096 // num_pairs)

    def launch_and_wait() -> None:
        for _ in range(launches):
            step(loss, z1, z2)
        torch.cuda.synchronize()

    benchmark.group = f"NT-Xent on the GPU, {launches} x {num_pairs} pairs, forward and backward"
    benchmark.pedantic(launch_and_wait, rounds=10, warmup_rounds=2)
    operations = launches * 4 * (2 * num_pairs) ** 2 * DIM
    benchmark.extra_info.update(megabytes=memory / 1e6, gflop=operations / 1e9)
    if benchmark.stats is not None:
        benchmark.extra_info["tflops"] = operations / benchmark.stats["median"] / 1e12
