"""FITS images read where they lie: a memory map or bytes become a big-endian NumPy view and its scaling."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, FitsFormatError
from ..ops.decode import Scaling, decode
from ..ops.fits_header import BytesLike, Header, as_bytes, parse_header
from ..reference.fits_image import DTYPES, find_image


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


_MAX_COLUMNS = 999
_FORM = re.compile(r"([0-9]{0,18})([LXBIJKAEDCMPQ])", re.IGNORECASE)
# Bytes of a value; of P and Q, those of the pair that says where the values lie.
_WIDTHS = dict(zip("LBIJKAEDCMPQ", (1, 1, 2, 4, 8, 1, 4, 8, 8, 16, 8, 16), strict=True))


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
    return image_from_bytes(_map(path), hdu, name=path)


def _map(path: str | Path) -> mmap.mmap:
    try:
        with open(path, "rb") as handle:
            if handle.seek(0, 2) == 0:
                raise FitsFormatError("the file is empty", where=path)
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error


def check_hdus(path: str | Path, until: str | None = None) -> None:
    """Walk over the HDUs of a file, and find what is damaged or promises more than the file holds.

    Of such files astropy and fitsio only warn, or make arrays of what is not there.

    Parameters
    ----------
    path : str or Path
        The file.
    until : str, optional
        End after the first HDU with this keyword: what lies behind is not read.

    Raises
    ------
    DataError
        If the file cannot be opened.
    FitsFormatError
        If an HDU is damaged, or none has the keyword.
    """
    count = 0
    for header in walk_hdus(_map(path), path):
        count += 1
        if until is not None and until in header:
            return
    if until is not None:
        raise FitsFormatError(f"none of its HDUs ({count}) has {until}", where=path)


def walk_hdus(content: BytesLike, path: str | Path) -> Iterator[Header]:
    """Yield the header of each HDU; its data are within `content`, and a table has the columns that it says.

    Raises
    ------
    FitsFormatError
        If an HDU is damaged or promises more than the file holds, naming it and `path`.
    """
    buffer = as_bytes(content)
    offset = index = 0
    while offset < len(buffer):
        where = f"{path}, HDU {index}"
        try:
            header = parse_header(buffer, offset)
            _check_columns(header)
        except FitsFormatError as error:
            raise FitsFormatError(
                error.what,
                where=f"{where}, {error.where}" if error.where else where,
                expected=error.expected,
                mend=error.mend or "Fetch it again.",
            ) from error
        yield header
        offset, index = header.next_offset, index + 1


def _check_columns(header: Header) -> None:
    """Refuse a table that says it has more columns than FITS knows, or than its rows have room for.

    astropy makes a list as long as TFIELDS, however long.
    """
    kind = header.get("XTENSION")
    if kind not in ("BINTABLE", "TABLE"):
        return
    count = header.get("TFIELDS")
    if type(count) is not int or not 0 <= count <= _MAX_COLUMNS:
        raise FitsFormatError(f"TFIELDS is {count!r:.60}", expected=f"0 to {_MAX_COLUMNS}")
    if len(header.shape) != 2:
        raise FitsFormatError(f"a table has {len(header.shape)} axes", expected="2")
    if kind == "TABLE":
        return
    width = 0
    for k in range(1, count + 1):
        form = header.get(f"TFORM{k}")
        found = _FORM.match(form.strip()) if isinstance(form, str) else None
        if found is None:
            raise FitsFormatError(f"TFORM{k} is {form!r:.60}", expected="a type of column, such as D or 5E")
        repeat, letter = int(found[1] or 1), found[2].upper()
        width += -(-repeat // 8) if letter == "X" else repeat * _WIDTHS[letter]
    if width > header.shape[-1]:
        raise FitsFormatError(
            f"its columns have {width:,} bytes", expected=f"{header.shape[-1]:,}, as a row has"
        )


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
    header, scaling = find_image(as_bytes(buffer), hdu, name, parse_header)
    array = np.ndarray(header.shape, DTYPES[header.bitpix], buffer, header.data_offset)
    array.flags.writeable = False
    return FitsImage(array, scaling, header)
