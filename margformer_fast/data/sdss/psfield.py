"""``psField`` files: the point spread function of a field as the SDSS pipeline modelled it.

HDUs 1 to 5, one for each band, hold Karhunen-Loeve eigenimages and the polynomials in row and column by which
they add up to the image of a star at a place of the frame (Lupton et al. 2001)::

    PSF(x) = sum_k image_k(x) sum_ij c_kij (0.001 row)^i (0.001 column)^j

The images hold what a star leaves in the pixels: the pixel's own width is in them. HDU 6 has one row with the
pipeline's two-Gaussian fits at the middle of the frame, sky levels, gains and dark variances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np

from ...errors import DataError, FitsFormatError
from ..photometry.psf import (
    FWHM_PER_SIGMA,
    GaussianPsf,
    adaptive_moments,
    adaptive_variance,
    draw_gaussians,
    fit_gaussians,
    from_covariance,
)
from ..survey import SDSS
from .check import aperture_flux
from .files import find_hdu, one_line, read_bytes

RING_RADII = np.sqrt(np.array([1, 9, 21, 61, 177, 421, 1085]) / np.pi)
"""Pixels: where the rings of the survey's profiles end."""

APERTURE_RADIUS = float(RING_RADII[-1])
"""Pixels: a star's flux is what lies within this radius, 7.4 arcsec, in SDSS's PSF and model magnitudes."""

FRAME_SHAPE = (1489, 2048)

_SCALE = 1e-3
_ROWS, _COLUMNS = np.linspace(0, FRAME_SHAPE[0], 5), np.linspace(0, FRAME_SHAPE[1], 6)
_INNER_RINGS = 5  # those within 7.5 pixels, where the profile is not yet uncertain by the sky
_CROP = 41  # pixels fitted of the 51; the rest holds less than 1e-3 of the light


@dataclass(frozen=True)
class PsField:
    """The PSF model of one field.

    Parameters
    ----------
    path : Path
        Where it was read.
    images : tuple of ndarray of float64, shape (K_b, S, S)
        Eigenimages of each band.
    coefficients : tuple of ndarray of float64, shape (K_b, I, J)
        Polynomials of each band: powers of row, powers of column.
    profile : ndarray of float64, shape (bands, 7)
        The composite profile of the field's stars: mean counts in a pixel in rings that end at `RING_RADII`.
    core_wing : ndarray of float64, shape (bands, 3)
        The two-Gaussian fits at the middle of the frame: sigma of core and wing in pixels, pixel included,
        and the height of the wing over that of the core.
    width : ndarray of float64, shape (bands,)
        ``psf_width``: the effective FWHM in arcsec.
    gain : ndarray of float64, shape (bands,)
        Electrons per count.
    sky, dark_variance : ndarray of float64, shape (bands,)
        Counts per pixel, and the variance of readout and dark current in square counts.
    """

    path: Path
    images: tuple[np.ndarray, ...]
    coefficients: tuple[np.ndarray, ...]
    profile: np.ndarray
    core_wing: np.ndarray
    width: np.ndarray
    gain: np.ndarray
    sky: np.ndarray
    dark_variance: np.ndarray

    def image(self, band: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return what a star would look like.

        Parameters
        ----------
        band : int
            Index into the survey's bands.
        row, column : ndarray of float, shape (N,)
            Places on the frame, pixels.

        Returns
        -------
        ndarray of float64, shape (N, S, S)
            Images with a flux of one within `APERTURE_RADIUS` of their middle.

        See also `wings`: the light that real stars have further out.
        """
        c, base = self.coefficients[band], self.images[band]
        powers_row = (_SCALE * np.asarray(row, float))[:, None] ** np.arange(c.shape[1])
        powers_column = (_SCALE * np.asarray(column, float))[:, None] ** np.arange(c.shape[2])
        amplitude = np.einsum("ni,nj,kij->nk", powers_row, powers_column, c)
        stars = np.tensordot(amplitude, base, 1)
        offset = np.arange(base.shape[-1]) - base.shape[-1] // 2
        inside = offset[:, None] ** 2 + offset**2 < APERTURE_RADIUS**2
        return np.asarray(stars / (stars * inside).sum(axis=(1, 2), keepdims=True))

    @property
    def wings(self) -> np.ndarray:
        """Flux of a star over that of its image here, shape (bands,).

        The eigenimages hold less light in the wings than stars do. What they lack follows from the composite
        profile of the field's stars: its light within `APERTURE_RADIUS` over that within 7.5 pixels, divided
        by the same of the image at the middle of the frame.
        """
        rings = self.profile * np.diff(RING_RADII**2, prepend=0)
        of_stars = rings.sum(axis=1) / rings[:, :_INNER_RINGS].sum(axis=1)
        middle = np.array([0.5 * FRAME_SHAPE[0]]), np.array([0.5 * FRAME_SHAPE[1]])
        within = []
        for band in range(len(SDSS.bands)):
            image = self.image(band, *middle)
            place = np.full(1, float(image.shape[-1] // 2))
            within.append(aperture_flux(image, place, place, RING_RADII[_INNER_RINGS - 1])[0])
        return np.asarray(of_stars * np.array(within))

    def psf(self, row: np.ndarray, column: np.ndarray, num_gaussians: int = 3) -> GaussianPsf:
        """Return the PSF at places on the frames as sums of Gaussians.

        Gaussians are fitted on a grid over the frame, where the PSF is smooth by construction, and their
        parameters interpolated by polynomials of third order.

        Parameters
        ----------
        row, column : ndarray of float, shape (N, bands)
            Places on the frame of each band, pixels.
        num_gaussians : int
            Gaussians in a PSF.

        Returns
        -------
        GaussianPsf of shape (N, bands)
            ``fwhm`` is the catalogue's PSF_FWHM: that of the adaptive moments, pixels included.
        """
        at = np.stack([a.reshape(-1) for a in np.meshgrid(_ROWS, _COLUMNS, indexing="ij")])
        covs, shares, fwhm = [], [], []
        wings = self.wings
        for band in range(len(SDSS.bands)):
            stars = self.image(band, *at)
            low = (stars.shape[-1] - _CROP) // 2
            stars = stars[:, low : low + _CROP, low : low + _CROP]
            middle = np.full((1, 2), _CROP // 2)
            # One fit to the mean first, from which all others differ a little.
            cov, flux, _ = fit_gaussians(stars.mean(axis=0)[None], middle, num_gaussians)
            start = np.concatenate([flux[0, :, None] / flux[0].sum(), cov[0]], axis=-1)
            cov, flux, centre = fit_gaussians(
                stars, np.tile(middle, (len(stars), 1)), num_gaussians, start=start, tied=True
            )
            # Fitted to a star, the model has the star's flux, whatever shape it leaves out.
            model = draw_gaussians(_CROP, cov, flux, centre)
            flux *= ((stars * model).sum(axis=(1, 2)) / (model**2).sum(axis=(1, 2)))[:, None]
            flux /= wings[band]
            variance = adaptive_moments(stars, centre)
            values = np.concatenate([cov, flux[..., None]], axis=-1).reshape(len(stars), -1)
            terms = np.linalg.lstsq(_terms(*at), np.column_stack([values, variance]), rcond=None)[0]
            values = _terms(row[:, band], column[:, band]) @ terms
            parts = values[:, :-1].reshape(len(row), num_gaussians, 4)
            covs.append(parts[..., :3])
            shares.append(parts[..., 3])
            fwhm.append(FWHM_PER_SIGMA * SDSS.pixel_scale_arcsec * np.sqrt(values[:, -1]))
        psf = from_covariance(np.stack(covs, 1), np.stack(shares, 1), SDSS.pixel_scale_arcsec)
        return replace(psf, fwhm=np.stack(fwhm, 1))

    @property
    def two_gaussian_fwhm(self) -> np.ndarray:
        """FWHM in arcsec of the two-Gaussian fits by their adaptive moments, shape (bands,)."""
        variance = self.core_wing[:, :2] ** 2
        share = np.stack([variance[:, 0], self.core_wing[:, 2] * variance[:, 1]], axis=-1)
        cov = np.stack([variance, 0 * variance, variance], axis=-1)
        return FWHM_PER_SIGMA * SDSS.pixel_scale_arcsec * np.sqrt(adaptive_variance(cov, share))


def _terms(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return products of powers of row and column at places on a frame, shape (N, 16)."""
    y, x = row / FRAME_SHAPE[0] - 0.5, column / FRAME_SHAPE[1] - 0.5
    powers = np.arange(4)
    products = (y[:, None] ** powers)[:, :, None] * (x[:, None] ** powers)[:, None]
    return np.asarray(products.reshape(len(y), -1))


def read_psfield(path: str | Path) -> PsField:
    """Read a ``psField-*.fit[.gz]``.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    PsField

    Raises
    ------
    DataError
        If the file is missing.
    FitsFormatError
        If it is damaged or holds no PSF.
    """
    from astropy.io import fits

    path = Path(path)
    content = read_bytes(path)
    find_hdu(content, "SIMPLE", True, path)  # for the walk
    try:
        with fits.open(BytesIO(content), memmap=False) as hdus:
            images, coefficients = [], []
            for band in range(len(SDSS.bands)):
                table = hdus[1 + band].data
                powers = int(table["nrow_b"][0]), int(table["ncol_b"][0])
                size = int(table["RNROW"][0]), int(table["RNCOL"][0])
                rows = np.stack([np.asarray(image, float).reshape(size) for image in table["RROWS"]])
                images.append(rows)
                # What is stored beyond the used powers is not set to anything.
                coefficients.append(np.asarray(table["c"], float)[:, : powers[0], : powers[1]])
            model = hdus[6].data[0]
            names = ("psf_sigma1_2G", "psf_sigma2_2G", "psf_b_2G")
            core_wing = np.stack([np.asarray(model[name], float) for name in names], axis=-1)
            profile = np.asarray(model["prof_mean"], float)[:, : len(RING_RADII)]
            rest = {key: np.asarray(model[name], float) for key, name in _COLUMNS_OF_MODEL.items()}
    except DataError:
        raise
    except Exception as error:  # a damaged table fails in many ways in astropy
        raise FitsFormatError(f"the PSF model cannot be read ({one_line(error)})", where=path) from error
    return PsField(path, tuple(images), tuple(coefficients), profile, core_wing, **rest)


_COLUMNS_OF_MODEL = {"width": "psf_width", "gain": "gain", "sky": "sky", "dark_variance": "dark_variance"}
