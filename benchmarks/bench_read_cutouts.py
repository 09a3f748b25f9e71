"""Many small FITS files to one array of float32: against fitsio, astropy and the system calls alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast import _native
from margformer_fast.data.cutouts import read_cutouts
from margformer_fast.ops.decode import Scaling

NUM_FILES = 2000
SHAPE = (5, 32, 32)
PIXELS = {
    "BITPIX -32": (">f4", Scaling()),
    # No blank is stored: fitsio would return it as a number.
    "BITPIX 16, scaled": (">i2", Scaling(0.25, 1000.0)),
}


def read_float32(paths: list[str]) -> np.ndarray:
    return read_cutouts(paths, decode=True).parts[0]


def read_stored(paths: list[str]) -> np.ndarray:
    """What a training run keeps: pixels as they are in the files."""
    return read_cutouts(paths).parts[0]


def read_fitsio(paths: list[str]) -> np.ndarray:
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    out = np.empty((len(paths), *SHAPE), np.float32)
    for row, path in enumerate(paths):
        out[row] = fitsio.read(path)
    return out


def read_astropy(paths: list[str]) -> np.ndarray:
    from astropy.io import fits

    out = np.empty((len(paths), *SHAPE), np.float32)
    for row, path in enumerate(paths):
        out[row] = fits.getdata(path, memmap=False)
    return out


def system_calls(paths: list[str]) -> int:
    """Open, ask for the size, read into one buffer, close: what no reader of files can do without."""
    buffer = bytearray(1 << 20)
    size = 0
    for path in paths:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.fstat(handle)
        size += os.readv(handle, [buffer])
        os.close(handle)
    return size


WAYS: dict[str, tuple[Callable[[list[str]], np.ndarray | int], str | None]] = {
    "ours, 1 thread": (read_float32, "1"),
    "ours, all threads": (read_float32, None),
    "ours as stored, 1 thread": (read_stored, "1"),
    "ours as stored, all threads": (read_stored, None),
    "fitsio": (read_fitsio, None),
    "astropy": (read_astropy, None),
    "system calls alone, from Python": (system_calls, None),
}


@pytest.fixture(scope="module", params=PIXELS)
def cutouts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """2,000 files with headers of their own, in the page cache: name, stored pixels, scaling and paths."""
    from astropy.io import fits

    dtype, scaling = PIXELS[request.param]
    rng = np.random.default_rng()
    stored = rng.normal(0, 3000, (NUM_FILES, *SHAPE)).astype(dtype)
    hdu = fits.PrimaryHDU(stored[0])
    if not scaling.is_identity:
        hdu.header.update(BSCALE=scaling.bscale, BZERO=scaling.bzero)
    folder: Path = tmp_path_factory.mktemp("cutouts")
    paths = []
    for index, pixels in enumerate(stored):
        hdu.header.update(OBJID=index, RA=rng.uniform(0, 360), DEC=rng.uniform(-90, 90), BANDS="ugriz")
        content = hdu.header.tostring().encode() + pixels.tobytes()
        path = folder / f"{index:05d}.fits"
        path.write_bytes(content + bytes(-len(content) % 2880))
        paths.append(str(path))
    return request.param, stored, scaling, paths


@pytest.mark.parametrize("way", WAYS)
def bench_read_cutouts(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, cutouts: tuple[object, ...], way: str
) -> None:
    """A list of paths becomes one array of shape (2000, 5, 32, 32)."""
    name, stored, scaling, paths = cutouts
    read, threads = WAYS[way]
    if threads is not None:
        monkeypatch.setenv(_native.THREADS_VARIABLE, threads)
    found = read(paths)
    if way.startswith("system calls"):
        assert found == sum(Path(path).stat().st_size for path in paths)
    elif "as stored" in way:
        np.testing.assert_array_equal(found, stored)
    else:
        physical = scaling.bzero + scaling.bscale * stored.astype(np.float64)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, physical.astype(np.float32))
    benchmark.group = f"read {NUM_FILES} cut-outs, {name}"
    benchmark.extra_info.update(files=NUM_FILES)
    benchmark(read, paths)
