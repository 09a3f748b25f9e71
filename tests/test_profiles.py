"""Profiles as sums of Gaussians against the analytic profiles, pixels against oversampled ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from margformer_fast.data.profiles import (
    SERSIC_INDEX,
    profile_weights,
)
from margformer_fast.errors import ConfigError

B = {1: 1.67834699, 4: 7.66924944}


@pytest.mark.parametrize(
    ("ratio", "flux_error", "shape_error"), [(2.0, 1e-4, 1e-3), (2.5, 2e-3, 0.02), (3.0, 6e-3, 0.10)]
)
@pytest.mark.parametrize("name", SERSIC_INDEX)
def test_sum_of_gaussians_is_the_profile(
    name: str, ratio: float, flux_error: float, shape_error: float, rng: np.random.Generator
) -> None:
    radius = rng.uniform(0.3, 3.0)
    n = SERSIC_INDEX[name]
    start = 1e-5 * radius**2 * rng.uniform(1, ratio)
    variances = start * ratio ** np.arange(math.ceil(math.log(1e9) / math.log(ratio)))
    weights = profile_weights(name, np.array([radius]), variances)[0]
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=flux_error)
    inside = (weights * -np.expm1(-(radius**2) / 2 / variances)).sum()
    assert inside == pytest.approx(0.5, abs=flux_error)
    r = np.geomspace(0.1, 3, 40) * radius
    found = (weights / (2 * np.pi * variances) * np.exp(-0.5 * r[:, None] ** 2 / variances)).sum(axis=1)
    total = 2 * np.pi * n * B[n] ** (-2 * n) * math.gamma(2 * n) * radius**2
    expected = np.exp(-B[n] * (r / radius) ** (1 / n)) / total
    np.testing.assert_allclose(found, expected, rtol=shape_error)


def test_light_below_the_grid_stays_and_light_above_it_goes() -> None:
    narrow = profile_weights("exponential", np.array([1e-3]), 2.0 ** np.arange(4))
    np.testing.assert_allclose(narrow, [[1, 0, 0, 0]], atol=1e-4)
    wide = profile_weights("exponential", np.array([1e3]), 2.0 ** np.arange(4))
    assert wide.sum() < 1e-3


def test_unknown_profile_and_bad_grids_are_named() -> None:
    one = np.ones(1)
    with pytest.raises(ConfigError, match="unknown profile 'king'"):
        profile_weights("king", one, 2.0 ** np.arange(4))
    for grid in (np.arange(1.0, 5), 5.0 ** np.arange(4), 0.5 ** np.arange(4), np.ones(1)):
        with pytest.raises(ConfigError, match="not a geometric grid"):
            profile_weights("exponential", one, grid)
