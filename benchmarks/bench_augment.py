"""Two random views of raw stamps as patch tokens: against PyTorch, one by one and batched, and kornia."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from margformer_fast import _native
from margformer_fast.config import AugmentConfig
from margformer_fast.ops.augment_patchify import augment_patchify
from margformer_fast.ops.patchify import patchify
from margformer_fast.ops.resident_stamps import ResidentStamps
from margformer_fast.ops.stamps import Stamps
from margformer_fast.reference.augment import ViewDraws, draw_views

NUM_STAMPS, BATCH, BANDS, SIZE, PATCH = 2000, 512, 5, 32, 4
KEY = {"seed": 1, "epoch": 2, "num_views": 2}
MODES = {
    "two steps": AugmentConfig(),
    "nearest": AugmentConfig(mode="composed"),
    "bilinear": AugmentConfig(mode="composed", interpolation="bilinear"),
}


def matrices(draws: ViewDraws, *, with_shift: bool = True) -> torch.Tensor:
    """The map of each view for affine_grid, which counts in half sides from the centre: (V, N, 2, 3)."""
    angle = torch.from_numpy(np.deg2rad(draws.angle_deg))
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    if not with_shift:
        return torch.cat([rotation, torch.zeros_like(rotation[..., :1])], -1).float()
    sign = 1.0 - 2.0 * torch.from_numpy(draws.flip.astype(float))
    shift = torch.from_numpy(draws.shift) * 2 / SIZE
    return torch.cat([rotation * sign[..., None, :], -(rotation @ shift[..., None])], -1).float()


def decoded(raw: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    return torch.nan_to_num(torch.from_numpy(raw[rows].astype(np.float32)))


def per_sample(raw: np.ndarray, rows: np.ndarray, draws: ViewDraws, mode: str) -> torch.Tensor:
    """The published way: objects and views one at a time; in two steps rotate, then shift, then mirror."""
    interpolation = "bilinear" if mode == "bilinear" else "nearest"
    theta = matrices(draws, with_shift=mode != "two steps")
    views = []
    for v in range(2):
        tokens = []
        for n, row in enumerate(rows):
            image = decoded(raw, np.array([row]))
            grid = F.affine_grid(theta[v, n][None], [1, BANDS, SIZE, SIZE], align_corners=False)
            view = F.grid_sample(image, grid, interpolation, "zeros", align_corners=False)
            if mode == "two steps":
                right, down = (int(each) for each in draws.shift[v, n])
                there = F.pad(view, (right, -right, down, -down))
                view = there.flip([3 - axis for axis in range(2) if draws.flip[v, n, axis]])
            tokens.append(patchify(view, PATCH))
        views.append(torch.cat(tokens))
    return torch.stack(views)


def torch_batched(raw: np.ndarray, rows: np.ndarray, draws: ViewDraws, mode: str) -> torch.Tensor:
    image = decoded(raw, rows).repeat(2, 1, 1, 1)
    grid = F.affine_grid(matrices(draws).flatten(0, 1), list(image.shape), align_corners=False)
    view = F.grid_sample(image, grid, mode, "zeros", align_corners=False)
    return patchify(view, PATCH).unflatten(0, (2, len(rows)))


def kornia_batched(raw: np.ndarray, rows: np.ndarray, draws: ViewDraws, mode: str) -> torch.Tensor:
    geometry = pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed")
    image = decoded(raw, rows).repeat(2, 1, 1, 1)
    # kornia takes the inverse map, in pixels.
    to_stamp = torch.eye(3).repeat(len(image), 1, 1)
    to_stamp[:, :2] = matrices(draws).flatten(0, 1)
    centre = (SIZE - 1) / 2
    pixels = torch.tensor([[SIZE / 2, 0, centre], [0, SIZE / 2, centre], [0, 0, 1]])
    to_view = torch.linalg.inv(pixels @ to_stamp @ torch.linalg.inv(pixels))
    view = geometry.warp_affine(image, to_view[:, :2], (SIZE, SIZE), mode, "zeros", align_corners=False)
    return patchify(view, PATCH).unflatten(0, (2, len(rows)))


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray, ViewDraws, str], torch.Tensor]] = {
    "PyTorch, a sample at a time": per_sample,
    "PyTorch, batched": torch_batched,
    "kornia, batched": kornia_batched,
}


def check(got: torch.Tensor, expected: torch.Tensor, mode: str) -> None:
    """The baselines reckon coordinates in float32: a pixel on an edge may fall either way."""
    off = (got - expected).abs()
    if mode == "bilinear":
        assert off.max() < 1e-3 * math.sqrt(SIZE)
    else:
        assert (off > 0).float().mean() < 1e-3
    assert expected.abs().mean() > 0.3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["cpp, all threads", "cpp, 1 thread", "reference", *BASELINES])
def bench_two_views(
    benchmark: BenchmarkFixture,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    way: str,
) -> None:
    """512 of 2,000 big-endian stamps; the baselines are given the draws, ours makes them."""
    if mode == "two steps" and way.endswith("batched"):
        pytest.skip("batched warps sample once")
    raw = rng.normal(size=(NUM_STAMPS, BANDS, SIZE, SIZE)).astype(">f4")
    rows, objid = rng.permutation(NUM_STAMPS)[:BATCH], rng.integers(0, 2**62, BATCH)
    config = MODES[mode]
    draws = draw_views(objid, num_bands=BANDS, size=SIZE, config=config, **KEY)
    stamps = Stamps((raw,))
    backend = way.partition(",")[0] if way not in BASELINES else "reference"

    def ours() -> torch.Tensor:
        return augment_patchify(stamps, rows, objid, config, patch_size=PATCH, backend=backend, **KEY)

    if way.endswith("1 thread"):
        monkeypatch.setenv(_native.THREADS_VARIABLE, "1")
    run = ours if way not in BASELINES else lambda: BASELINES[way](raw, rows, draws, mode)
    expected = augment_patchify(stamps, rows, objid, config, patch_size=PATCH, backend="reference", **KEY)
    check(run(), expected, mode)
    benchmark.group = f"two views of {BATCH} stamps, {mode}"
    benchmark.extra_info.update(images=BATCH, baseline=way == "PyTorch, a sample at a time")
    benchmark(run)


@lru_cache(maxsize=1)
def stamps_of(count: int) -> np.ndarray:
    """Fresh stamps, the same for all ways: a gigabyte takes longer to draw than to measure."""
    values = np.random.default_rng().standard_normal((count, BANDS, SIZE, SIZE), dtype=np.float32)
    return values.astype(">f4")


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["cuda", "plain copy", "kornia, batched"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [256, 4096, 65_536])
def bench_two_views_on_device(
    benchmark: BenchmarkFixture,
    rng: np.random.Generator,
    cuda: torch.device,
    mode: str,
    count: int,
    way: str,
) -> None:
    """Raw bytes that lie on the GPU to tokens, ten launches a round; beside it copies of its output."""
    raw = stamps_of(count)
    rows, objid = rng.permutation(count), rng.integers(0, 2**62, count)
    config = MODES[mode]
    resident = ResidentStamps.upload(Stamps((raw,)), cuda)
    device_rows, device_objid = torch.from_numpy(rows).to(cuda), torch.from_numpy(objid).to(cuda)

    def launch() -> torch.Tensor:
        return augment_patchify(
            resident, device_rows, device_objid, config, patch_size=PATCH, backend="cuda", **KEY
        )

    out = launch()
    few = slice(0, 256)
    expected = augment_patchify(
        Stamps((raw,)), rows[few], objid[few], config, patch_size=PATCH, backend="reference", **KEY
    )
    check(out[:, few].cpu(), expected, mode)
    run: Callable[[], object] = launch
    if way == "plain copy":
        run = out.clone
    elif way.startswith("kornia"):
        if mode == "two steps":
            pytest.skip("batched warps sample once")
        geometry = pytest.importorskip("kornia.geometry.transform", reason="kornia is not installed")
        image = torch.from_numpy(raw.astype(np.float32)).to(cuda)
        draws = draw_views(objid, num_bands=BANDS, size=SIZE, config=config, **KEY)
        affine = matrices(draws).flatten(0, 1).to(cuda)

        def run() -> object:
            batch = image[device_rows].repeat(2, 1, 1, 1)
            warped = geometry.warp_affine(batch, affine, (SIZE, SIZE), mode, "zeros", align_corners=False)
            return patchify(warped, PATCH)

    def ten_and_wait() -> None:
        for _ in range(10):
            run()
        torch.cuda.synchronize()

    benchmark.group = f"two views of {count} stamps on the GPU, {mode}, ten times"
    benchmark.extra_info.update(megabytes_in=count * 0.02048 * 10, megabytes_out=out.numel() * 4e-5)
    benchmark.pedantic(ten_and_wait, rounds=20, warmup_rounds=3)
