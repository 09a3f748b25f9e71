"""Stamps: any layout, byte order and number of buffers decode to the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from margformer_fast.errors import DataError
from margformer_fast.ops.decode import Scaling
from margformer_fast.ops.stamps import Stamps


@pytest.fixture
def pixels(rng) -> np.ndarray:
    return rng.normal(size=(int(rng.integers(3, 20)), int(rng.integers(1, 7)), 9, 9)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_layouts_decode_alike(pixels, dtype):
    first = pixels.astype(dtype)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    for stamps in (
        Stamps((first,)),
        Stamps.channel_last(last),
        Stamps((first[::-1],)).select(np.arange(len(first))[::-1]),
    ):
        assert (len(stamps), stamps.num_bands, stamps.size) == (len(pixels), pixels.shape[1], 9)
        found = stamps.decode()
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, pixels)


def test_parts_count_as_one(pixels, rng):
    cuts = np.sort(rng.integers(0, len(pixels) + 1, 2))  # parts may be empty
    stamps = Stamps(tuple(np.split(pixels.astype(">f4"), cuts)))
    assert len(stamps) == len(pixels)
    rows = rng.integers(0, len(pixels), 31)
    np.testing.assert_array_equal(stamps.decode(rows), pixels[rows])
    np.testing.assert_array_equal(stamps.decode(), pixels)


def test_selections_of_selections(pixels, rng):
    rows = rng.integers(0, len(pixels), 15)
    again = rng.integers(0, 15, 8)
    cut = int(rng.integers(0, len(pixels) + 1))
    for stamps in (Stamps((pixels,)), Stamps((pixels[:cut], pixels[cut:]))):
        np.testing.assert_array_equal(stamps.select(rows).select(again).decode(), pixels[rows][again])
        np.testing.assert_array_equal(stamps.select(rows).decode(again), pixels[rows][again])
        assert len(stamps.select(rows[:0])) == 0
        assert stamps.select(rows[:0]).decode().shape == (0, *pixels.shape[1:])


def test_scaling_and_blank(rng):
    raw = rng.integers(-1000, 1000, (5, 2, 4, 4)).astype(">i2")
    raw[3, 1, 2, 0] = -32768
    found = Stamps((raw,), Scaling(bscale=0.5, bzero=100.0, blank=-32768)).decode()
    expected = (100 + 0.5 * raw.astype(np.float64)).astype(np.float32)
    expected[3, 1, 2, 0] = np.nan
    np.testing.assert_array_equal(found, expected)


def test_nothing_is_copied_before_it_is_decoded(pixels):
    stamps = Stamps.channel_last(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))).select(np.arange(2))
    before = stamps.decode()
    stamps.parts[0][...] += 1
    np.testing.assert_array_equal(stamps.decode(), before + 1)


def test_rows_outside_are_refused(pixels):
    n = len(pixels)
    for stamps in (
        Stamps((pixels,)),
        Stamps((pixels[:1], pixels[1:])),
        Stamps((pixels,)).select(np.arange(n)),
    ):
        for row in (n, -1):
            with pytest.raises(DataError, match=rf"row {row} \(at place 1\) is outside"):
                stamps.decode(np.array([0, row]))
        with pytest.raises(DataError, match="rows are float64"):
            stamps.decode(np.array([0.0]))


def test_wrong_shapes_are_refused(pixels):
    with pytest.raises(DataError, match="stamps need at least one buffer"):
        Stamps(())
    with pytest.raises(DataError, match=r"stamps have shape \(3, 4, 4\); expected \(N, bands, size, size\)"):
        Stamps((np.zeros((3, 4, 4)),))
    with pytest.raises(DataError, match=r"stamps have shape \(3, 5, 4, 6\)"):
        Stamps((np.zeros((3, 5, 4, 6)),))
    with pytest.raises(
        DataError, match=r"stamps of shapes \(5, 4, 4\) and \(5, 8, 8\) are mixed; expected one shape"
    ):
        Stamps((np.zeros((3, 5, 4, 4)), np.zeros((3, 5, 8, 8))))
    with pytest.raises(DataError, match=r"stamps have shape \(3, 4\); expected \(N, size, size, bands\)"):
        Stamps.channel_last(np.zeros((3, 4)))
