"""Drawing: points and galaxies of any ellipse under an elliptical PSF, integrated over pixels.

Everything drawn is a sum of elliptical Gaussians. A Gaussian PSF adds its covariance to that of the source,
and the pixel adds its own, 1/12 on the diagonal; what a square has beyond its variance, its fourth and sixth
cumulants, is put in by the derivatives of the Gaussian that they multiply.

Mehler's series (1866) makes a Gaussian whose axes are correlated by rho a sum of products of Hermite
functions of row and of column, weighted by powers of rho. So an image is one product of two thin matrices
and no exponential is taken of a pixel; a point under a PSF needs three terms of the series, an edge-on disc
thirty.

Functions take NumPy arrays or torch tensors (of any device) and return the same kind, in the dtype they were
given.

Shapes: N stamps, K Gaussians of a stamp, S pixels on a side, M elements of a profile. Lengths are in pixels,
the middle of the first pixel is at 0, images have rows first.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from .profiles import profile_weights

# Of a square of unit side: its variance, and kappa_4 / 4! and kappa_6 / 6! of the uniform density.
_VARIANCE, _FOURTH, _SIXTH = 1 / 12, -1 / 2880, 1 / 181440

TOLERANCE = 1e-3
"""Error of the series, over the peak of the stamp: it decides how many terms are summed."""

MAX_CORRELATION = 0.97
"""Of row and column: an axis ratio of 0.12 at 45 degrees. What is thinner takes as many terms as this."""

_PIXEL_SHOWS = 5.0  # square pixels: for a wider Gaussian a pixel's higher cumulants are 1e-4 of the peak

CHUNK = 1500
"""Gaussians drawn at once on the host: what is computed of them stays near the processor."""

# Elements of a galaxy profile: variances from a fraction of the PSF's upwards, so that all that the PSF
# hides is one Gaussian, whatever the radius.
_LOWEST, _RATIO, _ELEMENTS = 0.08, 2.3, 14
_WIDE = 7  # under elements from here on the PSF acts as one Gaussian of its mean variance
_FINE, _STEPS = (
    16,
    (-12, 17),
)  # rows of the table to a factor _RATIO in radius^2, and its first and last factor


class Ellipse(NamedTuple):
    """Covariances, in any one unit: column with column, column with row, row with row."""

    xx: Any
    xy: Any
    yy: Any


def _lib(x: Any) -> Any:
    return torch if isinstance(x, torch.Tensor) else np


def _as(values: Any, like: Any) -> Any:
    """Return constants as an array of the kind, dtype and device of `like`."""
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return np.asarray(values, like.dtype)


class Seeing(NamedTuple):
    """PSFs of N stamps, lengths in pixels.

    Parameters
    ----------
    variance, share : array of float, shape (N, P)
        Of each Gaussian: geometric mean of the variances along its axes, and share of the flux.
    shape : Ellipse of arrays of shape (N,)
        Covariance of a PSF of unit variance: its ellipticity.
    """

    variance: Any
    share: Any
    shape: Ellipse


def ellipse(variance: Any, axis_ratio: Any, angle: Any) -> Ellipse:
    """Return the covariance of an ellipse.

    Parameters
    ----------
    variance : array of float
        Geometric mean of the variances along the two axes.
    axis_ratio : array of float
        Minor over major axis, in (0, 1].
    angle : array of float
        Of the major axis, from the column direction towards higher rows, radians.
    """
    xp = _lib(axis_ratio)
    major, minor = variance / axis_ratio, variance * axis_ratio
    cos, sin = xp.cos(angle), xp.sin(angle)
    return Ellipse(
        major * cos**2 + minor * sin**2, (major - minor) * cos * sin, major * sin**2 + minor * cos**2
    )


def _terms(size: int, correlation: Any, height: Any, variance: Any) -> list[int]:
    """Return how many terms of the series each Gaussian needs, the worst of all stamps counting, (K,)."""
    xp = _lib(height)
    # Terms but the first have no flux in all; those of a Gaussian that the stamp cuts off have some on the
    # stamp.
    tolerance = TOLERANCE * xp.where(variance < (size / 5) ** 2, _as(1.0, height), _as(0.03, height))
    allowed = tolerance * height.sum(-1)[:, None]
    rho = xp.clip(abs(correlation), 1e-6, MAX_CORRELATION)
    needed = xp.log(xp.clip(allowed / xp.clip(height, 1e-30, None), 1e-9, 1.0)) / xp.log(rho)
    most = xp.amax(needed, 0).tolist()
    return [max(math.ceil(count), 1) for count in most]


def _series(u: Any, density: Any, rho: Any, counts: list[int], starts: list[int], out: Any) -> None:
    """Write ``rho^n He_n(u) / sqrt(n!)`` times `density` into `out` (N, R, S) for n from 1.

    `u`, `density` (N, K, S); `rho` (N, K, 1), or None for 1. The first ``counts[n]`` Gaussians have a term
    n, which begins at row ``starts[n]``.
    """
    if len(counts) < 2:
        return
    step = u if rho is None else u * rho
    before, last = None, density
    for n in range(1, len(counts)):
        few = slice(0, counts[n])
        value = out[:, starts[n] : starts[n] + counts[n]]
        value[:] = step[:, few] * last[:, few]
        if n > 1:
            value /= math.sqrt(n)
        if before is not None:
            factor = math.sqrt((n - 1) / n)
            value -= before[:, few] * (factor if rho is None else rho[:, few] ** 2 * factor)
        before, last = last, value


def _gaussians(
    pixels: Any,
    centre: Any,
    variance: Any,
    height: Any,
    counts: list[int],
    starts: list[int],
    rho: Any,
    out: Any,
) -> None:
    """Write what one axis contributes, row by row of `out` (N, R, S); centres and so on (N, K)."""
    xp = _lib(variance)
    scale = 1 / xp.sqrt(variance)
    u = (pixels - centre[..., None]) * scale[..., None]
    square = u * u
    exponent = square * -0.5
    # Below e^-80 a float32 is no normal number, and slow.
    density = xp.exp(xp.clip(exponent, -80, None, out=exponent), out=exponent)
    density *= (height * scale)[..., None]
    _series(u, density, rho, counts, starts, out)
    out[:, : counts[0]] = density
    # The higher cumulants of a pixel matter in the first term (in the others they come times rho), and
    # where the Gaussian is narrow: a cubic in the squared distance.
    narrow = [k for k, least in enumerate(xp.amin(variance, 0).tolist()) if least < _PIXEL_SHOWS]
    if narrow:
        few = slice(narrow[0], narrow[-1] + 1)
        fourth = (_FOURTH / variance[:, few] ** 2)[..., None]
        sixth = (_SIXTH / variance[:, few] ** 3)[..., None]
        square = square[:, few]
        factor = square * sixth
        factor += fourth - 15 * sixth
        factor *= square
        factor += 45 * sixth - 6 * fourth
        factor *= square
        factor += 1 + 3 * fourth - 15 * sixth
        out[:, few] *= factor


def _draw(size: int, x: Any, y: Any, shape: Ellipse, flux: Any) -> Any:
    """Draw one chunk; arguments as for `draw_gaussians`, centres (N, K)."""
    xp = _lib(flux)
    variance_x, variance_y, covariance = shape.xx + _VARIANCE, shape.yy + _VARIANCE, shape.xy
    root = xp.sqrt(variance_x * variance_y)
    terms = _terms(size, covariance / root, flux / root, variance_x + variance_y)
    # Those with the longest series first: then every further term is one of the first few.
    order = sorted(range(len(terms)), key=lambda k: -terms[k])
    x, y, flux, root, variance_x, variance_y, covariance = (
        array[:, order] for array in (x, y, flux, root, variance_x, variance_y, covariance)
    )
    counts = [sum(count > n for count in terms) for n in range(max(terms))]
    starts = [sum(counts[:n]) for n in range(len(counts))]
    pixels = _as(np.arange(size), flux)
    rows, columns = xp.empty((2, len(flux), sum(counts), size), dtype=flux.dtype, **_place(flux))
    rho = (covariance / root)[..., None]
    _gaussians(pixels, y, variance_y, flux / (2 * math.pi), counts, starts, rho, rows)
    _gaussians(pixels, x, variance_x, xp.ones_like(flux), counts, starts, None, columns)
    return rows.swapaxes(1, 2) @ columns


def _place(like: Any) -> dict[str, Any]:
    return {"device": like.device} if isinstance(like, torch.Tensor) else {}


def draw_gaussians(
    size: int, x: Any, y: Any, shape: Ellipse, flux: Any, out: Any = None, at: Any = None
) -> Any:
    """Draw sums of elliptical Gaussians, integrated over pixels.

    Parameters
    ----------
    size : int
        S, side of the image.
    x, y : array of float, shape (N,) or (N, K)
        Centres: column and row.
    shape : Ellipse of arrays of shape (N, K)
        Covariances, square pixels, without the pixel's.
    flux : array of float, shape (N, K)
        Total flux of each Gaussian, zero or more.
    out : array of float, shape (M, S, S), optional
        Images to add to.
    at : array of int, shape (N,), optional
        Which of them, each once at most; by default the first N.

    Returns
    -------
    array of float, shape (N, S, S) or (M, S, S)
        Flux in each pixel: `out`, where given.
    """
    xp = _lib(flux)
    n = len(flux)
    image = xp.zeros((n, size, size), dtype=flux.dtype, **_place(flux)) if out is None else out
    if n == 0 or flux.shape[1] == 0:
        return image
    x, y = (xp.broadcast_to(c if c.ndim == 2 else c[:, None], flux.shape) for c in (x, y))
    # Stamps of like shape go together: the most tilted one decides how long the series is.
    order = xp.argsort(xp.amax(abs(shape.xy / xp.sqrt(shape.xx * shape.yy)), -1))
    step = n if isinstance(flux, torch.Tensor) and flux.is_cuda else max(CHUNK // flux.shape[1], 16)
    for start in range(0, n, step):
        some = order[start : start + step]
        image[some if at is None else at[some]] += _draw(
            size, x[some], y[some], Ellipse(*(c[some] for c in shape)), flux[some]
        )
    return image


@cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the flux in each element (J, M), and the variance of the first over the grid's first (J,).

    Rows step in the logarithm of radius^2 over the grid's first variance. What lies below the grid is put
    into the first element, which takes its mean variance.
    """
    # A profile as wide as a step of the grid has the weights of a narrower one, a step further up: the
    # rows of one step give all. Far below and above the grid there is no light.
    first, last = _STEPS
    powers = np.arange(-40 - last, 40 - first)
    fine = np.exp(0.5 * math.log(_RATIO) * np.arange(_FINE) / _FINE)
    step = profile_weights(name, fine, _RATIO ** powers.astype(float))
    step /= step.sum(axis=1, keepdims=True)  # one, but for the ripple of the trapezoid rule
    weights = np.concatenate([step[:, last - m : last - m + 80] for m in range(first, last)])
    # Columns are now the powers from -40.
    low, mean = weights[:, :41], _RATIO ** np.arange(-40.0, 1.0)
    total = low.sum(axis=1)
    mean = np.divide(low @ mean, total, out=np.ones_like(total), where=total > 1e-30)
    return np.concatenate([total[:, None], weights[:, 41 : 40 + _ELEMENTS]], axis=1), mean


def galaxy_gaussians(name: str, radius: Any, axis_ratio: Any, angle: Any, psf: Seeing) -> tuple[Ellipse, Any]:
    """Return a galaxy profile under a PSF as Gaussians, narrow ones first.

    Parameters
    ----------
    name : {"exponential", "de Vaucouleurs"}
        The profile.
    radius, axis_ratio, angle : array of float, shape (N,)
        Half-light radius (geometric mean of the axes) in pixels, minor over major axis, position angle.
    psf : Seeing
        The PSFs.

    Returns
    -------
    shape : Ellipse of arrays of shape (N, K)
        Covariances.
    flux : array, shape (N, K)
        Shares of the profile's flux; light of elements wider than any stamp is left out.
    """
    xp = _lib(radius)
    table, first = (_as(part, radius) for part in _table(name))
    # What the peak of the PSF would make of one Gaussian; a narrow one of little flux sets no scale.
    lowest = _LOWEST * (_VARIANCE + 1 / (psf.share / psf.variance).sum(-1))
    place = (xp.log(radius * radius / lowest) / math.log(_RATIO) - _STEPS[0]) * _FINE
    place = xp.clip(place, 0, len(table) - 1.001)
    row = place.long() if xp is torch else place.astype(np.int64)
    part = place - row
    weight = table[row] * (1 - part[:, None]) + table[row + 1] * part[:, None]
    variance = lowest[:, None] * _as(_RATIO ** np.arange(_ELEMENTS), radius)
    variance[:, 0] = lowest * (first[row] * (1 - part) + first[row + 1] * part)

    mean = (psf.variance * psf.share).sum(-1)[:, None]
    narrow = slice(0, _WIDE)
    n, planes = psf.share.shape
    flux = xp.concatenate(
        [(weight[:, narrow, None] * psf.share[:, None]).reshape(n, _WIDE * planes), weight[:, _WIDE:]], 1
    )
    blur = xp.concatenate(
        [
            xp.broadcast_to(psf.variance[:, None], (n, _WIDE, planes)).reshape(n, _WIDE * planes),
            xp.broadcast_to(mean, (n, _ELEMENTS - _WIDE)),
        ],
        1,
    )
    spread = xp.concatenate(
        [
            xp.broadcast_to(variance[:, narrow, None], (n, _WIDE, planes)).reshape(n, _WIDE * planes),
            variance[:, _WIDE:],
        ],
        1,
    )
    unit = ellipse(1.0, axis_ratio, angle)
    shape = Ellipse(*(spread * g[:, None] + blur * p[:, None] for g, p in zip(unit, psf.shape, strict=True)))
    return shape, flux


def draw_galaxies(
    size: int,
    name: str,
    x: Any,
    y: Any,
    flux: Any,
    radius: Any,
    axis_ratio: Any,
    angle: Any,
    psf: Seeing,
    out: Any = None,
    at: Any = None,
) -> Any:
    """Draw galaxies of one profile.

    `x`, `y` and `flux` have shape (N,); what follows is as in `galaxy_gaussians`, and the last two and
    what is returned as in `draw_gaussians`.
    """
    shape, share = galaxy_gaussians(name, radius, axis_ratio, angle, psf)
    # Of compact galaxies the widest elements hold nothing.
    most = _lib(flux).amax(share, 0).tolist() if len(flux) else []
    needed = [k for k, value in enumerate(most) if value > 1e-6]
    shape = Ellipse(*(c[:, needed] for c in shape))
    return draw_gaussians(size, x, y, shape, share[:, needed] * flux[:, None], out, at)
