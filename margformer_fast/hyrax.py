"""A trained model and survey stores within Hyrax, under the names that its configuration asks for.

``model.name = "margformer_fast.hyrax.MargFormer"``, ``dataset_class = "margformer_fast.hyrax.SurveyStore"``;
``default_config.toml`` beside this file has the defaults. Hyrax is no dependency: who imports this has it.

Shapes: N objects, C bands, S side, F features, K classes, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from hyrax.datasets.dataset_registry import HyraxDataset
from hyrax.models.model_registry import hyrax_model
from torch import nn

from .classifier import Classifier
from .data.store import read_store
from .data.survey import CLASSES
from .learning.checkpoint import load_model_directory
from .nn.inference import Inference

_Batch = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]

_ELSEWHERE = -100  # what cross-entropy leaves out: objects of other classes, or of none


@hyrax_model
class MargFormer(nn.Module):
    """A trained model, to classify and embed with or to train further with labels.

    Form and first weights are those of the model directory ``config["model"]["MargFormer"]["directory"]``.
    Weights for `infer` and `test` may be a file that Hyrax trained, or the ``model.safetensors`` of a model
    directory of the same form.

    Parameters
    ----------
    config : mapping
        Hyrax's configuration.
    data_sample : object, optional
        Not looked at: the size of stamps is the model's.

    Raises
    ------
    DataError
        If there is no such model directory.
    """

    load: ClassVar[Callable[[MargFormer, Path], None]]  # Hyrax's decorator sets these
    optimizer: torch.optim.Optimizer
    own_class: torch.Tensor

    def __init__(self, config: Mapping[str, Any], data_sample: object = None) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        trained = Classifier.load(config["model"]["MargFormer"]["directory"], device="cpu")
        self.classes, self.num_features = trained.classes, trained.profile.num_features
        self.inference = Inference(trained.model, trained.temperature)
        index = [self.classes.index(name) if name in self.classes else _ELSEWHERE for name in CLASSES]
        self.register_buffer("own_class", torch.tensor([*index, _ELSEWHERE]), persistent=False)

    @staticmethod
    def prepare_inputs(data_dict: dict[str, dict[str, object]]) -> tuple[object, ...]:
        """Pick stamps, features and labels of a batch; None for what the dataset does not have."""
        # Hyrax writes this source beside the weights and runs it alone: it may name nothing of this module.
        data = data_dict["data"]
        return data["image"], data.get("features"), data.get("label")

    def _inputs(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        image, features = batch[0].float(), batch[1]
        if features is None:
            return image, image.new_full((len(image), self.num_features), torch.nan)
        return image, features.float()

    def forward(self, batch: _Batch) -> torch.Tensor:
        """Return probabilities (N, K), in the order of ``classes``; NaN where nothing is known."""
        probability: torch.Tensor = self.inference(*self._inputs(batch))
        return probability

    def infer_batch(self, batch: _Batch) -> dict[str, torch.Tensor]:
        """Return ``probability`` (N, K) and ``embedding`` (N, D) of each object."""
        return {"probability": self(batch), "embedding": self.inference.embed(*self._inputs(batch))}

    def train_batch(self, batch: _Batch) -> dict[str, torch.Tensor]:
        """Take a step of the configured optimizer down the cross-entropy."""
        self.optimizer.zero_grad()
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {"loss": loss.detach()}

    def validate_batch(self, batch: _Batch) -> dict[str, torch.Tensor]:
        """Return the cross-entropy."""
        return {"loss": self._loss(batch).detach()}

    def test_batch(self, batch: _Batch) -> dict[str, torch.Tensor]:
        """Return the cross-entropy."""
        return self.validate_batch(batch)

    def _loss(self, batch: _Batch) -> torch.Tensor:
        """Return the mean over objects of the model's classes; 0 if there is none."""
        if batch[2] is None:
            raise RuntimeError("There are no labels: add 'label' to the fields of data_request.")
        logits = self.inference.model.head(self.inference.embed(*self._inputs(batch)))
        # -1, an unknown class, is the last of the table.
        target = self.own_class[batch[2].long()]
        total = nn.functional.cross_entropy(logits, target, ignore_index=_ELSEWHERE, reduction="sum")
        return total / (target != _ELSEWHERE).sum().clamp(min=1)


_load_from_hyrax = MargFormer.load


def _load(self: MargFormer, path: Path) -> None:
    """Read weights: ``model.safetensors`` of a model directory, or what Hyrax saved."""
    if path.name == "model.safetensors":
        self.inference.model.load_state_dict(load_model_directory(path.parent).model.state_dict())
    else:
        _load_from_hyrax(self, path)


MargFormer.load = _load  # the decorator above would replace a method of this name


class SurveyStore(HyraxDataset):  # type: ignore[misc]
    """A survey store: fields ``image`` (C, S, S), ``features`` (F,), ``label``, ``objid``, ``ra``, ``dec``.

    Parameters
    ----------
    config : mapping
        Hyrax's configuration.
    data_location : str or Path
        The store, as ``python -m margformer_fast.data`` writes it.

    Raises
    ------
    DataError
        If it is no store, or damaged.
    """

    def __init__(self, config: Mapping[str, Any], data_location: str | Path) -> None:
        self.survey = read_store(Path(data_location))
        super().__init__(config)

    def __len__(self) -> int:
        return len(self.survey)

    def get_image(self, index: int) -> np.ndarray:
        """Return the stamp, float32, in the survey's flux unit."""
        return self.survey.stamps.decode(np.array([index]))[0]

    def get_features(self, index: int) -> np.ndarray:
        """Return the features, float32, in the order of the survey's profile."""
        return self.survey.features[index].astype(np.float32)

    def get_label(self, index: int) -> np.int64:
        """Return the class as an index into GALAXY, QSO, STAR; -1 where it is not known."""
        return np.int64(self.survey.label[index])

    def get_objid(self, index: int) -> str:
        """Return the identifier."""
        return str(self.survey.objid[index])

    def get_ra(self, index: int) -> float:
        """Return the right ascension in degrees."""
        return float(self.survey.ra[index])

    def get_dec(self, index: int) -> float:
        """Return the declination in degrees."""
        return float(self.survey.dec[index])
