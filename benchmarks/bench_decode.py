"""Raw FITS pixels to float32: against NumPy and a plain copy, in main memory and on the GPU."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast import _native
from margformer_fast.ops.decode import Scaling, decode
from margformer_fast.ops.decode_on_device import RawLayout, decode_on_device

NUM_STAMPS = 2000
SHAPE = (5, 32, 32)
WAYS = ("cpp, 1 thread", "cpp, all threads", "plain copy")
PIXELS = {
    "f4": (">f4", Scaling()),
    "i2 scaled, blanks": (">i2", Scaling(0.25, 1000.0, -32768)),
}


def random_stamps(rng: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    return (3000 * rng.standard_normal((count, *SHAPE), dtype=np.float32)).astype(dtype)


def decode_into(out: np.ndarray | None, raw: np.ndarray, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Decode into memory that is there; into fresh memory if there is none."""
    out = np.empty((len(rows), *SHAPE), np.float32) if out is None else out
    _native.compiled().decode(
        raw, rows, out, scaling.bscale, scaling.bzero, scaling.blank, _native.num_threads()
    )
    return out


def copy_into(out: np.ndarray | None, stamps: np.ndarray, rows: np.ndarray, in_order: bool) -> np.ndarray:
    """Copy as many bytes as decoding writes, in the same order."""
    out = np.empty(stamps.shape, np.float32) if out is None else out
    if in_order:
        np.copyto(out, stamps)
    else:
        stamps.take(rows, axis=0, out=out, mode="clip")  # with another mode NumPy copies once more
    return out


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("order", ["in order", "in random order"])
@pytest.mark.parametrize(
    ("memory", "way"), [*itertools.product(("warm", "fresh"), WAYS), ("fresh", "reference")]
)
def bench_decode(
    benchmark: BenchmarkFixture,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    pixels: str,
    order: str,
    memory: str,
    way: str,
) -> None:
    """2,000 stamps of 5 x 32 x 32, 41 MB of float32, into memory just written to or just allocated.

    The copy reads and writes float32 in the same order. Fresh memory has to be cleared by the system first,
    which takes about as long as either.
    """
    dtype, scaling = PIXELS[pixels]
    in_order = order == "in order"
    raw = random_stamps(rng, dtype, NUM_STAMPS)
    rows = np.arange(NUM_STAMPS) if in_order else rng.permutation(NUM_STAMPS)
    out = np.ones((NUM_STAMPS, *SHAPE), np.float32) if memory == "warm" else None
    if way.endswith("1 thread"):
        monkeypatch.setenv(_native.THREADS_VARIABLE, "1")
    stamps = raw.astype(np.float32)
    expected = (scaling.bzero + scaling.bscale * raw[rows].astype(np.float64)).astype(np.float32)
    if scaling.blank is not None:
        expected[raw[rows] == scaling.blank] = np.nan

    if way == "plain copy":
        expected = stamps[rows]
        run = partial(copy_into, out, stamps, rows, in_order)
    elif way == "reference":  # always allocates
        run = partial(decode, raw, rows, scaling, backend="reference")
    else:
        run = partial(decode_into, out, raw, rows, scaling)
    np.testing.assert_array_equal(run(), expected)
    benchmark.group = f"decode {NUM_STAMPS} stamps {order} into {memory} memory, {pixels}"
    benchmark.extra_info.update(megabytes_in=raw.nbytes / 1e6, megabytes_out=expected.nbytes / 1e6)
    benchmark(run)


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
