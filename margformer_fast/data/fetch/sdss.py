"""Objects of the SDSS archive into a survey store, field by field, through any interruption."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...cli import on_interrupt
from ...errors import DataError, FetchError, OutputError
from ...files import sha256_file
from ...progress import Progress
from ..sdss.ingest import IngestReport, checked_modes
from ..store import StoreWriter, is_store, read_manifest
from ..survey import SDSS
from . import query, sample
from .archive import Archive, FieldId
from .fields import Selection, fetch_field, unpack
from .http import Client, Missing, Unreachable
from .journal import Journal
from .plan import Plan
from .skyserver import SkyServer
from .targets import Targets, read_classes, read_objids, read_positions

_LISTED = 5  # fields named in a message
_IN_A_ROW = 3  # rounds of failures, one for each connection, after which the server is taken to be down


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Parameters
    ----------
    archive : Archive
        Where from.
    population : str
        Cuts of the spectroscopic sample, where nothing else says which objects: see :mod:`query`.
    per_class : int or None
        Objects of each class to choose from the sample; all by default.
    seed : int
        Decides which.
    objids, positions : Path or None
        A list of identifiers, or of positions, in place of the sample.
    radius : float
        How far an object may be from its position, arcsec.
    fields : tuple of FieldId
        Whole fields in place of objects.
    modes, require_clean
        For whole fields, as for :func:`~margformer_fast.data.sdss.ingest.ingest`.
    classes : str or Path
        Where the classes of listed objects come from: ``sql``, the survey's spectroscopic ones;
        ``photometric``, the survey's photometric types; or a file that goes with `objids` row by row.
    psfield, keep : bool
        Fetch models of the PSF too; keep files as they were served.
    sql_interval : float
        Seconds from one query to the next, at least.
    sql_rows : int
        Rows of a page of the sample, at most.

    Raises
    ------
    ConfigError
        If a mode or the population is not known.
    """

    archive: Archive = field(default_factory=Archive)
    population: str = "compact"
    per_class: int | None = None
    seed: int = 0
    objids: Path | None = None
    positions: Path | None = None
    radius: float = 2.0
    fields: tuple[FieldId, ...] = ()
    modes: tuple[int, ...] = (1,)
    require_clean: bool = True
    classes: str | Path = "sql"
    psfield: bool = False
    keep: bool = False
    sql_interval: float = 1.0
    sql_rows: int = 20_000

    def __post_init__(self) -> None:
        checked_modes(self.modes)
        query.check_population(self.population)

    @property
    def kind(self) -> str:
        """``sample``, ``objids``, ``positions`` or ``fields``."""
        if self.fields:
            return "fields"
        return "objids" if self.objids else "positions" if self.positions else "sample"

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the result, as JSON holds it; lists by their hashes, wherever they lie."""
        about: dict[str, Any] = {
            "kind": self.kind,
            "release": self.archive.release,
            "base_url": self.archive.base_url,
            "keep": self.keep,
            "psfield": self.psfield,
        }
        if self.kind == "fields":
            names = [one.name for one in self.fields]
            return {**about, "fields": names, "modes": list(self.modes), "require_clean": self.require_clean}
        if self.kind == "sample":
            about |= {"population": self.population, "per_class": self.per_class, "seed": self.seed}
        for name, path in (("objids", self.objids), ("positions", self.positions), ("classes", self.classes)):
            if isinstance(path, Path):
                about[name] = {"name": path.name, "sha256": _hash(path)}
        if self.kind == "positions":
            about["radius_arcsec"] = self.radius
        if self.kind != "sample" and isinstance(self.classes, str):
            about["classes"] = self.classes
        if self.kind == "sample" or self.kind == "positions" or self.classes == "sql":
            about["sql_url"] = self.archive.sql_endpoint
        return about

    def server(self, client: Client) -> SkyServer:
        """Return the database."""
        return SkyServer(client, self.archive.sql_endpoint, self.sql_interval)


def work_folder(out: Path) -> Path:
    """Return the folder in which the work towards a store is done."""
    return out.with_name(f"{out.resolve().name}.fetch")


def make_plan(
    request: Request, out: Path, client: Client, rate: float, connections: int
) -> tuple[Plan, list[FieldId]]:
    """Return what a request comes to, and its fields, without fetching one.

    The database is asked where only it knows the objects; its answers are kept for the request itself. A list
    of identifiers or fields is planned without a network.

    Raises
    ------
    DataError
        If a list cannot be used.
    FetchError
        If the database does not answer.
    """
    folder = work_folder(out)
    if request.kind == "fields":
        count, fields = 0, list(request.fields)
    elif request.objids is not None:
        targets = _listed(request, request.objids)
        count, fields = len(targets), list(targets.by_field())
    else:
        with Journal(folder, request.to_dict()) as journal:
            targets = learn(request, client, journal)
        count, fields = len(targets), list(targets.by_field())
    done: set[FieldId] = set()
    if (folder / "request.json").exists():
        with Journal(folder, request.to_dict()) as journal:
            done = journal.done(fields)
    plan = Plan.of(
        count,
        fields,
        done=len(done),
        psfield=request.psfield,
        keep=request.keep,
        connections=connections,
        rate=rate,
    )
    return plan, fields


def addresses(request: Request, fields: list[FieldId]) -> list[str]:
    """Return the addresses of all files of fields, for another program to fetch."""
    return [remote.url for one in fields for remote in request.archive.files(one, psfield=request.psfield)]


def fetch(
    request: Request,
    out: Path,
    client: Client,
    *,
    connections: int = 4,
    overwrite: bool = False,
    skip_broken: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Fetch all objects of a request and write them as a store.

    Parameters
    ----------
    request : Request
        What.
    out : Path
        The store. The work is done in a folder beside it, ``OUT.fetch``, which goes when the store is there,
        unless files are kept in it. The same call goes on where one before it was stopped.
    client : Client
        Fetches.
    connections : int
        Fields that are worked on at the same time.
    overwrite : bool
        Replace a store that is there.
    skip_broken : bool
        Write the store without the fields that could not be had.
    say : callable
        Told what became of the objects, at the end.

    Raises
    ------
    FetchError
        If the archive cannot be reached, or, unless `skip_broken`, a field could not be had; all others are
        put down first.
    DataError, ConfigError, OutputError
        If a list cannot be used, the folder is of another request, nothing was kept, or nothing can be
        written.
    """
    about = request.to_dict()
    folder = work_folder(out)
    if is_store(out) and not overwrite and _is_of(out, about):
        if folder.exists():  # stopped after the store was written
            with Journal(folder, about) as journal:
                journal.clear()
        say(f"{out} is complete already")
        return
    if out.exists() and not overwrite:
        raise OutputError("already exists", where=out, mend="Choose another place, or pass --overwrite.")
    with Journal(folder, about) as journal:
        if journal.finished:
            journal.clear()
            say(f"{out} is complete already")
            return
        targets = None if request.kind == "fields" else learn(request, client, journal)
        if targets is not None and request.classes == "sql" and request.kind in ("objids", "positions"):
            targets = _classified(request, client, journal, targets)
        selection = Selection(
            request.modes,
            request.require_clean,
            targets,
            photometric=request.kind == "fields" or request.classes == "photometric",
        )
        wanted: dict[FieldId, np.ndarray | None]
        wanted = dict.fromkeys(request.fields) if targets is None else dict(targets.by_field())
        _fetch_all(request, client, journal, selection, wanted, connections)
        failures = journal.failures(wanted)
        if failures and not skip_broken:
            raise FetchError(
                f"{_named(failures)} could not be had ({next(iter(failures.values()))})",
                where=folder,
                mend="Run the same command again to try once more, or with --skip-broken to do without.",
            )
        report = _assemble(request, out, journal, wanted, targets, overwrite=overwrite)
        say(report)
        journal.clear()


def learn(request: Request, client: Client, journal: Journal) -> Targets:
    """Return the wanted objects of a request, from the journal if they were learnt before.

    Raises
    ------
    DataError
        If a list cannot be used, or there is no such object.
    FetchError
        If the database does not answer.
    """
    targets = journal.targets()
    if targets is not None:
        return targets
    if request.objids is not None:
        return _listed(request, request.objids)
    server = request.server(client)
    if request.positions is not None:
        ra, dec = read_positions(request.positions)
        with Progress(len(ra), "looking up", "positions") as progress:
            targets, _ = sample.near(
                server, ra, dec, request.radius, journal.answers, progress=progress.update
            )
    else:
        with Progress(None, "asking for the sample", "objects") as progress:
            targets = sample.spectroscopic(
                server,
                request.population,
                journal.answers,
                rows=request.sql_rows,
                progress=progress.update,
            )
        if request.per_class is not None:
            targets = sample.per_class(targets, request.per_class, request.seed)
    journal.keep_targets(targets)
    return targets


def _listed(request: Request, path: Path) -> Targets:
    objid, label = read_objids(path)
    if isinstance(request.classes, Path):
        label = read_classes(request.classes, len(objid))
    return Targets.make(objid, np.full(len(objid), -1, np.int8) if label is None else label)


def _classified(request: Request, client: Client, journal: Journal, targets: Targets) -> Targets:
    """Return targets with spectroscopic classes, unless their list had classes."""
    if (targets.label >= 0).any() or "specobjid" in targets.columns:
        return targets
    server = request.server(client)
    with Progress(len(targets), "asking for classes", "objects") as progress:
        found = sample.classes(server, targets.objid, journal.answers, progress=progress.update)
    targets = Targets(targets.objid, found.label, {**targets.columns, **found.columns})
    journal.keep_targets(targets)
    return targets


def _fetch_all(
    request: Request,
    client: Client,
    journal: Journal,
    selection: Selection,
    wanted: dict[FieldId, np.ndarray | None],
    connections: int,
) -> None:
    """Fetch every field that is not done; those that cannot be had are put down as such."""
    done = journal.done(wanted)
    todo = [one for one in wanted if one not in done]
    kept = sum(journal.entries[one.name].kept for one in done)

    def stopped() -> str:
        here = len(journal.done(wanted))
        return (
            f"{here:,} of {len(wanted):,} fields are in {journal.folder}; run the same command again to go on"
        )

    def act(one: FieldId) -> int:
        options = {"psfield": request.psfield, "keep": request.keep}
        return fetch_field(client, request.archive, one, journal, selection, wanted[one], **options)

    in_a_row = 0
    with (
        on_interrupt(stopped),
        Progress(len(wanted), "fetching", "fields", initial=len(done)) as progress,
        ThreadPoolExecutor(connections) as pool,
    ):
        running: dict[Future[int], FieldId] = {}
        try:
            while todo or running:
                while todo and len(running) < connections:
                    one = todo.pop(0)
                    running[pool.submit(act, one)] = one
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    one = running.pop(future)
                    try:
                        kept += future.result()
                        in_a_row = 0
                    except (Unreachable, OutputError):
                        raise
                    except (DataError, FetchError) as error:
                        journal.fail(one, str(error))
                        in_a_row += isinstance(error, FetchError) and not isinstance(error, Missing)
                        if in_a_row >= _IN_A_ROW * connections:
                            raise
                    megabytes = client.bytes_received / 1e6
                    progress.update(1, kept=kept, MB=f"{megabytes:,.0f}")
        except BaseException:
            client.stop()
            raise


def _assemble(
    request: Request,
    out: Path,
    journal: Journal,
    wanted: dict[FieldId, np.ndarray | None],
    targets: Targets | None,
    *,
    overwrite: bool,
) -> str:
    """Write the store from the pieces, in order of the fields; return the account as text."""
    report = IngestReport()
    lists: dict[str, list[object]] = {"fields": [], "files": []}
    failures = journal.failures(wanted)
    with (
        on_interrupt("no store was written; run the same command again"),
        StoreWriter(
            out, SDSS, name=out.resolve().name, simulated=False, provenance={}, overwrite=overwrite
        ) as writer,
    ):
        with Progress(len(wanted), "writing", "fields") as progress:
            for one in sorted(wanted):
                if one in failures:
                    report += IngestReport(num_fields=1, failures=(f"{one.name}: {failures[one]}",))
                    continue
                chunk, account = unpack(journal.read_piece(one))
                writer.append(chunk)
                report += account
                for name, entries in lists.items():
                    entries += chunk.provenance[name]
                writer.provenance.update({**chunk.provenance, **lists, "report": report.to_dict()})
                progress.update(1, kept=report.kept)
        text, counts = _account(request, report, targets)
        if not report.kept:
            print(text)
            raise DataError("no object was kept, so no store is written", where=out)
        writer.provenance["fetch"] = {"request": request.to_dict(), **_origin(request), **counts}
        if not (request.kind == "fields" or request.classes == "photometric"):
            writer.provenance["class"] = _class_source(targets)
            writer.provenance["selection"] = "the wanted objects"
    return text


def _account(request: Request, report: IngestReport, targets: Targets | None) -> tuple[str, dict[str, int]]:
    """Return what became of the wanted objects, as text and numbers."""
    if targets is None:
        return report.table(), {}
    listed = report.total - report.dropped.get("not asked for", 0)
    counts = {"wanted": len(targets), "not_in_catalogues": len(targets) - listed}
    lines = [report.table(), f"wanted: {len(targets):,}, of which {report.kept:,} are in the store"]
    if counts["not_in_catalogues"]:
        lines.append(f"not in the catalogues of their fields: {counts['not_in_catalogues']:,}")
    if request.positions is not None:
        counts["positions"] = len(read_positions(request.positions)[0])
        alone = counts["positions"] - len(targets)
        lines.append(f"positions without an object of their own within {request.radius:g} arcsec: {alone:,}")
    return "\n".join(lines), counts


def _origin(request: Request) -> dict[str, Any]:
    """Return where things came from, down to the text of the queries."""
    archive = request.archive
    example = FieldId(1, 1, 1)
    origin: dict[str, Any] = {
        "addresses_of_a_field": [remote.url for remote in archive.files(example, psfield=request.psfield)]
    }
    if request.kind == "sample":
        origin["query"] = query.sample(request.population, 0, 0, 1)
    return origin


def _class_source(targets: Targets | None) -> str:
    if targets is not None and "specobjid" in targets.columns:
        return "SpecObj.class: the survey's spectroscopic pipeline, zWarning = 0; UNKNOWN without a spectrum"
    return "the list of wanted objects"


def _is_of(out: Path, about: dict[str, Any]) -> bool:
    try:
        fetched = read_manifest(out).provenance.get("fetch", {})
    except DataError:
        return False
    return isinstance(fetched, dict) and fetched.get("request") == about


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"cannot be read: {os.strerror(error.errno or 0)}", where=path) from error


def _named(failures: dict[FieldId, str]) -> str:
    names = ", ".join(one.name for one in list(failures)[:_LISTED])
    more = ", ..." if len(failures) > _LISTED else ""
    return f"{len(failures):,} field{'s' * (len(failures) != 1)} ({names}{more})"
