"""``python -m margformer_fast.data``: make, take in, check and describe surveys."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli import FAILURE, OK, Parser, add_output, add_seed, count, on_interrupt, run, table
from ..errors import ConfigError, DataError
from ..progress import Progress
from .fetch.command import add_commands as add_fetch

# What the commands need is imported inside them: --help answers at once.
if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.likeness import Sample
    from .manifest import Manifest
    from .survey import Survey

PROGRAM = "python -m margformer_fast.data"
_NOT_WRITTEN = "no store was written; run the same command again"


def parser() -> Parser:
    """Return the parser of the command line."""
    top = Parser(
        prog=PROGRAM,
        description="Make, take in, check and describe surveys: stamps, photometric features and classes.",
        example=f"{PROGRAM} simulate --out survey\n{PROGRAM} info survey",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, act: Callable[[argparse.Namespace], int], summary: str, example: str) -> Parser:
        one: Parser = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            example=f"{PROGRAM} {example}",
        )
        one.set_defaults(act=act)
        return one

    one = add(
        "simulate",
        _simulate,
        "write a simulated survey as a store",
        "simulate --out survey --seed 1",
    )
    add_output(one, "the store")
    one.add_argument(
        "--survey",
        choices=("sdss", "lsst"),
        default="sdss",
        help="whose bands, pixels, seeing and noise: ugriz, or ugrizy in one visit each (sdss)",
    )
    one.add_argument("--compact", type=count, default=12_000, metavar="N", help="compact objects (12k)")
    one.add_argument(
        "--faint", type=count, default=12_000, metavar="N", help="faint and compact objects (12k)"
    )
    add_seed(one)
    one.add_argument(
        "--compare",
        type=Path,
        metavar="REAL",
        help="say how like these real objects it is, and write DIR.html: a store, a folder with"
        " dnnx_sg_exp3.npy, or a CSV file of u, g, r, i, z and class",
    )

    one = add(
        "compare",
        _compare,
        "say how like real objects those of a simulated store are",
        "compare survey margnet --out likeness.html",
    )
    one.add_argument("folder", type=Path, metavar="DIR", help="a simulated survey store")
    one.add_argument(
        "real",
        type=Path,
        metavar="REAL",
        help="a store, a folder with dnnx_sg_exp3.npy, or a CSV file of u, g, r, i, z and class",
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page, an HTML file")
    one.add_argument("--each-feature", action="store_true", help="also train on each feature alone")
    one.add_argument(
        "--brighter-than",
        type=_limit,
        nargs="+",
        default=[],
        metavar="BAND=MAG",
        help="compare objects brighter than this alone, in the observed magnitude of an SDSS band:"
        " u=19.6 for a table that ends there",
    )

    one = add(
        "ingest",
        _ingest,
        "cut stamps from SDSS frames and catalogues into a store",
        "ingest field --out survey",
    )
    one.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="folders with frame-* and photoObj-* files"
    )
    add_output(one, "the store")
    one.add_argument(
        "--modes",
        type=count,
        nargs="+",
        default=[1],
        metavar="MODE",
        help="objects to keep: 1 primary, 2 secondary, 4 in the overlap with the next field (1)",
    )
    one.add_argument(
        "--keep-unclean", action="store_true", help="keep objects that the survey does not call clean"
    )
    one.add_argument(
        "--skip-broken", action="store_true", help="pass over fields with a missing or damaged file"
    )
    one.add_argument(
        "--check", action="store_true", help="compare stamps of isolated stars with the catalogue at the end"
    )

    one = add(
        "photometry",
        _photometry,
        "measure the isolated objects of SDSS fields and compare them with their catalogues",
        "photometry field",
    )
    one.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="folders with frame-*, photoObj-* and psField-*",
    )
    one.add_argument(
        "--sky",
        choices=("catalogue", "frame"),
        default="catalogue",
        help="whose sky is subtracted: that of the catalogue's pipeline, or of the frames (catalogue)",
    )

    one = add(
        "import",
        _import,
        "say what a folder of MargNet's published arrays holds; copies nothing",
        "import margnet",
    )
    one.add_argument(
        "folder", type=Path, metavar="DIR", help="folder with X_*, dnnx_*, objlist_* and y_*.npy"
    )

    one = commands.add_parser(
        "fetch",
        help="fetch a survey, or published arrays, from their archives",
        description="Fetch a survey, or published arrays, from their archives.",
        example=f"{PROGRAM} fetch margnet --out margnet\n"
        f"{PROGRAM} fetch sdss --fields 94-1-12 --out survey --dry-run",
    )
    add_fetch(one)

    one = add("verify", _verify, "check every file, row and pixel of a store", "verify survey")
    one.add_argument("folder", type=Path, metavar="DIR", help="a survey store")

    one = add(
        "show",
        _show,
        "draw stamps of a store beside the random views that training sees",
        "show survey --out views.png",
    )
    one.add_argument("folder", type=Path, metavar="DIR", help="a survey store")
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture, a PNG file")
    one.add_argument("--objects", type=count, default=6, metavar="N", help="how many, spread in r (6)")
    add_seed(one)

    one = add("info", _info, "say what is in a store", "info survey")
    one.add_argument("folder", type=Path, metavar="DIR", help="a survey store")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name and return its exit code."""
    options = parser().parse_args(arguments)
    code: int = options.act(options)
    return code


def _simulate(options: argparse.Namespace) -> int:
    from .simulated import write_simulated
    from .store import read_manifest
    from .survey import PROFILES

    if options.compact + options.faint == 0:
        raise ConfigError("there is nothing to simulate", mend="Ask for objects with --compact or --faint.")
    if options.compare is not None and options.survey != "sdss":
        raise ConfigError(
            f"a simulated {options.survey} survey cannot be compared",
            expected="--survey sdss, whose real objects there are",
        )
    real = None
    if options.compare is not None:  # read first: what cannot be read is not found out after the work
        from ..evaluation.likeness import read_real

        real = read_real(options.compare)
    with on_interrupt(_NOT_WRITTEN):
        write_simulated(
            options.out,
            options.compact,
            options.faint,
            seed=options.seed,
            profile=PROFILES[options.survey],
            overwrite=options.overwrite,
        )
    _print_written(options.out, read_manifest(options.out))
    if real is not None:
        command = (
            f"{PROGRAM} simulate --out {options.out} --compact {options.compact} --faint {options.faint}"
        )
        command += f" --seed {options.seed} --compare {options.compare}"
        page = options.out.with_name(f"{options.out.resolve().name}.html")
        _write_likeness(options.out, real, page, command, each_feature=False)
    return OK


def _compare(options: argparse.Namespace) -> int:
    from ..evaluation.likeness import read_real

    command = f"{PROGRAM} compare {options.folder} {options.real} --out {options.out}"
    command += " --each-feature" * options.each_feature
    limits = dict(options.brighter_than)
    if limits:
        command += " --brighter-than " + " ".join(f"{band}={limit:g}" for band, limit in limits.items())
    real = read_real(options.real)
    _write_likeness(
        options.folder, real, options.out, command, each_feature=options.each_feature, limits=limits
    )
    return OK


def _limit(text: str) -> tuple[str, float]:
    from .survey import SDSS

    band, _, limit = text.partition("=")
    try:
        magnitude = float(limit)
    except ValueError:
        magnitude = math.nan
    if band not in SDSS.bands or not math.isfinite(magnitude):
        raise argparse.ArgumentTypeError(f"{text!r} is no limit such as u=19.6 in one of u, g, r, i, z")
    return band, magnitude


def _write_likeness(
    folder: Path,
    real: Sample,
    page: Path,
    command: str,
    *,
    each_feature: bool,
    limits: Mapping[str, float] | None = None,
) -> None:
    from ..evaluation import likeness
    from ..evaluation.likeness_page import text, write_page
    from .store import read_store

    survey = read_store(folder)
    if not survey.simulated:
        raise DataError("is not simulated", where=folder, expected="a simulated survey store")
    both = (s.within(limits or {}) for s in (likeness.of_survey(survey, folder.name), real))
    found = likeness.compare(*both, each_feature=each_feature)
    print(f"\n{text(found)}")
    write_page(found, page, command)
    print(f"\nwritten to {page}")


def _ingest(options: argparse.Namespace) -> int:
    from .sdss.files import find_fields
    from .sdss.ingest import IngestReport, ingest_fields
    from .store import StoreWriter, read_manifest
    from .survey import SDSS

    report = IngestReport()
    fields = ingest_fields(
        options.folders,
        modes=options.modes,
        require_clean=not options.keep_unclean,
        skip_broken=options.skip_broken,
    )
    # Each field comes with its own two lists; the store has those of all.
    lists: dict[str, list[object]] = {"fields": [], "files": []}
    with (
        on_interrupt(_NOT_WRITTEN),
        StoreWriter(
            options.out,
            SDSS,
            name=options.out.resolve().name,
            simulated=False,
            provenance={},
            overwrite=options.overwrite,
        ) as writer,
    ):
        with Progress(len(find_fields(options.folders)), "reading", "fields") as progress:
            for chunk, account in fields:
                writer.append(chunk)
                report += account
                for name, entries in lists.items():
                    entries += chunk.provenance[name]
                writer.provenance.update({**chunk.provenance, **lists, "report": report.to_dict()})
                progress.update(1, kept=report.kept)
        print(report.table())
        if not report.kept:
            raise DataError("no object was kept, so no store is written", where=options.out)
    _print_written(options.out, read_manifest(options.out))
    if options.check:
        from .sdss.check import check_ingest
        from .store import read_store

        check = check_ingest(read_store(options.out))
        print(f"\n{check.table()}")
        return OK if check.agrees else FAILURE
    return OK


def _photometry(options: argparse.Namespace) -> int:
    from .sdss.files import find_fields
    from .sdss.photometry_check import check_photometry

    for k, files in enumerate(find_fields(options.folders)):
        print(f"{chr(10) * (k > 0)}{check_photometry(files, sky=options.sky).table()}")
    return OK


def _import(options: argparse.Namespace) -> int:
    from .margnet import EXPERIMENTS, read_margnet
    from .survey import CLASSES, TASKS

    if not options.folder.is_dir():
        raise DataError(
            "is no directory", where=options.folder, expected="a folder with X_exp1.npy and its companions"
        )
    contents: list[list[object]] = []
    splits: list[list[object]] = []
    problems: list[str] = []
    for experiment, task in itertools.product(EXPERIMENTS, TASKS):
        try:
            survey = read_margnet(options.folder, experiment, task, require_images=False)
        except DataError as error:
            problems.append(str(error))
            continue
        counts = [int((survey.label == k).sum()) for k in range(len(CLASSES))]
        contents.append([str(experiment), task, len(survey), *counts, bool(survey.provenance["images"])])
        splits += _split_rows(survey, experiment, task)
    if contents:
        print(table(["experiment", "task", "objects", *CLASSES, "images"], contents))
    if splits:
        print("\npublished splits")
        print(table(["experiment", "task", "recipe", "set", "objects", "fingerprint"], splits))
    for problem in dict.fromkeys(problems):  # the two tasks of an experiment may share their files
        print(f"not usable: {problem}")
    if not any(row[-1] for row in contents):
        raise DataError(
            "no experiment is complete with its images, so none can be trained on", where=options.folder
        )
    return OK


def _split_rows(survey: Survey, experiment: int, task: str) -> Iterator[list[object]]:
    """Yield what each published split of one experiment consists of."""
    from .margnet import RECIPES, published_experiment_split
    from .splits import fingerprint

    recipes: dict[tuple[float, float], list[str]] = {}  # those of the same fractions are one split
    for name, fractions in RECIPES.items():
        if experiment in fractions:
            recipes.setdefault(fractions[experiment], []).append(name)
    for names in recipes.values():
        split = published_experiment_split(survey, experiment, task, names[0])
        for side, rows in (("train", split.train), ("val", split.val), ("test", split.test)):
            objid = survey.objid[rows]
            yield [str(experiment), task, ", ".join(names), side, len(objid), fingerprint(objid)]


def _verify(options: argparse.Namespace) -> int:
    from .store import read_manifest, verify_store

    manifest = read_manifest(options.folder)
    with Progress(manifest.count, "checking", "stamps") as progress:
        check = verify_store(options.folder, progress=progress.update)
    for problem in check.problems:
        print(f"problem: {problem}")
    if not check.ok:
        noun = "problem" if len(check.problems) == 1 else "problems"
        print(f"{options.folder}: {len(check.problems)} {noun}")
        return FAILURE
    print(f"{options.folder}: sound; {manifest.count:,} objects in {len(manifest.files)} files")
    return OK


def _show(options: argparse.Namespace) -> int:
    import numpy as np

    from ..evaluation.style import save_png
    from ..evaluation.view_gallery import view_gallery
    from .store import read_store

    survey = read_store(options.folder)
    shown = min(options.objects, len(survey))
    order = np.argsort(survey.r_obs, kind="stable")
    rows = order[np.linspace(0, len(survey) - 1, shown).astype(np.int64)]
    save_png(view_gallery(survey, rows, seed=options.seed), options.out)
    print(f"{options.out}: {shown} objects of {options.folder}")
    return OK


def _info(options: argparse.Namespace) -> int:
    from .store import read_manifest, read_store

    manifest = read_manifest(options.folder)
    survey = read_store(options.folder)
    print(_headline(manifest))
    print()
    print(_class_table(survey))
    print()
    print(_population_table(survey))
    if manifest.provenance:
        print("\nprovenance")
        print(_indented(manifest.provenance))
    return OK


def _print_written(folder: Path, manifest: Manifest) -> None:
    print(_headline(manifest))
    rows = [(name, number) for name, number in manifest.counts.items() if number]
    print(table(["class", "objects"], rows))
    print(f"written to {folder}")


def _headline(manifest: Manifest) -> str:
    profile = manifest.profile
    megabytes = sum(entry.bytes for entry in manifest.files) / 1e6
    kind = "SIMULATED objects" if manifest.simulated else "objects"
    return (
        f"{manifest.name}: {manifest.count:,} {kind} of {profile.name}\n"
        f"bands {''.join(profile.bands)}, {profile.stamp_size} x {profile.stamp_size} pixels of"
        f" {profile.pixel_scale_arcsec:g} arcsec; 1 {profile.flux_unit} is {profile.zero_point:g} mag\n"
        f"{len(manifest.files)} files, {megabytes:,.1f} MB, written {manifest.created} by {manifest.software}"
    )


def _members(survey: Survey) -> dict[str, np.ndarray]:
    """Return the objects of each class there is, as masks."""
    from .survey import CLASSES, UNKNOWN

    by_class = {name: survey.label == k for k, name in enumerate(CLASSES)}
    by_class["UNKNOWN"] = survey.label == UNKNOWN
    return {name: mask for name, mask in by_class.items() if mask.any()}


def _class_table(survey: Survey) -> str:
    import numpy as np

    shares = (5, 50, 95)
    quantities = {f"{survey.profile.reference_band}_obs": survey.r_obs, "compactness": survey.compactness}
    header = ["class", "objects", *(f"{name} {share}%" for name in quantities for share in shares)]
    rows = [
        [
            name,
            int(mask.sum()),
            *(float(v) for values in quantities.values() for v in np.percentile(values[mask], shares)),
        ]
        for name, mask in _members(survey).items()
    ]
    return table(header, rows, decimals=2)


def _population_table(survey: Survey) -> str:
    from .populations import POPULATIONS, cut

    members = _members(survey)
    masks = {name: cut(survey, name) for name in POPULATIONS}
    rows = [
        [name, *(int((mask & mine).sum()) for mine in members.values()), int(mask.sum())]
        for name, mask in masks.items()
    ]
    return table(["population", *members, "together"], rows)


def _indented(value: Mapping[str, object], depth: int = 1) -> str:
    """Return nested mappings as indented lines; a list of records is only counted."""
    lines = []
    for key, entry in value.items():
        head = f"{'  ' * depth}{key}:"
        if isinstance(entry, dict) and entry:
            lines += [head, _indented(entry, depth + 1)]
        elif isinstance(entry, list) and any(isinstance(item, dict | list) for item in entry):
            lines.append(f"{head} {len(entry)} listed in survey.json")
        else:
            lines.append(f"{head} {entry}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
