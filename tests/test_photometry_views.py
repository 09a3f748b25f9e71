"""Views of photometry are measurements that the object could have had, and depend on their key alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import toy_survey

from margformer_fast.config import PhotometryViewConfig
from margformer_fast.data.photometry.magnitudes import asinh_flux
from margformer_fast.data.survey import LSST, SDSS, Survey, SurveyProfile
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.learning.photometry_views import PhotometryViews
from margformer_fast.ops.stamps import Stamps

UNCHANGED = PhotometryViewConfig(fainter=0.0, conditions=False, noise=0.0, radius_noise=0.0)
KEY = {"seed": 3, "epoch": 2, "view": 1}


def survey_of(
    rng: np.random.Generator, n: int = 60, profile: SurveyProfile = SDSS, faintest: float = 23
) -> Survey:
    """Objects with features of their own and colours that follow from their magnitudes.

    At 22.8 mag the flux in z is zero: what compares ratios of fluxes stays brighter.
    """
    bands = len(profile.bands)
    magnitude, extinction = rng.uniform(16, faintest, (n, bands)), rng.uniform(0.01, 0.4, (n, bands))
    radius, fwhm = rng.uniform(0.05, 1, (n, bands)), rng.uniform(1, 2, (n, bands))
    per_band = np.stack([magnitude - extinction, radius, fwhm, extinction], axis=2).reshape(n, -1)
    survey = toy_survey(max(n, 2), rng).select(np.arange(n))
    feature = np.hstack([per_band, magnitude[:, :-1] - magnitude[:, 1:]])
    stamps = Stamps((np.zeros((n, bands, 32, 32), np.float32),))
    return replace(survey, profile=profile, features=feature, stamps=stamps)


def parts(profile: SurveyProfile, feature: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return observed magnitudes, radii, seeing and extinction of features (n, F), each (n, bands)."""
    bands = len(profile.bands)
    block = feature[:, : 4 * bands].reshape(len(feature), bands, 4).astype(float)
    return block[..., 0] + block[..., 3], block[..., 1], block[..., 2], block[..., 3]


@pytest.mark.parametrize("profile", [SDSS, LSST], ids=["sdss", "lsst"])
def test_a_view_that_changes_nothing(rng: np.random.Generator, profile: SurveyProfile) -> None:
    survey = survey_of(rng, profile=profile)
    views = PhotometryViews(survey, rng.uniform(0.01, 0.1, len(profile.bands)), UNCHANGED)
    rows = rng.permutation(len(survey))[:20]
    np.testing.assert_allclose(views(rows, **KEY), survey.features[rows], rtol=2e-6, atol=2e-6)


def test_a_view_depends_on_its_key_alone(rng: np.random.Generator) -> None:
    survey = survey_of(rng)
    views = PhotometryViews(survey, np.full(5, 0.03), PhotometryViewConfig())
    rows = rng.permutation(len(survey))
    whole = views(rows, **KEY)
    np.testing.assert_array_equal(whole[17:20], views(rows[17:20], **KEY))
    for name in KEY:
        other = views(rows, **{**KEY, name: KEY[name] + 1})
        assert (other != whole).any(axis=1).all()
    assert whole.dtype == np.float32


def test_conditions_are_those_of_another_object(rng: np.random.Generator) -> None:
    survey = survey_of(rng, 200, faintest=22)
    views = PhotometryViews(survey, np.full(5, 1e-9), replace(UNCHANGED, conditions=True))
    magnitude, radius, fwhm, extinction = parts(SDSS, views(np.arange(200), **KEY))
    own_magnitude, own_radius, own_fwhm, own_extinction = parts(SDSS, survey.features)
    # Seeing and extinction of one and the same object, and not always of one's own.
    distance = np.abs(np.hstack([fwhm, extinction])[:, None] - np.hstack([own_fwhm, own_extinction])).max(-1)
    assert (distance.min(axis=1) < 1e-6).all()
    assert (distance.argmin(axis=1) != np.arange(200)).mean() > 0.9
    assert len(np.unique(distance.argmin(axis=1))) > 90  # of 126 expected
    # The source itself is as it was: its flux above the dust, and its size.
    flux = asinh_flux(magnitude, SDSS) * 10 ** (0.4 * extinction)
    own_flux = asinh_flux(own_magnitude, SDSS) * 10 ** (0.4 * own_extinction)
    np.testing.assert_allclose(flux, own_flux, rtol=1e-4)
    np.testing.assert_allclose(radius, own_radius, rtol=1e-5)


def test_a_view_is_fainter_by_what_was_asked_for(rng: np.random.Generator) -> None:
    survey = survey_of(rng, 4000, faintest=22)
    views = PhotometryViews(survey, np.full(5, 1e-9), replace(UNCHANGED, fainter=1.5))
    rows = np.arange(len(survey))
    flux, own = (asinh_flux(parts(SDSS, f)[0], SDSS) for f in (views(rows, **KEY), survey.features))
    fainter = -2.5 * np.log10(flux / own)
    assert np.ptp(fainter, axis=1).max() < 0.01  # in all bands alike
    counts = np.histogram(fainter[:, 2], 10, (0, 1.5))[0]
    assert counts.sum() == 4000
    assert ((counts - 400) ** 2 / 400).sum() < 40  # chi square of 9 degrees of freedom: p = 8e-6
    np.testing.assert_allclose(views.fainter(rows, **KEY), fainter[:, 2], atol=0.01)


def test_noise_is_that_of_the_conditions(rng: np.random.Generator) -> None:
    """Scatter of the flux over many views against sigma_pixel times the root of 4 pi sigma_PSF^2 pixels."""
    survey = survey_of(rng, 1)
    sigma_pixel = rng.uniform(0.02, 0.1, 5)
    _, own_radius, fwhm, _ = parts(SDSS, survey.features)
    sigma = sigma_pixel * np.sqrt(4 * np.pi) * fwhm[0] / 2.354820045 / SDSS.pixel_scale_arcsec
    many = np.zeros(1, int)

    def flux_and_radius(config: PhotometryViewConfig) -> tuple[np.ndarray, np.ndarray]:
        views = PhotometryViews(survey, sigma_pixel, config)
        feature = np.concatenate([views(many, seed=5, epoch=e, view=0) for e in range(3000)])
        magnitude, radius, _, _ = parts(SDSS, feature)
        return asinh_flux(magnitude, SDSS), radius

    flux, radius = flux_and_radius(replace(UNCHANGED, noise=1.5))
    np.testing.assert_allclose(flux.std(axis=0), 1.5 * sigma, rtol=0.08)  # six times its error
    np.testing.assert_allclose(radius, np.broadcast_to(own_radius, radius.shape), rtol=1e-5)
    own = asinh_flux(parts(SDSS, survey.features)[0], SDSS)[0]
    assert (np.abs(flux.mean(axis=0) - own) < 6 * 1.5 * sigma / np.sqrt(3000)).all()
    # A source made fainter gets what its own noise, made fainter as well, lacks of that.
    config = replace(UNCHANGED, fainter=4.0)
    flux, _ = flux_and_radius(config)
    views = PhotometryViews(survey, sigma_pixel, config)
    fainter = np.array([views.fainter(many, seed=5, epoch=e, view=0)[0] for e in range(3000)])
    dimming = 10 ** (-0.4 * fainter)[:, None]
    np.testing.assert_allclose(
        ((flux - own * dimming) / np.sqrt(1 - dimming**2) / sigma).std(axis=0), 1, rtol=0.08
    )
    # Radii scatter where noise is added to the flux.
    _, radius = flux_and_radius(replace(UNCHANGED, noise=1.0, radius_noise=1.0))
    expected = fwhm[0] * np.minimum(sigma / np.maximum(own, sigma), 2)
    measured = (radius - own_radius).std(axis=0)
    clear = expected < 0.2 * own_radius[0]  # else radii are folded at zero
    np.testing.assert_allclose(measured[clear], expected[clear], rtol=0.15)
    assert (measured > 0).all()


def test_what_is_hardly_there_has_a_view(rng: np.random.Generator) -> None:
    survey = survey_of(rng, 40)
    feature = survey.features.copy()
    feature[:20, 0] = 27.5  # below zero flux
    feature[20:, 8] = -9999.0  # a placeholder
    views = PhotometryViews(replace(survey, features=feature), np.full(5, 0.1), PhotometryViewConfig())
    found = views(np.arange(40), **KEY)
    assert np.isfinite(found).all()
    assert (parts(SDSS, found)[1] >= 0).all()


@pytest.mark.parametrize("noise", [0.0, np.nan, -1.0])
def test_noise_that_cannot_be(rng: np.random.Generator, noise: float) -> None:
    sigma = np.full(5, 0.1)
    sigma[3] = noise
    with pytest.raises(DataError, match="pixel noise of band i"):
        PhotometryViews(survey_of(rng, 3), sigma, PhotometryViewConfig())


@pytest.mark.parametrize("name", ["fainter", "noise", "radius_noise"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        PhotometryViewConfig(**{name: -0.1})
