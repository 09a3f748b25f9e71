"""Temperature scaling and the calibration a model keeps: minimum, order, odd cases, files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from toy_results import probabilities

from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation import conformal, metrics
from margformer_fast.evaluation.calibration import Calibration
from margformer_fast.evaluation.temperature import (
    COLDEST,
    HOTTEST,
    fit_temperature,
    logits_of,
    temperature_scaled,
)

SG, SGQ = ("GALAXY", "STAR"), ("GALAXY", "QSO", "STAR")


def case(rng: np.random.Generator, n: int = 3000, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of the logits: the right temperature is 1."""
    logits = rng.normal(size=(n, classes)) * 2
    p = temperature_scaled(logits, 1.0)
    label = (rng.random((n, 1)) > np.cumsum(p, axis=1)).sum(axis=1).clip(max=classes - 1)
    return label, logits


def loss(label: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    p = temperature_scaled(logits, temperature)
    return float(-np.log(np.maximum(p[np.arange(len(label)), label], 1e-300)).mean())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sureness", [0.3, 1.0, 4.0])
def test_the_fit_is_the_minimum(rng: np.random.Generator, classes: int, sureness: float) -> None:
    label, logits = case(rng, classes=classes)
    found = fit_temperature(label, sureness * logits)
    oracle = minimize_scalar(
        lambda t: loss(label, sureness * logits, np.exp(t)),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(np.exp(oracle.x), rel=1e-4)
    assert found == pytest.approx(sureness, rel=0.15)


def test_probabilities_are_as_sure_as_they_are_right_and_decisions_stay(rng: np.random.Generator) -> None:
    label, logits = case(rng, 20_000)
    logits *= 3
    half = len(label) // 2
    found = fit_temperature(label[:half], logits[:half])
    before, after = temperature_scaled(logits[half:], 1.0), temperature_scaled(logits[half:], found)
    assert np.array_equal(before.argmax(axis=1), after.argmax(axis=1))
    error = [metrics.expected_calibration_error(label[half:], p) for p in (before, after)]
    assert error[0] > 0.08
    assert error[1] < 0.03
    result = metrics.evaluate(label[half:], before, temperature=found)
    assert (result.ece, result.ece_scaled) == pytest.approx(tuple(error))
    assert np.isnan(metrics.evaluate(label[half:], before).ece_scaled)


def test_logits_and_their_probabilities_fit_alike(rng: np.random.Generator) -> None:
    label, logits = case(rng)
    shifted = logits + rng.normal(size=(len(logits), 1)) * 100
    found = fit_temperature(label, logits)
    assert fit_temperature(label, shifted) == pytest.approx(found, rel=1e-6)
    assert fit_temperature(label, logits_of(temperature_scaled(logits, 1.0))) == pytest.approx(
        found, rel=1e-6
    )


def test_odd_cases() -> None:
    right = np.array([[5.0, -5.0], [-3.0, 3.0]])
    assert fit_temperature(np.array([0, 1]), right) == 1
    assert fit_temperature(np.array([0]), right[:1]) == 1
    assert fit_temperature(np.array([1]), right[:1]) == pytest.approx(HOTTEST)
    assert fit_temperature(np.array([1, 0]), np.full((2, 2), 7.0)) == 1
    # One that is nearly right among many that are very right: as cold as is allowed.
    nearly = np.vstack([np.tile([1.0, 0.0], (1000, 1)), [[1e-6, 0.0]]])
    assert fit_temperature(np.array([0] * 1000 + [1]), nearly) == pytest.approx(COLDEST)


def test_certainties_do_not_overflow() -> None:
    label = np.array([0, 1, 1, 0])
    huge = np.array([[1e5, -1e5], [-1e5, 1e5], [1.0, 0.0], [2.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(fit_temperature(label, huge))
        p = temperature_scaled(huge, COLDEST)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    certain = logits_of(np.array([[1.0, 0.0]]))
    assert np.isfinite(certain).all()
    np.testing.assert_allclose(temperature_scaled(certain, 1.0), [[1.0, 1e-300]], rtol=1e-9)


@pytest.mark.parametrize(
    ("label", "logits", "message"),
    [
        ([0, 1], [[0.0, 1.0], [np.nan, 0.0]], "1 of 2 logits are not finite, the first in row 1"),
        ([], np.empty((0, 2)), "cannot be fitted to no object"),
        ([0, 2], [[0.0, 1.0], [1.0, 0.0]], "labels run from 0 to 2; expected class indices from 0 to 1"),
        ([0.0, 1.0], [[0.0, 1.0], [1.0, 0.0]], "type float64; expected integers"),
        ([0], [[0.0, 1.0], [1.0, 0.0]], r"labels have shape \(1,\)"),
        ([0], [0.0], r"logits have shape \(1,\)"),
    ],
)
def test_what_cannot_be_fitted(label: list, logits: list, message: str) -> None:
    label = np.array(label, int if not label else None)
    with pytest.raises(DataError, match=message):
        fit_temperature(label, np.array(logits))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature is"):
        temperature_scaled(np.zeros((1, 2)), temperature)


@pytest.mark.parametrize("level", [0.5, 0.68, 0.9, 0.95, 0.999])
def test_a_kept_calibration_makes_the_sets_of_its_objects(
    rng: np.random.Generator, tmp_path: Path, level: float
) -> None:
    label = rng.integers(0, 3, 400)
    known, asked = probabilities(rng, label, 3), probabilities(rng, rng.integers(0, 3, 200), 3)
    known[7] = known[8]  # ties
    asked[:50] = known[:50]
    kept = json.loads(json.dumps(Calibration.fit(label, known).to_dict(SGQ), allow_nan=False))
    back = Calibration.from_dict(kept, SGQ, tmp_path)
    expected = conformal.by_class(label, known, asked).sets(level)
    assert np.array_equal(back.sets(asked, level), expected)
    assert back.temperature == fit_temperature(label, logits_of(known))


def test_a_class_without_calibration_objects_is_in_every_set(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    label = rng.choice([0, 2], 300)
    known = probabilities(rng, label, 3)
    kept = Calibration.from_dict(Calibration.fit(label, known).to_dict(SGQ), SGQ, tmp_path)
    assert len(kept.scores[1]) == 0
    found = kept.sets(probabilities(rng, label, 3), 0.5)
    assert found[:, 1].all()
    assert not found[:, 0].all()
    one = Calibration.fit(np.array([0]), np.array([[0.3, 0.7]]))
    assert one.sets(np.array([[0.9, 0.1]]), 0.9).all(), "one object cannot rule out anything"


@pytest.mark.parametrize("level", [0.49, 0.9991, 1.0, np.nan])
def test_levels_out_of_range(level: float) -> None:
    with pytest.raises(ConfigError, match=r"level is .*from 0\.5 to 0\.999"):
        Calibration(1.0, (np.empty(0), np.empty(0))).sets(np.full((1, 2), 0.5), level)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has schema 2; expected 1"),
        ({"temperature": 0}, "temperature is 0; expected a finite number above 0"),
        ({"temperature": "1"}, "temperature is '1'"),
        ({"scores": {"GALAXY": []}}, r"scores are of \['GALAXY'\]; expected GALAXY, STAR"),
        ({"scores": {"GALAXY": [0.2, 0.1], "STAR": []}}, "scores of GALAXY are not usable"),
        ({"scores": {"GALAXY": [], "STAR": [1.5]}}, "scores of STAR are not usable"),
        ({"scores": {"GALAXY": ["a"], "STAR": []}}, "scores of GALAXY are not usable"),
        ({"scores": None}, "scores are of None"),
    ],
)
def test_calibrations_that_are_damaged(tmp_path: Path, change: dict, message: str) -> None:
    good = Calibration(1.5, (np.array([0.1, 0.2]), np.array([0.3]))).to_dict(SG)
    with pytest.raises(DataError, match=f"{tmp_path}: {message}"):
        Calibration.from_dict({**good, **change}, SG, tmp_path)
    with pytest.raises(DataError, match="has schema"):
        Calibration.from_dict([], SG, tmp_path)  # type: ignore[arg-type]
