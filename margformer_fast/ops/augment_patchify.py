"""Random views of stamps as patch tokens."""

from __future__ import annotations

import numpy as np
import torch

from ..backends import Implementation, Operator, Problem
from ..config import AugmentConfig
from ..reference.augment import augment, draw_views, standardise
from ..reference.patchify import patchify


def _reference(
    image_NCSS: torch.Tensor,
    objid: np.ndarray,
    config: AugmentConfig,
    seed: int,
    epoch: int,
    num_views: int,
    patch_size: int,
) -> torch.Tensor:
    draws = draw_views(
        objid, size=image_NCSS.shape[-1], seed=seed, epoch=epoch, num_views=num_views, config=config
    )
    view_VNCSS = augment(torch.nan_to_num(image_NCSS, nan=0.0), draws)
    if config.standardise:
        view_VNCSS = standardise(view_VNCSS)
    token_NPL = patchify(view_VNCSS.flatten(0, 1), patch_size)
    return token_NPL.reshape(*view_VNCSS.shape[:2], *token_NPL.shape[1:])


OPERATOR = Operator("augment_patchify", (Implementation("reference", _reference),))


def augment_patchify(
    image_NCSS: torch.Tensor,
    objid: np.ndarray,
    config: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    num_views: int,
    patch_size: int,
    backend: str = "auto",
) -> torch.Tensor:
    """Make V random views of N stamps and cut them into patch tokens.

    Parameters
    ----------
    image_NCSS : Tensor, shape (N, C, S, S)
        Stamps, in the survey's flux unit; NaN pixels count as zero.
    objid : ndarray of int64, shape (N,)
        Identifiers, which key the random draws.
    config : AugmentConfig
        What is drawn.
    seed, epoch : int
        Key of the random draws beside objid and view.
    num_views : int
        Number of views V.
    patch_size : int
        Side p of a patch.
    backend : str
        Which implementation to use; see :mod:`margformer_fast.backends`.

    Returns
    -------
    Tensor, shape (V, N, (S/p)**2, p*p*C)
        Tokens in the order of :func:`margformer_fast.ops.patchify.patchify`.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(image_NCSS), backend)
    return chosen.run(image_NCSS, objid, config, seed, epoch, num_views, patch_size)
