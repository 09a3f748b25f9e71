"""From raw stamps to updated weights on the CPU: augmentation and a SimCLR step, as published and as here."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from bench_augment import BANDS, KEY, PATCH, SIZE, per_sample
from bench_encoder import CONFIG, NUM_PAIRS, TOLERANCE, as_this_way, model_of
from memory import bytes_kept
from processor import skip_unless_products_pay
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.config import AugmentConfig
from margformer_fast.ops.augment_patchify import augment_patchify
from margformer_fast.ops.nt_xent import nt_xent
from margformer_fast.ops.stamps import Stamps
from margformer_fast.reference.augment import draw_views

NUM_STAMPS = 1000
PUBLISHED, FAST = "published", "fast"
Catalogue = tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """Big-endian stamps as FITS holds them, the rows of a batch, their identifiers and photometry."""
    rng = np.random.default_rng()
    raw = rng.normal(size=(NUM_STAMPS, BANDS, SIZE, SIZE)).astype(">f4")
    rows, objid = rng.permutation(NUM_STAMPS)[:NUM_PAIRS], rng.integers(0, 2**62, NUM_PAIRS)
    photometry = torch.from_numpy(rng.normal(size=(NUM_PAIRS, CONFIG.num_features))).float()
    return raw, rows, objid, photometry.repeat(2, 1)


def tokens_of(way: str) -> torch.Tensor:
    """Two views of each object; the published way rotates, shifts and mirrors an object at a time."""
    raw, rows, objid, _ = catalogue()
    if way == PUBLISHED:
        draws = draw_views(objid, num_bands=BANDS, size=SIZE, config=AugmentConfig(), **KEY)
        return per_sample(raw, rows, draws, "two steps").flatten(0, 1)
    stamps = Stamps((raw,))
    return augment_patchify(stamps, rows, objid, AugmentConfig(), patch_size=PATCH, **KEY).flatten(0, 1)


def loss_of(way: str, precision: str, tokens: torch.Tensor) -> torch.Tensor:
    with as_this_way(way, precision):
        z1, z2 = model_of(way)(catalogue()[3], tokens).float().chunk(2)
        return nt_xent(z1, z2, temperature=0.1)


@lru_cache(maxsize=1)
def published_loss() -> float:
    model_of(PUBLISHED).eval()
    with torch.no_grad():
        return loss_of(PUBLISHED, "fp32", tokens_of(FAST)).item()


def check(way: str, precision: str) -> None:
    """The same views, but for pixels on an edge, and of the same views the same loss."""
    assert (tokens_of(PUBLISHED) != tokens_of(FAST)).float().mean() < 1e-3
    model_of(way).eval()
    with torch.no_grad():
        loss = loss_of(way, precision, tokens_of(FAST)).item()
    assert abs(loss - published_loss()) <= TOLERANCE[precision][0] * published_loss()


@pytest.mark.parametrize(("way", "precision"), [(PUBLISHED, "fp32"), (FAST, "fp32"), (FAST, "bf16")])
def bench_end_to_end(benchmark: BenchmarkFixture, way: str, precision: str) -> None:
    """Two views of 256 raw stamps, forward, loss, backward and AdamW, with dropout."""
    skip_unless_products_pay(precision)
    check(way, precision)
    model = model_of(way).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = tokens_of(FAST)
    kept = bytes_kept(lambda: loss_of(way, precision, tokens), [*model.parameters(), tokens])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(way, precision, tokens_of(way)).backward()
        optimizer.step()

    benchmark.group = f"From raw stamps to weights, MargFormer, {NUM_PAIRS} pairs"
    benchmark.extra_info.update(
        pairs=NUM_PAIRS, kept_megabytes=kept / 1e6, baseline=way == PUBLISHED, precision=precision
    )
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
    model.load_state_dict(start)
