"""A HATS catalogue of simulated objects with stamps, classified by LSDB on Dask workers and by `classify`.

    python benchmarks/classify_catalogue.py MODEL [--rows 20000 40000] [--workers 2]

Simulated objects of the quick survey are repeated with new identifiers and places on the sky until there are
enough; nothing about rates depends on their being different. Printed for each size: objects a second and the
largest resident memory of a worker, for `classify_frame` mapped over the partitions and for the command,
which is killed half way and begun again. Every identifier is looked for in what either made. A million
objects take 20 GB in --folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from margformer_fast import classify_frame, classify_meta, cli
from margformer_fast.data.simulated import made_once
from margformer_fast.data.store import read_store
from margformer_fast.experiments import PRESETS

_DIFFERENT = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=cli.positive, nargs="+", default=[20_000, 40_000])
    parser.add_argument("--workers", type=cli.positive, default=2)
    parser.add_argument("--folder", type=Path, help="for the catalogues (the system's temporary folder)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for rows in options.rows:
            folder = Path(name) / str(rows)
            place = _catalogue(folder, rows, options.workers)
            found.append((f"{rows:,}", "LSDB", *_by_lsdb(place, options.model, options.workers, rows)))
            print("  ".join(map(str, found[-1])), file=sys.stderr, flush=True)
            found.append((f"{rows:,}", "command", *_by_command(place, options.model, folder / "out", rows)))
            print("  ".join(map(str, found[-1])), file=sys.stderr, flush=True)
    heads = ("objects (simulated)", "by", "objects/s", "largest memory, MiB", "pieces at the kill")
    print(cli.table(heads, found))
    print("every object is there once in all of them")
    return cli.OK


def _catalogue(folder: Path, rows: int, workers: int) -> Path:
    """Write the catalogue piece by piece: with stamps it may be larger than memory."""
    import lsdb
    import pandas as pd
    from dask.distributed import Client

    preset = PRESETS["quick"]
    survey = read_store(made_once(preset.num_compact, preset.num_faint)).select(np.arange(_DIFFERENT))
    rng = np.random.default_rng(0)
    folder.mkdir()
    np.save(folder / "stamps.npy", survey.stamps.decode().astype("<f4"))
    columns = dict(
        zip(survey.profile.feature_names, survey.features[np.arange(rows) % _DIFFERENT].T, strict=True)
    )
    frame = pd.DataFrame(
        {
            "objid": np.arange(rows),
            "ra": rng.uniform(0, 360, rows),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, rows))),
            **columns,
        }
    )
    catalogue = lsdb.from_dataframe(
        frame,
        ra_column="ra",
        dec_column="dec",
        lowest_order=0,
        highest_order=5,
        partition_rows=2500,
        margin_threshold=None,
    )
    with Client(n_workers=workers, threads_per_worker=1, dashboard_address=None):
        catalogue.map_partitions(partial(_with_stamps, file=folder / "stamps.npy")).to_hats(
            folder / "catalogue", catalog_name="simulated"
        )
    return folder / "catalogue"


def _with_stamps(frame, file: Path):
    import pandas as pd

    stamps = np.load(file, mmap_mode="r")
    stamp = [stamps[k % len(stamps)].tobytes() for k in frame["objid"]]
    return frame.assign(stamp=pd.Series(stamp, index=frame.index, dtype=object))  # of an empty frame too


def _by_lsdb(place: Path, model: Path, workers: int, rows: int) -> tuple[float, float, str]:
    import lsdb
    from dask.distributed import Client

    with Client(n_workers=workers, threads_per_worker=1, dashboard_address=None) as client:
        lazy = lsdb.open_catalog(place).map_partitions(
            classify_frame, model=str(model), meta=classify_meta(model)
        )
        client.run(lambda: classify_meta(model))  # each worker has read the model before the clock starts
        started = time.monotonic()
        found = lazy.compute()
        seconds = time.monotonic() - started
        memory = client.run(_peak)
    _every_object_once(found["objid"], rows)
    return rows / seconds, max(memory.values()), "-"


def _by_command(place: Path, model: Path, out: Path, rows: int) -> tuple[float, float, str]:
    """Classify by the command, killed with half of its pieces done and begun again."""
    import lsdb

    command = [sys.executable, "-m", "margformer_fast.classify", str(model), str(place), "--out", str(out)]
    work = out.with_name(f".{out.name}.classify")
    pieces = len(list(place.rglob("dataset/**/Npix=*.parquet")))
    started, peak, killed = time.monotonic(), 0.0, -1
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(0.05)
        if killed < 0 and (done := len(list(work.glob("*.npz")))) >= pieces // 2:
            process.kill()
            process.wait()
            killed = done
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    if process.returncode or killed < 0:
        raise SystemExit(f"the command ended with {process.returncode}, killed at {killed} of {pieces}")
    _every_object_once(lsdb.open_catalog(out).compute()["objid"], rows)
    return rows / seconds, peak, f"{killed} of {pieces}"


def _every_object_once(objid, rows: int) -> None:
    if not np.array_equal(np.sort(objid.to_numpy()), np.arange(rows)):
        raise SystemExit("rows were lost or doubled")


def _peak(process: int | str = "self") -> float:
    """Return the largest resident memory of a process in MiB; 0 once it is gone.

    Not that of getrusage, which a process inherits from the one that started it.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


if __name__ == "__main__":
    sys.exit(main())
