"""Raw stamps to patch tokens as they are, for evaluation."""

from __future__ import annotations

import numpy as np
import torch

from ..backends import AUTO, Implementation, Operator, not_compiled
from ..config import AugmentConfig
from ..reference.augment import standardise as standardised
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

_Indices = np.ndarray | torch.Tensor | None


def _config(standardise: bool) -> AugmentConfig:
    return AugmentConfig(max_angle_deg=0.0, max_shift=0.0, flips=False, standardise=standardise)


def _cuda(stamps: ResidentStamps, indices: _Indices, patch_size: int, standardise: bool) -> torch.Tensor:
    return tokens_on_device(stamps, indices, None, _config(standardise), patch_size=patch_size)[0]


def _cpp(stamps: Stamps, indices: _Indices, patch_size: int, standardise: bool) -> torch.Tensor:
    return tokens_on_host(stamps, indices, None, _config(standardise), patch_size=patch_size)[0]


def _reference(
    stamps: Stamps | ResidentStamps, indices: _Indices, patch_size: int, standardise: bool
) -> torch.Tensor:
    image_NCSS = as_images(stamps, indices)
    return patchify(standardised(image_NCSS) if standardise else image_NCSS, patch_size)


OPERATOR = Operator(
    "decode_patchify",
    (
        Implementation("cuda", _cuda, why_not_cuda),
        Implementation("cpp", _cpp, not_compiled),
        Implementation("reference", _reference),
    ),
)


def decode_patchify(
    stamps: AnyStamps,
    indices: np.ndarray | torch.Tensor | None = None,
    *,
    patch_size: int,
    standardise: bool = False,
    backend: str = AUTO,
) -> torch.Tensor:
    """Cut stamps into patch tokens as they are.

    Parameters
    ----------
    stamps : Stamps, ResidentStamps or Tensor of shape (N, C, S, S)
        Stamps as they are stored, on the host or a device. Pixels without a finite value count as zero.
    indices : ndarray or Tensor of int64, shape (n,), or None
        Which stamps, in order, repeats allowed; None for all. Indices that lie on a device are not checked,
        and one outside gives NaN.
    patch_size : int
        Side p of a patch.
    standardise : bool
        Bring each band of each stamp to zero mean and unit spread first.
    backend : str
        ``"auto"``, ``"cuda"``, ``"cpp"`` or ``"reference"``.

    Returns
    -------
    Tensor of float32, shape (n, (S/p)**2, p*p*C)
        Tokens in the order of :func:`margformer_fast.ops.patchify.patchify`, on the device of the stamps.

    Raises
    ------
    ConfigError
        If the patch size does not divide the side.
    DataError
        If an index is outside.
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    pixels = described(stamps)
    check_patch_size(patch_size, pixels.size)
    num_rows = len(pixels) if indices is None else len(indices)
    chosen = OPERATOR.resolve(problem_of(pixels, num_rows), backend)
    return chosen.run(pixels, indices, patch_size, standardise)
