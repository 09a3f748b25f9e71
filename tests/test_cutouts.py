"""Many small FITS files as stamps: both backends against astropy, alike in every pixel and every word."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import os
import re
import resource
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from margformer_fast import _native
from margformer_fast.data.cutouts import find_cutouts, read_cutouts
from margformer_fast.errors import (
    BackendUnavailable,
    ConfigError,
    DataError,
    FitsFormatError,
    MargformerError,
    one_line,
)
from margformer_fast.ops import read_cutouts as images
from margformer_fast.ops.decode import Scaling
from margformer_fast.ops.stamps import Stamps

BACKENDS = ("cpp", "reference")
BITPIX = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
SCALED: dict[str, Any] = {"BSCALE": -0.25, "BZERO": 1000.0}


def random_pixels(rng: np.random.Generator, bitpix: int, shape: Sequence[int]) -> np.ndarray:
    """Random bits for integers, numbers with some NaN for floats."""
    dtype = np.dtype(BITPIX[bitpix])
    if bitpix > 0:
        return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    pixels = rng.normal(0, 100, shape).astype(dtype)
    pixels[rng.random(shape) < 0.1] = np.nan
    return pixels


def as_file(*planes: np.ndarray, empty_primary: bool = False, **cards: Any) -> bytes:
    """A FITS file of these images, each with these cards."""
    hdus = [fits.PrimaryHDU()] if empty_primary else []
    for stored in planes:
        hdu = fits.ImageHDU(stored) if hdus else fits.PrimaryHDU(stored)
        hdu.header.update(cards)
        hdus.append(hdu)
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream, output_verify="ignore")
    return stream.getvalue()


def write_all(folder: Path, files: Sequence[bytes]) -> list[str]:
    paths = [str(folder / f"{index:04d}.fits") for index in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        Path(path).write_bytes(content)
    return paths


def outcome(run: Callable[[str], Stamps], backend: str) -> tuple[object, ...]:
    """Everything that reading gives: the stamps byte for byte, or the kind of error and each part of it."""
    try:
        stamps = run(backend)
    except MargformerError as error:
        return (type(error), error.what, str(error.where), error.expected, error.mend)
    (raw,) = stamps.parts
    return (raw.dtype.str, raw.shape, raw.tobytes(), repr(stamps.scaling), stamps.rows)


def read(paths: Any, **options: Any) -> Stamps:
    """Read by both backends, which must agree in everything; return the stamps or raise the error.

    What the compiled reader cannot read, it leaves to the reference, so that words agree by themselves. Right
    files, however odd, it must read without that help, or it would only be slow.
    """
    cpp, reference = (
        outcome(lambda name: read_cutouts(paths, backend=name, **options), backend) for backend in BACKENDS
    )
    assert cpp == reference
    if not isinstance(cpp[0], type):
        with mock.patch.object(images, "_reference", side_effect=AssertionError("left to the reference")):
            assert outcome(lambda name: read_cutouts(paths, backend=name, **options), "cpp") == cpp
    return read_cutouts(paths, backend="cpp", **options)


# --- what is read


@pytest.mark.parametrize("bitpix", BITPIX)
@pytest.mark.parametrize("scaled", [False, True])
def test_every_pixel_type(rng: np.random.Generator, tmp_path: Path, bitpix: int, scaled: bool) -> None:
    """Against the stored numbers and against what astropy makes of them."""
    num, bands, size = int(rng.integers(1, 40)), int(rng.integers(1, 8)), int(rng.integers(1, 14))
    stored = random_pixels(rng, bitpix, (num, bands, size, size))
    cards = dict(SCALED) if scaled else {}
    if scaled and bitpix > 0:
        cards["BLANK"] = int(stored.flat[rng.integers(stored.size)])
    paths = write_all(tmp_path, [as_file(pixels, **cards) for pixels in stored])
    stamps = read(paths)
    (raw,) = stamps.parts
    assert raw.dtype == np.dtype(BITPIX[bitpix]).newbyteorder(">")
    np.testing.assert_array_equal(raw, stored)
    scaling = Scaling(*SCALED.values(), cards.get("BLANK")) if scaled else Scaling()
    assert stamps.scaling == scaling
    assert (len(stamps), stamps.num_bands, stamps.size) == (num, bands, size)

    physical = scaling.bzero + scaling.bscale * stored.astype(np.float64)
    if scaling.blank is not None:
        physical[stored == scaling.blank] = np.nan
    decoded = read(paths, decode=True)
    assert decoded.scaling == Scaling()
    assert decoded.parts[0].dtype == np.float32
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(decoded.parts[0], physical.astype(np.float32))
    assert stamps.decode().tobytes() == decoded.decode().tobytes()


@pytest.mark.parametrize("bands", range(1, 8))
def test_three_forms_hold_the_same(rng: np.random.Generator, tmp_path: Path, bands: int) -> None:
    num, size = 5, int(rng.integers(1, 34))
    stored = random_pixels(rng, -32, (num, bands, size, size))
    names = [f"b{k}" for k in range(bands)]
    for form in ("cube", "extensions", "extensions after the first", "bands"):
        (tmp_path / form).mkdir()
    for k, pixels in enumerate(stored):
        (tmp_path / "cube" / f"{k}.fits").write_bytes(as_file(pixels))
        (tmp_path / "extensions" / f"{k}.fits").write_bytes(as_file(*pixels, empty_primary=True))
        (tmp_path / "extensions after the first" / f"{k}.fits").write_bytes(as_file(*pixels))
        for name, plane in zip(names, pixels, strict=True):
            (tmp_path / "bands" / f"{k}-x-{name}.fits").write_bytes(as_file(plane))
    for stamps in (
        read(tmp_path / "cube"),
        read(str(tmp_path / "cube"), bands=names),
        read([tmp_path / "cube" / f"{k}.fits" for k in range(num)], hdus=0),
        read(tmp_path / "extensions"),
        read(tmp_path / "extensions", hdus=range(1, bands + 1)),
        read(tmp_path / "extensions after the first", hdus=range(bands)),
        read(tmp_path / "bands" / "{id}-x-{band}.fits", bands=names),
        read([[tmp_path / "bands" / f"{k}-x-{name}.fits" for name in names] for k in range(num)]),
    ):
        np.testing.assert_array_equal(stamps.parts[0], stored)
        assert stamps.parts[0].flags.c_contiguous


def test_order_is_that_of_the_list_and_files_may_repeat(rng: np.random.Generator, tmp_path: Path) -> None:
    stored = random_pixels(rng, 16, (50, 2, 5, 5))
    paths = write_all(tmp_path, [as_file(pixels) for pixels in stored])
    order = rng.integers(0, 50, 201)
    np.testing.assert_array_equal(read([paths[k] for k in order]).parts[0], stored[order])
    np.testing.assert_array_equal(read_cutouts(iter(paths)).parts[0], stored)


def test_extensions_in_any_order_and_number(rng: np.random.Generator, tmp_path: Path) -> None:
    stored = random_pixels(rng, 32, (20, 4, 6, 6))
    paths = write_all(tmp_path, [as_file(*planes, empty_primary=True) for planes in stored])
    for hdus in ((3,), (4, 1), (2, 2, 3, 1)):
        np.testing.assert_array_equal(read(paths, hdus=hdus).parts[0], stored[:, np.array(hdus) - 1])
    np.testing.assert_array_equal(read(paths, hdus=2).parts[0][:, 0], stored[:, 1])


def test_image_with_mask_and_variance(rng: np.random.Generator, tmp_path: Path) -> None:
    """An image, a mask of another type and a table behind it, a file a band: the image is taken."""
    stored = random_pixels(rng, -32, (6, 5, 5))
    table = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=np.arange(3))])
    paths = []
    for index, pixels in enumerate(stored):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels), fits.ImageHDU(np.ones((5, 5), np.int32)), table]
        paths.append(tmp_path / f"{index}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    np.testing.assert_array_equal(read([paths[:3], paths[3:]]).parts[0], stored.reshape(2, 3, 5, 5))
    np.testing.assert_array_equal(read(paths, hdus=1).parts[0][:, 0], stored)
    with pytest.raises(DataError, match=r"HDU 2: BITPIX is 32; expected -32, as in .*0\.fits, HDU 1"):
        read(paths)
    with pytest.raises(FitsFormatError, match=r"0\.fits, HDU 3: this is a BINTABLE; expected an image"):
        read(paths, hdus=3)


def test_table_before_the_image(rng: np.random.Generator, tmp_path: Path) -> None:
    """The general parser walks over what the quick one does not know."""
    stored = random_pixels(rng, -32, (3, 2, 5, 5))
    paths = []
    for index, pixels in enumerate(stored):
        columns = [fits.Column("x", "PJ()", array=np.array([np.arange(index + 1)], object))]
        hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns), fits.ImageHDU(pixels)]
        paths.append(tmp_path / f"{index}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    np.testing.assert_array_equal(read(paths).parts[0], stored)


def test_files_written_by_fitsio(rng: np.random.Generator, tmp_path: Path) -> None:
    stored = random_pixels(rng, -64, (20, 3, 7, 7))
    paths = [str(tmp_path / f"{k}.fits") for k in range(20)]
    for k, path in enumerate(paths):
        fitsio.write(path, stored[k], header={"OBJID": k, "RA": rng.uniform(0, 360), "NOTE": "it's"})
    np.testing.assert_array_equal(read(paths).parts[0], stored)


def test_headers_may_differ_in_length_and_more_files_follow_the_image(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """How much of a file is read is guessed from the one before; a wrong guess must not show."""
    stored = random_pixels(rng, -32, (60, 1, 9, 9))
    files = []
    for pixels in stored:
        whole = as_file(pixels, **{f"KEY{k}": k for k in range(int(rng.integers(0, 200)))})
        bare = whole[: len(whole) - 2880 + stored[0].nbytes]  # the pixels fit into the last block
        files.append((whole, bare, whole + rng.bytes(5000))[rng.integers(3)])
    paths = write_all(tmp_path, files)
    np.testing.assert_array_equal(read(paths).parts[0], stored)


def test_any_number_of_threads_gives_the_same(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = random_pixels(rng, 16, (301, 3, 8, 8))
    paths = write_all(tmp_path, [as_file(pixels, **SCALED) for pixels in stored])
    for threads in range(1, 6):
        monkeypatch.setenv(_native.THREADS_VARIABLE, str(threads))
        np.testing.assert_array_equal(read_cutouts(paths, backend="cpp").parts[0], stored)
    monkeypatch.setenv(_native.THREADS_VARIABLE, "1000")
    np.testing.assert_array_equal(read_cutouts(paths[:7], backend="cpp").parts[0], stored[:7])


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_files_than_may_be_open(rng: np.random.Generator, tmp_path: Path, backend: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    stored = random_pixels(rng, 8, (300, 1, 3, 3))
    paths = write_all(tmp_path, [as_file(pixels) for pixels in stored])
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, hard))
    try:
        stamps = read_cutouts(paths, backend=backend)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(stamps.parts[0], stored)
    assert len(list(Path("/proc/self/fd").iterdir())) == in_use


def test_no_file_is_left_open_by_errors(tmp_path: Path) -> None:
    paths = write_all(tmp_path, [as_file(np.ones((3, 3), np.int16)), b"", b"SIMPLE", b"x" * 9000])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for bad in paths[1:]:
        with pytest.raises(FitsFormatError):
            read([paths[0], bad])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_without_the_compiled_module(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = random_pixels(rng, 16, (3, 2, 4, 4))
    paths = write_all(tmp_path, [as_file(pixels) for pixels in stored])
    monkeypatch.setattr(_native, "_why_not", "the compiled module is broken")
    np.testing.assert_array_equal(read_cutouts(paths).parts[0], stored)
    with pytest.raises(BackendUnavailable, match="cpp: the compiled module is broken"):
        read_cutouts(paths, backend="cpp")


# --- files that differ


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        (
            {"BSCALE": 2.0},
            "BSCALE is 2.0; expected 1.0, as in {first}. With decode=True each image is scaled",
        ),
        ({"BZERO": 32768}, "BZERO is 32768.0; expected 0.0, as in {first}. With decode=True"),
        ({"BLANK": -1}, "BLANK is -1; expected None, as in {first}. With decode=True"),
    ],
)
def test_scalings_that_differ(
    rng: np.random.Generator, tmp_path: Path, cards: dict[str, Any], message: str
) -> None:
    stored = random_pixels(rng, 16, (30, 1, 5, 5))
    odd = int(rng.integers(1, 30))
    paths = write_all(tmp_path, [as_file(p, **(cards if k == odd else {})) for k, p in enumerate(stored)])
    expected = f"{paths[odd]}, HDU 0: {message.format(first=f'{paths[0]}, HDU 0')}"
    with pytest.raises(DataError, match=re.escape(expected)):
        read(paths)
    wanted = stored.astype(np.float64)
    wanted[odd] = cards.get("BZERO", 0) + cards.get("BSCALE", 1) * wanted[odd]
    if "BLANK" in cards:
        wanted[odd][stored[odd] == cards["BLANK"]] = np.nan
    np.testing.assert_array_equal(read(paths, decode=True).parts[0], wanted.astype(np.float32))


def test_blanks_that_differ(tmp_path: Path) -> None:
    stored = np.arange(9, dtype=np.int16).reshape(3, 3)
    paths = write_all(tmp_path, [as_file(stored, BLANK=blank) for blank in (3, 4)])
    with pytest.raises(DataError, match=r"1\.fits, HDU 0: BLANK is 4; expected 3, as in .*0\.fits, HDU 0"):
        read(paths)
    assert np.argwhere(np.isnan(read(paths, decode=True).parts[0])).tolist() == [[0, 0, 1, 0], [1, 0, 1, 1]]


def test_pixel_types_that_differ(rng: np.random.Generator, tmp_path: Path) -> None:
    stored = rng.integers(0, 100, (6, 3, 5, 5))
    dtypes = rng.permutation(list(BITPIX.values()))
    paths = write_all(tmp_path, [as_file(p.astype(t)) for p, t in zip(stored, dtypes, strict=True)])
    np.testing.assert_array_equal(read(paths, decode=True).parts[0], stored)
    with pytest.raises(DataError, match=re.escape(f"{paths[1]}, HDU 0: BITPIX is ")):
        read(paths)


@pytest.mark.parametrize("decode", [False, True])
def test_shapes_that_differ(tmp_path: Path, decode: bool) -> None:
    shapes = [(2, 5, 5), (2, 4, 4), (1, 5, 5), (5, 5), (2, 5, 4)]
    paths = write_all(tmp_path, [as_file(np.ones(shape, np.float32)) for shape in shapes])
    for path, shape in zip(paths[1:], shapes[1:], strict=True):
        message = f"{path}, HDU 0: the image has shape {shape}; expected (2, 5, 5), as in {paths[0]}, HDU 0"
        with pytest.raises(DataError, match=re.escape(message)):
            read([paths[0], path], decode=decode)


# --- damage; each message by hand, and the same from both backends


GOOD = as_file(np.arange(50, dtype=np.int16).reshape(2, 5, 5))


def with_card(card: str, raw: bytes = GOOD) -> bytes:
    """A file with its EXTEND card turned into another."""
    at = raw.index(b"EXTEND") if b"EXTEND" in raw else raw.index(b"NAXIS3  ") + 80
    return raw[:at] + card.ljust(80).encode("latin-1") + raw[at + 80 :]


BAD = {
    "cut short": (
        GOOD[:2900],
        "HDU 0, byte 2880: the data are cut short: 20 bytes; expected 100, as the header",
    ),
    "cut in the header": (
        GOOD[:2000],
        "HDU 0, byte 0: the header is cut short: its last block ends at byte 2880",
    ),
    "empty": (b"", "the file is empty"),
    "no FITS": (b"<html>Not found</html>" * 400, "HDU 0, byte 0, card '<html>Not found</html><html>"),
    "huge": (
        GOOD.replace(b"NAXIS1  =                    5", b"NAXIS1  = 99999999999999999999"[:30]),
        "HDU 0, byte 240, card 'NAXIS1  = 99999999999999999999",
    ),
    "large": (
        GOOD.replace(b"NAXIS1  =                    5", b"NAXIS1  =           2147483647"),
        "HDU 0, byte 2880: the data are cut short: 2880 bytes; expected 42949672940, as the header promises",
    ),
    "beyond 64 bits": (
        GOOD.replace(b"NAXIS1  =                    5", b"NAXIS1  =  4611686018427387904"),
        "NAXIS2 makes the data larger than any file",
    ),
    "no axis": (
        GOOD.replace(b"NAXIS   =                    3", b"NAXIS   =                    0"),
        "HDU 0: the image has 0 axes; expected 1 to 64",
    ),
    "axis of no length": (
        GOOD.replace(b"NAXIS1  =                    5", b"NAXIS1  =                    0"),
        "HDU 0: the image has shape (2, 5, 0); expected (2, 5, 5), as in",
    ),
    "four axes": (
        as_file(np.ones((1, 2, 5, 5), np.int16)),
        "the image has shape (1, 2, 5, 5); expected (2, 5, 5)",
    ),
    "text for BSCALE": (with_card("BSCALE  = 'one'"), "HDU 0: BSCALE is 'one'; expected a number"),
    "no value for BZERO": (with_card("BZERO   ="), "HDU 0: BZERO is None; expected a number"),
    "real BLANK": (with_card("BLANK   = 1.5"), "HDU 0: BLANK is 1.5; expected an integer"),
    "broken BZERO": (with_card("BZERO   = 1 1"), "card 'BZERO   = 1 1': text follows the value"),
    "hierarchical BSCALE": (with_card("HIERARCH BSCALE = 'x'"), "HDU 0: BSCALE is 'x'; expected a number"),
    "random groups": (
        with_card(
            "GROUPS  = T", GOOD.replace(b"NAXIS1  =                    5", b"NAXIS1  =                    0")
        ),
        "GROUPS announces random groups, which are not read",
    ),
    "an alien name": (with_card("XTENSION= 'TABLE'"), "HDU 0: this is a TABLE; expected an image"),
    "binary keyword": (with_card("KEY\x01    = 5"), "binary data stand where a keyword should"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("decode", [False, True])
def test_damaged_files(rng: np.random.Generator, tmp_path: Path, case: str, decode: bool) -> None:
    content, message = BAD[case]
    place = int(rng.integers(1, 40))
    paths = write_all(tmp_path, [content if k == place else GOOD for k in range(40)])
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read(paths, decode=decode)
    assert str(caught.value).startswith(paths[place])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_first_bad_file_of_many_is_named(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv(_native.THREADS_VARIABLE, threads)
    cases = [content for content, _ in BAD.values()]
    bad = np.sort(rng.choice(np.arange(1, 150), 12, replace=False))
    files = [cases[rng.integers(len(cases))] if k in bad else GOOD for k in range(150)]
    paths = write_all(tmp_path, files)
    for _ in range(5):
        with pytest.raises(DataError) as caught:
            read_cutouts(paths, backend="cpp")
        assert str(caught.value).startswith(paths[bad[0]])


def test_what_is_no_file(tmp_path: Path) -> None:
    good = write_all(tmp_path, [GOOD])[0]
    (tmp_path / "folder.fits").mkdir()
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "loop.fits").symlink_to("loop.fits")
    with open(tmp_path / "large.fits", "wb") as handle:
        handle.write(GOOD)
        handle.truncate(images.MAX_FILE_BYTES + 1)
    for name, message in {
        "none.fits": "is missing",
        "folder.fits": "is no regular file",
        "pipe.fits": "is no regular file",
        "loop.fits": "cannot be read: Too many levels of symbolic links",
        "large.fits": "has 67,108,865 bytes; expected a cut-out, at most 67,108,864",
        "0000.fits\0": "cannot be read: embedded null byte",
        "\ud800.fits": "cannot be read: 'utf-8' codec can't encode character",
        f"{'n' * 300}.fits": "cannot be read: File name too long",
    }.items():
        path = str(tmp_path / name)
        for paths in ([path], [good, path]):
            with pytest.raises(DataError, match=re.escape(one_line(f"{path}: {message}"))):
                read(paths)
    with pytest.raises(DataError, match=re.escape("/dev/zero: is no regular file")):
        read([good, "/dev/zero"])


def test_largest_file_is_read(tmp_path: Path) -> None:
    path = Path(write_all(tmp_path, [GOOD])[0])
    os.truncate(path, images.MAX_FILE_BYTES)
    assert read([path]).parts[0].shape == (1, 2, 5, 5)


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    paths = write_all(tmp_path, [GOOD, GOOD])
    Path(paths[1]).chmod(0)
    with pytest.raises(DataError, match=re.escape(f"{paths[1]}: cannot be read: Permission denied")):
        read(paths)


def test_file_mended_between_the_two_looks_is_read(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiled reader refuses, the reference looks at again; it may have become right."""
    stored = random_pixels(rng, 16, (40, 2, 5, 5))
    paths = write_all(tmp_path, [as_file(pixels) for pixels in stored])
    for k in (7, 8, 39):
        Path(paths[k]).unlink()
    reference = images._reference

    def mend_first(some: Sequence[str], *rest: Any) -> None:
        (path,) = some
        Path(path).write_bytes(as_file(stored[paths.index(path)]))
        reference(some, *rest)

    monkeypatch.setattr(images, "_reference", mend_first)
    np.testing.assert_array_equal(read_cutouts(paths, backend="cpp").parts[0], stored)


# --- the quick scan of a header against the full parser, on what nobody would write


FIELD = st.one_of(
    st.text("0123456789+-.EeDdTF'/& =x\xe9\0", max_size=30),
    st.integers(-9, 40).map(str),
    st.sampled_from(
        ["5 / five", "5/", "'5'", "1.0", "-0", "+5", "05", "T", "1D0", "2147483648", "''", "/ 5"]
    ),
)
STRUCTURE = (
    "BITPIX",
    "NAXIS",
    "NAXIS1",
    "NAXIS2",
    "NAXIS3",
    "NAXIS4",
    "PCOUNT",
    "GCOUNT",
    "XTENSION",
    "SIMPLE",
)
OTHER = ("BSCALE", "BZERO", "BLANK", "GROUPS", "ZIMAGE", "KEY", "END", "", "bitpix", " BITPIX", "CONTINUE")
KEY = st.sampled_from((*STRUCTURE, *OTHER))
CARD = st.one_of(
    st.builds("{:<8}= {}".format, KEY, FIELD),
    st.builds("{:<8}={}".format, KEY, FIELD),
    st.builds("HIERARCH {} = {}".format, KEY, FIELD),
    st.builds("{:<8}  {}".format, KEY, FIELD),
    st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=80),
)
EDIT = st.tuples(st.sampled_from(["insert", "replace", "delete"]), st.integers(0, 12), CARD)
SOUND = [f"BITPIX  = {16:>20}", "NAXIS   = 3", "NAXIS1  = 5", "NAXIS2  = 5", "NAXIS3  = 2"]


def edited_file(is_extension: bool, edits: Sequence[tuple[str, int, str]], cut: int, extra: int) -> bytes:
    first = "XTENSION= 'IMAGE   '" if is_extension else f"SIMPLE  = {'T':>20}"
    cards = [first, *SOUND, *(("PCOUNT  = 0", "GCOUNT  = 1") if is_extension else ())]
    for kind, place, card in edits:
        place = min(place, len(cards))
        cards[place : place + (kind != "insert")] = [] if kind == "delete" else [card]
    text = "".join(card.ljust(80)[:80] for card in (*cards, "END"))
    header = text.ljust(-(-len(text) // 2880) * 2880).encode("latin-1")
    raw = header + np.arange(50, dtype=">i2").tobytes()
    primary = with_card("COMMENT", as_file(np.zeros(0, np.int16))[:2880]) if is_extension else b""
    return (primary + raw)[: len(primary + raw) - cut] + bytes(extra)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_all(tmp_path_factory.mktemp("scratch"), [GOOD, GOOD])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    is_extension=st.booleans(),
    edits=st.lists(EDIT, max_size=3),
    cut=st.sampled_from([0, 0, 0, 1, 100, 101, 2000]),
    extra=st.sampled_from([0, 1, 2780, 6000]),
    decode=st.booleans(),
)
@example(True, [("insert", 3, "HIERARCH BSCALE = 2")], 0, 0, False)
@example(False, [("replace", 0, "SIMPLE  = T / yes")], 0, 0, False)
@example(False, [("insert", 6, "XTENSION= 'IMAGE'")], 0, 0, False)
@example(True, [("replace", 6, "PCOUNT  = 100")], 0, 100, False)
@example(True, [("replace", 0, "XTENSION= 'IMAGE   ''x'")], 0, 0, False)
@example(False, [("insert", 6, "BLANK   =")], 0, 0, True)
@example(False, [("insert", 6, "BSCALE  = 1"), ("insert", 7, "BSCALE  = 2")], 0, 0, True)
@example(False, [("insert", 6, "BSCALE  = 2"), ("insert", 7, "BSCALE  = 1")], 0, 0, True)
@example(False, [("replace", 1, "BITPIX  =        4294967312")], 0, 0, True)
@example(False, [("replace", 1, "BITPIX  =16")], 0, 0, False)
@example(True, [("insert", 6, "LONG    = 'a&'"), ("insert", 7, "CONTINUE  'b'")], 0, 0, False)
@example(False, [("insert", 6, "HIERARCH ESO DET = 2")], 0, 0, False)
def test_backends_agree_on_any_header(
    scratch: list[str],
    is_extension: bool,
    edits: list[tuple[str, int, str]],
    cut: int,
    extra: int,
    decode: bool,
) -> None:
    """The second of two files is anything; the first, at the same HDU, is sound."""
    hdu = int(is_extension)
    Path(scratch[0]).write_bytes(edited_file(is_extension, [], 0, 0))
    Path(scratch[1]).write_bytes(edited_file(is_extension, edits, cut, extra))
    with suppress(MargformerError):
        read(scratch, hdus=hdu, decode=decode)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2880 * 2 - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_backends_agree_on_flipped_bytes(scratch: list[str], flips: list[tuple[int, int]]) -> None:
    Path(scratch[0]).write_bytes(GOOD)
    changed = bytearray(GOOD)
    for place, value in flips:
        changed[place % len(changed)] = value
    Path(scratch[1]).write_bytes(changed)
    with suppress(MargformerError):
        read(scratch)


# --- finding files


def test_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    """Sorted by identifier, hidden and alien files left alone."""
    for name in ("b.fits", "a.fit", "c.d.fts", "a-1.fits", "notes.txt", ".hidden.fits", "x.fits.part"):
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "sub").mkdir()
    files = find_cutouts(tmp_path)
    assert files == {
        name: (str(tmp_path / file),)
        for name, file in {"a": "a.fit", "a-1": "a-1.fits", "b": "b.fits", "c.d": "c.d.fts"}.items()
    }
    assert list(files) == sorted(files)
    assert len(read(tmp_path)) == len(read(files.values())) == 4
    (tmp_path / "b.fits.gz").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=re.escape(f"{tmp_path}: holds both b.fits and b.fits.gz; expected one file an object"),
    ):
        read(tmp_path)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    write_all(tmp_path, [GOOD])
    (tmp_path / "zzz.fits").mkdir()
    with pytest.raises(DataError, match=r"zzz\.fits: is no regular file"):
        read(tmp_path)


@pytest.mark.parametrize(
    "pattern", ["{id}-{band}.fits", "{band}/{id}.fits", "x[1]/{id}/{id}-{band}.fits", "./{id}//{band}.fit"]
)
def test_patterns(rng: np.random.Generator, tmp_path: Path, pattern: str) -> None:
    names = ["587-1", "a b", "z*", "g"]
    stored = random_pixels(rng, -32, (len(names), 3, 4, 4))
    for name, planes in zip(names, stored, strict=True):
        for band, plane in zip("gri", planes, strict=True):
            path = tmp_path / pattern.replace("{id}", name).replace("{band}", band)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(as_file(plane))
            path.with_suffix(".txt").write_text("another")
    order = np.argsort(names)
    files = find_cutouts(tmp_path / pattern, "gri")
    assert list(files) == sorted(names)
    np.testing.assert_array_equal(read(tmp_path / pattern, bands="gri").parts[0], stored[order])
    np.testing.assert_array_equal(
        read(tmp_path / pattern, bands=["i", "g"]).parts[0], stored[order][:, [2, 0]]
    )


def test_missing_band(tmp_path: Path) -> None:
    for name in ("1-g", "1-r", "2-g", "3-r", "4-g", "4-r"):
        (tmp_path / f"{name}.fits").write_bytes(GOOD)
    message = "/2-r.fits: is missing; expected 2 files of each of 4 objects, one a band; 2 are missing in all"
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path / "{id}-{band}.fits", bands="gr")


def test_pattern_of_one_file_an_object(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / f"stamp_{name}.fits").write_bytes(GOOD)
    assert list(find_cutouts(tmp_path / "stamp_{id}.fits")) == ["1", "2"]
    assert read(tmp_path / "stamp_{id}.fits", bands="gr").num_bands == 2


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (
            ["{}/a.fits"],
            {},
            ConfigError,
            "is neither a folder nor a pattern; expected a folder of FITS files, or",
        ),
        (["{}/none"], {}, ConfigError, "is neither a folder nor a pattern"),
        (["{}/sub"], {}, DataError, "sub: holds no FITS file; expected *.fits, also *.fits.fz, .gz or .bz2"),
        (
            ["{}/{{id}}-{{band}}.fits"],
            {},
            ConfigError,
            "the pattern has {band} in it; expected bands as well",
        ),
        (["{}/{{id}}.gif"], {}, DataError, "{id}.gif: no file has such a name"),
        (
            ["{}/{{id}}-{{band}}.fits"],
            {"bands": "gr"},
            DataError,
            "{id}-{band}.fits: no file has such a name",
        ),
        (
            ["{}"],
            {"bands": "ugr"},
            DataError,
            "a.fits: there are 2 planes; expected 3, one for each band of u, g, r",
        ),
        (["{}"], {"hdus": ()}, ConfigError, "HDUs are []; expected numbers from 0 on, at least one"),
        (["{}"], {"hdus": -1}, ConfigError, "HDUs are [-1]; expected numbers from 0 on, at least one"),
        (["{}"], {"hdus": 1}, FitsFormatError, "a.fits, HDU 1: the file has only 1 HDUs"),
    ],
)
def test_arguments_that_cannot_be_used(
    tmp_path: Path, arguments: list[str], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    (tmp_path / "a.fits").write_bytes(GOOD)
    (tmp_path / "sub").mkdir()
    with pytest.raises(kind, match=re.escape(message)):
        read(arguments[0].format(tmp_path), **options)


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_all(tmp_path, [GOOD])[0]
    for empty in ([], [[]], iter([])):
        with pytest.raises(DataError, match="there are no files to read; expected at least one"):
            read_cutouts(empty)
    with pytest.raises(DataError, match="object 1 has 1 files; expected 2, as object 0 has"):
        read([[path, path], [path], []])
    with pytest.raises(ConfigError, match="there are no files to read"):
        images.read_cutouts([], (0,))


def test_first_file_without_a_square_image(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=np.arange(3))])
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    for content, message in (
        (
            as_file(np.ones((2, 5, 4), np.int16)),
            ", HDU 0: the image has shape (2, 5, 4); expected (size, size) or",
        ),
        (
            as_file(np.ones(5, np.int16)),
            ", HDU 0: the image has shape (5,); expected (size, size) or (bands, size,",
        ),
        (as_file(np.ones((1, 1, 5, 5), np.int16)), ", HDU 0: the image has shape (1, 1, 5, 5); expected"),
        (stream.getvalue(), ": holds no plain image"),
        (as_file(np.ones((5, 5), np.int16), empty_primary=True)[:-2880], ", HDU 1, byte 5760: the data"),
    ):
        path = write_all(tmp_path, [content])[0]
        with pytest.raises(FitsFormatError, match=re.escape(f"{path}{message}")):
            read([path])


# --- compressed files


def test_compressed_files(rng: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = random_pixels(rng, 16, (4, 3, 8, 8))
    whole = [as_file(pixels, **SCALED) for pixels in stored]
    (tmp_path / "0.fits").write_bytes(whole[0])
    (tmp_path / "1.fits.gz").write_bytes(gzip.compress(whole[1]))
    (tmp_path / "2.fits.bz2").write_bytes(bz2.compress(whole[2]))
    (tmp_path / "3.fit.gz").write_bytes(gzip.compress(whole[3]))
    with caplog.at_level(logging.WARNING, "margformer_fast.data.cutouts"):
        stamps = read_cutouts(tmp_path)
    assert [record.message for record in caplog.records] == [
        "3 of 4 files are compressed: read one by one with bz2 and gzip, many times slower than plain ones"
    ]
    np.testing.assert_array_equal(stamps.parts[0], stored)
    assert stamps.scaling == Scaling(-0.25, 1000.0)
    decoded = read_cutouts(tmp_path, decode=True)
    np.testing.assert_array_equal(decoded.parts[0], (1000 - 0.25 * stored.astype(float)).astype(np.float32))


@pytest.mark.parametrize("writer", ["astropy", "fitsio"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4"])
def test_tiles(rng: np.random.Generator, tmp_path: Path, writer: str, dtype: str) -> None:
    """Values are those that the packages themselves read; unsigned ones are stored with BZERO."""
    stored = rng.integers(0, 200, (3, 2, 16, 16)).astype(dtype)
    for k, pixels in enumerate(stored):
        path = tmp_path / f"{k}.fits.fz"
        if writer == "fitsio":
            fitsio.write(str(path), pixels, compress="rice")
        else:
            hdu = fits.CompImageHDU(pixels, quantize_level=0 if dtype == "f4" else 16)
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    wanted = np.stack([fits.getdata(tmp_path / f"{k}.fits.fz", 1) for k in range(3)])
    if writer == "astropy" or dtype != "f4":  # fitsio quantises floats
        np.testing.assert_array_equal(wanted, stored)
    for stamps in (read_cutouts(tmp_path), read_cutouts(tmp_path, hdus=1, decode=True)):
        np.testing.assert_array_equal(stamps.decode(), wanted)


def test_tiles_with_scaling_and_blanks(rng: np.random.Generator, tmp_path: Path) -> None:
    stored = rng.integers(0, 50, (2, 9, 9)).astype(np.int16)
    hdu = fits.CompImageHDU(stored)
    hdu.header.update(**SCALED, BLANK=7)
    mask = fits.CompImageHDU(np.ones((9, 9), np.int32))
    fits.HDUList([fits.PrimaryHDU(), mask, hdu]).writeto(tmp_path / "a.fits.fz")
    stamps = read_cutouts(tmp_path, hdus=2)
    assert stamps.scaling == Scaling(-0.25, 1000.0, 7)
    np.testing.assert_array_equal(stamps.parts[0][0], stored)


def packed_bomb() -> bytes:
    return gzip.compress(bytes(images.MAX_FILE_BYTES + 1), 9)


def large_tiles() -> bytes:
    """Tiles that declare more pixels than a cut-out has, in a small file."""
    stream = io.BytesIO()
    hdu = fits.CompImageHDU(np.zeros((64, 64), np.int32))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    raw = stream.getvalue()
    at = raw.index(b"ZNAXIS1 ")
    return raw[:at] + f"ZNAXIS1 = {2**30:>20}".ljust(80).encode() + raw[at + 80 :]


def cut_tiles(how_much: int) -> bytes:
    stream = io.BytesIO()
    hdu = fits.CompImageHDU(np.random.default_rng().integers(0, 999, (64, 64)).astype(np.int16))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    return stream.getvalue()[:-how_much]


def scrambled_tiles() -> bytes:
    """Tiles whose places in the heap lie outside it."""
    raw = bytearray(cut_tiles(1) + b"\0")
    with fits.open(io.BytesIO(bytes(raw)), disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
    raw[start : start + 8] = struct.pack(">ii", 2**30, 2**30)
    return bytes(raw)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".gz", lambda: gzip.compress(GOOD)[:-20], ": the compressed file is cut short or damaged ("),
        (".gz", lambda: GOOD, ": the compressed file is cut short or damaged (Not a gzipped file"),
        (".bz2", lambda: bz2.compress(GOOD)[:-9], ": the compressed file is cut short or damaged ("),
        (".bz2", lambda: b"BZh9garbage", ": the compressed file is cut short or damaged ("),
        (".gz", lambda: b"", ": the file is empty"),
        (".gz", packed_bomb, ": unpacks to more than a cut-out has; expected at most 67,108,864 bytes"),
        (".fz", large_tiles, ": unpacks to more than a cut-out has; expected at most 67,108,864 bytes"),
        (".fz", lambda: cut_tiles(4000), ", HDU 1, byte "),
        (".fz", scrambled_tiles, ": the compressed image is damaged ("),
        (".fz", lambda: GOOD[:2900], ", HDU 0, byte 2880: the data are cut short"),
        (".gz", lambda: gzip.compress(GOOD[:2900]), ", HDU 0, byte 2880: the data are cut short: 20 bytes"),
    ],
)
def test_damaged_compressed_files(
    tmp_path: Path, suffix: str, content: Callable[[], bytes], message: str
) -> None:
    path = tmp_path / f"a.fits{suffix}"
    path.write_bytes(content())
    with pytest.raises(FitsFormatError, match=re.escape(f"{path}{message}")):
        read_cutouts(tmp_path)


# --- real images


def test_real_planes(real_data: Path, tmp_path: Path) -> None:
    """Cut-outs of the five bands of a real frame, in each of the forms, against the frame itself."""
    folder = real_data / "sdss" / "1000-1-100-small"
    frames = [bz2.decompress(path.read_bytes()) for path in sorted(folder.glob("frame-*.bz2"))]
    planes = np.stack([fits.getdata(io.BytesIO(frame), 0)[:32, :32] for frame in frames])
    header = fits.getheader(io.BytesIO(frames[0]), 0)
    fits.PrimaryHDU(planes).writeto(tmp_path / "cube.fits")
    for k, plane in enumerate(planes):
        fits.PrimaryHDU(plane, header).writeto(tmp_path / f"one-{k}.fits")
    np.testing.assert_array_equal(read([tmp_path / "cube.fits"]).decode()[0], planes)
    names = [str(k) for k in range(len(planes))]
    np.testing.assert_array_equal(read(tmp_path / "{id}-{band}.fits", bands=names).decode()[0], planes)
