"""A trained model on arrays in memory: the classifier, an exported graph, and the published model in PyTorch.

Two numbers of objects stand for two uses: one alert at a time, and a catalogue in batches.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from bench_encoder import AsPublished
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast.backends import use_backend
from margformer_fast.classifier import Classifier
from margformer_fast.config import ModelConfig
from margformer_fast.data.survey import SDSS
from margformer_fast.evaluation.calibration import Calibration
from margformer_fast.export import run_onnx, to_onnx
from margformer_fast.learning.checkpoint import SavedModel
from margformer_fast.nn.inputs import ScaledEncoder

CONFIG = ModelConfig(slots=64, depth=12, dropout=0.0, photometry_dropout=0.0)
CLASSES = ("GALAXY", "STAR")
TOLERANCE = 1e-5


@lru_cache(maxsize=1)
def classifier() -> Classifier:
    """Return the published MargFormer with fresh weights, a temperature and 2,000 calibration objects."""
    torch.manual_seed(1)
    model = ScaledEncoder(CONFIG, len(CLASSES)).eval()
    calibration = Calibration(1.5, (np.sort(np.random.default_rng().random(1000)),) * 2)
    saved = SavedModel(model, CLASSES, SDSS, True, True, None, None)
    return Classifier(saved, calibration, torch.device("cpu"), "fp32")


@lru_cache(maxsize=1)
def published() -> ScaledEncoder:
    """Return the same weights as the published modules compute them: every token, the last layer too."""
    model = ScaledEncoder(CONFIG, len(CLASSES))
    model.encoder = AsPublished(CONFIG, len(CLASSES))
    model.load_state_dict(classifier().model.state_dict())
    return model.eval()


@lru_cache(maxsize=2)
def objects(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random stamps and features, fresh in each run."""
    rng = np.random.default_rng()
    images = rng.normal(size=(count, CONFIG.num_bands, CONFIG.size, CONFIG.size)).astype(np.float32)
    return images, rng.normal(size=(count, CONFIG.num_features)).astype(np.float32)


def predict(count: int) -> np.ndarray:
    return classifier().predict_proba(*objects(count))


def eager(count: int) -> np.ndarray:
    images, features = (torch.from_numpy(each) for each in objects(count))
    with torch.inference_mode(), use_backend("reference"):
        logits = published()(features, images)
    return (logits / classifier().temperature).softmax(dim=1).numpy()


@pytest.mark.parametrize("count", [1, 512])
@pytest.mark.parametrize("way", ["published", "classifier"])
def bench_predict(benchmark: BenchmarkFixture, way: str, count: int) -> None:
    """Probabilities (and sets and flags, of the classifier) from NumPy arrays."""
    run = {"published": eager, "classifier": predict}[way]
    np.testing.assert_allclose(run(count), eager(count), atol=TOLERANCE)
    benchmark.group = f"Classify {count} object{'s' if count > 1 else ''} with MargFormer"
    benchmark.extra_info.update(images=count, baseline=way == "published", precision="fp32")
    benchmark.pedantic(run, (count,), rounds=100 if count == 1 else 5, warmup_rounds=2)


def bench_onnx(benchmark: BenchmarkFixture) -> None:
    """The exported graph, one object at a time."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    session = run_onnx(to_onnx(classifier()))
    images, features = objects(1)
    np.testing.assert_allclose(session(images, features), eager(1), atol=TOLERANCE)
    benchmark.group = "Classify 1 object with MargFormer"
    benchmark.extra_info.update(images=1, baseline=False, precision="fp32")
    benchmark.pedantic(session, (images, features), rounds=100, warmup_rounds=2)
