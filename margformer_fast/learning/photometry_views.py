"""Random views of photometry: an object as it would be measured again, fainter, on another night."""

from __future__ import annotations

import numpy as np

from ..config import PhotometryViewConfig
from ..data.photometry.magnitudes import asinh_flux, asinh_magnitude
from ..data.survey import Survey
from ..errors import DataError
from ..reference.random import FOR_PHOTOMETRY, draw, uniform

_FWHM_TO_SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))
_MAGNITUDES = (5.0, 40.0)  # beyond, a magnitude is a placeholder whose flux would overflow
_LARGEST_SIZE_ERROR = 2.0  # of FWHM; below this signal a radius says nothing at all


class PhotometryViews:
    """Makes views of the features of a survey's objects.

    A contrastive task asks which two views are of one object, and is solved by whatever they share. Two views
    of a stamp with the same features share seeing, extinction and brightness, which name the object well
    enough and say nothing of its class. So a view has the seeing and the extinction of another object of the
    set, is fainter by a random amount, and its magnitudes and radii are measured again with the noise that
    they would then have. What is left in common are colours and size: what tells classes apart.

    The noise of a flux is that of an unresolved source, ``sigma_pixel * sqrt(4 pi) * sigma_PSF`` for a
    Gaussian PSF in pixels (King 1983, PASP 95, 163); to a source made fainter only what its own noise lacks
    is added. The error of a radius is the FWHM over the signal to noise, at most 2 FWHM. Magnitudes are asinh
    magnitudes, so any flux has one. Choices are a function of (seed, epoch, object, view).

    Parameters
    ----------
    survey : Survey
        The objects, whose features are all finite.
    pixel_noise : ndarray of float, shape (B,)
        Noise of a pixel in each band, in the survey's flux unit.
    config : PhotometryViewConfig
        How much views differ.

    Raises
    ------
    DataError
        If the noise of a band is not finite and above zero.
    """

    def __init__(self, survey: Survey, pixel_noise: np.ndarray, config: PhotometryViewConfig) -> None:
        pixel_noise = np.asarray(pixel_noise, float)
        bad = np.flatnonzero(~(np.isfinite(pixel_noise) & (pixel_noise > 0)))
        if len(bad):
            raise DataError(
                f"the pixel noise of band {survey.profile.bands[bad[0]]} is {pixel_noise[bad[0]]}",
                expected="finite and above zero: views of the photometry are drawn with it",
                mend="Leave constant stamps out, or use --pretrain-photometry hidden.",
            )
        self._objid, self._profile, self._config = survey.objid, survey.profile, config
        self._noise_scale = (
            pixel_noise * np.sqrt(4 * np.pi) * _FWHM_TO_SIGMA / survey.profile.pixel_scale_arcsec
        )
        self._flux = asinh_flux(np.clip(survey.magnitudes, *_MAGNITUDES), survey.profile)
        self._radius, self._fwhm, self._extinction = (
            np.stack([survey.feature(kind, band) for band in survey.profile.bands], axis=1)
            for kind in ("deVRad", "psffwhm", "extinction")
        )

    def fainter(self, rows: np.ndarray, *, seed: int, epoch: int, view: int) -> np.ndarray:
        """Return by how many magnitudes a view of objects at `rows` is fainter than they are, shape (n,)."""
        return (
            self._config.fainter * uniform(draw(seed, epoch, self._objid[rows], view, FOR_PHOTOMETRY))[:, 1]
        )

    def __call__(self, rows: np.ndarray, *, seed: int, epoch: int, view: int) -> np.ndarray:
        """Return one view of the features of objects at `rows`.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)
            Which objects.
        seed, epoch, view : int
            With the identifiers of the objects, all that the view depends on.

        Returns
        -------
        ndarray of float32, shape (n, F)
            In the order and the units of ``profile.feature_names``.
        """
        config, num_bands = self._config, len(self._profile.bands)
        choice = uniform(draw(seed, epoch, self._objid[rows], view, FOR_PHOTOMETRY))
        other = (choice[:, 0] * len(self._objid)).astype(np.int64) if config.conditions else rows
        fainter = self.fainter(rows, seed=seed, epoch=epoch, view=view)[:, None]
        noise = _normals(seed, epoch, self._objid[rows], view, 2 * num_bands)

        fwhm, extinction = self._fwhm[other], self._extinction[other]
        dimming = 10 ** (-0.4 * (fainter + extinction - self._extinction[rows]))
        own_sigma, sigma = self._noise_scale * self._fwhm[rows], self._noise_scale * fwhm
        lacking = np.sqrt(np.maximum(sigma**2 - (dimming * own_sigma) ** 2, 0) + (config.noise * sigma) ** 2)
        flux = self._flux[rows] * dimming + lacking * noise[:, :num_bands]
        magnitude = asinh_magnitude(flux, self._profile)
        size_error = fwhm * np.minimum(lacking / np.maximum(flux, sigma), _LARGEST_SIZE_ERROR)
        radius = np.abs(self._radius[rows] + config.radius_noise * size_error * noise[:, num_bands:])

        per_band = np.stack([magnitude - extinction, radius, fwhm, extinction], axis=2).reshape(len(rows), -1)
        return np.hstack([per_band, magnitude[:, :-1] - magnitude[:, 1:]]).astype(np.float32)


def _normals(seed: int, epoch: int, objid: np.ndarray, view: int, count: int) -> np.ndarray:
    """Draw standard normal deviates of each object, shape (n, count) (Box & Muller 1958)."""
    words = [draw(seed, epoch, objid, view, FOR_PHOTOMETRY + 1 + block) for block in range(-(-count // 4))]
    u = uniform(np.hstack(words))
    radius = np.sqrt(-2.0 * np.log(u[:, 0::2] + 2.0**-24))  # the logarithm of (0, 1]
    turn = 2.0 * np.pi * u[:, 1::2]
    return np.hstack([radius * np.cos(turn), radius * np.sin(turn)])[:, :count]
