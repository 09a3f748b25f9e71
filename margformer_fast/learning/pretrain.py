"""SimCLR pre-training: two views of an object are to agree, without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..config import AugmentConfig, FitConfig, PhotometryViewConfig
from ..errors import ConfigError
from ..nn.inputs import ScaledEncoder
from ..nn.simclr import SimCLR
from ..ops.nt_xent import nt_xent, nt_xent_of_rank
from .device import autocast
from .dimmed_stamps import dimmed_views
from .distributed import current
from .loop import Stage, run_stage
from .photometry_views import PhotometryViews
from .samples import Samples

PHOTOMETRY = ("varied", "hidden", "shared")
"""What pre-training shows of the photometry: a view of its own with each view of the stamp, fainter both by
the same amount, see :class:`margformer_fast.learning.photometry_views.PhotometryViews`; nothing; or the same
features with both views. The last is the published three-class recipe, whose task can be solved without
a look at the images; the second the published two-class recipe, which learns nothing of the photometry."""

DEFAULT_VIEWS = PhotometryViewConfig()
_Pairs = Callable[[np.ndarray, int], tuple[torch.Tensor, torch.Tensor | None]]
_PROJECTOR_WIDTH = {"margformer": 128, "lvit": 1024}


def pretrain(
    encoder: ScaledEncoder,
    train: Samples,
    val: Samples,
    config: FitConfig,
    augmentation: AugmentConfig,
    *,
    photometry: str,
    photometry_views: PhotometryViewConfig = DEFAULT_VIEWS,
    weights: str = "best",
    precision: str,
    seed: int,
    directory: Path,
    label: str,
) -> list[dict[str, float]]:
    """Pre-train an encoder in place, and leave it with the weights of the best (or last) epoch.

    Parameters
    ----------
    encoder : ScaledEncoder
        Trained in place. Its head is left alone.
    train, val : Samples
        Objects; their labels are not looked at.
    config : FitConfig
        How long, how fast, and the temperature.
    augmentation : AugmentConfig
        What the views are.
    photometry : {"varied", "hidden", "shared"}
        See :data:`PHOTOMETRY`.
    photometry_views : PhotometryViewConfig
        What varies, if it does.
    weights : {"best", "last"}
        What the encoder is left with; see :class:`margformer_fast.learning.loop.Stage`.
    precision : {"fp32", "bf16"}
        Of the encoder's products; the loss is always fp32.
    seed : int
        Seed of the run.
    directory : Path
        Where ``pretrain.safetensors`` is kept, and found again by a resumed run.
    label : str
        Start of the progress line.

    Returns
    -------
    list of dict
        One entry an epoch; see :func:`margformer_fast.learning.loop.run_stage`. The validation loss uses
        the same views in every epoch, so epochs compare.

    Raises
    ------
    ConfigError
        If `photometry` is not known.
    DataError
        See :func:`margformer_fast.learning.loop.run_stage`.
    """
    if photometry not in PHOTOMETRY:
        raise ConfigError(f"photometry is {photometry!r}", expected=" | ".join(PHOTOMETRY))
    model = SimCLR(encoder, encoder.config.dim, hidden=_PROJECTOR_WIDTH[encoder.config.form]).to(train.device)
    of_train, of_val = (
        _pairs(each, photometry, photometry_views, augmentation, encoder.config.patch_size, seed)
        for each in (train, val)
    )

    def project(pairs: _Pairs, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """Return projections of both views, shape (n, 2, D)."""
        patch_VNPL, features_MF = pairs(rows, epoch)
        with autocast(train.device, precision):
            z_MD = model(features_MF, patch_VNPL.flatten(0, 1)).float()
        return z_MD.view(2, len(rows), -1).transpose(0, 1)

    def loss(pairs: _Pairs, rows: np.ndarray, epoch: int) -> torch.Tensor:
        share = current().cut(rows)
        z1_nD, z2_nD = share.in_parts(lambda part: project(pairs, part, epoch)).unbind(1)
        if share.is_whole:
            return nt_xent(z1_nD, z2_nD, temperature=config.temperature)
        # Against the pairs of all ranks. The gradient is that of the joint loss, of this rank's rows alone:
        # gradients of weights are to be added up over ranks, not averaged.
        return nt_xent_of_rank(
            z1_nD, z2_nD, temperature=config.temperature, first=share.first, gather=share.gather
        )

    def validate(_epoch: int) -> dict[str, float]:
        def joint_loss(rows: np.ndarray) -> float:
            world = current()
            return world.total(loss(of_val, rows, 0) if world.works_on(rows) else None)

        every, batch = np.arange(len(val)), config.batch_size
        if config.batches == "ragged":
            parts = np.split(every, range(batch, len(val), batch))
            return {"val_loss": float(np.mean([joint_loss(rows) for rows in parts]))}
        parts = np.array_split(every, max(1, round(len(val) / batch)))
        return {"val_loss": sum(joint_loss(rows) * len(rows) for rows in parts) / len(val)}

    stage = Stage(
        "pretrain",
        1,
        model,
        len(train),
        config,
        lambda rows, epoch: loss(of_train, rows, epoch),
        validate,
        weights,
        together=True,
    )
    return run_stage(stage, seed=seed, directory=directory, label=label)


def _pairs(
    samples: Samples,
    photometry: str,
    config: PhotometryViewConfig,
    augmentation: AugmentConfig,
    patch_size: int,
    seed: int,
) -> _Pairs:
    """Return what makes two views of objects: ``pairs(rows, epoch)`` gives stamps and photometry."""
    if photometry != "varied":

        def alike(rows: np.ndarray, epoch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
            patch_VNPL = samples.views(
                rows, augmentation, seed=seed, epoch=epoch, num_views=2, patch_size=patch_size
            )
            return patch_VNPL, None if photometry == "hidden" else samples.photometry[rows].repeat(2, 1)

        return alike
    noise = samples.pixel_noise()
    views = PhotometryViews(samples.survey, noise, config)

    def varied(rows: np.ndarray, epoch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        both = [{"seed": seed, "epoch": epoch, "view": view} for view in (0, 1)]
        features = np.concatenate([views(rows, **key) for key in both])
        fainter = np.stack([config.stamps * views.fainter(rows, **key) for key in both])
        patch_VNPL = dimmed_views(
            samples, rows, augmentation, fainter, noise, seed=seed, epoch=epoch, patch_size=patch_size
        )
        return patch_VNPL, torch.from_numpy(features).to(samples.device)

    return varied
