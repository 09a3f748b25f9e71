"""A trained model over a catalogue: ``python -m margformer_fast.classify MODEL INPUT --out FILE``."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, cli
from .errors import ConfigError, DataError, OutputError
from .files import sha256_file
from .flags import Flag
from .progress import Progress

if TYPE_CHECKING:
    from .catalogue.inputs import Source
    from .catalogue.outputs import Rows
    from .classifier import Classifier

_CHUNK = 4096


def parser() -> cli.Parser:
    """Return the command's parser."""
    p = cli.Parser(
        prog="python -m margformer_fast.classify",
        description="Classify a survey store, a table, a HATS catalogue, or positions on SDSS frames.",
        example="""
python -m margformer_fast.classify simulated-sg survey --out classes.fits
python -m margformer_fast.classify RUN/seed-0/model frames --positions list.csv --ebv 0.03 --out classes.csv
""",
    )
    p.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="model directory, RUN/seed-N/model of a run; or simulated-sg, which comes with the package",
    )
    p.add_argument(
        "input", type=Path, metavar="INPUT", help="what to classify; with --positions a folder of frames"
    )
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to write: .fits, .vot, .ecsv, .csv or .parquet; for a HATS input a name without ending",
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is there")
    p.add_argument("--level", type=cli.fraction, default=0.9, help="of the prediction sets (0.9)")
    p.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="what the table calls objid, ra, dec, stamp or a feature",
    )
    p.add_argument(
        "--positions", type=Path, metavar="FILE", help="table of ra, dec (and objid, ebv) on the frames"
    )
    p.add_argument("--ebv", type=float, metavar="MAG", help="E(B-V) of all positions")
    p.add_argument("--draw", type=Path, metavar="FILE", help="draw the classes over the frames' r image")
    p.add_argument(
        "--chunk", type=cli.positive, default=_CHUNK, metavar="N", help=f"rows in memory together ({_CHUNK})"
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    p.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="fp32", help="of the products (fp32)"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(arguments)
    names = dict(_pair(each) for each in options.columns)
    if (options.draw or options.ebv is not None) and options.positions is None:
        raise ConfigError("--draw and --ebv go with --positions")
    from .catalogue.work import open_work, work_folder

    # Looked at again, more closely, once the model and the input are known.
    if options.out.exists() and not options.overwrite and not work_folder(options.out).exists():
        raise OutputError(
            "already exists", where=options.out, mend="Choose another place, or pass --overwrite."
        )

    from .catalogue.frames import open_frames
    from .catalogue.inputs import open_source
    from .catalogue.outputs import format_of, refuse_other_directory, write
    from .classifier import Classifier, model_directory

    directory = model_directory(options.model)
    model = Classifier.load(directory, device=options.device, precision=options.precision)
    source = (
        open_source(options.input, model.profile, model.config.size, chunk=options.chunk, names=names)
        if options.positions is None
        else open_frames(options.input, options.positions, model.profile, ebv=options.ebv)
    )
    if len(source) == 0:
        raise DataError("has no row", where=options.input, expected="at least one object")
    hats = format_of(options.out, source) == ""
    if hats:
        refuse_other_directory(options.out)
    weights = sha256_file(directory / "model.safetensors")
    settings = {
        "input": source.fingerprint,
        "model": weights,
        "level": options.level,
        "columns": sorted(options.columns),
        "ebv": options.ebv,
        "precision": model.precision,
        "version": __version__,
    }
    start = {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    with open_work(options.out, settings, start, overwrite=options.overwrite) as work:
        again = "what is finished is kept; the same command goes on"
        with cli.on_interrupt(again):
            rate = _classify(model, source, work, options.level, hats)

        def pieces() -> Iterator[Rows]:
            for piece, length in enumerate(source.lengths):
                if length == 0:
                    continue
                rows = work.load(piece, length)
                if rows is None:
                    raise OutputError(
                        "a finished piece was damaged", where=work.folder, mend="Run the command again."
                    )
                yield rows

        about = {
            "SOFTWARE": f"margformer_fast {__version__}",
            "DATE": work.record["date"],
            "MODEL": "/".join(directory.resolve().parts[-3:]),
            "MODELSHA": weights,
            "INPUT": source.name,
            "LEVEL": options.level,
            "SIMTRAIN": model.simulated,
            "FLAGS": ", ".join(f"{bit.value} {bit.name}" for bit in Flag),
        }
        if not work.wrote(options.out):
            write(options.out, source, pieces, about, overwrite=options.overwrite, written=work.writes)
        if options.draw:
            from .catalogue.drawing import draw_field

            parts = list(pieces())
            whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            draw_field(options.draw, options.input, whole, title=f"classified by {about['MODEL']}")
        print(_summary(model, source, pieces(), options.out, rate))
        work.remove()
    return cli.OK


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise ConfigError(f"--columns has {text!r}", expected="NAME=COLUMN")
    return name, column


def _classify(model: Classifier, source: Source, work: Any, level: float, hats: bool) -> float | None:
    """Classify the pieces that are not finished; return objects a second."""
    finished = set(work.finished(source.lengths))
    before = sum(source.lengths[piece] for piece in finished)
    if before:
        print(f"{before:,} of {len(source):,} rows were finished before", file=sys.stderr)
    started = time.monotonic()
    with Progress(len(source), "classifying", "objects", initial=before) as progress:
        for piece in range(len(source.lengths)):
            if piece in finished or source.lengths[piece] == 0:
                continue
            parts: list[Rows] = []
            for columns in source.read(piece):
                table = model.classify(columns, level=level)
                rows = {name: np.asarray(table[name]) for name in table.colnames}
                if hats and "_healpix_29" in columns:
                    rows = {"_healpix_29": np.asarray(columns["_healpix_29"]), **rows}
                parts.append(rows)
                progress.update(len(table))
            if parts:
                work.save(piece, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    done = len(source) - before
    return done / max(time.monotonic() - started, 1e-9) if done else None


def _summary(model: Classifier, source: Source, pieces: Iterator[Rows], out: Path, rate: float | None) -> str:
    """Say what came out."""
    labels, flags, sets, total = Counter[str](), Counter[str](), Counter[str](), 0
    for rows in pieces:
        total += len(rows["flag"])
        labels.update(rows["label"].tolist())
        sets.update(rows["prediction_set"].tolist())
        for bit in Flag:
            flags[bit.name or ""] += int(((rows["flag"] & bit) != 0).sum())
    counts = [
        (name or "not classified", count, f"{100 * count / max(total, 1):.1f} %")
        for name, count in labels.most_common()
    ]
    lines = [f"{source.name}: {total:,} objects" + (f", {rate:,.0f} a second" if rate else "")]
    lines += ["", cli.table(("class", "objects", "share"), counts)]
    several = sum(count for name, count in sets.items() if "+" in name)
    lines += ["", f"{several:,} have more than one class in their prediction set"]
    flagged = [(name, count) for name, count in flags.items() if count]
    if flagged:
        lines += ["", cli.table(("flag", "objects"), flagged)]
    if model.simulated:
        lines += ["", "The model was trained on simulated objects."]
    return "\n".join([*lines, f"written to {out}"])


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
