"""Supervised training of an encoder and its head, from scratch or after pre-training, and prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..config import AugmentConfig, FitConfig
from ..nn.inputs import ScaledEncoder
from .device import autocast
from .distributed import current
from .loop import Stage, run_stage
from .samples import Samples

_PREDICT_BATCH = 512


def train_classifier(
    model: ScaledEncoder,
    train: Samples,
    val: Samples,
    config: FitConfig,
    augmentation: AugmentConfig,
    *,
    use_photometry: bool = True,
    weights: str = "best",
    augment_validation: bool = False,
    object_weights: tuple[np.ndarray, np.ndarray] | None = None,
    precision: str,
    seed: int,
    directory: Path,
    name: str,
    label: str,
) -> list[dict[str, float]]:
    """Train all weights of a model on labels, and leave it with those of the best (or last) epoch.

    Parameters
    ----------
    model : ScaledEncoder
        Trained in place; fresh weights for supervised training, pre-trained ones for fine-tuning.
    train, val : Samples
        Labelled objects. Validation objects are seen as they are, if not asked otherwise.
    config : FitConfig
        How long and how fast.
    augmentation : AugmentConfig
        Views of training stamps.
    use_photometry : bool
        False hides the photometry: an images-only classifier.
    weights : {"best", "last"}
        What the model is left with; see :class:`margformer_fast.learning.loop.Stage`.
    augment_validation : bool
        Validate on views of the validation stamps, other ones in each epoch, as published.
    object_weights : tuple of ndarray, shapes (N,) and (M,), optional
        What each training and each validation object counts in the losses; all the same by default.
    precision : {"fp32", "bf16"}
        Of the encoder's products; the loss is always fp32.
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
    list of dict
        One entry an epoch, with ``val_accuracy``; see :func:`margformer_fast.learning.loop.run_stage`.

    Raises
    ------
    DataError
        If a set lacks a class of the task or holds another; see also
        :func:`margformer_fast.learning.loop.run_stage`.
    """
    train.require_classes()
    val.require_classes()
    model.to(train.device)
    in_training, in_validation = object_weights or (np.ones(len(train)), np.ones(len(val)))
    weight_N = torch.from_numpy(in_training).float().to(train.device)

    def logits(rows: np.ndarray, epoch: int) -> torch.Tensor:
        patch_NPL = train.views(
            rows,
            augmentation,
            seed=seed,
            epoch=epoch,
            num_views=1,
            patch_size=model.config.patch_size,
        )[0]
        with autocast(train.device, precision):
            return model(train.photometry[rows] if use_photometry else None, patch_NPL)

    def loss(rows: np.ndarray, epoch: int) -> torch.Tensor:
        share = current().cut(rows)
        logits_nC = share.in_parts(lambda part: logits(part, epoch))
        loss_n = F.cross_entropy(logits_nC.float(), train.label[share.rows], reduction="none")
        return share.mean(loss_n * weight_N[share.rows])

    def validate(epoch: int) -> dict[str, float]:
        def views(rows: np.ndarray) -> torch.Tensor:
            size = model.config.patch_size
            return val.views(rows, augmentation, seed=seed, epoch=epoch, num_views=1, patch_size=size)[0]

        probability, _ = predict(
            model,
            val,
            use_photometry=use_photometry,
            precision=precision,
            tokens=views if augment_validation else None,
        )
        label = val.label.cpu().numpy()
        loss_N = -np.log(np.maximum(probability[np.arange(len(label)), label], 1e-300)) * in_validation
        if config.batches == "ragged":
            parts = np.split(loss_N, range(config.batch_size, len(loss_N), config.batch_size))
            loss_N = np.array([part.mean() for part in parts])
        return {
            "val_loss": float(loss_N.mean()),
            "val_accuracy": float((probability.argmax(axis=1) == label).mean()),
        }

    stage = Stage(name, 2, model, len(train), config, loss, validate, weights, together=True)
    return run_stage(stage, seed=seed, directory=directory, label=label)


@torch.no_grad()
def predict(
    model: ScaledEncoder,
    samples: Samples,
    *,
    use_photometry: bool = True,
    precision: str = "fp32",
    tokens: Callable[[np.ndarray], torch.Tensor] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Classify and embed objects, as they are if not asked otherwise.

    Of several ranks each takes batches in turn, and all receive the very numbers that one of them computed:
    every rank must call this.

    Parameters
    ----------
    model : ScaledEncoder
        Put into evaluation mode.
    samples : Samples
        Objects.
    use_photometry : bool
        False hides the photometry.
    precision : {"fp32", "bf16"}
        Of the encoder's products.
    tokens : callable, optional
        ``tokens(rows)`` gives the patch tokens to look at, shape (n, P, p*p*C), in place of the stamps'.

    Returns
    -------
    probability : ndarray of float64, shape (N, C)
        Class probabilities.
    embedding : ndarray of float32, shape (N, D)
        What the head looked at.
    """
    model.eval()
    world = current()
    probability = np.zeros((len(samples), model.num_classes))
    embedding = np.zeros((len(samples), model.config.dim), np.float32)
    for start in range(world.rank * _PREDICT_BATCH, len(samples), world.size * _PREDICT_BATCH):
        rows = np.arange(start, min(start + _PREDICT_BATCH, len(samples)))
        token_NPL = samples.tokens(rows, model.config.patch_size) if tokens is None else tokens(rows)
        with autocast(samples.device, precision):
            h_ND = model.embed(samples.photometry[rows] if use_photometry else None, token_NPL)
            logits = model.head(h_ND)
        probability[rows] = logits.double().softmax(dim=1).cpu().numpy()
        embedding[rows] = h_ND.float().cpu().numpy()
    return world.completed(probability), world.completed(embedding)
