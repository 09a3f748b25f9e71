"""Observing conditions: noise against real frames, depths against published ones, blemishes, neighbours."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest

from margformer_fast.data.conditions import (
    CONDITIONS,
    add_cosmic_rays,
    conditions,
    draw_fields,
    draw_neighbours,
    draw_sky,
    five_sigma_depth,
    interpolate_columns,
    neighbour_distance,
)
from margformer_fast.data.survey import LSST, SDSS, SurveyProfile

both = pytest.mark.parametrize("profile", [SDSS, LSST], ids=lambda p: p.name)


@both
def test_fields_have_every_band(profile: SurveyProfile, rng: np.random.Generator) -> None:
    c, bands = conditions(profile), len(profile.bands)
    fields = draw_fields(rng, 128, 64, profile)
    assert fields.psf.fwhm.shape == fields.noise.shape == fields.axis_ratio.shape == (64, bands)
    assert fields.gradient.shape == (64, bands, 2)
    assert np.abs(np.median(fields.psf.fwhm, axis=0) / c.seeing - 1).max() < 0.12
    np.testing.assert_allclose(np.median(fields.noise, axis=0), c.noise(c.sky, c.gain), rtol=0.15)
    assert ((fields.axis_ratio > 0.7) & (fields.axis_ratio <= 1)).all()
    assert len(np.unique(np.stack([fields.ra, fields.dec]), axis=1).T) == 64
    sky = draw_sky(rng, 500, profile)
    assert sky.shape == (500, bands)
    assert (np.abs(sky.mean(axis=0)) < 0.1 * fields.noise.mean(axis=0)).all()


def test_depths_are_the_published_ones() -> None:
    # Ivezic et al. (2019), table 2: one visit. The throughputs used here are later ones, higher but in u.
    published = [23.78, 24.81, 24.35, 23.92, 23.34, 22.45]
    np.testing.assert_allclose(five_sigma_depth(LSST), published, atol=0.3)


def test_noise_is_that_of_a_real_frame(real_data: Path) -> None:
    expected = CONDITIONS["sdss"].noise(CONDITIONS["sdss"].sky, CONDITIONS["sdss"].gain)
    with bz2.open(real_data / "sdss" / "94-1-12" / "frame-r-000094-1-0012.fits.bz2") as file:
        pixels = np.frombuffer(file.read(6_000_000)[23040:], ">f4")[:1_000_000]
    found = 1.4826 * np.median(np.abs(pixels - np.median(pixels)))
    assert found == pytest.approx(expected[2], rel=0.15)


def test_bad_columns_are_interpolated(rng: np.random.Generator) -> None:
    image = rng.normal(size=(200, 6, 32, 32)).astype(np.float32)
    before = image.copy()
    count = interpolate_columns(rng, image, 5e-3)
    changed = (image != before).any(axis=2)
    assert changed.sum() == count == pytest.approx(200 * 6 * 0.16, rel=0.3)
    k, band, column = np.nonzero(changed)
    inner = (column > 0) & (column < 31)
    k, band, column = k[inner], band[inner], column[inner]
    np.testing.assert_allclose(
        image[k, band, :, column],
        (before[k, band, :, column - 1] + before[k, band, :, column + 1]) / 2,
        rtol=1e-6,
    )


def test_cosmic_rays_are_few_short_and_bright(rng: np.random.Generator) -> None:
    image, noise = np.zeros((100, 5, 32, 32), np.float32), rng.uniform(1, 2, (100, 5))
    hits = add_cosmic_rays(rng, image, noise, 1e-4)
    assert hits == pytest.approx(51, abs=35)
    assert hits / 2 < (image > 0).sum() < 5 * hits
    assert (image[image > 0] >= 5).all()


@both
def test_neighbours_lie_around(profile: SurveyProfile, rng: np.random.Generator) -> None:
    bands = len(profile.bands)

    def draw(kind: str, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        radius = rng.uniform(0.2, 1, len(r)) if kind == "GALAXY" else np.zeros(len(r))
        return r[:, None] + np.zeros(bands), radius

    found = draw_neighbours(rng, 2000, profile, draw)
    assert found.present.shape == (4, 2000)
    assert found.magnitudes.shape == (4, 2000, bands)
    distance = neighbour_distance(profile)
    assert np.linalg.norm(found.offset, axis=-1).max() <= distance
    density = found.present.sum() / 2000 / (np.pi * (distance / 60) ** 2)
    assert density == pytest.approx(65, rel=0.1)
    r = found.magnitudes[..., 2]
    assert ((r >= 17) & (r <= 25.5)).all()
    assert (found.radius == 0).mean() == pytest.approx(0.2, abs=0.05)
