"""The text of every query that is sent to the survey's database.

The language is the part of SQL that SQL Server, on which the survey runs, shares with others; ``TOP``
and the survey's own function ``dbo.fGetNearbyObjEq`` are the only words beyond it. Where each cut comes from
is told in ``docs/fetching.md``. Divisions are guarded, because SQL Server may compute a column of a row
before it drops the row, and done in double precision from the stored single ones, as the cuts in Python are
(:mod:`~margformer_fast.data.populations`).
"""

# ruff: noqa: S608 - only numbers and names of this file are put into the text

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError
from ..populations import COMPACT_BELOW, FAINT_ABOVE, POPULATIONS
from ..survey import CLASSES, SDSS

SAMPLE_COLUMNS = ("objID", "ra", "dec", "specObjID", "class", "z", "zErr", "compactness", "meanMag")
"""Columns of a page of the sample."""

CLASS_COLUMNS = ("objID", "specObjID", "class", "z", "zErr")
"""Columns of an answer about classes."""

NEAR_COLUMNS = ("target", "objID", "ra", "dec")
"""Columns of an answer about positions."""

CLASSES_AT_ONCE = 50
"""Identifiers in one query: its text, as an address holds it, stays below 2,048 bytes."""

NEAR_AT_ONCE = 8
"""Positions in one query, for the same reason."""

_COMPACTNESS = (
    "("
    + " + ".join(f"CAST(p.deVRad_{b} AS float)/NULLIF(p.psffwhm_{b}, 0)" for b in SDSS.bands)
    + f")/{len(SDSS.bands)}"
)
_MEAN_MAGNITUDE = (
    "(CAST(p.modelMag_u AS float)"
    + "".join(f" + p.modelMag_{b}" for b in SDSS.bands[1:])
    + f")/{len(SDSS.bands)}"
)
# -9999 marks what was not measured; its ratio would pass for compact.
_MEASURED = " AND ".join(f"p.deVRad_{b} >= 0 AND p.psffwhm_{b} > 0" for b in SDSS.bands)
_CUTS = {
    "all": "",
    "compact": f"t.compactness < {COMPACT_BELOW}",
    "faint-compact": f"t.compactness < {COMPACT_BELOW} AND t.meanMag > {FAINT_ABOVE:g}",
}


def sample(population: str, after: int, upto: int, rows: int) -> str:
    """Return the query for one page of the spectroscopic sample.

    Parameters
    ----------
    population : {"all", "compact", "faint-compact"}
        Which cuts.
    after, upto : int
        Identifiers to return: above the first, up to the second.
    rows : int
        At most so many, those with the least identifiers.

    Returns
    -------
    str
        Its answer has the columns `SAMPLE_COLUMNS`. An object with two spectra comes twice.

    Raises
    ------
    ConfigError
        If the population is not known.
    """
    cut = _cut(population)
    return (
        f"SELECT TOP {int(rows)} t.* FROM ({_selected(after, upto)}) AS t"
        f"{f' WHERE {cut}' if cut else ''} ORDER BY t.objID, t.specObjID"
    )


def classes(objid: Sequence[int] | np.ndarray) -> str:
    """Return the query for the spectroscopic classes of objects that have one: `CLASS_COLUMNS`."""
    listed = ",".join(str(int(value)) for value in objid)
    return (
        "SELECT s.bestObjID AS objID, s.specObjID, s.class, s.z, s.zErr FROM SpecObj AS s"
        f" WHERE s.bestObjID IN ({listed}) AND s.zWarning = 0 ORDER BY s.bestObjID, s.specObjID"
    )


def near(target: Sequence[int], ra: np.ndarray, dec: np.ndarray, radius_arcsec: float) -> str:
    """Return the query for the primary objects within a radius of each position: `NEAR_COLUMNS`.

    Parameters
    ----------
    target : sequence of int
        Number of each position, which comes back in the column ``target``.
    ra, dec : ndarray
        Degrees (ICRS).
    radius_arcsec : float
        The radius.
    """
    return " UNION ALL ".join(
        f"SELECT {int(k)} AS target, p.objID, p.ra, p.dec FROM"
        f" dbo.fGetNearbyObjEq({float(a):.7f},{float(d):.7f},{radius_arcsec / 60:.6f}) AS n"
        " INNER JOIN PhotoPrimary AS p ON p.objID = n.objID"
        for k, a, d in zip(target, ra, dec, strict=True)
    )


def _selected(after: int, upto: int) -> str:
    listed = ", ".join(f"'{name}'" for name in CLASSES)
    return (
        "SELECT p.objID, p.ra, p.dec, s.specObjID, s.class, s.z, s.zErr,"
        f" {_COMPACTNESS} AS compactness, {_MEAN_MAGNITUDE} AS meanMag"
        " FROM PhotoPrimary AS p INNER JOIN SpecObj AS s ON s.bestObjID = p.objID"
        f" WHERE p.objID > {int(after)} AND p.objID <= {int(upto)}"
        f" AND p.clean = 1 AND s.zWarning = 0 AND s.class IN ({listed}) AND {_MEASURED}"
    )


def check_population(population: str) -> None:
    """Raise ConfigError unless there is such a population."""
    if population not in _CUTS:
        raise ConfigError(f"there is no population {population!r}", expected=" | ".join(POPULATIONS))


def _cut(population: str) -> str:
    check_population(population)
    return _CUTS[population]
