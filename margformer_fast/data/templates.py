"""Colours of galaxies and quasars by redshift: ``python -m margformer_fast.data.templates`` makes the tables.

Run when spectra or filter curves change, not by users: what it writes, ``tables/templates.json``, ships
with the package, and simulation reads that (:func:`read_templates`). It needs the extra ``sim`` (speclite,
kcorrect).

Sources of the spectra:

* galaxies: the five basis templates and the luminous red galaxy of kcorrect (Blanton & Roweis 2007, AJ
  133, 734), stellar populations with dust and nebular lines. A galaxy is a positive sum of them.
* quasars: one power law, as composites without light of the host have it (Selsing et al. 2016, A&A 585,
  A87); the equivalent widths and widths of lines of the SDSS composite (Vanden Berk et al. 2001, AJ 122, 549,
  table 2). The index, iron in the ultraviolet and the Balmer continuum were fitted to the median colours, in
  bins of redshift from 0.55 to 2.15, of 425 spectroscopic SDSS quasars with u < 19.6. Lyman series and
  continuum of the intergalactic medium by Madau (1995, ApJ 441, 18); dust of the Small Magellanic Cloud as
  A = 1.39 E(B-V) (wavelength / micron)^-1.2 (Richards et al. 2003, AJ 126, 1131, after Prevot et al. 1984).
* dust in galaxies: Calzetti et al. (2000, ApJ 533, 682).
* filters: speclite's ``sdss2010`` (Doi et al. 2010, AJ 139, 1628, with an airmass of 1.3) and ``lsst2023``.

SDSS magnitudes are those of the survey: fainter than AB by 0.04 in u, brighter by 0.02 in z.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_file

TABLES = Path(__file__).parent / "tables"
TEMPLATES = TABLES / "templates.json"

# Groups of filters by the survey profile that uses them, and survey minus AB magnitude.
_FILTERS = {"sdss": "sdss2010", "lsst": "lsst2023"}
_OFFSETS = {"sdss": {"u": 0.04, "z": -0.02}, "lsst": {}}

_GALAXY_REDSHIFT = np.concatenate([np.arange(0.0, 0.2, 0.02), np.arange(0.2, 1.301, 0.025)])
_QUASAR_REDSHIFT = np.concatenate([np.arange(0.02, 2.5, 0.03), np.arange(2.5, 5.61, 0.05)])

# Rest wavelength and equivalent width in Angstrom, sigma in Angstrom. The last four stand for complexes: iron
# in the ultraviolet and the Balmer continuum, both fitted, and iron on both sides of H beta.
_LINES = (
    (1033.0, 9.8, 8.0),
    (1216.0, 80.0, 19.5),  # 92.9 in the composite: bluer still in u - g at redshift 2
    (1398.0, 8.1, 14.3),
    (1546.0, 23.8, 14.3),
    (1906.0, 21.2, 23.6),
    (2800.0, 32.3, 35.0),
    (3729.0, 1.6, 3.3),
    (4103.0, 5.1, 18.6),
    (4346.0, 12.6, 20.3),
    (4853.0, 46.2, 40.4),
    (4960.0, 3.5, 3.9),
    (5008.0, 13.2, 6.0),
    (5877.0, 4.9, 23.5),
    (6565.0, 194.5, 47.4),
    (2540.0, 39.0, 115.0),
    (3090.0, 167.0, 370.0),
    (4570.0, 10.0, 70.0),
    (5250.0, 10.0, 90.0),
)
_SLOPE = -0.32  # of f_nu with frequency, fitted
# Lines of the Lyman series: wavelength, and optical depth at (1 + z) = 1 growing as its power 3.46.
_LYMAN = ((1215.67, 0.0036), (1025.72, 0.0017), (972.537, 0.0011846), (949.743, 0.00094103))
_LYMAN_LIMIT = 911.75


@dataclass(frozen=True)
class Templates:
    """Tables of one survey with B bands.

    Parameters
    ----------
    galaxy_redshift : ndarray, shape (Z,)
    galaxy : ndarray, shape (Z, K, B)
        Flux of each of K templates over its own flux in the reference band at redshift 0 and at the same
        distance: -2.5 log10 of it is the k-correction, to whatever band.
    galaxy_dust : ndarray, shape (Z, B)
        Magnitudes of dimming for each magnitude of E(B-V).
    quasar_redshift : ndarray, shape (Q,)
    continuum, lines : ndarray, shape (Q, B)
        Flux of the continuum and of all lines, after the intergalactic medium, in the same arbitrary unit.
    slope, quasar_dust : ndarray, shape (Q, B)
        Magnitudes for one more in the spectral index, and for each magnitude of E(B-V).
    forest : ndarray, shape (Q, B)
        Mean transmission of the intergalactic medium.
    """

    galaxy_redshift: np.ndarray
    galaxy: np.ndarray
    galaxy_dust: np.ndarray
    quasar_redshift: np.ndarray
    continuum: np.ndarray
    lines: np.ndarray
    slope: np.ndarray
    quasar_dust: np.ndarray
    forest: np.ndarray


@cache
def read_templates(survey: str) -> Templates:
    """Return the tables that ship with the package for a survey, by the name of its profile.

    Raises
    ------
    KeyError
        If there are none.
    """
    contents = json.loads(TEMPLATES.read_text(encoding="utf-8"))
    tables = {**contents["redshift"], **contents["survey"][survey]}
    return Templates(**{name: np.array(values, np.float64) for name, values in tables.items()})


def transmission(wavelength: np.ndarray, redshift: float) -> np.ndarray:
    """Return what the intergalactic medium lets through on the way from `redshift` (Madau 1995).

    Parameters
    ----------
    wavelength : ndarray, shape (W,)
        Observed, in Angstrom.
    redshift : float
        Of the source.

    Returns
    -------
    ndarray, shape (W,)
        From 0 to 1. The continuous absorption is the approximation of the paper's footnote 3.
    """
    depth = np.zeros(len(wavelength))
    for line, strength in _LYMAN:
        depth += np.where(wavelength < line * (1 + redshift), strength * (wavelength / line) ** 3.46, 0.0)
    c, e = wavelength / _LYMAN_LIMIT, 1 + redshift
    limit = (
        0.25 * c**3 * (e**0.46 - c**0.46)
        + 9.4 * c**1.5 * (e**0.18 - c**0.18)
        - 0.7 * c**3 * (c**-1.32 - e**-1.32)
        - 0.023 * (e**1.68 - c**1.68)
    )
    return np.exp(-depth - np.where(c < e, np.maximum(limit, 0.0), 0.0))


def quasar_spectrum(wavelength: np.ndarray, slope: float = _SLOPE) -> tuple[np.ndarray, np.ndarray]:
    """Return f_lambda of the continuum and of the lines at rest wavelengths in Angstrom, shape (W,) each."""

    def level(at: np.ndarray) -> np.ndarray:
        return (at / 3000.0) ** (-2 - slope)

    lines = np.zeros_like(wavelength)
    for centre, width, sigma in _LINES:
        height = level(np.array(centre)) * width / (np.sqrt(2 * np.pi) * sigma)
        lines += height * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    return level(wavelength), lines


def calzetti(wavelength: np.ndarray) -> np.ndarray:
    """Return A / E(B-V) at rest wavelengths in Angstrom, of star-forming galaxies, held at its ends."""
    micron = np.clip(wavelength / 1e4, 0.12, 2.2)
    blue = -2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3
    return 2.659 * np.where(micron < 0.63, blue, -1.857 + 1.040 / micron) + 4.05


def small_magellanic(wavelength: np.ndarray) -> np.ndarray:
    """Return A / E(B-V) at rest wavelengths in Angstrom, of dust like that of the Small Magellanic Cloud."""
    return 1.39 * (np.maximum(wavelength, 500.0) / 1e4) ** -1.2


Spectrum = Callable[[np.ndarray], np.ndarray]


class _Filters:
    """The response curves of a survey."""

    def __init__(self, survey: str) -> None:
        from speclite.filters import load_filters

        curves = load_filters(f"{_FILTERS[survey]}-*")
        self.bands = tuple(name.split("-")[1] for name in curves.names)
        self._curves = [
            (np.linspace(*limits, 4000), curve)
            for curve in curves
            for limits in [(curve.wavelength[0], curve.wavelength[-1])]
        ]
        self._offset = np.array([_OFFSETS[survey].get(band, 0.0) for band in self.bands])

    def flux(self, spectrum: Spectrum) -> np.ndarray:
        """Return the flux of f_lambda(wavelength in Angstrom) in each band, over that of a flat f_nu."""
        found = []
        for at, curve in self._curves:
            response = np.interp(at, curve.wavelength, curve.response)
            found.append(np.trapezoid(spectrum(at) * at * response, at) / np.trapezoid(response / at, at))
        return np.array(found) * 10 ** (-0.4 * self._offset)


def _interpolated(wave: np.ndarray, flux: np.ndarray) -> Spectrum:
    return lambda at: np.interp(at, wave, flux)


def _galaxy_spectra() -> list[Spectrum]:
    from importlib.resources import as_file, files

    from astropy.io import fits

    spectra: list[Spectrum] = []
    for name in ("kcorrect-default-v4.fits", "kcorrect-lrg1-v4.fits"):
        with as_file(files("kcorrect") / "data" / "templates" / name) as path, fits.open(path) as file:
            wave = np.array(file[1].data["wave"][0], np.float64)
            fluxes = np.array(file[1].data["flux"][0], np.float64).reshape(-1, len(wave))
        spectra += [_interpolated(wave, flux) for flux in fluxes]
    return spectra


def _galaxy_tables(filters: _Filters, reference: int, redshifts: slice) -> dict[str, np.ndarray]:
    spectra = _galaxy_spectra()

    def seen(spectrum: Spectrum, z: float, dust: float = 0.0) -> np.ndarray:
        def shifted(at: np.ndarray) -> np.ndarray:
            rest = at / (1 + z)
            return spectrum(rest) / (1 + z) * 10 ** (-0.4 * dust * calzetti(rest))

        return filters.flux(shifted)

    rest = [seen(spectrum, 0.0)[reference] for spectrum in spectra]
    light = np.array(
        [[seen(s, z) / r for s, r in zip(spectra, rest, strict=True)] for z in _GALAXY_REDSHIFT[redshifts]]
    )
    step = 0.1
    young = spectra[4]
    dust = [
        -2.5 / step * np.log10(seen(young, z, step) / seen(young, z)) for z in _GALAXY_REDSHIFT[redshifts]
    ]
    return {"galaxy": light, "galaxy_dust": np.array(dust)}


def _quasar_tables(filters: _Filters, redshifts: slice) -> dict[str, np.ndarray]:
    tables: dict[str, list[np.ndarray]] = {
        name: [] for name in ("continuum", "lines", "slope", "quasar_dust", "forest")
    }

    def seen(
        z: float, part: int, slope: float = _SLOPE, dust: float = 0.0, clear: bool = False
    ) -> np.ndarray:
        def shifted(at: np.ndarray) -> np.ndarray:
            rest = at / (1 + z)
            through = 1.0 if clear else transmission(at, z)
            flux = quasar_spectrum(rest, slope)[part]
            return flux * through * 10 ** (-0.4 * dust * small_magellanic(rest))

        return filters.flux(shifted)

    step = 0.1
    for z in _QUASAR_REDSHIFT[redshifts]:
        continuum = seen(z, 0)
        scale = 1 / seen(z, 0, clear=True).mean()
        tables["continuum"].append(scale * continuum)
        tables["lines"].append(scale * seen(z, 1))
        tables["slope"].append(-2.5 / step * np.log10(seen(z, 0, slope=_SLOPE + step) / continuum))
        tables["quasar_dust"].append(-2.5 / step * np.log10(seen(z, 0, dust=step) / continuum))
        tables["forest"].append(continuum / seen(z, 0, clear=True))
    return {name: np.array(rows) for name, rows in tables.items()}


def make_tables(redshifts: slice = slice(None)) -> dict[str, Any]:
    """Return the contents of ``tables/templates.json``, numbers to four digits.

    Parameters
    ----------
    redshifts : slice
        Which of the redshifts to work out; all, unless for a quick check.
    """

    def rounded(values: np.ndarray) -> list[Any]:
        return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.4g}"))

    surveys = {}
    for survey in _FILTERS:
        filters = _Filters(survey)
        tables = _galaxy_tables(filters, filters.bands.index("r"), redshifts)
        tables |= _quasar_tables(filters, redshifts)
        surveys[survey] = {name: rounded(values) for name, values in tables.items()}
    return {
        "made_by": "python -m margformer_fast.data.templates",
        "sources": "see margformer_fast/data/templates.py",
        "redshift": {
            "galaxy_redshift": rounded(_GALAXY_REDSHIFT),
            "quasar_redshift": rounded(_QUASAR_REDSHIFT),
        },
        "survey": surveys,
    }


def main() -> None:
    """Write the tables."""
    text = json.dumps(make_tables(), separators=(",", ":")).replace("],", "],\n")
    with atomic_file(TEMPLATES) as path:
        path.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
