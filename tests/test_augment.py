"""The published views, against the steps taken one at a time with torch's own sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from margformer_fast.config import AugmentConfig
from margformer_fast.errors import ConfigError
from margformer_fast.ops.patchify import patchify
from margformer_fast.reference.augment import ViewDraws, augment, draw_views, standardise
from margformer_fast.reference.random import normals


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


def drawn(
    objid: np.ndarray, config: AugmentConfig, *, bands: int = 5, size: int = 32, seed: int = 1
) -> ViewDraws:
    return draw_views(objid, num_bands=bands, size=size, seed=seed, epoch=3, num_views=2, config=config)


@pytest.mark.parametrize(("bands", "size"), [(5, 32), (1, 8), (3, 7)])
def test_views_are_the_published_steps(bands: int, size: int, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(4, bands, size, size)).astype(np.float32))
    objid = rng.integers(0, 2**62, 4)
    config = AugmentConfig(max_shift=0.3)
    draws = drawn(objid, config, bands=bands, size=size, seed=int(rng.integers(2**32)))
    views = augment(image, draws, config)
    for v in range(2):
        for n in range(4):
            expected, on_edge = rotate(image[n], draws.angle_deg[v, n])
            right, down = draws.shift[v, n].astype(int)
            expected = shift(expected, right, down)
            on_edge = shift(on_edge[None], right, down)[0]
            if draws.flip[v, n, 0]:
                expected, on_edge = expected.flip(-1), on_edge.flip(-1)
            if draws.flip[v, n, 1]:
                expected, on_edge = expected.flip(-2), on_edge.flip(-2)
            assert torch.equal(views[v, n][:, ~on_edge], expected[:, ~on_edge])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize(("border", "padding"), [("zero", "zeros"), ("edge", "border")])
def test_composed_views_are_one_sampling(
    interpolation: str, border: str, padding: str, rng: np.random.Generator
) -> None:
    size = int(rng.integers(3, 12))
    image = torch.from_numpy(rng.normal(size=(3, 2, size, size)))
    config = AugmentConfig(mode="composed", interpolation=interpolation, border=border, max_shift=0.6)
    draws = drawn(rng.integers(0, 2**62, 3), config, bands=2, size=size)
    views = augment(image, draws, config)
    for v in range(2):
        for n in range(3):
            # The whole map as one matrix in pixels about the centre: undo mirrors and shift, then rotate.
            a = math.radians(draws.angle_deg[v, n])
            rotation = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
            sign = np.where(draws.flip[v, n], -1.0, 1.0)
            matrix = np.hstack([rotation * sign, -(rotation @ draws.shift[v, n])[:, None] * 2 / size])
            grid = F.affine_grid(torch.from_numpy(matrix)[None], [1, 2, size, size], align_corners=False)
            expected = F.grid_sample(image[n][None], grid, interpolation, padding, align_corners=False)[0]
            pixel = (grid[0] + 1) * size / 2 - 0.5
            on_edge = ((pixel - pixel.floor() - 0.5).abs() < 1e-6).any(dim=-1)
            safe = ~on_edge if interpolation == "nearest" else torch.ones_like(on_edge)
            torch.testing.assert_close(views[v, n][:, safe], expected[:, safe], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("angle", "turns"), [(0.0, 0), (90.0, 1), (180.0, 2), (-90.0, 3)])
def test_quarter_turns_are_exact(angle: float, turns: int, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(1, 2, 6, 6)))
    none = np.zeros((1, 1, 2))
    still = ViewDraws(np.full((1, 1), angle), none, none.astype(bool), none + 1, none.astype(np.uint32))
    assert torch.equal(augment(image, still, AugmentConfig())[0, 0], torch.rot90(image[0], turns, (-2, -1)))


def test_draws_cover_their_ranges() -> None:
    draws = drawn(np.arange(50_000), AugmentConfig(jitter=0.2))
    assert np.abs(draws.angle_deg).max() <= 180
    assert abs(draws.angle_deg.mean()) < 3
    # Uniform in +-3.2 pixels and then rounded: five full bins and two of 0.7.
    for axis in range(2):
        value, count = np.unique(draws.shift[0, :, axis], return_counts=True)
        assert value.tolist() == [-3, -2, -1, 0, 1, 2, 3]
        expected = 50_000 * np.array([0.109375, *[0.15625] * 5, 0.109375])
        assert (np.abs(count - expected) < 6 * expected**0.5).all()
    assert np.abs(draws.flip.mean(axis=(0, 1)) - 0.5).max() < 0.015
    assert draws.gain.shape == (2, 50_000, 5)
    assert 0.8 <= draws.gain.min() < 0.801
    assert 1.199 < draws.gain.max() <= 1.2
    # Nothing is drawn twice: neither within a view, nor between views, nor between purposes.
    columns = [draws.angle_deg, draws.shift[..., 0], draws.flip[..., 0], *np.moveaxis(draws.gain, -1, 0)]
    correlation = np.corrcoef(np.concatenate([np.stack(columns)[:, v] for v in range(2)]))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.03


def test_shifts_of_the_composed_mode_are_not_rounded() -> None:
    draws = drawn(np.arange(1000), AugmentConfig(mode="composed"))
    assert (draws.shift != np.rint(draws.shift)).mean() > 0.99
    assert 3.1 < np.abs(draws.shift).max() <= 3.2


def test_noise_is_normal(rng: np.random.Generator) -> None:
    z = normals(rng.integers(0, 2**32, 2).astype(np.uint32), 400_001)
    assert len(z) == 400_001
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1
    assert abs((np.abs(z) > 3).mean() - 0.0027) < 0.0006
    assert np.abs(np.corrcoef(z[:-1:2], z[1::2])[0, 1]) < 0.01


def test_noise_and_gain_are_applied_after_the_geometry(rng: np.random.Generator) -> None:
    image = torch.full((2, 3, 8, 8), 2.0, dtype=torch.float64)
    config = AugmentConfig(max_angle_deg=0, max_shift=0, flips=False, jitter=0.5, noise=(0.0, 1.0, 0.0))
    draws = drawn(rng.integers(0, 2**62, 2), config, bands=3, size=8)
    views = augment(image, draws, config)
    for v in range(2):
        for n in range(2):
            z = torch.from_numpy(normals(draws.noise_key[v, n], 192).reshape(8, 8, 3)[..., 1])
            torch.testing.assert_close(views[v, n, 0], torch.full((8, 8), 2.0 * draws.gain[v, n, 0]).double())
            torch.testing.assert_close(views[v, n, 1], 2.0 * draws.gain[v, n, 1] + z)


def test_standardise(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(3, 5, size=(2, 3, 9, 9)))
    out = standardise(image).numpy()
    expected = (image.numpy() - image.numpy().mean((2, 3), keepdims=True)) / (
        image.numpy().std((2, 3), ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)  # a pixel may lie at the mean
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
    with pytest.raises(ConfigError, match="patch_size is 0"):
        patchify(torch.zeros(1, 5, 32, 32), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast'; expected 'reference' or 'composed'"),
        ({"interpolation": "bilinear"}, "expected 'nearest' in the reference mode"),
        ({"border": "edge"}, "expected 'zero' in the reference mode"),
        ({"mode": "composed", "border": "wrap"}, "border is 'wrap'"),
        ({"jitter": 1.0}, "jitter is 1.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": (1.0, math.inf)}, "noise is .* finite"),
        ({"max_angle_deg": 181.0}, "max_angle_deg is 181"),
    ],
)
def test_settings_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**settings)


def test_settings_survive_json() -> None:
    import json

    config = AugmentConfig(mode="composed", noise=(0.1, 0.2))
    assert AugmentConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="one for each of 5 bands"):
        config.noise_by_band(5)
