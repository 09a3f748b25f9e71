"""Training: it learns, keeps the best weights, resumes exactly, and refuses what it cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy import toy_survey

from margformer_fast.config import LVIT, AugmentConfig, FitConfig, ModelConfig
from margformer_fast.data.survey import SDSS, TASKS
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.learning import loop
from margformer_fast.learning.checkpoint import load_model, save_model
from margformer_fast.learning.classify import predict, train_classifier
from margformer_fast.learning.device import pick_device, pick_precision
from margformer_fast.learning.loop import Stage, batches, run_stage
from margformer_fast.learning.pretrain import pretrain
from margformer_fast.learning.probe import Probe, probabilities, train_probe
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder
from margformer_fast.ops.stamps import Stamps

CPU = torch.device("cpu")
TINY = ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8, photometry_dropout=0.1)
FIT = FitConfig(3, 3, 16, 3e-3, "cosine")


def samples(
    n: int, rng: np.random.Generator, name: str = "training", task: str = "sg", **toy: object
) -> Samples:
    classes = (0, 2) if task == "sg" else (0, 1, 2)
    return Samples(toy_survey(n, rng, classes=classes, **toy), TASKS[task], CPU, name)


def where(tmp_path: Path) -> dict[str, object]:
    return {"seed": 1, "directory": tmp_path, "label": "test"}


def encoder(train: Samples, config: ModelConfig = TINY, seed: int = 0) -> ScaledEncoder:
    torch.manual_seed(seed)
    model = ScaledEncoder(config, len(train.classes))
    model.inputs.fit(train.photometry, torch.from_numpy(train.pixel_noise()))
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_supervised_training_learns(tmp_path: Path, rng: np.random.Generator, precision: str) -> None:
    train, val = samples(160, rng), samples(80, rng, "validation", objid_from=10_000)
    model = encoder(train)
    config = FitConfig(12, 12, 16, 5e-3, "cosine")
    history = train_classifier(
        model, train, val, config, AugmentConfig(), name="supervised", precision=precision, **where(tmp_path)
    )
    probability, embedding = predict(model, val, precision=precision)
    accuracy = (probability.argmax(1) == val.label.numpy()).mean()
    assert accuracy > 0.85
    assert accuracy == history[int(np.argmin([h["val_loss"] for h in history]))]["val_accuracy"]
    assert embedding.shape == (80, 16)
    np.testing.assert_allclose(probability.sum(1), 1)


@pytest.mark.parametrize("photometry", ["hidden", "shared"])
def test_pretraining_brings_views_together(tmp_path: Path, rng: np.random.Generator, photometry: str) -> None:
    train, val = samples(128, rng), samples(64, rng, "validation", objid_from=10_000)
    model = encoder(train, replace(TINY, dim=32, depth=2, dropout=0.0, photometry_dropout=0.0))
    head = model.encoder.mlp_head[1].weight.clone()
    config = FitConfig(20, 20, 64, 3e-3, "cosine")
    history = pretrain(
        model, train, val, config, AugmentConfig(), photometry=photometry, precision="fp32", **where(tmp_path)
    )
    # A representation that is the same for all objects has the loss ln(2 * 64 - 1).
    assert history[-1]["val_loss"] < np.log(127) - 0.5
    assert torch.equal(model.encoder.mlp_head[1].weight, head), "pre-training must not touch the head"


def test_hidden_photometry_is_not_seen(rng: np.random.Generator) -> None:
    train = samples(8, rng)
    model = encoder(train).eval()
    image = train.tokens(np.arange(8), 4)
    assert torch.equal(model.embed(None, image), model.embed(None, image))
    same_image = image[:1].expand(8, -1, -1)
    assert model.embed(None, same_image).std(dim=0).max() == 0
    assert model.embed(train.photometry, same_image).std(dim=0).max() > 0


@pytest.mark.parametrize("kind", ["linear", "mlp", "deep"])
def test_probe_learns_what_there_is_to_learn(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    y = torch.from_numpy(rng.integers(0, 3, 400))
    x = (
        torch.nn.functional.one_hot(y, 3).float() * 1e4
        + torch.from_numpy(rng.normal(0, 2e3, (400, 3))).float()
    )
    config = FitConfig(30, 30, 32, 3e-3)
    probe, history = train_probe(
        (x[:300], y[:300]), (x[300:], y[300:]), 3, config, kind=kind, name="probe", **where(tmp_path)
    )
    assert min(h["val_loss"] for h in history) < 0.4  # a third of a guess among three
    probability = probabilities(probe, x[300:])
    assert (probability.argmax(axis=1) == y[300:].numpy()).mean() > 0.95


def test_an_unknown_probe_is_refused() -> None:
    with pytest.raises(ConfigError, match="no probe 'cubic'"):
        Probe("cubic", torch.randn(5, 2), 2)


class CrashError(Exception):
    """Stands for a kill."""


def crash_after(epoch: int, stage: Stage) -> Stage:
    def loss(rows: np.ndarray, now: int) -> torch.Tensor:
        if now > epoch:
            raise CrashError
        return stage.loss(rows, now)

    return replace(stage, loss=loss)


def tiny_stage(max_epochs: int = 6, patience: int = 6, device: str = "cpu") -> Stage:
    """Regression with dropout: small, but with every kind of randomness that training has."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 4).to(device), torch.randn(50, 1).to(device)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1)).to(device)
    return Stage(
        "stage",
        7,
        model,
        50,
        FitConfig(max_epochs, patience, 8, 1e-2, "cosine", weight_decay=0.1, clip_norm=1.0),
        lambda rows, _: (model(x[rows]) - y[rows]).square().mean(),
        lambda _: {"val_loss": (model(x) - y).square().mean().item()},
    )


@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", -1.0)
    alone = tiny_stage()
    left_alone = run_stage(alone, seed=3, directory=tmp_path, label="alone")
    (tmp_path / "stage.safetensors").unlink()
    with pytest.raises(CrashError):
        run_stage(crash_after(killed_after, tiny_stage()), seed=3, directory=tmp_path, label="killed")
    torch.rand(17)  # the state of the global generator must not matter
    resumed = tiny_stage()
    history = run_stage(resumed, seed=3, directory=tmp_path, label="resumed")
    for a, b in zip(alone.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [h["val_loss"] for h in history] == [h["val_loss"] for h in left_alone]
    # Once more, over the finished checkpoint: nothing is trained, and the weights are the same.
    finished = crash_after(0, tiny_stage())
    run_stage(finished, seed=3, directory=tmp_path, label="finished")
    assert all(
        torch.equal(a, b) for a, b in zip(alone.model.parameters(), finished.model.parameters(), strict=True)
    )


def test_best_weights_are_a_copy_of_the_best_epoch(tmp_path: Path) -> None:
    """The published code keeps a reference to the live weights, so that its best are its last."""
    losses = iter([3.0, 1.0, 2.0, 5.0])
    seen = []
    stage = tiny_stage(max_epochs=4)

    def validate(_epoch: int) -> dict[str, float]:
        seen.append([p.detach().clone() for p in stage.model.parameters()])
        return {"val_loss": next(losses)}

    run_stage(replace(stage, validate=validate), seed=0, directory=tmp_path, label="test")
    assert all(torch.equal(a, b) for a, b in zip(stage.model.parameters(), seen[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(stage.model.parameters(), seen[3], strict=True))


def test_early_stopping(tmp_path: Path) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.5, 2.5, 1.0])
    stage = replace(tiny_stage(max_epochs=6, patience=3), validate=lambda _: {"val_loss": next(losses)})
    assert len(run_stage(stage, seed=0, directory=tmp_path, label="test")) == 5


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    stage = tiny_stage()
    bad = replace(stage, loss=lambda rows, epoch: stage.loss(rows, epoch) * torch.inf)
    with pytest.raises(DataError, match="gradient is inf in epoch 1, step 2: 2 of 7 steps were left out"):
        run_stage(bad, seed=0, directory=tmp_path, label="test")
    assert not list(tmp_path.iterdir())


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    run_stage(tiny_stage(), seed=0, directory=tmp_path, label="test")
    with pytest.raises(DataError, match=r"other settings \(max_epochs\)"):
        run_stage(tiny_stage(max_epochs=7), seed=0, directory=tmp_path, label="test")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    run_stage(tiny_stage(), seed=0, directory=tmp_path, label="test")
    path = tmp_path / "stage.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a whole checkpoint"):
        run_stage(tiny_stage(), seed=0, directory=tmp_path, label="test")


def test_batches_hold_every_object_once_and_none_is_small() -> None:
    parts = batches(1001, 100, seed=4)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1001))
    assert {len(part) for part in parts} == {91}
    assert not np.array_equal(batches(1001, 100, seed=5)[0], parts[0])


@pytest.mark.parametrize("config", [TINY, replace(LVIT, depth=1, dim=32, hidden=32, num_heads=4)])
def test_a_saved_model_predicts_the_same(
    tmp_path: Path, rng: np.random.Generator, config: ModelConfig
) -> None:
    train = samples(20, rng)
    model = encoder(train, config)
    save_model(tmp_path / "model", model, train.classes, SDSS, simulated=True)
    loaded, classes, profile = load_model(tmp_path / "model")
    assert classes == ("GALAXY", "STAR")
    assert profile is SDSS
    for a, b in zip(predict(model, train), predict(loaded, train), strict=True):
        assert np.array_equal(a, b)


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    train = samples(20, rng)
    save_model(tmp_path / "model", encoder(train), train.classes, SDSS, simulated=True)
    config = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(config.replace('"dim": 16', '"dim": 32'))
    with pytest.raises(DataError, match="weights do not fit the model"):
        load_model(tmp_path / "model")


def test_samples_refuse_what_cannot_be_learned_from(rng: np.random.Generator) -> None:
    survey = toy_survey(12, rng)
    features = survey.features.copy()
    features[3, 4] = np.nan
    with pytest.raises(DataError, match=r"training set: 1 of 12 objects.*objid 4, dered_g = nan"):
        Samples(replace(survey, features=features), TASKS["sg"], CPU, "training")
    pixels = survey.stamps.decode()
    pixels[5, 2] = np.nan
    with pytest.raises(DataError, match=r"1 of 12 stamps.*objid 6, band r"):
        Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training")
    pixels[5, 2, :16] = 0.5
    patched = Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training")
    assert patched.missing_pixels == 16 * 32
    assert torch.isfinite(patched.tokens(np.arange(12), 4)).all()
    with pytest.raises(DataError, match="training set has no QSO"):
        Samples(survey, TASKS["sgq"], CPU, "training").require_classes()
    with pytest.raises(DataError, match="label outside the task"):
        Samples(toy_survey(12, rng, classes=(0, 1, 2)), TASKS["sg"], CPU, "training").require_classes()
    with pytest.raises(DataError, match="the test set is empty"):
        Samples(survey.select(np.arange(0)), TASKS["sg"], CPU, "test")


def test_pixel_noise_is_the_noise(rng: np.random.Generator) -> None:
    survey = toy_survey(30, rng)
    noise = np.array([0.02, 0.05, 0.1, 0.2, 0.4])
    pixels = rng.normal(0, 1, (30, 5, 32, 32)) * noise[:, None, None]
    measured = Samples(replace(survey, stamps=Stamps((pixels,))), TASKS["sg"], CPU, "training").pixel_noise()
    np.testing.assert_allclose(measured, noise, rtol=0.05)


def test_input_scaling(rng: np.random.Generator) -> None:
    train = samples(40, rng)
    inputs = encoder(train).inputs
    token = train.tokens(np.arange(40), 4)
    photometry, patch = inputs(train.photometry, token)
    varying = train.photometry.std(dim=0) > 0.1
    assert not varying.all(), "the toy survey's seeing never varies"
    assert photometry.abs()[:, ~varying].max() < 10
    torch.testing.assert_close(photometry.mean(dim=0), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(photometry.std(dim=0, correction=0)[varying], torch.ones(int(varying.sum())))
    torch.testing.assert_close(patch, torch.asinh(token / inputs.noise.repeat(16)))
    raw = ScaledEncoder(replace(TINY, scale_inputs=False), 2).inputs
    assert raw(train.photometry, patch) == (train.photometry, patch)


def test_devices_and_precisions() -> None:
    assert pick_device("cpu") == CPU
    assert pick_precision("auto", CPU) == "fp32"
    assert pick_precision("auto", torch.device("cuda")) == "bf16"
    for name in ("tpu", "meta", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(ConfigError, match="device"):
            pick_device(name)
    with pytest.raises(ConfigError, match="precision"):
        pick_precision("fp8", CPU)


@pytest.mark.parametrize("pays", [True, False])
def test_bf16_that_would_be_slow_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pays: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if pays else "AVX2")
    assert pick_precision("bf16", CPU) == "bf16"
    assert ("--precision fp32 is faster" in caplog.text) == (not pays)
    caplog.clear()
    pick_precision("auto", CPU)
    assert not caplog.text


@pytest.mark.gpu
def test_training_on_a_gpu_learns(tmp_path: Path, rng: np.random.Generator) -> None:
    cuda = torch.device("cuda")
    train, val = (
        Samples(toy_survey(n, rng, objid_from=first), TASKS["sg"], cuda, "test")
        for n, first in ((160, 1), (80, 10_000))
    )
    torch.manual_seed(0)
    model = ScaledEncoder(TINY, 2)
    model.inputs.fit(train.photometry.cpu(), torch.from_numpy(train.pixel_noise()))
    model.to(cuda)
    config = FitConfig(12, 12, 32, 5e-3, "cosine")
    pretrain(
        model, train, val, config, AugmentConfig(), photometry="hidden", precision="bf16", **where(tmp_path)
    )
    train_classifier(
        model, train, val, config, AugmentConfig(), name="finetune", precision="bf16", **where(tmp_path)
    )
    probability, _ = predict(model, val, precision="bf16")
    assert (probability.argmax(1) == val.label.cpu().numpy()).mean() > 0.85
