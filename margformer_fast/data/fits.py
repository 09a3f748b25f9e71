"""FITS images read where they lie: a memory map or bytes become a big-endian NumPy view and its scaling."""

from __future__ import annotations

import math
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, FitsFormatError
from ..ops.decode import Scaling, decode
from ..ops.fits_header import BytesLike, Header, as_bytes, parse_header

_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_MAX_NUMPY_DIMENSIONS = 64
_MAX_PIXEL_SIZE = 8  # bytes, stored or decoded


@dataclass(frozen=True)
class FitsImage:
    """An image HDU, its pixels as they are stored.

    Parameters
    ----------
    array : ndarray
        Raw pixels, big-endian, slowest axis first; a read-only view into the file's memory map or bytes.
    scaling : Scaling
        BSCALE, BZERO and BLANK.
    header : Header
        The HDU's keywords; ``header.text`` is fit for ``astropy.io.fits.Header.fromstring``.
    """

    array: np.ndarray
    scaling: Scaling
    header: Header

    def pixels(self, *, backend: str = "auto") -> np.ndarray:
        """Return all pixels as physical values in native float32, BLANK as NaN."""
        one_row = self.array.reshape(1, -1)
        return decode(one_row, None, self.scaling, backend=backend).reshape(self.array.shape)


def map_image(path: str | Path, hdu: int = 0) -> FitsImage:
    """Map an uncompressed image HDU of a file into memory; nothing is read until it is used.

    The map holds its file open for as long as a view of it lives: for thousands of small files at once, read
    the bytes and use :func:`image_from_bytes`.

    Parameters
    ----------
    path : str or Path
        The file.
    hdu : int
        Which HDU, 0 for the first.

    Raises
    ------
    DataError
        If the file cannot be opened.
    FitsFormatError
        If it is damaged, or the HDU is not there or no plain image.
    """
    try:
        with open(path, "rb") as handle:
            if handle.seek(0, 2) == 0:
                raise FitsFormatError("the file is empty", where=path)
            buffer = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error
    return image_from_bytes(buffer, hdu, name=path)


def image_from_bytes(buffer: BytesLike, hdu: int = 0, *, name: str | Path = "FITS data") -> FitsImage:
    """Describe an uncompressed image HDU of a FITS file whose bytes are in memory; nothing is copied.

    Parameters
    ----------
    buffer : bytes-like
        The file.
    hdu : int
        Which HDU, 0 for the first.
    name : str or Path
        What error messages call the file.

    Raises
    ------
    FitsFormatError
        If the bytes are damaged, or the HDU is not there or no plain image.
    """
    where = f"{name}, HDU {hdu}"
    try:
        header = _header_of(as_bytes(buffer), hdu, where)
        _check_image(header, where)
        scaling = _scaling(header, where)
    except FitsFormatError as error:
        if error.where == where:
            raise
        raise FitsFormatError(
            error.what, where=f"{where}, {error.where}", expected=error.expected, mend=error.mend
        ) from error
    array = np.ndarray(header.shape, _DTYPES[header.bitpix], buffer, header.data_offset)
    array.flags.writeable = False
    return FitsImage(array, scaling, header)


def _header_of(buffer: memoryview, hdu: int, where: str) -> Header:
    """Return the header of one HDU, having walked over those before it."""
    header = parse_header(buffer, 0)
    for index in range(hdu):
        if header.next_offset >= len(buffer):
            raise FitsFormatError(f"the file has only {index + 1} HDUs", where=where)
        header = parse_header(buffer, header.next_offset)
    return header


def _check_image(header: Header, where: str) -> None:
    """Refuse tables, compressed images and empty HDUs."""
    kind = header.get("XTENSION", "IMAGE")
    if kind == "BINTABLE" and header.get("ZIMAGE") is True:
        raise FitsFormatError(
            "the image is compressed",
            where=where,
            expected="plain pixels",
            mend="Uncompress it with funpack first.",
        )
    if kind != "IMAGE":
        raise FitsFormatError(f"this is a {kind}", where=where, expected="an image")
    if not 1 <= len(header.shape) <= _MAX_NUMPY_DIMENSIONS:
        raise FitsFormatError(
            f"the image has {len(header.shape)} axes", where=where, expected=f"1 to {_MAX_NUMPY_DIMENSIONS}"
        )
    # Data that are there fit; where one axis is 0, NumPy multiplies the others all the same.
    if math.prod(max(length, 1) for length in header.shape) > sys.maxsize // _MAX_PIXEL_SIZE:
        raise FitsFormatError(
            f"the image has no pixels, but axes of {header.shape}",
            where=where,
            expected="axes that NumPy can hold",
        )


def _scaling(header: Header, where: str) -> Scaling:
    """Return BSCALE, BZERO and BLANK."""
    factors = []
    for key, default in (("BSCALE", 1.0), ("BZERO", 0.0)):
        value = header.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FitsFormatError(f"{key} is {value!r}", where=where, expected="a number")
        factors.append(float(value))
    blank = header.get("BLANK") if header.bitpix > 0 else None
    if blank is not None and (isinstance(blank, bool) or not isinstance(blank, int)):
        raise FitsFormatError(f"BLANK is {blank!r}", where=where, expected="an integer")
    return Scaling(factors[0], factors[1], blank)
