"""What a survey is: names and order of features, derived quantities, selection, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import toy_survey

from margformer_fast.data.survey import CLASSES, LSST, PROFILES, SDSS, TASKS, UNKNOWN
from margformer_fast.errors import DataError
from margformer_fast.ops.stamps import Stamps


def test_features_have_the_published_names_and_order():
    assert SDSS.feature_names == (
        *("dered_u", "deVRad_u", "psffwhm_u", "extinction_u"),
        *("dered_g", "deVRad_g", "psffwhm_g", "extinction_g"),
        *("dered_r", "deVRad_r", "psffwhm_r", "extinction_r"),
        *("dered_i", "deVRad_i", "psffwhm_i", "extinction_i"),
        *("dered_z", "deVRad_z", "psffwhm_z", "extinction_z"),
        *("u_g", "g_r", "r_i", "i_z"),
    )
    assert LSST.feature_names[20:24] == ("dered_y", "deVRad_y", "psffwhm_y", "extinction_y")
    assert (SDSS.num_features, LSST.num_features) == (24, 29)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_profiles_are_consistent(profile):
    assert PROFILES[profile.name] is profile
    assert len(profile.feature_names) == len(set(profile.feature_names)) == profile.num_features
    assert profile.reference_band in profile.bands
    assert len(profile.extinction_ratios) == len(profile.bands)
    assert profile.extinction_ratios[profile.bands.index(profile.reference_band)] == 1


def test_labels_are_alphabetical():
    assert list(CLASSES) == sorted(CLASSES)
    for classes in TASKS.values():
        assert list(classes) == sorted(classes)
        assert set(classes) <= set(CLASSES)
    assert UNKNOWN not in range(len(CLASSES))


def test_derived_quantities(rng):
    survey = toy_survey(20, rng)
    names = SDSS.feature_names
    k = int(rng.integers(20))
    row = dict(zip(names, survey.features[k].tolist(), strict=True))
    magnitudes = [row[f"dered_{b}"] + row[f"extinction_{b}"] for b in "ugriz"]
    np.testing.assert_allclose(survey.magnitudes[k], magnitudes, rtol=1e-15)
    assert survey.r_obs[k] == pytest.approx(magnitudes[2], rel=1e-15)
    ratios = [row[f"deVRad_{b}"] / row[f"psffwhm_{b}"] for b in "ugriz"]
    assert survey.compactness[k] == pytest.approx(sum(ratios) / 5, rel=1e-14)
    np.testing.assert_array_equal(
        survey.feature("psffwhm", "i"), survey.features[:, names.index("psffwhm_i")]
    )


def test_select_by_mask_and_by_rows(rng):
    survey = toy_survey(30, rng)
    survey = replace(
        survey, columns={"field": rng.integers(0, 9, 30), "name": np.array([f"o{k}" for k in range(30)])}
    )
    mask = rng.random(30) < 0.4
    rows = rng.integers(0, 30, 12)  # repeats, any order
    for which, expected in (
        (mask, np.flatnonzero(mask)),
        (rows, rows),
        (rows.tolist(), rows),
        ([], rows[:0]),
    ):
        part = survey.select(np.asarray(which))
        assert len(part) == len(expected)
        for name in ("objid", "ra", "dec", "label", "features"):
            np.testing.assert_array_equal(getattr(part, name), getattr(survey, name)[expected])
        for name, column in survey.columns.items():
            np.testing.assert_array_equal(part.columns[name], column[expected])
        np.testing.assert_array_equal(part.stamps.decode(), survey.stamps.decode()[expected])
        assert (part.profile, part.simulated, part.provenance) == (SDSS, True, survey.provenance)


@pytest.mark.parametrize("name", ["ra", "dec", "label", "features"])
def test_columns_of_another_length_are_refused(rng, name):
    survey = toy_survey(6, rng)
    with pytest.raises(DataError, match=f"column '{name}' has 5 rows; expected 6, as many as objids"):
        replace(survey, **{name: getattr(survey, name)[:5]})
    with pytest.raises(DataError, match="column 'more' has 7 rows"):
        replace(survey, columns={"more": np.zeros(7)})


def test_shapes_that_do_not_fit_the_profile_are_refused(rng):
    survey = toy_survey(6, rng)
    with pytest.raises(DataError, match=r"features have shape \(6, 23\); expected \(6, 24\)"):
        replace(survey, features=survey.features[:, :23])
    with pytest.raises(DataError, match=r"stamps have 4 bands; expected 5 \(ugriz\)"):
        replace(survey, stamps=Stamps((np.zeros((6, 4, 32, 32), np.float32),)))
    with pytest.raises(DataError, match="column 'stamps' has 3 rows"):
        replace(survey, stamps=survey.stamps.select(np.arange(3)))
