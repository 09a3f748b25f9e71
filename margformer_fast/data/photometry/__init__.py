"""Photometric features measured from stamps: magnitudes, de Vaucouleurs radii and colours.

=================  ==========================================================================================
module             job
=================  ==========================================================================================
`features`         :func:`measure`: from stamps, PSF and noise to the features, with flags
`magnitudes`       asinh magnitudes; extinction from E(B-V)
`centre`           where a source is
`psf`              PSFs as sums of Gaussians, fitted to images of stars
=================  ==========================================================================================

The fits themselves are an operator, :mod:`margformer_fast.ops.profile_fit`. How well they agree with the SDSS
catalogue is told in ``docs/photometry.md``.
"""

from .features import FIT_PIXELS, Flag, Measurement, measure
from .magnitudes import SOFTENING, asinh_flux, asinh_magnitude, extinction_of, softening
from .psf import GaussianPsf, PsfLike

__all__ = [
    "FIT_PIXELS",
    "SOFTENING",
    "Flag",
    "GaussianPsf",
    "Measurement",
    "PsfLike",
    "asinh_flux",
    "asinh_magnitude",
    "extinction_of",
    "measure",
    "softening",
]
