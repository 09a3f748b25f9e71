"""FITS images read where they lie: a memory map or bytes become a big-endian NumPy view and its scaling."""

from __future__ import annotations

import mmap
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
    header, scaling = find_image(as_bytes(buffer), hdu, name, parse_header)
    array = np.ndarray(header.shape, DTYPES[header.bitpix], buffer, header.data_offset)
    array.flags.writeable = False
    return FitsImage(array, scaling, header)
