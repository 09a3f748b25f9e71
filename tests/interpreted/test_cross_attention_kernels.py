"""Cross-attention's Triton kernels in the interpreter, in tiles so small that tiny batches have many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cross_attention_cases import Case, check_accuracy, exact, ours, random_case, relative_errors

from margformer_fast.kernels import cross_attention as kernels
from margformer_fast.ops.nt_xent import PRECISIONS


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


# Of one object with products of the library around, of several with all in the kernel, forward at least.
TILES = {
    "one object": kernels.Blocks(1, 16, 16, 4, 1, 1),
    "four objects": kernels.Blocks(4, 16, 8, 4, 1, 1),
    "two objects, long": kernels.Blocks(2, 32, 16, 4, 1, 1),
}


@pytest.fixture(params=TILES)
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kernels, "choose_blocks", lambda form, x_dtype, precision, *, gradient: TILES[request.param]
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "size",
    [
        (3, 17, 16, 2, 16),  # one chunk exactly
        (5, 18, 24, 3, 7),  # a second chunk of one token, a tile cut, nothing a power of two
        (6, 40, 20, 5, 20),  # three chunks of 16
        (9, 4, 6, 6, 5),  # head dim 1, fewer tokens than a block
    ],
    ids=str,
)
def test_accuracy(rng: np.random.Generator, tiles: None, size: tuple[int, ...], dropout: float) -> None:
    check_accuracy(random_case(rng, *size, dropout), "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(rng: np.random.Generator, tiles: None, precision: str, dtype: torch.dtype) -> None:
    """The interpreter multiplies in float32; what is tested is the rounding of bf16 and tf32 factors."""
    case = random_case(rng, 20, 21, 32, 4, 12, 0.1)  # so many that errors of bf16 average
    if dtype == torch.bfloat16 and precision != "bf16":
        # The interpreter cuts digits of results off rather than to round them.
        errors = relative_errors(ours(case, precision, dtype, "cpu"), exact(case))
        assert max(errors[:2]) < 2**-7
        assert max(errors[2:]) < (2e-3 if precision == "tf32" else 1e-5)
    else:
        check_accuracy(case, precision, dtype)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_tiles_chosen_for_the_gpu(rng: np.random.Generator, precision: str) -> None:
    check_accuracy(random_case(rng, 9, 65, 64, 8, 64, 0.1), precision)


@pytest.mark.parametrize("size", [(3, 1, 6, 2, 3), (2, 5, 8, 1, 1), (1, 3, 70, 10, 130)], ids=str)
def test_edges(rng: np.random.Generator, size: tuple[int, ...]) -> None:
    """One token, one slot (queries then have no gradient but rounding), and more than a block of each."""
    case = random_case(rng, *size)
    want = exact(case)
    for got, answer in zip(ours(case, "fp32", torch.float32, "cpu"), want, strict=True):
        torch.testing.assert_close(got, answer, rtol=1e-4, atol=1e-5 * float(answer.abs().max().clip(1)))


def test_equal_and_huge_tokens(rng: np.random.Generator, tiles: None) -> None:
    """Objects whose tokens are all alike, tokens without deviation, and scores far from zero."""
    case = random_case(rng, 5, 9, 16, 2, 8)
    x, *weights = case.tensors
    x[1] = x[1, :1]
    x[2, 3] = 0
    x[3] *= 2**10
    weights[2] *= 4
    x[4] += 2**8
    # Far from zero a norm loses what its mean is rounded by: so does plain PyTorch's.
    check_accuracy(Case([x, *weights], case.grad, 2), "fp32")


@pytest.mark.parametrize("num_programs", [1, 2, 40])
def test_any_number_of_programs(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, num_programs: int
) -> None:
    monkeypatch.setattr(
        kernels, "choose_blocks", lambda form, x_dtype, precision, *, gradient: TILES["one object"]
    )
    monkeypatch.setattr(kernels, "_num_programs", lambda x_BTD, blocks: num_programs)
    check_accuracy(random_case(rng, 7, 18, 16, 2, 8), "fp32")


def test_objects_do_not_depend_on_their_tile(rng: np.random.Generator, tiles: None) -> None:
    """But for dropout, which knows an object by its place in the batch."""
    case = random_case(rng, 6, 18, 16, 2, 8)
    alone = Case([case.tensors[0][4:5], *case.tensors[1:]], case.grad[4:5], 2)
    (update, dx, *_), (update_alone, dx_alone, *_) = (
        ours(each, "fp32", torch.float32, "cpu") for each in (case, alone)
    )
    torch.testing.assert_close(update[4:5], update_alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dx[4:5], dx_alone, rtol=1e-4, atol=1e-6)


def test_two_runs_agree_bit_for_bit(rng: np.random.Generator, tiles: None) -> None:
    case = random_case(rng, 9, 18, 16, 2, 8, 0.2)
    first, second = (ours(case, "fp32", torch.float32, "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_all_dropped_and_no_seed(rng: np.random.Generator, tiles: None) -> None:
    """Without any attention weight the update is what the output adds; without a seed nothing is dropped."""
    case = random_case(rng, 3, 9, 16, 2, 8, 1.0)
    update, dx, *grads = ours(case, "fp32", torch.float32, "cpu")
    torch.testing.assert_close(update, case.tensors[-1].expand(3, -1))
    assert not dx.any()
    assert not any(grad.any() for grad in grads[:-1])
    weights = kernels.AttentionWeights(*(weight.float() for weight in case.tensors[1:]))
    given = (case.tensors[0].float(), weights, 2, None)
    assert torch.equal(kernels.forward(*given, 0.5, "fp32"), kernels.forward(*given, 0.0, "fp32"))
