"""FITS images read where they lie, against astropy; and every way in which a file can be no such thing."""

from __future__ import annotations

import bz2
import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from margformer_fast.data.fits import image_from_bytes, map_image
from margformer_fast.errors import DataError, FitsFormatError
from margformer_fast.ops.decode import Scaling


def written(*hdus: fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU) -> bytes:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8", "u2", "u4", "i1"])
def test_images_of_every_type(rng: np.random.Generator, tmp_path: Path, dtype: str) -> None:
    """Unsigned types and signed bytes are stored with BZERO; the values come back all the same."""
    shape = tuple(rng.integers(1, 9, rng.integers(1, 5)))
    values = rng.integers(0, 100, shape).astype(dtype)
    path = tmp_path / "image.fits"
    path.write_bytes(written(fits.PrimaryHDU(), fits.ImageHDU(values)))
    image = map_image(path, 1)
    assert image.array.shape == shape
    assert not image.array.flags.writeable
    assert image.header["XTENSION"] == "IMAGE"
    for backend in ("cpp", "reference"):
        pixels = image.pixels(backend=backend)
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels, values)


def test_scaled_image_with_blanks(rng: np.random.Generator) -> None:
    stored = rng.integers(-300, 300, (7, 5)).astype(np.int16)
    stored[2, 3] = -32768
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update(BSCALE=0.25, BZERO=-3, BLANK=-32768)
    raw = written(hdu)
    image = image_from_bytes(raw)
    assert image.scaling == Scaling(0.25, -3.0, -32768)
    np.testing.assert_array_equal(image.array, stored)
    np.testing.assert_array_equal(image.pixels(), fits.getdata(io.BytesIO(raw)))


def test_blank_of_a_float_image_is_ignored() -> None:
    hdu = fits.PrimaryHDU(np.ones((2, 2), np.float32))
    hdu.header["BLANK"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy's, about the same keyword
        raw = written(hdu)
    assert image_from_bytes(raw).scaling.blank is None


def test_view_outlives_the_call_and_copies_nothing(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "image.fits"
    path.write_bytes(written(fits.PrimaryHDU(values)))
    array = map_image(path).array
    path.unlink()
    np.testing.assert_array_equal(array, values)
    raw = bytearray(written(fits.PrimaryHDU(values)))
    view = image_from_bytes(raw).array
    raw[2880:2884] = np.array([99], ">f4").tobytes()
    assert view[0, 0] == 99


def test_real_frames(real_data: Path) -> None:
    """SDSS frames: image, then calibration, a sky table and an astrometric table."""
    for path in sorted((real_data / "sdss" / "94-1-12").glob("frame-*.bz2")):
        raw = bz2.decompress(path.read_bytes())
        image = image_from_bytes(raw, name=path)
        np.testing.assert_array_equal(image.pixels(), fits.getdata(io.BytesIO(raw), 0))
        assert image.header["NAXIS1"] == image.array.shape[1] == 2048
        with pytest.raises(FitsFormatError, match=r"frame-.*, HDU 2: this is a BINTABLE; expected an image"):
            image_from_bytes(raw, 2, name=path)


IMAGE = written(fits.PrimaryHDU(np.ones((40, 40), np.float32)), fits.ImageHDU(np.ones(3, np.int16)))


def edited(card: str, raw: bytes = IMAGE) -> bytes:
    """A file with its EXTEND card turned into another."""
    at = raw.index(b"EXTEND")
    return raw[:at] + card.ljust(80).encode() + raw[at + 80 :]


@pytest.mark.parametrize(
    ("raw", "hdu", "message"),
    [
        (
            IMAGE[:5000],
            0,
            "x.fits, HDU 0, byte 2880: the data are cut short: 2120 bytes; expected 6400, as the",
        ),
        (IMAGE[:5000], 1, "x.fits, HDU 1, byte 2880: the data are cut short"),
        (IMAGE[:2000], 0, "x.fits, HDU 0, byte 0: the header is cut short: its last block ends at byte 2880"),
        (IMAGE, 2, "x.fits, HDU 2: the file has only 2 HDUs"),
        (b"<html>Not found" * 200, 0, "x.fits, HDU 0, byte 0, card '<html>Not found<"),
        (written(fits.PrimaryHDU()), 0, "x.fits, HDU 0: the image has 0 axes; expected 1 to 64"),
        (edited("BSCALE  = 'one'"), 0, "x.fits, HDU 0: BSCALE is 'one'; expected a number"),
        (edited("BZERO   = T"), 0, "x.fits, HDU 0: BZERO is True; expected a number"),
        (edited("BZERO   = 1 1"), 0, "BZERO   = 1 1': text follows the value"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, raw: bytes, hdu: int, message: str) -> None:
    with pytest.raises(FitsFormatError, match=re.escape(message)):
        image_from_bytes(raw, hdu, name="x.fits")
    (tmp_path / "x.fits").write_bytes(raw)
    with pytest.raises(FitsFormatError, match=re.escape(message)):
        map_image(tmp_path / "x.fits", hdu)


def test_blank_must_be_an_integer() -> None:
    raw = edited("BLANK   = 1.5", written(fits.PrimaryHDU(np.ones((2, 2), np.int16))))
    with pytest.raises(FitsFormatError, match=r"BLANK is 1\.5; expected an integer"):
        image_from_bytes(raw)


def test_compressed_image_says_what_to_do(rng: np.random.Generator) -> None:
    stream = io.BytesIO()
    compressed = fits.CompImageHDU(rng.integers(0, 9, (20, 20)).astype(np.int16))
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(stream)
    with pytest.raises(
        FitsFormatError, match=r"the image is compressed; expected plain pixels\. Uncompress it with f"
    ):
        image_from_bytes(stream.getvalue(), 1)


def test_more_axes_than_numpy_has() -> None:
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 65", *(f"NAXIS{i + 1:<3}= 1" for i in range(65)), "END"]
    raw = "".join(card.ljust(80) for card in cards).ljust(5760 + 2880).encode()
    with pytest.raises(FitsFormatError, match="the image has 65 axes; expected 1 to 64"):
        image_from_bytes(raw)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.fits'}: is missing")):
        map_image(tmp_path / "none.fits")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        map_image(tmp_path)
    (tmp_path / "empty.fits").touch()
    with pytest.raises(FitsFormatError, match=r"empty\.fits: the file is empty"):
        map_image(tmp_path / "empty.fits")


@pytest.mark.parametrize("length", [2**60, 2**63 - 1])
def test_axes_beyond_any_array(length: int) -> None:
    """Without pixels the file need not be long, but an array of that shape cannot be made."""
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 0", f"NAXIS2  = {length}", "END"]
    raw = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    told = rf"HDU 0: the image has no pixels, but axes of \({length}, 0\); expected axes that NumPy can hold"
    with pytest.raises(FitsFormatError, match=told):
        image_from_bytes(raw)
    fewer = image_from_bytes(raw.replace(str(length).encode(), str(2**60 - 1).encode()))
    assert fewer.pixels().shape == (2**60 - 1, 0)
