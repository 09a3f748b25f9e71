"""FITS headers: against astropy where they are right, both parsers against each other where they are not."""

from __future__ import annotations

import bz2
import gzip
import io
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import example, given, settings
from hypothesis import strategies as st

from margformer_fast.errors import FitsFormatError
from margformer_fast.ops.fits_header import Header, parse_header

BACKENDS = ("reference", "cpp")
MINIMAL = (
    "SIMPLE  =                    T",
    "BITPIX  =                   16",
    "NAXIS   =                    0",
)


def block(*cards: str, end: bool = True, pad: str = " ") -> bytes:
    """Cards as header blocks."""
    text = "".join(card.ljust(80)[:80] for card in (*cards, *(("END",) if end else ())))
    return text.ljust(-(-len(text) // 2880) * 2880, pad).encode("latin-1")


def image(*cards: str, bitpix: int = 16, axes: tuple[int, ...] = (3, 2), data: int | None = None) -> bytes:
    """A primary HDU with these cards after the structural ones."""
    structure = [f"SIMPLE  = {'T':>20}", f"BITPIX  = {bitpix:>20}", f"NAXIS   = {len(axes):>20}"]
    structure += [f"{f'NAXIS{i + 1}':<8}= {axis:>20}" for i, axis in enumerate(axes)]
    size = abs(bitpix) // 8 * int(np.prod(axes)) if axes else 0
    return block(*structure, *cards) + bytes(-(-size // 2880) * 2880 if data is None else data)


def outcome(buffer: bytes, offset: int, backend: str) -> tuple[object, ...]:
    """Everything that parsing gives: the header with each value, or each part of the error."""
    try:
        header = parse_header(buffer, offset, backend=backend)
    except FitsFormatError as error:
        return ("error", error.what, error.where, error.expected)
    return (
        # repr tells True from 1 and 0.0 from -0.0.
        {key: repr(value) for key, value in header.entries.items()},
        list(header.entries),
        header.text,
        header.bitpix,
        header.shape,
        header.data_offset,
        header.data_size,
        header.next_offset,
    )


def parse(buffer: bytes, offset: int = 0) -> Header:
    """Parse with both backends, which must agree in everything, and return the header or raise the error."""
    assert outcome(buffer, offset, "cpp") == outcome(buffer, offset, "reference")
    return parse_header(buffer, offset, backend="cpp")


def value_of(field: str) -> object:
    """Return the value of a card with this text after its value indicator."""
    return parse(image(f"KEY     = {field}"))["KEY"]


def test_minimal() -> None:
    header = parse(block(*MINIMAL))
    assert dict(header) == {"SIMPLE": True, "BITPIX": 16, "NAXIS": 0}
    assert (header.bitpix, header.shape, header.data_size) == (16, (), 0)
    assert (header.data_offset, header.next_offset) == (2880, 2880)
    assert len(header.text) == 4 * 80
    assert "BITPIX" in header
    assert header.get("NOTHERE", 5) == 5
    with pytest.raises(KeyError, match="NOTHERE"):
        header["NOTHERE"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("T", True),
        ("                   F / a remark", False),
        ("42", 42),
        ("-0", 0),
        ("+7/x", 7),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", 2.0**63),
        ("-" + "9" * 60, -1e60),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5E-3", -1.5e-3),
        ("1d2", 100.0),
        ("2.5D+02 / Fortran", 250.0),
        ("0.1", 0.1),
        ("-0.0E99999", -0.0),
        ("1.7976931348623157E308", 1.7976931348623157e308),
        ("4.9406564584124654E-324", 5e-324),
        ("''", ""),
        ("'   '", ""),
        ("'  two words  ' / x", "  two words"),
        ("'it''s'", "it's"),
        ("''''", "'"),
        ("'a/b'", "a/b"),
        ("'no continuation &'", "no continuation &"),
        ("", None),
        ("   / only a remark", None),
    ],
)
def test_value(field: str, value: object) -> None:
    got = value_of(field)
    assert repr(got) == repr(value)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("'not closed", "the string is not closed"),
        ("'ends in a quote ''", "the string is not closed"),
        ("'", "the string is not closed"),
        ("'a' b", "text follows the value"),
        ("1 2", "text follows the value"),
        ("NaN", "'NaN' is no FITS value"),
        ("1,5", "'1,5' is no FITS value"),
        ("(1, 2)", "text follows the value"),
        (".", "'.' is no FITS value"),
        ("+", "'+' is no FITS value"),
        ("-E5", "'-E5' is no FITS value"),
        ("1E", "'1E' is no FITS value"),
        ("1E+", "'1E+' is no FITS value"),
        ("1E5.", "'1E5.' is no FITS value"),
        ("0x10", "'0x10' is no FITS value"),
        ("1_000", "'1_000' is no FITS value"),
        ("inf", "'inf' is no FITS value"),
        ("1E999", "'1E999' is beyond the range of a double"),
        ("-1D400", "'-1D400' is beyond the range of a double"),
        ("1E-999", "'1E-999' is beyond the range of a double"),
    ],
)
def test_value_that_cannot_be_read_costs_only_itself(field: str, reason: str) -> None:
    header = parse(image(f"KEY     = {field}", "OTHER   = 5"))
    assert header["OTHER"] == 5
    assert "KEY" in header
    with pytest.raises(
        FitsFormatError, match=re.escape(f"byte 400, card 'KEY     = {field.rstrip()}': {reason}")
    ):
        header["KEY"]
    with pytest.raises(FitsFormatError):
        header.get("KEY")


def test_cards_without_a_value_are_in_the_text_only() -> None:
    cards = (
        "COMMENT = not a value",
        "HISTORY it rained",
        "HISTORY = 5",
        "",
        "        = 3",
        "NOTVAL  =5",
        "CONTINUE  'alone'",
    )
    header = parse(image(*cards))
    assert list(header) == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2"]
    for card in cards:
        assert card in header.text


def test_first_of_a_repeated_keyword_counts() -> None:
    assert parse(image("KEY     = 1", "KEY     = 2"))["KEY"] == 1


def test_hierarch() -> None:
    header = parse(image("HIERARCH ESO  DET CHIP1 = 'a = b' / x", "HIERARCH no equals sign", "HIERARCH  = 4"))
    assert header["ESO DET CHIP1"] == "a = b"
    assert [key for key in header if "HIER" in key or "no" in key] == []


def test_long_strings() -> None:
    header = parse(
        image(
            "LONG    = 'one &'",
            "CONTINUE  'two  &' / remark",
            "CONTINUE  'three'",
            "CONTINUE  'of nobody'",
            "OPEN    = 'ends with &'",
            "COMMENT between",
            "CONTINUE  'too late'",
            "BROKEN  = 'a&'",
            "CONTINUE  5",
            "CONTINUE  'b'",
        )
    )
    assert header["LONG"] == "one two  three"
    assert header["OPEN"] == "ends with &"
    with pytest.raises(FitsFormatError, match=r"card 'CONTINUE  5': CONTINUE carries no string"):
        header["BROKEN"]


def test_bytes_that_are_no_text_become_question_marks_in_values() -> None:
    header = parse(image("KEY     = 'caf\xe9\t'", "COMMENT \x00\xff"))
    assert header["KEY"] == "caf??"
    assert "COMMENT ??" in header.text
    fits.Header.fromstring(header.text)


@pytest.mark.parametrize(
    ("buffer", "message"),
    [
        (b"", "byte 0: no header begins here; expected less than 0, the end"),
        (b"SIMPLE", "byte 0, card 'SIMPLE': this is no FITS header; expected SIMPLE = T or XTENSION = '...'"),
        (b"SIMPLE  =", "byte 0: the header is cut short: it has no END"),
        (block(*MINIMAL, end=False), "byte 0: the header is cut short: it has no END"),
        (
            block(*MINIMAL)[:-1],
            "byte 0: the header is cut short: its last block ends at byte 2880; expected at most 2879",
        ),
        (block(*MINIMAL)[:320], "its last block ends at byte 2880; expected at most 320, the end"),
        (block(*MINIMAL)[:300], "it has no END"),
        (block(*MINIMAL, end=False, pad="\0"), "byte 240: binary data stand where a keyword should"),
        (
            block("SIMPLE  =                    F", *MINIMAL[1:]),
            "this is no FITS header; expected SIMPLE = T or",
        ),
        (block(*MINIMAL[1:]), "byte 0, card 'BITPIX  =                   16': this is no FITS header"),
        (block("COMMENT first", *MINIMAL), "card 'COMMENT first': this is no FITS header"),
        (block("XTENSION= 5", *MINIMAL[1:]), "this is no FITS header"),
        (block("SIMPLE  = 'T'", *MINIMAL[1:]), "this is no FITS header"),
        (block(), "byte 0, card 'END': this is no FITS header"),
        (b"\x89PNG\r\n" + bytes(3000), "byte 0, card '?PNG????"),
        (b"SIMPLE  = T".ljust(80) + b"\x89PNG", "byte 80: binary data stand where a keyword should"),
        (b"<html>" + b" " * 3000, "byte 0, card '<html>': this is no FITS header"),
        (block(MINIMAL[0], MINIMAL[2]), "card 'SIMPLE  =                    T': BITPIX is missing"),
        (block(*MINIMAL[:2]), "NAXIS is missing; expected an integer"),
        (
            block(MINIMAL[0], "BITPIX  = 17", MINIMAL[2]),
            "byte 80, card 'BITPIX  = 17': BITPIX is no FITS pixel type",
        ),
        (block(MINIMAL[0], "BITPIX  = 16.0", MINIMAL[2]), "BITPIX is no integer"),
        (block(MINIMAL[0], "BITPIX  = T", MINIMAL[2]), "BITPIX is no integer"),
        (block(MINIMAL[0], "BITPIX  = x", MINIMAL[2]), "BITPIX is no integer"),
        (block(*MINIMAL[:2], "NAXIS   = -1"), "NAXIS is out of range; expected 0 to 999"),
        (block(*MINIMAL[:2], "NAXIS   = 1000"), "NAXIS is out of range; expected 0 to 999"),
        (block(*MINIMAL[:2], "NAXIS   = 99999999999999999999"), "NAXIS is no integer"),
        (block(*MINIMAL[:2], "NAXIS   = 1"), "NAXIS1 is missing"),
        (image(axes=(2, -2), data=0), "NAXIS2 is out of range; expected 0 or more"),
        (image(axes=(2**62, 3), data=0), "NAXIS2 makes the data larger than any file"),
        (image(axes=(2**32, 2**32, 0), data=0), "NAXIS2 makes the data larger than any file"),
        (image(axes=(2**62,), data=0), "BITPIX makes the data larger than any file"),
        (image(axes=(2**61, 0), data=0, bitpix=64), "BITPIX makes the data larger than any file"),
        (
            image(axes=(30, 100), data=5999),
            "byte 2880: the data are cut short: 5999 bytes; expected 6000, as the",
        ),
        (image("GROUPS  = T", axes=(0, 2), data=0), "GROUPS announces random groups, which are not read"),
    ],
)
def test_damage(buffer: bytes, message: str) -> None:
    with pytest.raises(FitsFormatError, match=re.escape(message)):
        parse(buffer)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        (["PCOUNT  = -1"], "PCOUNT is out of range; expected 0 or more"),
        (["GCOUNT  = 0"], "GCOUNT is out of range; expected 1 or more"),
        (["PCOUNT  = 9223372036854775807"], "PCOUNT makes the data larger than any file"),
        (["GCOUNT  = 9223372036854775807"], "GCOUNT makes the data larger than any file"),
        (["GCOUNT  = 'x'"], "GCOUNT is no integer"),
        (["PCOUNT  = 4000"], "the data are cut short: 2880 bytes; expected 4006"),
    ],
)
def test_damage_of_an_extension(cards: list[str], message: str) -> None:
    structure = ("XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 3", "NAXIS2  = 2")
    with pytest.raises(FitsFormatError, match=re.escape(message)):
        parse(block(*structure, *cards) + bytes(2880))
    assert parse(block(*structure, "PCOUNT  = 4", "GCOUNT  = 2") + bytes(2880)).data_size == 20


def test_padding_may_be_missing_after_the_last_data() -> None:
    header = parse(image(axes=(7, 5), data=70))
    assert (header.shape, header.data_size, header.next_offset) == ((5, 7), 70, 2950)


@pytest.mark.parametrize("offset", [-1, 2880, 2**40])
def test_offset_outside(offset: int) -> None:
    with pytest.raises(
        FitsFormatError, match=f"byte {offset}: no header begins here; expected less than 2880"
    ):
        parse(block(*MINIMAL), offset)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_bytes_will_do(backend: str) -> None:
    raw = image(axes=(4,))
    for buffer in (raw, bytearray(raw), memoryview(raw), np.frombuffer(raw, np.uint8)):
        assert parse_header(buffer, backend=backend).shape == (4,)
    # An HDU need not begin at a multiple of anything in a buffer of one's own.
    assert parse_header(b"abc" + raw, 3, backend=backend).data_offset == 2883


def astropy_file(rng: np.random.Generator) -> bytes:
    """A file that astropy wrote: images of every type and a table, with awkward keywords."""
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for dtype in ("u1", "i2", "i4", "i8", "f4", "f8", "u2", "u4", "u8"):
        shape = tuple(rng.integers(1, 9, rng.integers(1, 5)))
        hdus.append(fits.ImageHDU(rng.integers(0, 99, shape).astype(dtype), name=dtype))
    table = fits.BinTableHDU.from_columns([fits.Column("x", "PJ()", array=np.array([[1], [2, 3]], object))])
    hdus.append(table)
    for hdu in hdus:
        hdu.header["LONGTEXT"] = "it's long " * 20
        hdu.header["hierarch a long keyword"] = float(rng.normal())
        hdu.header["REAL"] = float(rng.normal() * 10.0 ** rng.integers(-300, 300))
        hdu.header["WHOLE"] = int(rng.integers(-(2**62), 2**62))
        hdu.header["NOTHING"] = None
        hdu.header["COMMENT"] = "c"
    stream = io.BytesIO()
    hdus.writeto(stream)
    return stream.getvalue()


def check_against_astropy(raw: bytes) -> None:
    offset = 0
    with fits.open(io.BytesIO(raw), disable_image_compression=True) as hdus:
        for hdu in hdus:
            header = parse(raw, offset)
            assert header.data_offset == hdu.fileinfo()["datLoc"]
            assert header.next_offset - header.data_offset == hdu.fileinfo()["datSpan"]
            for key in set(hdu.header) - {"COMMENT", "HISTORY", ""}:
                wanted = hdu.header[key]
                wanted = None if isinstance(wanted, fits.card.Undefined) else wanted
                # BZERO of unsigned 64-bit pixels is beyond int64 and becomes a float here.
                assert header[key] == wanted, key
                assert isinstance(header[key], type(wanted)) or abs(wanted) >= 2**63, key
            assert fits.Header.fromstring(header.text) == hdu.header
            offset = header.next_offset
    assert offset == len(raw)


def test_files_of_astropy(rng: np.random.Generator) -> None:
    check_against_astropy(astropy_file(rng))


def test_real_files(real_data: Path) -> None:
    small = real_data / "sdss" / "1000-1-100-small"
    paths = [*small.iterdir(), *(real_data / "sdss" / "94-1-12").glob("p*.gz")]
    assert len(paths) == 6
    for path in paths:
        opener = bz2.decompress if path.suffix == ".bz2" else gzip.decompress
        check_against_astropy(opener(path.read_bytes()))


CARD_TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=80)
FIELD = st.text("0123456789+-.EeDdTF'/& =x\xe9\0", max_size=70)
CARD = st.one_of(
    CARD_TEXT,
    st.builds(
        "{:<8}= {}".format, st.sampled_from(["KEY", "BITPIX", "NAXIS1", "GROUPS", "PCOUNT", ""]), FIELD
    ),
    st.builds("{}{}".format, st.sampled_from(["CONTINUE  ", "HIERARCH ", "END", "END     "]), FIELD),
    st.builds("NAXIS2  = {}".format, st.integers(-(2**70), 2**70)),
)


@settings(max_examples=400, deadline=None)
@given(cards=st.lists(CARD, max_size=12), cut=st.integers(0, 3000), at=st.integers(-2, 9))
@example(cards=["CONTINUE  'a'"], cut=0, at=0)
def test_both_parsers_agree_on_anything(cards: list[str], cut: int, at: int) -> None:
    """Right or wrong, whole or cut, value for value and message for message."""
    structure = (*MINIMAL[:2], "NAXIS   = 1", "NAXIS1  = 5")
    raw = block(*(*structure[: max(at, 0)], *cards, *structure[max(at, 0) :])) + bytes(10)
    for buffer in (raw, raw[: len(raw) - cut]):
        assert outcome(buffer, 0, "cpp") == outcome(buffer, 0, "reference")
