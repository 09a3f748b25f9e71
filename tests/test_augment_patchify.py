"""Raw stamps to tokens: every backend against the reference, over types, layouts, sizes and settings."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from margformer_fast import _native
from margformer_fast.config import AugmentConfig
from margformer_fast.errors import BackendUnavailable, ConfigError, DataError
from margformer_fast.ops import views as views_module
from margformer_fast.ops.augment_patchify import augment_patchify
from margformer_fast.ops.decode import Scaling
from margformer_fast.ops.decode_patchify import decode_patchify
from margformer_fast.ops.patchify import patchify
from margformer_fast.ops.resident_stamps import ResidentStamps
from margformer_fast.ops.stamps import Stamps
from margformer_fast.reference.augment import augment, draw_views, standardise

CHECKOUT = Path(__file__).parent.parent
TYPES = ("u1", "<i2", ">i2", "<i4", ">i4", ">i8", "<f4", ">f4", "<f8", ">f8")
KEY = {"seed": 2**63 + 5, "epoch": 7, "num_views": 2}


def random_pixels(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Pixels of any type, among them some without a finite value."""
    value = rng.normal(20, 30, shape)
    if dtype[-2] != "f":
        return np.clip(value, 0, 255).astype(dtype)
    bad = rng.random(shape) < 0.03
    value[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    return value.astype(dtype)


def laid_out(pixels: np.ndarray, layout: str) -> np.ndarray:
    """The same pixels in memory of another order."""
    if layout == "channel last":
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "strided":
        wide = np.zeros((len(pixels), *(2 * n for n in pixels.shape[1:])), pixels.dtype)
        wide[:, ::2, 1::2, ::2] = pixels
        return wide[:, ::2, 1::2, ::2]
    if layout == "backwards":
        return np.ascontiguousarray(pixels[::-1, :, ::-1, ::-1])[::-1, :, ::-1, ::-1]
    if layout == "odd address":
        raw = np.zeros(pixels.nbytes + 1, np.uint8)
        view = np.ndarray(pixels.shape, pixels.dtype, raw, 1)
        view[...] = pixels
        return view
    return np.ascontiguousarray(pixels)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Stamps, np.ndarray, np.ndarray, AugmentConfig, int]:
    """Stamps, chosen rows, their identifiers, settings, patch side."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(2, 17) | st.sampled_from([32]))
    bands = draw(st.integers(1, 9))
    dtype = draw(st.sampled_from(TYPES))
    layout = draw(st.sampled_from(["dense", "channel last", "strided", "backwards", "odd address"]))
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3).filter(any))
    blank = draw(st.sampled_from([None, 20])) if dtype[-2] != "f" else None
    scaling = draw(st.sampled_from([Scaling(), Scaling(0.25, -3.0)]))
    parts = [laid_out(random_pixels(rng, (n, bands, size, size), dtype), layout) for n in counts]
    if draw(st.booleans()):
        parts[0][:, 0] = 7  # a constant band
    stamps = Stamps(tuple(parts), Scaling(scaling.bscale, scaling.bzero, blank))
    if draw(st.booleans()):
        stamps = stamps.select(rng.integers(0, len(stamps), 5))
    rows = rng.integers(0, len(stamps), draw(st.integers(1, 6)))
    composed = draw(st.booleans())
    config = AugmentConfig(
        mode="composed" if composed else "reference",
        interpolation=draw(st.sampled_from(["nearest", "bilinear"])) if composed else "nearest",
        border=draw(st.sampled_from(["zero", "edge"])) if composed else "zero",
        max_angle_deg=draw(st.sampled_from([0.0, 10.0, 180.0])),
        max_shift=draw(st.sampled_from([0.0, 0.1, 0.9])),
        flips=draw(st.booleans()),
        jitter=draw(st.sampled_from([0.0, 0.3])),
        noise=draw(st.sampled_from([0.0, 5.0])) if draw(st.booleans()) else tuple(rng.random(bands).tolist()),
        standardise=draw(st.booleans()),
    )
    patch = draw(st.sampled_from([p for p in range(1, size + 1) if size % p == 0]))
    return stamps, rows, rng.integers(-(2**63), 2**63 - 1, len(rows)), config, patch


def exact_views(
    stamps: Stamps, rows: np.ndarray, objid: np.ndarray, config: AugmentConfig, patch: int
) -> torch.Tensor:
    """The reference in float64."""
    image = torch.nan_to_num(torch.from_numpy(stamps.decode(rows, backend="reference")), 0, 0, 0).double()
    draws = draw_views(objid, num_bands=stamps.num_bands, size=stamps.size, config=config, **KEY)
    views = augment(image, draws, config)
    tokens = patchify(views.flatten(0, 1), patch)
    return tokens.reshape(2, len(rows), *tokens.shape[1:])


def check(got: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, config: AugmentConfig) -> None:
    """Hold a result to the reference: bits where nothing is computed, else 2e-6, or twice plain float32."""
    assert got.shape == exact.shape
    assert got.dtype == torch.float32
    is_copy = config.interpolation == "nearest" and not np.any(config.noise) and not config.standardise
    if is_copy:
        assert torch.equal(got, plain)
        return
    finite = torch.isfinite(exact)
    assert torch.equal(torch.isfinite(got), finite)
    if finite.any():
        scale = exact[finite].abs().max().clamp(min=1.0)
        error, plain_error = ((each - exact)[finite].abs().max() / scale for each in (got, plain))
        assert error <= max(2e-6, 2 * plain_error), (error, plain_error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_cpp_is_the_reference(problem: tuple[Stamps, np.ndarray, np.ndarray, AugmentConfig, int]) -> None:
    stamps, rows, objid, config, patch = problem
    plain = augment_patchify(stamps, rows, objid, config, patch_size=patch, backend="reference", **KEY)
    got = augment_patchify(stamps, rows, objid, config, patch_size=patch, backend="cpp", **KEY)
    check(got, plain, exact_views(stamps, rows, objid, config, patch), config)


@pytest.fixture(scope="module")
def block_views(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The body of the CUDA kernel, compiled for the host."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    library = tmp_path_factory.mktemp("block") / "view_block.so"
    source = CHECKOUT / "tests" / "view_block.cpp"
    command = [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC"]
    subprocess.run([*command, "-shared", f"-I{CHECKOUT / 'csrc'}", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.booleans())
def test_the_cuda_kernel_s_body_is_the_reference(
    block_views: ctypes.CDLL,
    problem: tuple[Stamps, np.ndarray, np.ndarray, AugmentConfig, int],
    staged: bool,
) -> None:
    stamps, rows, objid, config, patch = problem
    stamps = Stamps((stamps.stored(np.arange(len(stamps))),), Scaling(0.5, 1.0))
    array = stamps.parts[0]
    sampling = {"reference": 0, "nearest": 1, "bilinear": 2}
    noise = np.array(config.noise_by_band(stamps.num_bands), np.float32)
    flags = np.array(
        [
            not array.dtype.isnative,
            sampling[config.mode if config.mode == "reference" else config.interpolation],
            config.border == "edge",
            config.flips,
            noise.any(),
            config.standardise,
            staged,
        ],
        np.int32,
    )
    real = np.array([0.5, 1.0, config.max_angle_deg, config.max_shift, config.jitter])
    plain = augment_patchify(stamps, rows, objid, config, patch_size=patch, backend="reference", **KEY)
    out = np.full(plain.shape, np.nan, np.float32)
    shape, strides = np.array(array.shape, np.int64), np.array(array.strides, np.int64)
    block_views.views_by_block(
        ctypes.c_void_p(array.ctypes.data),
        ctypes.c_char(array.dtype.kind.encode()),
        ctypes.c_int64(array.dtype.itemsize),
        *(ctypes.c_void_p(each.ctypes.data) for each in (shape, strides, rows, objid)),
        ctypes.c_int64(len(rows)),
        *(ctypes.c_void_p(each.ctypes.data) for each in (real, flags, noise)),
        ctypes.c_uint64(KEY["seed"]),
        ctypes.c_uint32(KEY["epoch"]),
        ctypes.c_int(2),
        ctypes.c_int(patch),
        ctypes.c_void_p(out.ctypes.data),
    )
    check(torch.from_numpy(out), plain, exact_views(stamps, rows, objid, config, patch), config)


BACKENDS = ["cpp", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_stamps_as_they_are(backend: str, rng: np.random.Generator) -> None:
    for bands, size, patch in ((5, 32, 4), (1, 1, 1), (3, 9, 3), (7, 6, 2), (12, 5, 5)):
        stamps = Stamps((random_pixels(rng, (6, bands, size, size), ">f4"),))
        rows = rng.integers(0, 6, 4)
        image = torch.nan_to_num(torch.from_numpy(stamps.decode(rows)), 0, 0, 0)
        got = decode_patchify(stamps, rows, patch_size=patch, backend=backend)
        assert torch.equal(got, patchify(image, patch))
        if size > 1:
            got = decode_patchify(stamps, rows, patch_size=patch, standardise=True, backend=backend)
            expected = patchify(standardise(image.double()), patch)
            torch.testing.assert_close(
                got.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item()
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_depend_on_the_object_alone(backend: str, rng: np.random.Generator) -> None:
    stamps = Stamps((random_pixels(rng, (20, 5, 8, 8), ">f4"),))
    objid = rng.integers(0, 2**62, 20)
    config = AugmentConfig(mode="composed", interpolation="bilinear", jitter=0.1, noise=0.2)

    def views(rows: np.ndarray, **changes: int) -> torch.Tensor:
        key = KEY | changes
        return augment_patchify(stamps, rows, objid[rows], config, patch_size=4, backend=backend, **key)

    every = views(np.arange(20))
    order = rng.permutation(20)[:7]
    assert torch.equal(views(order), every[:, order])
    assert torch.equal(views(order, num_views=1), every[:1, order])
    for changes in ({"seed": 1}, {"epoch": 8}):
        assert not torch.equal(views(order, **changes), every[:, order])
    assert not torch.equal(every[0], every[1])


def test_noise_does_not_depend_on_the_patches(rng: np.random.Generator) -> None:
    stamps = Stamps((np.zeros((2, 5, 8, 8), np.float32),))
    config = AugmentConfig(noise=1.0)
    objid = rng.integers(0, 2**62, 2)
    fine = augment_patchify(stamps, None, objid, config, patch_size=1, **KEY)
    coarse = augment_patchify(stamps, None, objid, config, patch_size=8, **KEY)
    assert torch.equal(fine.reshape(2, 2, -1), coarse.reshape(2, 2, -1))
    assert 0.9 < fine.std() < 1.1


def test_any_number_of_threads(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: every value is written, whatever was in the memory before."""
    stamps = Stamps((random_pixels(rng, (300, 5, 32, 32), ">f4"),))
    objid = rng.integers(0, 2**62, 300)
    empty = torch.empty
    monkeypatch.setattr(
        views_module.torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(torch.nan)
    )
    results = []
    for threads in ("1", "2", "3", "64"):
        monkeypatch.setenv(_native.THREADS_VARIABLE, threads)
        results.append(
            augment_patchify(stamps, None, objid, AugmentConfig(), patch_size=4, backend="cpp", **KEY)
        )
    assert torch.isfinite(results[0]).all()
    assert all(torch.equal(results[0], each) for each in results[1:])


def test_tensors_are_stamps(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(4, 3, 8, 8)).astype(np.float32))
    objid = rng.integers(0, 2**62, 4)
    config = AugmentConfig()
    expected = augment_patchify(image, None, objid, config, patch_size=2, **KEY)
    strided = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).requires_grad_()
    resident = ResidentStamps.upload(Stamps((image.numpy().astype(">f8"),)), torch.device("cpu"))
    for each in (strided, resident, image.double()):
        got = augment_patchify(each, None, torch.from_numpy(objid), config, patch_size=2, **KEY)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("uniform", [True, False])
def test_resident_stamps(uniform: bool, rng: np.random.Generator) -> None:
    second = ">i2" if uniform else "<f4"
    parts = tuple(random_pixels(rng, (5, 2, 6, 6), dtype) for dtype in (">i2", second))
    stamps = Stamps(parts, Scaling(2.0, 1.0)).select(rng.integers(0, 10, 7))
    resident = ResidentStamps.upload(stamps, torch.device("cpu"))
    assert (len(resident), resident.num_bands, resident.size) == (7, 2, 6)
    assert resident.raw.numel() == ResidentStamps.bytes_needed(stamps) == 7 * 72 * (2 if uniform else 4)
    rows = rng.integers(0, 7, 4)
    np.testing.assert_array_equal(resident.decode(rows).numpy(), stamps.decode(rows))
    with pytest.raises(DataError, match="row 7"):
        resident.decode(np.array([7]))
    with pytest.raises(DataError, match="stamps have shape"):
        ResidentStamps(resident.raw, type(resident.layout)("u1", (3,), (1,)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_refusals(backend: str) -> None:
    stamps = Stamps((np.zeros((3, 5, 8, 8), ">f4"),))
    objid = np.arange(2)

    def views(rows: np.ndarray, ids: np.ndarray, patch_size: int = 4, **changes: object) -> None:
        config = AugmentConfig(noise=changes.pop("noise", 0.0))
        augment_patchify(stamps, rows, ids, config, patch_size=patch_size, backend=backend, **(KEY | changes))

    with pytest.raises(DataError, match=r"row 3 \(at place 1\) is outside"):
        views(np.array([0, 3]), objid)
    with pytest.raises(DataError, match="there are 2 objids; expected 1, one for each stamp"):
        views(np.array([0]), objid)
    with pytest.raises(ConfigError, match="divisor of the side, 8"):
        views(np.arange(2), objid, patch_size=3)
    with pytest.raises(ConfigError, match="one for each of 5 bands"):
        views(np.arange(2), objid, noise=(1.0, 2.0))
    for name, value in (("seed", 2**64), ("epoch", -1), ("num_views", 2**24)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            views(np.arange(2), objid, **{name: value})


def test_cuda_is_not_used_on_the_host() -> None:
    with pytest.raises(BackendUnavailable, match="cuda: the data are on cpu"):
        decode_patchify(Stamps((np.zeros((1, 1, 4, 4)),)), patch_size=2, backend="cuda")


def test_nothing_asked_for() -> None:
    stamps = Stamps((np.zeros((3, 5, 8, 8), ">f4"),))
    for backend in BACKENDS:
        assert decode_patchify(stamps, np.arange(0), patch_size=4, backend=backend).shape == (0, 4, 80)
        none = np.empty(0, np.int64)
        got = augment_patchify(stamps, none, none, AugmentConfig(), patch_size=4, backend=backend, **KEY)
        assert got.shape == (2, 0, 4, 80)


@pytest.mark.gpu
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_cuda_is_the_reference(problem: tuple[Stamps, np.ndarray, np.ndarray, AugmentConfig, int]) -> None:
    stamps, rows, objid, config, patch = problem
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    resident = ResidentStamps.upload(stamps, torch.device("cuda"))
    plain = augment_patchify(stamps, rows, objid, config, patch_size=patch, backend="reference", **KEY)
    got = augment_patchify(resident, rows, objid, config, patch_size=patch, backend="cuda", **KEY)
    again = augment_patchify(resident, rows, objid, config, patch_size=patch, backend="cuda", **KEY)
    assert torch.equal(got, again)
    check(got.cpu(), plain, exact_views(stamps, rows, objid, config, patch), config)
    tokens = decode_patchify(resident, rows, patch_size=patch, backend="cuda")
    assert torch.equal(tokens.cpu(), decode_patchify(stamps, rows, patch_size=patch))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [32, 64, 160])
def test_cuda_stamps_of_any_size(size: int, rng: np.random.Generator) -> None:
    """The largest does not fit into the memory that a block shares."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    stamps = Stamps((random_pixels(rng, (40, 6, size, size), ">f4"),))
    objid, rows = rng.integers(0, 2**62, 70), rng.integers(0, 40, 70)
    config = AugmentConfig(mode="composed", interpolation="bilinear", standardise=True)
    plain = augment_patchify(stamps, rows, objid, config, patch_size=4, backend="cpp", **KEY)
    resident = ResidentStamps.upload(stamps, torch.device("cuda"))
    got = augment_patchify(resident, rows, objid, config, patch_size=4, backend="cuda", **KEY)
    torch.testing.assert_close(got.cpu(), plain, rtol=0, atol=2e-6 * plain.abs().max().item())
    outside = torch.tensor([0, 40], device="cuda")
    lost = decode_patchify(resident, outside, patch_size=4, backend="cuda")
    assert torch.isfinite(lost[0]).all()
    assert torch.isnan(lost[1]).all()
