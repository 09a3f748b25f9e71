"""Parse a FITS header: keywords, pixel type, shape, and where its data and the next HDU begin."""

from __future__ import annotations

import mmap

import numpy as np

from .. import _native
from ..backends import AUTO, Implementation, Operator, Problem, not_compiled, not_in_memory
from ..reference.fits_header import Header, HeaderValue, Malformed
from ..reference.fits_header import parse_header as _reference

__all__ = ["BytesLike", "Header", "HeaderValue", "as_bytes", "parse_header"]

BytesLike = bytes | bytearray | memoryview | mmap.mmap | np.ndarray


def _compiled(buffer: memoryview, offset: int) -> Header:
    values, *rest = _native.compiled().parse_header(buffer, offset)
    entries = {key: Malformed(*value) if isinstance(value, tuple) else value for key, value in values.items()}
    return Header(entries, *rest)


OPERATOR = Operator(
    "parse_header",
    (
        Implementation("cpp", _compiled, not_compiled),
        Implementation("reference", _reference, not_in_memory),
    ),
)


def as_bytes(buffer: BytesLike) -> memoryview:
    """Return a dense view of a buffer, byte by byte; nothing is copied."""
    # NumPy's type stubs declare the buffer protocol from Python 3.12 on.
    return memoryview(buffer).cast("B")  # type: ignore[arg-type]


def parse_header(buffer: BytesLike, offset: int = 0, *, backend: str = AUTO) -> Header:
    """Read the FITS header that begins at a byte of a buffer.

    Parameters
    ----------
    buffer : bytes-like
        A FITS file or any part of one: bytes, a memory map, an array of bytes.
    offset : int
        Where the header begins: 0, or the `next_offset` of the header before.
    backend : str
        ``"auto"``, ``"cpp"`` or ``"reference"``.

    Returns
    -------
    Header
        A mapping from keyword to value, with `bitpix`, `shape`, `data_offset`, `data_size` and `next_offset`.

    Raises
    ------
    FitsFormatError
        If the header is cut short or damaged, or promises more data than the buffer holds; the message gives
        the byte and the card.
    BackendUnavailable
        If a named backend cannot run.
    """
    view = as_bytes(buffer)
    problem = Problem("cpu", "uint8", ((view.nbytes,),))
    return OPERATOR.resolve(problem, backend).run(view, offset)
