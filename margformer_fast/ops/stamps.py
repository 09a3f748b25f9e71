"""Where the images lie: stamps are described and decoded on demand, never converted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError
from .decode import Scaling, checked_rows, decode


@dataclass(frozen=True)
class Stamps:
    """N multi-band images in one or more buffers, read where they lie.

    A buffer is a NumPy view whose dtype carries the byte order and whose strides carry the layout, so a
    big-endian FITS cube in a memory map, a channel-last array and a plain float32 array are all stamps.

    Parameters
    ----------
    parts : tuple of ndarray, each of shape (n, bands, size, size)
        The buffers: any strides, either byte order, float32, float64 or integers as in FITS.
    scaling : Scaling
        BSCALE, BZERO and BLANK, common to all parts.
    rows : ndarray of int64, optional
        Which images of the concatenated parts these stamps are, in order; all by default.
    """

    parts: tuple[np.ndarray, ...]
    scaling: Scaling = Scaling()
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError("stamps need at least one buffer")
        shape = self.parts[0].shape[1:]
        for part in self.parts:
            if part.ndim != 4 or part.shape[2] != part.shape[3]:
                raise DataError(f"stamps have shape {part.shape}", expected="(N, bands, size, size)")
            if part.shape[1:] != shape:
                raise DataError(
                    f"stamps of shapes {shape} and {part.shape[1:]} are mixed", expected="one shape"
                )

    @classmethod
    def channel_last(cls, array: np.ndarray, scaling: Scaling = Scaling()) -> Stamps:
        """Describe an array of shape (N, size, size, bands), the layout of the published arrays."""
        if array.ndim != 4:
            raise DataError(f"stamps have shape {array.shape}", expected="(N, size, size, bands)")
        return cls((array.transpose(0, 3, 1, 2),), scaling)

    def __len__(self) -> int:
        return len(self.rows) if self.rows is not None else sum(len(part) for part in self.parts)

    @property
    def num_bands(self) -> int:
        """Number of bands."""
        return self.parts[0].shape[1]

    @property
    def size(self) -> int:
        """Side of a stamp in pixels."""
        return self.parts[0].shape[2]

    @property
    def is_uniform(self) -> bool:
        """Whether all parts are stored in one type and byte order."""
        return len({part.dtype.str for part in self.parts}) == 1

    def select(self, rows: np.ndarray) -> Stamps:
        """Return the stamps at `rows` (int64 indices into these stamps); nothing is copied."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def joined(self, other: Stamps) -> Stamps:
        """Return these stamps and then others of the same shape and scaling; nothing is copied."""
        total = sum(len(part) for part in self.parts)
        own, theirs = (each.rows_of(None) for each in (self, other))
        return Stamps((*self.parts, *other.parts), self.scaling, np.concatenate([own, total + theirs]))

    def decode(self, indices: np.ndarray | None = None, *, backend: str = "auto") -> np.ndarray:
        """Return pixels as native float32.

        Parameters
        ----------
        indices : ndarray of int64, optional
            Which stamps, in order; all by default.
        backend : str
            As for :func:`margformer_fast.ops.decode.decode`.

        Returns
        -------
        ndarray of float32, shape (n, bands, size, size)
            Physical values (BSCALE and BZERO applied); BLANK is NaN.

        Raises
        ------
        DataError
            If an index is not in 0 .. N - 1.
        """
        rows = self.rows_of(indices)
        if len(self.parts) == 1:
            return decode(self.parts[0], rows, self.scaling, backend=backend)
        out = np.empty((len(rows), *self.parts[0].shape[1:]), np.float32)
        for part, mine, local in self._by_part(rows):
            out[mine] = decode(part, local, self.scaling, backend=backend)
        return out

    def stored(self, indices: np.ndarray) -> np.ndarray:
        """Return pixels as they are stored, densely: shape (n, bands, size, size), byte order kept.

        Raises
        ------
        DataError
            If an index is not in 0 .. N - 1, or parts are stored in different types.
        """
        if not self.is_uniform:
            dtypes = sorted({part.dtype.str for part in self.parts})
            raise DataError(f"stamps are stored as {', '.join(dtypes)}", expected="one type")
        rows = self.rows_of(indices)
        out = np.empty((len(rows), *self.parts[0].shape[1:]), self.parts[0].dtype)
        for part, mine, local in self._by_part(rows):
            out[mine] = part[local]
        return out

    def rows_of(self, indices: np.ndarray | None) -> np.ndarray:
        """Return where stamps stand in the concatenated parts, as int64.

        Raises
        ------
        DataError
            If an index is not in 0 .. N - 1.
        """
        indices = checked_rows(indices, len(self))
        return indices if self.rows is None else self.rows[indices]

    def _by_part(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield each part that `rows` fall in, which of them do, and where they stand in it."""
        ends = np.cumsum([len(part) for part in self.parts])
        owner = np.searchsorted(ends, rows, side="right")
        for k in np.unique(owner):
            mine = np.flatnonzero(owner == k)
            yield self.parts[k], mine, rows[mine] - (ends[k] - len(self.parts[k]))
