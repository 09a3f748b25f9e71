"""The check of ingested stamps against their catalogue, on stars where they should be and elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sdss_files import BANDS, real_field

from margformer_fast.data.sdss.check import IngestCheck, aperture_flux, centroids, check_ingest
from margformer_fast.data.survey import CLASSES, SDSS, Survey
from margformer_fast.errors import DataError
from margformer_fast.ops.stamps import Stamps

RADIUS = np.sqrt(61 / np.pi)
SIGMA = 1.7  # pixels


def star(x: np.ndarray, y: np.ndarray, flux: np.ndarray, size: int = 32) -> np.ndarray:
    """Gaussian stars of unit-flux profiles times `flux`, shape (N, size, size)."""
    pixels = np.arange(size)
    gx = np.exp(-0.5 * ((pixels - np.asarray(x)[:, None]) / SIGMA) ** 2)
    gy = np.exp(-0.5 * ((pixels - np.asarray(y)[:, None]) / SIGMA) ** 2)
    return np.asarray(flux)[:, None, None] * gy[:, :, None] * gx[:, None, :] / (2 * np.pi * SIGMA**2)


def starfield(rng: np.random.Generator, *, shift: float = 0.0, dim: float = 0.0, n: int = 30) -> Survey:
    """Stars of 16 to 17 mag where their columns say, but for `shift` pixels and `dim` magnitudes in i."""
    magnitude = rng.uniform(16, 17, n)
    flux = 10 ** (0.4 * (22.5 - magnitude))
    columns = {"neighbour": np.full(n, 99.0), "objc_flags": np.zeros(n, np.int32)}
    planes = []
    for band in BANDS:
        x, y = rng.uniform(20, 2000, n), rng.uniform(20, 1400, n)
        left, top = np.floor(x - 15), np.floor(y - 15)
        wrong = band == "i"
        planes.append(star(x - left + shift * wrong, y - top, flux * 10 ** (-0.4 * dim * wrong)))
        columns |= {f"x_{band}": x, f"y_{band}": y, f"psfmag_{band}": magnitude.copy()}
        columns[f"aperflux_{band}"] = flux * (1 - np.exp(-0.5 * (RADIUS / SIGMA) ** 2))
    return Survey(
        profile=SDSS,
        objid=np.arange(n),
        ra=np.zeros(n),
        dec=np.zeros(n),
        label=np.full(n, CLASSES.index("STAR"), np.int8),
        features=np.zeros((n, 24)),
        stamps=Stamps((np.stack(planes, axis=1).astype(np.float32),)),
        simulated=True,
        columns=columns,
    )


def test_aperture_flux_of_a_flat_image_is_the_area(rng):
    x, y = rng.uniform(12, 18, 10), rng.uniform(12, 18, 10)
    flux = aperture_flux(np.full((10, 32, 32), 2.0), x, y, 5.3)
    np.testing.assert_allclose(flux, 2 * np.pi * 5.3**2, rtol=5e-3)


def test_centroids_find_stars(rng):
    x, y = rng.uniform(14, 17, 20), rng.uniform(14, 17, 20)
    found = centroids(star(x, y, np.full(20, 50.0)), x + rng.uniform(-1, 1, 20), y + rng.uniform(-1, 1, 20))
    np.testing.assert_allclose(found, (x, y), atol=1e-4)


def test_sound_stamps_agree(rng):
    check = check_ingest(starfield(rng))
    assert check.agrees
    for band in check.bands:
        assert (band.num_centroids, band.num_apertures) == (30, 30)
        assert band.max_offset < 0.01
        assert band.max_error < 0.01


def test_wrong_places_and_wrong_light_are_seen(rng):
    for survey, field, size in (
        (starfield(rng, shift=0.8), "max_offset", 0.8),
        (starfield(rng, dim=0.2), "max_error", 0.2),
    ):
        check = check_ingest(survey)
        assert [band.band for band in check.bands if not band.agrees] == ["i"]
        assert not check.agrees
        assert getattr(check.bands[3], field) == pytest.approx(size, rel=0.1)
        assert [line.split()[0] for line in check.table().splitlines() if line.endswith("off")] == ["i"]


def test_only_isolated_whole_stars_are_used(rng):
    survey = starfield(rng, n=8)
    survey.columns["neighbour"][0] = 5.0
    survey.columns["objc_flags"][1:5] = 1 << 2, 1 << 3, 1 << 4, 1 << 18
    survey.label[5] = CLASSES.index("GALAXY")
    survey.columns["psfmag_r"][6] = 19.5
    survey.columns["psfmag_u"][7] = -9999.0
    counts = {b.band: (b.num_centroids, b.num_apertures) for b in check_ingest(survey).bands}
    assert counts == {"u": (1, 0), "g": (2, 1), "r": (1, 1), "i": (2, 1), "z": (2, 1)}


def test_no_stars_no_agreement(rng):
    survey = starfield(rng)
    check = check_ingest(survey.select(np.zeros(len(survey), bool)))
    assert not check.agrees
    values = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert values["bands"][0]["max_offset"] is None
    assert IngestCheck(()).to_dict() == {"agrees": True, "bands": []}


def test_light_gone_missing_does_not_agree(rng):
    survey = starfield(rng)
    survey.stamps.parts[0][4, 2] = -1.0
    assert [band.band for band in check_ingest(survey).bands if not band.agrees] == ["r"]


def test_other_surveys_are_refused(rng):
    survey = starfield(rng)
    columns = {name: column for name, column in survey.columns.items() if name not in ("x_u", "neighbour")}
    with pytest.raises(DataError, match="lacks the columns neighbour, x_u; expected one made by ingest"):
        check_ingest(replace(survey, columns=columns))


def test_real_field(real_data):
    """Centroids within 0.5 pixels and apertures within 0.05 mag of the catalogue, in every band."""
    check = check_ingest(real_field(real_data)[0])
    print(f"\n{check.table()}")
    assert check.agrees
    for band in check.bands:
        assert band.num_centroids >= 5
        assert band.num_apertures >= 7
        assert band.median_offset < 0.25
        assert band.max_offset <= 0.5
        assert abs(band.median_error) < 0.01
        assert band.max_error <= 0.05


def test_real_stars_against_psf_magnitudes(real_data):
    """Against the other measure, with one aperture correction a band, made from the stars themselves."""
    survey = real_field(real_data)[0]
    star_rows = np.flatnonzero(
        (survey.label == CLASSES.index("STAR"))
        & (survey.columns["neighbour"] > 12.7)
        & (survey.columns["objc_flags"] & ((1 << 2) | (1 << 3) | (1 << 4) | (1 << 18)) == 0)
        & (survey.columns["psfmag_r"] < 19)
    )
    print("\nisolated stars brighter than 18 in the band: aperture + correction - PSF magnitude")
    for k, band in enumerate(BANDS):
        rows = star_rows[(survey.columns[f"psfmag_{band}"][star_rows] < 18)]
        x, y = (survey.columns[f"{axis}_{band}"][rows] for axis in "xy")
        flux = aperture_flux(
            survey.stamps.decode(rows)[:, k].astype(float), x - np.floor(x - 15), y - np.floor(y - 15), RADIUS
        )
        error = 22.5 - 2.5 * np.log10(flux) - survey.columns[f"psfmag_{band}"][rows]
        correction = np.median(error)
        largest = np.abs(error - correction).max()
        print(f"{band}: {len(rows):3d} stars, correction {-correction:+.3f}, largest deviation {largest:.3f}")
        assert len(rows) >= 4
        assert 0.1 < correction < 0.2
        assert largest < 0.05
