"""The adapter to Hyrax, with Hyrax itself where it can be imported, else with a stand-in."""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from test_classifier import Made

import margformer_fast
from margformer_fast import Classifier
from margformer_fast.data.store import write_store
from margformer_fast.data.survey import CLASSES


def stand_in(cls: type) -> type:
    """Do what Hyrax's decorator does with a model, as far as the adapter sees it."""
    init = cls.__init__

    def initialise(self: torch.nn.Module, config: dict[str, Any], *rest: Any, **named: Any) -> None:
        init(self, config, *rest, **named)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    assert isinstance(vars(cls)["prepare_inputs"], staticmethod)
    cls.__init__ = initialise
    cls.save = lambda self, path: torch.save(self.state_dict(), path)
    cls.load = lambda self, path: self.load_state_dict(torch.load(path, weights_only=True))
    return cls


class DatasetStandIn:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    try:
        importlib.import_module("hyrax.models.model_registry")
    except (ImportError, RuntimeError):  # a torchvision of another torch ends in a RuntimeError
        names = ("hyrax", "hyrax.models", "hyrax.models.model_registry", "hyrax.datasets")
        for name in (*names, "hyrax.datasets.dataset_registry"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["hyrax.models.model_registry"].hyrax_model = stand_in
        sys.modules["hyrax.datasets.dataset_registry"].HyraxDataset = DatasetStandIn
    monkeypatch.delitem(sys.modules, "margformer_fast.hyrax", raising=False)
    yield importlib.import_module("margformer_fast.hyrax")
    sys.modules.pop("margformer_fast.hyrax", None)


@pytest.fixture
def made(tmp_path: Path, rng: np.random.Generator) -> Made:
    return Made(tmp_path / "made", rng)


def configured(directory: Path) -> dict[str, Any]:
    """Return as much of Hyrax's configuration as a model sees."""
    optimizer = {"name": "torch.optim.SGD"}
    nothing = {"name": False}
    return {
        "model": {"MargFormer": {"directory": str(directory)}},
        "optimizer": optimizer,
        "torch.optim.SGD": {"lr": 0.01},
        "criterion": nothing,
        "scheduler": nothing,
    }


def collated(store: Any, rows: range) -> dict[str, Any]:
    """Return a batch as Hyrax makes one: an array a field, the fields that the dataset has a getter for."""
    fields = ("image", "features", "label")
    batch = {name: np.stack([getattr(store, f"get_{name}")(row) for row in rows]) for name in fields}
    return {"object_id": [store.get_objid(row) for row in rows], "data": batch}


def tensors(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(each) for each in model.prepare_inputs(batch))


def test_a_store_is_classified_as_by_ourselves(adapter: Any, made: Made, tmp_path: Path) -> None:
    write_store(tmp_path / "store", made.survey)
    store = adapter.SurveyStore({}, data_location=tmp_path / "store")
    assert len(store) == len(made.survey)
    assert store.get_objid(3) == str(made.survey.objid[3])
    assert (store.get_ra(3), store.get_dec(3)) == (made.survey.ra[3], made.survey.dec[3])
    model = adapter.MargFormer(configured(made.path)).eval()
    batch = tensors(model, collated(store, range(len(store))))
    found = model.infer_batch(batch)
    probability, embedding = found["probability"].detach().numpy(), found["embedding"].detach().numpy()
    np.testing.assert_allclose(probability, made.found(), atol=2e-6)
    np.testing.assert_allclose(embedding, made.classifier.embed(made.images, made.features), atol=1e-4)
    # From stamps alone, where a dataset has no photometry.
    alone = model((batch[0], None, None)).detach().numpy()
    np.testing.assert_allclose(alone, made.found(features=None), atol=2e-6)


def test_training_goes_down_and_leaves_out_other_classes(adapter: Any, made: Made, tmp_path: Path) -> None:
    write_store(tmp_path / "store", made.survey)
    store = adapter.SurveyStore({}, data_location=tmp_path / "store")
    model = adapter.MargFormer(configured(made.path))
    model.eval()  # no dropout: the loss of a step can be compared
    image, features, label = tensors(model, collated(store, range(len(store))))
    own = torch.tensor([made.classifier.classes.index(CLASSES[k]) for k in label])
    assert model.classes == made.classifier.classes
    plain = model.inference.model.head(model.inference.embed(image, features))
    expected = torch.nn.functional.cross_entropy(plain, own)
    torch.testing.assert_close(model.validate_batch((image, features, label))["loss"], expected.detach())
    # A quasar, and an object whose class nobody knows, change nothing.
    more = torch.cat([label, torch.tensor([CLASSES.index("QSO"), -1])])
    wider = (torch.cat([image, image[:2]]), torch.cat([features, features[:2]]), more)
    torch.testing.assert_close(model.test_batch(wider)["loss"], expected.detach())
    losses = [float(model.train_batch((image, features, label))["loss"]) for _ in range(10)]
    assert losses[-1] < losses[0]
    with pytest.raises(RuntimeError, match="add 'label' to the fields"):
        model.validate_batch((image, features, None))


def test_what_hyrax_keeps_of_the_source_runs_alone(adapter: Any) -> None:
    alone: dict[str, Any] = {}
    exec(textwrap.dedent(inspect.getsource(adapter.MargFormer.prepare_inputs)), alone)
    assert alone["prepare_inputs"]({"data": {"image": 1, "features": 2, "other": 3}}) == (1, 2, None)


def test_weights_of_a_model_directory_and_of_hyrax(adapter: Any, made: Made, tmp_path: Path) -> None:
    batch = (torch.from_numpy(made.images.astype(np.float32)), torch.from_numpy(made.features), None)
    model = adapter.MargFormer(configured(made.path)).eval()
    expected = model(batch)
    file = tmp_path / "weights.pth"
    model.save(file)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert not torch.equal(model(batch), expected)
    model.load(file)
    torch.testing.assert_close(model(batch), expected)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.load(made.path / "model.safetensors")
    torch.testing.assert_close(model(batch), expected)


def test_defaults_are_where_hyrax_looks_for_them(adapter: Any) -> None:
    file = Path(margformer_fast.__file__).parent / "default_config.toml"
    config = tomllib.loads(file.read_text(encoding="utf-8"))
    model = adapter.MargFormer(configured(Path("unused")) | config)
    assert model.classes == Classifier.load("simulated-sg").classes
