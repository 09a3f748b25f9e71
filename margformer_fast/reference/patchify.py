"""Patch tokens of an image. Shapes: B images, C bands, S side, P patches, p patch side."""

from __future__ import annotations

import torch


def patchify(image_BCSS: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut images into square patches.

    Parameters
    ----------
    image_BCSS : Tensor, shape (B, C, S, S)
        Images; S is a multiple of `patch_size`.
    patch_size : int
        Side p of a patch.

    Returns
    -------
    Tensor, shape (B, (S/p)**2, p*p*C)
        Patches row by row over the image; inside a patch pixel row, pixel column, band, with the band
        fastest. This is the order that published checkpoints were trained with.
    """
    B, C, S, _ = image_BCSS.shape
    n, p = S // patch_size, patch_size
    grid = image_BCSS.reshape(B, C, n, p, n, p)  # (B, C, patch row, row, patch column, column)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(B, n * n, p * p * C)
