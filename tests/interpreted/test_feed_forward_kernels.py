"""The feed-forward half's Triton kernels in the interpreter, in tiles so small that few tokens have many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from feed_forward_cases import check_accuracy, formula, ours, plain, random_case, relative_errors
from triton.runtime import interpreter

from margformer_fast.kernels import feed_forward as kernels


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def rounded_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to bfloat16 as a GPU does. The interpreter cuts off, which is biased and costs another bit."""
    convert = interpreter._convert_float

    def rounding(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        bits = np.ascontiguousarray(data).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", rounding)


@pytest.fixture(params=[(True, 16, 32, 1), (True, 32, 32, 2), (False, 16, 64, 1)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    resident, rows, units, chunks = request.param
    small = kernels.Blocks(
        rows, units, num_warps=4, num_stages=1, programs=1, resident=resident, chunks=chunks
    )
    monkeypatch.setattr(kernels, "choose_blocks", lambda D, M, precision, kind: small)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("B", "T", "D", "M"), [(1, 1, 8, 16), (3, 15, 20, 70)])
def test_accuracy(
    rng: np.random.Generator, blocks: None, B: int, T: int, D: int, M: int, dropout: float
) -> None:
    check_accuracy(random_case(rng, B, T, D, M, dropout=dropout), "fp32", "cpu")


@pytest.mark.parametrize(
    ("T", "update", "residual"), [(1, True, True), (3, True, False), (17, True, True), (17, False, True)]
)
def test_as_half_of_a_layer(
    rng: np.random.Generator, blocks: None, T: int, update: bool, residual: bool
) -> None:
    case = random_case(rng, 34 // (T + 1), T, 12, 40, dropout=0.1, update=update, residual=residual)
    check_accuracy(case, "fp32", "cpu")


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_precisions(rng: np.random.Generator, blocks: None, precision: str) -> None:
    """The interpreter multiplies in float32; what is tested is bf16's rounding of factors and its GELU."""
    case = random_case(rng, 3, 11, 40, 70, dropout=0.1, update=True, residual=True)
    check_accuracy(case, precision, "cpu")


def test_tokens_in_bfloat16(rng: np.random.Generator, blocks: None) -> None:
    """The sum with the update is not rounded, results are."""
    case = random_case(rng, 3, 11, 40, 70, dropout=0.1, update=True, residual=True)
    got = ours(case, "bf16", "cpu", torch.bfloat16)
    assert [each.dtype for each in got] == [torch.bfloat16] * 3 + [torch.float32] * 6
    assert max(relative_errors(got, plain(case, torch.float64, "cpu"))) <= 1e-2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_blocks_chosen_for_the_gpu(rng: np.random.Generator, precision: str) -> None:
    check_accuracy(random_case(rng, 1, 65, 64, 130, dropout=0.1, update=True), precision, "cpu")


def test_bias_is_exact_where_it_is_a_product(blocks: None) -> None:
    """Near cancellation: in one bfloat16 the bias would be 100.5."""
    x = torch.tensor([[[1.0, -1.0]]])
    told = [1.0, 1.0], [0.0, 0.0], [[-50.0, 50.0]], [100.3], [[1.0], [0.0]], [0.0, 0.0]
    got = kernels.forward(x, kernels.FeedForwardWeights(*map(torch.tensor, told)), None, 0.0, "bf16")
    assert abs(got[0, 0, 0] - torch.nn.functional.gelu(torch.tensor(0.3))) < 2e-3


def test_dropping_everything_leaves_the_bias(rng: np.random.Generator, blocks: None) -> None:
    case = random_case(rng, 2, 5, 12, 40, dropout=1.0)
    out, dx, *grads = ours(case, "fp32", "cpu")
    assert torch.equal(out, case.weights.b2.float().expand_as(out))
    assert not dx.any()
    assert not any(grad.any() for grad in grads[:-1])
    assert grads[-1].any()


def test_a_probability_without_a_seed_drops_nothing(rng: np.random.Generator, blocks: None) -> None:
    case = random_case(rng, 2, 5, 12, 40)
    weights = kernels.FeedForwardWeights(*(each.float() for each in case.weights))
    got = kernels.forward(case.x.float(), weights, None, 0.5, "fp32")
    want = formula(case, case.differentiated(), None)
    assert (got - want).norm() <= 1e-5 * want.norm()


def test_no_tokens(blocks: None, rng: np.random.Generator) -> None:
    case = random_case(rng, 0, 5, 12, 40, dropout=0.1, update=True)
    out, dx, d_update, *grads = ours(case, "fp32", "cpu")
    assert out.shape == dx.shape == (0, 5, 12)
    assert d_update.shape == (0, 12)
    assert not any(grad.any() for grad in grads)


def test_odd_strides(rng: np.random.Generator, blocks: None) -> None:
    case = random_case(rng, 3, 7, 12, 40, dropout=0.2, update=True, residual=True)
    want = ours(case, "fp32", "cpu")
    x, update, grad = (each.float() for each in (case.x, case.update, case.grad))
    weights = kernels.FeedForwardWeights(*(each.float() for each in case.weights))
    turned = weights._replace(w1=weights.w1.T.contiguous().T, w2=weights.w2.T.contiguous().T)
    x, grad = (each.permute(2, 0, 1).contiguous().permute(1, 2, 0) for each in (x, grad))
    more = {"update_BD": update.T.contiguous().T, "residual": True}
    seed = torch.tensor(case.seed)
    got = kernels.forward(x, turned, seed, 0.2, "fp32", **more)
    grads = kernels.backward(grad, x, turned, seed, 0.2, "fp32", **more)
    assert all(torch.equal(a, b) for a, b in zip((got, *grads), want, strict=True))


@pytest.mark.parametrize("num_programs", [1, 2, 7])
def test_any_number_of_programs(
    rng: np.random.Generator, blocks: None, monkeypatch: pytest.MonkeyPatch, num_programs: int
) -> None:
    monkeypatch.setattr(kernels, "_num_programs", lambda *_: num_programs)
    check_accuracy(random_case(rng, 3, 23, 12, 40, update=True), "fp32", "cpu")


def test_two_runs_agree_bit_for_bit(rng: np.random.Generator, blocks: None) -> None:
    case = random_case(rng, 3, 17, 12, 40, dropout=0.1, update=True, residual=True)
    first, second = (ours(case, "fp32", "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@triton.jit
def _gelu(x_ptr, out_ptr, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, x * (1 + kernels._erf_of_gelu(x, True, False)) / 2)


def test_error_of_the_cheaper_gelu() -> None:
    """What the module says of it, without the hardware's share: that is tested on a GPU."""
    x = torch.linspace(-30, 30, 1 << 14)
    got = torch.empty_like(x)
    _gelu[(1,)](x, got, COUNT=len(x))
    error = (got.double() - torch.nn.functional.gelu(x.double())).abs().max()
    assert 2.6e-4 <= error <= 2.8e-4
