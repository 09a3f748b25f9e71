"""Profiles as sums of Gaussians against the analytic profiles, pixels against oversampled ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from margformer_fast.data.profiles import (
    SERSIC_INDEX,
    DoubleGaussian,
    draw_elliptical,
    draw_round,
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


def oversampled(size: int, x: float, y: float, covariance: np.ndarray, factor: int = 8) -> np.ndarray:
    """A Gaussian of unit flux summed over `factor` x `factor` points in each pixel."""
    points = (np.arange(size * factor) + 0.5) / factor - 0.5
    offset = np.stack(np.meshgrid(points - x, points - y), axis=-1)
    exponent = -0.5 * np.einsum("rci,ij,rcj->rc", offset, np.linalg.inv(covariance), offset)
    fine = np.exp(exponent) / (2 * np.pi * math.sqrt(np.linalg.det(covariance)))
    return fine.reshape(size, factor, size, factor).mean(axis=(1, 3))


@pytest.mark.parametrize(("sigma", "tolerance"), [(0.75, 5e-3), (1.0, 2e-3), (2.0, 2e-4)])
def test_pixels_against_oversampled_ones(sigma: float, tolerance: float, rng: np.random.Generator) -> None:
    x, y = rng.uniform(7.3, 8.7, 2)
    expected = oversampled(17, x, y, np.eye(2) * sigma**2)
    found = draw_round(17, np.array([x]), np.array([y]), np.array([[sigma**2]]), np.array([[1.0]]))[0]
    assert np.abs(found - expected).max() < tolerance * expected.max()


def test_elliptical_pixels_against_oversampled_ones(rng: np.random.Generator) -> None:
    x, y, q, angle = *rng.uniform(7.3, 8.7, 2), rng.uniform(0.3, 0.95), rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = np.eye(2) * 1.1**2 + turn @ np.diag([0.9 / q, 0.9 * q]) @ turn.T
    expected = 3.0 * oversampled(17, x, y, covariance)
    one = [np.array([value]) for value in (x, y)]
    cells = [np.array([[value]]) for value in (1.1**2, 0.9, 3.0)]
    found = draw_elliptical(17, *one, *cells, np.array([q]), np.array([angle]))[0]
    assert np.abs(found - expected).max() < 2e-3 * expected.max()


def test_an_ellipse_of_ratio_one_is_round(rng: np.random.Generator) -> None:
    x, y = rng.uniform(10, 12, (2, 3))
    variance, flux = rng.uniform(0.5, 3, (3, 4)), rng.uniform(0, 9, (3, 4))
    round_ones = draw_round(21, x, y, variance + 0.8, flux)
    ellipses = draw_elliptical(
        21, x, y, np.full((3, 1), 0.8), variance, flux, np.ones(3), rng.uniform(0, 3, 3)
    )
    np.testing.assert_allclose(ellipses, round_ones, rtol=1e-9, atol=1e-12)


def test_width_at_half_maximum(rng: np.random.Generator) -> None:
    fwhm = rng.uniform(0.7, 2.0, (4, 5))
    psf = DoubleGaussian.from_fwhm(fwhm, 2.3, rng.uniform(0.02, 0.3, (4, 5)))
    np.testing.assert_allclose(psf.fwhm, fwhm, rtol=1e-5)
    height = psf.share / psf.sigma**2
    half = (height * np.exp(-0.5 * (fwhm[..., None] / 2 / psf.sigma) ** 2)).sum(-1)
    np.testing.assert_allclose(half, height.sum(-1) / 2, rtol=1e-4)
    np.testing.assert_allclose(psf[1:3, 2].fwhm, fwhm[1:3, 2], rtol=1e-5)


def test_psf_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"expected \(3, 2\), core and wing"):
        DoubleGaussian(np.ones((3, 3)), np.ones(3))
