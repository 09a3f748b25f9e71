"""NT-Xent: golden values, a loop written from the paper, gradients, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from margformer_fast.errors import ConfigError
from margformer_fast.ops.nt_xent import nt_xent


@pytest.mark.parametrize(
    ("temperature", "loss"), [(0.07, 8.607722753566), (0.1, 6.253142159744), (0.5, 2.308427796620)]
)
def test_golden_values(temperature: float, loss: float) -> None:
    i, j = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(3.0, dtype=torch.float64)
    z1, z2 = torch.sin(1 + i + 2 * j), torch.cos(0.5 * i + j)
    assert nt_xent(z1, z2, temperature=temperature).item() == pytest.approx(loss, abs=1e-11)


def loop(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
    z = np.concatenate([z1, z2])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n, losses = len(z1), []
    for a in range(2 * n):
        others = [math.exp(z[a] @ z[b] / temperature) for b in range(2 * n) if b != a]
        losses.append(-math.log(math.exp(z[a] @ z[(a + n) % (2 * n)] / temperature) / sum(others)))
    return float(np.mean(losses))


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (3, 7), (13, 5), (31, 128)])
def test_against_a_loop(n: int, dim: int, rng: np.random.Generator) -> None:
    z1, z2 = rng.normal(size=(2, n, dim))
    temperature = float(rng.uniform(0.05, 2))
    got = nt_xent(torch.from_numpy(z1), torch.from_numpy(z2), temperature=temperature)
    assert got.item() == pytest.approx(loop(z1, z2, temperature), rel=1e-12)


def test_gradients_by_differences(rng: np.random.Generator) -> None:
    z1, z2 = (torch.from_numpy(z).requires_grad_() for z in rng.normal(size=(2, 5, 4)))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3), (z1, z2))


@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
def test_identical_embeddings(temperature: float) -> None:
    z = torch.ones(6, 3, dtype=torch.float64)
    assert nt_xent(z, z, temperature=temperature).item() == pytest.approx(math.log(11))


def test_finite_at_extremes() -> None:
    z = torch.eye(4)
    z1 = z.clone().requires_grad_()
    loss = nt_xent(z1, -z, temperature=0.01)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z1.grad).all()
    assert torch.isfinite(nt_xent(torch.zeros(3, 2), torch.zeros(3, 2), temperature=0.1))


@pytest.mark.parametrize(
    ("z1", "z2", "temperature", "message"),
    [
        (torch.ones(1, 4), torch.ones(1, 4), 0.1, "at least 2"),
        (torch.ones(3, 4), torch.ones(2, 4), 0.1, r"shapes \(3, 4\) and \(2, 4\)"),
        (torch.ones(3, 4), torch.ones(3, 4), 0.0, "temperature is 0.0"),
        (torch.ones(3, 4), torch.ones(3, 4), math.nan, "temperature is nan"),
    ],
)
def test_refusals(z1: torch.Tensor, z2: torch.Tensor, temperature: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        nt_xent(z1, z2, temperature=temperature)
