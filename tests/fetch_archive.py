"""A small archive for tests of fetching: synthetic fields, or real ones, under the paths of the real one."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from sdss_files import (
    BANDS,
    CAMCOL,
    COLUMNS,
    ROWS,
    RUN,
    catalogue_columns,
    catalogue_name,
    frame_name,
    write_catalogue,
    write_frame,
)

from margformer_fast.data.fetch.archive import Archive, FieldId
from margformer_fast.data.sdss import objid as objids

COMMAND = [sys.executable, "-m", "margformer_fast.data", "fetch"]
QUICK = ["--timeout", "0.5", "--wait", "0.01", "--sql-interval", "0.001"]
"""Options with which a misbehaving server does not cost minutes."""


@functools.cache
def frame_bytes(band: str) -> bytes:
    """One frame; that of every synthetic field, which lie on top of each other on the sky."""
    with tempfile.TemporaryDirectory() as folder:
        return write_frame(Path(folder), band).read_bytes()


def synthetic_field(
    rng: np.random.Generator, field: int, count: int = 6
) -> tuple[dict[str, bytes], np.ndarray]:
    """Return the files of a field as they lie in a folder, by name, and the identifiers in it."""
    x, y = rng.uniform(25, COLUMNS - 25, count), rng.uniform(25, ROWS - 25, count)
    columns = catalogue_columns(x, y)
    ids = objids.encode(RUN, CAMCOL, field, np.arange(1, count + 1))
    columns["OBJID"] = np.array([str(i) for i in ids], "S19")
    with tempfile.TemporaryDirectory() as folder:
        name = catalogue_name(field=field)
        catalogue = write_catalogue(Path(folder), columns, name).read_bytes()
    frames = {f"{frame_name(band, field=field)}.bz2": bz2.compress(frame_bytes(band)) for band in BANDS}
    image = fits.PrimaryHDU(rng.normal(size=(9, 9)).astype(np.float32))  # of the form, not the content
    psfield = {f"psField-{RUN:06d}-{CAMCOL}-{field:04d}.fit": fits_bytes(image)}
    return {name: catalogue, **frames, **psfield}, ids


def fits_bytes(hdu: fits.PrimaryHDU) -> bytes:
    """Return a FITS file of one HDU."""
    stream = io.BytesIO()
    hdu.writeto(stream)
    return stream.getvalue()


def real_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a real field as the archive has them: frames packed, the rest not."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".gz":
            files[path.name.removesuffix(".gz")] = gzip.decompress(path.read_bytes())
        elif path.name.startswith("frame-"):
            files[path.name] = path.read_bytes()
    return files


def archived(files: dict[str, bytes], release: int = 16) -> dict[str, bytes]:
    """Return files by their paths in the archive."""
    placed = {}
    for name, content in files.items():
        run, camcol, field = map(int, re.search(r"-(\d{6})-(\d)-(\d{4})\.", name).groups())
        remotes = Archive(release, "http://x").files(FieldId(run, camcol, field), psfield=True)
        placed |= {r.url.removeprefix("http://x"): content for r in remotes if r.name == name}
    assert len(placed) == len(files)
    return placed


def put_down(files: dict[str, bytes], folder: Path) -> Path:
    """Write files into a folder, for `ingest`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as users do, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    given = [*COMMAND, *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, env=environment, check=False)


def store_bytes(store: Path) -> dict[str, bytes]:
    """Return the FITS files of a store without the dates in their headers."""
    date = re.compile(rb"DATE    = '[^']*'")
    return {path.name: date.sub(b"DATE", path.read_bytes()) for path in sorted(store.glob("*.fits"))}
