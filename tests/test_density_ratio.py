"""Ratios of densities: known ones are found, and what cannot be known is said."""

from __future__ import annotations

import numpy as np
import pytest

from margformer_fast.errors import DataError
from margformer_fast.evaluation.density_ratio import LARGEST_RATIO, density_ratio, effective_size


def test_the_ratio_of_two_normals_is_found(rng):
    calibration, target = rng.normal(20, 1, (8000, 1)), rng.normal(20.7, 0.8, (8000, 1))
    of_calibration, of_target = density_ratio(calibration, target)
    for x, found in ((calibration, of_calibration), (target, of_target)):
        truth = np.exp(-(((x - 20.7) / 0.8) ** 2) / 2 + (x - 20) ** 2 / 2)[:, 0] / 0.8
        middle = (x[:, 0] > 19) & (x[:, 0] < 22)
        assert np.abs(np.log(found / truth))[middle].max() < 0.5
        assert np.abs(np.log(found / truth))[middle].mean() < 0.12
    assert of_calibration.mean() == pytest.approx(1, rel=0.01)


def test_a_cut_is_followed(rng):
    """What lies outside the target sample hardly counts."""
    calibration, target = rng.uniform(17, 22, (3000, 1)), rng.uniform(20, 22, (3000, 1))
    of_calibration, of_target = density_ratio(calibration, target)
    faint = calibration[:, 0] > 20
    assert of_calibration[~faint].sum() / of_calibration.sum() < 0.06
    assert np.median(of_target) == pytest.approx(2.5, rel=0.15)
    assert effective_size(of_calibration) == pytest.approx(np.sum(faint), rel=0.2)


def test_like_samples_have_a_ratio_of_one_in_any_units(rng):
    x = rng.normal(size=(6000, 2)) * (1e-3, 1e4) + (0.1, 1e6)
    found, _ = density_ratio(x[:3000], x[3000:])
    assert np.abs(found - 1).mean() < 0.2
    scaled, _ = density_ratio(x[:3000] * (1e3, 1e-4), x[3000:] * (1e3, 1e-4))
    np.testing.assert_allclose(found, scaled, rtol=1e-5)


def test_rows_without_covariates_and_columns_without_spread(rng):
    calibration, target = rng.normal(size=(40, 2)), rng.normal(size=(30, 2))
    calibration[:, 1] = target[:, 1] = 0.1
    calibration[3, 0], target[5, 0] = np.nan, np.inf
    of_calibration, of_target = density_ratio(calibration, target)
    assert np.flatnonzero(np.isnan(of_calibration)).tolist() == [3]
    assert np.flatnonzero(np.isnan(of_target)).tolist() == [5]
    alone = density_ratio(np.delete(calibration, 3, 0)[:, :1], np.delete(target, 5, 0)[:, :1])
    np.testing.assert_allclose(np.delete(of_calibration, 3), alone[0], rtol=1e-6)


def test_samples_without_objects():
    empty, one = np.empty((0, 1)), np.array([[20.0]])
    a, b = density_ratio(empty, one)
    assert (a.tolist(), b.tolist()) == ([], [1.0])
    a, b = density_ratio(one, np.array([[np.nan]]))
    assert a.tolist() == [1.0]
    assert np.isnan(b).all()
    a, b = density_ratio(one, np.array([[25.0], [26.0]]))
    assert a.tolist() == [1.0]
    assert np.isfinite(b).all()


def test_ratios_stay_within_limits(rng):
    _, of_target = density_ratio(rng.normal(0, 1, (4000, 1)), rng.normal(40, 1, (4000, 1)))
    assert of_target.max() == pytest.approx(LARGEST_RATIO)
    assert np.isfinite(of_target).all()


@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4, 2), (4, 1)), ((4, 0), (4, 0))])
def test_tables_that_do_not_fit(shapes):
    with pytest.raises(DataError, match="covariates have shapes"):
        density_ratio(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_effective_sizes():
    assert effective_size(np.ones(7)) == 7
    assert effective_size(np.array([1.0, 0, 0])) == 1
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(1.6)
    assert effective_size(np.empty(0)) == 0
