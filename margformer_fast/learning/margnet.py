"""Training of the baseline MargNet: two networks by themselves, then the head that joins them.

Two things of the published recipe are errors. The head is trained on the validation set, by whose loss the
networks' epochs were chosen as well, and its own epoch is chosen by its training loss. The head cannot learn
from the training set, which the networks know by heart. So the clean protocol trains it on one half of the
validation set and chooses its epoch by the other; the published protocol does as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..config import AugmentConfig, FitConfig, MargNetConfig
from ..data.splits import object_hash
from ..errors import ConfigError
from ..nn.margnet import MargNet
from ..reference.random import derive_seed
from .device import autocast
from .loop import Stage, run_stage
from .samples import Samples

DNN, CNN, ENSEMBLE = "margnet-dnn", "margnet-cnn", "margnet-ensemble"
"""Names of the three stages, and of the checkpoints that they keep."""

PROTOCOLS = ("clean", "published")

MARGNET_VIEWS = AugmentConfig(mode="composed", interpolation="bilinear", border="edge")
"""The published augmentation of training stamps: any rotation, shifts by up to a tenth of the side, both
flips, in one bilinear sampling with the edge repeated outside, as Keras's image generator does by default."""

_NUMBER = {DNN: 4, CNN: 5, ENSEMBLE: 6}
_PREDICT_BATCH = 512


@dataclass(frozen=True)
class MargNetFit:
    """How long and how fast the three parts are trained.

    Parameters
    ----------
    dnn, cnn, head : FitConfig
        Of the network of features, of that of images, and of what joins them.
    """

    dnn: FitConfig
    cnn: FitConfig
    head: FitConfig


def train_margnet(
    config: MargNetConfig,
    train: Samples,
    val: Samples,
    fit: MargNetFit,
    augmentation: AugmentConfig = MARGNET_VIEWS,
    *,
    protocol: str = "clean",
    precision: str,
    seed: int,
    directory: Path,
    label: str,
) -> tuple[MargNet, dict[str, list[dict[str, float]]]]:
    """Train the ensemble from fresh weights; each part is left with those of its best epoch.

    Parameters
    ----------
    config : MargNetConfig
        Sizes, and whether inputs are scaled.
    train, val : Samples
        Labelled objects. Validation objects are seen as they are, not augmented.
    fit : MargNetFit
        How long and how fast.
    augmentation : AugmentConfig
        Views of training stamps.
    protocol : {"clean", "published"}
        What the head is trained on and its epoch chosen by: one half of the validation set (:func:`halves`)
        and the other, or the whole set both times. Published is the mean loss while an epoch is trained,
        here it is measured after it.
    precision : {"fp32", "bf16"}
        Of the image network's products; losses, and the small networks, are always fp32.
    seed : int
        Seed of the run.
    directory : Path
        Where ``margnet-*.safetensors`` are kept, and found again by a resumed run.
    label : str
        Start of the progress lines.

    Returns
    -------
    model : MargNet
        On the device of the samples, in evaluation mode.
    history : dict of str to list of dict
        Stage to one entry an epoch, with ``val_accuracy``; see
        :func:`margformer_fast.learning.loop.run_stage`.

    Raises
    ------
    ConfigError
        If there is no such protocol.
    DataError
        If a set lacks a class of the task or holds another; see also
        :func:`margformer_fast.learning.loop.run_stage`.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {protocol!r}", expected=" | ".join(PROTOCOLS))
    train.require_classes()
    val.require_classes()
    torch.manual_seed(derive_seed(seed, 0))
    model = MargNet(config, len(train.classes))
    model.inputs.fit(train.photometry.cpu(), torch.from_numpy(train.pixel_noise()))
    model.to(train.device).cnn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train_part(
        name: str,
        part: nn.Module,
        num_objects: int,
        config: FitConfig,
        loss: Callable[[np.ndarray, int], torch.Tensor],
        logits: Callable[[], torch.Tensor],
        target: torch.Tensor,
    ) -> list[dict[str, float]]:
        def validate() -> dict[str, float]:
            found = logits()
            correct = (found.argmax(dim=1) == target).double().mean()
            return {"val_loss": F.cross_entropy(found, target).item(), "val_accuracy": correct.item()}

        stage = Stage(name, _NUMBER[name], part, num_objects, config, loss, validate)
        return run_stage(stage, seed=seed, directory=directory, label=f"{label} {name}")

    def loss_of_features(rows: np.ndarray, _epoch: int) -> torch.Tensor:
        return F.cross_entropy(model.of_features(train.photometry[rows]), train.label[rows])

    def loss_of_images(rows: np.ndarray, epoch: int) -> torch.Tensor:
        pixel_NPC = train.views(rows, augmentation, seed=seed, epoch=epoch, num_views=1, patch_size=1)[0]
        with autocast(train.device, precision):
            logits = model.of_images(_as_images(pixel_NPC, config.size))
        return F.cross_entropy(logits.float(), train.label[rows])

    history = {
        DNN: train_part(
            DNN,
            model.dnn,
            len(train),
            fit.dnn,
            loss_of_features,
            lambda: _of_features(model, val),
            val.label,
        ),
        CNN: train_part(
            CNN,
            model.cnn,
            len(train),
            fit.cnn,
            loss_of_images,
            lambda: _of_images(model, val, precision),
            val.label,
        ),
    }
    model.eval()
    dnn_NK, cnn_NK = _of_features(model, val).float(), _of_images(model, val, precision).float()
    learned = checked = np.arange(len(val))
    if protocol == "clean":
        learned, checked = halves(val.survey.objid, val.label.cpu().numpy(), seed)

    def loss_of_head(rows: np.ndarray, _epoch: int) -> torch.Tensor:
        chosen = learned[rows]
        return F.cross_entropy(model.joined(dnn_NK[chosen], cnn_NK[chosen]), val.label[chosen])

    history[ENSEMBLE] = train_part(
        ENSEMBLE,
        model.head,
        len(learned),
        fit.head,
        loss_of_head,
        lambda: model.joined(dnn_NK[checked], cnn_NK[checked]),
        val.label[checked],
    )
    return model.eval(), history


def halves(objid: np.ndarray, label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut objects into two halves with the same share of each class, at random by their identifiers.

    Parameters
    ----------
    objid : ndarray of int64, shape (N,)
        Identifiers; at least two objects.
    label : ndarray of int, shape (N,)
        Classes.
    seed : int
        Another seed gives other halves.

    Returns
    -------
    first, second : ndarray of int64
        Rows in rising order; the second is as long as the first or one shorter, and so it is, give or take
        one, within each class.
    """
    order = np.lexsort((object_hash(objid, seed), label))
    return np.sort(order[::2]), np.sort(order[1::2])


@torch.no_grad()
def predict_margnet(model: MargNet, samples: Samples, *, precision: str = "fp32") -> dict[str, np.ndarray]:
    """Classify objects, as they are, by the ensemble and by each of its networks alone.

    Parameters
    ----------
    model : MargNet
        Put into evaluation mode.
    samples : Samples
        Objects.
    precision : {"fp32", "bf16"}
        Of the image network's products.

    Returns
    -------
    dict of str to ndarray of float64, shape (N, K)
        Class probabilities by the name of the stage: "margnet-dnn", "margnet-cnn" and "margnet-ensemble".
    """
    model.eval()
    dnn_NK, cnn_NK = _of_features(model, samples), _of_images(model, samples, precision)
    logits = {DNN: dnn_NK, CNN: cnn_NK, ENSEMBLE: model.joined(dnn_NK, cnn_NK)}
    return {name: value.double().softmax(dim=1).cpu().numpy() for name, value in logits.items()}


def _as_images(pixel_NPC: torch.Tensor, size: int) -> torch.Tensor:
    """Return tokens of one pixel (N, S*S, C) as images (N, C, S, S), bands fastest in memory, uncopied."""
    return pixel_NPC.view(len(pixel_NPC), size, size, -1).permute(0, 3, 1, 2)


@torch.no_grad()
def _of_features(model: MargNet, samples: Samples) -> torch.Tensor:
    """Return the DNN's logits of a whole set, shape (N, K)."""
    return model.of_features(samples.photometry)


@torch.no_grad()
def _of_images(model: MargNet, samples: Samples, precision: str) -> torch.Tensor:
    """Return the CNN's logits of a whole set, shape (N, K)."""
    logits = []
    for start in range(0, len(samples), _PREDICT_BATCH):
        rows = np.arange(start, min(start + _PREDICT_BATCH, len(samples)))
        with autocast(samples.device, precision):
            logits.append(model.of_images(_as_images(samples.tokens(rows, 1), model.config.size)).float())
    return torch.cat(logits)
