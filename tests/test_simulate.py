"""The simulated survey: its cuts, its counts, its seeds, and that its features come from its pixels."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from margformer_fast.data.simulate import CHUNK, COMPACT, FAINT, object_id, simulate
from margformer_fast.data.skymodel import draw_fields, draw_neighbours, draw_sky, draw_sources
from margformer_fast.data.survey import CLASSES, LSST, Survey
from margformer_fast.errors import ConfigError

SEED = 20


@cache
def survey() -> tuple[Survey, Survey]:
    """One small survey for all tests: the compact and the faint sample."""
    compact, faint = simulate(302, 151, seed=SEED)
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


def test_the_seed_decides() -> None:
    compact, _ = survey()
    (again,) = simulate(61, 0, seed=SEED)
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
    np.testing.assert_allclose(noise, [0.048, 0.021, 0.032, 0.056, 0.20], rtol=0.15)
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


def test_nothing_asked_nothing_given() -> None:
    assert list(simulate(0, 0, seed=1)) == []


def test_bad_requests_fail_before_anything_is_drawn() -> None:
    with pytest.raises(ConfigError, match="num_compact is -1; expected zero or more"):
        simulate(-1, 0, seed=1)
    with pytest.raises(ConfigError, match="num_faint is -3"):
        simulate(0, -3, seed=1)
    with pytest.raises(ConfigError, match="seed is -1; expected 0 to 2"):
        simulate(1, 0, seed=-1)
    with pytest.raises(ConfigError, match="'lsst' cannot be simulated; expected sdss"):
        simulate(1, 0, seed=1, profile=LSST)


def test_fields_share_their_conditions(rng: np.random.Generator) -> None:
    fields = draw_fields(rng, 640, 64)
    assert fields.psf.fwhm.shape == (64, 5)
    assert len(np.unique(np.stack([fields.ra, fields.dec]), axis=1).T) == 64
    assert np.abs(np.median(fields.psf.fwhm, axis=0) / [1.366, 1.264, 1.153, 1.076, 1.104] - 1).max() < 0.12
    compact, _ = survey()
    seeing, field = compact.feature("psffwhm", "r"), compact.columns["field"]
    for number in np.unique(field):
        assert len(np.unique(seeing[field == number])) == 1


@pytest.mark.parametrize("kind", CLASSES)
def test_sources_are_where_they_were_asked_for(kind: str, rng: np.random.Generator) -> None:
    sources = draw_sources(rng, kind, 500, 18.8)
    assert sources.magnitudes[:, 2].max() < 23.5
    assert np.median(sources.magnitudes[:, 2]) > 19
    if kind != "GALAXY":
        assert sources.magnitudes[:, 2].min() >= 18.8
        assert (sources.point > 0).all()
    assert np.isfinite(sources.magnitudes).all()


def test_neighbours_and_sky(rng: np.random.Generator) -> None:
    neighbours = draw_neighbours(rng, 300)
    assert neighbours.present.shape == (4, 300)
    assert np.linalg.norm(neighbours.offset, axis=-1).max() <= 7.0
    assert draw_sky(rng, 9).shape == (9, 5)
