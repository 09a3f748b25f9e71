"""Baselines: boosted trees on features, and the survey's own separator."""

from __future__ import annotations

import numpy as np
import pytest

from margformer_fast.errors import DataError
from margformer_fast.evaluation.baselines import decisions, features_only, survey_separator


def table(rng, n, classes=2):
    label = rng.integers(0, classes, n)
    label[:classes] = np.arange(classes)
    x = rng.normal(size=(n, 6))
    x[:, 2] += 2.5 * label
    return x, label


@pytest.mark.parametrize("classes", [2, 3])
def test_features_that_tell_are_used(rng, classes):
    train, test = table(rng, 400, classes), table(rng, 300, classes)
    probability = features_only(*train, test[0], classes, seed=1)
    assert probability.shape == (300, classes)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert np.mean(probability.argmax(axis=1) == test[1]) > 0.7


def test_features_that_do_not_tell_help_nobody(rng):
    train, test = table(rng, 400), table(rng, 400)
    train[0][:, 2] = test[0][:, 2] = 0
    accuracy = np.mean(features_only(*train, test[0], 2, seed=1).argmax(axis=1) == test[1])
    assert 0.35 < accuracy < 0.65


def test_the_seed_decides(rng):
    train, test = table(rng, 400), table(rng, 100)
    first, again, other = (features_only(*train, test[0], 2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_missing_features_and_small_sets(rng):
    train, test = table(rng, 30), table(rng, 20)
    train[0][::3, 1] = np.nan
    test[0][:, 4] = np.nan
    assert np.isfinite(features_only(*train, test[0], 2, seed=0)).all()


def test_a_class_without_training_objects_gets_nothing(rng):
    x, label = table(rng, 200)
    probability = features_only(x, 2 * label, x, 3, seed=0)
    assert (probability[:, 1] == 0).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1)


def test_training_sets_that_cannot_be_used(rng):
    x, label = table(rng, 40)
    with pytest.raises(DataError, match="all of one class; expected at least two"):
        features_only(x, np.ones_like(label), x, 2, 0)
    with pytest.raises(DataError, match="labels run from 0 to 1; expected 0 to 0"):
        features_only(x, label, x, 1, 0)
    with pytest.raises(DataError, match="labels run from -1 to 1"):
        features_only(x, np.where(label == 0, -1, 1), x, 2, 0)
    with pytest.raises(DataError, match=r"training labels have shape \(39,\)"):
        features_only(x, label[1:], x, 2, 0)
    with pytest.raises(DataError, match=r"shapes \(40, 6\) and \(40, 5\)"):
        features_only(x, label, x[:, 1:], 2, 0)
    infinite = x.copy()
    infinite[7, 3] = -np.inf
    with pytest.raises(DataError, match="1 of 40 test objects have an infinite feature, the first in row 7"):
        features_only(x, label, infinite, 2, 0)
    with pytest.raises(DataError, match="training objects have an infinite"):
        features_only(infinite, label, x, 2, 0)


def test_the_separator_cuts_at_0_145():
    psf, model = np.array([20.0, 20.0, 20.0, 19.0]), np.array([19.8, 19.86, 20.1, 18.0])
    assert survey_separator(psf, model).tolist() == [True, False, False, True]
    assert survey_separator(psf, model, cut=0.1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -9999.0])
def test_missing_magnitudes_are_refused(bad):
    good, broken = np.full(5, 20.0), np.full(5, 20.0)
    broken[3] = bad
    with pytest.raises(DataError, match="psfMag is missing for 1 of 5 objects, the first in row 3"):
        survey_separator(broken, good)
    with pytest.raises(DataError, match="modelMag is missing"):
        survey_separator(good, broken)
    with pytest.raises(DataError, match="one shape"):
        survey_separator(good, good[1:])


def test_the_separator_agrees_with_the_survey(real_data):
    """On bright objects of a real field, r alone decides as the survey did from all bands."""
    from astropy.io import fits

    table = fits.getdata(real_data / "sdss" / "94-1-12" / "photoObj-000094-1-0012.fits.gz")
    r = table["PSFMAG"][:, 2]
    use = (r > 15) & (r < 20) & np.isin(table["OBJC_TYPE"], (3, 6)) & (table["MODELMAG"][:, 2] > 0)
    galaxy = survey_separator(r[use], table["MODELMAG"][use, 2])
    survey = table["OBJC_TYPE"][use] == 3
    assert use.sum() > 50
    assert np.mean(galaxy == survey) > 0.95


def test_decisions_are_probabilities():
    assert decisions(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
