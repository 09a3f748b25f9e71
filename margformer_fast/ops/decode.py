"""Decode: gather raw pixels by row, swap bytes, apply BSCALE, BZERO and BLANK, return float32."""

from __future__ import annotations

import numpy as np

from .. import _native
from ..backends import AUTO, Implementation, Operator, Problem, not_compiled, not_in_memory
from ..errors import DataError
from ..reference.decode import Scaling
from ..reference.decode import decode as _reference

__all__ = ["PIXEL_TYPES", "Scaling", "decode"]

PIXEL_TYPES = ("u1", "i2", "i4", "i8", "f4", "f8")
"""NumPy names of the pixel types of FITS: BITPIX 8, 16, 32, 64, -32, -64."""

MAX_DIMENSIONS = 4


def decode_compiled(array: np.ndarray, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Decode checked `rows` with the compiled module, on as many threads as we may use."""
    out = np.empty((len(rows), *array.shape[1:]), np.float32)
    _native.compiled().decode(
        array,
        np.ascontiguousarray(rows),
        out,
        scaling.bscale,
        scaling.bzero,
        scaling.blank,
        _native.num_threads(),
    )
    return out


OPERATOR = Operator(
    "decode",
    (
        Implementation("cpp", decode_compiled, not_compiled),
        Implementation("reference", _reference, not_in_memory),
    ),
)


def decode(
    array: np.ndarray,
    rows: np.ndarray | None = None,
    scaling: Scaling = Scaling(),
    *,
    backend: str = AUTO,
) -> np.ndarray:
    """Return rows of raw pixels as physical values in native float32.

    Parameters
    ----------
    array : ndarray, shape (N, ...), one to four dimensions
        Raw pixels: unsigned 8-bit, signed 16-, 32- or 64-bit integers, float32 or float64, in either byte
        order and with any strides; usually (N, bands, rows, columns).
    rows : ndarray of integers, shape (n,), optional
        Which of the N to return, in order, repeats allowed; all by default.
    scaling : Scaling
        BSCALE, BZERO and BLANK.
    backend : str
        ``"auto"``, ``"cpp"`` or ``"reference"``.

    Returns
    -------
    ndarray of float32, shape (n, ...), C-contiguous
        ``bzero + bscale * stored``, computed in float64 and rounded once; BLANK is NaN. Float32 pixels that
        need no scaling keep their bits.

    Raises
    ------
    DataError
        If the pixels are of no FITS type, or a row is outside 0 .. N - 1.
    BackendUnavailable
        If a named backend cannot run.
    """
    check_pixel_type(array.dtype)
    if not 1 <= array.ndim <= MAX_DIMENSIONS:
        raise DataError(f"pixels have shape {array.shape}", expected=f"1 to {MAX_DIMENSIONS} dimensions")
    rows = checked_rows(rows, len(array))
    problem = Problem("cpu", array.dtype.str, (array.shape, rows.shape), array.flags.c_contiguous)
    return OPERATOR.resolve(problem, backend).run(array, rows, scaling)


def check_pixel_type(dtype: np.dtype) -> None:
    """Check that `dtype` is a FITS pixel type, in either byte order.

    Raises
    ------
    DataError
        If it is not.
    """
    if f"{dtype.kind}{dtype.itemsize}" not in PIXEL_TYPES:
        raise DataError(
            f"pixels of type {dtype} cannot be decoded",
            expected="one of FITS: " + ", ".join(np.dtype(name).name for name in PIXEL_TYPES),
        )


def checked_rows(rows: np.ndarray | None, num_rows: int) -> np.ndarray:
    """Return `rows` as int64 in 0 .. num_rows - 1.

    Raises
    ------
    DataError
        If they are not integers, not one-dimensional, or outside.
    """
    if rows is None:
        return np.arange(num_rows, dtype=np.int64)
    rows = np.asarray(rows)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DataError(f"rows are {rows.dtype} of shape {rows.shape}", expected="integers of shape (n,)")
    outside = np.flatnonzero((rows < 0) | (rows >= num_rows))
    if outside.size:
        first = outside[0]
        raise DataError(
            f"row {rows[first]} (at place {first}) is outside",
            expected=f"0 or more, less than {num_rows}",
        )
    return rows.astype(np.int64, copy=False)
