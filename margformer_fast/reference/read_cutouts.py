"""Images of many small FITS files into one array, file by file in plain Python: the truth."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, FitsFormatError
from .decode import Scaling, decode
from .fits_image import DTYPES, find_image

MAX_FILE_BYTES = 1 << 26
"""Largest file that is taken for a cut-out: 64 MiB, a hundred times a usual one."""


@dataclass(frozen=True)
class ImageLayout:
    """How the images of all files are stored, and which one says so.

    Parameters
    ----------
    bitpix : int
        Pixel type: 8, 16, 32, 64, -32 or -64.
    shape : tuple of int
        (size, size) or (bands, size, size).
    scaling : Scaling
        BSCALE, BZERO and BLANK.
    where : str
        File and HDU that the others are compared with.
    """

    bitpix: int
    shape: tuple[int, ...]
    scaling: Scaling
    where: str


def read_file(path: str) -> bytes:
    """Return the content of a regular file of at most `MAX_FILE_BYTES`.

    Raises
    ------
    DataError
        If it is missing, cannot be read, is too large or is something else, such as a folder or a pipe.
    FitsFormatError
        If it is empty.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot be read: {reason}", where=path) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("is no regular file", where=path)
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(
                f"has {status.st_size:,} bytes", where=path, expected=f"a cut-out, at most {MAX_FILE_BYTES:,}"
            )
        with open(handle, "rb", closefd=False) as stream:
            content = stream.read(status.st_size)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    finally:
        os.close(handle)
    if not content:
        raise FitsFormatError("the file is empty", where=path)
    return content


def read_cutouts(
    paths: Sequence[str],
    hdus: Sequence[int],
    layout: ImageLayout,
    decode_each: bool,
    out: np.ndarray,
    *,
    load: Callable[[str], bytes] = read_file,
) -> None:
    """Read images of many files.

    Parameters
    ----------
    paths : sequence of str, length F
        The files.
    hdus : sequence of int, length H
        Which HDUs to take of each.
    layout : ImageLayout
        What every image must look like: its shape and, unless it is decoded, its pixel type and scaling.
    decode_each : bool
        Scale each image by itself.
    out : ndarray, shape (F, H, *layout.shape)
        Filled with stored pixels (big-endian, of the layout's type), or with physical values in native
        float32.
    load : callable
        Returns the bytes of a file.

    Raises
    ------
    DataError
        For the first file that cannot be read or differs from the layout.
    """
    for row, path in enumerate(paths):
        content = memoryview(load(path))
        for plane, hdu in enumerate(hdus):
            header, scaling = find_image(content, hdu, path)
            found = ImageLayout(header.bitpix, header.shape, scaling, f"{path}, HDU {hdu}")
            _check_same(found, layout, decode_each)
            stored = np.ndarray(header.shape, DTYPES[header.bitpix], content, header.data_offset)
            out[row, plane] = decode(stored[None], np.arange(1), scaling)[0] if decode_each else stored


def _check_same(found: ImageLayout, layout: ImageLayout, decode_each: bool) -> None:
    """Refuse an image that cannot lie beside the others."""
    if found.shape != layout.shape:
        raise DataError(
            f"the image has shape {found.shape}",
            where=found.where,
            expected=f"{layout.shape}, as in {layout.where}",
        )
    if decode_each:
        return
    for key, value, wanted in (
        ("BITPIX", found.bitpix, layout.bitpix),
        ("BSCALE", found.scaling.bscale, layout.scaling.bscale),
        ("BZERO", found.scaling.bzero, layout.scaling.bzero),
        ("BLANK", found.scaling.blank, layout.scaling.blank),
    ):
        if value != wanted:
            raise DataError(
                f"{key} is {value}",
                where=found.where,
                expected=f"{wanted}, as in {layout.where}",
                mend="With decode=True each image is scaled by itself, to float32.",
            )
