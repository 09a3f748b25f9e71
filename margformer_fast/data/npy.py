"""Arrays out of ``.npy`` and ``.npz`` files that others may have made: checked against the file, then read.

NumPy's own reader makes an array of the size that the header says before it looks for the numbers, warns of
headers that Python 2 wrote, and fails on damaged ones in ways of its own. Here a header is three entries in
at most 10,000 bytes, and no byte is taken for an array that the file does not hold. Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ..errors import DataError, one_line

_MAX_HEADER = 10_000
"""Longest .npy header in bytes, NumPy's own limit."""

_MAX_AXES = 32
_ENTRY = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?P<value>'[^'\\]*'|"[^"\\]*"|True|False|\([0-9L, ]*\))\s*(?:,\s*|(?=\}))"""
)
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c(8|16))")
_TEXT = re.compile(r"[<>|=]?[US][1-9][0-9]{0,6}")


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy file says of its array.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    descr : str
        Its type, as NumPy spells it.
    fortran_order : bool
        Whether the first axis runs fastest.
    """

    shape: tuple[int, ...]
    descr: str
    fortran_order: bool


def read_header(handle: BinaryIO, path: str | Path) -> NpyHeader:
    """Read the header of a .npy file of format 1, 2 or 3; `handle` is left where the data begin.

    Parameters
    ----------
    handle : binary file
        At the beginning of the file.
    path : str or Path
        What messages call it.

    Raises
    ------
    DataError
        If it is none, or not that of one plain array.
    """
    start = handle.read(8)
    width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}.get(start, 0)
    length = int.from_bytes(handle.read(width), "little")
    if 0 < length <= _MAX_HEADER:
        found = handle.read(length)
        header = _parsed(found.decode("latin-1"))
        if len(found) == length and header is not None:
            return header
        start = found[:60]
    raise DataError(
        f"is not a .npy file of one array (it begins with {start!r})", where=path, mend="Fetch it again."
    )


def _parsed(text: str) -> NpyHeader | None:
    """Read ``{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }`` without Python's parser."""
    found: dict[str, str] = {}
    text = text.strip()
    place = 1
    while entry := _ENTRY.match(text, place):
        found[entry["key"]] = entry["value"]
        place = entry.end()
    if not text.startswith("{") or text[place:] != "}" or len(found) < 3:
        return None
    shape, descr, order = found["shape"], found["descr"], found["fortran_order"]
    numbers = [n.strip() for n in shape[1:-1].split(",")]
    if numbers[-1] == "":
        numbers.pop()
    good = shape.startswith("(") and descr[0] in "\"'" and order in ("True", "False")
    # Python 2 wrote 3L.
    if not good or len(numbers) > _MAX_AXES or not all(re.fullmatch("[0-9]{1,19}L?", n) for n in numbers):
        return None
    return NpyHeader(tuple(int(n.rstrip("L")) for n in numbers), descr[1:-1], order == "True")


def map_npy(path: str | Path) -> np.ndarray:
    """Map the array of a .npy file into memory; nothing is read until it is used.

    Raises
    ------
    DataError
        If the file cannot be opened, is no .npy file of numbers or text, or has another length than its
        header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            header = read_header(handle, path)
            offset, size = handle.tell(), handle.seek(0, 2)
    except OSError as error:
        raise DataError(
            "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})",
            where=path,
        ) from error
    dtype = _checked(header, size - offset, path)
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    if 0 in header.shape:
        return np.empty(header.shape, dtype, order)
    return np.memmap(path, dtype, "r", offset, header.shape, order)


def read_npz(path: str | Path, limit: int) -> dict[str, np.ndarray]:
    """Read every array of an .npz file that :func:`numpy.savez` wrote: stored as they are, not compressed.

    Parameters
    ----------
    path : str or Path
        The file.
    limit : int
        Most bytes that the file may have. The arrays have no more: nothing in it is compressed, and members
        together are no longer than the file.

    Raises
    ------
    DataError
        If it cannot be read, is larger than `limit`, or is something else; a checksum of each array is held.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise DataError(f"has {size:,} bytes", where=path, expected=f"at most {limit:,}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})",
            where=path,
        ) from error
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > len(content):
                raise ValueError("its members are larger than the file")
            for member in members:
                name, dot, kind = member.filename.rpartition(".")
                if (
                    not (dot and kind == "npy")
                    or name in arrays
                    or member.compress_type != zipfile.ZIP_STORED
                ):
                    raise ValueError(f"member {member.filename[:60]!r} is compressed, repeated or no array")
                arrays[name] = _array_of(archive.read(member), f"{path}, {name[:60]!r}")
    except DataError:
        raise
    except Exception as error:  # a damaged archive fails in many ways in zipfile
        raise DataError(f"is not a whole .npz file ({said(error)})", where=path) from error
    return arrays


def _array_of(content: bytes, where: str) -> np.ndarray:
    """Return the array of a .npy file in memory, without a copy."""
    handle = io.BytesIO(content)
    header = read_header(handle, where)
    offset = handle.tell()
    dtype = _checked(header, len(content) - offset, where)
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    if 0 in header.shape:
        return np.empty(header.shape, dtype, order)
    # Writeable, as what NumPy reads is.
    return np.ndarray(header.shape, dtype, bytearray(content), offset, order=order)


def _checked(header: NpyHeader, there: int, path: str | Path) -> np.dtype:
    """Return the type of an array whose bytes are there, no more and no less."""
    if not (_NUMBERS.fullmatch(header.descr) or _TEXT.fullmatch(header.descr)):
        raise DataError(
            f"holds values of type {header.descr!r:.60}", where=path, expected="numbers, or text of one width"
        )
    dtype = np.dtype(header.descr)
    # Of an empty array, too, NumPy multiplies the axes.
    if math.prod(max(n, 1) for n in header.shape) * dtype.itemsize >= 1 << 63:
        raise DataError(f"its shape is {header.shape!r:.60}, larger than any file", where=path)
    expected = math.prod(header.shape) * dtype.itemsize
    if there != expected:
        raise DataError(
            f"is not a whole .npy file: {there:,} bytes of data",
            where=path,
            expected=f"{expected:,}, as its header says",
            mend="Fetch it again.",
        )
    return dtype


def said(error: BaseException) -> str:
    """Return what an error of another package says, on one line and not without end, or its name."""
    return one_line(error)[:200] or type(error).__name__
