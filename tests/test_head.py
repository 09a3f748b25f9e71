"""A head fitted to embeddings is a logistic regression of them, and all else stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import toy_survey

from margformer_fast.config import LVIT, ModelConfig
from margformer_fast.learning.classify import predict
from margformer_fast.learning.head import _regression, fit_head
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder

SMALL = ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8, dropout=0.0, photometry_dropout=0.0)


def made(
    rng: np.random.Generator, classes: tuple[int, ...], n: int = 120, config: ModelConfig = SMALL
) -> tuple[ScaledEncoder, Samples]:
    torch.manual_seed(int(rng.integers(2**31)))
    names = [("GALAXY", "QSO", "STAR")[k] for k in classes]
    samples = Samples(toy_survey(n, rng, classes=classes), names, torch.device("cpu"), "training")
    model = ScaledEncoder(config, len(classes))
    model.inputs.fit(samples.photometry, torch.from_numpy(samples.pixel_noise()))
    return model, samples


@pytest.mark.parametrize("classes", [(0, 2), (0, 1, 2)], ids=["two classes", "three"])
def test_a_fitted_head_tells_what_embeddings_tell(rng: np.random.Generator, classes: tuple[int, ...]) -> None:
    model, samples = made(rng, classes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_head(model, samples, precision="fp32")
    probability, embedding = predict(model, samples)
    label = samples.label.numpy()
    share = np.bincount(label) / len(label)
    # The regression of standardised inputs, folded into one linear map.
    norm = model.encoder.mlp_head[0]
    x = norm(torch.from_numpy(embedding)).detach().double().numpy()
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    expected = _regression(x, label, np.ones(len(label))).predict_proba(x)
    np.testing.assert_allclose(probability, expected, atol=2e-5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"encoder.mlp_head.1.weight", "encoder.mlp_head.1.bias"}
    # A regression with a free intercept predicts each class as often as it is there.
    np.testing.assert_allclose(probability.mean(axis=0), share, atol=0.01)
    assert embedding.shape == (len(samples), 16)


def test_objects_count_what_they_weigh(rng: np.random.Generator) -> None:
    model, samples = made(rng, (0, 2))
    label = samples.label.numpy()
    weight = np.where(label == 1, 30.0, 1.0)
    fit_head(model, samples, weight, precision="fp32")
    probability, _ = predict(model, samples)
    share = (weight * label).sum() / weight.sum()
    assert np.average(probability[:, 1], weights=weight) == pytest.approx(share, abs=0.01)


def test_a_class_of_one_object(rng: np.random.Generator) -> None:
    model, samples = made(rng, (0, 2))
    label = samples.label.numpy()
    rows = np.sort(np.concatenate([np.flatnonzero(label == 0)[:9], np.flatnonzero(label == 1)[:1]]))
    few = Samples(samples.survey.select(rows), samples.classes, torch.device("cpu"), "training")
    fit_head(model, few, precision="fp32")
    probability, _ = predict(model, few)
    assert np.isfinite(probability).all()
    assert probability[few.label.numpy() == 1, 1][0] > probability[few.label.numpy() == 0, 1].max()


@pytest.mark.parametrize("classes", [2, 3])
def test_an_object_that_is_far_off_costs_a_lot_and_not_all(rng: np.random.Generator, classes: int) -> None:
    """Its probability is zero to every digit; a logarithm of that is a warning, and decides by itself."""
    y = np.arange(60 * classes) % classes
    x = np.eye(classes)[y] + rng.normal(0, 0.1, (len(y), classes))
    x[0] = 1e4 * np.eye(classes)[1]  # far on the wrong side
    weight = np.ones(len(y))
    found = _regression(x, y, weight)
    assert np.isfinite(found.coef_).all()
    weight[0] = 0.0
    assert _regression(x, y, weight).score(x[1:], y[1:]) > 0.95


def test_the_head_of_lvit(rng: np.random.Generator) -> None:
    config = LVIT.from_dict({**LVIT.to_dict(), "depth": 1, "standardise_stamps": False, "scale_inputs": True})
    model, samples = made(rng, (0, 2), config=config)
    fit_head(model, samples, precision="fp32")
    probability, _ = predict(model, samples)
    share = np.bincount(samples.label.numpy()) / len(samples)
    np.testing.assert_allclose(probability.mean(axis=0), share, atol=0.01)
