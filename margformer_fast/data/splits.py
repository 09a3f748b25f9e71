"""Training, validation and test sets: as published, by object, or by place on the sky."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """Rows of a survey on each side of a split.

    Parameters
    ----------
    train, val, test : ndarray of int64
        Row indices; no row is on two sides.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def published_split(n: int, test_fraction: float, val_fraction: float, random_state: int = 42) -> Split:
    """Split `n` rows as the published notebooks do.

    They call scikit-learn's ``train_test_split`` twice with the same random state, unstratified: the first
    call takes the test set, the second divides what remains, in the order the first left it.

    Parameters
    ----------
    n : int
        Number of rows, after rows of classes outside the task are removed.
    test_fraction : float
        Share of all rows that is tested on.
    val_fraction : float
        Share of the remainder that is validated on.
    random_state : int
        Seed of NumPy's legacy generator.

    Returns
    -------
    Split
        Rows in the published (shuffled) order.

    Raises
    ------
    ConfigError
        If a fraction is not between 0 and 1.
    DataError
        If a side would be empty.
    """
    _check_fractions(test_fraction, val_fraction)
    rest, test = _cut(np.arange(n, dtype=np.int64), test_fraction, random_state)
    train, val = _cut(rest, val_fraction, random_state)
    return _checked(Split(train, val, test))


def hashed_split(objid: np.ndarray, test_fraction: float, val_fraction: float, seed: int) -> Split:
    """Split objects by a hash of their identifier.

    The side depends on the identifier and the seed alone, so an object is on the same side in every
    population, experiment and reordering: nothing learned in one leaks into the test of another.

    Parameters
    ----------
    objid : ndarray of int64, shape (N,)
        Identifiers.
    test_fraction : float
        Expected share of all objects that is tested on.
    val_fraction : float
        Expected share of the remainder that is validated on.
    seed : int
        Changes which objects fall where.

    Returns
    -------
    Split
        Rows in ascending order.

    Raises
    ------
    ConfigError
        If a fraction is not between 0 and 1.
    DataError
        If a side would be empty.
    """
    _check_fractions(test_fraction, val_fraction)
    place = object_hash(objid, seed) / 2.0**64
    is_test = place < test_fraction
    is_val = ~is_test & (place < test_fraction + (1 - test_fraction) * val_fraction)
    return _checked(
        Split(np.flatnonzero(~is_test & ~is_val), np.flatnonzero(is_val), np.flatnonzero(is_test))
    )


def spatial_split(
    ra: np.ndarray, dec: np.ndarray, test_fraction: float, val_fraction: float, *, gap_arcsec: float = 0.0
) -> Split:
    """Split the objects of one field into three strips of sky: train, then val, then test.

    The strips follow one another along right ascension or declination, whichever the objects extend over
    further, so that neighbours, which share pixels, are on the same side.

    Parameters
    ----------
    ra, dec : ndarray of float64, shape (N,)
        Positions in degrees.
    test_fraction : float
        Share of all objects that is tested on.
    val_fraction : float
        Share of the remainder that is validated on.
    gap_arcsec : float
        Width of a band around each border whose objects are left out. With a stamp's width, no pixel is
        on two sides.

    Returns
    -------
    Split
        Rows in ascending order. Objects level with a border go to the strip above it.

    Raises
    ------
    ConfigError
        If a fraction is not between 0 and 1, or the gap is negative.
    DataError
        If a position is not finite, or a side would be empty.
    """
    _check_fractions(test_fraction, val_fraction)
    if not gap_arcsec >= 0:
        raise ConfigError(f"the gap between strips is {gap_arcsec} arcsec", expected="0 or more")
    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    unknown = np.count_nonzero(~(np.isfinite(ra) & np.isfinite(dec)))
    if unknown:
        raise DataError(
            f"{unknown} of {len(ra)} objects have no position",
            expected="finite ra and dec for a split on the sky",
            mend="Split by object instead.",
        )
    along = _longer_axis(ra, dec)
    n_test = math.ceil(test_fraction * len(along))
    n_val = math.ceil(val_fraction * (len(along) - n_test))
    n_train = len(along) - n_test - n_val
    if min(n_train, n_val, n_test) < 1:
        raise DataError(
            f"{len(along)} objects are too few for three strips of sky",
            mend="Use more objects, or split by object.",
        )
    to_val, to_test = np.sort(along)[[n_train, n_train + n_val]]
    half = gap_arcsec / 2
    return _checked(
        Split(
            np.flatnonzero(along < to_val - half),
            np.flatnonzero((along >= to_val + half) & (along < to_test - half)),
            np.flatnonzero(along >= to_test + half),
        )
    )


def object_hash(objid: np.ndarray, seed: int) -> np.ndarray:
    """Return a uniform number for each object, a function of its identifier and the seed alone.

    Parameters
    ----------
    objid : ndarray of int64, shape (N,)
        Identifiers.
    seed : int
        Any integer; taken modulo 2**64.

    Returns
    -------
    ndarray of uint64, shape (N,)
        The finaliser of SplitMix64 (Steele, Lea & Flood 2014) applied to the mixed seed plus the identifier.
    """
    key = _splitmix64(np.array([seed % 2**64], np.uint64))
    return _splitmix64(np.asarray(objid, np.int64).view(np.uint64) ^ key)


def fingerprint(objid: np.ndarray) -> str:
    """Return 16 hex digits of the SHA-256 over identifiers as little-endian int64, in the order given."""
    return hashlib.sha256(np.ascontiguousarray(objid, "<i8").tobytes()).hexdigest()[:16]


def _splitmix64(x: np.ndarray) -> np.ndarray:
    # Array arithmetic on uint64 wraps silently, which is what a hash wants.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _cut(rows: np.ndarray, fraction: float, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (kept, taken) as ``train_test_split(rows, test_size=fraction, random_state=...)`` does."""
    order = np.random.RandomState(random_state).permutation(len(rows))
    n_taken = math.ceil(fraction * len(rows))
    return rows[order[n_taken:]], rows[order[:n_taken]]


def _longer_axis(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return offsets in arcseconds along right ascension or declination, whichever spans more."""
    if len(ra) == 0:
        return ra
    # Offsets from one object, wrapped to +-180 degrees: a field across RA 0 stays in one piece.
    across = ((ra - ra[0] + 180.0) % 360.0 - 180.0) * math.cos(math.radians(float(np.mean(dec))))
    up = dec - dec[0]
    offset: np.ndarray = across if np.ptp(across) >= np.ptp(up) else up
    return offset * 3600.0


def _check_fractions(test_fraction: float, val_fraction: float) -> None:
    for name, value in (("test", test_fraction), ("validation", val_fraction)):
        if not 0 < value < 1:
            raise ConfigError(
                f"the {name} fraction is {value}", expected="a number between 0 and 1, both excluded"
            )


def _checked(split: Split) -> Split:
    sides = {"training": split.train, "validation": split.val, "test": split.test}
    empty = [name for name, rows in sides.items() if len(rows) == 0]
    if empty:
        n = sum(len(rows) for rows in sides.values())
        raise DataError(
            f"the {empty[0]} side of a split of {n} objects is empty",
            mend="Use more objects or other fractions.",
        )
    return split
