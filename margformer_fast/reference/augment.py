"""The published augmentations, a batch at a time. Shapes: N objects, V views, C bands, S side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..config import AugmentConfig
from .random import draw, uniform


@dataclass(frozen=True)
class ViewDraws:
    """The random choices behind V views of N objects.

    Parameters
    ----------
    angle_deg : ndarray of float64, shape (V, N)
        Rotation, counter-clockwise.
    shift : ndarray of int64, shape (V, N, 2)
        Shift right and down in pixels.
    flip : ndarray of bool, shape (V, N, 2)
        Whether to mirror left-right and up-down.
    """

    angle_deg: np.ndarray
    shift: np.ndarray
    flip: np.ndarray


def draw_views(
    objid: np.ndarray, *, size: int, seed: int, epoch: int, num_views: int, config: AugmentConfig
) -> ViewDraws:
    """Draw the choices for V views of each object; a function of (seed, epoch, objid, view) alone.

    Rotation is uniform in +-`max_angle_deg`; shifts are uniform in +-`max_shift` of the side and then rounded
    to whole pixels; each mirror has even odds when `flips` is on.
    """
    words = np.stack([draw(seed, epoch, objid, view) for view in range(num_views)])  # (V, N, 4)
    signed = 2.0 * uniform(words[..., :3]) - 1.0
    return ViewDraws(
        angle_deg=config.max_angle_deg * signed[..., 0],
        shift=np.rint(config.max_shift * size * signed[..., 1:3]).astype(np.int64),
        flip=(words[..., 3:] >> np.array([0, 1], np.uint32) & 1).astype(bool) & config.flips,
    )


def augment(image_NCSS: torch.Tensor, draws: ViewDraws) -> torch.Tensor:
    """Rotate, shift and mirror: the published recipe, nearest neighbour with zeros outside.

    Parameters
    ----------
    image_NCSS : Tensor, shape (N, C, S, S)
        Images.
    draws : ViewDraws
        Choices for V views of the N objects.

    Returns
    -------
    Tensor, shape (V, N, C, S, S)

    Notes
    -----
    The published code resamples twice: a rotation about the centre, then a shift by whole pixels; a pixel
    that leaves the frame in the first step is lost to the second. Nearest-neighbour steps compose, so the
    pixel that each step reads is looked up and the image is read once. Coordinates are float64: a rotated
    pixel centre that lies within rounding of a pixel edge then falls the same way everywhere.
    """
    N, C, S, _ = image_NCSS.shape
    V = len(draws.angle_deg)
    device = image_NCSS.device
    pixel = torch.arange(S, device=device)

    def per_view(choice: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(choice).to(device)[:, :, None]  # (V, N, 1)

    def undo(axis: int) -> torch.Tensor:
        """Coordinate before mirror and shift, along x (0) or y (1): (V, N, S)."""
        mirrored = torch.where(per_view(draws.flip[..., axis]), S - 1 - pixel, pixel)
        return mirrored - per_view(draws.shift[..., axis])

    x, y = undo(0)[:, :, None, :], undo(1)[:, :, :, None]
    inside = (x >= 0) & (x < S) & (y >= 0) & (y < S)  # (V, N, S, S)
    centre = (S - 1) / 2
    angle = np.deg2rad(draws.angle_deg)
    cos, sin = per_view(np.cos(angle))[..., None], per_view(np.sin(angle))[..., None]
    column = torch.round(cos * (x - centre) - sin * (y - centre) + centre).long()
    row = torch.round(sin * (x - centre) + cos * (y - centre) + centre).long()
    inside = inside & (column >= 0) & (column < S) & (row >= 0) & (row < S)
    where = (row * S + column).clamp(0, S * S - 1).reshape(V, N, 1, S * S).expand(-1, -1, C, -1)
    source = image_NCSS.reshape(1, N, C, S * S).expand(V, -1, -1, -1)
    read = source.gather(3, where)
    return torch.where(inside.reshape(V, N, 1, S * S), read, 0).reshape(V, N, C, S, S)


def standardise(image_NCSS: torch.Tensor) -> torch.Tensor:
    """Bring each band of each image to zero mean and unit spread over its pixels.

    Parameters
    ----------
    image_NCSS : Tensor, shape (..., S, S)
        Images.

    Returns
    -------
    Tensor, same shape
        (x - mean) / (std + 1e-6), with the unbiased standard deviation. Flux and colour are lost: it is
        the recipe of the published three-class notebook, applied after the geometry.
    """
    std, mean = torch.std_mean(image_NCSS, dim=(-2, -1), keepdim=True)
    return (image_NCSS - mean) / (std + 1e-6)
