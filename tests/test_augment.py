"""The published views, against the steps taken one at a time with torch's own sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from margformer_fast.config import AugmentConfig
from margformer_fast.errors import ConfigError
from margformer_fast.ops.augment_patchify import augment_patchify
from margformer_fast.ops.patchify import patchify
from margformer_fast.reference.augment import ViewDraws, augment, draw_views, standardise


def rotate(image_CSS: torch.Tensor, angle_deg: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate one image as the published library does; also say which pixels are read near an edge."""
    S = image_CSS.shape[-1]
    a = math.radians(angle_deg)
    theta = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]], dtype=torch.float64)
    grid = F.affine_grid(theta[None], [1, 1, S, S], align_corners=False)
    rotated = F.grid_sample(image_CSS[None].double(), grid, "nearest", "zeros", align_corners=False)[0]
    pixel = (grid[0] + 1) * S / 2 - 0.5
    on_edge = ((pixel - pixel.floor() - 0.5).abs() < 1e-6).any(dim=-1)
    return rotated.to(image_CSS.dtype), on_edge


def shift(image_CSS: torch.Tensor, right: int, down: int) -> torch.Tensor:
    S = image_CSS.shape[-1]
    out = torch.zeros_like(image_CSS)
    for y in range(S):
        for x in range(S):
            if 0 <= y - down < S and 0 <= x - right < S:
                out[:, y, x] = image_CSS[:, y - down, x - right]
    return out


@pytest.mark.parametrize(("bands", "size"), [(5, 32), (1, 8), (3, 7)])
def test_views_are_the_published_steps(bands: int, size: int, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(4, bands, size, size)).astype(np.float32))
    objid = rng.integers(0, 2**62, 4)
    config = AugmentConfig(max_shift=0.3)
    draws = draw_views(objid, size=size, seed=int(rng.integers(2**32)), epoch=3, num_views=2, config=config)
    views = augment(image, draws)
    for v in range(2):
        for n in range(4):
            expected, on_edge = rotate(image[n], draws.angle_deg[v, n])
            right, down = draws.shift[v, n]
            expected = shift(expected, right, down)
            on_edge = shift(on_edge[None], right, down)[0]
            if draws.flip[v, n, 0]:
                expected, on_edge = expected.flip(-1), on_edge.flip(-1)
            if draws.flip[v, n, 1]:
                expected, on_edge = expected.flip(-2), on_edge.flip(-2)
            assert torch.equal(views[v, n][:, ~on_edge], expected[:, ~on_edge])


@pytest.mark.parametrize(("angle", "turns"), [(0.0, 0), (90.0, 1), (180.0, 2), (-90.0, 3)])
def test_quarter_turns_are_exact(angle: float, turns: int, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(1, 2, 6, 6)))
    still = ViewDraws(np.full((1, 1), angle), np.zeros((1, 1, 2), np.int64), np.zeros((1, 1, 2), bool))
    assert torch.equal(augment(image, still)[0, 0], torch.rot90(image[0], turns, (-2, -1)))


def test_draws_cover_their_published_ranges() -> None:
    draws = draw_views(np.arange(50_000), size=32, seed=1, epoch=0, num_views=1, config=AugmentConfig())
    assert np.abs(draws.angle_deg).max() <= 180
    assert abs(draws.angle_deg.mean()) < 3
    # Uniform in +-3.2 pixels and then rounded: five full bins and two of 0.7.
    for axis in range(2):
        value, count = np.unique(draws.shift[..., axis], return_counts=True)
        assert value.tolist() == [-3, -2, -1, 0, 1, 2, 3]
        expected = 50_000 * np.array([0.109375, *[0.15625] * 5, 0.109375])
        assert (np.abs(count - expected) < 6 * expected**0.5).all()
    assert np.abs(draws.flip.mean(axis=(0, 1)) - 0.5).max() < 0.015


def test_augment_patchify_joins_the_steps(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(3, 5, 32, 32)).astype(np.float32))
    image[0, 0, 5, 5] = torch.nan
    objid = np.array([3, 2**60, 7])
    config = AugmentConfig(standardise=True)
    got = augment_patchify(image, objid, config, seed=9, epoch=1, num_views=2, patch_size=4)
    draws = draw_views(objid, size=32, seed=9, epoch=1, num_views=2, config=config)
    views = standardise(augment(image.nan_to_num(nan=0.0), draws))
    assert got.shape == (2, 3, 64, 80)
    assert torch.equal(got[1], patchify(views[1], 4))


def test_standardise(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(3, 5, size=(2, 3, 9, 9)))
    out = standardise(image).numpy()
    expected = (image.numpy() - image.numpy().mean((2, 3), keepdims=True)) / (
        image.numpy().std((2, 3), ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    assert torch.equal(standardise(torch.full((1, 1, 4, 4), 7.0)), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(("batch", "bands", "size", "patch"), [(1, 1, 4, 4), (2, 5, 32, 4), (3, 7, 6, 2)])
def test_patchify_by_loops(batch: int, bands: int, size: int, patch: int, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(batch, bands, size, size)))
    got = patchify(image, patch)
    n = size // patch
    assert got.shape == (batch, n * n, patch * patch * bands)
    for row in range(size):
        for column in range(size):
            token = row // patch * n + column // patch
            inside = (row % patch * patch + column % patch) * bands
            assert torch.equal(got[:, token, inside : inside + bands], image[:, :, row, column])


def test_patchify_refuses() -> None:
    with pytest.raises(ConfigError, match="divisor of the side, 32"):
        patchify(torch.zeros(1, 5, 32, 32), 5)
    with pytest.raises(ConfigError, match="expected \\(batch, bands, side, side\\)"):
        patchify(torch.zeros(1, 5, 32, 31), 4)


@pytest.mark.gpu
def test_views_on_a_gpu_are_those_of_the_host(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(50, 5, 32, 32)).astype(np.float32))
    objid = rng.integers(0, 2**62, 50)
    host, device = (
        augment_patchify(image.to(where), objid, AugmentConfig(), seed=1, epoch=2, num_views=2, patch_size=4)
        for where in ("cpu", "cuda")
    )
    assert torch.equal(device.cpu(), host)
