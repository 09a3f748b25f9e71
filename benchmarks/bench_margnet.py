"""A training step of MargNet's image network on the CPU, at the published width and at that of `quick`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.config import MargNetConfig
from margformer_fast.experiments import PRESETS
from margformer_fast.nn.margnet import MargNetCNN

NUM_STAMPS = 64
TOLERANCE = 1e-4


@pytest.mark.parametrize("layout", ["bands first", "bands last"])
@pytest.mark.parametrize("width", [PRESETS["paper"].margnet_width, PRESETS["quick"].margnet_width])
def bench_margnet_step(
    benchmark: BenchmarkFixture, rng: np.random.Generator, width: float, layout: str
) -> None:
    """Forward, loss, backward and AdamW of 64 stamps, by the order of bands and pixels in memory."""
    config = MargNetConfig(width=width)
    memory_format = torch.channels_last if layout == "bands last" else torch.contiguous_format
    network = MargNetCNN(config, 2)
    exact = copy.deepcopy(network).double()
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    stamps = torch.from_numpy(rng.normal(size=(NUM_STAMPS, config.num_bands, config.size, config.size)))
    label = torch.from_numpy(rng.integers(0, 2, NUM_STAMPS))
    image = stamps.float().contiguous(memory_format=memory_format)
    with torch.no_grad():
        expected = exact(stamps)
        assert (network(image) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(image), label).backward()
        optimizer.step()

    benchmark.group = f"MargNet's image network, a step of {NUM_STAMPS} stamps, width {width}"
    benchmark.extra_info.update(baseline=layout == "bands first")
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
