"""Stamps as columns of tables hold them: arrays, nested lists, flat lists or bytes."""

from __future__ import annotations

from typing import Any

import numpy as np


def stamps_of(column: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the stamps of a column.

    Parameters
    ----------
    column : sequence of length N, or ndarray of shape (N, C, S, S)
        Each row an array, a nested list or a flat list of C * S * S numbers in the order (band, row, column);
        or bytes, little-endian float32. Columns of pandas and of pyarrow will do.
    shape : tuple of int
        (C, S, S).

    Returns
    -------
    ndarray of float32, shape (N, C, S, S)
        A row that is missing or has another size is NaN: one bad row must not stop a catalogue. The
        classifier flags it ``NO_IMAGE``.
    """
    if isinstance(column, np.ndarray) and column.dtype != object and column.shape[1:] == shape:
        return np.asarray(column, np.float32)
    out = np.full((len(column), *shape), np.nan, np.float32)
    flat = out.reshape(len(column), -1)
    values = column.to_pylist() if hasattr(column, "to_pylist") else column
    for k, value in enumerate(values):
        if value is None or value is np.ma.masked:
            continue
        numbers = _numbers(value)
        if numbers is not None and numbers.size == flat.shape[1]:
            flat[k] = numbers.reshape(-1)
    return out


def _numbers(value: Any) -> np.ndarray | None:
    """Return one stamp as an array, or None if it is none."""
    if isinstance(value, bytes | bytearray | memoryview):
        content = bytes(value)
        return np.frombuffer(content, "<f4") if len(content) % 4 == 0 else None
    try:
        array = np.asarray(value)
        if array.dtype == object:  # rows within rows
            array = np.array([np.stack(list(part)) for part in array])
        return array.astype(np.float32)
    except (TypeError, ValueError):
        return None
