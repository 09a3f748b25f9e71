"""MargFormer on a GPU: one step of SimCLR, and inference, as published and as this package runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from bench_encoder import CONFIG, TOLERANCE, AsPublished
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.backends import use_backend
from margformer_fast.learning.graphed import GraphedStep
from margformer_fast.nn.margformer import MargFormer
from margformer_fast.nn.simclr import SimCLR
from margformer_fast.ops.nt_xent import nt_xent

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
STEPS_A_ROUND = 5
# way, precision
WAYS = [
    ("published", "fp32"),
    ("published", "bf16"),
    ("published, torch.compile", "bf16"),
    ("fast", "fp32"),
    ("fast", "bf16"),
    ("fast, one graph", "bf16"),
]
LARGEST = 16384
"""Pairs that the published way has no memory for."""


@contextmanager
def as_this_way(way: str, precision: str) -> Iterator[None]:
    request = "reference" if way.startswith("published") else "auto"
    with use_backend(request), torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def model_of(way: str) -> SimCLR:
    torch.manual_seed(1)
    backbone = AsPublished if way.startswith("published") else MargFormer
    return SimCLR(backbone(CONFIG, 2), CONFIG.dim).to(DEVICE)


def batch(num_pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Photometry that both views share, and tokens of views that resemble each other."""
    photometry = torch.randn(num_pairs, CONFIG.num_features, device=DEVICE).repeat(2, 1)
    source = torch.randn(num_pairs, CONFIG.num_patches, CONFIG.patch_values, device=DEVICE).repeat(2, 1, 1)
    return photometry, source.add_(torch.randn_like(source), alpha=0.5)


def loss_of(
    way: str, precision: str, model: Callable[..., torch.Tensor], *views: torch.Tensor
) -> torch.Tensor:
    with as_this_way(way, precision):
        z1, z2 = model(*views).float().chunk(2)
        products = precision if way.startswith("fast") else "fp32"
        return nt_xent(z1, z2, temperature=0.1, precision=products)


def check(way: str, precision: str) -> None:
    """Hold loss and gradients, without dropout, to the published model in float32."""
    views = batch(256)
    answers = []
    for each, kind in ((way, precision), ("published", "fp32")):
        model = model_of(each).eval()
        trained = [p for name, p in model.named_parameters() if "mlp_head" not in name]
        loss = loss_of(each, kind, model, *views)
        grads = torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, trained)])
        answers.append((loss.item(), grads))
    (loss, grads), (exact_loss, exact) = answers
    for_loss, for_gradients = TOLERANCE[precision]
    assert abs(loss - exact_loss) <= for_loss * exact_loss
    assert (grads - exact).norm() <= for_gradients * exact.norm()


def step_of(way: str, precision: str, model: SimCLR) -> Callable[..., object]:
    """Return what does forward, loss, backward and AdamW on views."""
    trained = [p for name, p in model.named_parameters() if "mlp_head" not in name]
    is_recorded = way == "fast, one graph"
    optimizer = torch.optim.AdamW(
        trained,
        lr=torch.tensor(1e-4, device=DEVICE) if is_recorded else 1e-4,
        capturable=is_recorded,
    )
    if is_recorded:
        return GraphedStep(partial(loss_of, way, precision, model), trained, optimizer=optimizer)
    run = torch.compile(model, mode="reduce-overhead") if way.endswith("torch.compile") else model

    def step(*views: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(way, precision, run, *views).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("num_pairs", [256, 1024, 4096, LARGEST])
@pytest.mark.parametrize(("way", "precision"), WAYS)
def bench_simclr_step_gpu(benchmark: BenchmarkFixture, way: str, precision: str, num_pairs: int) -> None:
    """Forward, loss, backward and AdamW on two views of each object, with dropout."""
    if num_pairs == LARGEST and not way.startswith("fast"):
        pytest.skip("published, so many pairs need more memory than a GPU has")
    if num_pairs != 1024 and way.endswith("torch.compile"):
        pytest.skip("compiled for one size alone: it takes a minute or more")
    check(way, precision)
    model, views = model_of(way).train(), batch(num_pairs)
    step = step_of(way, precision, model)
    torch.cuda.reset_peak_memory_stats()

    def run() -> None:
        for _ in range(STEPS_A_ROUND):
            step(*views)
        torch.cuda.synchronize()

    benchmark.group = f"SimCLR step of MargFormer on a GPU, {num_pairs} pairs"
    benchmark.pedantic(run, rounds=5, warmup_rounds=2)
    benchmark.extra_info |= {
        "baseline": (way, precision) == WAYS[0],
        "steps": STEPS_A_ROUND,
        "pairs_per_s": STEPS_A_ROUND * num_pairs / benchmark.stats.stats.median,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
    }


@pytest.mark.parametrize(
    ("way", "precision"), [(way, kind) for way, kind in WAYS if way in ("published", "fast")]
)
def bench_inference_gpu(benchmark: BenchmarkFixture, way: str, precision: str) -> None:
    """Embeddings of 8,192 objects."""
    views = batch(4096)

    def embed(way: str = way, precision: str = precision) -> torch.Tensor:
        with torch.inference_mode(), as_this_way(way, precision):
            return model.backbone.embed(*views)

    model = model_of("published").eval()
    exact = embed("published", "fp32")
    model = model_of(way).eval()
    assert (embed() - exact).norm() <= {"fp32": 1e-5, "bf16": 3e-2}[precision] * exact.norm()

    def run() -> None:
        for _ in range(STEPS_A_ROUND):
            embed()
        torch.cuda.synchronize()

    benchmark.group = "Embeddings by MargFormer on a GPU, 8192 objects"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info |= {
        "baseline": (way, precision) == WAYS[0],
        "images_per_s": STEPS_A_ROUND * len(views[0]) / benchmark.stats.stats.median,
    }
