"""Which bytes of a FITS file are the pixels of an image, and how they are scaled: the truth."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import FitsFormatError
from .decode import Scaling
from .fits_header import Header, parse_header

DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
"""NumPy type of the pixels as they are stored, by BITPIX."""

_MAX_NUMPY_DIMENSIONS = 64
_MAX_PIXEL_SIZE = 8  # bytes, stored or decoded


def find_image(
    buffer: memoryview,
    hdu: int,
    name: str | Path,
    parse: Callable[[memoryview, int], Header] = parse_header,
) -> tuple[Header, Scaling]:
    """Find an uncompressed image HDU of a FITS file.

    Parameters
    ----------
    buffer : memoryview of bytes
        The file.
    hdu : int
        Which HDU, 0 for the first.
    name : str or Path
        What error messages call the file.
    parse : callable
        Reads the header at a byte of the buffer.

    Returns
    -------
    header : Header
        Its keywords; the pixels are `header.data_size` bytes from `header.data_offset` on.
    scaling : Scaling
        BSCALE, BZERO and BLANK.

    Raises
    ------
    FitsFormatError
        If the bytes are damaged, or the HDU is not there or no plain image.
    """
    where = f"{name}, HDU {hdu}"
    try:
        header = parse(buffer, 0)
        for index in range(hdu):
            if header.next_offset >= len(buffer):
                raise FitsFormatError(f"the file has only {index + 1} HDUs", where=where)
            header = parse(buffer, header.next_offset)
        _check_image(header, where)
        return header, _scaling(header, where)
    except FitsFormatError as error:
        if error.where == where:
            raise
        raise FitsFormatError(
            error.what, where=f"{where}, {error.where}", expected=error.expected, mend=error.mend
        ) from error


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
