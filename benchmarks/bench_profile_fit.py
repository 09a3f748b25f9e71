"""Profile fits of simulated sources in five bands, by the compiled module and by the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.ops.profile_fit import fit_profiles
from margformer_fast.reference.profile_fit import FIT_RADIUS

COUNTS = {"cpp": 1000, "reference": 40}


@pytest.mark.parametrize("backend", COUNTS)
def bench_profile_fit(benchmark: BenchmarkFixture, rng: np.random.Generator, backend: str) -> None:
    """Five bands of 32 x 32 pixels: two thirds are points, a third Gaussians twice as wide as the PSF."""
    n, size = COUNTS[backend], 32
    variance = np.array([1.9, 8.0])
    share = np.array([0.8, 0.2])
    centre = 15.5 + rng.uniform(-0.5, 0.5, (n, 5, 2))
    pixel = np.arange(size)
    dy, dx = pixel - centre[..., :1], pixel - centre[..., 1:]
    distance2 = dy[..., :, None] ** 2 + dx[..., None, :] ** 2
    extra = np.where(np.arange(n) % 3 == 0, 4.0, 0.0)[:, None, None, None]
    images = sum(
        s / (2 * np.pi * (v + extra)) * np.exp(-0.5 * distance2 / (v + extra))
        for v, s in zip(variance, share, strict=True)
    )
    images = 10 * images + 0.03 * rng.standard_normal(images.shape)
    cov = np.tile(np.stack([variance, 0 * variance, variance], axis=-1), (n, 5, 1, 1))
    given = [images, centre, cov, np.tile(share, (n, 5, 1)), np.full((n, 5), 0.03), np.full((n, 5), 800.0)]
    tensors = [torch.from_numpy(np.ascontiguousarray(each)) for each in given]
    if backend == "cpp":
        tensors[0] = tensors[0].float()
    found = fit_profiles(*tensors, reference_band=2, backend=backend)
    # What is timed is right: fluxes to their errors, of which pixels within the radius set the scale.
    assert (found.flux / 10 - 1).abs().median() < 0.03 * FIT_RADIUS / 10
    benchmark(lambda: fit_profiles(*tensors, reference_band=2, backend=backend))
    if benchmark.stats is not None:
        benchmark.extra_info["objects_per_second"] = n / benchmark.stats["median"]
