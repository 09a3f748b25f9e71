"""Weights by which classes are as common at every magnitude, and training that knows few labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from short_runs import shorten
from toy import toy_survey

from margformer_fast import train
from margformer_fast.data.store import write_store
from margformer_fast.errors import DataError
from margformer_fast.learning.balance import LARGEST_WEIGHT, MagnitudeBalance
from margformer_fast.learning.samples import Samples
from margformer_fast.runner import _labelled


def selected(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of which the second is rarer the fainter it is, as a spectroscopic survey selects stars."""
    magnitude = rng.uniform(15, 22, n)
    return (rng.random(n) < 1 / (1 + np.exp(0.6 * (magnitude - 19)))).astype(int), magnitude


def test_classes_weigh_alike_at_every_magnitude(rng: np.random.Generator) -> None:
    label, magnitude = selected(rng, 20_000)
    weight = MagnitudeBalance(label, magnitude).weights(label, magnitude)
    assert weight.mean() == pytest.approx(1)
    for low in np.arange(15, 22, 0.5):
        inside = (magnitude >= low) & (magnitude < low + 0.5)
        share = weight[inside & (label == 1)].sum() / weight[inside].sum()
        assert share == pytest.approx(0.5, abs=0.08)  # six times its error where a class is rarest
    # Not so without weights.
    assert abs((label[magnitude > 20] == 1).mean() - 0.5) > 0.2


def test_no_object_weighs_more_than_the_limit(rng: np.random.Generator) -> None:
    label, magnitude = selected(rng, 5000)
    label[magnitude > 20] = 0
    label[np.argmax(magnitude)] = 1  # one alone among thousands
    weight = MagnitudeBalance(label, magnitude).weights(label, magnitude)
    assert 0.9 * LARGEST_WEIGHT < weight.max() / weight.min() <= LARGEST_WEIGHT * 1.0001


def test_weights_of_other_objects_follow_the_training_set(rng: np.random.Generator) -> None:
    """Three classes, few objects, names that are not 0, 1, 2, magnitudes beyond those seen."""
    label, magnitude = rng.choice([0, 3, 7], 90), rng.uniform(18, 20, 90)
    weight = MagnitudeBalance(label, magnitude).weights(np.array([7, 0, 3]), np.array([10.0, 19.0, 30.0]))
    assert np.isfinite(weight).all()
    assert (weight > 0).all()


def test_what_cannot_be_balanced(rng: np.random.Generator) -> None:
    label, magnitude = selected(rng, 50)
    with pytest.raises(DataError, match="one alone"):
        MagnitudeBalance(np.zeros(50, int), magnitude)
    magnitude[7] = np.nan
    with pytest.raises(DataError, match="row 7"):
        MagnitudeBalance(label, magnitude)


def test_few_labels_are_a_share_of_each_class_drawn_by_the_seed(rng: np.random.Generator) -> None:
    samples = Samples(toy_survey(300, rng), ("GALAXY", "STAR"), torch.device("cpu"), "training")
    first, again, other = (_labelled(samples, 0.1, seed, 1) for seed in (1, 1, 2))
    assert {k: -(-n // 10) for k, n in samples.counts().items()} == first.counts()
    assert set(first.survey.objid) == set(again.survey.objid) != set(other.survey.objid)
    assert _labelled(samples, 1.0, 1, 1) is samples
    assert min(_labelled(samples, 0.001, 1, 5).counts().values()) == 5


@pytest.mark.parametrize("share", ["0", "1.5", "-0.1"])
def test_share_of_labels_out_of_range(share: str, tmp_path: Path) -> None:
    options = train.parser().parse_args(["--exp", "1", "--labels", share, "--out", str(tmp_path / "x")])
    with pytest.raises(train.ConfigError, match="--labels"):
        train.execute(options)
    assert not (tmp_path / "x").exists()


def test_balanced_run_differs_in_its_classifier_alone(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    write_store(tmp_path / "store", toy_survey(300, rng))
    losses = {}
    for balance in ("none", "magnitude"):
        arguments = ["--exp", "1", "--runs", "1", "--baselines", "none", "--balance", balance]
        arguments += ["--data", str(tmp_path / "store"), "--out", str(tmp_path / balance)]
        result = train.execute(train.parser().parse_args(arguments))
        by_stage: dict[str, list[dict[str, float]]] = {}
        for outcome in result.outcomes:
            by_stage |= outcome.history
        assert any("weighed" in note for note in result.header.warnings) == (balance == "magnitude")
        losses[balance] = {stage: [e["val_loss"] for e in curve] for stage, curve in by_stage.items()}
    assert losses["none"]["pretrain"] == losses["magnitude"]["pretrain"]
    assert losses["none"]["finetune"] != losses["magnitude"]["finetune"]
