"""PSFs as sums of Gaussians: fitted to images, read from psField files, estimated from stars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from margformer_fast.data.photometry.psf import (
    FWHM_PER_SIGMA,
    GaussianPsf,
    adaptive_moments,
    adaptive_variance,
    covariance,
    draw_gaussians,
    fit_gaussians,
    from_covariance,
)
from margformer_fast.data.photometry.stars import find_stars, psf_of_stars
from margformer_fast.data.profiles import PIXEL_VARIANCE
from margformer_fast.data.psf import Psf
from margformer_fast.data.sdss.psfield import APERTURE_RADIUS, read_psfield
from margformer_fast.errors import ConfigError, DataError, FitsFormatError

SCALE = 0.396


def two_gaussians(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariances, fluxes and centres of stars."""
    width = rng.uniform(1.3, 1.7, (n, 1)) ** 2 * np.array([1, 5.0])
    e = rng.uniform(-0.1, 0.1, (2, n, 2))
    cov = np.stack([width * (1 + e[0]), width * e[1], width * (1 - e[0])], axis=-1)
    return cov, np.tile([0.75, 0.25], (n, 1)), 20 + rng.uniform(-0.3, 0.3, (n, 2))


def test_gaussians_are_found_again(rng: np.random.Generator) -> None:
    cov, flux, centre = two_gaussians(rng, 6)
    images = 3 * draw_gaussians(41, cov, flux, centre)
    found_cov, found_flux, found_centre = fit_gaussians(images, np.full((6, 2), 20.0), 2)
    np.testing.assert_allclose(found_cov, cov, atol=1e-3)
    np.testing.assert_allclose(found_flux, 3 * flux, atol=1e-3)
    np.testing.assert_allclose(found_centre, centre, atol=1e-4)


def test_tied_gaussians_share_a_change(rng: np.random.Generator) -> None:
    cov, flux, centre = two_gaussians(rng, 1)
    start = np.concatenate([flux[0, :, None], cov[0]], axis=-1)
    wider = cov + np.array([0.3, 0.1, -0.1])
    found, _, _ = fit_gaussians(draw_gaussians(41, wider, flux, centre), centre, 2, start=start, tied=True)
    np.testing.assert_allclose(found, wider, atol=1e-4)


def test_adaptive_moments(rng: np.random.Generator) -> None:
    cov, flux, centre = two_gaussians(rng, 5)
    of_images = adaptive_moments(draw_gaussians(41, cov, flux, centre), centre)
    np.testing.assert_allclose(of_images, adaptive_variance(cov, flux), rtol=1e-4)
    one = adaptive_variance(cov[:, :1], flux[:, :1])
    np.testing.assert_allclose(one, 0.5 * (cov[:, 0, 0] + cov[:, 0, 2]))


def test_covariances_and_back(rng: np.random.Generator) -> None:
    cov, flux, _ = two_gaussians(rng, 4)
    psf = from_covariance(cov, flux, SCALE)
    np.testing.assert_allclose(covariance(psf, SCALE), cov)
    np.testing.assert_allclose(psf[1:3].sigma, psf.sigma[1:3])
    round_one = Psf.double_gaussian(np.array([1.2]))
    expected = (round_one.sigma / SCALE) ** 2 + PIXEL_VARIANCE
    np.testing.assert_allclose(covariance(round_one, SCALE)[..., 0], expected)
    np.testing.assert_array_equal(covariance(round_one, SCALE)[..., 1], 0)


def test_shapes_are_checked() -> None:
    one = np.ones((2, 3))
    with pytest.raises(ConfigError, match="PSF shares and shapes"):
        GaussianPsf(one, one, one, one[:, 0])
    with pytest.raises(ConfigError, match="PSF fwhm has shape"):
        GaussianPsf(one, one, np.ones((2, 3, 2)), one)
    with pytest.raises(DataError, match="no positive flux"):
        fit_gaussians(np.zeros((1, 9, 9)), np.full((1, 2), 4.0))


def sky_of_stars(rng: np.random.Generator, cov: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """A frame with 40 stars, 30 wider galaxies and noise of one."""
    image = rng.standard_normal((700, 700))
    for k in range(70):
        row, column = 40 + 85 * (k // 8), 40 + 85 * (k % 8)
        centre = 20 + rng.uniform(-0.5, 0.5, (1, 2))
        width = cov if k % 7 < 4 else cov + np.array([2.0, 0, 2.0])
        height = rng.uniform(3e3, 2e4)
        patch = image[row - 20 : row + 21, column - 20 : column + 21]
        patch += (
            height
            * draw_gaussians(41, width[None], flux[None], centre)[0][: patch.shape[0], : patch.shape[1]]
        )
    return image


def test_a_field_has_its_psf_in_its_stars(rng: np.random.Generator) -> None:
    cov, flux, _ = two_gaussians(rng, 1)
    image = sky_of_stars(rng, cov[0], flux[0])
    psf = psf_of_stars([image], np.ones(1), SCALE)
    expected = FWHM_PER_SIGMA * SCALE * np.sqrt(adaptive_variance(cov, flux))
    np.testing.assert_allclose(psf.fwhm, expected, rtol=0.01)
    np.testing.assert_allclose(psf.share.sum(), 1, atol=0.01)
    assert len(find_stars(image, 1.0, most=10)) == 10


def test_too_few_stars_are_said(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="band 0 has 0 bright stars that stand alone; expected at least 5"):
        psf_of_stars([rng.standard_normal((200, 200))], np.ones(1), SCALE)


def test_a_real_psfield(real_data: Path) -> None:
    """The widths are those of the catalogue, and so they are in another field."""
    from astropy.io import fits

    for folder, bands in (("94-1-12", range(5)), ("1000-1-100-small", (2,))):
        place = real_data / "sdss" / folder
        model = read_psfield(next(place.glob("psField-*")))
        table = fits.getdata(next(place.glob("photoObj-*")), 1)
        known = (table["PSF_FWHM"] > 0).all(axis=1) & np.isfinite(table["ROWC"]).all(axis=1)
        rows = np.flatnonzero(known)[::20]
        row, column = (np.asarray(table[name][rows], float) for name in ("ROWC", "COLC"))
        psf = model.psf(row, column, 2)
        for band in bands:
            ratio = psf.fwhm[:, band] / table["PSF_FWHM"][rows, band]
            assert abs(np.median(ratio) - 1) < 0.015
            assert ratio.std() < 0.005
        # Fitted to the image of a star, the PSF gives its flux: that within the aperture, and the wings.
        image = model.image(2, row[:1, 2], column[:1, 2])
        offset = np.arange(51) - 25
        inside = offset[:, None] ** 2 + offset**2 < APERTURE_RADIUS**2
        np.testing.assert_allclose(image[0][inside].sum(), 1)
        _, _, centre = fit_gaussians(image[:, 5:46, 5:46], np.full((1, 2), 20.0), 1)
        drawn = draw_gaussians(41, covariance(psf, SCALE)[:1, 2], psf.share[:1, 2], centre)
        flux = (drawn * image[:, 5:46, 5:46]).sum() / (drawn**2).sum()
        assert flux == pytest.approx(model.wings[2], abs=0.01)
        assert (np.abs(model.wings - 1) < 0.03).all()


def test_damaged_psfields_are_refused(tmp_path: Path, real_data: Path) -> None:
    place = next((real_data / "sdss" / "94-1-12").glob("psField-*"))
    import gzip

    content = gzip.decompress(place.read_bytes())
    (tmp_path / "psField-000094-1-0012.fit").write_bytes(content[:30_000])
    with pytest.raises(FitsFormatError):
        read_psfield(tmp_path / "psField-000094-1-0012.fit")
    with pytest.raises(DataError, match="is missing"):
        read_psfield(tmp_path / "psField-000094-1-0013.fit")
    assert replace(read_psfield(place), path=tmp_path).gain.shape == (5,)
