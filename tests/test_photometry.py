"""Features measured from stamps whose truth is known, and from a real field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from margformer_fast.data.photometry import (
    FIT_PIXELS,
    Flag,
    asinh_flux,
    asinh_magnitude,
    measure,
    softening,
)
from margformer_fast.data.profiles import DoubleGaussian, draw_round, profile_weights
from margformer_fast.data.survey import LSST, SDSS
from margformer_fast.errors import ConfigError, DataError

SCALE = SDSS.pixel_scale_arcsec
VARIANCES = 1e-4 * 2.0 ** np.arange(22)


def scene(
    rng: np.random.Generator, n: int, name: str | None, radius: float, flux: float, size: int = 32
) -> tuple[np.ndarray, DoubleGaussian, np.ndarray]:
    """Noiseless round sources, their PSFs, and the row and column offset of each from the middle."""
    psf = DoubleGaussian.from_fwhm(rng.uniform(0.9, 1.5, (n, 5)))
    weights = np.eye(1, len(VARIANCES))
    if name is not None:
        weights = profile_weights(name, np.array([radius]), VARIANCES)
    offset = rng.uniform(-0.5, 0.5, (n, 2))
    y, x = ((size - 1) / 2 + offset).T
    stamps = np.empty((n, 5, size, size))
    for band in range(5):
        variance = (psf.sigma[:, band, :, None] ** 2 + VARIANCES) / SCALE**2
        light = flux * psf.share[:, band, :, None] * weights
        stamps[:, band] = draw_round(size, x, y, variance.reshape(n, -1), light.reshape(n, -1))
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
    with pytest.raises(ConfigError, match="no magnitude softening is known for survey 'lsst'; expected sdss"):
        softening(LSST)


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
    np.testing.assert_allclose(per_band(found.features, 1), radius, rtol=0.06)
    np.testing.assert_allclose(
        per_band(found.features, 0), np.tile(asinh_magnitude(np.full(5, 50.0), SDSS), (30, 1)), atol=0.02
    )


def test_a_disc_has_its_magnitude(rng: np.random.Generator) -> None:
    stamps, psf, _ = scene(rng, 30, "exponential", 0.8, 50.0)
    found = measure(stamps, psf, np.full((30, 5), 0.03), np.zeros((30, 5)), SDSS)
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
    stamps, psf, _ = scene(rng, 4, None, 0, 30.0)
    stamps[0, 3, 16, 16] = np.nan
    stamps[1, 2] = -0.1
    stamps[2, 1] = 0.05
    found = measure(stamps, psf, np.full((4, 5), 0.03), np.zeros((4, 5)), SDSS)
    assert found.flags[0] == Flag.BAD_PIXELS
    assert np.isnan(per_band(found.features, 0)[0]).all()
    assert np.isnan(per_band(found.features, 1)[0]).all()
    assert found.flags[1] & Flag.NO_REFERENCE_FLUX
    assert np.isfinite(found.features[1]).all()
    assert found.features[1, 8] > 24
    assert found.flags[2] == Flag.RADIUS_LIMIT
    assert found.flags[3] == 0


def test_a_pixel_outside_the_fitted_square_does_not_matter(rng: np.random.Generator) -> None:
    stamps, psf, _ = scene(rng, 3, None, 0, 30.0)
    arguments = (psf, np.full((3, 5), 0.03), np.zeros((3, 5)), SDSS)
    expected = measure(stamps, *arguments).features
    stamps[:, :, 0, :] = np.nan
    np.testing.assert_array_equal(measure(stamps, *arguments).features, expected)


def test_no_objects_at_all() -> None:
    psf = DoubleGaussian(np.ones((0, 5, 2)), np.ones((0, 5)))
    none = np.ones((0, 5))
    assert measure(np.ones((0, 5, 32, 32)), psf, none, none, SDSS).features.shape == (0, 24)


def test_shapes_are_checked() -> None:
    psf = DoubleGaussian.from_fwhm(np.ones((2, 5)))
    good = np.ones((2, 5))
    with pytest.raises(DataError, match=r"stamps have shape .*; expected \(N, 5, size, size\)"):
        measure(np.ones((2, 4, 32, 32)), psf, good, good, SDSS)
    with pytest.raises(DataError, match="stamps are 16 pixels wide; expected at least 20"):
        measure(np.ones((2, 5, 16, 16)), psf, good, good, SDSS)
    with pytest.raises(DataError, match=r"noise has shape \(2,\); expected \(2, 5\)"):
        measure(np.ones((2, 5, 32, 32)), psf, np.ones(2), good, SDSS)
    with pytest.raises(DataError, match="psf has shape"):
        measure(np.ones((2, 5, 32, 32)), psf[:1], good, good, SDSS)
    with pytest.raises(ConfigError, match="'lsst'"):
        measure(np.ones((2, 6, 32, 32)), psf, good, good, LSST)
    with pytest.raises(ConfigError, match="'new'"):
        measure(np.ones((2, 5, 32, 32)), psf, good, good, replace(SDSS, name="new"))


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_a_real_field_agrees_with_its_catalogue(real_data: Path) -> None:
    """Stars of one SDSS field: magnitudes and radii against those of the SDSS pipeline."""
    from astropy.io import fits
    from astropy.wcs import WCS

    folder = real_data / "sdss" / "94-1-12"
    catalogue = fits.getdata(next(folder.glob("photoObj*")), 1)
    model = fits.getdata(next(folder.glob("psField*")), 6)[0]
    frames, pixels = [], []
    for band in SDSS.bands:
        with fits.open(next(folder.glob(f"frame-{band}*"))) as hdus:
            frames.append(hdus[0].data)
            pixels.append(WCS(hdus[0].header).all_world2pix(catalogue["RA"], catalogue["DEC"], 0))
    column, row = np.array(pixels).transpose(1, 2, 0)
    r = catalogue["MODELMAG"][:, 2]
    stars = (catalogue["OBJC_TYPE"] == 6) & (catalogue["NCHILD"] == 0) & (r > 16) & (r < 20.5)
    inside = ((column > 20) & (column < 2026) & (row > 20) & (row < 1467)).all(axis=1)
    rows = np.flatnonzero(stars & inside)
    assert len(rows) > 50
    place = np.stack([row[rows], column[rows]], axis=-1)
    corner = np.floor(place).astype(np.int64) - 15
    stamps = np.array(
        [
            [frame[y : y + 32, x : x + 32] for frame, (y, x) in zip(frames, corners, strict=True)]
            for corners in corner
        ]
    )
    sigma = np.stack([model["psf_sigma1_2G"], model["psf_sigma2_2G"]], axis=-1) * SCALE
    height = model["psf_b_2G"] * (sigma[:, 1] / sigma[:, 0]) ** 2
    count = len(rows)
    psf = DoubleGaussian(np.tile(sigma, (count, 1, 1)), np.tile(height / (1 + height), (count, 1)))
    noise = np.tile([0.044, 0.0235, 0.030, 0.057, 0.20], (count, 1))
    extinction = np.asarray(catalogue["EXTINCTION"][rows], float)
    found = measure(stamps, psf, noise, extinction, SDSS, registration=place - corner - 15.5)
    observed = per_band(found.features, 0) + extinction
    difference = observed - catalogue["MODELMAG"][rows]
    ours, theirs = found.features[:, 9], catalogue["THETA_DEV"][rows, 2]
    for low, high in ((16, 19), (19, 20.5)):
        here = (r[rows] >= low) & (r[rows] < high)
        offset = np.median(difference[here], axis=0)
        scatter = 1.4826 * np.median(np.abs(difference[here] - offset), axis=0)
        radii = [np.percentile(x[here], (16, 50, 84)) for x in (ours, theirs)]
        print(f"\n{here.sum()} stars, {low} <= r < {high}")
        for name, values in (("offset", offset), ("scatter", scatter)):
            print(f"  magnitude {name} in u..z: " + " ".join(f"{value:.3f}" for value in values))
        for name, values in zip(("here", "SDSS"), radii, strict=True):
            print(f"  deVRad_r at 16, 50, 84 %, {name}: " + " ".join(f"{value:.3f}" for value in values))
        # In u a star of r = 20 is close to the noise.
        assert np.abs(offset[1:]).max() < 0.04
        assert scatter[1:].max() < 0.1
        assert abs(radii[0][1] - radii[1][1]) < 0.04
