"""Raw pixels of any FITS type, byte order and layout to float32: the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaling:
    """How a stored number becomes a physical value: ``bzero + bscale * stored`` (FITS standard 4.0, 4.4.2.5).

    Parameters
    ----------
    bscale, bzero : float
        BSCALE and BZERO.
    blank : int, optional
        BLANK, the stored integer that stands for "no value". It has no meaning for floating-point pixels,
        and the FITS standard says to ignore it there.
    """

    bscale: float = 1.0
    bzero: float = 0.0
    blank: int | None = None

    @property
    def is_identity(self) -> bool:
        """Whether a stored floating-point number is the value itself."""
        return self.bscale == 1.0 and self.bzero == 0.0


def decode(array: np.ndarray, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Gather rows of raw pixels as physical values.

    The value is computed in float64 and rounded once to float32. Float32 pixels that need no scaling keep
    their bits, NaN payloads included; in every other case a NaN is the quiet NaN ``0x7fc00000``, so that all
    backends agree bit for bit.

    Parameters
    ----------
    array : ndarray, shape (N, ...)
        Any of the FITS pixel types, byte orders and strides.
    rows : ndarray of int64, shape (n,)
        Which of the N to return, in order.
    scaling : Scaling
        BSCALE, BZERO and BLANK.

    Returns
    -------
    ndarray of float32, shape (n, ...)
    """
    raw = array[rows]
    if raw.dtype.newbyteorder("=") == np.float32 and scaling.is_identity:
        return raw.astype(np.float32, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        value = (scaling.bzero + scaling.bscale * raw.astype(np.float64)).astype(np.float32, order="C")
    value[np.isnan(value)] = np.float32(np.nan)
    if scaling.blank is not None and raw.dtype.kind in "iu":
        value[raw == scaling.blank] = np.float32(np.nan)
    return value
