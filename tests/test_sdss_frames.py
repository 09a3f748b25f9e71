"""SDSS files and frames: every packing the same pixels, every damage one clear error."""

from __future__ import annotations

import bz2
import gzip
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from sdss_files import BANDS, frame_header, frame_image, frame_name, packed, write_frame

from margformer_fast.data.sdss import files, frames
from margformer_fast.data.sdss.files import find_fields, find_hdu, read_bytes
from margformer_fast.data.sdss.frames import read_frame
from margformer_fast.errors import DataError, FitsFormatError

PACKINGS = (".bz2", ".gz", ".fz")


def noise(rng: np.random.Generator) -> np.ndarray:
    image = rng.normal(0, 0.02, (70, 81)).astype(np.float32)
    image[rng.integers(70), rng.integers(81)] = np.nan
    return image


@pytest.mark.parametrize("band", BANDS)
def test_plain_frame(tmp_path, rng, band):
    image = noise(rng)
    frame = read_frame(write_frame(tmp_path, band, image))
    assert (frame.band, frame.run, frame.camcol, frame.field) == (band, 94, 1, 12)
    assert frame.image.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_equals_plain(tmp_path, rng, packing):
    path = write_frame(tmp_path, "g", noise(rng))
    plain, other = read_frame(path), read_frame(str(packed(path, packing)))
    np.testing.assert_array_equal(other.image, plain.image)
    assert other.image.dtype == plain.image.dtype
    ra, dec = rng.uniform(336.55, 336.65, 50), rng.uniform(-0.95, -0.91, 50)
    np.testing.assert_array_equal(other.pixel(ra, dec), plain.pixel(ra, dec))


def test_tiles_without_fitsio(tmp_path, rng, monkeypatch):
    path = write_frame(tmp_path, "g", noise(rng))
    tiles = packed(path, ".fz")
    with_fitsio = read_frame(tiles)
    monkeypatch.setattr(frames, "find_spec", lambda _: None)
    np.testing.assert_array_equal(read_frame(tiles).image, with_fitsio.image)


def test_scaled_integers(tmp_path, rng):
    image = rng.integers(-30000, 30000, (40, 40)).astype(np.int16)
    header = frame_header("r")
    path = write_frame(tmp_path, "r", image, header)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header["BSCALE"], hdus[0].header["BZERO"] = 0.5, 3.0
    np.testing.assert_array_equal(read_frame(path).image, (3.0 + 0.5 * image).astype(np.float32))


def test_pixel_coordinates_count_from_zero_at_centres(tmp_path):
    frame = read_frame(write_frame(tmp_path, "i"))
    header = frame_header("i")
    header.rename_keyword("RADECSYS", "RADESYS")
    ra, dec = WCS(header, fix=False).wcs_pix2world([1.0, 11.0, 3.5], [1.0, 1.0, 21.0], 1)
    x, y = frame.pixel(ra, dec)
    np.testing.assert_allclose(x, [0, 10, 2.5], atol=1e-8)
    np.testing.assert_allclose(y, [0, 0, 20], atol=1e-8)


@pytest.mark.parametrize("packing", ["", *PACKINGS])
def test_truncated_frame(tmp_path, rng, packing):
    path = write_frame(tmp_path, "r", noise(rng))
    if packing:
        path = packed(path, packing)
    content = path.read_bytes()
    # The table behind the image of a plain frame is not needed, so it does not count as cut there.
    longest = 2880 + 4 * 70 * 81 if not packing else len(content)
    for length in {0, 1, 100, 2879, longest // 2, longest - 1} | set(rng.integers(0, longest, 5).tolist()):
        path.write_bytes(content[:length])
        with pytest.raises(FitsFormatError, match=rf"^{re.escape(str(path))}") as caught:
            read_frame(path)
        assert "\n" not in str(caught.value)
        assert length == 0 or "HDU" in str(caught.value)


@pytest.mark.parametrize("packing", PACKINGS)
def test_damaged_frame(tmp_path, rng, packing):
    path = packed(write_frame(tmp_path, "r", noise(rng)), packing)
    content = bytearray(path.read_bytes())
    if packing == ".fz":
        with fits.open(path, disable_image_compression=True) as hdus:
            heap = hdus.fileinfo(1)["datLoc"] + hdus[1].header["NAXIS1"] * hdus[1].header["NAXIS2"]
        content[heap + 200 : heap + 2000] = b"\xff" * 1800
    else:
        middle = len(content) // 2
        content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(
        FitsFormatError, match=r"HDU [01]: the compressed (file|image) is .*damaged"
    ) as caught:
        read_frame(path)
    assert "\n" not in str(caught.value)


def test_not_compressed_at_all(tmp_path):
    path = write_frame(tmp_path, "r")
    for packing in PACKINGS:
        other = path.with_name(path.name + packing)
        other.write_bytes(path.read_bytes())
        with pytest.raises(FitsFormatError, match=re.escape(str(other))):
            read_frame(other)


def test_decompression_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    for packing, compress in ((".bz2", bz2.compress), (".gz", gzip.compress)):
        path = tmp_path / (frame_name("r") + packing)
        path.write_bytes(compress(bytes(50 << 20)))
        with pytest.raises(
            FitsFormatError, match="more than a field can have; expected up to 1,048,576 bytes"
        ):
            read_frame(path)


@pytest.mark.parametrize(
    ("card", "value"), [("FILTER", "i"), ("RUN", 95), ("CAMCOL", 2), ("BUNIT", "DN"), ("RUN", None)]
)
def test_frame_that_is_not_what_its_name_says(tmp_path, card, value):
    header = frame_header("r")
    if value is None:
        del header[card]
    else:
        header[card] = value
    path = write_frame(tmp_path, "r", header=header)
    with pytest.raises(DataError, match=rf"HDU 0: {card} is {value!r}; expected "):
        read_frame(path)


def test_frame_without_coordinates(tmp_path):
    header = frame_header("r")
    for card in ("CTYPE1", "CTYPE2"):
        del header[card]
    with pytest.raises(FitsFormatError, match="HDU 0: has no celestial coordinates"):
        read_frame(write_frame(tmp_path, "r", header=header))


def test_frame_with_unusable_coordinates(tmp_path):
    header = frame_header("r")
    for card in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        header[card] = 0.0
    frame_path = write_frame(tmp_path, "r", header=header)
    with pytest.raises(FitsFormatError, match="HDU 0: the world coordinates cannot be used"):
        read_frame(frame_path)


def test_frame_that_is_a_cube(tmp_path):
    path = write_frame(tmp_path, "r", np.zeros((2, 8, 8), np.float32))
    with pytest.raises(FitsFormatError, match="HDU 0: the image has 3 axes; expected 2"):
        read_frame(path)


def test_names_and_missing_files(tmp_path):
    for name in ("frame-r-94-1-12.fits", "frame-y-000094-1-0012.fits", "image.fits"):
        with pytest.raises(DataError, match="is not named like a frame"):
            read_frame(tmp_path / name)
    for packing in ("", *PACKINGS):
        with pytest.raises(DataError, match=r"frame-r-000094-1-0012\.fits.*: is missing"):
            read_frame(tmp_path / (frame_name("r") + packing))


def test_find_hdu_walks_the_whole_file(tmp_path):
    path = write_frame(tmp_path, "r")
    content = read_bytes(path)
    assert find_hdu(content, "XTENSION", "BINTABLE", path) == 1
    with pytest.raises(FitsFormatError, match=r"none of its HDUs \(2\) has ZIMAGE = True"):
        find_hdu(content, "ZIMAGE", True, path)
    with pytest.raises(FitsFormatError, match=r"HDU 1, byte .*Fetch it again"):
        find_hdu(content[:-2880], "BUNIT", "nanomaggy", path)


def test_find_fields(tmp_path):
    def touch(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    for band in "ugrz":
        touch(f"a/{frame_name(band)}.bz2")
    slow, quick = touch(f"a/{frame_name('i')}.gz"), touch(f"b/deep/{frame_name('i')}")
    catalogue = touch("b/photoObj-000094-1-0012.fits.gz")
    other = touch(f"a/{frame_name('r', field=11)}.fz")
    touch("a/frame-r-000094-7-0012.fits")  # there is no camera column 7
    touch("a/frame-r-000094-1-0012.fits.part")
    first, second = find_fields([tmp_path / "a", tmp_path / "b"])
    assert (first.name, first.frames, first.catalogue) == ("94-1-11", {"r": other}, None)
    assert first.missing(BANDS) == ("u", "g", "i", "z")
    assert first.folder == tmp_path / "a"
    assert (second.name, second.frames["i"], second.catalogue) == ("94-1-12", quick, catalogue)
    assert second.missing(BANDS) == ()
    # One folder alone, named as text: what is in the other is not seen.
    second = find_fields(str(tmp_path / "a"))[1]
    assert (second.frames["i"], second.catalogue) == (slow, None)
    assert find_fields([tmp_path / "b", tmp_path])[1].frames["u"].name.endswith(".bz2")


def test_find_fields_finds_nothing(tmp_path):
    with pytest.raises(DataError, match=r"no SDSS field is there; expected frame-\{band\}"):
        find_fields(tmp_path)
    with pytest.raises(DataError, match="nowhere: is not a folder"):
        find_fields([tmp_path, tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no folder: no SDSS field"):
        find_fields([])


def test_image_helper_is_exact():
    assert frame_image("z")[89, 109] == 4_089_109


def test_real_frame_equals_astropy(real_data, rng):
    path = real_data / "sdss" / "1000-1-100-small" / "frame-r-001000-1-0100.fits.bz2"
    frame = read_frame(path)
    with fits.open(path) as hdus:
        header, image = hdus[0].header, np.asarray(hdus[0].data)
    np.testing.assert_array_equal(frame.image, image)
    header.rename_keyword("RADECSYS", "RADESYS")
    ra = rng.normal(header["CRVAL1"], 0.05, 20)
    dec = rng.normal(header["CRVAL2"], 0.05, 20)
    np.testing.assert_allclose(
        frame.pixel(ra, dec), WCS(header, fix=False).all_world2pix(ra, dec, 0), rtol=0, atol=1e-6
    )
