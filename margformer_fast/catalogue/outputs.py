"""Results as files that astronomers open: FITS, VOTable, ECSV, CSV, parquet and HATS."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendUnavailable, ConfigError, OutputError
from ..files import atomic_directory, atomic_file
from .inputs import Source

Rows = dict[str, np.ndarray]
"""Columns of results by name."""

_FITS_BLOCK = 2880
_DESCRIPTION = {
    "objid": ("identifier of the object", None, "meta.id;meta.main"),
    "ra": ("right ascension, ICRS", "deg", "pos.eq.ra;meta.main"),
    "dec": ("declination, ICRS", "deg", "pos.eq.dec;meta.main"),
    "p_star": ("probability of a star", None, "stat.probability"),
    "p_galaxy": ("probability of a galaxy", None, "stat.probability"),
    "p_qso": ("probability of a quasar", None, "stat.probability"),
    "label": ("most probable class; empty: not classified", None, "src.class"),
    "prediction_set": ("classes that the object may have at the level of the set", None, "src.class"),
    "_healpix_29": ("HEALPix cell of order 29", None, "pos.healpix"),
    "flag": ("bits; 0: classified from all that the model takes", None, "meta.code"),
}


def format_of(path: Path, source: Source) -> str:
    """Return which kind of output a name asks for.

    Raises
    ------
    ConfigError
        If its ending is unknown; a name without one asks for HATS, which only a HATS catalogue becomes.
    """
    ending = path.suffix.lower()
    if ending in WRITERS:
        return ending
    if ending == "" and source.partitions:
        return ""
    raise ConfigError(
        f"--out {path.name} ends on no known format",
        expected=", ".join(WRITERS)
        + ("" if ending else "; a name without ending, for HATS, takes a HATS input"),
    )


def write(
    path: Path,
    source: Source,
    pieces: Callable[[], Iterator[Rows]],
    about: Mapping[str, Any],
    *,
    overwrite: bool = False,
    written: Callable[[Path], object] = lambda _: None,
) -> None:
    """Write results, a piece at a time, whole or not at all.

    Parameters
    ----------
    path : Path
        Its ending says how.
    source : Source
        What was classified.
    pieces : callable
        Gives the results of each piece, in order.
    about : mapping of str to str, float, int or bool
        Provenance, under names that FITS headers take.
    overwrite : bool
        Replace a directory that is there; a file is replaced in any case.
    written : callable
        Told of the temporary file or directory that is about to become the output.

    Raises
    ------
    ConfigError
        See :func:`format_of`.
    OutputError
        If it cannot be written.
    BackendUnavailable
        If a library is missing.
    """
    kind = format_of(path, source)
    if kind == "":
        refuse_other_directory(path)
        with atomic_directory(path, overwrite=overwrite) as temporary:
            _hats(temporary, path.name, source, pieces(), about)
            written(temporary)
        return
    with atomic_file(path) as temporary:
        WRITERS[kind](temporary, pieces(), about)
        written(temporary)


def refuse_other_directory(path: Path) -> None:
    """Raise OutputError for a directory that holds something else than a HATS catalogue."""
    if path.is_dir() and any(path.iterdir()) and not (path / "hats.properties").exists():
        raise OutputError(
            "holds something else than a HATS catalogue, and is not replaced",
            where=path,
            mend="Choose another place, or empty it first.",
        )


def _fits(path: Path, pieces: Iterator[Rows], about: Mapping[str, Any]) -> None:
    """Write a header for so many rows as there will be, then the rows, a piece at a time."""
    from astropy.io import fits

    first = next(pieces)
    table = fits.BinTableHDU(_record(first)[:0], name="CLASSES")
    for k, name in enumerate(first, start=1):
        description, unit, _ = _DESCRIPTION[name]
        if unit:
            table.header[f"TUNIT{k}"] = unit
        table.header[f"TCOMM{k}"] = description
    for key, value in about.items():
        table.header[key] = value
    size = rows = 0
    with open(path, "wb+") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        place = file.tell()
        file.write(table.header.tostring().encode("ascii"))
        for piece in chain([first], pieces):
            record = _record(piece)
            size += file.write(record.astype(record.dtype.newbyteorder(">")).tobytes())
            rows += len(record)
        file.write(bytes(-size % _FITS_BLOCK))
        table.header["NAXIS2"] = rows
        file.seek(place)
        file.write(table.header.tostring().encode("ascii"))


def _record(rows: Rows) -> np.ndarray:
    kinds = [
        (name, value.astype("S").dtype if value.dtype.kind == "U" else value.dtype)
        for name, value in rows.items()
    ]
    widths = {"label": "S6", "prediction_set": "S15"}  # of all classes, so that pieces agree
    out = np.zeros(len(rows["flag"]), [(name, widths.get(name, kind)) for name, kind in kinds])
    for name, value in rows.items():
        out[name] = value
    return out


def _table(pieces: Iterator[Rows], about: Mapping[str, Any]) -> Any:
    from astropy.table import Table

    parts = list(pieces)
    out = Table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    for name in out.colnames:
        description, unit, ucd = _DESCRIPTION[name]
        out[name].description, out[name].unit = description, unit
        out[name].meta["ucd"] = ucd
    out.meta = dict(about)
    return out


def _ecsv(path: Path, pieces: Iterator[Rows], about: Mapping[str, Any]) -> None:
    _table(pieces, about).write(path, format="ascii.ecsv", delimiter=",", overwrite=True)


def _votable(path: Path, pieces: Iterator[Rows], about: Mapping[str, Any]) -> None:
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info

    document = from_table(_table(pieces, about))
    table = document.get_first_table()
    for field in table.fields:
        field.ucd = _DESCRIPTION[field.name][2]
    for key, value in about.items():
        table.infos.append(Info(name=key, value=str(value)))
    document.to_xml(str(path))


def _csv(path: Path, pieces: Iterator[Rows], _about: Mapping[str, Any]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer, started = csv.writer(file), False
        for rows in pieces:
            if not started:
                writer.writerow(rows)
            started = True
            # Shortest decimals that are read back as the same number.
            writer.writerows(
                zip(
                    *(
                        value.tolist() if value.dtype != np.float32 else map(str, value)
                        for value in rows.values()
                    ),
                    strict=True,
                )
            )


def _parquet(path: Path, pieces: Iterator[Rows], about: Mapping[str, Any]) -> None:
    _, parquet = _pyarrow()
    writer = None
    try:
        for rows in pieces:
            table = _arrow(rows, about)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _arrow(rows: Rows, about: Mapping[str, Any]) -> Any:
    pa, _ = _pyarrow()
    table = pa.table(
        {name: pa.array(value.tolist() if value.dtype.kind == "U" else value) for name, value in rows.items()}
    )
    return table.replace_schema_metadata({key: str(value) for key, value in about.items()})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise BackendUnavailable(
            "parquet needs pyarrow", mend="pip install 'margformer-fast[catalogue]'"
        ) from error
    return pa, parquet


def _hats(folder: Path, name: str, source: Source, pieces: Iterator[Rows], about: Mapping[str, Any]) -> None:
    """Fill a folder with a HATS catalogue that has the partitions of the one that was classified."""
    try:
        from hats.catalog.dataset.table_properties import TableProperties
        from hats.io.parquet_metadata import write_parquet_metadata
    except ImportError as error:
        raise BackendUnavailable(
            "HATS needs hats", mend="pip install 'margformer-fast[catalogue]'"
        ) from error
    _, parquet = _pyarrow()
    root = source.files[0].parents[len(source.partitions[0].parts) - 1]
    filled = [place for place, n in zip(source.partitions, source.lengths, strict=True) if n]
    for place, rows in zip(filled, pieces, strict=True):
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(_arrow(rows, about), file)
    if (root / "partition_info.csv").exists():
        shutil.copyfile(root / "partition_info.csv", folder / "partition_info.csv")
    write_parquet_metadata(folder)
    properties = TableProperties.read_from_dir(root)
    changed = {"catalog_name": name, "total_rows": len(source), "default_columns": None}
    properties.model_copy(update=changed).to_properties_file(folder)


WRITERS: dict[str, Callable[[Path, Iterator[Rows], Mapping[str, Any]], None]] = {
    ".fits": _fits,
    ".vot": _votable,
    ".ecsv": _ecsv,
    ".csv": _csv,
    ".parquet": _parquet,
}
