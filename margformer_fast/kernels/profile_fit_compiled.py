"""Profile fits by the compiled module, object by object on the host; ``csrc/cpu/profile_fit`` has the loops.

What is fitted, and every constant, is the reference's: the module is told.
"""

from __future__ import annotations

import torch

from .. import _native
from ..reference import profile_fit as reference
from ..reference.profile_fit import ProfileFits


def fit_profiles(
    images: torch.Tensor,
    centre: torch.Tensor,
    psf_cov: torch.Tensor,
    psf_share: torch.Tensor,
    noise: torch.Tensor,
    gain: torch.Tensor,
    *,
    reference_band: int,
    target: str = "",
) -> ProfileFits:
    """Fit as :func:`~margformer_fast.reference.profile_fit.fit_profiles` does, with the same arguments.

    Parameters
    ----------
    images : Tensor of float32 or float64
        In main memory; the pixels are worked on in their type. All other tensors are taken as float64, and
        results are float64.
    target : str
        One of the kinds of processors that the compiled module names; the best by default.
    """
    n, bands = images.shape[:2]
    inputs = [each.double().contiguous().numpy() for each in (centre, psf_cov, psf_share, noise, gain)]
    flux = torch.empty(n, bands, dtype=torch.float64)
    shape = torch.empty(n, bands + 1, 3, dtype=torch.float64)
    chi2, amplitude = torch.empty(2, n, bands + 1, dtype=torch.float64)
    steps = torch.empty(n, bands + 1, dtype=torch.int64)
    names = (
        "FIT_RADIUS LARGE MIN_RADIUS MAX_RADIUS MAX_ELLIPTICITY MODEL_ERROR MAX_CHANGE TOLERANCE "
        "FIRST_DAMPING MAX_DAMPING MAX_STEPS"
    )
    _native.compiled().fit_profiles(
        images.contiguous().numpy(),
        *inputs,
        reference=reference_band,
        flux=flux.numpy(),
        shape=shape.numpy(),
        chi2=chi2.numpy(),
        amplitude=amplitude.numpy(),
        steps=steps.numpy(),
        spheroid=reference.PROFILES["de Vaucouleurs"],
        disc=reference.PROFILES["exponential"],
        starts=list(reference.STARTS),
        limits={name.lower(): float(getattr(reference, name)) for name in names.split()},
        threads=_native.num_threads(),
        target=target,
    )
    return ProfileFits(flux, shape, chi2, amplitude, steps)
