"""Galaxy profiles fitted to stamps: radii, and model fluxes with one shape in all bands.

Results are no differentiable functions here, and nothing of this runs inside a network, so this is a plain
function with backends and no operator of torch's.
"""

from __future__ import annotations

import torch

from ..backends import AUTO, Implementation, Operator, Problem, not_compiled
from ..errors import DataError
from ..kernels import profile_fit_compiled
from ..reference import profile_fit as _reference
from ..reference.profile_fit import ProfileFits

_CHUNK = 4 * 1024 * 1024
"""Pixels that the reference works on at once; it needs some 200 bytes for each."""


def _by_reference(*tensors: torch.Tensor, reference_band: int) -> ProfileFits:
    """Run the reference in float64, in chunks that fit in memory."""
    images, centre, psf_cov, psf_share, noise, gain = (each.double() for each in tensors)
    rows = max(1, _CHUNK // max(images[:1].numel(), 1))
    parts = []
    for start in range(0, max(len(images), 1), rows):
        part = slice(start, start + rows)
        parts.append(
            _reference.fit_profiles(
                images[part],
                centre[part],
                psf_cov[part],
                psf_share[part],
                noise[part],
                gain[part],
                reference_band=reference_band,
            )
        )
    return ProfileFits(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    )


OPERATOR = Operator(
    "profile_fit",
    (
        Implementation("cpp", profile_fit_compiled.fit_profiles, not_compiled),
        Implementation("reference", _by_reference),
    ),
)


def fit_profiles(
    images: torch.Tensor,
    centre: torch.Tensor,
    psf_cov: torch.Tensor,
    psf_share: torch.Tensor,
    noise: torch.Tensor,
    gain: torch.Tensor,
    *,
    reference_band: int,
    backend: str = AUTO,
) -> ProfileFits:
    """Fit a de Vaucouleurs profile in each band and an exponential one in the reference band.

    Parameters
    ----------
    images : Tensor of float32 or float64, shape (N, B, S, S)
        Sky-subtracted images; pixels that are not finite are left out.
    centre : Tensor of float, shape (N, B, 2)
        Row and column, 0 at the middle of the first pixel.
    psf_cov : Tensor of float, shape (N, B, K, 3)
        Covariances xx, xy, yy of each PSF in square pixels, pixels included; x is along columns.
    psf_share : Tensor of float, shape (N, B, K)
        Their fluxes.
    noise, gain : Tensor of float, shape (N, B)
        Standard deviation of the sky in a pixel, and photons in a unit of flux; infinite for none.
    reference_band : int
        The band whose better profile gives the fluxes in all bands.
    backend : str
        ``cpp`` (host memory, all cores) or ``reference`` (any device, batched).

    Returns
    -------
    ProfileFits
        In float64, on the device of `images`.

    Raises
    ------
    DataError
        If shapes disagree.
    BackendUnavailable
        If the backend asked for cannot run.
    """
    if images.dim() != 4 or images.shape[2] != images.shape[3] or not images.is_floating_point():
        raise DataError(f"images have shape {tuple(images.shape)}", expected="floats of shape (N, B, S, S)")
    n, b = images.shape[:2]
    k = psf_share.shape[-1]
    wanted = {
        "centre": (centre, (n, b, 2)),
        "psf_cov": (psf_cov, (n, b, k, 3)),
        "psf_share": (psf_share, (n, b, k)),
        "noise": (noise, (n, b)),
        "gain": (gain, (n, b)),
    }
    for name, (value, shape) in wanted.items():
        if tuple(value.shape) != shape:
            raise DataError(f"{name} has shape {tuple(value.shape)}", expected=str(shape))
    if not 0 <= reference_band < b:
        raise DataError(f"the reference band is {reference_band}", expected=f"0 to {b - 1}")
    chosen = OPERATOR.resolve(Problem.of(images), backend)
    return chosen.run(images, centre, psf_cov, psf_share, noise, gain, reference_band=reference_band)
