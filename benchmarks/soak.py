"""Does a process that works for hours grow? ``python benchmarks/soak.py --hours 8 --out soak``.

Not a timing. One process goes round: simulate a small survey into a store; open and close thousands of FITS
files, and stores; train for a few steps, with checkpoints; classify the store with the command; predict from
several threads at once. After each round it notes its resident memory, its open files and its threads in
``soak.csv``; at the end it draws ``soak.png`` and says whether they stayed as they were.

The criterion, set before anything was looked at. The first quarter is warm-up: caches fill, and the allocator
finds its size. Over the rest a line is fitted to the memory, through means of 20 stretches of time, so that
what belongs together counts once. Flat is: the upper end of the 95 % interval of the slope is below 4 MiB an
hour, and in no round after the warm-up were more files open, or more threads alive, than at its end.

glibc gives worker threads heaps of their own, which grow in steps for a long while as threads come and go;
with ``MALLOC_ARENA_MAX=1`` in the environment there is one heap, and what grows then is the process itself.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import gc
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from margformer_fast import Classifier, classify, cli
from margformer_fast.config import AugmentConfig, FitConfig, ModelConfig
from margformer_fast.data import simulate
from margformer_fast.data.cutouts import read_cutouts
from margformer_fast.data.fits import map_image
from margformer_fast.data.simulated import write_simulated
from margformer_fast.data.store import read_store, verify_store
from margformer_fast.data.survey import TASKS, Survey
from margformer_fast.learning.classify import train_classifier
from margformer_fast.learning.pretrain import pretrain
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder

COLUMNS = ("round", "hours", "rss_mib", "handles", "threads")
MODEL = "simulated-sg"
ALLOWED = 4.0  # MiB an hour
WARM_UP = 0.25
STRETCHES = 20
THREADS = 4
TINY = ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8)


@dataclass(frozen=True)
class Size:
    """How much is done in a round."""

    objects: int = 48
    files: int = 500
    passes: int = 4
    stores: int = 50


def resident_mib() -> float:
    """Return the resident memory once what is free has been given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # the C library may be another
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def census(number: int, started: float) -> tuple[int, float, float, int, int]:
    """Return a row of the table."""
    rss = resident_mib()
    # Listing the folder opens it.
    handles = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    return number, (time.monotonic() - started) / 3600, rss, handles, threads


def write_files(folder: Path, survey: Survey, count: int) -> list[str]:
    """Write stamps as FITS files of their own, over and over until there are `count`."""
    from astropy.io import fits

    pixels = survey.stamps.decode()
    paths = []
    for k in range(count):
        path = folder / f"{k:05d}.fits"
        fits.PrimaryHDU(pixels[k % len(pixels)]).writeto(path)
        paths.append(str(path))
    return paths


def open_and_close(paths: list[str], store: Path, size: Size) -> None:
    """Read every file, map every file and open the store, again and again."""
    for _ in range(size.passes):
        read_cutouts(paths, decode=True)
        for path in paths:
            assert map_image(path).pixels().shape[-1] == 32
    for _ in range(size.stores):
        assert len(read_store(store)) == size.objects
    assert verify_store(store).ok


def train_a_little(survey: Survey, folder: Path, seed: int) -> None:
    """Pre-train and train a small model, with checkpoints."""
    classes = TASKS["sgq"]
    samples = Samples(survey, classes, torch.device("cpu"), "training")
    model = ScaledEncoder(TINY, len(classes))
    model.inputs.fit(samples.photometry, torch.from_numpy(samples.pixel_noise()))
    once = FitConfig(1, 1, 16, 1e-3)
    told = {"precision": "fp32", "seed": seed, "directory": folder}
    views = AugmentConfig()
    pretrain(model, samples, samples, once, views, photometry="varied", label="pre-training", **told)
    train_classifier(model, samples, samples, once, views, name="finetune", label="training", **told)


def predict_together(survey: Survey) -> None:
    """Load the model, and predict with it from several threads at once."""
    model = Classifier.load(MODEL, device="cpu")
    images, features = survey.stamps.decode(), survey.features
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda _: model.predict(images, features).probability, range(THREADS)))
    assert all(np.array_equal(each, found[0]) for each in found)


def one_round(number: int, paths: list[str], folder: Path, size: Size) -> None:
    """Do all of it once, in a folder that is empty before and after."""
    store = folder / "survey"
    write_simulated(store, size.objects, 0, seed=number)
    open_and_close(paths, store, size)
    survey = read_store(store)
    train_a_little(survey, folder, number)
    code = cli.run(classify.main, [MODEL, str(store), "--out", str(folder / "classes.fits")])
    assert code == cli.OK
    predict_together(survey)
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


@contextlib.contextmanager
def small_blocks() -> Iterator[None]:
    """Draw 64 objects from a stream, not 1,024: another survey, much sooner."""
    before = simulate.BLOCK
    simulate.BLOCK = 64
    try:
        yield
    finally:
        simulate.BLOCK = before


def soak(
    hours: float,
    out: Path,
    *,
    share: float,
    size: Size,
    at_least: int = 1,
    told: Callable[[str], object] = print,
) -> np.ndarray:
    """Go round for some hours and return the table, a row a round; it is in ``soak.csv`` as it grows."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[int, float, float, int, int]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        open(out / "soak.csv", "w", encoding="ascii", newline="") as file,
        small_blocks(),
        contextlib.redirect_stderr(io.StringIO()) as noise,
        contextlib.redirect_stdout(io.StringIO()) as words,
    ):
        kept, folder = Path(name) / "files", Path(name) / "round"
        kept.mkdir()
        folder.mkdir()
        write_simulated(folder / "first", size.objects, 0, seed=0)
        paths = write_files(kept, read_store(folder / "first"), size.files)
        shutil.rmtree(folder / "first")
        table = csv.writer(file)
        table.writerow(COLUMNS)
        started, number = time.monotonic(), 0
        while time.monotonic() - started < 3600 * hours or number < at_least:
            number += 1
            begun, used = time.monotonic(), time.process_time()
            one_round(number, paths, folder, size)
            for stream in (noise, words):
                stream.seek(0)
                stream.truncate()
            rows.append(census(number, started))
            table.writerow([number, *(f"{value:.4f}" for value in rows[-1][1:3]), *rows[-1][3:]])
            file.flush()
            with contextlib.redirect_stdout(sys.__stdout__):
                told("round {:d}, {:.2f} h: {:.1f} MiB, {:d} open files, {:d} threads".format(*rows[-1]))
            wanted = (time.process_time() - used) / share
            time.sleep(max(0.0, wanted - (time.monotonic() - begun)))
    return np.array(rows)


def slope(hours: np.ndarray, mib: np.ndarray) -> tuple[float, float]:
    """Return the slope in MiB an hour and half the width of its 95 % interval, from means of stretches."""
    place = np.minimum((hours - hours[0]) / (np.ptp(hours) or 1) * STRETCHES, STRETCHES - 1).astype(int)
    filled = np.unique(place)
    x, y = (np.array([values[place == k].mean() for k in filled]) for values in (hours, mib))
    if len(x) < 3:
        return float("nan"), float("inf")
    x = x - x.mean()
    rate = (x @ y) / (x @ x)
    left = y - y.mean() - rate * x
    error = np.sqrt((left @ left) / (len(x) - 2) / (x @ x))
    return float(rate), float(student.ppf(0.975, len(x) - 2) * error)


def judge(rows: np.ndarray) -> tuple[bool, str]:
    """Say whether the rounds after the warm-up are flat, and how flat."""
    first = int(np.ceil(WARM_UP * len(rows)))
    rest, warm = rows[first:], rows[max(first - 1, 0)]
    if len(rest) < 3:
        return False, f"{len(rows)} rounds are too few to judge"
    rate, half = slope(rest[:, 1], rest[:, 2])
    more = [int(rest[:, k].max() - warm[k]) for k in (3, 4)]
    flat = rate + half < ALLOWED and max(more) <= 0
    return flat, (
        f"{len(rows)} rounds in {rows[-1, 1]:.2f} h, {len(rest)} after the warm-up: "
        f"memory {rest[:, 2].min():.1f} to {rest[:, 2].max():.1f} MiB, "
        f"slope {rate:+.2f} +- {half:.2f} MiB an hour (95 %, allowed below {ALLOWED:g}); "
        f"open files {rest[:, 3].min():.0f} to {rest[:, 3].max():.0f} ({warm[3]:.0f} at its end), "
        f"threads {rest[:, 4].min():.0f} to {rest[:, 4].max():.0f} ({warm[4]:.0f}): "
        + ("flat" if flat else "NOT FLAT")
    )


def draw(rows: np.ndarray, path: Path) -> None:
    """Draw memory and handles against hours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    hours = rows[:, 1]
    upper.plot(hours, rows[:, 2], ".", ms=3, color="#0072B2")
    upper.axvspan(0, hours[min(int(np.ceil(WARM_UP * len(rows))), len(rows)) - 1], color="#eeeeee", zorder=0)
    upper.set_ylim(0, 1.15 * rows[:, 2].max())
    upper.set_ylabel("resident memory (MiB)")
    upper.set_title("One process, round after round (shaded: warm-up)", loc="left", fontsize=10)
    for column, name, colour in ((3, "open files", "#D55E00"), (4, "threads", "#009E73")):
        lower.plot(hours, rows[:, column], drawstyle="steps-post", color=colour, label=name)
    lower.set_ylim(0, 1.3 * rows[:, 3:].max())
    lower.set_xlabel("hours")
    lower.legend(frameon=False, ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Soak, draw, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for soak.csv and soak.png")
    parser.add_argument("--share", type=float, default=1.0, help="of a core, at most: it sleeps between (1)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    told = partial(print, flush=True)
    rows = soak(options.hours, options.out, share=options.share, size=Size(), told=told)
    draw(rows, options.out / "soak.png")
    flat, words = judge(rows)
    print(words)
    return cli.OK if flat else cli.FAILURE


if __name__ == "__main__":
    sys.exit(main())
