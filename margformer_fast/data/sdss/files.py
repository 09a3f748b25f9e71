"""Which files make a field, and their bytes: names, decompression, and the walk that finds a cut file.

A field is one camera column's view at one place of a scan. Its frames are named
``frame-{band}-{run:06d}-{camcol}-{field:04d}.fits`` and its catalogue
``photoObj-{run:06d}-{camcol}-{field:04d}.fits``. Each may be compressed whole (``.bz2``, as the survey serves
frames, or ``.gz``); frames also tile by tile (``.fz``).
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import DataError, FitsFormatError
from ...errors import one_line as on_one_line
from ..fits import walk_hdus

MAX_BYTES = 1 << 30
"""Largest decompressed file: a frame has 13 MB, a catalogue a few; more is no SDSS field."""

FRAME_NAME = re.compile(
    r"frame-(?P<band>[ugriz])-(?P<run>\d{6})-(?P<camcol>[1-6])-(?P<field>\d{4})\.fits(?P<packed>\.(fz|gz|bz2))?"
)
CATALOGUE_NAME = re.compile(
    r"photoObj-(?P<run>\d{6})-(?P<camcol>[1-6])-(?P<field>\d{4})\.fits(?P<packed>\.(gz|bz2))?"
)
PSFIELD_NAME = re.compile(
    r"psField-(?P<run>\d{6})-(?P<camcol>[1-6])-(?P<field>\d{4})\.fits?(?P<packed>\.(gz|bz2))?"
)

_PATTERNS = (("frame", FRAME_NAME), ("photoObj", CATALOGUE_NAME), ("psField", PSFIELD_NAME))

# Which copy to read when a file is there more than once: the quickest.
_QUICKEST = (None, ".fz", ".gz", ".bz2")


@dataclasses.dataclass
class FieldFiles:
    """The files of one field.

    Parameters
    ----------
    run, camcol, field : int
        The scan, the camera column and the field within the scan.
    frames : dict of str to Path
        Frame by band, as far as there are any.
    catalogue : Path, optional
        The field's ``photoObj``.
    psfield : Path, optional
        The field's ``psField``.
    """

    run: int
    camcol: int
    field: int
    frames: dict[str, Path] = dataclasses.field(default_factory=dict)
    catalogue: Path | None = None
    psfield: Path | None = None

    @property
    def name(self) -> str:
        """The field as ``run-camcol-field``."""
        return f"{self.run}-{self.camcol}-{self.field}"

    @property
    def folder(self) -> Path:
        """Where its frames are, or its catalogue if it has none."""
        return next(iter([*self.frames.values(), *([self.catalogue] if self.catalogue else [])])).parent

    def missing(self, bands: Iterable[str]) -> tuple[str, ...]:
        """Return the bands that have no frame."""
        return tuple(band for band in bands if band not in self.frames)


def find_fields(folders: str | Path | Sequence[str | Path]) -> list[FieldFiles]:
    """Find the fields in folders and their subfolders.

    Frames and catalogues of a field may lie in different folders, as they do in the survey's archive. Where a
    file is there more than once, the copy that is quickest to read is taken.

    Parameters
    ----------
    folders : path or sequence of paths
        Where to look.

    Returns
    -------
    list of FieldFiles
        In the order of run, camera column and field. Bands, the catalogue or the PSF model may be missing.

    Raises
    ------
    DataError
        If a folder is not there, or no frame or catalogue is found at all.
    """
    places = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    found: list[tuple[Path, re.Match[str]]] = []
    for folder in places:
        if not folder.is_dir():
            raise DataError("is not a folder", where=folder)
        for prefix, pattern in _PATTERNS:
            names = ((path, pattern.fullmatch(path.name)) for path in folder.rglob(f"{prefix}-*"))
            found += [(path, name) for path, name in names if name is not None]
    if all(name.re is PSFIELD_NAME for _, name in found):
        raise DataError(
            "no SDSS field is there",
            where=", ".join(map(str, places)) or "no folder",
            expected="frame-{band}-{run}-{camcol}-{field}.fits and photoObj-{run}-{camcol}-{field}.fits",
        )
    fields: dict[tuple[int, int, int], FieldFiles] = {}
    # The quickest copy of a file comes last and stays.
    for path, name in sorted(found, key=lambda item: (-_QUICKEST.index(item[1]["packed"]), str(item[0]))):
        key = (int(name["run"]), int(name["camcol"]), int(name["field"]))
        files = fields.setdefault(key, FieldFiles(*key))
        if name.re is FRAME_NAME:
            files.frames[name["band"]] = path
        elif name.re is CATALOGUE_NAME:
            files.catalogue = path
        else:
            files.psfield = path
    # A model of the PSF alone makes no field.
    return [fields[key] for key in sorted(fields) if fields[key].frames or fields[key].catalogue]


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in ``.bz2`` or ``.gz``.

    Raises
    ------
    DataError
        If the file cannot be opened.
    FitsFormatError
        If it is empty, or its compressed stream is cut short, damaged or longer than `MAX_BYTES`.
    """
    decompressors: Mapping[str, Any] = {".bz2": bz2.open, ".gz": gzip.open}
    try:
        raw = open(path, "rb")  # noqa: SIM115 - closed by the `with` below; opening is told apart from reading
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    with raw:
        if path.suffix in decompressors:
            try:
                with decompressors[path.suffix](raw) as stream:
                    content = _read_bounded(stream, path)
            except (OSError, EOFError, zlib.error) as error:
                raise FitsFormatError(
                    f"the compressed file is cut short or damaged ({one_line(error)})",
                    where=f"{path}, HDU 0",
                    mend="Fetch it again.",
                ) from error
        else:
            content = _read_bounded(raw, path)
    if not content:
        raise FitsFormatError("the file is empty", where=path, mend="Fetch it again.")
    return content


def _read_bounded(stream: BinaryIO, path: Path) -> bytes:
    """Read a file or a decompressor to its end, which none can put further than `MAX_BYTES`."""
    blocks: list[bytes] = []
    size = 0
    while block := stream.read(1 << 22):
        blocks.append(block)
        size += len(block)
        if size > MAX_BYTES:
            raise FitsFormatError(
                "holds more than a field can have", where=path, expected=f"up to {MAX_BYTES:,} bytes"
            )
    return b"".join(blocks)


def find_hdu(content: bytes, key: str, value: object, path: Path) -> int:
    """Return the index of the first HDU whose keyword `key` is `value`, having walked over all of them.

    The walk is what finds a file cut short: astropy and fitsio only warn, or return zeros.

    Raises
    ------
    FitsFormatError
        If there is none, or any HDU is damaged or promises more than the file holds.
    """
    found, index = None, -1
    for index, header in enumerate(walk_hdus(content, path)):
        if found is None and header.get(key) == value:
            found = index
    if found is None:
        raise FitsFormatError(f"none of its HDUs ({index + 1}) has {key} = {value!r}", where=path)
    return found


def one_line(error: Exception) -> str:
    """Return what an error of another package says, on one line."""
    return " ".join(on_one_line(error).split()) or type(error).__name__
