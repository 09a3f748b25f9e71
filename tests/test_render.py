"""What is drawn against GalSim and against oversampled pixels, on the host and in torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from margformer_fast.data.conditions import conditions, draw_fields
from margformer_fast.data.psf import Psf
from margformer_fast.data.render import (
    Ellipse,
    Seeing,
    draw_galaxies,
    draw_gaussians,
    ellipse,
)
from margformer_fast.data.survey import LSST, SDSS, SurveyProfile
from margformer_fast.errors import ConfigError

SIZE = 32
KINDS = ("star", "exponential", "de Vaucouleurs", "two components")


def scene(rng: np.random.Generator, n: int, profile: SurveyProfile) -> dict[str, np.ndarray]:
    """PSFs that the survey has, and a galaxy of two components for each; lengths in pixels."""
    scale = profile.pixel_scale_arcsec
    fields = draw_fields(rng, 0, n, profile)
    band = (np.arange(n), rng.integers(0, len(profile.bands), n))
    q = rng.uniform(0.25, 1, n)
    radius = np.exp(rng.uniform(np.log(0.1), np.log(1.5), n)) / scale
    return {
        "sigma": fields.true_psf.sigma[band] / scale,
        "share": fields.true_psf.share[band],
        "psf_ratio": fields.axis_ratio[band],
        "psf_angle": fields.angle[band],
        "x": (SIZE - 1) / 2 + rng.uniform(-0.7, 0.7, n),
        "y": (SIZE - 1) / 2 + rng.uniform(-0.7, 0.7, n),
        "disc": radius,
        "bulge": radius * rng.uniform(0.3, 1, n),
        "q": q,
        "bulge_q": np.sqrt(q),
        "angle": rng.uniform(0, np.pi, n),
        "bulge_angle": rng.uniform(0, np.pi, n),
        "bulge_share": rng.uniform(0.1, 0.9, n),
    }


def draw(kind: str, s: dict[str, np.ndarray]) -> np.ndarray:
    """Draw a scene in the dtype of its arrays, total flux 1."""
    seeing = Seeing(
        s["sigma"] ** 2, s["share"], ellipse(np.ones_like(s["x"]), s["psf_ratio"], s["psf_angle"])
    )
    if kind == "star":
        shape = Ellipse(*(seeing.variance * part[:, None] for part in seeing.shape))
        return draw_gaussians(SIZE, s["x"], s["y"], shape, seeing.share)
    bulge = {"exponential": 0 * s["q"], "de Vaucouleurs": 0 * s["q"] + 1}.get(kind, s["bulge_share"])
    image = draw_galaxies(
        SIZE, "exponential", s["x"], s["y"], 1 - bulge, s["disc"], s["q"], s["angle"], seeing
    )
    image += draw_galaxies(
        SIZE, "de Vaucouleurs", s["x"], s["y"], bulge, s["bulge"], s["bulge_q"], s["bulge_angle"], seeing
    )
    return image


def galsim_image(kind: str, s: dict[str, np.ndarray], k: int) -> np.ndarray:
    """Draw one object with GalSim, its Fourier transforms wide enough for profiles with wings."""
    galsim = pytest.importorskip("galsim", reason="GalSim, the oracle of the renderer, is not installed")
    exact = galsim.GSParams(
        folding_threshold=3e-4, maxk_threshold=1e-3, kvalue_accuracy=1e-5, maximum_fft_size=32768
    )

    def sheared(profile: object, q: str, angle: str) -> object:
        return profile.shear(q=s[q][k], beta=s[angle][k] * galsim.radians)  # type: ignore[attr-defined]

    drawn = sheared(
        galsim.Sum(
            [
                galsim.Gaussian(sigma=sigma, flux=share, gsparams=exact)
                for sigma, share in zip(s["sigma"][k], s["share"][k], strict=True)
            ]
        ),
        "psf_ratio",
        "psf_angle",
    )
    if kind != "star":
        share = {"exponential": 0.0, "de Vaucouleurs": 1.0}.get(kind, float(s["bulge_share"][k]))
        disc = sheared(galsim.Exponential(half_light_radius=s["disc"][k], gsparams=exact), "q", "angle")
        bulge = sheared(
            galsim.DeVaucouleurs(half_light_radius=s["bulge"][k], gsparams=exact), "bulge_q", "bulge_angle"
        )
        both = [part * f for part, f in ((disc, 1 - share), (bulge, share)) if f > 0]  # type: ignore[operator]
        drawn = galsim.Convolve(galsim.Sum(both), drawn, gsparams=exact)
    middle = (SIZE - 1) / 2
    offset = (s["x"][k] - middle, s["y"][k] - middle)
    return drawn.drawImage(nx=SIZE, ny=SIZE, scale=1.0, offset=offset, dtype=float).array


@pytest.mark.parametrize("profile", [SDSS, LSST], ids=lambda p: p.name)
def test_against_galsim(profile: SurveyProfile) -> None:
    pytest.importorskip("galsim", reason="GalSim, the oracle of the renderer, is not installed")
    rng = np.random.default_rng(5)
    n = {"star": 30, "exponential": 40, "de Vaucouleurs": 40, "two components": 40}
    for kind in KINDS:
        s = scene(rng, n[kind], profile)
        found = draw(kind, {name: array.astype(np.float32) for name, array in s.items()}).astype(float)
        expected = np.stack([galsim_image(kind, s, k) for k in range(n[kind])])
        flux = found.sum(axis=(1, 2)) / expected.sum(axis=(1, 2)) - 1
        residual = np.abs(found - expected).max(axis=(1, 2)) / expected.max(axis=(1, 2))
        worst, most, half = (
            100 * value for value in (np.abs(flux).max(), residual.max(), np.median(residual))
        )
        print(f"{profile.name}, {kind}, {n[kind]} objects: flux off by {worst:.3f} % at most,", end=" ")
        print(f"residual {most:.2f} % of the peak at most, {half:.2f} % in the median")
        assert np.abs(flux).max() < 1e-3
        assert residual.max() < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_torch_draws_the_same(kind: str, rng: np.random.Generator) -> None:
    s = {name: array.astype(np.float32) for name, array in scene(rng, 70, LSST).items()}
    host = draw(kind, s)
    if kind == "star":
        seeing = ellipse(np.ones_like(s["x"]), s["psf_ratio"], s["psf_angle"])
        arrays = [s["sigma"] ** 2 * part[:, None] for part in seeing]
        tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (s["x"], s["y"], *arrays, s["share"])]
        found = draw_gaussians(SIZE, tensors[0], tensors[1], Ellipse(*tensors[2:5]), tensors[5])
    else:
        t = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in s.items()}
        seeing = Seeing(t["sigma"] ** 2, t["share"], ellipse(torch.ones(70), t["psf_ratio"], t["psf_angle"]))
        bulge = {"exponential": 0 * t["q"], "de Vaucouleurs": 0 * t["q"] + 1}.get(kind, t["bulge_share"])
        found = draw_galaxies(
            SIZE, "exponential", t["x"], t["y"], 1 - bulge, t["disc"], t["q"], t["angle"], seeing
        )
        draw_galaxies(
            *(
                SIZE,
                "de Vaucouleurs",
                t["x"],
                t["y"],
                bulge,
                t["bulge"],
                t["bulge_q"],
                t["bulge_angle"],
                seeing,
            ),
            out=found,
        )
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), host, atol=3e-5 * host.max())


def oversampled(x: float, y: float, covariance: np.ndarray, factor: int = 8) -> np.ndarray:
    """A Gaussian of unit flux averaged over `factor` x `factor` points in each pixel."""
    points = (np.arange(SIZE * factor) + 0.5) / factor - 0.5
    offset = np.stack(np.meshgrid(points - x, points - y), axis=-1)
    exponent = -0.5 * np.einsum("rci,ij,rcj->rc", offset, np.linalg.inv(covariance), offset)
    fine = np.exp(exponent) / (2 * np.pi * math.sqrt(np.linalg.det(covariance)))
    return fine.reshape(SIZE, factor, SIZE, factor).mean(axis=(1, 3))


@pytest.mark.parametrize(("sigma", "tolerance"), [(0.6, 2e-3), (0.75, 6e-4), (1.2, 5e-5)])
def test_round_pixels(sigma: float, tolerance: float, rng: np.random.Generator) -> None:
    centre = rng.uniform(15, 17, (2, 1))
    variance, zero, one = np.full((1, 1), sigma**2), np.zeros((1, 1)), np.ones((1, 1))
    found = draw_gaussians(SIZE, centre[0], centre[1], Ellipse(variance, zero, variance), one)[0]
    edges = (np.arange(SIZE + 1) - 0.5 - centre) / (sigma * math.sqrt(2))
    columns, rows = (np.diff([0.5 * math.erf(edge) for edge in axis]) for axis in edges)
    expected = rows[:, None] * columns
    assert np.abs(found - expected).max() < tolerance * expected.max()


def test_thin_ellipses_and_centres_of_their_own(rng: np.random.Generator) -> None:
    n, k = 5, 3
    x, y = rng.uniform(12, 20, (2, n, k))
    q, angle, variance = (
        rng.uniform(0.15, 1, (n, k)),
        rng.uniform(0, np.pi, (n, k)),
        rng.uniform(2, 5, (n, k)),
    )
    shape, flux = ellipse(variance, q, angle), rng.uniform(0.5, 2, (n, k))
    found = draw_gaussians(SIZE, x, y, shape, flux)
    out = np.ones((n + 1, SIZE, SIZE))
    draw_gaussians(SIZE, x, y, shape, flux, out, np.arange(n)[::-1])
    np.testing.assert_allclose(out[:n][::-1] - 1, found, atol=1e-12)
    assert (out[n] == 1).all()
    for i in range(n):
        expected = sum(
            flux[i, j]
            * oversampled(
                x[i, j],
                y[i, j],
                np.array([[shape.xx[i, j], shape.xy[i, j]], [shape.xy[i, j], shape.yy[i, j]]]),
            )
            for j in range(k)
        )
        assert np.abs(found[i] - expected).max() < 4e-3 * expected.max()


def test_nothing_is_drawn_of_nothing() -> None:
    none, two = np.zeros(0, np.float32), np.zeros((0, 2), np.float32)
    seeing = Seeing(two, two, Ellipse(none, none, none))
    image = draw_galaxies(SIZE, "exponential", none, none, none, none, none, none, seeing)
    assert image.shape == (0, SIZE, SIZE)


def test_moffat_as_gaussians(rng: np.random.Generator) -> None:
    beta, fwhm = 4.765, rng.uniform(0.6, 1.2, 4)
    psf = Psf.moffat(fwhm, beta, 4)
    np.testing.assert_allclose(psf.share.sum(-1), 1)
    np.testing.assert_allclose(psf.fwhm, fwhm, rtol=1e-3)
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    r = np.linspace(0, 3, 50)
    expected = (1 + (r / alpha[:, None]) ** 2) ** -beta * (beta - 1) / (np.pi * alpha[:, None] ** 2)
    height = psf.share / (2 * np.pi * psf.sigma**2)
    found = (height[:, None] * np.exp(-0.5 * (r[:, None] / psf.sigma[:, None]) ** 2)).sum(-1)
    assert np.abs(found / expected[:, :1] - expected / expected[:, :1]).max() < 3e-3


def test_double_gaussian_and_widening(rng: np.random.Generator) -> None:
    fwhm = rng.uniform(0.7, 2.0, (4, 5))
    psf = Psf.double_gaussian(fwhm, 2.3, rng.uniform(0.02, 0.3, (4, 5)))
    np.testing.assert_allclose(psf.fwhm, fwhm, rtol=1e-5)
    np.testing.assert_allclose(psf.widened(np.full((4, 5), 1.1)).fwhm, 1.1 * fwhm, rtol=1e-5)
    np.testing.assert_allclose(psf[1:3, 2].fwhm, fwhm[1:3, 2], rtol=1e-5)
    np.testing.assert_allclose(psf.wing, psf.share[..., 1])


def test_bad_psfs_are_named() -> None:
    with pytest.raises(ConfigError, match=r"expected one shape \(..., K\) for both"):
        Psf(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ConfigError, match=r"beta 1.0 has no finite flux; expected beta above 1"):
        Psf.moffat(np.ones(2), 1.0)


def test_conditions_of_an_unknown_survey() -> None:
    unknown = SurveyProfile("des", ("g",), "g", 0.26, 32, 30.0, "nJy", (1.0,))
    with pytest.raises(ConfigError, match="'des' cannot be simulated; expected sdss or lsst"):
        conditions(unknown)
