"""SDSS object identifiers: the bits, the round trip, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from margformer_fast.data.sdss.objid import ObjIdParts, decode, encode
from margformer_fast.errors import DataError

RANGES = {
    "sky_version": (0, 15),
    "rerun": (0, 2047),
    "run": (0, 65535),
    "camcol": (1, 6),
    "first_field": (0, 1),
    "field": (0, 4095),
    "id": (0, 65535),
}


def random_parts(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {name: rng.integers(low, high, n, endpoint=True) for name, (low, high) in RANGES.items()}


def as_text(parts: dict[str, np.ndarray], row: int) -> int:
    """The same number spelt out in binary digits."""
    widths = {"sky_version": 4, "rerun": 11, "run": 16, "camcol": 3, "first_field": 1, "field": 12, "id": 16}
    return int("".join(f"{parts[name][row]:0{width}b}" for name, width in widths.items()), 2)


def test_round_trip_and_bits(rng):
    parts = random_parts(rng, 501)
    for name, (low, high) in RANGES.items():
        parts[name][:2] = low, high
    objid = encode(**parts)
    assert objid.dtype == np.int64
    assert [int(value) for value in objid] == [as_text(parts, row) for row in range(501)]
    back = decode(objid)
    for name, values in parts.items():
        np.testing.assert_array_equal(getattr(back, name), values)


def test_known_object():
    assert decode(1237645876861337601) == ObjIdParts(2, 301, 94, 1, 0, 12, 1)
    assert encode(94, 1, 12, 1) == 1237645876861337601


def test_shapes_and_integer_types():
    objid = encode(94, np.array([[1], [6]]), np.array([0, 12, 4095]), 7)
    assert objid.shape == (2, 3)
    for kind in (np.uint64, ">i8", object):
        if kind is object:
            with pytest.raises(DataError, match="dtype object"):
                decode(objid.astype(kind))
        else:
            np.testing.assert_array_equal(decode(objid.astype(kind)).camcol, [[1] * 3, [6] * 3])
    assert decode(np.empty(0, np.int64)).run.shape == (0,)


@pytest.mark.parametrize("name", RANGES)
def test_encode_refuses_what_does_not_fit(name):
    low, high = RANGES[name]
    good = {"run": 94, "camcol": 1, "field": 12, "id": 1}
    for value in (low - 1, high + 1):
        with pytest.raises(
            DataError, match=f"element 1: {value} does not fit {name}; expected {low} to {high}"
        ):
            encode(**good | {name: np.array([low, value])})
    with pytest.raises(DataError, match=f"{name} has dtype float64"):
        encode(**good | {name: 1.0})


def test_decode_refuses():
    good = int(encode(94, 1, 12, 1))
    with pytest.raises(DataError, match="objID has dtype float64; expected integers"):
        decode(float(good))
    with pytest.raises(DataError, match="element 2: -1 is negative"):
        decode(np.array([good, good, -1]))
    with pytest.raises(DataError, match="does not fit 63 bits"):
        decode(np.array([2**63], np.uint64))
    for camcol in (0, 7):
        wrong = good & ~(7 << 29) | camcol << 29
        with pytest.raises(DataError, match=f"element 1: {wrong} is not an SDSS object.*Was it rounded"):
            decode(np.array([good, wrong]))


@pytest.mark.parametrize("name", ["exp1", "exp2", "sgq_exp3"])
def test_published_lists_round_trip(real_data, name):
    objid = np.load(real_data / "margnet" / f"objlist_{name}.npy")
    parts = decode(objid)
    assert set(np.unique(parts.sky_version)) == {2}
    assert set(np.unique(parts.rerun)) == {301}
    assert set(np.unique(parts.camcol)) == {1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(encode(**vars(parts)), objid)
    fields = {"exp1": 138_475, "exp2": 107_882, "sgq_exp3": 26_752}[name]
    assert len(np.unique(np.stack([parts.run, parts.camcol, parts.field]), axis=1).T) == fields
