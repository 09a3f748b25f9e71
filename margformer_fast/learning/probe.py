"""A probe: what a frozen encoder's embedding tells about the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..config import FitConfig
from ..errors import ConfigError
from ..nn.inputs import ScaledEncoder
from .classify import predict
from .loop import Stage, run_stage
from .samples import Samples

KINDS = ("linear", "mlp")


class Probe(nn.Module):
    """A classifier of standardised embeddings.

    Parameters
    ----------
    kind : {"linear", "mlp"}
        One linear map; or one hidden layer of 512 units with dropout 0.2, as published.
    embedding : Tensor, shape (N, D)
        Embeddings of the training set, which set the scale.
    num_classes : int
        Number of classes.
    """

    def __init__(self, kind: str, embedding: torch.Tensor, num_classes: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"there is no probe {kind!r}", expected=" | ".join(KINDS))
        std, mean = torch.std_mean(embedding, dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std + 1e-6)
        dim = embedding.shape[1]
        if kind == "linear":
            self.layers = nn.Sequential(nn.Linear(dim, num_classes))
        else:
            self.layers = nn.Sequential(
                nn.Linear(dim, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, num_classes)
            )

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, num_classes)."""
        return self.layers((embedding - self.mean) / self.std)


def train_probe(
    encoder: ScaledEncoder,
    train: Samples,
    val: Samples,
    config: FitConfig,
    *,
    kind: str,
    use_photometry: bool,
    precision: str,
    seed: int,
    directory: Path,
    label: str,
) -> tuple[Probe, list[dict[str, float]]]:
    """Train a probe on the embeddings of a frozen encoder.

    Parameters
    ----------
    encoder : ScaledEncoder
        Left as it is.
    train, val : Samples
        Labelled objects; their stamps are not augmented.
    config : FitConfig
        How long and how fast.
    kind : {"linear", "mlp"}
        See :class:`Probe`.
    use_photometry : bool
        Whether the encoder sees the photometry.
    precision : {"fp32", "bf16"}
        Of the encoder's products.
    seed : int
        Seed of the run.
    directory : Path
        Where ``probe.safetensors`` is kept, and found again by a resumed run.
    label : str
        Start of the progress line.

    Returns
    -------
    probe : Probe
        With the weights of the lowest validation loss.
    history : list of dict
        One entry an epoch; see :func:`margformer_fast.learning.loop.run_stage`.

    Raises
    ------
    DataError
        If a set lacks a class of the task or holds another.
    """
    train.require_classes()
    val.require_classes()

    def embed(samples: Samples) -> torch.Tensor:
        _, embedding = predict(encoder, samples, use_photometry=use_photometry, precision=precision)
        return torch.from_numpy(embedding).to(samples.device)

    h_train, h_val = embed(train), embed(val)
    torch.manual_seed(seed)
    probe = Probe(kind, h_train, len(train.classes)).to(train.device)

    def loss(rows: np.ndarray, _epoch: int) -> torch.Tensor:
        return F.cross_entropy(probe(h_train[rows]), train.label[rows])

    def validate() -> dict[str, float]:
        logits = probe(h_val)
        correct = (logits.argmax(dim=1) == val.label).float().mean()
        return {"val_loss": F.cross_entropy(logits, val.label).item(), "val_accuracy": correct.item()}

    stage = Stage("probe", 3, probe, len(train), config, loss, validate)
    return probe, run_stage(stage, seed=seed, directory=directory, label=label)
