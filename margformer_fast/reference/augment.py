"""Random views of stamps, a batch at a time. Shapes: N objects, V views, C bands, S side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..config import AugmentConfig
from .random import FOR_GAINS, FOR_NOISE, draw, normals, uniform

_STANDARDISE_FLOOR = 1e-6


@dataclass(frozen=True)
class ViewDraws:
    """The random choices behind V views of N objects.

    Parameters
    ----------
    angle_deg : ndarray of float64, shape (V, N)
        Rotation, counter-clockwise.
    shift : ndarray of float64, shape (V, N, 2)
        Shift right and down in pixels; whole pixels in the reference mode.
    flip : ndarray of bool, shape (V, N, 2)
        Whether to mirror left-right and up-down.
    gain : ndarray of float32, shape (V, N, C)
        What each band is multiplied by.
    noise_key : ndarray of uint32, shape (V, N, 2)
        Stream of the pixel noise.
    """

    angle_deg: np.ndarray
    shift: np.ndarray
    flip: np.ndarray
    gain: np.ndarray
    noise_key: np.ndarray


def draw_views(
    objid: np.ndarray,
    *,
    num_bands: int,
    size: int,
    seed: int,
    epoch: int,
    num_views: int,
    config: AugmentConfig,
) -> ViewDraws:
    """Draw the choices for V views of each object; a function of (seed, epoch, objid, view) alone.

    Rotation is uniform in +-`max_angle_deg`; shifts are uniform in +-`max_shift` of the side, rounded to
    whole pixels in the reference mode; each mirror has even odds when `flips` is on; gains are uniform in
    1 +- `jitter`.
    """

    def words(purpose: int) -> np.ndarray:  # (V, N, 4)
        return np.stack([draw(seed, epoch, objid, view, purpose) for view in range(num_views)])

    geometry = words(0)
    signed = 2.0 * uniform(geometry[..., :3]) - 1.0
    shift = config.max_shift * size * signed[..., 1:3]
    gains = np.concatenate([words(FOR_GAINS + block) for block in range(-(-num_bands // 4))], axis=-1)
    return ViewDraws(
        angle_deg=config.max_angle_deg * signed[..., 0],
        shift=np.rint(shift) if config.mode == "reference" else shift,
        flip=(geometry[..., 3:] >> np.array([0, 1], np.uint32) & 1).astype(bool) & config.flips,
        gain=(1.0 + config.jitter * (2.0 * uniform(gains[..., :num_bands]) - 1.0)).astype(np.float32),
        noise_key=words(FOR_NOISE)[..., :2],
    )


def augment(image_NCSS: torch.Tensor, draws: ViewDraws, config: AugmentConfig) -> torch.Tensor:
    """Rotate, shift and mirror, then change gains and add noise, then standardise.

    Parameters
    ----------
    image_NCSS : Tensor, shape (N, C, S, S)
        Images, float32 or float64, finite.
    draws : ViewDraws
        Choices for V views of the N objects.
    config : AugmentConfig
        How they are used.

    Returns
    -------
    Tensor, shape (V, N, C, S, S)
    """
    view_VNCSS = warp(image_NCSS, draws, config)
    if config.jitter:
        gain = torch.from_numpy(draws.gain).to(view_VNCSS)
        view_VNCSS = view_VNCSS * gain[..., None, None]
    sigma = torch.tensor(config.noise_by_band(image_NCSS.shape[1])).to(view_VNCSS)
    if sigma.any():
        view_VNCSS = view_VNCSS + sigma[:, None, None] * _noise(draws, view_VNCSS)
    return standardise(view_VNCSS) if config.standardise else view_VNCSS


def warp(image_NCSS: torch.Tensor, draws: ViewDraws, config: AugmentConfig) -> torch.Tensor:
    """Rotate, shift and mirror; parameters and result as for :func:`augment`.

    Notes
    -----
    The published code resamples twice: a rotation about the centre, then a shift by whole pixels; a pixel
    that leaves the frame in the first step is lost to the second. Nearest-neighbour steps compose, so the
    pixel that each step reads is looked up and the image is read once. Coordinates are float64: a rotated
    pixel centre that lies within rounding of a pixel edge then falls the same way everywhere.
    """
    S = image_NCSS.shape[-1]
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
    column = cos * (x - centre) - sin * (y - centre) + centre
    row = sin * (x - centre) + cos * (y - centre) + centre
    if config.border == "edge":
        column, row = column.clamp(0, S - 1), row.clamp(0, S - 1)
    if config.interpolation == "nearest":
        view_VNCSS = _read(image_NCSS, torch.round(column).long(), torch.round(row).long())
        return torch.where(inside[:, :, None], view_VNCSS, 0) if config.mode == "reference" else view_VNCSS
    left, top = torch.floor(column), torch.floor(row)
    right, down = ((column - left)[:, :, None], (row - top)[:, :, None])
    weight_right, weight_down = right.to(image_NCSS.dtype), down.to(image_NCSS.dtype)
    left, top = left.long(), top.long()
    return (
        _read(image_NCSS, left, top) * ((1 - weight_down) * (1 - weight_right))
        + _read(image_NCSS, left + 1, top) * ((1 - weight_down) * weight_right)
        + _read(image_NCSS, left, top + 1) * (weight_down * (1 - weight_right))
        + _read(image_NCSS, left + 1, top + 1) * (weight_down * weight_right)
    )


def _read(image_NCSS: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Read pixels at integer places (V, N, S, S), zero outside: (V, N, C, S, S)."""
    N, C, S, _ = image_NCSS.shape
    V = len(column)
    inside = (column >= 0) & (column < S) & (row >= 0) & (row < S)
    where = (row * S + column).clamp(0, S * S - 1).reshape(V, N, 1, S * S).expand(-1, -1, C, -1)
    source = image_NCSS.reshape(1, N, C, S * S).expand(V, -1, -1, -1)
    read = source.gather(3, where)
    return torch.where(inside.reshape(V, N, 1, S * S), read, 0).reshape(V, N, C, S, S)


def _noise(draws: ViewDraws, like_VNCSS: torch.Tensor) -> torch.Tensor:
    """Draw standard normal noise for every pixel; its stream runs over rows, columns, bands."""
    V, N, C, S, _ = like_VNCSS.shape
    streams = draws.noise_key.reshape(-1, 2)
    drawn = np.stack([normals(key, S * S * C) for key in streams]).reshape(V, N, S, S, C)
    return torch.from_numpy(drawn).to(like_VNCSS).permute(0, 1, 4, 2, 3)


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
    return (image_NCSS - mean) / (std + _STANDARDISE_FLOOR)
