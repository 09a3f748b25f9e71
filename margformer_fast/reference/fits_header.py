"""FITS headers, card by card in plain Python: the truth that the compiled parser is checked against.

The rules are those of the FITS standard 4.0 (sections 3 and 4, CONTINUE of 4.2.1.2), read so that damage is
told apart from oddity:

* what decides where data lie (SIMPLE or XTENSION, BITPIX, NAXIS, NAXISn, PCOUNT, GCOUNT, END) must be right,
  or the header is refused;
* any other value that cannot be read is refused when it is asked for: a stray card does not cost an image;
* a byte that is no FITS text becomes ``?`` in a value or comment, and means damage in a keyword.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import FitsFormatError

BLOCK_SIZE = 2880
CARD_SIZE = 80
BITPIX_VALUES = (8, 16, 32, 64, -32, -64)
MAX_NAXIS = 999
INT64_MAX = 2**63 - 1

HeaderValue = bool | int | float | str | None

_STRING = re.compile(r"'((?:[^']|'')*)('?)")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([EeDd][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Malformed:
    """A value that cannot be read: why, and on which card."""

    reason: str
    where: str


@dataclass(frozen=True, eq=False)
class Header(Mapping[str, HeaderValue]):
    """One FITS header, as a mapping from keyword to value, and where its data lie.

    Values are ``bool``, ``int``, ``float``, ``str``, or None where a card gives no value. Integers beyond
    64 bits are floats. HIERARCH keywords go by their names without the prefix; of a repeated keyword the
    first counts; COMMENT, HISTORY and other cards without a value are in `text` only. Asking for a keyword
    that is not there raises KeyError; asking for one whose value cannot be read raises FitsFormatError.

    Parameters
    ----------
    entries : dict
        Values by keyword, those that cannot be read included.
    text : str
        All cards up to and with END, 80 characters each; fit for ``astropy.io.fits.Header.fromstring``.
    bitpix : int
        Pixel type: 8, 16, 32, 64, -32 or -64.
    shape : tuple of int
        Shape of the data as NumPy orders it, slowest axis first; empty if there are none.
    data_offset : int
        Byte of the buffer at which the data begin.
    data_size : int
        Bytes of data, without padding.
    next_offset : int
        Byte at which the next HDU begins, at most the length of the buffer.
    """

    entries: Mapping[str, HeaderValue | Malformed] = field(repr=False)
    text: str = field(repr=False)
    bitpix: int
    shape: tuple[int, ...]
    data_offset: int
    data_size: int
    next_offset: int

    def __getitem__(self, key: str) -> HeaderValue:
        value = self.entries[key]
        if isinstance(value, Malformed):
            raise FitsFormatError(value.reason, where=value.where)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class _Card:
    """Eighty bytes of a header as text, and the byte at which they begin."""

    text: str
    offset: int

    @property
    def where(self) -> str:
        return f"byte {self.offset}, card '{self.text.rstrip(' ')}'"


@dataclass
class _Entry:
    """A keyword with its value, and the card that gave it."""

    key: str
    value: HeaderValue | Malformed
    card: _Card


def parse_header(buffer: memoryview, offset: int) -> Header:
    """Read the header that begins at a byte of a buffer.

    Parameters
    ----------
    buffer : memoryview of bytes
        A FITS file, or any part of one.
    offset : int
        Where the header begins.

    Returns
    -------
    Header

    Raises
    ------
    FitsFormatError
        If the header is cut short or damaged, or promises more data than the buffer holds.
    """
    cards = list(_cards(buffer, offset))
    entries = _entries(cards)
    _check_first(entries, cards[0])
    structure = _Structure(entries, cards[0])
    bitpix = structure.integer("BITPIX")
    if bitpix not in BITPIX_VALUES:
        raise structure.error("BITPIX", "is no FITS pixel type", "one of 8, 16, 32, 64, -32, -64")
    num_axes = structure.integer("NAXIS")
    if not 0 <= num_axes <= MAX_NAXIS:
        raise structure.error("NAXIS", "is out of range", f"0 to {MAX_NAXIS}")
    size = 1 if num_axes else 0
    axes = []
    for axis in range(1, num_axes + 1):
        key = f"NAXIS{axis}"
        axes.append(structure.integer(key))
        if axes[-1] < 0:
            raise structure.error(key, "is out of range", "0 or more")
        # An axis of length 0 makes the data empty, yet the others must be sane: NumPy multiplies them, too.
        size = structure.within_int64(key, size * max(axes[-1], 1))
    structure.within_int64("BITPIX", size * (abs(bitpix) // 8))
    if 0 in axes:
        size = 0
    if cards[0].text.startswith("XTENSION"):
        parameters, groups = structure.integer("PCOUNT", 0), structure.integer("GCOUNT", 1)
        if parameters < 0:
            raise structure.error("PCOUNT", "is out of range", "0 or more")
        if groups < 1:
            raise structure.error("GCOUNT", "is out of range", "1 or more")
        size = structure.within_int64("PCOUNT", size + parameters)
        size = structure.within_int64("GCOUNT", size * groups)
    elif structure.values.get("GROUPS") is True and axes[:1] == [0]:
        raise structure.error("GROUPS", "announces random groups, which are not read", None)
    size = structure.within_int64("BITPIX", size * (abs(bitpix) // 8))

    data_offset = offset + -(-len(cards) * CARD_SIZE // BLOCK_SIZE) * BLOCK_SIZE
    if data_offset > len(buffer):
        raise FitsFormatError(
            f"the header is cut short: its last block ends at byte {data_offset}",
            where=f"byte {offset}",
            expected=f"at most {len(buffer)}, the end",
        )
    if size > len(buffer) - data_offset:
        raise FitsFormatError(
            f"the data are cut short: {len(buffer) - data_offset} bytes",
            where=f"byte {data_offset}",
            expected=f"{size}, as the header promises",
        )
    next_offset = min(data_offset + -(-size // BLOCK_SIZE) * BLOCK_SIZE, len(buffer))
    text = "".join(card.text for card in cards)
    values: dict[str, HeaderValue | Malformed] = {}
    for entry in entries:
        values.setdefault(entry.key, entry.value)
    return Header(values, text, bitpix, tuple(reversed(axes)), data_offset, size, next_offset)


def _cards(buffer: memoryview, offset: int) -> Iterator[_Card]:
    """Yield the cards from `offset` up to and with END."""
    if not 0 <= offset < len(buffer):
        raise FitsFormatError(
            "no header begins here", where=f"byte {offset}", expected=f"less than {len(buffer)}, the end"
        )
    for start in range(offset, len(buffer), CARD_SIZE):
        raw = bytes(buffer[start : start + CARD_SIZE])
        text = "".join(chr(byte) if 0x20 <= byte <= 0x7E else "?" for byte in raw)
        card = _Card(text, start)
        if start == offset and text[:8] not in ("SIMPLE  ", "XTENSION"):
            raise _no_header(card)
        if not all(0x20 <= byte <= 0x7E for byte in raw[:8]):
            raise FitsFormatError(
                "binary data stand where a keyword should",
                where=f"byte {start}",
                expected="a card, the last one END",
            )
        if len(raw) < CARD_SIZE:
            break
        yield card
        if text[:8] == "END     ":
            return
    raise FitsFormatError("the header is cut short: it has no END", where=f"byte {offset}")


def _entries(cards: list[_Card]) -> list[_Entry]:
    """Return every keyword that has a value, long strings put together."""
    entries: list[_Entry] = []
    continued: _Entry | None = None
    for card in cards:
        key, value_field = card.text[:8].rstrip(" "), card.text[10:]
        is_value = card.text[8:10] == "= "
        if key == "CONTINUE" and not is_value:
            if continued is not None:
                continued = _continue(continued, card)
            continue
        if key == "HIERARCH" and not is_value:
            name, separator, value_field = card.text[8:].partition("=")
            key, is_value = " ".join(name.split()), bool(separator)
        if not is_value or key in ("", "COMMENT", "HISTORY"):
            continued = None
            continue
        value = _value(value_field)
        entries.append(
            _Entry(
                key, value if not isinstance(value, Malformed) else Malformed(value.reason, card.where), card
            )
        )
        continued = entries[-1] if isinstance(value, str) and value.endswith("&") else None
    return entries


def _continue(entry: _Entry, card: _Card) -> _Entry | None:
    """Append the string on a CONTINUE card to `entry`; return it if more may follow."""
    part = _value(card.text[8:])
    if not isinstance(part, str):
        entry.value = Malformed("CONTINUE carries no string", card.where)
        return None
    entry.value = str(entry.value)[:-1] + part
    return entry if part.endswith("&") else None


def _value(value_field: str) -> HeaderValue | Malformed:
    """Return what follows the value indicator of a card, up to its comment."""
    value_field = value_field.lstrip(" ")
    value: HeaderValue | Malformed
    string = _STRING.match(value_field)
    if string is None:
        token = re.split("[ /]", value_field)[0]
        value, rest = _word(token), value_field[len(token) :]
    elif not string[2]:
        return Malformed("the string is not closed", "")
    else:
        value, rest = string[1].replace("''", "'").rstrip(" "), value_field[string.end() :]
    if rest.strip(" ") and not rest.lstrip(" ").startswith("/"):
        return Malformed("text follows the value", "")
    return value


def _word(token: str) -> HeaderValue | Malformed:
    """Return a logical, an integer or a float; None if there is nothing."""
    if not token:
        return None
    if token in ("T", "F"):
        return token == "T"
    if _INTEGER.fullmatch(token) and -INT64_MAX - 1 <= int(token) <= INT64_MAX:
        return int(token)
    if not _FLOAT.fullmatch(token):
        return Malformed(f"'{token}' is no FITS value", "")
    value = float(token.upper().replace("D", "E"))
    mantissa = re.split("[EeDd]", token)[0]
    if value in (float("inf"), float("-inf")) or (value == 0 and re.search("[1-9]", mantissa)):
        return Malformed(f"'{token}' is beyond the range of a double", "")
    return value


def _check_first(entries: list[_Entry], first: _Card) -> None:
    """Refuse a header that does not begin as one."""
    value = entries[0].value if entries and entries[0].card is first else None
    if not (value is True if first.text.startswith("SIMPLE") else isinstance(value, str)):
        raise _no_header(first)


def _no_header(first: _Card) -> FitsFormatError:
    return FitsFormatError(
        "this is no FITS header", where=first.where, expected="SIMPLE = T or XTENSION = '...'"
    )


class _Structure:
    """The keywords that say where data lie; each must be right."""

    def __init__(self, entries: list[_Entry], first: _Card) -> None:
        self.first = first
        self.cards: dict[str, _Card] = {}
        self.values: dict[str, HeaderValue | Malformed] = {}
        for entry in entries:
            self.cards.setdefault(entry.key, entry.card)
            self.values.setdefault(entry.key, entry.value)

    def error(self, key: str, what: str, expected: str | None) -> FitsFormatError:
        return FitsFormatError(
            f"{key} {what}", where=self.cards.get(key, self.first).where, expected=expected
        )

    def integer(self, key: str, default: int | None = None) -> int:
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, "is no integer" if key in self.values else "is missing", "an integer")
        return value

    def within_int64(self, key: str, size: int) -> int:
        if size > INT64_MAX:
            raise self.error(key, "makes the data larger than any file", None)
        return size
