"""``python -m margformer_fast.data fetch``: what to fetch, read off the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...cli import OK, Parser, add_output, add_seed, count, on_interrupt, positive, table
from ...errors import ConfigError
from ...files import atomic_file
from ...progress import Progress
from . import deposit
from .http import Client, Patience, Unreachable

# What needs NumPy is imported inside the commands: --help answers at once.
if TYPE_CHECKING:
    from .sdss import Request

PROGRAM = "python -m margformer_fast.data"

MOST_CONNECTIONS = 16


def add_commands(parent: Parser) -> None:
    """Add ``margnet`` and ``sdss`` under a parser; each sets ``act``, which takes the options."""
    commands = parent.add_subparsers(metavar="WHAT", required=True)

    def add(name: str, act: Callable[[argparse.Namespace], int], summary: str, example: str) -> Parser:
        one: Parser = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", example=example
        )
        one.set_defaults(act=act)
        return one

    one = add(
        "margnet",
        _margnet,
        "fetch MargNet's published arrays",
        f"{PROGRAM} fetch margnet --out margnet\n{PROGRAM} import margnet",
    )
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to put the files")
    one.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="files whose names match, such as '*exp3*'"
    )
    one.add_argument("--dry-run", action="store_true", help="list the files, their sizes and what is here")
    one.add_argument("--base-url", default=deposit.ZENODO, metavar="URL", help=f"({deposit.ZENODO})")
    one.add_argument("--record", default=deposit.RECORD, help=f"number of the record ({deposit.RECORD})")
    _add_patience(one)

    one = add(
        "sdss",
        _sdss,
        "fetch frames of the SDSS archive and cut stamps from them into a store",
        f"{PROGRAM} fetch sdss --objids objlist_exp1.npy --classes y_exp1.npy --out survey --dry-run\n"
        f"{PROGRAM} fetch sdss --per-class 1000 --out survey\n"
        f"{PROGRAM} fetch sdss --fields 94-1-12 --out survey",
    )
    add_output(one, "the store")
    what = one.add_argument_group(
        "which objects (the spectroscopic sample, by a query, if nothing is said)"
    ).add_mutually_exclusive_group()
    what.add_argument(
        "--objids", type=Path, metavar="FILE", help="these: .npy, CSV with a column objid, or one a line"
    )
    what.add_argument(
        "--positions",
        type=Path,
        metavar="FILE",
        help="those nearest to these: CSV with ra and dec in degrees",
    )
    what.add_argument(
        "--fields", nargs="+", default=[], metavar="R-C-F", help="all of these fields, such as 94-1-12"
    )
    one.add_argument(
        "--population",
        default="compact",
        metavar="NAME",
        help="cuts of the sample: all, compact or faint-compact (compact)",
    )
    one.add_argument(
        "--per-class", type=positive, metavar="N", help="choose N objects of each class from the sample"
    )
    add_seed(one)
    one.add_argument(
        "--classes",
        default="sql",
        metavar="SOURCE",
        help="classes of listed objects: sql (spectra), photometric, or a file that goes with --objids (sql)",
    )
    one.add_argument(
        "--radius", type=_seconds, default=2.0, metavar="ARCSEC", help="for --positions: how far (2)"
    )
    one.add_argument(
        "--modes", type=count, nargs="+", default=[1], metavar="MODE", help="for --fields: as for ingest (1)"
    )
    one.add_argument("--keep-unclean", action="store_true", help="for --fields: as for ingest")
    one.add_argument(
        "--skip-broken", action="store_true", help="write the store without fields that cannot be had"
    )
    one.add_argument(
        "--keep-frames", action="store_true", help="keep files as they were served, and psField with them"
    )
    one.add_argument(
        "--dry-run", action="store_true", help="say how many files, bytes and hours it is; fetch no field"
    )
    one.add_argument(
        "--urls", type=Path, metavar="FILE", help="with --dry-run: write all addresses to a file"
    )
    one.add_argument(
        "--rate", type=_seconds, default=10.0, metavar="MB/S", help="for --dry-run: speed of the line (10)"
    )
    one.add_argument(
        "--release",
        type=count,
        default=16,
        metavar="DR",
        help="data release, 8 to 17 (16)",
    )
    one.add_argument("--base-url", metavar="URL", help="root of the archive, or of a mirror (that of SDSS)")
    one.add_argument("--sql-url", default="", metavar="URL", help="where queries are sent (SkyServer)")
    one.add_argument(
        "--sql-interval", type=_seconds, default=1.0, metavar="S", help="seconds between two queries (1)"
    )
    one.add_argument(
        "--sql-rows", type=positive, default=20_000, metavar="N", help="rows of one answer, at most (20k)"
    )
    one.add_argument(
        "--connections",
        type=positive,
        default=4,
        metavar="N",
        help=f"files at the same time, at most {MOST_CONNECTIONS} (4)",
    )
    _add_patience(one)


def _add_patience(parser: Parser) -> None:
    usual = Patience()
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=usual.timeout,
        metavar="S",
        help=f"seconds without a byte after which a connection is given up ({usual.timeout:g})",
    )
    parser.add_argument(
        "--retries",
        type=count,
        default=usual.retries,
        metavar="N",
        help=f"tries that bring nothing before a file is given up ({usual.retries})",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=usual.first_wait,
        metavar="S",
        help=f"seconds before the second try, doubled each time ({usual.first_wait:g})",
    )


def _seconds(text: str) -> float:
    """Parse a positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _client(options: argparse.Namespace, connections: int) -> Client:
    patience = Patience(timeout=options.timeout, retries=options.retries, first_wait=options.wait)
    return Client(patience, connections)


@contextmanager
def _offline(otherwise: str) -> Iterator[None]:
    """Say what to do where there is no network."""
    try:
        yield
    except Unreachable as error:
        mend = f"Try again where there is a network: what was fetched stays. Or {otherwise}"
        raise Unreachable(error.what, where=error.where, mend=mend) from error


def _margnet(options: argparse.Namespace) -> int:
    page = f"{options.base_url}/records/{options.record}"
    with _offline(f"fetch the files of {page} elsewhere, and `import` their folder."):
        return _fetch_margnet(options)


def _fetch_margnet(options: argparse.Namespace) -> int:
    client = _client(options, 1)
    files = deposit.choose(deposit.list_files(client, options.base_url, options.record), options.only)
    size = sum(one.size for one in files)
    if options.dry_run:
        rows = [[one.name, one.size, one.checksum, one.is_at(options.out)] for one in files]
        print(table(["file", "bytes", "checksum", "here"], rows))
        print(f"{len(files)} files, {size / 1e9:,.2f} GB")
        return OK
    stays = f"what was fetched is in {options.out}; run the same command again to go on"
    with on_interrupt(stays), Progress(size, "fetching", "bytes") as progress:
        deposit.fetch_files(client, files, options.out, progress=progress.update)
    print(
        f"{len(files)} files, {size / 1e9:,.2f} GB, whole and with the deposit's checksums, in {options.out}"
    )
    for one in files:
        if one.name.lower().endswith(".zip"):
            print(f"unpack: python -m zipfile -e {options.out / one.name} {options.out}")
    print(f"what it holds: {PROGRAM} import {options.out}")
    return OK


def _sdss(options: argparse.Namespace) -> int:
    with _offline(
        "list the addresses of what --objids or --fields name with --dry-run --urls FILE,"
        " fetch them elsewhere, and `ingest` their folder."
    ):
        return _fetch_sdss(options)


def _fetch_sdss(options: argparse.Namespace) -> int:
    from . import sdss

    if options.connections > MOST_CONNECTIONS:
        raise ConfigError(
            f"{options.connections} connections are more than a guest asks for",
            expected=f"at most {MOST_CONNECTIONS}",
        )
    request = _request(options)
    client = _client(options, options.connections)
    if options.dry_run:
        plan, fields = sdss.make_plan(request, options.out, client, options.rate, options.connections)
        print(plan.table())
        if options.urls is not None:
            with atomic_file(options.urls) as temporary:
                temporary.write_text("".join(f"{url}\n" for url in sdss.addresses(request, fields)))
            print(f"addresses  {options.urls}: wget -c -i {options.urls}, then {PROGRAM} ingest")
        return OK
    sdss.fetch(
        request,
        options.out,
        client,
        connections=options.connections,
        overwrite=options.overwrite,
        skip_broken=options.skip_broken,
    )
    if request.keep:
        print(f"files are in {sdss.work_folder(options.out) / 'files'}")
    print(f"the store is {options.out}: {PROGRAM} info {options.out}")
    return OK


def _request(options: argparse.Namespace) -> Request:
    from .archive import ARCHIVE, Archive
    from .sdss import Request
    from .targets import parse_fields

    listed = options.objids is not None or options.positions is not None or bool(options.fields)
    for name, given, needs, has in (
        ("--per-class", options.per_class is not None, "the sample", not listed),
        ("--classes", options.classes != "sql", "--objids or --positions", listed and not options.fields),
        ("--modes", options.modes != [1], "--fields", bool(options.fields)),
        ("--keep-unclean", options.keep_unclean, "--fields", bool(options.fields)),
        ("--urls", options.urls is not None, "--dry-run", options.dry_run),
    ):
        if given and not has:
            raise ConfigError(f"{name} goes with {needs}", mend=f"See {PROGRAM} fetch sdss --help.")
    classes: str | Path = options.classes
    if classes not in ("sql", "photometric"):
        if options.objids is None:
            raise ConfigError("a file of classes goes with --objids", where="--classes")
        classes = Path(classes)
    return Request(
        archive=Archive(options.release, options.base_url or ARCHIVE, options.sql_url),
        population=options.population,
        per_class=options.per_class,
        seed=options.seed,
        objids=options.objids,
        positions=options.positions,
        radius=options.radius,
        fields=tuple(parse_fields(options.fields)),
        modes=tuple(options.modes),
        require_clean=not options.keep_unclean,
        classes=classes,
        psfield=options.keep_frames,
        keep=options.keep_frames,
        sql_interval=options.sql_interval,
        sql_rows=options.sql_rows,
    )
