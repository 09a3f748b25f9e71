"""Numbers that are none: named and refused, flagged, or left out of training and counted."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learning import TINY, encoder, samples, tiny_stage, where
from torch import nn
from toy import toy_survey
from toy_results import toy_results, without_images

from margformer_fast.classifier import Classifier
from margformer_fast.config import AugmentConfig, FitConfig
from margformer_fast.data.survey import SDSS, TASKS
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation.summary import cautions, summarise
from margformer_fast.flags import Flag
from margformer_fast.learning import loop
from margformer_fast.learning.checkpoint import save_model
from margformer_fast.learning.classify import train_classifier
from margformer_fast.learning.loop import Stage, run_stage
from margformer_fast.learning.pretrain import pretrain
from margformer_fast.learning.samples import Samples
from margformer_fast.ops.nt_xent import nt_xent
from margformer_fast.ops.stamps import Stamps

CPU = torch.device("cpu")


def weights(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def constant_rate(stage: Stage, **changes) -> Stage:
    return replace(stage, config=replace(stage.config, schedule="constant", **changes))


def spoilt(stage: Stage, bad, factor: float = torch.nan) -> Stage:
    """A stage whose loss at ``bad(epoch, step)`` is multiplied by `factor`."""
    count = {}

    def loss(rows, epoch):
        count[epoch] = count.get(epoch, 0) + 1
        return stage.loss(rows, epoch) * (factor if bad(epoch, count[epoch]) else 1.0)

    return replace(stage, loss=loss)


# ---- steps ----


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("factor", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_step_is_as_if_its_batch_were_not_there(tmp_path, monkeypatch, caplog, factor, device):
    """Bit for bit: weights, moments of the optimizer, and what dropout draws after it."""
    bad = spoilt(
        constant_rate(tiny_stage(3, device=device)), lambda epoch, step: (epoch, step) == (2, 3), factor
    )
    (tmp_path / "bad").mkdir()
    with caplog.at_level(logging.WARNING):
        history = run_stage(bad, seed=0, directory=tmp_path / "bad", label="test")
    assert [entry.get("skipped_steps") for entry in history] == [None, 1, None]
    assert "stage: 1 of 7 steps of epoch 2 were left out" in caplog.text

    whole = loop.batches

    def without(num_objects, batch_size, seed, **settings):
        parts = whole(num_objects, batch_size, seed, **settings)
        return parts[:2] + parts[3:] if seed == loop.derive_seed(0, 7, 2) else parts

    monkeypatch.setattr(loop, "batches", without)
    good = constant_rate(tiny_stage(3, device=device))
    (tmp_path / "good").mkdir()
    expected = run_stage(good, seed=0, directory=tmp_path / "good", label="test")
    assert torch.equal(weights(bad.model), weights(good.model))
    assert [entry["train_loss"] for entry in history] == [entry["train_loss"] for entry in expected]


def test_a_finite_loss_with_a_gradient_that_is_none(tmp_path):
    stage = tiny_stage(1)
    first = next(stage.model.parameters())

    def loss(rows, epoch):
        # The square root of zero has an infinite slope, and zero times it is no number.
        return stage.loss(rows, epoch) + ((first * 0).sum().sqrt() if 0 in rows else 0)

    (entry,) = run_stage(replace(stage, loss=loss), seed=0, directory=tmp_path, label="test")
    assert entry["skipped_steps"] == 1
    assert torch.isfinite(weights(stage.model)).all()


def test_a_large_loss_is_a_step(tmp_path):
    """A spike is no fault: the norm of the gradient is clipped, and Adam divides by its size."""
    stage = spoilt(tiny_stage(2), lambda epoch, step: (epoch, step) == (1, 4), 1e12)
    history = run_stage(stage, seed=0, directory=tmp_path, label="test")
    assert not any("skipped_steps" in entry for entry in history)
    assert history[1]["train_loss"] < 1e3


def test_too_many_in_a_row(tmp_path):
    stage = constant_rate(tiny_stage(2), batch_size=1)
    bad = spoilt(stage, lambda epoch, step: epoch == 1 and 10 < step <= 15)
    with pytest.raises(
        DataError, match=r"stage: the loss or its gradient is nan in epoch 1, step 15: 5 .*5 in a row; exp"
    ):
        run_stage(bad, seed=0, directory=tmp_path, label="test")
    assert not list(tmp_path.iterdir())
    almost = spoilt(stage, lambda epoch, step: epoch == 1 and 10 < step <= 14)
    assert run_stage(almost, seed=0, directory=tmp_path, label="test")[0]["skipped_steps"] == 4


def test_too_many_of_an_epoch(tmp_path):
    stage = constant_rate(tiny_stage(2), batch_size=1)  # 50 steps: 5 may be left out
    bad = spoilt(stage, lambda epoch, step: step % 9 == 0 or step == 50)
    with pytest.raises(
        DataError, match=r"epoch 1, step 50: 6 of 50 steps were left out, the last 1 in a row"
    ):
        run_stage(bad, seed=0, directory=tmp_path, label="test")
    history = run_stage(
        spoilt(stage, lambda epoch, step: step % 9 == 0), seed=0, directory=tmp_path, label="test"
    )
    assert [entry["skipped_steps"] for entry in history] == [5, 5]


def test_an_epoch_of_one_step_that_is_left_out(tmp_path):
    stage = constant_rate(tiny_stage(2), batch_size=50)
    with pytest.raises(DataError, match="epoch 2, step 1: 1 of 1 steps were left out"):
        run_stage(spoilt(stage, lambda epoch, _: epoch == 2), seed=0, directory=tmp_path, label="test")


def test_a_validation_loss_that_is_none(tmp_path):
    stage = replace(tiny_stage(), validate=lambda _: {"val_loss": float("nan")})
    with pytest.raises(DataError, match=r"the validation loss is nan in epoch 1\. Lower the learning rate"):
        run_stage(stage, seed=0, directory=tmp_path, label="test")
    assert not list(tmp_path.iterdir())


def test_an_overflow_of_bf16_is_left_out(tmp_path):
    stage = tiny_stage(1)
    x = torch.full((1, 4), 1e38)

    def loss(rows, epoch):
        value = stage.loss(rows, epoch)
        if 0 in rows:
            with torch.autocast("cpu", torch.bfloat16):
                value = value + (stage.model[0](x) * 100).float().square().sum()
        return value

    (entry,) = run_stage(replace(stage, loss=loss), seed=0, directory=tmp_path, label="test")
    assert entry["skipped_steps"] == 1
    assert torch.isfinite(weights(stage.model)).all()


def test_the_closing_output_says_how_many(rng):
    header, test, outcomes = toy_results(rng, n=30, runs=2)
    test = without_images(test)
    assert not any("left out" in text for text in cautions(header, test, summarise(header, test, outcomes)))
    outcomes[0].history["pretrain"][2]["skipped_steps"] = 3
    outcomes[2].history["finetune"][0]["skipped_steps"] = 1
    said = cautions(header, test, summarise(header, test, outcomes))
    assert (
        "SimCLR, fine-tuned: 4 training steps were left out: the loss or its gradient was not finite." in said
    )


# ---- stamps and features ----


def test_training_names_the_object(rng):
    survey = toy_survey(12, rng)
    features = survey.features.copy()
    features[3, 4] = 1e300  # finite, but not to the network
    with pytest.raises(DataError, match=r"training set: 1 of 12 objects.*objid 4, dered_g = 1e\+300"):
        Samples(replace(survey, features=features), TASKS["sg"], CPU, "training")
    pixels = survey.stamps.decode()
    pixels[5, 2, 3, 3] = 3e38  # saturated
    with pytest.raises(
        DataError, match=r"training set: objid 6 has a pixel of 3e\+38 in band r; expected at"
    ):
        Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training")
    pixels[5, 2] = -np.inf
    with pytest.raises(DataError, match=r"1 of 12 stamps.*objid 6, band r"):
        Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training")


def test_a_band_that_is_the_same_everywhere(rng):
    survey = toy_survey(12, rng)
    pixels = survey.stamps.decode()
    pixels[:, 3] = 7.0
    flat = Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training")
    with pytest.raises(
        DataError, match="training set: all pixels of band i are the same; expected stamps with"
    ):
        flat.pixel_noise()
    pixels[:, 3, 10:14, 10:14] = rng.normal(0, 1, (12, 4, 4))
    some = Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training").pixel_noise()
    assert (some > 0).all()


def test_constant_stamps_and_repeated_objects_train(tmp_path, rng):
    """Some stamps without any contrast, and one object many times, are no fault."""
    survey = toy_survey(24, rng)
    pixels = survey.stamps.decode()
    pixels[:4], pixels[4:6] = 0.0, 1e4
    features = survey.features.copy()
    pixels[8:16], features[8:16] = pixels[8], features[8]
    train = Samples(
        replace(survey, stamps=Stamps((pixels,)), features=features), TASKS["sg"], CPU, "training"
    )
    for config in (TINY, replace(TINY, form="lvit", scale_inputs=False, standardise_stamps=True)):
        model = encoder(train, config)
        for history in (
            pretrain(
                model, train, train, FitConfig(1, 1, 8, 1e-3), AugmentConfig(), photometry="hidden",
                precision="fp32", **where(tmp_path),
            ),
            train_classifier(
                model, train, train, FitConfig(1, 1, 8, 1e-3), AugmentConfig(), name="s", precision="fp32",
                **where(tmp_path),
            ),
        ):  # fmt: skip
            assert "skipped_steps" not in history[0]
        assert torch.isfinite(weights(model)).all()
        for file in tmp_path.iterdir():
            file.unlink()


def test_batches_of_one_object(tmp_path, rng):
    train = samples(3, rng)
    model = encoder(train)
    config = FitConfig(1, 1, 1, 1e-3)
    with pytest.raises(ConfigError, match="a contrastive batch has 1 object"):
        pretrain(
            model,
            train,
            train,
            config,
            AugmentConfig(),
            photometry="hidden",
            precision="fp32",
            **where(tmp_path),
        )
    (entry,) = train_classifier(
        model, train, train, config, AugmentConfig(), name="s", precision="fp32", **where(tmp_path)
    )
    assert np.isfinite(entry["train_loss"])
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_that_are_all_zero(dtype):
    z1, z2 = torch.zeros(6, 8, dtype=dtype, requires_grad=True), torch.zeros(6, 8, dtype=dtype)
    loss = nt_xent(z1, z2, temperature=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(11), rel=1e-3)
    assert torch.isfinite(z1.grad).all()


def test_classifying_flags_the_object(tmp_path, rng):
    train = samples(20, rng)
    save_model(tmp_path / "model", encoder(train), train.classes, SDSS, simulated=True)
    classifier = Classifier.load(tmp_path / "model", device="cpu")
    survey = toy_survey(8, rng)
    pixels, features = survey.stamps.decode(), survey.features.copy()
    pixels[1, 2, 3, 3], pixels[2, 4], pixels[3] = np.nan, np.inf, np.nan
    pixels[4], pixels[5] = 0.0, 3e38
    features[6, 4], features[7] = np.nan, -9999
    found = classifier.predict(pixels, features)
    said = [
        {flag.name for flag in Flag if bits & flag and flag is not Flag.UNCALIBRATED} for bits in found.flag
    ]
    assert said[0] == set()
    assert said[1] == {"PIXEL_MISSING"}
    assert said[2] == {"BAND_MISSING"}
    assert said[3] == {"BAND_MISSING", "NO_IMAGE"}
    assert said[4] == set()
    assert said[5] == {"NOT_CLASSIFIED"}
    assert said[6] == {"FEATURE_MISSING"}
    assert said[7] == {"FEATURE_MISSING", "NO_FEATURES"}
    assert np.isnan(found.probability[5]).all()
    assert found.label[5] == -1
    others = np.arange(8) != 5
    assert np.isfinite(found.probability[others]).all()
    # What is wrong with one object changes nothing of the others but, in a library's sums, a last digit.
    sound = classifier.predict(survey.stamps.decode(), survey.features)
    np.testing.assert_allclose(sound.probability[0], found.probability[0], atol=1e-6)
