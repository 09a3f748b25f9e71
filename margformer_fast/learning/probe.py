"""A probe: what a fixed representation, an embedding or the photometry itself, tells about the classes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..config import FitConfig
from ..errors import ConfigError
from .loop import Stage, run_stage

KINDS = ("linear", "mlp", "deep")
_HIDDEN = {"linear": (), "mlp": (512,), "deep": (1024, 512, 256, 64)}
_DROPOUT = {"linear": 0.0, "mlp": 0.2, "deep": 0.25}


class Probe(nn.Module):
    """A classifier of standardised vectors.

    Parameters
    ----------
    kind : {"linear", "mlp", "deep"}
        One linear map; one hidden layer of 512 units with dropout 0.2, as published for probes; or the
        layers of MargFormer's photometric branch, with its dropout of 0.25.
    embedding : Tensor, shape (N, D)
        Vectors of the training set, which set the scale.
    num_classes : int
        Number of classes.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, kind: str, embedding: torch.Tensor, num_classes: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"there is no probe {kind!r}", expected=" | ".join(KINDS))
        std, mean = torch.std_mean(embedding, dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std + 1e-6)
        widths = (embedding.shape[1], *_HIDDEN[kind])
        hidden = [
            layer
            for fan_in, fan_out in pairwise(widths)
            for layer in (nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(_DROPOUT[kind]))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], num_classes))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, num_classes)."""
        return self.layers((embedding - self.mean) / self.std)


def train_probe(
    train: tuple[torch.Tensor, torch.Tensor],
    val: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    config: FitConfig,
    *,
    kind: str,
    seed: int,
    directory: Path,
    name: str,
    label: str,
) -> tuple[Probe, list[dict[str, float]]]:
    """Train a probe.

    Parameters
    ----------
    train, val : tuple of Tensor, shapes (N, D) and (N,)
        Vectors and class indices.
    num_classes : int
        Number of classes.
    config : FitConfig
        How long and how fast.
    kind : {"linear", "mlp", "deep"}
        See :class:`Probe`.
    seed : int
        Seed of the run.
    directory : Path
        Where ``<name>.safetensors`` is kept, and found again by a resumed run.
    name : str
        Of the stage.
    label : str
        Start of the progress line.

    Returns
    -------
    probe : Probe
        With the weights of the lowest validation loss.
    history : list of dict
        One entry an epoch; see :func:`margformer_fast.learning.loop.run_stage`.
    """
    (x_train, y_train), (x_val, y_val) = train, val
    torch.manual_seed(seed)
    probe = Probe(kind, x_train, num_classes).to(x_train.device)

    def loss(rows: np.ndarray, _epoch: int) -> torch.Tensor:
        return F.cross_entropy(probe(x_train[rows]), y_train[rows])

    def validate(_epoch: int) -> dict[str, float]:
        logits = probe(x_val)
        correct = (logits.argmax(dim=1) == y_val).float().mean()
        return {"val_loss": F.cross_entropy(logits, y_val).item(), "val_accuracy": correct.item()}

    stage = Stage(name, 3, probe, len(x_train), config, loss, validate)
    return probe, run_stage(stage, seed=seed, directory=directory, label=label)


@torch.no_grad()
def probabilities(probe: Probe, x: torch.Tensor) -> np.ndarray:
    """Return class probabilities of vectors (N, D) as float64, shape (N, C)."""
    return probe.eval()(x).double().softmax(dim=1).cpu().numpy()
