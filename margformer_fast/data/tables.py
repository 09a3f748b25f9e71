"""Tables that others made, read by astropy after a look at what it would follow without asking.

astropy takes the kind of a file from its first bytes, unpacks what is packed however large it becomes, and
fetches what a VOTable refers to by address. Here the name says the kind, a packed file has a limit, and a
VOTable that refers to anything outside of itself is refused.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from ..errors import DataError
from .fits import check_hdus
from .npy import said
from .sdss.files import find_hdu, read_bytes

if TYPE_CHECKING:
    from astropy.table import Table

MAX_TEXT_BYTES = 2 << 30
"""Largest table of text; one in memory is some times larger. FITS is mapped and has no limit."""

FORMATS = {
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".vot": "votable",
    ".xml": "votable",
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
}
"""What astropy calls the kind of a file, by the end of its name."""

_MAX_YAML = 1 << 20
_MAX_DEPTH = 50
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"\x1f\x9d")


def read_table(path: str | Path) -> Table:
    """Read the first table of a file whose name ends in one of `FORMATS`; FITS stays on the disk.

    Raises
    ------
    DataError
        If the file is missing, of another kind, too large, damaged, or refers to another file or address.
    """
    from astropy.io.ascii.ecsv import InvalidEcsvDatatypeWarning
    from astropy.table import Table
    from astropy.utils.exceptions import AstropyWarning

    path = Path(path)
    end = next((end for end in FORMATS if path.name.lower().endswith(end)), None)
    if end is None:
        raise DataError("is a table of no known kind", where=path, expected=", ".join(FORMATS))
    source, settings = _source(path, end)
    try:
        with warnings.catch_warnings():
            # Of oddities that harm nothing: what does was looked for, or ends in an error.
            for oddity in (AstropyWarning, RuntimeWarning):
                warnings.simplefilter("ignore", oddity)
            # Not this one: "99999999int64" is a type to NumPy, and each value then 800 MB.
            warnings.simplefilter("error", InvalidEcsvDatatypeWarning)
            if not isinstance(source, Path) or FORMATS[end] != "fits":
                return Table.read(source, format=FORMATS[end], **settings)
            # Opened here, as astropy forgets to close a file that it cannot read.
            with open(source, "rb") as file:
                return Table.read(file, format="fits", **settings)
    except Exception as error:  # a damaged table fails in many ways in astropy
        raise DataError(f"cannot be read as a table ({said(error)})", where=path) from error


def _source(path: Path, end: str) -> tuple[Any, dict[str, Any]]:
    """Look at a file; return what to read and how."""
    if end == ".fits.gz":
        content = read_bytes(path)
        find_hdu(content, "XTENSION", "BINTABLE", path)
        return BytesIO(content), {}
    if FORMATS[end] == "fits":
        check_hdus(path, "XTENSION")
        return path, {"memmap": True}
    try:
        with open(path, "rb") as file:
            size, start = path.stat().st_size, file.read(8)
    except OSError as error:
        raise DataError(
            "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}",
            where=path,
        ) from error
    if size > MAX_TEXT_BYTES:
        raise DataError(f"has {size:,} bytes", where=path, expected=f"at most {MAX_TEXT_BYTES:,}")
    if start.startswith(_PACKED):
        raise DataError("is packed", where=path, expected="text", mend="Unpack it first.")
    if FORMATS[end] == "votable":
        _check_votable(path)
    if FORMATS[end] == "ascii.ecsv":
        _check_yaml(path)
    return path, {}


def _check_yaml(path: Path) -> None:
    """Refuse an ECSV header without end, or so nested that its parser takes hours over it."""
    length = depth = 0
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_YAML), b""), 1):
            if not line.startswith(b"#"):
                return
            length += len(line)
            depth += line.count(b"[") + line.count(b"{") - line.count(b"]") - line.count(b"}")
            if length > _MAX_YAML or depth > _MAX_DEPTH:
                raise DataError(
                    "the header is too long or too deeply nested",
                    where=f"{path}, line {number}",
                    expected=f"at most {_MAX_YAML:,} bytes and {_MAX_DEPTH} levels",
                )


def _check_votable(path: Path) -> None:
    """Refuse XML that defines entities or takes its rows from elsewhere."""
    parser = expat.ParserCreate()

    def begin(name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2].upper() == "STREAM" and any(key.lower() == "href" for key in attributes):
            raise DataError(
                "takes its rows from another place",
                where=f"{path}, line {parser.CurrentLineNumber}",
                expected="a VOTable that holds its rows",
                mend="Save it with the rows inside; nothing was fetched.",
            )

    def define(*_: object) -> None:
        raise DataError(
            "defines an entity", where=f"{path}, line {parser.CurrentLineNumber}", expected="none"
        )

    parser.StartElementHandler = begin
    parser.EntityDeclHandler = define
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise DataError(f"is no whole XML ({error})", where=path) from error
    except (ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"is no XML ({said(error)})", where=path) from error
