"""Exported graphs: the model's probabilities, gaps included, for any number of objects; what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_survey

from margformer_fast import Classifier, cli, export
from margformer_fast.config import LVIT, ModelConfig
from margformer_fast.data.survey import SDSS, TASKS
from margformer_fast.errors import DataError
from margformer_fast.evaluation.calibration import Calibration
from margformer_fast.learning.checkpoint import save_model
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder

TINY = ModelConfig(depth=2, dim=16, num_heads=2, hidden=32, slots=8)
FORMS = {
    "margformer": TINY,
    "raw": replace(TINY, depth=1, scale_inputs=False),
    "lvit": replace(LVIT, depth=1, dim=32, hidden=32, num_heads=4, standardise_stamps=True),
}


def saved(
    path: Path, rng: np.random.Generator, config: ModelConfig = TINY, *, classifies: bool = True
) -> Path:
    """Save a fresh model of three classes whose logits are divided by 0.5."""
    samples = Samples(toy_survey(30, rng, classes=(0, 1, 2)), TASKS["sgq"], torch.device("cpu"), "training")
    model = ScaledEncoder(config, 3).eval()
    model.inputs.fit(samples.photometry, torch.from_numpy(samples.pixel_noise()))
    calibration = Calibration(0.5, tuple(np.linspace(0, 1, 20) for _ in range(3))).to_dict(TASKS["sgq"])
    save_model(path, model, TASKS["sgq"], SDSS, True, calibration=calibration, classifies=classifies)
    return path


def run(*arguments: object) -> int:
    return cli.run(export.main, [str(a) for a in arguments])


def inputs(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    survey = toy_survey(max(count, 3), rng, classes=(0, 1, 2))
    images, features = survey.stamps.decode()[:count], survey.features[:count].astype(np.float32)
    if count > 3:
        images[0, 2], images[1, 0, :3], images[2] = np.nan, np.inf, np.nan
        features[0, 5], features[2], features[3] = -9999, np.nan, np.nan
    return images, features


@pytest.mark.parametrize("form", FORMS)
def test_onnx_is_the_model(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture, form: str
) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, out = saved(tmp_path / "model", rng, FORMS[form]), tmp_path / "model.onnx"
    assert run(path, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "run by onnxruntime on 1, 13, 256 objects: probabilities within" in printed
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["images", "features"]
    assert [each.name for each in session.get_outputs()] == ["probability"]
    model = Classifier.load(path, device="cpu")
    for count in (1, 2, 37):
        images, features = inputs(rng, count)
        (found,) = session.run(None, {"images": images, "features": features})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, model.predict_proba(images, features), atol=1e-5)
        assert np.isnan(found).any() == (count > 3)
    told = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
    assert json.loads(told["classes"]) == ["GALAXY", "QSO", "STAR"]
    assert json.loads(told["bands"]) == list("ugriz")
    assert json.loads(told["features"]) == list(SDSS.feature_names)
    assert json.loads(told["trained_on_simulated_data"]) is True
    assert told["temperature"] == "0.5"
    assert told["software"].startswith("margformer_fast ")


def test_torch_export_is_the_model(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture
) -> None:
    path, out = saved(tmp_path / "model", rng), tmp_path / "model.pt2"
    assert run(path, "--format", "torch-export", "--out", out) == 0
    assert "run by torch.export on 1, 13, 256 objects: probabilities within" in capsys.readouterr().out
    extra = {export.ABOUT: ""}
    program = torch.export.load(io.BytesIO(out.read_bytes()), extra_files=extra).module()
    model = Classifier.load(path, device="cpu")
    for count in (1, 2, 37):
        images, features = inputs(rng, count)
        found = program(torch.from_numpy(images), torch.from_numpy(features)).detach().numpy()
        np.testing.assert_allclose(found, model.predict_proba(images, features), atol=1e-5)
    assert json.loads(json.loads(extra[export.ABOUT])["classes"]) == ["GALAXY", "QSO", "STAR"]


def test_a_graph_that_differs_is_seen(tmp_path: Path, rng: np.random.Generator) -> None:
    model = Classifier.load(saved(tmp_path / "model", rng), device="cpu")
    assert export.largest_difference(model, model.predict_proba) == 0

    def biased(images: np.ndarray, features: np.ndarray) -> np.ndarray:
        return model.predict_proba(images, features) + np.float32(len(images) == 13) * np.float32(0.01)

    assert export.largest_difference(model, biased) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(
        DataError, match=r"returns shape \(13, 3\) and 0 NaN for 13 objects; expected .* and 3"
    ):
        export.largest_difference(model, lambda i, f: np.nan_to_num(model.predict_proba(i, f)))
    with pytest.raises(DataError, match=r"returns shape \(1, 2\)"):
        export.largest_difference(model, lambda i, f: model.predict_proba(i, f)[:, :2])


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, out = saved(tmp_path / "model", rng), tmp_path / "model.pt2"
    monkeypatch.setattr(
        export, "run_torch_export", lambda _: lambda i, f: Classifier.load(path).predict_proba(i, f)[:, ::-1]
    )
    assert run(path, "--format", "torch-export", "--out", out) == 1
    assert "of the exported graph differ by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_without_the_packages(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, out = saved(tmp_path / "model", rng), tmp_path / "model.onnx"
    monkeypatch.setattr(export, "_has", lambda name: name != "onnxscript")
    assert run(path, "--out", out) == 1
    message = "ONNX: onnxscript cannot be imported. pip install 'margformer-fast[export]'"
    assert message in capsys.readouterr().err
    monkeypatch.setattr(export, "_has", lambda name: name != "onnxruntime")
    monkeypatch.setattr(export, "to_onnx", lambda _: b"a graph")
    assert run(path, "--out", out) == 0
    assert "not compared with the model: onnxruntime is not installed" in capsys.readouterr().out
    assert out.read_bytes() == b"a graph"


def test_what_is_refused(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture) -> None:
    path, out = saved(tmp_path / "model", rng, classifies=False), tmp_path / "model.pt2"
    assert run(path, "--format", "torch-export", "--out", out) == 2
    assert "head was never trained" in capsys.readouterr().err
    out.write_text("mine")
    assert run(path, "--format", "torch-export", "--out", out) == 1
    assert "already exists. Choose another place, or pass --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run(tmp_path / "nothing", "--out", tmp_path / "new") == 1
    assert "is no model directory" in capsys.readouterr().err
    assert run(path, "--format", "tflite", "--out", out) == 2
