"""PSF widths, extinction, and radii where there is no light, as the SDSS spectroscopic sample has them.

The tables, ``tables/conditions.json``, are of objects of even objID in the published Experiment-3 set and
made by ``benchmarks/calibrate_simulation.py``: PSF widths of stars, since the cut on compactness prefers
galaxies in bad seeing, the extinction of stars and galaxies, and the u radii of those whose u flux is well
below zero. Bands are u, g, r, i, z.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

TABLES = Path(__file__).parent / "tables" / "conditions.json"
_read = json.loads(TABLES.read_text())

PROBABILITIES = tuple(_read["probabilities"])
"""Of the quantiles below."""

PSF_FWHM = tuple(map(tuple, _read["psf_fwhm"]))
"""Quantiles of the width of the PSF in each band, arcsec."""

PSF_CORRELATION = tuple(map(tuple, _read["psf_correlation"]))
"""Correlation between bands of the normal scores of the width: its rank as a normal quantile."""

EXTINCTION_R = tuple(_read["extinction_r"])
"""Least, quantiles and largest of the extinction in r, magnitudes; its logarithm is interpolated."""

NO_LIGHT_RADIUS = tuple(_read["no_light_radius"])
"""Quantiles of the de Vaucouleurs radius that SDSS lists in a band without positive light, arcsec."""


def draw_fwhm(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw PSF widths in arcsec with these distributions and correlations, shape (count, 5)."""
    mixed = rng.standard_normal((count, 5)) @ np.linalg.cholesky(np.array(PSF_CORRELATION)).T
    rank = torch.special.ndtr(torch.from_numpy(mixed)).numpy()
    return np.stack(
        [
            np.exp(np.interp(rank[:, band], PROBABILITIES, np.log(quantiles)))
            for band, quantiles in enumerate(PSF_FWHM)
        ],
        axis=1,
    )


def draw_extinction(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw the extinction in r in magnitudes, shape (count,)."""
    return np.exp(np.interp(rng.random(count), (0.0, *PROBABILITIES, 1.0), np.log(EXTINCTION_R)))


def draw_no_light_radius(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw radii in arcsec as SDSS lists them in bands without positive light."""
    return np.exp(np.interp(rng.random(shape), PROBABILITIES, np.log(NO_LIGHT_RADIUS)))
