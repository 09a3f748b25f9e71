"""The survey store: a directory of FITS files that astropy, TOPCAT and ds9 open, written whole or not at all.

``stamps-00000.fits`` and on
    Image cubes N x bands x rows x columns, float32, the survey's flux unit.
``catalog.fits``
    One binary table: objid, position, class, the features by name, the observed reference magnitude, and
    the survey's further columns.
``survey.json``
    What the store is: survey, units, counts, size and SHA-256 of each file, how it was made.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ConfigError, DataError, FitsFormatError, OutputError
from ..files import atomic_directory, sha256_file
from ..ops.stamps import Stamps
from .fits import check_hdus, map_image
from .fits_stream import Card, Column, ImageStream, TableStream
from .manifest import (
    CATALOG,
    MANIFEST,
    UNKNOWN_NAME,
    Manifest,
    StoredFile,
    is_store,
    read_manifest,
    shard_name,
)
from .npy import said
from .survey import CLASSES, UNKNOWN, Survey, SurveyProfile

__all__ = [
    "StoreCheck",
    "StoreWriter",
    "is_store",
    "read_manifest",
    "read_store",
    "verify_store",
    "write_store",
]

_CLASS_NAMES = np.array([*CLASSES, UNKNOWN_NAME])  # by label: -1, unknown, is the last
_BLOCK = 1024  # stamps handled at once: 20 MB of five 32 x 32 bands
_LISTED = 5  # objects named in a message


@dataclass(frozen=True)
class StoreCheck:
    """What :func:`verify_store` looked at and found.

    Parameters
    ----------
    manifest : Manifest
        What the store says it is.
    problems : tuple of str
        One sentence each; none if the store is sound.
    """

    manifest: Manifest
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class StoreWriter:
    """Write a survey store chunk by chunk, so that it may be larger than memory.

    Used as a context manager: the store appears at `path` when the block ends well, and not at all if it
    does not. In memory are a block of stamps and eight bytes an object.

    Parameters
    ----------
    path : str or Path
        Directory to make.
    profile : SurveyProfile
        Bands and features of every chunk.
    name : str
        Name of the survey.
    simulated : bool
        Whether the objects are simulated.
    provenance : mapping
        How the survey was made; JSON-able. What is known later is put into the attribute `provenance`.
    overwrite : bool
        Replace a store that is already there. Nothing but a store or an empty directory is ever replaced.
    shard_size : int
        Stamps in one image file.

    Raises
    ------
    OutputError
        If `path` exists, or the store cannot be written.
    DataError
        If there is no object, an identifier comes twice, or the provenance is not JSON-able.
    ConfigError
        If `shard_size` is not positive.
    """

    def __init__(
        self,
        path: str | Path,
        profile: SurveyProfile,
        *,
        name: str,
        simulated: bool,
        provenance: Mapping[str, Any],
        overwrite: bool = False,
        shard_size: int = 50_000,
    ) -> None:
        if shard_size < 1:
            raise ConfigError(f"the shard size is {shard_size}", expected="1 or more")
        self._path, self._profile, self._name, self._simulated = Path(path), profile, name, simulated
        self._overwrite, self._shard_size = overwrite, shard_size
        self.provenance = _json_able(provenance, self._path)
        self._objids: list[np.ndarray] = []
        self._counts = dict.fromkeys(_CLASS_NAMES.tolist(), 0)
        self._columns: tuple[str, ...] = ()
        self._catalog: TableStream | None = None  # begun with the first chunk, which has the columns
        self._shard: ImageStream | None = None
        self._shards: list[StoredFile] = []
        self._stack = ExitStack()

    def __enter__(self) -> StoreWriter:
        replaceable = not self._path.is_dir() or is_store(self._path) or not any(self._path.iterdir())
        if self._overwrite and not replaceable:
            raise OutputError(
                "holds something else than a survey store, and is not replaced",
                where=self._path,
                mend="Choose another place, or empty it first.",
            )
        self._folder = self._stack.enter_context(atomic_directory(self._path, overwrite=self._overwrite))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._stack:
                self._finish()
        else:
            self._stack.__exit__(kind, error, trace)

    def append(self, survey: Survey) -> None:
        """Append the objects of `survey`, in order.

        Raises
        ------
        DataError
            If they are of another survey or have other columns than those before, a feature or a pixel is
            not finite, a position is not on the sky, or a label is no class.
        """
        if survey.profile != self._profile:
            raise DataError(
                f"objects of survey {survey.profile.name!r} (bands {''.join(survey.profile.bands)}) come",
                where=self._path,
                expected=f"the profile of {self._profile.name!r} that the store was begun with",
            )
        if survey.simulated != self._simulated:
            raise DataError("simulated and real objects are mixed", where=self._path, expected="one kind")
        problems = _catalog_problems(survey)
        if problems:
            raise DataError(problems[0], where=self._path)
        if len(survey) == 0:
            return
        if self._catalog is None:
            self._columns = tuple(survey.columns)
            table = TableStream(self._folder / CATALOG, _columns(survey), "CATALOG", self._cards())
            self._catalog = self._stack.enter_context(table)
        if set(survey.columns) != set(self._columns):
            raise DataError(
                f"objects come with columns {sorted(survey.columns)}",
                where=self._path,
                expected=f"{sorted(self._columns)}, as before",
            )
        for start in range(0, len(survey), _BLOCK):
            block = survey.select(np.arange(start, min(start + _BLOCK, len(survey))))
            self._append_pixels(block)
            self._append_rows(block, self._catalog)

    def _append_rows(self, survey: Survey, catalog: TableStream) -> None:
        further = (survey.columns[name] for name in self._columns)
        classes = _CLASS_NAMES[survey.label]
        catalog.append(
            [survey.objid, survey.ra, survey.dec, classes, *survey.features.T, survey.r_obs, *further]
        )
        self._objids.append(survey.objid)
        for name, count in zip(*np.unique(classes, return_counts=True), strict=True):
            self._counts[str(name)] += int(count)

    def _append_pixels(self, survey: Survey) -> None:
        pixels = survey.stamps.decode()
        bad = _not_finite(pixels)
        if bad.any():
            raise DataError(_unusable_pixels(survey.objid[bad]), where=self._path)
        while len(pixels):
            if self._shard is None:
                self._shard = self._stack.enter_context(self._new_shard())
            room = self._shard_size - self._shard.count
            self._shard.append(pixels[:room])
            pixels = pixels[room:]
            if self._shard.count == self._shard_size:
                self._finish_shard(self._shard)

    def _new_shard(self) -> ImageStream:
        profile = self._profile
        shape = (len(profile.bands), profile.stamp_size, profile.stamp_size)
        path = self._folder / shard_name(len(self._shards))
        return ImageStream(path, shape, profile.flux_unit, self._cards())

    def _finish_shard(self, shard: ImageStream) -> None:
        shard.finish()
        self._shards.append(_describe(self._folder / shard_name(len(self._shards)), shard.count))
        self._shard = None

    def _finish(self) -> None:
        if self._catalog is None or self._catalog.count == 0:
            raise DataError("there are no objects to store", where=self._path)
        repeated = _repeated(np.concatenate(self._objids))
        if repeated:
            raise DataError(repeated, where=self._path)
        if self._shard is not None:
            self._finish_shard(self._shard)
        self._catalog.finish()
        manifest = Manifest(
            name=self._name,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            software=f"margformer_fast {__version__}",
            simulated=self._simulated,
            profile=self._profile,
            counts=self._counts,
            stamps=tuple(self._shards),
            catalog=_describe(self._folder / CATALOG, self._catalog.count),
            provenance=_json_able(self.provenance, self._path),
        )
        (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")

    def _cards(self) -> list[Card]:
        profile = self._profile
        return [
            ("SURVEY", profile.name, "survey that the objects are of"),
            ("SIMULATE", self._simulated, "whether the objects are simulated"),
            ("BANDS", "".join(profile.bands), "order of the planes, blue to red"),
            ("PIXSCALE", profile.pixel_scale_arcsec, "[arcsec] size of a pixel"),
            ("MAGZERO", profile.zero_point, f"[mag] magnitude of 1 {profile.flux_unit}"),
        ]


def write_store(path: str | Path, survey: Survey, *, overwrite: bool = False) -> None:
    """Write a survey as a store named after its directory; see :class:`StoreWriter` for what is raised."""
    with StoreWriter(
        path,
        survey.profile,
        name=Path(path).resolve().name,
        simulated=survey.simulated,
        provenance=survey.provenance,
        overwrite=overwrite,
    ) as writer:
        writer.append(survey)


def read_store(path: str | Path) -> Survey:
    """Open a survey store; pixels stay on the disk until they are used.

    Parameters
    ----------
    path : str or Path
        Directory of the store.

    Returns
    -------
    Survey
        Its stamps are big-endian views into memory maps; its catalogue is in memory.

    Raises
    ------
    DataError
        If a file is missing, has another size, shape or columns than the manifest says, or a class is
        not known. Pixels and hashes are not looked at: that is what :func:`verify_store` does.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for entry in manifest.files:
        problem = _file_problem(path, entry)
        if problem:
            raise DataError(problem, where=path / entry.file, mend="Copy or make the store again.")
    return _survey(path, manifest)


def verify_store(path: str | Path, *, progress: Callable[[int], object] | None = None) -> StoreCheck:
    """Check everything about a store: hashes, row counts, identifiers, labels, features and every pixel.

    Parameters
    ----------
    path : str or Path
        Directory of the store.
    progress : callable, optional
        Called with the number of stamps looked at since the last call.

    Returns
    -------
    StoreCheck
        What is wrong, if anything.

    Raises
    ------
    DataError
        If `path` is no survey store, or its manifest cannot be read.
    """
    path = Path(path)
    manifest = read_manifest(path)
    problems = []
    readable = True
    for entry in manifest.files:
        problem = _file_problem(path, entry)
        readable &= problem is None
        if problem is None and sha256_file(path / entry.file) != entry.sha256:
            problem = f"its SHA-256 is not the one in {MANIFEST}: it was changed or damaged"
        if problem is not None:
            problems.append(f"{entry.file}: {problem}")
    if readable:
        try:
            survey = _survey(path, manifest)
        except DataError as error:
            problems.append(str(error))
        else:
            problems += _content_problems(survey, manifest, progress)
    return StoreCheck(manifest, tuple(problems))


def _json_able(provenance: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return `provenance` as it will be read back."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"the provenance cannot be written as JSON: {error}", where=where) from error
    return copy


def _describe(path: Path, count: int) -> StoredFile:
    return StoredFile(path.name, count, path.stat().st_size, sha256_file(path))


def _columns(survey: Survey) -> list[Column]:
    """Return the columns of the catalogue."""
    f8 = np.dtype("f8")
    return [
        Column("objid", np.dtype("i8")),
        Column("ra", f8, "deg"),
        Column("dec", f8, "deg"),
        Column("class", _CLASS_NAMES.dtype),
        *(
            Column(name, f8, unit)
            for name, unit in zip(survey.profile.feature_names, survey.profile.feature_units, strict=True)
        ),
        Column("r_obs", f8, "mag"),
        *(Column(name, values.dtype) for name, values in survey.columns.items()),
    ]


def _file_problem(path: Path, entry: StoredFile) -> str | None:
    """Return what is wrong with a file as far as the file system knows."""
    try:
        size = (path / entry.file).stat().st_size
    except FileNotFoundError:
        return "is missing"
    if size != entry.bytes:
        return f"has {size:,} bytes; expected {entry.bytes:,}"
    return None


def _survey(path: Path, manifest: Manifest) -> Survey:
    """Put a survey together from the files of a store, which are there and have the right sizes."""
    parts = tuple(_map_shard(path / entry.file, entry.count, manifest.profile) for entry in manifest.stamps)
    columns = _read_catalog(path / CATALOG)
    features = manifest.profile.feature_names
    required = ("objid", "ra", "dec", "class", *features, "r_obs")
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(
            f"column {missing[0]!r} is missing", where=path / CATALOG, expected=", ".join(required)
        )
    if columns["objid"].dtype != np.int64:
        raise DataError(
            f"column 'objid' is {columns['objid'].dtype}",
            where=path / CATALOG,
            expected="int64; a float cannot hold a 64-bit identifier",
        )
    for name, values in columns.items():
        # Rows of a variable length are objects, and those of several values have an axis more.
        kinds, kind = ("biufUS", "number or text")
        if name in required:
            kinds, kind = ("US", "text") if name == "class" else ("fiu", "number")
        if values.ndim != 1 or values.dtype.kind not in kinds:
            raise DataError(
                f"column {name!r:.60} is {values.dtype} of shape {values.shape}",
                where=path / CATALOG,
                expected=f"a {kind} a row",
            )
    if len(columns["objid"]) != manifest.count:
        raise DataError(
            f"the table has {len(columns['objid'])} rows",
            where=path / CATALOG,
            expected=f"{manifest.count}, as many as stamps",
        )
    return Survey(
        profile=manifest.profile,
        objid=columns["objid"],
        ra=columns["ra"],
        dec=columns["dec"],
        label=_labels(columns["class"], path / CATALOG),
        features=np.stack([columns[name] for name in features], axis=1).astype(np.float64, copy=False),
        stamps=Stamps(parts),
        simulated=manifest.simulated,
        provenance=manifest.provenance,
        # r_obs is for who reads the table alone; a survey computes it from its features.
        columns={name: values for name, values in columns.items() if name not in required},
    )


def _map_shard(path: Path, count: int, profile: SurveyProfile) -> np.ndarray:
    image = map_image(path)
    expected = (count, len(profile.bands), profile.stamp_size, profile.stamp_size)
    if image.array.shape != expected or image.array.dtype != ">f4":
        raise DataError(
            f"the image is {image.array.dtype.newbyteorder('=')} of shape {image.array.shape}",
            where=path,
            expected=f"float32 of shape {expected}",
        )
    bands = image.header.get("BANDS")
    if bands != "".join(profile.bands):
        raise DataError(f"BANDS is {bands!r}", where=path, expected=repr("".join(profile.bands)))
    return image.array


def _read_catalog(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of the table in native byte order."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    check_hdus(path)
    try:
        with warnings.catch_warnings():
            for oddity in (AstropyWarning, RuntimeWarning):  # damage was looked for, or is below
                warnings.simplefilter("ignore", oddity)
            # Opened here, as astropy forgets to close a file that it cannot read.
            with open(path, "rb") as file, fits.open(file, memmap=True) as hdus:
                table = hdus[1].data
                return {name: _native(table[name]) for name in table.names}
    except Exception as error:  # a damaged table fails in many ways in astropy
        raise FitsFormatError(f"cannot be read as a FITS table ({said(error)})", where=path) from error


def _native(column: np.ndarray) -> np.ndarray:
    """Copy a column out of the file's memory map."""
    return np.array(column, column.dtype.newbyteorder("="), subok=False)


def _labels(classes: np.ndarray, where: Path) -> np.ndarray:
    """Return class names as labels."""
    label = np.full(len(classes), UNKNOWN, np.int8)
    known = classes == UNKNOWN_NAME
    for k, name in enumerate(CLASSES):
        mine = classes == name
        label[mine] = k
        known |= mine
    if not known.all():
        row = int(np.argmin(known))
        raise DataError(
            f"class {str(classes[row])!r} is not known",
            where=f"{where}, row {row}",
            expected=" | ".join((*CLASSES, UNKNOWN_NAME)),
        )
    return label


def _catalog_problems(survey: Survey) -> list[str]:
    """Return what is wrong with labels, features and positions."""
    problems = []
    bad = (survey.label < UNKNOWN) | (survey.label >= len(CLASSES))
    if bad.any():
        problems.append(
            f"labels of {_objects(survey.objid[bad])} are no class; expected {UNKNOWN} to {len(CLASSES) - 1}"
        )
    for k, name in enumerate(survey.profile.feature_names):
        bad = ~np.isfinite(survey.features[:, k])
        if bad.any():
            problems.append(f"feature {name} of {_objects(survey.objid[bad])} is not finite")
    for name, values, low, high in (("ra", survey.ra, 0, 360), ("dec", survey.dec, -90, 90)):
        bad = ~(np.isnan(values) | ((values >= low) & (values <= high)))  # NaN: not known
        if bad.any():
            problems.append(f"{name} of {_objects(survey.objid[bad])} is outside {low} to {high} degrees")
    return problems


def _content_problems(
    survey: Survey, manifest: Manifest, progress: Callable[[int], object] | None
) -> Iterator[str]:
    """Yield what is wrong inside the files."""
    yield from _catalog_problems(survey)
    repeated = _repeated(survey.objid)
    if repeated:
        yield repeated
    for name, label in (*((name, k) for k, name in enumerate(CLASSES)), (UNKNOWN_NAME, UNKNOWN)):
        found, listed = np.count_nonzero(survey.label == label), manifest.counts.get(name, 0)
        if found != listed:
            yield f"{found} objects of class {name}; expected {listed}, as in {MANIFEST}"
    bad = np.zeros(len(survey), bool)
    for start in range(0, len(survey), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(survey)))
        pixels = survey.stamps.decode(np.arange(block.start, block.stop))
        bad[block] = _not_finite(pixels)
        if progress is not None:
            progress(len(pixels))
    if bad.any():
        yield _unusable_pixels(survey.objid[bad])


def _not_finite(pixels: np.ndarray) -> np.ndarray:
    bad: np.ndarray = ~np.isfinite(pixels).all(axis=(1, 2, 3))
    return bad


def _unusable_pixels(objid: np.ndarray) -> str:
    return f"stamps of {_objects(objid)} have NaN or infinite pixels"


def _repeated(objid: np.ndarray) -> str | None:
    """Return the identifiers that come more than once, as a sentence."""
    values, counts = np.unique(objid, return_counts=True)
    again = values[counts > 1]
    return f"objid of {_objects(again)} comes more than once" if len(again) else None


def _objects(objid: np.ndarray) -> str:
    """Return how many objects, and the identifiers of the first few."""
    listed = ", ".join(str(value) for value in objid[:_LISTED])
    noun = "object" if len(objid) == 1 else "objects"
    return f"{len(objid)} {noun} ({listed}{', ...' if len(objid) > _LISTED else ''})"
