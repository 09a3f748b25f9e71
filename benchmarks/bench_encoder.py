"""MargFormer on the CPU: one step of SimCLR, and inference, as published and as this package runs it.

The published model computes every token of the last layer, and keys and values of all tokens; here it is
rebuilt from the reference operators, with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import pytest
import torch
from memory import bytes_kept
from processor import skip_unless_products_pay
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.backends import use_backend
from margformer_fast.config import ModelConfig
from margformer_fast.nn.margformer import MargFormer
from margformer_fast.nn.simclr import SimCLR
from margformer_fast.ops.encoder_layer import encoder_layer
from margformer_fast.ops.nt_xent import nt_xent

CONFIG = ModelConfig(slots=64, depth=12, dim=64, num_heads=8, dropout=0.1, photometry_dropout=0.25)
NUM_PAIRS = 256
# Relative, of the loss and of all gradients together: two roundings of twelve layers.
TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 1e-1)}


class AsPublished(MargFormer):
    """The same parameters; all tokens go through all layers."""

    def embed(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        tokens = [self.to_dnn(photometry)[:, None], self.to_patch_embedding(image)]
        x = torch.cat(tokens, dim=1) + self.pos_embedding
        dropout = self.dropout if self.training else 0.0
        for layer in self.layers():
            x = encoder_layer(x, *layer, num_heads=self.num_heads, dropout=dropout)
        return x[:, 0]


@contextmanager
def as_this_way(way: str, precision: str) -> Iterator[None]:
    request = "reference" if way == "published" else "auto"
    with use_backend(request), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        yield


@lru_cache(maxsize=2)
def model_of(way: str) -> SimCLR:
    torch.manual_seed(1)
    return SimCLR((AsPublished if way == "published" else MargFormer)(CONFIG, 2), CONFIG.dim)


@lru_cache(maxsize=1)
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Photometry that both views share, and tokens of views that resemble each other; fresh in each run."""
    generator = torch.Generator().manual_seed(torch.seed() % 2**31)
    photometry = torch.randn(NUM_PAIRS, CONFIG.num_features, generator=generator).repeat(2, 1)
    source = torch.randn(NUM_PAIRS, CONFIG.num_patches, CONFIG.patch_values, generator=generator).repeat(
        2, 1, 1
    )
    return photometry, source + 0.5 * torch.randn(source.shape, generator=generator)


def loss_of(way: str, precision: str) -> torch.Tensor:
    with as_this_way(way, precision):
        z1, z2 = model_of(way)(*batch()).float().chunk(2)
        return nt_xent(z1, z2, temperature=0.1)


@lru_cache(maxsize=4)
def loss_and_gradients(way: str, precision: str) -> tuple[float, torch.Tensor]:
    """Without dropout, by the first weights."""
    model = model_of(way).eval()
    trained = [p for name, p in model.named_parameters() if "mlp_head" not in name]
    loss = loss_of(way, precision)
    return loss.item(), torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, trained)])


def check(way: str, precision: str) -> None:
    (loss, grads), (exact_loss, exact) = (
        loss_and_gradients(way, precision),
        loss_and_gradients("published", "fp32"),
    )
    for_loss, for_gradients = TOLERANCE[precision]
    assert abs(loss - exact_loss) <= for_loss * exact_loss
    assert (grads - exact).norm() <= for_gradients * exact.norm()


WAYS = [("published", "fp32"), ("published", "bf16"), ("fast", "fp32"), ("fast", "bf16")]


def is_baseline(way: str, precision: str) -> bool:
    return (way, precision) == WAYS[0]


@pytest.mark.parametrize(("way", "precision"), WAYS)
def bench_simclr_step(benchmark: BenchmarkFixture, way: str, precision: str) -> None:
    """Forward, loss, backward and AdamW on two views of 256 objects, with dropout."""
    skip_unless_products_pay(precision)
    check(way, precision)
    model = model_of(way).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    kept = bytes_kept(lambda: loss_of(way, precision), [*model.parameters(), *batch()])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(way, precision).backward()
        optimizer.step()

    benchmark.group = f"SimCLR step of MargFormer, {NUM_PAIRS} pairs"
    benchmark.extra_info.update(
        pairs=NUM_PAIRS, kept_megabytes=kept / 1e6, baseline=is_baseline(way, precision), precision=precision
    )
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
    model.load_state_dict(start)


@pytest.mark.parametrize(("way", "precision"), WAYS)
def bench_inference(benchmark: BenchmarkFixture, way: str, precision: str) -> None:
    """Embeddings of 512 objects."""
    skip_unless_products_pay(precision)

    def run(way: str = way, precision: str = precision) -> torch.Tensor:
        with torch.inference_mode(), as_this_way(way, precision):
            return model_of(way).eval().backbone.embed(*batch())

    exact = run("published", "fp32")
    assert (run() - exact).norm() <= {"fp32": 1e-5, "bf16": 3e-2}[precision] * exact.norm()
    benchmark.group = f"Embeddings by MargFormer, {2 * NUM_PAIRS} objects"
    benchmark.extra_info.update(
        images=2 * NUM_PAIRS, baseline=is_baseline(way, precision), precision=precision
    )
    benchmark.pedantic(run, rounds=3)
