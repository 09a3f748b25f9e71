"""Point spread functions as sums of Gaussians, and how they are fitted to images of stars.

Galaxy profiles are sums of Gaussians too, so that a profile seen through a PSF is one more such sum and
nothing has to be convolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...errors import ConfigError, DataError
from ..profiles import PIXEL_VARIANCE

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))

_ITERATIONS = 60
_OUTER_WEIGHT = 0.02
"""Where an image is below this part of its peak, errors count alike; above, relative to its square root."""


class PsfLike(Protocol):
    """What a PSF must tell to be measured with: one of each for any shape of objects and bands.

    A PSF may also have ``shape``, as `GaussianPsf` does; without it, its Gaussians are round.
    """

    @property
    def sigma(self) -> np.ndarray:
        """Widths of its K Gaussians in arcsec, shape (..., K), pixels not included."""

    @property
    def share(self) -> np.ndarray:
        """Flux of each, shape (..., K)."""

    @property
    def fwhm(self) -> np.ndarray:
        """Full width at half maximum in arcsec as the survey quotes it, shape (...)."""


@dataclass(frozen=True)
class GaussianPsf:
    """Point spread functions that are sums of K elliptical Gaussians about one centre.

    Parameters
    ----------
    sigma : ndarray of float64, shape (..., K)
        Square root of half the trace of each Gaussian's covariance, arcsec, pixels not included.
    share : ndarray of float64, shape (..., K)
        Flux of each. They need not add up to one: the unit is the flux that the survey counts as a star's.
    shape : ndarray of float64, shape (..., K, 2)
        Distortions (e1, e2): the covariance is ``sigma^2 [[1 + e1, e2], [e2, 1 - e1]]`` in columns, rows.
    fwhm : ndarray of float64, shape (...)
        Full width at half maximum in arcsec, as the survey quotes it.
    """

    sigma: np.ndarray
    share: np.ndarray
    shape: np.ndarray
    fwhm: np.ndarray

    def __post_init__(self) -> None:
        if self.share.shape != self.sigma.shape or self.shape.shape != (*self.sigma.shape, 2):
            raise ConfigError(
                f"PSF shares and shapes have shapes {self.share.shape} and {self.shape.shape}",
                expected=f"{self.sigma.shape} as the widths, and {(*self.sigma.shape, 2)}",
            )
        if self.fwhm.shape != self.sigma.shape[:-1]:
            raise ConfigError(
                f"PSF fwhm has shape {self.fwhm.shape}", expected=f"{self.sigma.shape[:-1]}, one for each PSF"
            )

    def __getitem__(self, index: Any) -> GaussianPsf:
        return GaussianPsf(self.sigma[index], self.share[index], self.shape[index], self.fwhm[index])


def covariance(psf: PsfLike, pixel_scale: float) -> np.ndarray:
    """Return the covariances of a PSF's Gaussians on the pixels of a survey.

    Parameters
    ----------
    psf : PsfLike of shape (...)
        The PSF.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    ndarray of float64, shape (..., K, 3)
        xx, xy and yy in square pixels (x along columns), the pixel's own variance included.
    """
    variance = (np.asarray(psf.sigma, float) / pixel_scale) ** 2
    e = getattr(psf, "shape", None)
    if e is None:
        e = np.zeros((*variance.shape, 2))
    return np.stack(
        [
            variance * (1 + e[..., 0]) + PIXEL_VARIANCE,
            variance * e[..., 1],
            variance * (1 - e[..., 0]) + PIXEL_VARIANCE,
        ],
        axis=-1,
    )


def adaptive_variance(cov: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the adaptive second moments of sums of Gaussians.

    The moments are taken under a Gaussian weight, which is made twice as wide as they are until both agree
    (Bernstein & Jarvis 2002): so does the SDSS pipeline for the width of its PSF.

    Parameters
    ----------
    cov : ndarray of float, shape (..., K, 3)
        Covariances xx, xy, yy.
    share : ndarray of float, shape (..., K)
        Fluxes.

    Returns
    -------
    ndarray of float64, shape (...)
        Half the trace of the covariance of the Gaussian that fits best.
    """
    matrix = _matrix(cov)
    inverse = np.linalg.inv(matrix)
    height = share / np.sqrt(np.linalg.det(matrix))
    weight = matrix[..., 0, :, :]
    for _ in range(_ITERATIONS):
        product = np.linalg.inv(inverse + np.linalg.inv(weight)[..., None, :, :])
        flux = height * np.sqrt(np.linalg.det(product))
        weight = 2 * (flux[..., None, None] * product).sum(-3) / flux.sum(-1)[..., None, None]
    return np.asarray(0.5 * np.trace(weight, axis1=-2, axis2=-1))


def adaptive_moments(images: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the adaptive second moments of images, as :func:`adaptive_variance` of sums of Gaussians.

    Parameters
    ----------
    images : ndarray of float, shape (P, S, S)
        Images without background.
    centre : ndarray of float, shape (P, 2)
        Row and column.

    Returns
    -------
    ndarray of float64, shape (P,)
        Half the trace of the covariance in square pixels.
    """
    images = np.asarray(images, float)
    dy, dx = (np.arange(images.shape[-1]) - centre[:, axis, None] for axis in (0, 1))
    products = np.stack(
        np.broadcast_arrays(dx[:, None] ** 2, dx[:, None] * dy[..., None], dy[..., None] ** 2), axis=-1
    )
    weight = np.tile(np.array([3.0, 0, 3.0]), (len(images), 1))
    for _ in range(_ITERATIONS):
        xx, xy, yy = (c[:, None, None] for c in weight.T)
        distance = yy * products[..., 0] - 2 * xy * products[..., 1] + xx * products[..., 2]
        light = images * np.exp(-0.5 * distance / (xx * yy - xy**2))
        weight = 2 * np.einsum("pij,pijc->pc", light, products) / light.sum(axis=(1, 2))[:, None]
    return np.asarray(0.5 * (weight[:, 0] + weight[:, 2]))


def fit_gaussians(
    images: np.ndarray,
    centre: np.ndarray,
    num_gaussians: int = 3,
    *,
    start: np.ndarray | None = None,
    tied: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit sums of concentric elliptical Gaussians to images of stars.

    Parameters
    ----------
    images : ndarray of float, shape (P, S, S)
        Images of the PSF, without background; pixels integrate over their area.
    centre : ndarray of float, shape (P, 2)
        First guess of row and column of the centre.
    num_gaussians : int
        K.
    start : ndarray of float, shape (K, 4), optional
        First guess for each Gaussian: flux in units of the image's, and xx, xy, yy in square pixels.
    tied : bool
        Whether the covariances may differ from `start` only by what is common to all of them, as a change of
        the seeing is. Fits are then smooth functions of the images; free ones jump between solutions that
        are equally good.

    Returns
    -------
    cov : ndarray of float64, shape (P, K, 3)
        Covariances xx, xy, yy in square pixels, pixels included; narrowest first.
    flux : ndarray of float64, shape (P, K)
        Flux of each in the unit of the images.
    centre : ndarray of float64, shape (P, 2)
        Row and column.

    Raises
    ------
    DataError
        If an image has no positive total, or a pixel that is not finite.
    """
    images = np.asarray(images, float)
    total = images.sum(axis=(1, 2))
    if not np.isfinite(images).all() or not (total > 0).all():
        raise DataError("an image of the PSF has no positive flux", expected="finite images of stars")
    count, size, _ = images.shape
    if start is None:
        start = _first_guess(num_gaussians)
    values = np.concatenate([np.tile(start.reshape(-1), (count, 1)), centre], axis=1)
    free = np.eye(values.shape[1])
    if tied:
        fluxes, middle = free[:, :-2:4], free[:, -2:]
        common = [free[:, k:-2:4].sum(1, keepdims=True) for k in (1, 2, 3)]
        free = np.concatenate([fluxes, *common, middle], axis=1)
    data = (images / total[:, None, None]).reshape(count, -1)
    weight = 1 / np.sqrt(np.maximum(data, 0) + _OUTER_WEIGHT * data.max(axis=1, keepdims=True))
    y, x = (axis.reshape(-1) for axis in np.mgrid[:size, :size].astype(float))
    values = _minimise(data, weight, x, y, values, free)
    parts = _in_order(values[:, :-2])
    return parts[..., 1:], parts[..., 0] * total[:, None], values[:, -2:]


def fit_common(
    images: np.ndarray, centre: np.ndarray, flux: np.ndarray, num_gaussians: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Fit one sum of concentric Gaussians to many stars at once.

    Parameters
    ----------
    images : ndarray of float, shape (P, S, S)
        Stars, without background.
    centre : ndarray of float, shape (P, 2)
        Their rows and columns.
    flux : ndarray of float, shape (P,)
        Their fluxes, positive; stars count by the root of it.
    num_gaussians : int
        K.

    Returns
    -------
    cov : ndarray of float64, shape (K, 3)
        Covariances xx, xy, yy in square pixels, pixels included; narrowest first.
    share : ndarray of float64, shape (K,)
        Flux of each for a star of flux one.
    """
    images = np.asarray(images, float)
    pixel = np.arange(images.shape[-1])
    dy, dx = np.broadcast_arrays((pixel - centre[:, :1])[:, :, None], (pixel - centre[:, 1:])[:, None, :])
    data = images / flux[:, None, None]
    positive = np.maximum(data, 0)
    spread = positive + _OUTER_WEIGHT * np.median(data.max(axis=(1, 2)))
    weight = np.sqrt(flux)[:, None, None] / np.sqrt(spread)
    values = np.concatenate([_first_guess(num_gaussians).reshape(-1), [0.0, 0.0]])[None]
    flat = [each.reshape(-1) for each in (data, weight, dx, dy)]
    free = np.eye(values.shape[1])[:, :-2]
    values = _minimise(flat[0][None], flat[1][None], flat[2], flat[3], values, free)
    parts = _in_order(values[:, :-2])[0]
    return parts[:, 1:], parts[:, 0]


def _first_guess(num_gaussians: int) -> np.ndarray:
    """Return flux, xx, xy, yy of Gaussians to start from, shape (K, 4)."""
    widths = 1.2**2 * 3.2 ** np.arange(num_gaussians)
    shares = 0.3 ** np.arange(num_gaussians)
    return np.stack([shares / shares.sum(), widths, 0 * widths, widths], axis=-1)


def _in_order(values: np.ndarray) -> np.ndarray:
    """Return parameters (P, 4 K) as (P, K, 4), the narrowest Gaussian first."""
    parts = values.reshape(len(values), -1, 4)
    order = np.argsort(parts[..., 1] + parts[..., 3], axis=1)
    return np.take_along_axis(parts, order[..., None], axis=1)


def _minimise(
    data: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray, values: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Fit P images (P, pixels) by Levenberg and Marquardt's method.

    `values` (P, 4 K + 2) are flux, xx, xy, yy of each Gaussian, then row and column of the centre; they move
    along the columns of `free`.
    """
    damping = np.full(len(data), 1e-3)
    model, slopes = _gaussians(values, x, y)
    cost = (((data - model) * weight) ** 2).sum(1)
    for _ in range(_ITERATIONS):
        scaled = (slopes @ free) * weight[..., None]
        normal = scaled.swapaxes(1, 2) @ scaled
        gradient = (scaled.swapaxes(1, 2) @ ((data - model) * weight)[..., None])[..., 0]
        diagonal = np.einsum("pii->pi", normal)
        raised = normal + np.einsum("p,pi,ij->pij", damping, diagonal + 1e-12, np.eye(free.shape[1]))
        trial = values + np.linalg.solve(raised, gradient[..., None])[..., 0] @ free.T
        trial_model, trial_slopes = _gaussians(trial, x, y)
        trial_cost = (((data - trial_model) * weight) ** 2).sum(1)
        better = trial_cost < cost  # false for NaN, which a covariance that is none gives
        gained = np.where(better, 1 - trial_cost / cost, 0)
        values = np.where(better[:, None], trial, values)
        model = np.where(better[:, None], trial_model, model)
        slopes = np.where(better[:, None, None], trial_slopes, slopes)
        cost = np.where(better, trial_cost, cost)
        damping = np.where(better, damping / 5, damping * 5)
        if (better & (gained < 1e-9) | (damping > 1e6)).all():
            break
    return values


def draw_gaussians(size: int, cov: np.ndarray, flux: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Draw sums of elliptical Gaussians: what :func:`fit_gaussians` fits.

    Parameters
    ----------
    size : int
        Side of the images in pixels.
    cov : ndarray of float, shape (P, K, 3)
        Covariances xx, xy, yy in square pixels, pixels included.
    flux : ndarray of float, shape (P, K)
        Fluxes.
    centre : ndarray of float, shape (P, 2)
        Rows and columns.

    Returns
    -------
    ndarray of float64, shape (P, size, size)
        Images.
    """
    parts = np.concatenate([flux[..., None], cov], axis=-1).reshape(len(cov), -1)
    y, x = (axis.reshape(-1) for axis in np.mgrid[:size, :size].astype(float))
    return _gaussians(np.concatenate([parts, centre], axis=1), x, y)[0].reshape(-1, size, size)


def _gaussians(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return models (P, pixels) and their derivatives (P, pixels, 4 K + 2); NaN if a covariance is none."""
    count = len(values)
    dy, dx = y - values[:, -2:-1], x - values[:, -1:]
    model = np.zeros((count, x.size))
    slopes = np.zeros((count, x.size, values.shape[1]))
    for k, (flux, xx, xy, yy) in enumerate(values[:, :-2].reshape(count, -1, 4).transpose(1, 2, 0)):
        det = xx * yy - xy**2
        det = np.where((det > 0) & (xx > PIXEL_VARIANCE) & (yy > PIXEL_VARIANCE), det, np.nan)
        ixx, ixy, iyy = (c[:, None] for c in (yy / det, -xy / det, xx / det))
        u, v = ixx * dx + ixy * dy, ixy * dx + iyy * dy
        unit = np.exp(-0.5 * (u * dx + v * dy)) / (2 * np.pi * np.sqrt(det))[:, None]
        light = flux[:, None] * unit
        model += light
        slopes[:, :, 4 * k] = unit
        slopes[:, :, 4 * k + 1] = 0.5 * light * (u**2 - ixx)
        slopes[:, :, 4 * k + 2] = light * (u * v - ixy)
        slopes[:, :, 4 * k + 3] = 0.5 * light * (v**2 - iyy)
        slopes[:, :, -2] += light * v
        slopes[:, :, -1] += light * u
    return model, slopes


def from_covariance(cov: np.ndarray, share: np.ndarray, pixel_scale: float) -> GaussianPsf:
    """Build PSFs from covariances on pixels.

    Parameters
    ----------
    cov : ndarray of float, shape (..., K, 3)
        xx, xy, yy in square pixels, the pixel's own variance included, as :func:`fit_gaussians` returns.
    share : ndarray of float, shape (..., K)
        Flux of each Gaussian; one is a star's.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    GaussianPsf of shape (...)
        Its ``fwhm`` is that of the adaptive moments, pixel included, as SDSS quotes it.
    """
    half = 0.5 * (cov[..., 0] + cov[..., 2]) - PIXEL_VARIANCE
    e = np.stack([0.5 * (cov[..., 0] - cov[..., 2]), cov[..., 1]], axis=-1) / half[..., None]
    fwhm = FWHM_PER_SIGMA * pixel_scale * np.sqrt(adaptive_variance(cov, share))
    return GaussianPsf(pixel_scale * np.sqrt(half), np.asarray(share, float), e, fwhm)


def _matrix(cov: np.ndarray) -> np.ndarray:
    return np.asarray(cov, float)[..., [0, 1, 1, 2]].reshape(*cov.shape[:-1], 2, 2)
