"""The SDSS object identifier: where and how an object was observed, packed into 63 bits.

Layout since Data Release 8, from the top (bit 63, the sign, is always 0):

===========  =======  ===========================================================
part         bits     what
===========  =======  ===========================================================
sky_version  59 - 62  version of the sky; 2 in current releases, 1 is the target run
rerun        48 - 58  reprocessing; 301 in current releases
run          32 - 47  the scan
camcol       29 - 31  camera column, 1 - 6
first_field  28       whether the field is the first of its segment; unused, 0
field        16 - 27  field within the run
id           0 - 15   object within the field
===========  =======  ===========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError


@dataclass(frozen=True)
class ObjIdParts:
    """The parts of N object identifiers.

    Parameters
    ----------
    sky_version, rerun, run, camcol, first_field, field, id : ndarray of int64, shape (N,)
        As in the table of this module.
    """

    sky_version: np.ndarray
    rerun: np.ndarray
    run: np.ndarray
    camcol: np.ndarray
    first_field: np.ndarray
    field: np.ndarray
    id: np.ndarray


# (lowest bit, number of bits), in the order of ObjIdParts.
_BITS = {
    "sky_version": (59, 4),
    "rerun": (48, 11),
    "run": (32, 16),
    "camcol": (29, 3),
    "first_field": (28, 1),
    "field": (16, 12),
    "id": (0, 16),
}


def decode(objid: np.ndarray | Sequence[int] | int) -> ObjIdParts:
    """Take object identifiers apart.

    Parameters
    ----------
    objid : integers, any shape
        Identifiers. Floats are refused: a double holds 15 to 16 of the 19 digits.

    Returns
    -------
    ObjIdParts
        Each part has the shape of `objid`.

    Raises
    ------
    DataError
        If a value is not an SDSS photometric identifier: not an integer, negative, or its camera column is
        not 1 to 6 (a rounded identifier, or one of a spectrum, fails so).
    """
    objid = _integers(objid, "objID")
    _check(objid >= 0, objid, "is negative", "0 or more")
    parts = ObjIdParts(*((objid >> low) & ((1 << width) - 1) for low, width in _BITS.values()))
    _check(
        (parts.camcol >= 1) & (parts.camcol <= 6),
        objid,
        "is not an SDSS object: its camera column is out of range",
        "a column of 1 to 6",
        "Was it rounded, by reading it as a float?",
    )
    return parts


def encode(
    run: np.ndarray | int,
    camcol: np.ndarray | int,
    field: np.ndarray | int,
    id: np.ndarray | int,  # noqa: A002 - the survey's own name
    *,
    sky_version: np.ndarray | int = 2,
    rerun: np.ndarray | int = 301,
    first_field: np.ndarray | int = 0,
) -> np.ndarray:
    """Put object identifiers together: the inverse of :func:`decode`.

    Parameters
    ----------
    run, camcol, field, id, sky_version, rerun, first_field : integers, shapes that broadcast
        As in the table of this module.

    Returns
    -------
    ndarray of int64
        Identifiers.

    Raises
    ------
    DataError
        If a part does not fit its bits, or the camera column is not 1 to 6.
    """
    parts = (sky_version, rerun, run, camcol, first_field, field, id)
    objid = np.zeros((), np.int64)
    for (name, (low, width)), part in zip(_BITS.items(), parts, strict=True):
        values = _integers(part, name)
        least, most = (1, 6) if name == "camcol" else (0, (1 << width) - 1)
        _check((values >= least) & (values <= most), values, f"does not fit {name}", f"{least} to {most}")
        objid = objid | (values << low)
    return np.asarray(objid, np.int64)


def _integers(values: np.ndarray | Sequence[int] | int, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name} {int(array.max())} does not fit 63 bits")
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} has dtype {array.dtype}", expected="integers")
    return array.astype(np.int64)


def _check(good: np.ndarray, values: np.ndarray, what: str, expected: str, mend: str | None = None) -> None:
    if not np.all(good):
        first = int(np.flatnonzero(~np.atleast_1d(good))[0])
        value = int(np.atleast_1d(values).ravel()[first])
        raise DataError(f"{value} {what}", where=f"element {first}", expected=expected, mend=mend)
