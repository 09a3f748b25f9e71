"""Folded cross-attention on a GPU, forward and backward: against the reference, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.kernels import cross_attention as kernels
from margformer_fast.reference.cross_attention import cross_attention as reference
from margformer_fast.reference.weights import AttentionWeights

pytestmark = pytest.mark.gpu

# T, D, H, K of the models that attend with one query.
FORMS = {"A, K = 64": (65, 64, 8, 64), "A, K = 128": (65, 64, 8, 128), "B": (65, 256, 8, 32)}
TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 2e-2}
# What a copy within the memory of an H200 was measured to reach, both ways together.
BYTES_A_SECOND = 4.3e12
LARGEST = 16384

Tensors = list[torch.Tensor]
Way = Callable[[Tensors, int, torch.Tensor], tuple[torch.Tensor, ...]]


def draw(form: str, batch: int) -> tuple[Tensors, torch.Tensor]:
    """Fresh tokens and weights, and the gradient of the update, in float64."""
    T, D, _, K = FORMS[form]
    rng = np.random.default_rng()
    shapes = ((batch, T, D), (D,), (D,), (D, D), (D, D), (D, D), (T, K), (T, K), (D, D), (D,))
    tensors = [
        torch.from_numpy(rng.normal(size=shape) * shape[-1] ** (-0.5 if len(shape) == 2 else 0)).bfloat16()
        for shape in shapes
    ]
    grad = torch.from_numpy(rng.normal(size=(batch, D)))
    return [tensor.double().cuda() for tensor in tensors], grad.cuda()


def attend(precision: str, *, compiled: bool) -> tuple[Way, Way]:
    """The reference, forward alone and with its backward."""
    run = torch.compile(reference, dynamic=False) if compiled else reference

    def forward(tensors: Tensors, num_heads: int, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            return (run(*tensors, num_heads, 0.0)[:, 0],)

    def step(tensors: Tensors, num_heads: int, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [tensor.requires_grad_() for tensor in tensors]
        (update,) = forward(leaves, num_heads, grad)
        return update.detach(), *torch.autograd.grad(update, leaves, grad.to(update.dtype))

    return torch.no_grad()(forward), step


def ours(precision: str) -> tuple[Way, Way]:
    def forward(tensors: Tensors, num_heads: int, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, *weights = tensors
        return (kernels.forward(x, AttentionWeights(*weights), num_heads, None, 0.0, precision),)

    def step(tensors: Tensors, num_heads: int, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, *weights = tensors
        given = (x, AttentionWeights(*weights), num_heads, None, 0.0, precision)
        return kernels.forward(*given), *kernels.backward(grad, *given)

    return torch.no_grad()(forward), torch.no_grad()(step)


# How it is done, the precision of products, the type of tokens.
WAYS: dict[str, tuple[tuple[Way, Way], str, torch.dtype]] = {
    "triton, bf16": (ours("bf16"), "bf16", torch.bfloat16),
    "triton, bf16 of float32 tokens": (ours("bf16"), "bf16", torch.float32),
    "triton, tf32": (ours("tf32"), "tf32", torch.float32),
    "triton, fp32": (ours("fp32"), "fp32", torch.float32),
    "eager, fp32": (attend("fp32", compiled=False), "fp32", torch.float32),
    "eager, bf16": (attend("bf16", compiled=False), "bf16", torch.float32),
    "torch.compile, fp32": (attend("fp32", compiled=True), "fp32", torch.float32),
    "torch.compile, bf16": (attend("bf16", compiled=True), "bf16", torch.float32),
}


@lru_cache(maxsize=1)
def problem(form: str, batch: int) -> tuple[Tensors, torch.Tensor, tuple[torch.Tensor, ...]]:
    """The same for all ways, with the float64 update and gradients."""
    tensors, grad = draw(form, batch)
    return tensors, grad, attend("fp32", compiled=False)[1](tensors, FORMS[form][2], grad)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("batch", [512, LARGEST])
@pytest.mark.parametrize("form", FORMS)
def bench_cross_attention(
    benchmark: BenchmarkFixture, cuda: torch.device, form: str, batch: int, backward: bool, way: str
) -> None:
    """Many launches a round, captured in a graph so that the host does not count; without dropout.

    The share of the roof counts the bytes that cannot be avoided: tokens read once forward, and backward
    read once and their gradient written, whatever a way really moves.
    """
    if "compile" in way and batch != LARGEST:
        pytest.skip("compiled for one size alone: it takes long")
    both, precision, dtype = WAYS[way]
    run = both[backward]
    (T, D, H, _), (tensors, grad, exact) = FORMS[form], problem(form, batch)
    x, *weights = (tensor.detach().float() for tensor in tensors)
    given, grad = [x.to(dtype), *weights], grad.to(dtype)
    torch.compiler.reset()  # or after some forms it gives up compiling, without a word
    for got, want in zip(run(given, H, grad), exact, strict=False):
        tolerance = TOLERANCE[precision]
        assert (got.double() - want).norm() <= tolerance * want.norm()
    launches = max(1, 32768 // batch)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(given, H, grad)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(launches):
            run(given, H, grad)

    def replay_and_wait() -> None:
        graph.replay()
        torch.cuda.synchronize()

    benchmark.group = f"cross-attention {form} on the GPU, {launches} x {batch} objects, " + (
        "forward and backward" if backward else "forward"
    )
    benchmark.pedantic(replay_and_wait, rounds=20, warmup_rounds=3)
    moved = launches * batch * T * D * dtype.itemsize * (3 if backward else 1)
    benchmark.extra_info.update(gigabytes=moved / 1e9)
    if benchmark.stats is not None:
        benchmark.extra_info["share_of_memory_roof"] = moved / BYTES_A_SECOND / benchmark.stats["median"]
