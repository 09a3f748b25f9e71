"""Elliptical galaxy profiles fitted to images in several bands: what every backend must reproduce.

A profile is a sum of M Gaussians (:data:`PROFILES`) and the PSF one of K, so that a profile of effective
radius ``a`` seen through the PSF is a sum of M K Gaussians with covariances

    C_mk = P_k + v_m T,        T = exp(2 u) [[1 + e1, e2], [e2, 1 - e1]]

(x along columns). ``a^2 = exp(2 u) (1 + |e|)`` is the larger eigenvalue of ``T``: the effective radius along
the major axis. The axis ratio is ``sqrt((1 - |e|) / (1 + |e|))``. These parameters are smooth where a profile
is round, and bounds on them are simple.

Amplitudes are linear and never parameters: for any ``(u, e1, e2)`` the best one is known, and derivatives are
those of the residual with the amplitude at its best (Golub & Pereyra 1973, in Kaufman's form).

Shapes: N objects, B bands, S pixels a side, K Gaussians of a PSF, F = fits that run together, X = S S pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ELLIPTICITY = (1 - 0.05**2) / (1 + 0.05**2)
"""Of the matrix T: an axis ratio of 0.05, the smallest that SDSS fits."""

STARTS = (0.6, 1.5, 3.0, 6.0)
"""Radii in pixels, round, of which the best de Vaucouleurs one is where fits begin."""

FIT_RADIUS = 11.6
"""Pixels within this distance of the centre are fitted: the least that SDSS fits, 4.6 arcsec ..."""

LARGE = 2.0
"""... but all pixels where the reference band's best start is larger than this radius in pixels."""

MIN_RADIUS, MAX_RADIUS = 1e-5, 40.0
"""Bounds of exp(u) in pixels."""

MODEL_ERROR = 0.02
"""Part of the light in a pixel by which the model is taken to be wrong."""

MAX_STEPS = 30
MAX_CHANGE = 5.0
"""Largest step of u, and of |e| too."""

TOLERANCE = 3e-3
"""A fit ends when a step lowers chi^2 by less."""

FIRST_DAMPING, MAX_DAMPING = 1e-2, 1e5

# Variances and fluxes of Gaussians, in units of the squared effective radius and of the total flux. Fitted to
# the profiles as SDSS defines them (DR7, "model magnitudes"): exp(-7.67 (s^(1/4) - 1)), s^2 = r^2 + 0.02^2,
# going to zero from 7 to 8 radii, and exp(-1.68 (r - 1)), from 3 to 4. The light within any radius is right
# to 0.6 % of the total, and under a PSF of 0.3 radii or more the peak to 0.3 %.
PROFILES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "de Vaucouleurs": (
        (7.26763762e-04, 5.51929919e-03, 3.31230574e-02, 0.180628018, 1.01035162, 7.32347367),
        (0.01284749, 0.05191640, 0.12316582, 0.21914060, 0.29899428, 0.29393541),
    ),
    "exponential": (
        (0.01426386, 0.09795779, 0.40783138, 1.43441066),
        (0.00784180, 0.08171000, 0.36866214, 0.54178606),
    ),
}
DE_VAUCOULEURS, EXPONENTIAL = range(2)


@dataclass(frozen=True)
class ProfileFits:
    """What was fitted to N objects in B bands.

    Parameters
    ----------
    flux : ndarray or Tensor, shape (N, B)
        Amplitude of the better profile of the reference band, its shape kept, in each band.
    shape : shape (N, B + 1, 3)
        ``(u, e1, e2)`` of the de Vaucouleurs profile fitted in each band, and last of the exponential one in
        the reference band; u is the logarithm of pixels.
    chi2 : shape (N, B + 1)
        Of these fits.
    amplitude : shape (N, B + 1)
        Of these fits.
    steps : shape (N, B + 1)
        Steps that these fits took; `MAX_STEPS` if they did not end by themselves.
    """

    flux: Tensor
    shape: Tensor
    chi2: Tensor
    amplitude: Tensor
    steps: Tensor


@dataclass
class _Problem:
    """F images to which one profile each is fitted."""

    image: Tensor  # (F, X), as the weights
    weight: Tensor
    centre: Tensor  # (F, 2)
    cov: Tensor  # (F, K, 3)
    share: Tensor  # (F, K)
    variance: Tensor  # (F, M), as the light
    light: Tensor

    def __getitem__(self, rows: Tensor) -> _Problem:
        return _Problem(**{name: value[rows] for name, value in vars(self).items()})


def render(problem: _Problem, shape_F3: Tensor, *, slopes: bool) -> tuple[Tensor, Tensor]:
    """Return models of unit flux (F, X) and, if asked for, their derivatives (F, X, 3) by u, e1 and e2."""
    size = math.isqrt(problem.image.shape[1])
    pixel = torch.arange(size, dtype=shape_F3.dtype, device=shape_F3.device)
    dy = (pixel[:, None] - problem.centre[:, 0, None, None]).expand(-1, size, size).flatten(1)
    dx = (pixel - problem.centre[:, 1, None, None]).expand(-1, size, size).flatten(1)
    u, e1, e2 = shape_F3.unbind(1)
    scale = torch.exp(2 * u)
    model = torch.zeros_like(dx)
    by_xx, by_xy, by_yy = (torch.zeros_like(dx) for _ in range(3))
    for k in range(problem.share.shape[1]):
        for m in range(problem.light.shape[1]):
            v = problem.variance[:, m]
            xx = problem.cov[:, k, 0] + v * scale * (1 + e1)
            xy = problem.cov[:, k, 1] + v * scale * e2
            yy = problem.cov[:, k, 2] + v * scale * (1 - e1)
            det = xx * yy - xy * xy
            height = problem.share[:, k] * problem.light[:, m] / (2 * math.pi * torch.sqrt(det))
            ixx, ixy, iyy = (c[:, None] for c in (yy / det, -xy / det, xx / det))
            p, q = ixx * dx + ixy * dy, ixy * dx + iyy * dy
            light = height[:, None] * torch.exp(-0.5 * (p * dx + q * dy))
            model += light
            if slopes:
                light = v[:, None] * light
                by_xx += light * (p * p - ixx)
                by_xy += light * (p * q - ixy)
                by_yy += light * (q * q - iyy)
    if not slopes:
        return model, model.new_empty((0,))
    half, e1, e2 = 0.5 * scale[:, None], e1[:, None], e2[:, None]
    # d/dT of the model is half of (by_xx, by_xy, by_yy); xy counts twice, as T has it twice.
    return model, torch.stack(
        [
            2 * half * ((1 + e1) * by_xx + 2 * e2 * by_xy + (1 - e1) * by_yy),
            half * (by_xx - by_yy),
            half * 2 * by_xy,
        ],
        dim=-1,
    )


def _amplitude(problem: _Problem, model_FX: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best amplitude (F,) and chi^2 (F,)."""
    weighted = problem.weight * model_FX
    amplitude = (weighted * problem.image).sum(1) / (weighted * model_FX).sum(1)
    residual = problem.image - amplitude[:, None] * model_FX
    return amplitude, (problem.weight * residual * residual).sum(1)


def _evaluate(problem: _Problem, shape_F3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return amplitude (F,), chi^2 (F,), gradient (F, 3) and normal matrix (F, 3, 3) of half of chi^2."""
    model, slopes = render(problem, shape_F3, slopes=True)
    weight, image = problem.weight, problem.image
    amplitude, chi2 = _amplitude(problem, model)
    residual = image - amplitude[:, None] * model
    gradient = amplitude[:, None] * torch.einsum("fx,fxi->fi", weight * residual, slopes)
    along = torch.einsum("fx,fxi->fi", weight * model, slopes)
    norm = (weight * model * model).sum(1)
    normal = torch.einsum("fx,fxi,fxj->fij", weight, slopes, slopes)
    normal = normal - along[:, :, None] * along[:, None, :] / norm[:, None, None]
    return amplitude, chi2, gradient, amplitude[:, None, None] ** 2 * normal


def _bounded(shape_F3: Tensor) -> Tensor:
    """Return the nearest shapes that are allowed."""
    u = shape_F3[:, :1].clamp(math.log(MIN_RADIUS), math.log(MAX_RADIUS))
    e = shape_F3[:, 1:]
    size = torch.sqrt((e * e).sum(1, keepdim=True))
    return torch.cat([u, e * torch.where(size > MAX_ELLIPTICITY, MAX_ELLIPTICITY / size, 1.0)], dim=1)


def _step(gradient: Tensor, normal: Tensor, damping: Tensor) -> Tensor:
    """Return the damped step (F, 3), cut to `MAX_CHANGE`; 0 where it has no value."""
    diagonal = torch.diagonal(normal, dim1=1, dim2=2)
    floor = 1e-12 * diagonal.amax(1, keepdim=True) + 1e-30
    raised = normal + torch.diag_embed(damping[:, None] * diagonal + floor)
    # Cramer's rule, as simple in C++ as here.
    a, b, c = raised[:, 0, 0], raised[:, 0, 1], raised[:, 0, 2]
    d, e, f = raised[:, 1, 1], raised[:, 1, 2], raised[:, 2, 2]
    m00, m01, m02 = d * f - e * e, c * e - b * f, b * e - c * d
    m11, m12, m22 = a * f - c * c, b * c - a * e, a * d - b * b
    det = a * m00 + b * m01 + c * m02
    x, y, z = gradient.unbind(1)
    step = (
        torch.stack(
            [m00 * x + m01 * y + m02 * z, m01 * x + m11 * y + m12 * z, m02 * x + m12 * y + m22 * z], dim=1
        )
        / det[:, None]
    )
    step = torch.where(torch.isfinite(step).all(1, keepdim=True), step, torch.zeros_like(step))
    longest = torch.maximum(step[:, 0].abs(), torch.sqrt(step[:, 1] ** 2 + step[:, 2] ** 2))
    return step * torch.clamp(MAX_CHANGE / longest.clamp(min=1e-30), max=1.0)[:, None]


def _fit(problem: _Problem, shape_F3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit shapes by Levenberg and Marquardt's method; return shape, chi^2, amplitude and steps."""
    shape = _bounded(shape_F3)
    amplitude, chi2, gradient, normal = _evaluate(problem, shape)
    damping = torch.full_like(chi2, FIRST_DAMPING)
    steps = torch.zeros_like(chi2, dtype=torch.int64)
    running = torch.isfinite(chi2)
    for _ in range(MAX_STEPS):
        rows = torch.nonzero(running)[:, 0]
        if not len(rows):
            break
        trial = _bounded(shape[rows] + _step(gradient[rows], normal[rows], damping[rows]))
        found = _evaluate(problem[rows], trial)
        gain = chi2[rows] - found[1]
        better = gain > 0  # false for NaN
        steps[rows] += 1
        take = rows[better]
        shape[take] = trial[better]
        for kept, new in zip((amplitude, chi2, gradient, normal), found, strict=True):
            kept[take] = new[better]
        damping[rows] = torch.where(better, damping[rows] / 10, damping[rows] * 10)
        running[rows] = torch.where(better, gain > TOLERANCE, damping[rows] < MAX_DAMPING)
    return shape, chi2, amplitude, steps


def fit_profiles(
    images: Tensor,
    centre: Tensor,
    psf_cov: Tensor,
    psf_share: Tensor,
    noise: Tensor,
    gain: Tensor,
    *,
    reference_band: int,
) -> ProfileFits:
    """Fit de Vaucouleurs profiles in each band, an exponential one in one band, and model fluxes in all.

    In each band the weights of the pixels are the inverse of ``noise^2 + model / gain + (0.02 model)^2`` with
    the best round de Vaucouleurs profile of `STARTS` as the model, negative light counting as none.

    Parameters
    ----------
    images : Tensor of float, shape (N, B, S, S)
        Sky-subtracted images; pixels that are not finite are left out.
    centre : Tensor, shape (N, B, 2)
        Row and column, 0 at the middle of the first pixel.
    psf_cov : Tensor, shape (N, B, K, 3)
        xx, xy, yy in square pixels, pixels included.
    psf_share : Tensor, shape (N, B, K)
        Flux of each Gaussian of the PSF.
    noise, gain : Tensor, shape (N, B)
        Standard deviation of the sky in a pixel, and photons in a unit of flux; infinite for none.
    reference_band : int
        Band whose better profile gives the fluxes.

    Returns
    -------
    ProfileFits
        In the dtype of `images`, on its device.
    """
    n, bands = images.shape[:2]
    reference = reference_band
    tables = _tables(images)

    def problem(band: int | None, weight: Tensor, which: Tensor | int) -> _Problem:
        image, weight, at, cov, share = (
            part.flatten(0, 1) if band is None else part[:, band]
            for part in (images.flatten(2), weight, centre, psf_cov, psf_share)
        )
        index = torch.as_tensor(which, device=images.device).expand(len(image))
        return _Problem(image, weight, at, cov, share, tables[0][index], tables[1][index])

    uniform = (1 / (noise * noise))[..., None].expand(n, bands, images.shape[2] * images.shape[3])
    known = torch.isfinite(images).flatten(2)
    images = torch.where(torch.isfinite(images), images, 0.0)
    near = ((_distance2(images.shape[2], centre) < FIT_RADIUS**2) & known).to(images.dtype)
    whole = problem(None, uniform * near, DE_VAUCOULEURS)
    best = torch.full((n * bands,), math.inf, dtype=images.dtype, device=images.device)
    start = images.new_zeros((n * bands, 3))
    light = torch.zeros_like(whole.image)
    for radius in STARTS:
        shape = images.new_zeros((n * bands, 3))
        shape[:, 0] = math.log(radius)
        model, _ = render(whole, shape, slopes=False)
        amplitude, chi2 = _amplitude(whole, model)
        better = chi2 < best
        best = torch.where(better, chi2, best)
        start = torch.where(better[:, None], shape, start)
        light = torch.where(better[:, None], amplitude[:, None] * model, light)
    light = light.clamp(min=0).reshape(uniform.shape)
    weight = 1 / (noise[..., None] ** 2 + light / gain[..., None] + (MODEL_ERROR * light) ** 2)
    large = start.reshape(n, bands, 3)[:, reference, 0] > math.log(LARGE)
    weight = weight * torch.where(large[:, None, None], known.to(images.dtype), near)

    spheroids = _fit(problem(None, weight, DE_VAUCOULEURS), start)
    discs = _fit(problem(reference, weight, EXPONENTIAL), start.reshape(n, bands, 3)[:, reference])
    shape, chi2, amplitude, steps = (
        torch.cat([a.reshape(n, bands, *a.shape[1:]), b[:, None]], dim=1)
        for a, b in zip(spheroids, discs, strict=True)
    )
    disc = (chi2[:, bands] < chi2[:, reference]).long()
    chosen = torch.where(disc[:, None] == EXPONENTIAL, shape[:, bands], shape[:, reference])
    final = problem(None, weight, disc.repeat_interleave(bands))
    model, _ = render(final, chosen.repeat_interleave(bands, 0), slopes=False)
    flux, _ = _amplitude(final, model)
    return ProfileFits(flux.reshape(n, bands), shape, chi2, amplitude, steps)


def _distance2(size: int, centre: Tensor) -> Tensor:
    """Return the squared distance of all pixels from the centres (N, B, 2), shape (N, B, X)."""
    pixel = torch.arange(size, dtype=centre.dtype, device=centre.device)
    dy, dx = pixel[:, None] - centre[..., 0, None, None], pixel - centre[..., 1, None, None]
    return (dy * dy + dx * dx).flatten(2)


def _tables(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances and fluxes of all profiles, shape (2, M), filled up with Gaussians of no flux."""
    longest = max(len(variances) for variances, _ in PROFILES.values())
    rows: tuple[list[list[float]], list[list[float]]] = ([], [])
    for variances, fluxes in PROFILES.values():
        missing = longest - len(variances)
        rows[0].append([*variances, *[1.0] * missing])
        rows[1].append([*fluxes, *[0.0] * missing])
    variance, light = (torch.tensor(table, dtype=like.dtype, device=like.device) for table in rows)
    return variance, light
