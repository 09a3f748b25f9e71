"""Fast backends train as the reference does, in small; and the test that says so for dropout is sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_curves import (
    FAST,
    FORMS,
    REFERENCE,
    Form,
    Run,
    permutation_test,
    relative_difference,
    train,
    window_means,
)
from toy import toy_survey

from margformer_fast.data.survey import CLASSES
from margformer_fast.learning.samples import Samples

STEPS, PAIRS = 20, 12
# Of the yardstick: a rounding of the inputs is one of many that a training step makes.
ALLOWED = 10


def small(form: Form) -> Form:
    model = replace(form.model, depth=2, dim=32, num_heads=4, hidden=64, slots=form.model.slots // 8)
    return replace(form, model=model, projector=32, learning_rate=1e-4)


@pytest.fixture
def samples(rng: np.random.Generator) -> Samples:
    return Samples(toy_survey(48, rng, classes=(0, 1, 2)), CLASSES, torch.device("cpu"), "training")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_curves_agree_to_rounding(samples: Samples, form: Form) -> None:
    form = small(form)
    reference = train(form, Run(REFERENCE, watched=True), samples, STEPS, PAIRS)
    for what in ("loss", "gradient"):
        yardstick = max(reference[f"{what}, perturbed"].max(), 2.0**-23)
        assert reference[f"{what}, fast"].max() <= ALLOWED * yardstick
    fast = relative_difference(train(form, Run(FAST), samples, STEPS, PAIRS)["loss"], reference["loss"])
    yardsticks = [
        relative_difference(
            train(form, Run(REFERENCE, stream=k, perturbed=True), samples, STEPS, PAIRS)["loss"],
            reference["loss"],
        )
        for k in range(2)
    ]
    assert 0 < max(each["largest"] for each in yardsticks) < 1e-3, "rounding grew too much to compare by"
    for key in fast:
        assert fast[key] <= ALLOWED * max(each[key] for each in yardsticks)


def test_dropout_changes_the_curve_and_its_stream_does(samples: Samples) -> None:
    form = small(FORMS[0])
    without, first, again, other = (
        train(form, run, samples, 3, PAIRS)["loss"]
        for run in (Run(REFERENCE), Run(FAST, 1.0, 1), Run(FAST, 1.0, 1), Run(FAST, 1.0, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != without).all()
    assert (first != other).all()


def test_permutation_test_by_hand() -> None:
    """Of the 20 ways to deal 3 + 3 runs, the one seen and its mirror are the most extreme."""
    a, b = np.array([[1.0], [2.0], [3.0]]), np.array([[11.0], [12.0], [13.0]])
    joint, each = permutation_test(a, b)
    assert joint == each[0] == pytest.approx(2 / 20)
    assert permutation_test(a, a)[0] == 1


def test_permutation_test_is_calibrated(rng: np.random.Generator) -> None:
    """p is below 0.2 in a fifth of all cases where groups are alike, and small where one window differs."""
    draws = rng.normal(size=(300, 2, 5, 4))
    null = [permutation_test(a, b)[0] for a, b in draws]
    assert 0.1 < np.mean(np.array(null) <= 0.2) < 0.3
    draws[:, 0, :, 2] += 4
    shifted = [permutation_test(a, b) for a, b in draws]
    assert np.mean([joint < 0.05 for joint, _ in shifted]) > 0.9
    assert np.mean([each[2] < 0.05 for _, each in shifted]) > 0.95


def test_window_means() -> None:
    curves = np.stack([np.arange(8.0), np.arange(8.0) + 1])
    np.testing.assert_array_equal(window_means(curves), [[0.5, 2.5, 4.5, 6.5], [1.5, 3.5, 5.5, 7.5]])
