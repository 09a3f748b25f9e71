"""What can be classified, as pieces that are read one after the other: stores, tables, parquet and HATS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.measurements import STAMP
from ..data.store import is_store, read_store
from ..data.survey import SurveyProfile
from ..data.tables import FORMATS, read_table
from ..errors import BackendUnavailable, DataError
from .stamp_column import stamps_of

Columns = Mapping[str, Any]
"""Columns by name, as :meth:`margformer_fast.classifier.Classifier.classify` takes them."""

_IDENTITY = ("objid", "ra", "dec")

_MAX_PROPERTIES = 1 << 20  # characters of a HATS collection's properties: they have a hundredth of it


@dataclass(frozen=True)
class Source:
    """A catalogue in pieces.

    Parameters
    ----------
    name : str
        What it is, in words.
    lengths : tuple of int
        Rows of each piece.
    read : callable
        ``read(k)`` yields the rows of piece k, a part at a time, as columns.
    files : tuple of Path
        What it is read from; a change of one means another catalogue.
    partitions : tuple of Path
        Of a HATS catalogue, the file of each piece, relative to it.
    """

    name: str
    lengths: tuple[int, ...]
    read: Callable[[int], Iterator[Columns]]
    files: tuple[Path, ...]
    partitions: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Names, sizes and times of the files, hashed."""
        about = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return hashlib.sha256(json.dumps([about, self.lengths]).encode()).hexdigest()


def open_source(
    path: Path, profile: SurveyProfile, size: int, *, chunk: int, names: Mapping[str, str] | None = None
) -> Source:
    """Look at what is at `path` and describe it.

    Parameters
    ----------
    path : Path
        A survey store, a table (FITS, VOTable, ECSV, CSV or parquet), a directory of parquet files, or a HATS
        catalogue.
    profile : SurveyProfile
        Bands and features of the model.
    size : int
        Side of its stamps.
    chunk : int
        Rows that are in memory together.
    names : mapping of str to str, optional
        What the columns ``objid``, ``ra``, ``dec``, ``stamp`` or a feature are called there.

    Raises
    ------
    DataError
        If nothing there can be read, or it has no column that a model takes.
    BackendUnavailable
        If it is parquet and pyarrow is not installed.
    """
    names = dict(names or {})
    known = {*profile.feature_names, *_IDENTITY, STAMP}
    for name in names:
        if name not in known:
            raise DataError(
                f"--columns names {name!r}, which no model takes",
                expected="a feature, objid, ra, dec or stamp",
            )
    if not path.exists():
        raise DataError("does not exist", where=path, expected="a store, a table or a HATS catalogue")
    if is_store(path):
        return _store(path, profile, chunk)
    if path.is_dir():
        path = _primary(path)
        # A HATS catalogue has its partitions in `dataset`, and tables about them beside it.
        partitions = sorted((path / "dataset").rglob("Npix=*.parquet"))
        files = partitions or sorted(p for p in path.rglob("*.parquet") if not p.name.startswith(("_", ".")))
        if not files:
            raise DataError(
                "holds neither a survey store nor parquet files",
                where=path,
                mend="SDSS frames need --positions FILE.",
            )
        return _parquet(path, files, profile, size, chunk, names)
    if path.suffix == ".parquet":
        return _parquet(path, [path], profile, size, chunk, names)
    if path.name.lower().endswith(tuple(FORMATS)):
        return _table(path, profile, size, chunk, names)
    raise DataError(
        "is of no known kind",
        where=path,
        expected=f"a survey store, a HATS catalogue, or a file {', '.join((*FORMATS, '.parquet'))}",
    )


def _primary(path: Path) -> Path:
    """Return the catalogue proper of a HATS collection, which holds margins and indices as well."""
    file = path / "collection.properties"
    if not file.is_file():
        return path
    with open(file, encoding="utf-8", errors="replace") as properties:
        lines = properties.read(_MAX_PROPERTIES).splitlines()
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "hats_primary_table_url":
            primary = path / value.strip()
            if primary.is_dir() and primary.resolve().is_relative_to(path.resolve()):
                return primary
            raise DataError(f"names {value.strip()} as its primary table, which is not there", where=file)
    raise DataError("names no primary table", where=file, expected="hats_primary_table_url")


def cut(total: int, chunk: int) -> list[tuple[int, int]]:
    """Return where each piece of `chunk` rows starts and stops."""
    return [(start, min(start + chunk, total)) for start in range(0, total, chunk)]


def _store(path: Path, profile: SurveyProfile, chunk: int) -> Source:
    survey = read_store(path)
    if survey.profile.bands != profile.bands:
        raise DataError(
            f"has bands {''.join(survey.profile.bands)}", where=path, expected="".join(profile.bands)
        )
    parts = cut(len(survey), chunk)

    def read(k: int) -> Iterator[Columns]:
        rows = np.arange(*parts[k])
        features = dict(zip(profile.feature_names, survey.features[rows].T, strict=True))
        identity = {"objid": survey.objid[rows], "ra": survey.ra[rows], "dec": survey.dec[rows]}
        yield {**identity, **features, STAMP: survey.stamps.decode(rows)}

    kind = "simulated survey" if survey.simulated else "survey store"
    lengths = tuple(stop - start for start, stop in parts)
    return Source(
        f"{kind} {path.name}", lengths, read, tuple(sorted(p for p in path.iterdir() if p.is_file()))
    )


def _table(path: Path, profile: SurveyProfile, size: int, chunk: int, names: dict[str, str]) -> Source:
    table = read_table(path)
    wanted = _wanted(table.colnames, profile, names, path)
    parts = cut(len(table), chunk)

    def read(k: int) -> Iterator[Columns]:
        rows = table[slice(*parts[k])]
        yield _named({name: rows[there] for name, there in wanted.items()}, profile, size)

    return Source(f"table {path.name}", tuple(b - a for a, b in parts), read, (path,))


def _parquet(
    path: Path,
    files: Sequence[Path],
    profile: SurveyProfile,
    size: int,
    chunk: int,
    names: dict[str, str],
) -> Source:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise BackendUnavailable(
            "parquet needs pyarrow", mend="pip install 'margformer-fast[catalogue]'"
        ) from error
    lengths, wanted = [], {}
    for file in files:
        try:
            about = parquet.ParquetFile(file)
        except Exception as error:
            raise DataError(f"cannot be read as parquet ({error})", where=file) from error
        wanted = _wanted(about.schema_arrow.names, profile, names, file)
        lengths.append(about.metadata.num_rows)
    healpix = "_healpix_29" in about.schema_arrow.names

    def read(k: int) -> Iterator[Columns]:
        # The order of columns is that of the file.
        columns = [*dict.fromkeys(wanted.values()), *(["_healpix_29"] if healpix else [])]
        for batch in _batches(files[k], chunk, columns):
            found = {name: _plain(batch.column(there)) for name, there in wanted.items() if name != STAMP}
            if STAMP in wanted:
                shape = (len(profile.bands), size, size)
                found[STAMP] = stamps_of(_fast(batch.column(wanted[STAMP])), shape)
            if healpix:
                found["_healpix_29"] = batch.column("_healpix_29").to_numpy()
            yield found

    hats = any(file.name.startswith("Npix=") for file in files)
    return Source(
        f"{'HATS catalogue' if hats else 'parquet'} {path.name}",
        tuple(lengths),
        read,
        tuple(files),
        tuple(file.relative_to(path) for file in files) if hats else (),
    )


def _batches(file: Path, chunk: int, columns: list[str]) -> Iterator[Any]:
    """Read a parquet file a part at a time; of a damaged page pyarrow names neither file nor cure."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        yield from parquet.ParquetFile(file).iter_batches(batch_size=chunk, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"is damaged ({error})", where=file, mend="Get the file again; the same command then goes on."
        ) from error


def _plain(column: Any) -> np.ndarray:
    """Return a column of numbers; what is null is NaN, or an error where it cannot be."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _fast(column: Any) -> Any:
    """Return a flat list column of one length as an array (N, length); any other as it is."""
    import pyarrow as pa

    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or column.null_count or not pa.types.is_floating(kind.value_type) or len(column) == 0:
        return column
    values = column.flatten().to_numpy(zero_copy_only=False)
    same = len(values) % len(column) == 0 and len({len(each) for each in (column[0], column[-1])}) == 1
    lengths = np.asarray(column.value_lengths()) if same and hasattr(column, "value_lengths") else None
    uniform = lengths is not None and (lengths == lengths[0]).all()
    return list(values.reshape(len(column), -1)) if uniform else column


def _named(found: dict[str, Any], profile: SurveyProfile, size: int) -> Columns:
    if STAMP in found:
        shape = (len(profile.bands), size, size)
        column = found[STAMP]
        array = np.ma.getdata(column)
        found[STAMP] = stamps_of(np.asarray(getattr(array, "value", array)), shape)
    return found


def _wanted(
    there: Sequence[str], profile: SurveyProfile, names: Mapping[str, str], where: Path
) -> dict[str, str]:
    """Return the columns to read, by the name that a classifier knows."""
    found = {}
    for name in (*_IDENTITY, *profile.feature_names, STAMP):
        column = names.get(name, name)
        if column in there:
            found[name] = column
        elif name in names:
            raise DataError(f"has no column {column!r}, which --columns calls {name}", where=where)
    features = [name for name in profile.feature_names if name in found]
    if features and len(features) < profile.num_features:
        missing = [name for name in profile.feature_names if name not in found]
        raise DataError(
            f"has no column {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}, "
            f"{len(missing)} of {profile.num_features} features",
            where=where,
            mend="Name it with --columns FEATURE=COLUMN, or add one of NaN for what was not measured.",
        )
    if not features and STAMP not in found:
        raise DataError(
            f"has neither features nor stamps; its columns are {', '.join(list(there)[:6])}, ...",
            where=where,
            expected=f"{profile.feature_names[0]}, {profile.feature_names[1]}, ..., and {STAMP}",
            mend="Name columns with --columns NAME=COLUMN.",
        )
    return found
