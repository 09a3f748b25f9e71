"""A HATS catalogue of simulated objects with stamps, classified by LSDB on Dask workers and by `classify`.

    python benchmarks/classify_catalogue.py MODEL [--rows 20000 40000] [--workers 2]

Simulated objects of the quick survey are repeated with new identifiers and places on the sky until there are
enough; nothing about rates depends on their being different. Printed for each size: objects a second and the
largest resident memory of a worker, for `classify_frame` mapped over the partitions and for the command. Then
the command is killed half way, begun again, and every identifier is looked for in what it wrote.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import warnings
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
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            place = _catalogue(Path(folder) / str(rows), rows)
            found.append((f"{rows:,}", "LSDB", *_by_lsdb(place, options.model, options.workers, rows)))
            out = Path(folder) / f"out-{rows}"
            found.append((f"{rows:,}", "command", *_by_command(place, options.model, out, rows)))
        print(cli.table(("objects (simulated)", "by", "objects/s", "largest memory, MiB"), found))
        print(_killed(place, options.model, Path(folder) / "killed", rows))
    return cli.OK


def _catalogue(place: Path, rows: int) -> Path:
    import lsdb
    import pandas as pd

    preset = PRESETS["quick"]
    survey = read_store(made_once(preset.num_compact, preset.num_faint)).select(np.arange(_DIFFERENT))
    which, rng = np.arange(rows) % _DIFFERENT, np.random.default_rng(0)
    stamps = [each.tobytes() for each in survey.stamps.decode().astype("<f4")]
    columns = dict(zip(survey.profile.feature_names, survey.features[which].T, strict=True))
    frame = pd.DataFrame(
        {
            "objid": np.arange(rows),
            "ra": rng.uniform(0, 360, rows),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, rows))),
            **columns,
            "stamp": [stamps[k] for k in which],
        }
    )
    catalogue = lsdb.from_dataframe(
        frame, ra_column="ra", dec_column="dec", lowest_order=0, highest_order=5, partition_rows=2500
    )
    catalogue.to_hats(place, catalog_name="simulated")
    return place


def _by_lsdb(place: Path, model: Path, workers: int, rows: int) -> tuple[float, float]:
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
    if sorted(found["objid"]) != list(range(rows)):
        raise SystemExit("rows were lost or doubled")
    return rows / seconds, max(memory.values())


def _command(place: Path, model: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "margformer_fast.classify", str(model), str(place), "--out", str(out)]


def _by_command(place: Path, model: Path, out: Path, rows: int) -> tuple[float, float]:
    started, peak = time.monotonic(), 0.0
    process = subprocess.Popen(
        _command(place, model, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(0.05)
    return rows / (time.monotonic() - started), peak


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


def _killed(place: Path, model: Path, out: Path, rows: int) -> str:
    import lsdb

    command, work = _command(place, model, out), out.with_name(f".{out.name}.classify")
    partitions = len(list(place.rglob("dataset/**/Npix=*.parquet")))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(work.glob("*.npz"))) < partitions // 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list(work.glob("*.npz")))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    objid = np.sort(lsdb.open_catalog(out).compute()["objid"].to_numpy())
    whole = np.array_equal(objid, np.arange(rows))
    verdict = "every object is there once" if whole else "ROWS WERE LOST OR DOUBLED"
    return f"killed with {before} of {partitions} pieces done, begun again: {len(objid):,} rows, {verdict}"


if __name__ == "__main__":
    raise SystemExit(main())
