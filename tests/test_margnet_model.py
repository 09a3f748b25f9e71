"""MargNet: the published sizes, what its layers compute, and how the three parts are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy import toy_survey

from margformer_fast.config import FitConfig, MargNetConfig
from margformer_fast.data.survey import TASKS
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.experiments import PRESETS
from margformer_fast.learning import loop, margnet
from margformer_fast.learning.checkpoint import load_tensors
from margformer_fast.learning.loop import Stage
from margformer_fast.learning.margnet import (
    CNN,
    DNN,
    ENSEMBLE,
    MARGNET_VIEWS,
    MargNetFit,
    halves,
    predict_margnet,
    train_margnet,
)
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.margnet import InceptionBlock, LastBlock, MargNet, MargNetCNN, MargNetDNN, MargNetHead
from margformer_fast.ops.stamps import Stamps

CPU = torch.device("cpu")
NARROW = MargNetConfig(width=0.05, dropout=0.1)
SHORT = MargNetFit(*(FitConfig(3, 3, 16, 3e-3, "cosine"),) * 3)


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape))


def samples(n: int, rng: np.random.Generator, task: str = "sg", **toy: object) -> Samples:
    classes = (0, 2) if task == "sg" else (0, 1, 2)
    return Samples(toy_survey(n, rng, classes=classes, **toy), TASKS[task], CPU, "test")


def fresh(rng: np.random.Generator, config: MargNetConfig, num_classes: int = 2) -> MargNet:
    """Make a model whose biases count too, in float64 and evaluation mode."""
    model = MargNet(config, num_classes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(normal(rng, len(parameter)) * 0.1)
    return model


@pytest.mark.parametrize(
    ("num_classes", "dnn", "cnn", "ensemble"),
    [(2, 331_298, 25_542_758, 25_874_128), (3, 331_331, 25_543_783, 25_875_217)],
)
def test_published_numbers_of_parameters(num_classes: int, dnn: int, cnn: int, ensemble: int) -> None:
    model = MargNet(MargNetConfig(), num_classes)
    assert num_parameters(model.dnn) == dnn
    assert num_parameters(model.cnn) == cnn
    assert num_parameters(model) == ensemble


def test_the_paper_preset_is_the_published_network(rng: np.random.Generator) -> None:
    assert PRESETS["paper"].margnet(toy_survey(4, rng)) == MargNetConfig()
    assert PRESETS["quick"].margnet(toy_survey(4, rng)).width < 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [4, 7, 32])
def test_shapes(rng: np.random.Generator, batch: int, size: int) -> None:
    model = fresh(rng, replace(NARROW, size=size, num_bands=6, num_features=29), 3)
    feature, image = normal(rng, batch, 29), normal(rng, batch, 6, size, size)
    for logits in (model.of_features(feature), model.of_images(image), model(feature, image)):
        assert logits.shape == (batch, 3)


def conv(x: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """Sum over the kernel's places of a zero-padded image, one by one, and ReLU."""
    k = layer.weight.shape[-1]
    padded = F.pad(x, (k // 2,) * 4)
    y = layer.bias[None, :, None, None].expand(len(x), -1, *x.shape[2:])
    for i in range(k):
        for j in range(k):
            shifted = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            y = y + torch.einsum("oc,bcyx->boyx", layer.weight[:, :, i, j], shifted)
    return y.clamp(min=0)


def inception(block: InceptionBlock, x: torch.Tensor) -> torch.Tensor:
    a, b, c = (conv(x, layer) for layer in (block.to_small, block.to_large, block.passed))
    return torch.cat([conv(a, block.one), conv(a, block.three), conv(b, block.five), c], dim=1)


def last(block: LastBlock, x: torch.Tensor) -> torch.Tensor:
    three = conv(conv(x, block.to_three), block.three)
    return torch.cat([conv(x, block.one), three, conv(x, block.passed)], dim=1)


@pytest.mark.parametrize(("kind", "explicit"), [(InceptionBlock, inception), (LastBlock, last)])
def test_blocks_against_sums_written_out(rng: np.random.Generator, kind: type, explicit: Callable) -> None:
    block = kind(4, 3, 5).double()
    x = normal(rng, 2, 4, 7, 7)
    found = block(x)
    assert found.shape == (2, block.num_channels, 7, 7)
    torch.testing.assert_close(found, explicit(block, x))


def test_image_network_against_sums_written_out(rng: np.random.Generator) -> None:
    net = fresh(rng, replace(NARROW, size=8)).cnn
    image = normal(rng, 2, 5, 8, 8)
    x = conv(image, net.first)
    x = inception(net.blocks[1], inception(net.blocks[0], x))
    x = x.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    x = inception(net.blocks[3], inception(net.blocks[2], x))
    x = x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    x = last(net.last, x)
    # Keras flattens with channels last: by row, column, channel.
    flat = torch.stack([x[:, :, i, j] for i in range(2) for j in range(2)], dim=1).reshape(2, -1)
    for layer in (net.dense1, net.dense2, net.classes):
        flat = flat @ layer.weight.T + layer.bias
    torch.testing.assert_close(net(image), flat)
    torch.testing.assert_close(net(image.to(memory_format=torch.channels_last)), flat)


def test_ensemble_against_sums_written_out(rng: np.random.Generator) -> None:
    model = fresh(rng, replace(NARROW, size=4, scale_inputs=False), 3)
    feature, image = normal(rng, 5, 24), normal(rng, 5, 5, 4, 4)
    x, linear = feature, [layer for layer in model.dnn.layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        x = 1 / (1 + torch.exp(-(x @ layer.weight.T + layer.bias)))
    x = x @ linear[-1].weight.T + linear[-1].bias
    torch.testing.assert_close(model.of_features(feature), x)
    both = torch.cat([torch.exp(z) / torch.exp(z).sum(1, keepdim=True) for z in (x, model.cnn(image))], dim=1)
    hidden = (both @ model.head.hidden.weight.T + model.head.hidden.bias).clamp(min=0)
    expected = hidden @ model.head.classes.weight.T + model.head.classes.bias
    torch.testing.assert_close(model(feature, image), expected)


def test_dropout_is_of_the_feature_network_alone(rng: np.random.Generator) -> None:
    model = fresh(rng, replace(NARROW, size=4)).train()
    feature, image = normal(rng, 4, 24), normal(rng, 4, 5, 4, 4)
    assert not torch.equal(model.of_features(feature), model.of_features(feature))
    assert torch.equal(model.of_images(image), model.of_images(image))
    silent = fresh(rng, replace(NARROW, dropout=0.0)).train()
    assert torch.equal(silent.of_features(feature), silent.of_features(feature))


@pytest.mark.parametrize("make", [MargNetDNN, MargNetCNN, lambda _, n: MargNetHead(n)])
def test_first_weights_are_those_of_keras(make: Callable) -> None:
    for layer in make(replace(MargNetConfig(), width=0.5), 2).modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        places = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
        limit = (6 / (places * sum(layer.weight.shape[:2]))) ** 0.5
        assert layer.weight.abs().max() <= limit
        if layer.weight.numel() > 5_000:
            assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
        assert not layer.bias.any()


def test_scaling_of_inputs(rng: np.random.Generator) -> None:
    train = samples(12, rng)
    raw = torch.from_numpy(train.survey.stamps.decode())
    tokens = margnet._as_images(train.tokens(np.arange(12), 1), 32)
    assert torch.equal(tokens, raw), "tokens of one pixel are the image"
    for active in (True, False):
        model = MargNet(replace(NARROW, scale_inputs=active), 2).eval()
        noise = train.pixel_noise()
        model.inputs.fit(train.photometry, torch.from_numpy(noise))
        seen = torch.asinh(raw / torch.from_numpy(noise).float()[:, None, None]) if active else raw
        torch.testing.assert_close(model.of_images(raw), model.cnn(seen))
        features = model.inputs.scale_photometry(train.photometry)
        assert torch.equal(features, train.photometry) != active
        assert torch.equal(model.of_features(train.photometry), model.dnn(features))


def test_views_repeat_the_edge(rng: np.random.Generator) -> None:
    flat = np.broadcast_to(rng.uniform(1, 2, (6, 5, 1, 1)), (6, 5, 32, 32)).astype(np.float32)
    train = samples(6, rng)
    train = Samples(replace(train.survey, stamps=Stamps((flat,))), train.classes, CPU, "test")
    view = train.views(np.arange(6), MARGNET_VIEWS, seed=1, epoch=1, num_views=1, patch_size=1)[0]
    torch.testing.assert_close(margnet._as_images(view, 32), torch.from_numpy(flat))


def test_learns_what_there_is_to_learn(tmp_path: Path, rng: np.random.Generator) -> None:
    train, val = samples(240, rng, "sgq"), samples(160, rng, "sgq", objid_from=10_000)
    test = samples(150, rng, "sgq", objid_from=20_000)
    quick = PRESETS["quick"]
    dnn, head = quick.fit("margnet_dnn", len(train)), quick.margnet_head
    fit = MargNetFit(dnn, FitConfig(8, 8, 16, 3e-3, "cosine"), head)
    config = replace(NARROW, width=0.1, dropout=0.0)
    model, history = train_margnet(
        config, train, val, fit, precision="fp32", seed=1, directory=tmp_path, label="test"
    )
    assert set(history) == {DNN, CNN, ENSEMBLE}
    assert (len(history[CNN]), len(history[ENSEMBLE])) == (8, head.max_epochs)
    assert dnn.patience < len(history[DNN]) <= dnn.max_epochs  # sometimes it is best early on
    accuracy = {}
    for name, probability in predict_margnet(model, test).items():
        assert probability.shape == (150, 3)
        assert probability.dtype == np.float64
        np.testing.assert_allclose(probability.sum(axis=1), 1)
        accuracy[name] = (probability.argmax(axis=1) == test.label.numpy()).mean()
    assert set(accuracy) == {DNN, CNN, ENSEMBLE}
    # Five layers of sigmoids sometimes have told two of three classes apart by the end, never none.
    assert accuracy[DNN] > 0.55, accuracy
    assert min(accuracy[CNN], accuracy[ENSEMBLE]) > 0.85, accuracy
    best = {name: min(each, key=lambda h: h["val_loss"]) for name, each in history.items()}
    found = {
        name: (p.argmax(axis=1) == val.label.numpy()).mean()
        for name, p in predict_margnet(model, val).items()
    }
    for name in (DNN, CNN):
        assert found[name] == pytest.approx(best[name]["val_accuracy"])
    with torch.no_grad():
        one = torch.from_numpy(test.survey.stamps.decode(np.arange(1)))
        alone = model(test.photometry[:1], one).double().softmax(dim=1)
    np.testing.assert_allclose(alone, predict_margnet(model, test)[ENSEMBLE][:1], atol=1e-5)


class CrashError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("killed_in", [DNN, CNN, ENSEMBLE])
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    train, val = samples(40, rng), samples(30, rng, objid_from=10_000)

    def learn(place: str) -> tuple[MargNet, dict[str, list[dict[str, float]]]]:
        (tmp_path / place).mkdir(exist_ok=True)
        return train_margnet(
            NARROW, train, val, SHORT, precision="fp32", seed=3, directory=tmp_path / place, label="test"
        )

    alone, curves = learn("alone")
    run_stage = margnet.run_stage

    def killed(stage: Stage, **where: object) -> list[dict[str, float]]:
        def loss(rows: np.ndarray, epoch: int) -> torch.Tensor:
            if epoch > 1:
                raise CrashError
            return stage.loss(rows, epoch)

        return run_stage(replace(stage, loss=loss) if stage.name == killed_in else stage, **where)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_SAVE_SECONDS", -1.0)
        patched.setattr(margnet, "run_stage", killed)
        with pytest.raises(CrashError):
            learn("killed")
    torch.rand(17)  # the state of the global generator must not matter
    resumed, history = learn("killed")
    for (name, a), b in zip(alone.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name in (DNN, CNN, ENSEMBLE):
        assert [h["val_loss"] for h in history[name]] == [h["val_loss"] for h in curves[name]]


def test_networks_are_frozen_while_the_head_learns(tmp_path: Path, rng: np.random.Generator) -> None:
    train, val = samples(40, rng), samples(30, rng, objid_from=10_000)
    model, _ = train_margnet(
        NARROW, train, val, SHORT, precision="fp32", seed=3, directory=tmp_path, label="test"
    )
    for name, part in ((DNN, model.dnn), (CNN, model.cnn), (ENSEMBLE, model.head)):
        saved, _ = load_tensors(tmp_path / f"{name}.safetensors")
        for key, value in part.state_dict().items():
            assert torch.equal(saved[f"best/{key}"], value), f"{name} {key}"
    assert not model.training


@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_what_the_head_is_trained_on(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    train, val = samples(40, rng), samples(31, rng, objid_from=10_000)
    stages: dict[str, Stage] = {}

    def watched(stage: Stage, **_: object) -> list[dict[str, float]]:
        stages[stage.name] = stage
        return []

    monkeypatch.setattr(margnet, "run_stage", watched)
    model, _ = train_margnet(
        NARROW,
        train,
        val,
        SHORT,
        protocol=protocol,
        precision="fp32",
        seed=3,
        directory=tmp_path,
        label="test",
    )
    head = stages[ENSEMBLE]
    # Untrained, so that the head's losses tell which validation objects they are of.
    probability = predict_margnet(model, val)[ENSEMBLE]
    loss = -np.log(probability[np.arange(31), val.label.numpy()])
    first, second = halves(val.survey.objid, val.label.numpy(), 3)
    learned, checked = (first, second) if protocol == "clean" else (np.arange(31),) * 2
    assert head.num_objects == len(learned)
    with torch.no_grad():
        assert head.loss(np.arange(len(learned)), 1).item() == pytest.approx(loss[learned].mean(), rel=1e-5)
        assert head.validate(1)["val_loss"] == pytest.approx(loss[checked].mean(), rel=1e-5)
    right = probability.argmax(axis=1) == val.label.numpy()
    assert head.validate(1)["val_accuracy"] == pytest.approx(right[checked].mean())


def test_halves(rng: np.random.Generator) -> None:
    n = int(rng.integers(2, 200))
    objid = rng.permutation(10 * n)[:n].astype(np.int64)
    label = rng.integers(0, 3, n)
    first, second = halves(objid, label, 5)
    assert np.array_equal(np.sort(np.concatenate([first, second])), np.arange(n))
    assert len(first) - len(second) in (0, 1)
    for k in range(3):
        assert abs(int((label[first] == k).sum()) - int((label[second] == k).sum())) <= 1
    order = rng.permutation(n)
    again, _ = halves(objid[order], label[order], 5)
    assert set(objid[order][again]) == set(objid[first]), "the order of objects must not matter"
    if n > 40:
        assert set(objid[halves(objid, label, 6)[0]]) != set(objid[first])


def test_halves_of_one_object_a_class() -> None:
    first, second = halves(np.array([7, 8]), np.array([0, 1]), 0)
    assert len(first) == len(second) == 1


def test_what_cannot_be_trained_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    train, val = samples(20, rng), samples(20, rng, objid_from=10_000)
    common = {"precision": "fp32", "seed": 0, "directory": tmp_path, "label": "test"}
    with pytest.raises(ConfigError, match=r"no protocol 'fair'; expected clean \| published"):
        train_margnet(NARROW, train, val, SHORT, protocol="fair", **common)
    stars = Samples(
        train.survey.select(np.flatnonzero(train.survey.label == 2)), train.classes, CPU, "training"
    )
    with pytest.raises(DataError, match="training set has no GALAXY"):
        train_margnet(NARROW, stars, val, SHORT, **common)
    assert not list(tmp_path.iterdir())
    for wrong in ({"width": 0.0}, {"width": 1.5}, {"dropout": 1.0}, {"size": 3}, {"num_bands": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MargNetConfig(**wrong)
