"""Profile fits: the profiles, the reference against its definition, and the compiled module against it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from margformer_fast import _native
from margformer_fast.errors import DataError
from margformer_fast.kernels import profile_fit_compiled as compiled
from margformer_fast.ops.profile_fit import fit_profiles
from margformer_fast.reference import profile_fit as reference

needs_module = pytest.mark.skipif(bool(_native.why_not()), reason="the compiled module cannot be used")
Inputs = tuple[torch.Tensor, ...]


def truncated(name: str, r: np.ndarray) -> np.ndarray:
    """The profiles as SDSS documents them, by a smooth cut between the two radii."""
    if name == "de Vaucouleurs":
        inner, light = 7.0, np.exp(-7.66925 * ((r**2 + 0.02**2) ** 0.125 - 1))
    else:
        inner, light = 3.0, np.exp(-1.67835 * (r - 1))
    cut = np.clip(r - inner, 0, 1)
    return light * (1 - cut**2) ** 2


@pytest.mark.parametrize("name", reference.PROFILES)
def test_profiles_are_those_of_sdss(name: str) -> None:
    variance, light = (np.array(values) for values in reference.PROFILES[name])
    assert light.sum() == pytest.approx(1, abs=1e-6)
    r = np.linspace(0, 12, 120_001)
    ring = 2 * np.pi * r * truncated(name, r)
    wanted = np.cumsum(ring) / ring.sum()
    found = 1 - (light * np.exp(-0.5 * r[:, None] ** 2 / variance)).sum(1)
    assert np.abs(found - wanted).max() < 0.006
    for blur in (0.3, 1.0):
        seen = (ring * np.exp(-0.5 * (r / blur) ** 2)).sum() / ring.sum() / blur**2
        assert (light / (variance + blur**2)).sum() == pytest.approx(seen, rel=3e-3)


def scene(rng: np.random.Generator, n: int, bands: int = 3, size: int = 24, gaussians: int = 2) -> Inputs:
    """Noisy sources of all sizes, a third of them points, and their PSFs, on pixels."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, float))

    width = rng.uniform(1.1, 1.6, (n, bands, 1)) * 2.0 ** np.arange(gaussians)
    e = rng.uniform(-0.1, 0.1, (2, n, bands, gaussians))
    cov = tensor(np.stack([width**2 * (1 + e[0]), width**2 * e[1], width**2 * (1 - e[0])], axis=-1))
    share = tensor(np.tile(0.2 ** np.arange(gaussians), (n, bands, 1)))
    share /= share.sum(-1, keepdim=True)
    centre = tensor((size - 1) / 2 + rng.uniform(-0.5, 0.5, (n, bands, 2)))
    shape = np.stack([rng.uniform(-1, 1.2, n), *rng.uniform(-0.5, 0.5, (2, n))], axis=-1)
    shape[::3, 0] = -5
    which = torch.from_numpy(rng.integers(0, 2, n * bands))
    tables = reference._tables(cov)
    flux = tensor(rng.uniform(0.2, 30, (n, bands)))
    blank = torch.zeros(n * bands, size * size, dtype=torch.float64)
    parts = [part.flatten(0, 1) for part in (centre, cov, share)]
    problem = reference._Problem(blank, blank, *parts, tables[0][which], tables[1][which])
    model, _ = reference.render(problem, tensor(shape).repeat_interleave(bands, 0), slopes=False)
    noise = tensor(rng.uniform(0.02, 0.05, (n, bands)))
    images = flux[..., None, None] * model.reshape(n, bands, size, size)
    images += noise[..., None, None] * tensor(rng.standard_normal(images.shape))
    gain = tensor(rng.uniform(100, 1000, (n, bands)))
    return images, centre, cov, share, noise, gain


def test_derivatives(rng: np.random.Generator) -> None:
    images, centre, cov, share, *_ = scene(rng, 4, bands=1)
    table = reference._tables(images)
    one = reference._Problem(
        images.flatten(1), torch.ones(4, 576, dtype=torch.float64), centre[:, 0], cov[:, 0], share[:, 0],
        table[0][[0, 1, 0, 1]], table[1][[0, 1, 0, 1]],
    )  # fmt: skip
    shape = torch.tensor(
        [[0.1, 0.3, -0.2], [0.8, 0, 0], [-3, 0.1, 0.9], [1.0, -0.5, 0.4]], dtype=torch.float64
    )
    _, slopes = reference.render(one, shape, slopes=True)
    for k in range(3):
        h = torch.zeros_like(shape)
        h[:, k] = 1e-5
        up, down = (reference.render(one, shape + sign * h, slopes=False)[0] for sign in (1, -1))
        torch.testing.assert_close(slopes[..., k], (up - down) / 2e-5, rtol=1e-6, atol=1e-9)
    # chi^2 with the amplitude at its best
    amplitude, chi2, gradient, _ = reference._evaluate(one, shape)
    h = torch.tensor([1e-5, 0, 0], dtype=torch.float64)
    up, down = (reference._evaluate(one, shape + sign * h)[1] for sign in (1, -1))
    torch.testing.assert_close(gradient[:, 0], -0.5 * (up - down) / 2e-5, rtol=1e-5, atol=1e-5)
    assert (chi2 > 0).all()
    assert torch.isfinite(amplitude).all()


def test_noiseless_sources_have_their_shape(rng: np.random.Generator) -> None:
    n, size = 30, 32
    images, centre, cov, share, noise, gain = scene(rng, n, bands=1, size=size)
    shape = torch.from_numpy(np.stack([rng.uniform(-0.5, 1.2, n), *rng.uniform(-0.4, 0.4, (2, n))], axis=-1))
    table = reference._tables(images)
    for which in (reference.DE_VAUCOULEURS, reference.EXPONENTIAL):
        rows = torch.full((n,), which)
        problem = reference._Problem(
            images.flatten(1),
            images.flatten(1),
            centre[:, 0],
            cov[:, 0],
            share[:, 0],
            table[0][rows],
            table[1][rows],
        )
        model, _ = reference.render(problem, shape, slopes=False)
        image = 20 * model.reshape(n, 1, size, size)
        # With little noise, so that the wrong profile is never as good.
        found = reference.fit_profiles(image, centre, cov, share, noise / 20, gain, reference_band=0)
        torch.testing.assert_close(found.flux[:, 0], torch.full((n,), 20.0).double(), rtol=0.01, atol=0)
        torch.testing.assert_close(found.shape[:, which], shape, rtol=0, atol=0.05)


def test_the_minimum_is_one(rng: np.random.Generator) -> None:
    """No shape of a grid around the fit is better by a standard error, and for most none is at all."""
    inputs = scene(rng, 12, bands=1)
    found = reference.fit_profiles(*inputs, reference_band=0)
    # The compiled weights are not handed out: chi^2 is recomputed with what the definition says.
    images, centre, cov, share, noise, gain = inputs
    table = reference._tables(images)
    zero = torch.zeros(12, dtype=torch.long)
    uniform = (1 / noise**2).expand(12, images[0].numel()) * (
        reference._distance2(24, centre)[:, 0] < reference.FIT_RADIUS**2
    )
    problem = reference._Problem(
        images.flatten(1), uniform, centre[:, 0], cov[:, 0], share[:, 0], table[0][zero], table[1][zero]
    )
    starts = []
    for radius in reference.STARTS:
        shape = torch.tensor([[math.log(radius), 0, 0]]).double().expand(12, 3)
        model, _ = reference.render(problem, shape, slopes=False)
        starts.append((*reference._amplitude(problem, model), model))
    best = torch.stack([chi2 for _, chi2, _ in starts]).argmin(0)
    light = torch.stack([a[:, None] * model for a, _, model in starts])[best, torch.arange(12)].clamp(min=0)
    weight = 1 / (noise**2 + light / gain + (reference.MODEL_ERROR * light) ** 2)
    large = torch.tensor(reference.STARTS)[best] > reference.LARGE
    problem = replace(problem, weight=weight * ((uniform > 0) | large[:, None]))
    torch.testing.assert_close(reference._evaluate(problem, found.shape[:, 0])[1], found.chi2[:, 0])
    ended = found.steps[:, 0] < reference.MAX_STEPS
    least = found.chi2[:, 0]
    for du in (-0.1, 0, 0.1):
        for d1 in (-0.1, 0, 0.1):
            for d2 in (-0.1, 0, 0.1):
                shape = reference._bounded(found.shape[:, 0] + torch.tensor([du, d1, d2]).double())
                least = torch.minimum(least, reference._evaluate(problem, shape)[1])
    missed = (found.chi2[:, 0] - least)[ended]
    assert missed.max() < 1
    assert missed.median() < 0.02


@needs_module
@pytest.mark.parametrize("target", [""] if _native.why_not() else _native.compiled().targets())
@pytest.mark.parametrize("gaussians", [1, 2, 3])
def test_compiled_takes_the_same_steps(target: str, gaussians: int, rng: np.random.Generator) -> None:
    inputs = scene(rng, 5, size=23, gaussians=gaussians)
    inputs[0][1, 0, 3, 4] = math.nan
    wanted = reference.fit_profiles(*inputs, reference_band=1)
    found = compiled.fit_profiles(*inputs, reference_band=1, target=target)
    for name in ("flux", "shape", "chi2", "amplitude"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-6, atol=1e-7)
    assert (found.steps == wanted.steps).all()


@needs_module
def test_float32_is_as_good(rng: np.random.Generator) -> None:
    inputs = scene(rng, 60)
    wanted = compiled.fit_profiles(*inputs, reference_band=1)
    found = compiled.fit_profiles(inputs[0].float(), *inputs[1:], reference_band=1)
    # Paths may part where chi^2 is flat: what they reach is as good, and fluxes differ far below their noise.
    assert (found.chi2 - wanted.chi2).abs().median() < 1e-3
    assert ((found.flux / wanted.flux - 1).abs() < 2e-3).double().mean() > 0.97


@needs_module
def test_any_number_of_threads(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scene(rng, 13, bands=2)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv(_native.THREADS_VARIABLE, threads)
        found.append(compiled.fit_profiles(inputs[0].float(), *inputs[1:], reference_band=0))
    for name in vars(found[0]):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_module)])
def test_hard_cases(backend: str, rng: np.random.Generator) -> None:
    images, *rest = scene(rng, 4, bands=2)
    images[0] = 0
    images[1] = -images[1]
    images[2, :, ::2] = math.nan
    found = fit_profiles(images, *rest, reference_band=0, backend=backend)
    assert not torch.isnan(found.shape).any()
    assert found.flux[1, 0] < 0
    assert torch.isfinite(found.flux[2:]).all()
    strided = torch.stack([images, images], dim=-1)[..., 0]
    torch.testing.assert_close(
        fit_profiles(strided, *rest, reference_band=0, backend=backend).flux, found.flux, equal_nan=True
    )
    none = fit_profiles(images[:0], *(each[:0] for each in rest), reference_band=0, backend=backend)
    assert none.flux.shape == (0, 2)
    assert none.shape.shape == (0, 3, 3)


def test_shapes_are_checked(rng: np.random.Generator) -> None:
    images, centre, *rest = scene(rng, 2)
    with pytest.raises(DataError, match=r"centre has shape \(1, 3, 2\); expected \(2, 3, 2\)"):
        fit_profiles(images, centre[:1], *rest, reference_band=0)
    with pytest.raises(DataError, match=r"expected floats of shape \(N, B, S, S\)"):
        fit_profiles(images[..., :-1], centre, *rest, reference_band=0)
    with pytest.raises(DataError, match="the reference band is 3; expected 0 to 2"):
        fit_profiles(images, centre, *rest, reference_band=3)
