"""FITS written row by row: what astropy reads back, whatever the blocks."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from astropy.io import fits

from margformer_fast.data.fits_stream import Column, ImageStream, TableStream
from margformer_fast.errors import DataError


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def blocks(rng: np.random.Generator, n: int) -> list[slice]:
    """Cut n rows into blocks, some of them empty."""
    cuts = [0, *np.sort(rng.integers(0, n + 1, 4)).tolist(), n]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize("shape", [(5, 32, 32), (3,), (2, 7)])
def test_images(tmp_path, rng, shape):
    n = int(rng.integers(1, 40))
    data = rng.normal(size=(n, *shape)).astype(rng.choice(["<f4", ">f4", "<f8"]))
    path = tmp_path / "a.fits"
    with ImageStream(path, shape, "nanomaggy", [("BANDS", "ugriz", "order of the planes")]) as stream:
        for block in blocks(rng, n):
            stream.append(data[block])
        assert stream.count == n
        stream.finish()
    with fits.open(path) as hdus:
        hdus.verify("exception")
        (hdu,) = hdus
        assert hdu.data.dtype == ">f4"
        np.testing.assert_array_equal(hdu.data, data.astype(np.float32))
        assert (hdu.header["BUNIT"], hdu.header["BANDS"]) == ("nanomaggy", "ugriz")
        assert hdu.header["CREATOR"].startswith("margformer_fast ")
    assert path.stat().st_size % 2880 == 0


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        ("bool", "L"),
        ("int8", "I"),
        ("uint8", "B"),
        ("int16", "I"),
        ("uint16", "J"),
        ("int32", "J"),
        ("uint32", "K"),
        ("int64", "K"),
        (">i8", "K"),
        ("float16", "E"),
        ("float32", "E"),
        ("float64", "D"),
        ("U5", "5A"),
        ("S3", "3A"),
    ],
)
def test_columns(tmp_path, rng, dtype, form):
    n, kind = int(rng.integers(1, 30)), np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        values = rng.integers(info.min, info.max, n, dtype=kind.newbyteorder("="), endpoint=True).astype(kind)
    elif kind.kind in "US":
        values = np.array(["a", "bc", "", "d e"])[rng.integers(0, 4, n)].astype(kind)
    else:
        values = (rng.normal(size=n) * 9).astype(kind)
    path = tmp_path / "a.fits"
    with TableStream(path, [Column("k", np.dtype("i8")), Column("x", kind, "mag")], "THINGS") as stream:
        for block in blocks(rng, n):
            stream.append([np.arange(n)[block], values[block]])
        stream.finish()
    with fits.open(path) as hdus:
        hdus.verify("exception")
        hdu = hdus["THINGS"]
        assert hdu.columns["x"].format == form
        assert hdu.columns["x"].unit == "mag"
        assert hdu.columns["k"].unit is None
        np.testing.assert_array_equal(hdu.data["k"], np.arange(n))
        expected = values.astype("U") if kind.kind in "US" else values
        np.testing.assert_array_equal(np.asarray(hdu.data["x"]), expected)


def test_later_rows_have_to_fit(tmp_path):
    columns = [Column("text", np.dtype("U2")), Column("small", np.dtype("i2")), Column("flag", np.dtype("?"))]
    good = [np.array(["ab"]), np.array([1], np.int16), np.array([True])]
    cases = [
        (
            0,
            np.array(["abc"]),
            r"column 'text' holds text of 3 characters; expected at most 2.* such as 'U32'",
        ),
        (0, np.array(["\N{SNOWMAN}"]), "column 'text' holds '\N{SNOWMAN}'; expected ASCII text"),
        (0, np.array([1], np.int8), "column 'text' is int8; expected <U2"),
        (1, np.array([1], np.int64), "column 'small' is int64; expected int16"),
        (2, np.array([1], np.uint8), "column 'flag' is uint8; expected bool"),
    ]
    with TableStream(tmp_path / "a.fits", columns, "T") as stream:
        stream.append(good)
        for place, values, message in cases:
            row = list(good)
            row[place] = values
            with pytest.raises(DataError, match=message):
                stream.append(row)
        stream.append([np.array(["c"]), np.array([2], np.int8), np.array([False])])
        stream.finish()
    table = fits.getdata(tmp_path / "a.fits", 1)
    assert table["text"].tolist() == ["ab", "c"]
    assert table["small"].tolist() == [1, 2]
    assert table["flag"].tolist() == [True, False]


def test_what_fits_cannot_hold(tmp_path):
    for dtype in ("u8", "O", "c16", "M8[s]"):
        with pytest.raises(
            DataError, match=r"column 'x' of type .* cannot be written to FITS; expected bool, integers"
        ):
            TableStream(tmp_path / "a.fits", [Column("x", np.dtype(dtype))], "T")
    with pytest.raises(
        DataError, match="two columns are called 'RA'; expected names that differ in more than case"
    ):
        TableStream(tmp_path / "a.fits", [Column("ra", np.dtype("f8")), Column("RA", np.dtype("f8"))], "T")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_is_not_finished_holds_no_rows(tmp_path, rng):
    """Whoever finds the file finds a valid header that promises nothing."""
    with ImageStream(tmp_path / "a.fits", (4, 4), "nJy") as stream:
        stream.append(rng.normal(size=(3, 4, 4)))
    assert fits.getheader(tmp_path / "a.fits", ignore_missing_end=False)["NAXIS3"] == 0
