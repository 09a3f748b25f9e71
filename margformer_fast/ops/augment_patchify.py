"""Raw stamps to random views as patch tokens, in one pass."""

from __future__ import annotations

import numpy as np
import torch

from ..backends import AUTO, Implementation, Operator, not_compiled
from ..config import AugmentConfig
from ..errors import ConfigError, DataError
from ..reference.augment import augment, draw_views
from ..reference.patchify import patchify
from .patchify import check_patch_size
from .resident_stamps import ResidentStamps
from .stamps import Stamps
from .views import (
    AnyStamps,
    as_images,
    described,
    problem_of,
    tokens_on_device,
    tokens_on_host,
    why_not_cuda,
)


def _reference(
    stamps: Stamps | ResidentStamps,
    indices: np.ndarray | torch.Tensor | None,
    objid: np.ndarray | torch.Tensor,
    config: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    num_views: int,
    patch_size: int,
) -> torch.Tensor:
    image_NCSS = as_images(stamps, indices)
    draws = draw_views(
        objid.cpu().numpy() if isinstance(objid, torch.Tensor) else objid,
        num_bands=stamps.num_bands,
        size=stamps.size,
        seed=seed,
        epoch=epoch,
        num_views=num_views,
        config=config,
    )
    view_VNCSS = augment(image_NCSS, draws, config)
    token_NPL = patchify(view_VNCSS.flatten(0, 1), patch_size)
    return token_NPL.reshape(*view_VNCSS.shape[:2], *token_NPL.shape[1:])


OPERATOR = Operator(
    "augment_patchify",
    (
        Implementation("cuda", tokens_on_device, why_not_cuda),
        Implementation("cpp", tokens_on_host, not_compiled),
        Implementation("reference", _reference),
    ),
)


def augment_patchify(
    stamps: AnyStamps,
    indices: np.ndarray | torch.Tensor | None,
    objid: np.ndarray | torch.Tensor,
    config: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    num_views: int,
    patch_size: int,
    backend: str = AUTO,
) -> torch.Tensor:
    """Make V random views of stamps and cut them into patch tokens.

    Stored pixels are gathered by index, their bytes swapped, scaled, and read through one map a view; no
    decoded image and no view is kept on the way.

    Parameters
    ----------
    stamps : Stamps, ResidentStamps or Tensor of shape (N, C, S, S)
        Stamps as they are stored, on the host or a device. Pixels without a finite value count as zero.
    indices : ndarray or Tensor of int64, shape (n,), or None
        Which stamps, in order, repeats allowed; None for all. Indices that lie on a device are not checked,
        and one outside gives NaN.
    objid : ndarray or Tensor of int64, shape (n,)
        Identifiers of the chosen objects, which key the random draws.
    config : AugmentConfig
        What is drawn, and how stamps are sampled.
    seed : int
        Seed of the run, in [0, 2**64).
    epoch : int
        Epoch, in [0, 2**32).
    num_views : int
        Number of views V, less than 2**24.
    patch_size : int
        Side p of a patch.
    backend : str
        ``"auto"``, ``"cuda"``, ``"cpp"`` or ``"reference"``. All draw the same. Views by the nearest pixel
        are the same to the bit, interpolated, noisy or standardised ones to some 1e-6 of the pixel scale.

    Returns
    -------
    Tensor of float32, shape (V, n, (S/p)**2, p*p*C)
        Tokens in the order of :func:`margformer_fast.ops.patchify.patchify`, on the device of the stamps. On
        a GPU the work is queued on the current stream.

    Raises
    ------
    ConfigError
        If the patch size does not divide the side, a key is out of range, or the noise is given for another
        number of bands.
    DataError
        If an index is outside, or `objid` is not as long as `indices`.
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    pixels = described(stamps)
    check_patch_size(patch_size, pixels.size)
    config.noise_by_band(pixels.num_bands)
    for name, value, bits in (("seed", seed, 64), ("epoch", epoch, 32), ("num_views", num_views, 24)):
        if not 0 <= value < 2**bits:
            raise ConfigError(f"{name} is {value}", expected=f"0 or more, less than 2**{bits}")
    num_rows = len(pixels) if indices is None else len(indices)
    if len(objid) != num_rows:
        raise DataError(f"there are {len(objid)} objids", expected=f"{num_rows}, one for each stamp")
    chosen = OPERATOR.resolve(problem_of(pixels, num_rows), backend)
    return chosen.run(
        pixels,
        indices,
        objid,
        config,
        seed=seed,
        epoch=epoch,
        num_views=num_views,
        patch_size=patch_size,
    )
