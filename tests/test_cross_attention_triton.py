"""Cross-attention's Triton kernels on a GPU, at real sizes; tests/interpreted has them in tiny ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cross_attention_cases import check_accuracy, ours, random_case, relative_errors

from margformer_fast.kernels import cross_attention as kernels

pytestmark = pytest.mark.gpu

A64, A128, B = (65, 64, 8, 64), (65, 64, 8, 128), (65, 256, 8, 32)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3, device="cuda").isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("ieee", torch.float32),
        ("fp32", torch.float32),
        ("tf32", torch.float32),
        ("bf16", torch.float32),
        ("bf16", torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 7, 300])
@pytest.mark.parametrize("form", [A64, A128, B], ids=str)
def test_accuracy(
    rng: np.random.Generator,
    form: tuple[int, ...],
    batch: int,
    precision: str,
    dtype: torch.dtype,
    dropout: float,
) -> None:
    check_accuracy(random_case(rng, batch, *form, dropout), precision, dtype, "cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "form",
    [
        (17, 24, 3, 7),
        (50, 48, 12, 100),
        (101, 128, 16, 40),
        (197, 64, 8, 64),
        (66, 200, 5, 33),
        (2, 16, 2, 2),
    ],
    ids=str,
)
def test_other_forms(rng: np.random.Generator, form: tuple[int, ...], precision: str) -> None:
    check_accuracy(random_case(rng, 37, *form, 0.2), precision, torch.float32, "cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_many_objects(rng: np.random.Generator, precision: str) -> None:
    """Several tiles for every program."""
    check_accuracy(random_case(rng, 4099, *A64, 0.1), precision, torch.float32, "cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("form", [A64, B], ids=str)
def test_two_runs_agree_bit_for_bit(rng: np.random.Generator, form: tuple[int, ...], precision: str) -> None:
    case = random_case(rng, 1001, *form, 0.1)
    first, second = (ours(case, precision, torch.float32, "cuda") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_graph_replays_with_new_seeds(rng: np.random.Generator) -> None:
    case = random_case(rng, 64, *A64, 0.5)
    x, *rest = (tensor.float().cuda() for tensor in case.tensors)
    seed = torch.tensor(case.seed, device="cuda")
    given = (x, kernels.AttentionWeights(*rest), 8, seed, 0.5, "bf16")
    for _ in range(2):  # compiles before it records
        kernels.forward(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update = kernels.forward(*given)
    for _ in range(2):
        seed.fill_(int(rng.integers(2**63)))
        graph.replay()
        assert relative_errors([update.double()], [kernels.forward(*given).double()]) == [0]
