"""Where a source is: one centre for all bands, by matched first moments."""

from __future__ import annotations

import numpy as np

MAX_SHIFT = 2.0
"""Pixels the centre may move from where the stamp was cut."""

_STEPS = 4


def find_centre(
    images: np.ndarray, middle: np.ndarray, width: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the centre common to all bands.

    Parameters
    ----------
    images : ndarray of float64, shape (N, B, S, S)
        Images, every pixel finite.
    middle : ndarray of float64, shape (N, B, 2)
        Expected row and column in each band.
    width : ndarray of float64, shape (N, B)
        Sigma of the PSF in pixels.
    noise : ndarray of float64, shape (N, B)
        Standard deviation of the sky in a pixel. Bands count by their squared signal to noise.

    Returns
    -------
    shift : ndarray of float64, shape (N, 2)
        Rows and columns from `middle`; 0 where it went out of bounds.
    inside : ndarray of bool, shape (N,)
        Whether it stayed within `MAX_SHIFT`.
    """
    size = images.shape[-1]
    shift = np.zeros((len(images), 2))
    variance = (width**2)[..., None]
    for _ in range(_STEPS):
        position = middle + shift[:, None]
        rows = _axis_values(size, position[..., 0], variance)[..., 0, :]
        columns = _axis_values(size, position[..., 1], variance)[..., 0, :]
        dy = np.arange(size) - position[..., 0, None]
        dx = np.arange(size) - position[..., 1, None]
        across = (images @ columns[..., None])[..., 0]
        flux = (rows * across).sum(-1)
        down = (rows * dy * across).sum(-1)
        along = (rows * (images @ (columns * dx)[..., None])[..., 0]).sum(-1)
        # A Gaussian source under a Gaussian window of its own width shows half its offset, hence the 2; its
        # error goes as noise * width / flux, so the weight of a band is (flux / noise / width)^2 and that
        # of its moment flux.
        weight = np.maximum(flux, 0) / (noise * width) ** 2
        total = (weight * flux).sum(-1)
        moment = np.stack([(weight * down).sum(-1), (weight * along).sum(-1)], axis=-1)
        step = np.divide(2 * moment, total[:, None], out=np.zeros_like(moment), where=total[:, None] > 0)
        shift = shift + np.clip(step, -1, 1)
    inside = np.asarray((np.abs(shift) <= MAX_SHIFT).all(axis=-1))
    return np.where(inside[:, None], shift, 0.0), inside


def _axis_values(size: int, centre: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return normalised Gaussians along an axis of pixels, shape (..., K, size).

    `centre` (...) is in pixels, 0 at the middle of the first; `variance` (..., K) in square pixels.
    """
    distance = np.arange(size, dtype=variance.dtype) - centre[..., None]
    values = np.exp(-0.5 * distance[..., None, :] ** 2 / variance[..., None])
    values /= np.sqrt(2 * np.pi * variance)[..., None]
    return values
