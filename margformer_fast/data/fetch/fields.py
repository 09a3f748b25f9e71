"""One field: its files fetched, its stamps cut as `ingest` cuts them, put down, and the files let go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, FetchError, FitsFormatError
from ...ops.stamps import Stamps
from ..sdss.files import CATALOGUE_NAME, FRAME_NAME, FieldFiles, find_hdu, read_bytes
from ..sdss.ingest import IngestReport, ingest_field, num_selected
from ..survey import CLASSES, SDSS, UNKNOWN, Survey
from .archive import Archive, FieldId, Remote
from .http import Client
from .journal import Journal
from .targets import Targets

_TRIES = 3  # of a file that arrives whole and cannot be read
_CORE = ("objid", "ra", "dec", "label", "features")
_STAMPS, _ABOUT = "stamps", "about"  # what else a piece has; further columns have a prefix
_COLUMN = "column."


@dataclass(frozen=True)
class Selection:
    """Which objects of a field are cut.

    Parameters
    ----------
    modes, require_clean
        As for :func:`~margformer_fast.data.sdss.ingest.ingest`, where whole fields are wanted.
    targets : Targets, optional
        The wanted objects; then the list decides, whatever their MODE and CLEAN.
    photometric : bool
        Whether classes are those of OBJC_TYPE, and not those of the targets.
    """

    modes: tuple[int, ...] = (1,)
    require_clean: bool = True
    targets: Targets | None = None
    photometric: bool = True

    def options(self, objids: np.ndarray | None) -> dict[str, Any]:
        """Return the arguments of `ingest_field` for the wanted objects of one field."""
        if self.targets is None:
            return {"modes": self.modes, "require_clean": self.require_clean}
        return {"modes": (1, 2, 4), "require_clean": False, "objids": objids}


def fetch_field(
    client: Client,
    archive: Archive,
    of: FieldId,
    journal: Journal,
    selection: Selection,
    objids: np.ndarray | None,
    *,
    psfield: bool = False,
    keep: bool = False,
) -> int:
    """Fetch a field, cut its wanted objects, and put them down in the journal.

    The catalogue comes first: frames of a field in which nothing is to be cut are not fetched, unless files
    are kept. A file that arrives whole and cannot be read is fetched again, up to three times.

    Parameters
    ----------
    client : Client
        Fetches.
    archive : Archive
        Where from.
    of : FieldId
        The field.
    journal : Journal
        Where to.
    selection : Selection
        Which objects.
    objids : ndarray of int64 or None
        The targets that are in this field.
    psfield : bool
        Fetch the model of the PSF too.
    keep : bool
        Keep the files as they were served.

    Returns
    -------
    int
        Objects kept.

    Raises
    ------
    FetchError
        If a file cannot be had.
    DataError
        If a file cannot be used.
    """
    folder = journal.incoming(of)
    folder.mkdir(parents=True, exist_ok=True)
    options = selection.options(objids)
    # What an earlier command has kept is not fetched again.
    have = journal.files(of)
    served: dict[str, str] = {}

    def bring(remote: Remote) -> Path:
        served[remote.name] = remote.url
        for place in (have, folder):
            if (place / remote.name).is_file():
                return place / remote.name
        return client.download(remote.url, folder / remote.name, limit=remote.limit)

    def count() -> int:
        return num_selected(bring(archive.catalogue(of)), **options)

    files = (
        archive.files(of, psfield=psfield)
        if _readable(count, served, folder) or keep
        else [archive.catalogue(of)]
    )

    def cut() -> tuple[Survey, IngestReport]:
        found = _field_files(of, [bring(remote) for remote in files])
        if (
            found.psfield is not None
        ):  # nothing else looks at it here, and a cut one is found now or by the user
            find_hdu(read_bytes(found.psfield), "SIMPLE", True, found.psfield)
        return ingest_field(found, **options)

    chunk, report = _readable(cut, served, folder)
    chunk, report = _with_classes(chunk, report, selection)
    kept = len(chunk)
    if keep:
        have.mkdir(parents=True, exist_ok=True)
        for remote in files:
            if (folder / remote.name).is_file():
                (folder / remote.name).replace(have / remote.name)
    journal.finish(of, pack(chunk, report), kept)
    shutil.rmtree(folder, ignore_errors=True)
    return kept


def pack(chunk: Survey, report: IngestReport) -> dict[str, np.ndarray]:
    """Return a field's objects and its account as arrays by name."""
    about = {"report": report.to_dict(), "provenance": chunk.provenance}
    return {
        **{name: getattr(chunk, name) for name in _CORE},
        _STAMPS: chunk.stamps.decode(),
        **{f"{_COLUMN}{name}": values for name, values in chunk.columns.items()},
        _ABOUT: np.array(json.dumps(about)),
    }


def unpack(arrays: Mapping[str, np.ndarray]) -> tuple[Survey, IngestReport]:
    """Return what :func:`pack` was given.

    Raises
    ------
    DataError
        If the arrays are not those.
    """
    try:
        about = json.loads(str(arrays[_ABOUT]))
        chunk = Survey(
            profile=SDSS,
            **{name: arrays[name] for name in _CORE},
            stamps=Stamps((arrays[_STAMPS],)),
            simulated=False,
            provenance=about["provenance"],
            columns={k.removeprefix(_COLUMN): v for k, v in arrays.items() if k.startswith(_COLUMN)},
        )
        account = about["report"]
        report = IngestReport(
            **{
                **account,
                "dropped": {reason: n for reason, n in account["dropped"].items() if n},
                "unselected_modes": {int(mode): n for mode, n in account["unselected_modes"].items()},
                "failures": tuple(account["failures"]),
            }
        )
        return chunk, report
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"a field's piece cannot be used ({error})") from error


def _readable(act: Callable[[], Any], served: Mapping[str, str], folder: Path) -> Any:
    """Return what `act` returns; a file that it cannot use is removed from `folder`.

    A damaged one is fetched again at once. One that is sound but not what it should be may be right another
    day: it must not lie in the way of the next command.
    """
    for left in reversed(range(_TRIES)):
        try:
            return act()
        except DataError as error:
            name = _blamed(error, served)
            # A file that was kept, or is not known, is not made better by another try.
            if name is None or not (folder / name).is_file():
                raise
            (folder / name).unlink()
            if not isinstance(error, FitsFormatError):
                raise
            if not left:
                raise FetchError(
                    f"arrives whole and cannot be read ({error.what})",
                    where=name,
                    mend="Run the same command again later, or pass --skip-broken to do without its field.",
                ) from error
    raise AssertionError("not reached")


def _blamed(error: DataError, served: Mapping[str, str]) -> str | None:
    """Return which file an error is about."""
    where = str(error.where)
    return next((name for name in served if f"/{name}" in where), None)


def _field_files(of: FieldId, paths: list[Path]) -> FieldFiles:
    files = FieldFiles(of.run, of.camcol, of.field)
    for path in paths:
        frame = FRAME_NAME.fullmatch(path.name)
        if frame is not None:
            files.frames[frame["band"]] = path
        elif CATALOGUE_NAME.fullmatch(path.name) is not None:
            files.catalogue = path
        else:
            files.psfield = path
    return files


def _with_classes(chunk: Survey, report: IngestReport, selection: Selection) -> tuple[Survey, IngestReport]:
    """Give objects the classes and columns of the list that they are from."""
    targets = selection.targets
    if targets is None:
        return chunk, report
    rows = targets.rows_of(chunk.objid)
    columns = {**chunk.columns, **{name: values[rows] for name, values in targets.columns.items()}}
    if selection.photometric:
        return replace(chunk, columns=columns), report
    label = targets.label[rows]
    names = {UNKNOWN: "UNKNOWN", **dict(enumerate(CLASSES))}
    classes = {name: n for k, name in names.items() if (n := int(np.sum(label == k)))}
    return replace(chunk, label=label, columns=columns), replace(report, classes=classes)
