"""The simulated survey: its cuts, its counts, its seeds, and that its features come from its pixels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import margformer_fast.data.simulate as simulation
from margformer_fast.data.conditions import CONDITIONS, conditions, draw_fields
from margformer_fast.data.photometry.psf import covariance
from margformer_fast.data.profiles import PIXEL_VARIANCE
from margformer_fast.data.render import ellipse
from margformer_fast.data.simulate import (
    BLOCK,
    CHUNK,
    COMPACT,
    FAINT,
    _draw_block,
    _modelled,
    _passes,
    object_id,
    simulate,
)
from margformer_fast.data.skymodel import draw_sources
from margformer_fast.data.survey import CLASSES, LSST, SDSS, Survey
from margformer_fast.data.survey_tables import draw_no_light_radius
from margformer_fast.errors import ConfigError, DataError

SEED = 20


@cache
def survey() -> tuple[Survey, Survey]:
    """One small survey for all tests: the compact and the faint sample."""
    compact, faint = simulate(302, 151, seed=SEED, workers=3)
    return compact, faint


def test_counts_classes_and_columns() -> None:
    compact, faint = survey()
    assert np.bincount(compact.label).tolist() == [101, 101, 100]
    assert np.bincount(faint.label).tolist() == [51, 50, 50]
    for part, sample in ((compact, COMPACT), (faint, FAINT)):
        assert part.simulated
        assert (part.columns["sample"] == sample).all()
        assert {"field", "z"} <= set(part.columns)
        truths = set(part.columns) - {"sample", "field", "z", "flags"}
        assert all(name.startswith("true_") for name in truths)
        assert (part.columns["z"][part.label == CLASSES.index("STAR")] == 0).all()
        assert part.provenance["seed"] == SEED
    counts = faint.provenance["counts_by_sample"]
    assert counts["1"]["GALAXY"]["kept"] == 101
    assert counts["2"]["QSO"]["kept"] == 50
    assert all(c["drawn"] >= c["kept"] for sample in counts.values() for c in sample.values())


def test_cuts_hold_on_measured_values() -> None:
    compact, faint = survey()
    for part in (compact, faint):
        assert (part.compactness < 0.5).all()
        assert np.isfinite(part.features).all()
    assert (faint.magnitudes.mean(axis=1) > 20).all()


def test_objects_are_named_once_and_as_none_that_is_real() -> None:
    compact, faint = survey()
    objid = np.concatenate([compact.objid, faint.objid])
    assert objid.dtype == np.int64
    assert len(np.unique(objid)) == len(objid)
    assert (objid >> 59 == 15).all()
    assert (objid[compact.label.size :] >> 44 & 3 == FAINT).all()
    np.testing.assert_array_equal(compact.objid >> 42 & 3, compact.label)


def test_object_ids_do_not_run_into_each_other() -> None:
    heads = [object_id(s, k, b, np.array([0, 1023])) for s in (1, 2) for k in range(3) for b in (0, 1, 2**31)]
    assert len(np.unique(heads)) == np.size(heads)


def test_the_seed_decides_and_not_the_number_of_workers() -> None:
    compact, _ = survey()
    (again,) = simulate(61, 0, seed=SEED, workers=1)
    np.testing.assert_array_equal(again.objid, compact.objid[:61])
    np.testing.assert_array_equal(again.features, compact.features[:61])
    np.testing.assert_array_equal(again.stamps.decode(), compact.stamps.decode()[:61])
    (other,) = simulate(61, 0, seed=SEED + 1)
    assert not np.array_equal(other.features, again.features)


def test_pixels_are_what_they_should_be() -> None:
    compact, _ = survey()
    pixels = compact.stamps.decode()
    assert pixels.shape == (302, 5, 32, 32)
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()
    edge = np.concatenate([pixels[..., 0], pixels[..., -1]], axis=-1)
    noise = 1.4826 * np.median(np.abs(edge - np.median(edge, axis=-1, keepdims=True)), axis=(0, 2))
    np.testing.assert_allclose(noise, [0.0433, 0.0225, 0.0294, 0.0489, 0.182], rtol=0.15)
    # Sky is subtracted to within a small part of its noise.
    assert (np.abs(np.median(edge, axis=(0, 2))) < 0.15 * noise).all()


def test_features_come_from_the_pixels() -> None:
    compact, _ = survey()
    bright = compact.r_obs < 19
    assert bright.sum() > 20
    # An aperture of 12 pixels holds nearly all the light of a compact source.
    middle = compact.stamps.decode()[bright, 2, 10:22, 10:22].sum(axis=(1, 2))
    assert np.median(np.abs(22.5 - 2.5 * np.log10(middle) - compact.r_obs[bright])) < 0.05
    truth = compact.columns["true_r"]
    difference = compact.r_obs - truth
    assert (difference != 0).all()
    assert np.median(np.abs(difference[bright])) < 0.03


def test_galaxies_are_faint_and_wide_and_stars_bright_and_narrow() -> None:
    compact, _ = survey()
    galaxy, star = (compact.label == CLASSES.index(name) for name in ("GALAXY", "STAR"))
    assert np.mean(compact.r_obs[galaxy] > 20) > 0.65
    assert np.mean(compact.r_obs[star] > 20) < 0.5
    assert np.median(compact.compactness[galaxy]) > 1.5 * np.median(compact.compactness[star])


def test_chunks_go_on_where_the_last_one_ended() -> None:
    chunks = list(simulate(CHUNK + 4, 0, seed=3))
    assert [len(chunk) for chunk in chunks] == [CHUNK, 4]
    objid = np.concatenate([chunk.objid for chunk in chunks])
    assert len(np.unique(objid)) == CHUNK + 4
    labels = np.concatenate([chunk.label for chunk in chunks])
    np.testing.assert_array_equal(labels, np.arange(CHUNK + 4) % 3)
    assert chunks[1].provenance["counts_by_sample"]["1"]["GALAXY"]["kept"] == CHUNK // 3 + 2


def test_progress_is_told() -> None:
    class Counter:
        total = 0

        def update(self, n: int) -> None:
            self.total += n

    counter = Counter()
    assert sum(len(chunk) for chunk in simulate(4, 5, seed=SEED, progress=counter)) == counter.total == 9


def workers_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("simulate")]


def test_workers_end_with_the_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    compact, _ = survey()
    monkeypatch.setattr(simulation, "_draw_passing", lambda *_: compact)
    chunks = simulate(3 * CHUNK, 0, seed=1, workers=2)
    assert len(next(chunks)) == CHUNK
    assert workers_alive()
    chunks.close()  # type: ignore[attr-defined]
    assert not workers_alive()


def test_what_fails_in_a_worker_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Survey:
        raise DataError("a block is bad", expected="a good one")

    monkeypatch.setattr(simulation, "_draw_block", fail)
    with pytest.raises(DataError, match="a block is bad"):
        list(simulate(4, 0, seed=1, workers=2))
    assert not workers_alive()


def test_a_survey_of_six_bands() -> None:
    (found,) = simulate(30, 0, seed=SEED, profile=LSST)
    assert found.features.shape == (30, LSST.num_features)
    assert np.isfinite(found.features).all()
    assert (found.compactness < 0.5).all()
    pixels = found.stamps.decode()
    assert pixels.shape == (30, 6, 32, 32)
    assert np.isfinite(pixels).all()
    c = conditions(LSST)
    edge = np.concatenate([pixels[..., 0], pixels[..., -1]], axis=-1)
    noise = 1.4826 * np.median(np.abs(edge - np.median(edge, axis=-1, keepdims=True)), axis=(0, 2))
    np.testing.assert_allclose(noise, c.noise(c.sky, c.gain), rtol=0.25)
    # An aperture of 14 pixels holds most of the light of a compact source.
    faint = found.columns["true_r"] < 22
    middle = pixels[faint, 2, 9:23, 9:23].sum(axis=(1, 2))
    assert np.abs(np.median(31.4 - 2.5 * np.log10(middle) - found.columns["true_r"][faint])) < 0.2


def test_nothing_asked_nothing_given() -> None:
    assert list(simulate(0, 0, seed=1)) == []


def test_bad_requests_fail_before_anything_is_drawn() -> None:
    with pytest.raises(ConfigError, match="num_compact is -1; expected zero or more"):
        simulate(-1, 0, seed=1)
    with pytest.raises(ConfigError, match="num_faint is -3"):
        simulate(0, -3, seed=1)
    with pytest.raises(ConfigError, match="seed is -1; expected 0 to 2"):
        simulate(1, 0, seed=-1)
    with pytest.raises(ConfigError, match="workers is 0; expected one or more"):
        simulate(1, 0, seed=1, workers=0)
    with pytest.raises(ConfigError, match="'other' cannot be simulated; expected sdss or lsst"):
        simulate(1, 0, seed=1, profile=replace(SDSS, name="other"))


def test_fields_share_their_conditions(rng: np.random.Generator) -> None:
    fields = draw_fields(rng, 640, 64, SDSS)
    assert fields.psf.fwhm.shape == (64, 5)
    assert len(np.unique(np.stack([fields.ra, fields.dec]), axis=1).T) == 64
    assert np.abs(np.median(fields.psf.fwhm, axis=0) / [1.366, 1.264, 1.153, 1.076, 1.104] - 1).max() < 0.12
    compact, _ = survey()
    seeing, field = compact.feature("psffwhm", "r"), compact.columns["field"]
    for number in np.unique(field):
        # The PSF changes a little over a field, and much from field to field.
        assert np.ptp(np.log(seeing[field == number])) < 0.25


@pytest.mark.parametrize("kind", CLASSES)
def test_sources_are_where_they_were_asked_for(kind: str, rng: np.random.Generator) -> None:
    sources = draw_sources(rng, kind, 500, 18.8)
    assert sources.magnitudes[:, 2].max() < 23.5
    assert np.median(sources.magnitudes[:, 2]) > 19
    if kind != "GALAXY":
        assert sources.magnitudes[:, 2].min() >= 18.8
        assert (sources.point > 0).all()
    assert np.isfinite(sources.magnitudes).all()


def test_the_modelled_psf_has_the_shape_of_the_true_one(rng: np.random.Generator) -> None:
    """Without errors, what the measurement is told is what is drawn."""
    none = np.zeros(5)
    exact = replace(conditions(SDSS), psf_error=none, psf_error_scatter=none, ellipticity_error=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONDITIONS, "sdss", exact)
        fields = draw_fields(rng, 0, 40, SDSS)
    told = covariance(_modelled(fields.psf, fields.ellipticity), 1.0) - [PIXEL_VARIANCE, 0, PIXEL_VARIANCE]
    shape = ellipse(np.ones((40, 5)), fields.axis_ratio, fields.angle)
    drawn = fields.true_psf.sigma[..., None] ** 2 * np.stack([shape.xx, shape.xy, shape.yy], -1)[..., None, :]
    np.testing.assert_allclose(told, drawn, atol=1e-9)


def test_radii_of_bands_without_light_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def biggest(draw: Callable[..., np.ndarray] | None) -> float:
        monkeypatch.setitem(CONDITIONS, "sdss", replace(conditions(SDSS), draw_no_light_radius=draw))
        stars = _draw_block(SEED, FAINT, CLASSES.index("STAR"), 0, SDSS)
        dark = stars.feature("dered", "u") > 25.5
        return float(np.mean(stars.feature("deVRad", "u")[dark] > 5))

    # Where the flux is far below zero, fits to the noise often end at the largest radius.
    assert biggest(None) > 0.2
    assert biggest(draw_no_light_radius) < 0.1


def test_galaxies_that_cannot_be_compact_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is spared is time: few of them would have passed. Stars and quasars are all drawn."""
    fewer = _draw_block(SEED, FAINT, CLASSES.index("GALAXY"), 0, SDSS)
    monkeypatch.setattr(simulation, "_LARGEST", np.inf)
    whole = _draw_block(SEED, FAINT, CLASSES.index("GALAXY"), 0, SDSS)
    assert len(fewer) < 0.8 * len(whole) == 0.8 * BLOCK
    spared = whole.select(~np.isin(whole.objid, fewer.objid))
    assert (spared.columns["true_radius"] > 0.5).all()
    assert _passes(spared, FAINT).mean() < 0.02 < 0.05 < _passes(fewer, FAINT).mean()
    for kind in ("QSO", "STAR"):
        assert len(_draw_block(SEED, FAINT, CLASSES.index(kind), 0, SDSS)) == BLOCK
