"""Raw FITS pixels to float32: against NumPy and a plain copy; small FITS files against astropy and fitsio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast import _native
from margformer_fast.data.fits import image_from_bytes
from margformer_fast.ops.decode import Scaling, decode
from margformer_fast.ops.decode_on_device import RawLayout, decode_on_device

NUM_STAMPS = 2000
NUM_FILES = 500
SHAPE = (5, 32, 32)
PIXELS = {
    "f4": (">f4", Scaling()),
    "i2 scaled, blanks": (">i2", Scaling(0.25, 1000.0, -32768)),
}


def random_stamps(rng: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    return rng.normal(0, 3000, (count, *SHAPE)).astype(dtype)


def run_decode(raw: np.ndarray, rows: np.ndarray, scaling: Scaling, backend: str) -> np.ndarray:
    return decode(raw, rows, scaling, backend=backend)


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("way", ["cpp, 1 thread", "cpp, all threads", "reference", "plain copy"])
def bench_decode(
    benchmark: BenchmarkFixture,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    pixels: str,
    way: str,
) -> None:
    """2,000 stamps of 5 x 32 x 32 in random order, 41 MB of float32; the copy writes as many, in order."""
    dtype, scaling = PIXELS[pixels]
    raw, rows = random_stamps(rng, dtype, NUM_STAMPS), rng.permutation(NUM_STAMPS)
    benchmark.group = f"decode {NUM_STAMPS} stamps, {pixels}"
    benchmark.extra_info.update(megabytes_out=rows.size * np.prod(SHAPE) * 4 / 1e6)
    if way == "plain copy":
        benchmark(np.copy, np.ones((NUM_STAMPS, *SHAPE), np.float32))
        return
    backend = way.partition(",")[0]
    if way.endswith("1 thread"):
        monkeypatch.setenv(_native.THREADS_VARIABLE, "1")
    expected = scaling.bzero + scaling.bscale * raw[rows].astype(np.float64)
    if scaling.blank is not None:
        expected[raw[rows] == scaling.blank] = np.nan
    np.testing.assert_array_equal(run_decode(raw, rows, scaling, backend), expected.astype(np.float32))
    benchmark(run_decode, raw, rows, scaling, backend)


def read_ours(path: Path) -> np.ndarray:
    return image_from_bytes(path.read_bytes(), name=path).pixels()


def read_astropy(path: Path) -> np.ndarray:
    from astropy.io import fits

    return np.asarray(fits.getdata(path, memmap=False), np.float32)


def read_fitsio(path: Path) -> np.ndarray:
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    return np.asarray(fitsio.read(path), np.float32)


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "ours": read_ours,
    "astropy": read_astropy,
    "fitsio": read_fitsio,
}


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("reader", READERS)
def bench_read_cutouts(
    benchmark: BenchmarkFixture,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pixels: str,
    reader: str,
) -> None:
    """500 files of one 5 x 32 x 32 image each, in the page cache, to native float32 on one thread."""
    from astropy.io import fits

    dtype, scaling = PIXELS[pixels]
    monkeypatch.setenv(_native.THREADS_VARIABLE, "1")
    paths = []
    for index, stored in enumerate(random_stamps(rng, dtype, NUM_FILES)):
        hdu = fits.PrimaryHDU(stored)
        if not scaling.is_identity:
            # No blank is stored: fitsio would return it as a number.
            hdu.header.update(BSCALE=scaling.bscale, BZERO=scaling.bzero)
        paths.append(tmp_path / f"{index}.fits")
        hdu.writeto(paths[-1])
        expected = (scaling.bzero + scaling.bscale * stored.astype(np.float64)).astype(np.float32)
        np.testing.assert_array_equal(READERS[reader](paths[-1]), expected)

    def read_all() -> None:
        for path in paths:
            READERS[reader](path)

    benchmark.group = f"read {NUM_FILES} FITS cutouts, {pixels}"
    benchmark(read_all)


@pytest.mark.gpu
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("way", ["cuda", "plain copy"])
def bench_decode_on_device(
    benchmark: BenchmarkFixture, rng: np.random.Generator, cuda: torch.device, pixels: str, way: str
) -> None:
    """65,536 stamps gathered on the GPU, ten launches a round, one wait; beside it copies of its output."""
    dtype, scaling = PIXELS[pixels]
    stored = random_stamps(rng, dtype, 65_536)
    described, layout = RawLayout.describe(stored)
    raw = torch.from_numpy(described.copy()).to(cuda)
    order = rng.permutation(len(stored))
    rows = torch.from_numpy(order).to(cuda)

    def launch() -> torch.Tensor:
        return decode_on_device(raw, rows, layout, scaling, check_rows=False, backend="cuda")

    out = launch()
    wanted = torch.from_numpy(decode(stored, order, scaling, backend="reference"))
    assert torch.equal(out.cpu().view(torch.int32), wanted.view(torch.int32))

    def ten_and_wait() -> None:
        for _ in range(10):
            launch() if way == "cuda" else out.clone()
        torch.cuda.synchronize()

    benchmark.group = f"decode 10 x {len(stored)} stamps on the GPU, {pixels}"
    benchmark.extra_info.update(megabytes_in=raw.numel() * 10 / 1e6, megabytes_out=out.numel() * 40 / 1e6)
    benchmark.pedantic(ten_and_wait, rounds=20, warmup_rounds=3)
