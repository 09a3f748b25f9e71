"""Stamps and features as people have them: arrays, tensors, quantities, masks and columns of tables.

Whatever comes is checked once and read block by block, so that a memory map is never copied whole. What is
masked, or None in a list, is NaN afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .survey import SurveyProfile

STAMP = "stamp"
"""Column of a table that holds the stamps."""

_AB_JANSKY = 3630.780547701014  # flux density of magnitude 0: 10^(-48.6 / 2.5) erg / s / cm2 / Hz

# From a unit, and whose it is, to what turns values into the survey's.
_Convert = Callable[[Any, str], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Blocks:
    """N rows of numbers, read a few at a time.

    Parameters
    ----------
    values : ndarray or Tensor, shape (N, ...)
        As they were given.
    mask : ndarray of bool, shape (N, ...), optional
        Which of them are masked.
    convert : callable, optional
        Turns float64 values into the survey's unit; nothing is to be done by default.
    """

    values: np.ndarray | torch.Tensor
    mask: np.ndarray | None = None
    convert: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def read(self, start: int, stop: int, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """Return rows ``start`` to ``stop`` in the survey's unit; what is masked is NaN.

        Values beyond the range of `dtype` become infinite.
        """
        part = self.values[start:stop]
        if isinstance(part, torch.Tensor):
            part = part.float() if part.dtype in (torch.bfloat16, torch.float16) else part
            part = part.cpu().numpy()
        if self.convert is not None:
            part = self.convert(np.asarray(part, np.float64))
        with np.errstate(over="ignore"):
            out = np.array(part, dtype, order="C")
        if self.mask is not None:
            out[self.mask[start:stop]] = np.nan
        return out


def read_images(images: Any, profile: SurveyProfile, size: int) -> Blocks:
    """Check stamps.

    Parameters
    ----------
    images : array-like, shape (N, bands, size, size)
        NumPy or masked array of real numbers in either byte order, torch tensor, astropy Quantity, or a
        sequence of N of them. A Quantity is converted to the survey's flux unit, through AB magnitudes if
        need be; without a unit, pixels are in that unit already.
    profile : SurveyProfile
        Bands and flux unit.
    size : int
        Side of a stamp.

    Raises
    ------
    DataError
        If they have another shape or type, or a unit that is no flux, with the row where rows differ.
    """
    bands = len(profile.bands)
    mend = None
    shape: tuple[int, ...] = () if _is_ragged(images) else tuple(np.shape(images))
    if len(shape) == 3:
        mend = "One object is images[None]."
    elif len(shape) == 4 and shape[1:] == (size, size, bands):
        mend = "Move the bands to the front: images.transpose(0, 3, 1, 2)."
    elif len(shape) == 4 and shape[1] == bands and min(shape[2:]) > size:
        mend = f"Cut out the middle {size} x {size} pixels."
    expected = f"(N, {bands}, {size}, {size}): objects, bands {''.join(profile.bands)}, rows, columns"
    return _checked(images, "images", (bands, size, size), _to_flux(profile), expected, mend)


def read_features(features: Any, profile: SurveyProfile) -> Blocks:
    """Check photometric features.

    Parameters
    ----------
    features : array-like, shape (N, F)
        NumPy or masked array of real numbers, torch tensor, or a sequence of N of them; in the units and the
        order of ``profile.feature_names``.
    profile : SurveyProfile
        The survey.

    Raises
    ------
    DataError
        If they have another shape or type, or one unit for all, with the row where rows differ.
    """
    if hasattr(features, "columns"):
        raise DataError(
            f"features are a {type(features).__name__}, whose columns have an order of their own",
            expected="an array",
            mend="Use classify(), which goes by the names of columns.",
        )
    count = profile.num_features
    single = not _is_ragged(features) and np.shape(features) == (count,)
    mend = "One object is features[None]." if single else None
    names = profile.feature_names
    expected = f"(N, {count}): {names[0]}, {names[1]}, ... {names[-1]}"
    return _checked(features, "features", (count,), _no_unit, expected, mend)


def read_table(
    table: Any, profile: SurveyProfile
) -> tuple[Any | None, np.ndarray | None, dict[str, np.ndarray]]:
    """Take a table apart.

    Parameters
    ----------
    table : astropy Table, pandas DataFrame or mapping of str to column
        Columns named as ``profile.feature_names``, in magnitudes and arcseconds or with a unit that converts
        to them; `STAMP`; ``objid``, ``ra`` and ``dec``. Others are not looked at.
    profile : SurveyProfile
        The survey.

    Returns
    -------
    images : array-like, or None
        The column `STAMP`, if there is one.
    features : ndarray of float64, shape (N, F), or None
        None if the table has no column of a feature.
    identity : dict of str to ndarray, shape (N,)
        Those of ``objid``, ``ra`` and ``dec`` that are there; positions in degrees.

    Raises
    ------
    DataError
        If some features have a column and others none, there is neither a feature nor a stamp, columns
        differ in length, hold no numbers, or have a unit that does not convert; or if objid is a float.
    """
    names = _column_names(table)
    present = [name for name in profile.feature_names if name in names]
    missing = [name for name in profile.feature_names if name not in names]
    if present and missing:
        raise DataError(
            f"the table has no column {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''} "
            f"({len(missing)} of {profile.num_features} features are missing)",
            mend="Rename columns to the features of the model, or add one of NaN for what was not measured.",
        )
    if not present and STAMP not in names:
        raise DataError(
            "the table has neither features nor stamps",
            expected=f"columns {', '.join(profile.feature_names[:4])}, ..., and {STAMP!r}",
        )
    units = dict(zip(profile.feature_names, profile.feature_units, strict=True))
    columns = {name: _column(table[name], name, units[name]) for name in present}
    identity = {}
    for name, unit in (("objid", None), ("ra", "deg"), ("dec", "deg")):
        if name in names:
            identity[name] = _objid(table[name]) if unit is None else _column(table[name], name, unit)
    images = _unpandas(table[STAMP]) if STAMP in names else None
    lengths = {name: len(column) for name, column in {**columns, **identity}.items()}
    if images is not None:
        lengths[STAMP] = len(images)
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise DataError(f"column {name!r} has {length} rows", expected=f"{lengths[first]}, as {first!r}")
    return images, np.stack(list(columns.values()), axis=1) if columns else None, identity


def _checked(
    values: Any, what: str, shape: tuple[int, ...], convert: _Convert, expected: str, mend: str | None
) -> Blocks:
    """Return values (N, *shape) ready to be read."""
    if _is_ragged(values):
        return Blocks(_stacked(values, what, shape, convert))
    array, mask, unit = _parts(values, what)
    if tuple(array.shape[1:]) != shape or array.ndim != 1 + len(shape):
        raise DataError(f"{what} have shape {tuple(array.shape)}", expected=expected, mend=mend)
    _check_type(array, what)
    return Blocks(array, mask, None if unit is None else convert(unit, what))


def _is_ragged(values: Any) -> bool:
    """Return whether rows come one by one: a list, or an array of objects."""
    return isinstance(values, list | tuple) or getattr(values, "dtype", None) == np.dtype(object)


def _stacked(rows: Sequence[Any], what: str, shape: tuple[int, ...], convert: _Convert) -> np.ndarray:
    """Return rows that come one by one as float64 (N, *shape); a row of None is NaN."""
    out = np.full((len(rows), *shape), np.nan)
    for k, row in enumerate(rows):
        if row is None or row is np.ma.masked:
            continue
        where = f"row {k} of {what}"
        array, mask, unit = _parts(row, where)
        if tuple(array.shape) != shape:
            raise DataError(f"{where} has shape {tuple(array.shape)}", expected=f"{shape} in every row")
        _check_type(array, where)
        convert_row = None if unit is None else convert(unit, where)
        one = Blocks(array[None], None if mask is None else mask[None], convert_row)
        out[k] = one.read(0, 1, np.float64)[0]
    return out


def _parts(values: Any, what: str) -> tuple[np.ndarray | torch.Tensor, np.ndarray | None, Any]:
    """Return numbers, mask and unit; the latter two None if there are none."""
    if isinstance(values, torch.Tensor):
        return values.detach(), None, None
    unit = getattr(values, "unit", None)
    mask = getattr(values, "mask", None)
    mask = None if callable(mask) else mask  # pandas has a method of that name
    if hasattr(values, "unmasked"):  # astropy's Masked
        values = values.unmasked
    try:
        array = np.asarray(getattr(values, "value", values) if unit is not None else values)
    except ValueError as error:  # lists of lists of different lengths
        raise DataError(f"{what}: no array of numbers ({error})") from error
    if mask is None or not np.any(mask):
        return array, None, unit
    return array, np.broadcast_to(mask, array.shape), unit


def _check_type(array: np.ndarray | torch.Tensor, what: str) -> None:
    if isinstance(array, torch.Tensor):
        real = not (array.is_complex() or array.dtype == torch.bool)
    else:
        real = array.dtype.kind in "fiu"
    if not real:
        raise DataError(f"{what}: type {array.dtype}", expected="real numbers")


def _to_flux(profile: SurveyProfile) -> _Convert:
    def convert(unit: Any, whose: str) -> Callable[[np.ndarray], np.ndarray]:
        from astropy import units as u

        target = u.Unit("nmgy") if profile.flux_unit == "nanomaggy" else u.Unit(profile.flux_unit)
        try:
            # Not by a factor of two numbers rounded before: 1 where the units are one.
            factor = float(u.Unit(unit).to(target, equivalencies=u.zero_point_flux(_AB_JANSKY * u.Jy)))
        except (u.UnitConversionError, TypeError, ValueError) as error:
            raise DataError(
                f"{whose}: unit {unit}", expected=f"a flux such as {profile.flux_unit} or nJy"
            ) from error
        return lambda values: values * factor

    return convert


def _no_unit(unit: Any, whose: str) -> Callable[[np.ndarray], np.ndarray]:
    raise DataError(
        f"{whose}: one unit, {unit}, for magnitudes and radii alike",
        mend="Give plain numbers in magnitudes and arcseconds, or a table whose columns have units.",
    )


def _column_names(table: Any) -> list[str]:
    """Return the names of a table's columns."""
    names = getattr(table, "colnames", None)
    if names is None:
        names = getattr(table, "columns", table if isinstance(table, Mapping) else None)
    if names is None:
        raise DataError(
            f"{type(table).__name__} is no table",
            expected="an astropy Table, a pandas DataFrame, or a dict of columns",
        )
    return [str(name) for name in names]


def _unpandas(column: Any) -> Any:
    """Return a pandas Series as an array; anything else as it is."""
    return column.to_numpy() if hasattr(column, "to_numpy") else column


def _column(column: Any, name: str, unit: str) -> np.ndarray:
    """Return a column as float64 (N,) in `unit`; what is missing is NaN."""
    if hasattr(column, "to_numpy"):  # pandas marks missing numbers by an object of its own
        try:
            column = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise DataError(f"column {name!r} holds what is no number ({error})") from error
    if _is_ragged(column):
        return _stacked(column, f"column {name!r}", (), lambda given, whose: _to_unit(given, unit, whose))
    whose = f"column {name!r}"
    array, mask, given = _parts(column, whose)
    if array.ndim != 1:
        raise DataError(f"{whose} has shape {tuple(array.shape)}", expected="(N,)")
    _check_type(array, whose)
    # A column without dimension is one whose unit nobody said.
    convert = None if given is None or str(given) in ("", unit) else _to_unit(given, unit, whose)
    return Blocks(array, mask, convert).read(0, len(array), np.float64)


def _to_unit(given: Any, unit: str, whose: str) -> Callable[[np.ndarray], np.ndarray]:
    from astropy import units as u

    # A magnitude as astropy has it knows its zero point; only AB is that of the features.
    candidates = (u.Unit(unit), *([u.ABmag] if unit == "mag" else []))
    for target in candidates:
        if u.Unit(given).is_equivalent(target):
            return lambda values: np.asarray(u.Quantity(values, given, subok=True).to_value(target))
    raise DataError(f"{whose}: unit {given}", expected=unit)


def _objid(column: Any) -> np.ndarray:
    array = np.asarray(_unpandas(column))
    if array.dtype.kind == "O":
        array = np.array([str(each) for each in array])
    if array.dtype.kind == "f":
        raise DataError(
            "column 'objid' holds floats", expected="int64; a float cannot hold a 64-bit identifier"
        )
    return array.astype(array.dtype.newbyteorder("="))
