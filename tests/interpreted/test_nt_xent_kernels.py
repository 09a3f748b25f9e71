"""NT-Xent's Triton kernels in the interpreter, in blocks so small that tiny batches have many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from nt_xent_cases import check_accuracy, ours, random_case

from margformer_fast.kernels import nt_xent as kernels
from margformer_fast.ops.nt_xent import PRECISIONS

# The log of an empty sum is meant to be -inf.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[(16, 16, 32), (32, 16, 16)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    small = kernels.Blocks(*request.param, num_warps=4, num_stages=1)
    monkeypatch.setattr(kernels, "choose_blocks", lambda D, precision, *, gradient: small)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize(("n", "dim"), [(2, 5), (17, 33)])
def test_accuracy(
    rng: np.random.Generator, blocks: None, n: int, dim: int, temperature: float, grouped: bool
) -> None:
    check_accuracy(random_case(rng, n, dim, temperature, grouped=grouped), "fp32", "cpu", "triton")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(rng: np.random.Generator, blocks: None, precision: str) -> None:
    """The interpreter multiplies in float32; what is tested is the rounding of bf16 factors."""
    check_accuracy(random_case(rng, 21, 20, 0.2), precision, "cpu", "triton")


def test_blocks_chosen_for_the_gpu(rng: np.random.Generator) -> None:
    check_accuracy(random_case(rng, 70, 48, 0.1), "bf16", "cpu", "triton")


@pytest.mark.parametrize("num_programs", [1, 2, 40])
def test_any_number_of_programs(
    rng: np.random.Generator, blocks: None, monkeypatch: pytest.MonkeyPatch, num_programs: int
) -> None:
    monkeypatch.setattr(kernels, "_num_programs", lambda z_MD: num_programs)
    check_accuracy(random_case(rng, 29, 16, 0.3), "fp32", "cpu", "triton")


def test_two_runs_agree_bit_for_bit(rng: np.random.Generator, blocks: None) -> None:
    case = random_case(rng, 14, 16, 0.1)
    first, second = (ours(case, "fp32", "cpu", "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
