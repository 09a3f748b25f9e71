"""Images to patch tokens."""

from __future__ import annotations

import torch

from ..backends import Implementation, Operator, Problem
from ..errors import ConfigError
from ..reference.patchify import patchify as _reference

OPERATOR = Operator("patchify", (Implementation("reference", _reference),))


def patchify(image_BCSS: torch.Tensor, patch_size: int, *, backend: str = "auto") -> torch.Tensor:
    """Cut images (B, C, S, S) into patch tokens (B, (S/p)**2, p*p*C).

    See :func:`margformer_fast.reference.patchify.patchify` for the order of tokens and values.

    Raises
    ------
    ConfigError
        If images are not square or the patch size does not divide their side.
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    if image_BCSS.ndim != 4 or image_BCSS.shape[2] != image_BCSS.shape[3]:
        raise ConfigError(
            f"images have shape {tuple(image_BCSS.shape)}", expected="(batch, bands, side, side)"
        )
    check_patch_size(patch_size, image_BCSS.shape[2])
    return OPERATOR.resolve(Problem.of(image_BCSS), backend).run(image_BCSS, patch_size)


def check_patch_size(patch_size: int, size: int) -> None:
    """Check that patches tile a stamp.

    Raises
    ------
    ConfigError
        If they do not.
    """
    if patch_size < 1 or size % patch_size:
        raise ConfigError(f"patch_size is {patch_size}", expected=f"a divisor of the side, {size}")
