"""Write FITS images and tables row by row: the number of rows is filled in at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from .. import __version__
from ..errors import DataError

if TYPE_CHECKING:
    from astropy.io import fits

BLOCK_BYTES = 2880
"""FITS headers and data are padded to multiples of this."""

Card = tuple[str, str | int | float | bool, str]
"""Keyword, value and comment of a header line."""

_TABLE_TYPES = {  # NumPy kind and item size to FITS letter and the type it is stored as
    "b1": ("L", "S1"),
    "i1": ("I", ">i2"),
    "u1": ("B", "u1"),
    "i2": ("I", ">i2"),
    "u2": ("J", ">i4"),
    "i4": ("J", ">i4"),
    "u4": ("K", ">i8"),
    "i8": ("K", ">i8"),
    "f2": ("E", ">f4"),
    "f4": ("E", ">f4"),
    "f8": ("D", ">f8"),
}


@dataclass(frozen=True)
class Column:
    """One column of a binary table.

    Parameters
    ----------
    name : str
        Column name.
    dtype : dtype
        Type of the values given: bool, an integer up to int64 or uint32, a float, or fixed-width text.
    unit : str
        Unit as in the FITS standard; empty where there is none.
    """

    name: str
    dtype: np.dtype
    unit: str = ""

    @property
    def _types(self) -> tuple[str, str]:
        if self.dtype.kind in "US":
            width = max(1, self.dtype.itemsize // (4 if self.dtype.kind == "U" else 1))
            return f"{width}A", f"S{width}"
        try:
            return _TABLE_TYPES[f"{self.dtype.kind}{self.dtype.itemsize}"]
        except KeyError:
            raise DataError(
                f"column {self.name!r} of type {self.dtype} cannot be written to FITS",
                expected="bool, integers up to int64 or uint32, floats up to float64, or fixed-width text",
            ) from None

    @property
    def format(self) -> str:
        """TFORM of the column."""
        return self._types[0]

    @property
    def stored(self) -> np.dtype:
        """Type of the column in the file."""
        return np.dtype(self._types[1])

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return `values` as they are stored.

        Raises
        ------
        DataError
            If they do not fit: of another type, text that is not ASCII, or wider than the column.
        """
        is_text = self.dtype.kind in "US"
        if is_text and values.dtype.kind in "US":
            return self._encode_text(values)
        if is_text or not np.can_cast(values.dtype, self.dtype, "safe"):
            raise DataError(f"column {self.name!r} is {values.dtype}", expected=f"{self.dtype}")
        return np.where(values, b"T", b"F") if self.dtype.kind == "b" else values

    def _encode_text(self, values: np.ndarray) -> np.ndarray:
        try:
            text = values.astype("S")
        except UnicodeEncodeError as error:
            raise DataError(
                f"column {self.name!r} holds {str(error.object)!r}", expected="ASCII text"
            ) from None
        if text.dtype.itemsize > self.stored.itemsize:
            raise DataError(
                f"column {self.name!r} holds text of {text.dtype.itemsize} characters",
                expected=f"at most {self.stored.itemsize}, as in the rows before",
                mend="Give the column a wider type, such as 'U32', from the first rows on.",
            )
        return text


class _RowStream:
    """A FITS HDU whose last axis grows: a header with a place for the count, then rows, then padding.

    The file is good after :meth:`finish`; as a context manager it only lets go of the file.
    """

    def __init__(self, path: Path, header: fits.Header, count_key: str, before: bytes = b"") -> None:
        self._header, self._count_key, self._offset = header, count_key, len(before)
        self.count = 0
        self._bytes = 0
        self._handle = open(path, "wb")  # noqa: SIM115 - closed by finish() or on exit
        self._handle.write(before + self._encoded_header())

    def _encoded_header(self) -> bytes:
        self._header[self._count_key] = self.count
        encoded: bytes = self._header.tostring().encode("ascii")
        return encoded

    def write(self, rows: np.ndarray) -> None:
        """Append rows, as they are stored."""
        self._handle.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)
        self._bytes += rows.nbytes

    def finish(self) -> None:
        """Pad the data and put the count into the header."""
        self._handle.write(bytes(-self._bytes % BLOCK_BYTES))
        self._handle.seek(self._offset)
        # A number in a header has a fixed width, so the header keeps its size.
        self._handle.write(self._encoded_header())
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        # Closes what was not finished and is of no use: what is still buffered may not fit on the disk.
        with suppress(OSError):
            self._handle.close()


class ImageStream(_RowStream):
    """A primary HDU of float32 images, appended one block of them at a time.

    Parameters
    ----------
    path : Path
        File to write.
    shape : sequence of int
        Shape of one image, slowest axis first.
    unit : str
        BUNIT.
    cards : sequence of (keyword, value, comment)
        Further header lines.

    Raises
    ------
    OSError
        If the file cannot be written.
    """

    def __init__(self, path: Path, shape: Sequence[int], unit: str, cards: Sequence[Card] = ()) -> None:
        from astropy.io import fits

        axes = [*reversed(shape), 0]
        header = fits.Header(
            [
                ("SIMPLE", True, "conforms to FITS standard"),
                ("BITPIX", -32, "IEEE single precision"),
                ("NAXIS", len(axes), "number of axes"),
                *((f"NAXIS{k}", size) for k, size in enumerate(axes, 1)),
                ("EXTEND", True),
                ("BUNIT", unit, "unit of a pixel"),
                *origin_cards(),
                *cards,
            ]
        )
        super().__init__(path, header, f"NAXIS{len(axes)}")

    def append(self, images: np.ndarray) -> None:
        """Append images, shape (n, *shape), any float type."""
        self.write(np.asarray(images, ">f4"))


class TableStream(_RowStream):
    """A binary table, after an empty primary HDU, appended one block of rows at a time.

    Parameters
    ----------
    path : Path
        File to write.
    columns : sequence of Column
        Columns in order.
    name : str
        EXTNAME.
    cards : sequence of (keyword, value, comment)
        Further header lines of the table.

    Raises
    ------
    DataError
        If a column has a type that FITS does not hold, or two names are the same but for case.
    OSError
        If the file cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[Column], name: str, cards: Sequence[Card] = ()) -> None:
        from astropy.io import fits

        seen: set[str] = set()
        for column in columns:
            if column.name.lower() in seen:
                raise DataError(
                    f"two columns are called {column.name!r}", expected="names that differ in more than case"
                )
            seen.add(column.name.lower())
        self._columns = tuple(columns)
        self._row_type = np.dtype([(column.name, column.stored) for column in columns])
        header = fits.Header(
            [
                ("XTENSION", "BINTABLE", "binary table extension"),
                ("BITPIX", 8),
                ("NAXIS", 2),
                ("NAXIS1", self._row_type.itemsize, "bytes in a row"),
                ("NAXIS2", 0, "number of rows"),
                ("PCOUNT", 0),
                ("GCOUNT", 1),
                ("TFIELDS", len(columns), "number of columns"),
                ("EXTNAME", name),
                *origin_cards(),
                *cards,
            ]
        )
        for k, column in enumerate(columns, 1):
            header[f"TTYPE{k}"] = column.name
            header[f"TFORM{k}"] = column.format
            if column.unit:
                header[f"TUNIT{k}"] = column.unit
        primary = fits.Header(
            [("SIMPLE", True, "conforms to FITS standard"), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)]
        )
        super().__init__(path, header, "NAXIS2", before=primary.tostring().encode("ascii"))

    def append(self, values: Sequence[np.ndarray]) -> None:
        """Append rows: one array for each column, in order."""
        rows = np.empty(len(values[0]), self._row_type)
        for column, array in zip(self._columns, values, strict=True):
            rows[column.name] = column.encode(array)
        self.write(rows)


def origin_cards() -> list[Card]:
    """Return the header lines that say what wrote a file, and when."""
    return [
        ("DATE", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), "UTC, when the file was written"),
        ("CREATOR", f"margformer_fast {__version__}", "software that wrote the file"),
    ]
