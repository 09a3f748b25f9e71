"""Photometric catalogues: one field's ``photoObj``, its 24 features per object, types and flags.

What is read, under the names in the files (five values, u g r i z, where a band is meant):

===================  ===================================================================================
column               what
===================  ===================================================================================
OBJID                the identifier, as text of 19 digits
RA, DEC              degrees (ICRS) of the object, the same for all bands
OBJC_TYPE            3 galaxy, 6 star; others are unknown, ghosts, sky ...
MODELMAG             magnitude through the better of two galaxy profiles, fitted in r, in every band
PSFMAG               magnitude through the point spread function
CMODELMAG            magnitude through the best sum of the two profiles, each band by itself
EXTINCTION           Galactic extinction in magnitudes
THETA_DEV            de Vaucouleurs radius in arcsec (``deVRad`` in the survey's database)
PSF_FWHM             width of the point spread function at the object in arcsec
APERFLUX             nanomaggies within eight growing circles, of which one is kept
NCHILD, MODE, CLEAN  number of deblended children; 1 primary, 2 secondary, 3 family, 4 outside; 1 clean
OBJC_FLAGS           bits of the object as a whole
===================  ===================================================================================

All magnitudes are asinh magnitudes (Lupton, Gunn & Szalay 1999): within 0.001 of the usual ones at 19 mag and
finite at zero flux. What could not be measured is -9999, or 0 for the width of the point spread function.

The class from OBJC_TYPE is the survey's own morphological one, a cut in PSFMAG - CMODELMAG. It is not a
spectroscopic truth: what is trained on it learns to repeat that cut, and quasars count as stars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError, FitsFormatError
from ..survey import CLASSES, SDSS, UNKNOWN
from . import objid as objids
from .files import CATALOGUE_NAME, find_hdu, one_line, read_bytes

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU

LABELS = {3: CLASSES.index("GALAXY"), 6: CLASSES.index("STAR")}
"""Label by OBJC_TYPE; every other type is no source."""

FLAGS = {"EDGE": 1 << 2, "BLENDED": 1 << 3, "CHILD": 1 << 4, "SATUR": 1 << 18}
"""Bits of OBJC_FLAGS (the pipeline's "flags1") that mark what is hard to measure."""

APERTURE = 3
"""Which of the circles of APERFLUX is kept, from 0."""

APERTURE_RADIUS = float(np.sqrt(61 / np.pi))
"""Its radius in pixels. The circles have the areas of 1, 9, 21, 61, 177, 421, 1085 and 2561 pixels."""

COLUMNS: Mapping[str, type[np.generic]] = {
    **dict.fromkeys(("run", "camcol", "field"), np.int32),
    **dict.fromkeys(("objc_type", "nchild", "mode", "clean", "objc_flags"), np.int32),
    **{f"{name}_{band}": np.float32 for name in ("psfmag", "aperflux") for band in SDSS.bands},
    **dict.fromkeys(("modelmag_r", "cmodelmag_r"), np.float32),
}
"""Columns kept beside the features, and their types."""

_SCALARS = ("RA", "DEC", "OBJC_TYPE", "NCHILD", "MODE", "CLEAN", "OBJC_FLAGS")
_PER_BAND = ("MODELMAG", "PSFMAG", "CMODELMAG", "EXTINCTION", "THETA_DEV", "PSF_FWHM")
_APERTURES = 8

_LEAST = -1000.0
"""No magnitude, extinction or radius is below this; -9999 marks what was not measured."""


@dataclass(frozen=True)
class Catalogue:
    """One field's catalogue.

    Parameters
    ----------
    path : Path
        Where it was read.
    objid : ndarray of int64, shape (N,)
        Identifiers, all of this field; repeats are possible.
    ra, dec : ndarray of float64, shape (N,)
        Degrees (ICRS).
    label : ndarray of int8, shape (N,)
        GALAXY or STAR from OBJC_TYPE, `UNKNOWN` for what is no source.
    features : ndarray of float64, shape (N, 24)
        In the order of ``SDSS.feature_names``: see :func:`photometric_features`.
    measured : ndarray of bool, shape (N,)
        Whether everything behind the features was measured.
    columns : mapping of str to ndarray of shape (N,)
        Those of `COLUMNS`: the field, types and flags as in the files; asinh magnitudes; ``aperflux`` is in
        nanomaggies within `APERTURE_RADIUS`.
    software : str
        The version of the program that wrote it; empty if not given.
    """

    path: Path
    objid: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    label: np.ndarray
    features: np.ndarray
    measured: np.ndarray
    columns: Mapping[str, np.ndarray]
    software: str

    def __len__(self) -> int:
        return len(self.objid)

    @classmethod
    def empty(cls, path: Path) -> Catalogue:
        """Return a catalogue without objects, in place of one that cannot be read."""
        return cls(
            path=path,
            objid=np.empty(0, np.int64),
            ra=np.empty(0),
            dec=np.empty(0),
            label=np.empty(0, np.int8),
            features=np.empty((0, SDSS.num_features)),
            measured=np.empty(0, bool),
            columns={key: np.empty(0, kind) for key, kind in COLUMNS.items()},
            software="",
        )

    @property
    def is_source(self) -> np.ndarray:
        """Whether OBJC_TYPE says star or galaxy, shape (N,)."""
        mask: np.ndarray = self.label != UNKNOWN
        return mask

    @property
    def is_parent(self) -> np.ndarray:
        """Whether the object was split into children, which are listed too, shape (N,).

        NCHILD > 0; in the survey's files these are the objects of MODE 3. A bright object is among them: it
        is found twice, and its second measurement is its only child.
        """
        mask: np.ndarray = self.columns["nchild"] > 0
        return mask


def read_catalogue(path: str | Path) -> Catalogue:
    """Read a ``photoObj-*.fits[.gz]``.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Catalogue

    Raises
    ------
    DataError
        If the file is missing or not named like a catalogue; if columns are missing (the message names all of
        them) or of the wrong shape; if its objects are of another field than its name says.
    FitsFormatError
        If it is cut short or damaged, or holds no table.
    """
    path = Path(path)
    name = CATALOGUE_NAME.fullmatch(path.name)
    if name is None:
        raise DataError(
            "is not named like a catalogue", where=path, expected="photoObj-{run}-{camcol}-{field}.fits[.gz]"
        )
    table, software, where = _read_table(path)
    objid = _identifiers(table["OBJID"], where)
    parts = _parts_of_field(objid, {key: int(name[key]) for key in ("run", "camcol", "field")}, where)
    aperture = table["APERFLUX"].reshape(-1, len(SDSS.bands), _APERTURES)[:, :, APERTURE]
    r = SDSS.bands.index(SDSS.reference_band)
    values = {
        **parts,
        **{key.lower(): table[key] for key in ("OBJC_TYPE", "NCHILD", "MODE", "CLEAN", "OBJC_FLAGS")},
        **{f"psfmag_{band}": table["PSFMAG"][:, k] for k, band in enumerate(SDSS.bands)},
        **{f"aperflux_{band}": aperture[:, k] for k, band in enumerate(SDSS.bands)},
        "modelmag_r": table["MODELMAG"][:, r],
        "cmodelmag_r": table["CMODELMAG"][:, r],
    }
    behind_features = (table["MODELMAG"], table["THETA_DEV"], table["PSF_FWHM"], table["EXTINCTION"])
    return Catalogue(
        path=path,
        objid=objid,
        ra=table["RA"].astype(np.float64),
        dec=table["DEC"].astype(np.float64),
        label=np.array([LABELS.get(int(kind), UNKNOWN) for kind in table["OBJC_TYPE"]], np.int8),
        features=photometric_features(*behind_features),
        measured=_is_measured(*behind_features),
        columns={key: values[key].astype(kind) for key, kind in COLUMNS.items()},
        software=software,
    )


def photometric_features(
    modelmag: np.ndarray, theta_dev: np.ndarray, psf_fwhm: np.ndarray, extinction: np.ndarray
) -> np.ndarray:
    """Arrange catalogue values as the published features.

    Parameters
    ----------
    modelmag, theta_dev, psf_fwhm, extinction : ndarray, shape (N, 5)
        Model magnitudes as observed, de Vaucouleurs radii and widths of the point spread function in arcsec,
        Galactic extinction in magnitudes.

    Returns
    -------
    ndarray of float64, shape (N, 24)
        By band: ``modelmag - extinction``, ``theta_dev``, ``psf_fwhm``, ``extinction``; then the four colours
        of the magnitudes *as observed*: those of the published features are not dereddened.
    """
    magnitude, radius, width, extinction = (
        np.asarray(values, np.float64) for values in (modelmag, theta_dev, psf_fwhm, extinction)
    )
    by_band = np.stack([magnitude - extinction, radius, width, extinction], axis=2)
    num_values = by_band.shape[1] * by_band.shape[2]  # not -1, which an empty catalogue leaves undecided
    return np.concatenate([by_band.reshape(-1, num_values), -np.diff(magnitude, axis=1)], axis=1)


def _is_measured(
    modelmag: np.ndarray, theta_dev: np.ndarray, psf_fwhm: np.ndarray, extinction: np.ndarray
) -> np.ndarray:
    values = np.stack([modelmag, theta_dev, psf_fwhm, extinction], axis=2)
    # NaN compares as false; infinities are caught by the second bound.
    good: np.ndarray = (values > _LEAST) & (values < -_LEAST)
    good[:, :, 1] &= theta_dev >= 0
    good[:, :, 2] &= psf_fwhm > 0
    return np.asarray(good.all(axis=(1, 2)))


def _read_table(path: Path) -> tuple[dict[str, np.ndarray], str, str]:
    """Return the needed columns in native byte order, the software's version, and which HDU it was."""
    from astropy.io import fits

    content = read_bytes(path)
    index = find_hdu(content, "XTENSION", "BINTABLE", path)
    where = f"{path}, HDU {index}"
    try:
        with fits.open(BytesIO(content), memmap=False) as hdus:
            software = str(hdus[0].header.get("POBJ_VER", "")).strip()
            table = _columns(hdus[index], where)
    except DataError:
        raise
    except Exception as error:  # a damaged table fails in many ways in astropy
        raise FitsFormatError(f"the table is damaged ({one_line(error)})", where=where) from error
    return table, software, where


def _columns(hdu: BinTableHDU, where: str) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "OBJID": (),
        **dict.fromkeys(_SCALARS, ()),
        **dict.fromkeys(_PER_BAND, (len(SDSS.bands),)),
        "APERFLUX": (len(SDSS.bands) * _APERTURES,),
    }
    missing = [column for column in shapes if column not in hdu.columns.names]
    if missing:
        raise DataError(
            f"the catalogue lacks {'columns' if len(missing) > 1 else 'column'} {', '.join(missing)}",
            where=where,
            mend="Use the survey's photoObj file of this field.",
        )
    table = {}
    for column, shape in shapes.items():
        values = np.asarray(hdu.data[column])
        # The 5 x 8 apertures may be declared flat or as a matrix: only their number counts.
        if np.prod(values.shape[1:]) != np.prod(shape):
            raise DataError(
                f"column {column} has shape {values.shape}", where=where, expected=str((len(values), *shape))
            )
        table[column] = values.reshape(len(values), *shape).astype(values.dtype.newbyteorder("="))
    return table


def _identifiers(column: np.ndarray, where: str) -> np.ndarray:
    """Return identifiers, kept as text or integers, as int64."""
    if column.dtype.kind not in "iuUS":
        raise DataError(f"OBJID has dtype {column.dtype}", where=where, expected="text or 64-bit integers")
    try:
        return column.astype(np.int64)
    except ValueError as error:
        raise DataError(f"OBJID holds what is no number ({one_line(error)})", where=where) from error


def _parts_of_field(objid: np.ndarray, field: Mapping[str, int], where: str) -> dict[str, np.ndarray]:
    """Take the identifiers apart and refuse objects of another field."""
    try:
        parts = objids.decode(objid)
    except DataError as error:
        raise DataError(error.what, where=f"{where}, {error.where}", expected=error.expected) from error
    found = {key: getattr(parts, key) for key in field}
    for key, value in field.items():
        other = np.flatnonzero(found[key] != value)
        if other.size:
            row = int(other[0])
            raise DataError(
                f"objID {objid[row]} is of {key} {found[key][row]}",
                where=f"{where}, row {row}",
                expected=f"{value}, as the file's name says",
            )
    return found
