"""Features measured from stamps whose truth is known, and from a real field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from margformer_fast.data.photometry import (
    FIT_PIXELS,
    Flag,
    GaussianPsf,
    asinh_flux,
    asinh_magnitude,
    extinction_of,
    measure,
    softening,
)
from margformer_fast.data.psf import Psf
from margformer_fast.data.render import Ellipse, draw_gaussians, ellipse
from margformer_fast.data.survey import LSST, SDSS
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.reference.profile_fit import FIT_RADIUS, PROFILES

SCALE = SDSS.pixel_scale_arcsec


def scene(
    rng: np.random.Generator, n: int, name: str | None, radius: float, flux: float, size: int = 32
) -> tuple[np.ndarray, Psf, np.ndarray]:
    """Noiseless elliptical sources, their PSFs, and the row and column offset of each from the middle."""
    psf = Psf.double_gaussian(rng.uniform(0.9, 1.5, (n, 5)))
    variance, light = (np.array(table) for table in PROFILES[name]) if name else (np.zeros(1), np.ones(1))
    ratio, angle = rng.uniform(0.4, 1, n), rng.uniform(0, np.pi, n)
    offset = rng.uniform(-0.5, 0.5, (n, 2))
    y, x = ((size - 1) / 2 + offset).T
    stamps = np.zeros((n, 5, size, size))
    # The radius is that along the major axis.
    stretch = (radius / SCALE) ** 2 * ratio[:, None] * variance
    for band in range(5):
        for part in range(2):
            blur = (psf.sigma[:, band, part, None] / SCALE) ** 2
            weight = flux * psf.share[:, band, part, None] * light
            shape = Ellipse(*(stretch * each[:, None] for each in ellipse(1.0, ratio, angle)))
            shape = Ellipse(shape.xx + blur, shape.xy, shape.yy + blur)
            stamps[:, band] += draw_gaussians(size, x, y, shape, weight)
    return stamps, psf, offset


def per_band(features: np.ndarray, kind: int) -> np.ndarray:
    return features[:, kind:20:4]


def test_asinh_magnitudes() -> None:
    bright = np.full(5, 1e4)
    np.testing.assert_allclose(asinh_magnitude(bright, SDSS), 22.5 - 2.5 * 4, atol=1e-6)
    # Zero flux has the magnitudes that SDSS publishes for it.
    np.testing.assert_allclose(
        asinh_magnitude(np.zeros(5), SDSS), [24.63, 25.11, 24.80, 24.36, 22.83], atol=0.01
    )
    negative = asinh_magnitude(np.full(5, -3.0), SDSS)
    assert np.isfinite(negative).all()
    assert (negative > 24).all()


def test_asinh_magnitudes_invert(rng: np.random.Generator) -> None:
    flux = rng.normal(0, 10, (7, 5))
    np.testing.assert_allclose(asinh_flux(asinh_magnitude(flux, SDSS), SDSS), flux, rtol=1e-9, atol=1e-9)


def test_only_known_magnitude_systems() -> None:
    with pytest.raises(ConfigError, match="no magnitude softening is known for survey 'new'; expected sdss"):
        softening(replace(SDSS, name="new"))


@pytest.mark.parametrize("size", [32, 33, FIT_PIXELS])
def test_a_star_is_a_point(size: int, rng: np.random.Generator) -> None:
    stamps, psf, offset = scene(rng, 40, None, 0, 30.0, size)
    extinction = rng.uniform(0, 0.5, (40, 5))
    found = measure(stamps, psf, np.full((40, 5), 0.03), extinction, SDSS)
    observed = asinh_magnitude(np.full(5, 30.0), SDSS)
    np.testing.assert_allclose(per_band(found.features, 0), observed - extinction, atol=0.005)
    assert per_band(found.features, 1).max() < 0.02
    np.testing.assert_allclose(per_band(found.features, 2), psf.fwhm)
    np.testing.assert_array_equal(per_band(found.features, 3), extinction)
    # Colours are of observed magnitudes, as in the published features.
    np.testing.assert_allclose(found.features[:, 20:], -np.diff(observed) + np.zeros((40, 1)), atol=0.01)
    np.testing.assert_allclose(found.centre, offset, atol=0.01)
    assert not found.flags.any()


@pytest.mark.parametrize("radius", [0.2, 0.5, 1.0])
def test_a_spheroid_has_its_radius(radius: float, rng: np.random.Generator) -> None:
    stamps, psf, _ = scene(rng, 30, "de Vaucouleurs", radius, 50.0)
    found = measure(stamps, psf, np.full((30, 5), 0.03), np.zeros((30, 5)), SDSS)
    np.testing.assert_allclose(per_band(found.features, 1), radius, rtol=0.03)
    assert not found.is_disc.any()
    np.testing.assert_allclose(
        per_band(found.features, 0), np.tile(asinh_magnitude(np.full(5, 50.0), SDSS), (30, 1)), atol=0.02
    )


def test_a_disc_has_its_magnitude(rng: np.random.Generator) -> None:
    stamps, psf, _ = scene(rng, 30, "exponential", 0.8, 50.0)
    found = measure(stamps, psf, np.full((30, 5), 0.03), np.zeros((30, 5)), SDSS)
    assert found.is_disc.all()
    np.testing.assert_allclose(
        per_band(found.features, 0), np.tile(asinh_magnitude(np.full(5, 50.0), SDSS), (30, 1)), atol=0.02
    )


def test_noise_scatters_magnitudes_as_it_must(rng: np.random.Generator) -> None:
    n, noise = 300, 0.03
    stamps, psf, _ = scene(rng, n, None, 0, 4.0)
    stamps += rng.normal(0, noise, stamps.shape)
    found = measure(stamps, psf, np.full((n, 5), noise), np.zeros((n, 5)), SDSS)
    flux = asinh_flux(per_band(found.features, 0), SDSS)
    core = psf.sigma[..., 0] / SCALE
    least = noise * np.sqrt(4 * np.pi) * core  # of a matched filter; the true one is a little wider
    pull = (flux - 4.0) / least
    # A free radius widens the scatter and moves the mean up, within reason.
    assert 0.8 < pull.std() < 2.5
    assert -0.5 < pull.mean() < 1.0


def test_registration_is_taken_out(rng: np.random.Generator) -> None:
    n = 20
    stamps, psf, offset = scene(rng, n, None, 0, 30.0)
    registration = np.zeros((n, 5, 2))
    registration[:, 2] = (1.0, -1.0)
    moved = stamps.copy()
    moved[:, 2] = np.roll(stamps[:, 2], (1, -1), axis=(1, 2))
    arguments = (psf, np.full((n, 5), 0.03), np.zeros((n, 5)), SDSS)
    found = measure(moved, *arguments, registration=registration)
    expected = measure(stamps, *arguments)
    np.testing.assert_allclose(found.features, expected.features, atol=1e-3)
    np.testing.assert_allclose(found.centre, offset, atol=0.01)


def test_failures_are_flagged_and_nothing_is_invented(rng: np.random.Generator) -> None:
    stamps, psf, _ = scene(rng, 5, None, 0, 30.0)
    stamps[0, 3, 16, 16] = np.nan
    stamps[1, 2] = -0.1
    stamps[2, 1] = 0.05
    stamps[3, 0] *= -1
    found = measure(stamps, psf, np.full((5, 5), 0.03), np.zeros((5, 5)), SDSS)
    assert found.flags[0] == Flag.BAD_PIXELS
    assert found.flags[1] & Flag.NO_REFERENCE_FLUX
    for row in (0, 1):
        assert np.isnan(per_band(found.features, 0)[row]).all()
        assert np.isnan(per_band(found.features, 1)[row]).all()
        assert np.isnan(found.features[row, 20:]).all()
        # What was given is there.
        np.testing.assert_allclose(per_band(found.features, 2)[row], psf.fwhm[row])
    assert found.flags[2] & Flag.RADIUS_LIMIT
    assert found.flags[3] & Flag.NEGATIVE_FLUX
    assert np.isfinite(found.features[2:]).all()
    assert found.flags[4] == 0


def test_unknown_extinction_is_said(rng: np.random.Generator) -> None:
    stamps, psf, _ = scene(rng, 3, None, 0, 30.0)
    arguments = (np.full((3, 5), 0.03), None, SDSS)
    found = measure(stamps, psf, *arguments)
    assert (found.flags == Flag.NO_EXTINCTION).all()
    assert np.isnan(per_band(found.features, 0)).all()
    assert np.isnan(per_band(found.features, 3)).all()
    assert np.isfinite(per_band(found.features, 1)).all()
    assert np.isfinite(found.features[:, 20:]).all()
    assert np.isfinite(found.flux).all()


def test_extinction_follows_from_reddening() -> None:
    np.testing.assert_allclose(
        extinction_of(np.array([0, 0.1]), SDSS)[1], [0.424, 0.330, 0.229, 0.170, 0.126], atol=0.001
    )
    with pytest.raises(ConfigError, match="no extinction per E"):
        extinction_of(np.zeros(1), LSST)


def test_a_far_pixel_without_value_is_left_out(rng: np.random.Generator) -> None:
    stamps, psf, offset = scene(rng, 6, None, 0, 30.0)
    arguments = (psf, np.full((6, 5), 0.03), np.zeros((6, 5)), SDSS)
    expected = measure(stamps, *arguments).features
    pixel = np.arange(32)
    y, x = 15.5 + offset[:, 0, None, None], 15.5 + offset[:, 1, None, None]
    far = (pixel[:, None] - y) ** 2 + (pixel - x) ** 2 > (FIT_RADIUS + 0.1) ** 2
    stamps[np.broadcast_to(far[:, None], stamps.shape)] = np.nan
    np.testing.assert_allclose(measure(stamps, *arguments).features, expected, atol=1e-3)


def test_a_psf_that_is_not_round(rng: np.random.Generator) -> None:
    """A star under an elongated PSF is a point to who knows the PSF, and none to who takes it for round."""
    n = 12
    sigma = np.full((n, 5, 1), 0.55)
    e = np.zeros((n, 5, 1, 2))
    e[..., 0], e[..., 1] = 0.15, -0.1
    psf = GaussianPsf(sigma, np.ones((n, 5, 1)), e, np.full((n, 5), 1.3))
    size = np.hypot(0.15, 0.1)
    variance = (0.55 / SCALE) ** 2 * np.sqrt(1 - size**2)
    ratio, angle = np.full(n, np.sqrt((1 - size) / (1 + size))), np.full(n, 0.5 * np.arctan2(-0.1, 0.15))
    middle = np.full(n, 15.5)
    shape = Ellipse(*(each[:, None] for each in ellipse(variance, ratio, angle)))
    one = draw_gaussians(32, middle, middle, shape, np.full((n, 1), 40.0))
    stamps = np.repeat(one[:, None], 5, axis=1)
    arguments = (np.full((n, 5), 0.02), np.zeros((n, 5)), SDSS)
    known = measure(stamps, psf, *arguments)
    assert per_band(known.features, 1).max() < 0.02
    np.testing.assert_allclose(known.flux, 40, rtol=2e-3)
    taken_for_round = measure(stamps, replace(psf, shape=np.zeros_like(e)), *arguments)
    assert per_band(taken_for_round.features, 1).min() > 0.1


def test_no_objects_at_all() -> None:
    psf = Psf(np.ones((0, 5, 2)), np.ones((0, 5, 2)))
    none = np.ones((0, 5))
    assert measure(np.ones((0, 5, 32, 32)), psf, none, none, SDSS).features.shape == (0, 24)


def test_shapes_are_checked() -> None:
    psf = Psf.double_gaussian(np.ones((2, 5)))
    good = np.ones((2, 5))
    with pytest.raises(DataError, match=r"stamps have shape .*; expected \(N, 5, size, size\)"):
        measure(np.ones((2, 4, 32, 32)), psf, good, good, SDSS)
    with pytest.raises(DataError, match="stamps are 16 pixels wide; expected at least 20"):
        measure(np.ones((2, 5, 16, 16)), psf, good, good, SDSS)
    with pytest.raises(DataError, match=r"noise has shape \(2,\); expected \(2, 5\)"):
        measure(np.ones((2, 5, 32, 32)), psf, np.ones(2), good, SDSS)
    with pytest.raises(DataError, match="psf has shape"):
        measure(np.ones((2, 5, 32, 32)), psf[:1], good, good, SDSS)
    with pytest.raises(ConfigError, match="'new'"):
        measure(np.ones((2, 5, 32, 32)), psf, good, good, replace(SDSS, name="new"))
