"""The feed-forward half of a layer on a GPU, forward and backward: kernels, eager PyTorch, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.reference.dropout import OF_HIDDEN_UNITS, keep_mask, kept_scale
from margformer_fast.reference.feed_forward import feed_forward as reference
from margformer_fast.reference.weights import FeedForwardWeights

T = 65
# Of a bfloat16 product on an H200, as measured by large matrix products.
ROOF_TFLOPS = 790
TOLERANCE = 1e-2
DROPOUT = 0.1
LARGEST = 16384
NAMES = ("forward", "backward")

Tensors = tuple[torch.Tensor, ...]
# Tokens, update, gradient, weights; then the seed, or None for no dropout.
Pass = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, FeedForwardWeights, torch.Tensor | None], Tensors]


def half(
    x_BTD: torch.Tensor, update_BD: torch.Tensor, weights: FeedForwardWeights, dropout: float
) -> torch.Tensor:
    """Second half of a layer, as the reference has it."""
    x_BTD = x_BTD + update_BD[:, None]
    return x_BTD + reference(x_BTD, *weights, dropout)


def kernels_forward(x, update, grad, weights, seed) -> Tensors:
    from margformer_fast.kernels.feed_forward import forward

    return (forward(x, weights, seed, DROPOUT, "bf16", update_BD=update, residual=True),)


def kernels_backward(x, update, grad, weights, seed) -> Tensors:
    from margformer_fast.kernels.feed_forward import backward

    return backward(grad, x, weights, seed, DROPOUT, "bf16", update_BD=update, residual=True)


def by_autograd(function: Callable[..., torch.Tensor]) -> tuple[Pass, Pass]:
    """The same by autograd; its backward includes the forward, where that of the kernels computes again."""

    def forward(x, update, grad, weights, seed) -> Tensors:
        with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
            return (function(x, update, weights, DROPOUT if seed is not None else 0.0),)

    def backward(x, update, grad, weights, seed) -> Tensors:
        leaves = [each.detach().requires_grad_() for each in (x, update, *weights)]
        with torch.autocast("cuda", torch.bfloat16):
            out = function(
                leaves[0], leaves[1], FeedForwardWeights(*leaves[2:]), DROPOUT if seed is not None else 0.0
            )
        return torch.autograd.grad(out, leaves, grad.to(out.dtype))

    return forward, backward


WAYS: dict[str, tuple[Pass, Pass]] = {
    "triton": (kernels_forward, kernels_backward),
    "eager": by_autograd(half),
    "torch.compile": by_autograd(torch.compile(half, dynamic=False)),
}

Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor, FeedForwardWeights, torch.Tensor]


@lru_cache(maxsize=1)
def problem(B: int, D: int, M: int) -> Problem:
    """Fresh tokens in bfloat16 and weights in float32, the same for all ways."""
    draw = np.random.default_rng()

    def tensor(*shape: int, scale: float = 1.0, centre: float = 0.0, dtype: torch.dtype = torch.float32):
        values = draw.normal(centre, scale, shape).astype(np.float32)
        return torch.from_numpy(values).to("cuda", dtype)

    x, grad = (tensor(B, T, D, dtype=torch.bfloat16) for _ in range(2))
    weights = FeedForwardWeights(
        tensor(D, scale=0.1, centre=1.0), tensor(D, scale=0.1), tensor(M, D, scale=D**-0.5),
        tensor(M, scale=0.1), tensor(D, M, scale=M**-0.5), tensor(D, scale=0.1),
    )  # fmt: skip
    seed = torch.tensor(int(draw.integers(2**63)), device="cuda")
    return x, tensor(B, D, dtype=torch.bfloat16), grad, weights, seed


def exact(x, update, grad, weights, seed: torch.Tensor | None) -> tuple[Tensors, Tensors]:
    """The float64 result and gradients, with the mask of the seed."""
    B, _, D = x.shape
    leaves = [each.detach().double().requires_grad_() for each in (x, update, *weights)]
    tokens = leaves[0] + leaves[1][:, None]
    h = F.gelu(F.linear(F.layer_norm(tokens, (D,), leaves[2], leaves[3]), leaves[4], leaves[5]))
    if seed is not None:
        keep = keep_mask(int(seed), B * T, h.shape[-1], DROPOUT, OF_HIDDEN_UNITS).view(h.shape)
        h = h * keep.to(h.device) * kept_scale(DROPOUT)
    out = tokens + F.linear(h, leaves[6], leaves[7])
    return (out.detach(),), torch.autograd.grad(out, leaves, grad.double())


def check(way: str, x, update, grad, weights, seed) -> None:
    """Hold both passes to float64, on the first objects.

    The others draw their own dropout: they are checked without it.
    """
    own = 64
    tensors = (x[:own].contiguous(), update[:own].contiguous(), grad[:own].contiguous(), weights)
    seed = seed if way == "triton" else None
    for run, want in zip(WAYS[way], exact(*tensors, seed), strict=True):
        for got, right in zip(run(*tensors, seed), want, strict=True):
            assert (got.double() - right).norm() <= TOLERANCE * right.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direction", NAMES)
@pytest.mark.parametrize("dropout", [True, False], ids=["dropout", "no dropout"])
@pytest.mark.parametrize(("D", "M"), [(64, 256), (256, 1024)])
@pytest.mark.parametrize("B", [512, LARGEST])
def bench_feed_forward(
    benchmark: BenchmarkFixture,
    cuda: torch.device,
    way: str,
    direction: str,
    dropout: bool,
    D: int,
    M: int,
    B: int,
) -> None:
    """B objects of 65 tokens, as the second half of a layer; the rate counts 4 B T D M operations forward.

    Backward it counts ten: both products twice, and the first once more, whatever a way really does. Eager
    and compiled backward include the forward that saves for them.
    """
    if way == "torch.compile" and (B != LARGEST or not dropout):
        pytest.skip("compiled for one size alone, as in training: it takes long")
    torch.compiler.reset()  # or after some forms it gives up compiling, without a word
    x, update, grad, weights, seed = problem(B, D, M)
    check(way, x, update, grad, weights, seed)
    run = WAYS[way][NAMES.index(direction)]
    given = (x, update, grad, weights, seed if dropout else None)
    run(*given)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(*given)
    memory = torch.cuda.max_memory_allocated() - before
    launches = max(1, 8192 // B)

    def launch_and_wait() -> None:
        for _ in range(launches):
            run(*given)
        torch.cuda.synchronize()

    told = "dropout" if dropout else "no dropout"
    benchmark.group = f"Feed-forward half, {launches} x {B} x 65 x {D}, {told}, {direction}"
    benchmark.pedantic(launch_and_wait, rounds=10, warmup_rounds=2)
    operations = launches * (4 if direction == "forward" else 10) * B * T * D * M
    benchmark.extra_info.update(megabytes=memory / 1e6, gflop=operations / 1e9)
    if benchmark.stats is not None:
        tflops = operations / benchmark.stats["median"] / 1e12
        benchmark.extra_info.update(tflops=tflops, share_of_tensor_roof=tflops / ROOF_TFLOPS)
