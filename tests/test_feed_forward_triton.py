"""The feed-forward half's Triton kernels on a GPU; `tests/interpreted` has what needs none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from feed_forward_cases import check_accuracy, ours, plain, random_case, relative_errors

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["ieee", "fp32", "tf32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("B", "T", "D", "M"),
    [
        (1, 1, 64, 256),
        (67, 65, 64, 256),
        (9, 65, 256, 1024),
        (5, 33, 128, 512),
        (13, 7, 24, 100),
        (3, 9, 300, 70),
    ],
)
def test_accuracy(
    rng: np.random.Generator, B: int, T: int, D: int, M: int, dropout: float, precision: str
) -> None:
    check_accuracy(random_case(rng, B, T, D, M, dropout=dropout), precision, "cuda")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("T", [1, 65, 200])
@pytest.mark.parametrize(("D", "M"), [(64, 256), (256, 1024)])
@pytest.mark.parametrize(("update", "residual"), [(True, True), (True, False), (False, True)])
def test_as_half_of_a_layer(
    rng: np.random.Generator, T: int, D: int, M: int, update: bool, residual: bool, precision: str
) -> None:
    case = random_case(rng, 2000 // T, T, D, M, dropout=0.1, update=update, residual=residual)
    check_accuracy(case, precision, "cuda")


@pytest.mark.parametrize(("D", "M"), [(64, 256), (256, 1024)])
def test_tokens_in_bfloat16(rng: np.random.Generator, D: int, M: int) -> None:
    case = random_case(rng, 67, 65, D, M, dropout=0.1, update=True, residual=True)
    got = ours(case, "bf16", "cuda", torch.bfloat16)
    assert [each.dtype for each in got] == [torch.bfloat16] * 3 + [torch.float32] * 6
    assert max(relative_errors(got, plain(case, torch.float64, "cpu"))) <= 1e-2


@pytest.mark.parametrize("precision", ["ieee", "fp32", "tf32", "bf16"])
def test_two_runs_agree_bit_for_bit(rng: np.random.Generator, precision: str) -> None:
    case = random_case(rng, 301, 65, 64, 256, dropout=0.1, update=True, residual=True)
    first, second = (ours(case, precision, "cuda") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_error_of_gelu_with_the_hardware_tanh() -> None:
    """One hidden unit a token, and nothing but it: what the kernels' documentation says of its error."""
    from margformer_fast.kernels.feed_forward import forward
    from margformer_fast.reference.weights import FeedForwardWeights

    # Normalised, a token of two numbers is (1, -1); its one hidden unit is the bias alone.
    pre = torch.linspace(-8, 8, 4001)
    x_BTD = torch.tensor([1.0, -1.0], device="cuda").expand(1, 1, 2)
    got = torch.stack(
        [
            forward(
                x_BTD,
                FeedForwardWeights(*(torch.tensor(each, device="cuda") for each in
                          ([1.0, 1.0], [0.0, 0.0], [[0.0, 0.0]], [value], [[1.0], [0.0]], [0.0, 0.0]))),
                None, 0.0, "bf16",
            )[0, 0, 0].cpu()
            for value in pre.tolist()[::16]
        ]
    )  # fmt: skip
    x = pre[::16].double()
    want = torch.nn.functional.gelu(x)
    # The factor of the second product is the hidden unit in bfloat16, the bias is given as two of them.
    allowed = 2.8e-4 + 2.5e-4 * x.abs() + 2**-9 * want.abs() + 2**-16 * x.abs()
    share = (got.double() - want).abs() / allowed
    worst = share.argmax()
    assert share.max() <= 1, f"{share[worst]:.2f} of what is allowed at {x[worst]}: {got[worst]}"


def test_memory_is_that_of_the_result(rng: np.random.Generator) -> None:
    """No hidden unit and no mask in device memory: they would be four times the tokens."""
    from margformer_fast.kernels import feed_forward as kernels

    case = random_case(rng, 1024, 65, 64, 256, dropout=0.1)
    x, grad = (each.to("cuda", torch.bfloat16) for each in (case.x, case.grad))
    weights = kernels.FeedForwardWeights(*(each.to("cuda", torch.float32) for each in case.weights))
    seed = torch.tensor(case.seed, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kernels.forward(x, weights, seed, 0.1, "bf16")
    assert torch.cuda.max_memory_allocated() - before <= 1.2 * x.nbytes
    torch.cuda.reset_peak_memory_stats()
    kernels.backward(grad, x, weights, seed, 0.1, "bf16")
    parts = 2 * 4 * 128 * (1024 * 65 // kernels.ROWS_OF_A_PART + 2) * 256
    assert torch.cuda.max_memory_allocated() - before <= 1.2 * (x.nbytes + parts)
