"""Cross-attention: the definition by loops, backends against float64, odd inputs, compilation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from encoder_cases import check_accuracy, differentiate, random_tensors, relative_errors

from margformer_fast.backends import Problem
from margformer_fast.kernels import cross_attention_folded
from margformer_fast.kernels.dropout import KeepStream
from margformer_fast.ops.cross_attention import OPERATOR, cross_attention
from margformer_fast.ops.dropout import draw_seed
from margformer_fast.reference.cross_attention import cross_attention as reference

# B, T, D, H, K
SIZES = [
    (1, 65, 64, 8, 64),
    (3, 65, 64, 8, 128),
    (5, 17, 24, 3, 7),
    (2, 2, 6, 6, 1),
    (4, 1, 5, 1, 3),
    (33, 9, 8, 2, 4),
]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[cross_attention_folded.TILE_ELEMENTS, 200, 1])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All objects in one tile, several tiles that are cut at the end, and an object a tile."""
    monkeypatch.setattr(cross_attention_folded, "TILE_ELEMENTS", request.param)


def case(rng: np.random.Generator, B: int, T: int, D: int, K: int) -> list[torch.Tensor]:
    return random_tensors(
        rng, (B, T, D), (D,), (D,), (D, D), (D, D), (D, D), (T, K), (T, K), (D, D), (D,)
    )  # fmt: skip


def folded(*tensors: torch.Tensor, num_heads: int, dropout: float = 0.0) -> torch.Tensor:
    return cross_attention(*tensors, num_heads=num_heads, dropout=dropout, backend="folded")


def plain(*tensors: torch.Tensor, num_heads: int) -> torch.Tensor:
    return reference(*tensors, num_heads, 0.0)


@pytest.mark.parametrize("backend", OPERATOR.backends)
def test_by_loops(rng: np.random.Generator, backend: str) -> None:
    """One object, one head, one slot at a time, straight from the definition."""
    B, T, D, H, K = 2, 5, 6, 2, 3
    x, g, b, w_q, w_k, w_v, p_k, p_v, w_o, b_o = tensors = case(rng, B, T, D, K)
    got = cross_attention(*tensors, num_heads=H, backend=backend)
    for i in range(B):
        mean, var = x[i].mean(1, keepdim=True), x[i].var(1, correction=0, keepdim=True)
        y = (x[i] - mean) / torch.sqrt(var + 1e-5) * g + b
        o = torch.zeros(D, dtype=torch.float64)
        for h in range(H):
            part = slice(h * D // H, (h + 1) * D // H)
            q, keys, values = w_q[part] @ y[0], p_k.T @ (y @ w_k[part].T), p_v.T @ (y @ w_v[part].T)
            weight = [math.exp(q @ keys[k] / math.sqrt(D / H)) for k in range(K)]
            o[part] = sum(weight[k] * values[k] for k in range(K)) / sum(weight)
        torch.testing.assert_close(got[i, 0], w_o @ o + b_o)


# With one slot the gradients of queries and keys are zero, with one token few roundings make up an error.
@pytest.mark.parametrize("size", [size for size in SIZES if min(size[1], size[-1]) > 1], ids=str)
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_accuracy(rng: np.random.Generator, size: tuple[int, ...], kind: str) -> None:
    B, T, D, H, K = size
    op, exact = partial(folded, num_heads=H), partial(plain, num_heads=H)
    check_accuracy(op, exact, case(rng, B, T, D, K), torch.from_numpy(rng.normal(size=(B, 1, D))), kind)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_same_formula_in_float64(rng: np.random.Generator, tiles: None, size: tuple[int, ...]) -> None:
    B, T, D, H, K = size
    tensors, grad = case(rng, B, T, D, K), torch.from_numpy(rng.normal(size=(B, 1, D)))
    got, want = (differentiate(partial(op, num_heads=H), tensors, grad) for op in (folded, plain))
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-13)


def test_strides_do_not_matter(rng: np.random.Generator) -> None:
    """Cut from wider tensors, transposed, and expanded over the batch; the gradient expanded too."""
    x, *weights = case(rng, 4, 9, 12, 5)
    wide = torch.zeros(8, 9, 36, dtype=torch.float64)
    wide[::2, :, 3:27:2] = x
    strided = [weight.T.contiguous().T if weight.ndim == 2 else weight for weight in weights]
    for tokens in (wide[::2, :, 3:27:2], x[:1].expand(4, -1, -1)):
        for op in (folded, plain):
            leaves = [each.detach().requires_grad_() for each in (tokens, *strided)]
            value = op(*leaves, num_heads=3)
            value.sum().backward()
            answer = [value.detach(), *(leaf.grad for leaf in leaves)]
            if op is folded:
                got = answer
        assert max(relative_errors(got, answer)) < 1e-12


def test_gradients_by_differences(rng: np.random.Generator) -> None:
    tensors = [each.requires_grad_() for each in case(rng, 2, 3, 4, 2)]
    assert torch.autograd.gradcheck(partial(folded, num_heads=2), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_of_results(rng: np.random.Generator, dtype: torch.dtype) -> None:
    tensors = [each.to(dtype) for each in case(rng, 2, 5, 8, 3)]
    assert folded(*tensors, num_heads=2).dtype == plain(*tensors, num_heads=2).dtype == dtype


def test_gradients_under_dropout_are_those_of_its_masks(rng: np.random.Generator, tiles: None) -> None:
    B, T, D, H, K = 5, 9, 8, 2, 6
    tensors, grad = case(rng, B, T, D, K), torch.from_numpy(rng.normal(size=(B, 1, D)))
    torch.manual_seed(int(rng.integers(2**31)))
    state = torch.get_rng_state()
    stream = KeepStream(int(draw_seed()), 0.4)
    # H K is a multiple of four, so that no word is cut by the edge of a tile.
    mask = stream.draw(torch.empty(B, H, K, dtype=torch.float64)) * stream.scale

    def masked(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        g, b, w_q, w_k, w_v, p_k, p_v, w_o, b_o = weights
        y = torch.nn.functional.layer_norm(x, (D,), g, b)
        q = (y[:, 0] @ w_q.T).view(B, H, 1, D // H)
        keys, values = (
            (p.T @ (y @ w.T)).view(B, K, H, -1).transpose(1, 2) for w, p in ((w_k, p_k), (w_v, p_v))
        )
        a = (q @ keys.transpose(2, 3) / math.sqrt(D / H)).softmax(-1) * mask[:, :, None]
        return (a @ values).reshape(B, 1, D) @ w_o.T + b_o

    torch.set_rng_state(state)
    got = differentiate(partial(folded, num_heads=H, dropout=0.4), tensors, grad)
    for mine, exact in zip(got, differentiate(masked, tensors, grad), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-13)


def test_registered_operators(rng: np.random.Generator) -> None:
    tensors = [each.float().requires_grad_() for each in case(rng, 3, 5, 8, 6)]
    seed, ops = torch.tensor(int(rng.integers(2**62))), torch.ops.margformer_fast
    for arguments in ((None, 2, 0.0), (seed, 2, 0.3)):
        torch.library.opcheck(ops.cross_attention.default, (*tensors, *arguments))
        with torch.no_grad():
            _, *kept = ops.cross_attention(*tensors, *arguments)
        detached = [each.detach() for each in tensors]
        torch.library.opcheck(
            ops.cross_attention_backward.default, (torch.randn(3, 8), *detached, *kept, *arguments)
        )


def test_two_runs_agree_bit_for_bit(rng: np.random.Generator) -> None:
    tensors, grad = case(rng, 130, 65, 64, 64), torch.from_numpy(rng.normal(size=(130, 1, 64)))
    answers = []
    for _ in range(2):
        torch.manual_seed(5)
        answers.append(differentiate(partial(folded, num_heads=8, dropout=0.1), tensors, grad, torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_dropout_keeps_the_mean_and_repeats_with_the_seed(rng: np.random.Generator) -> None:
    """The output is linear in the weights that dropout acts on, so its mean over masks is that without."""
    tensors = [each.float() for each in case(rng, 1, 7, 12, 5)]
    many = [tensors[0].expand(40_000, -1, -1), *tensors[1:]]
    torch.manual_seed(int(rng.integers(2**31)))
    state = torch.get_rng_state()
    first = folded(*many, num_heads=3, dropout=0.3)
    second = folded(*many, num_heads=3, dropout=0.3)
    torch.set_rng_state(state)
    assert torch.equal(folded(*many, num_heads=3, dropout=0.3), first)
    assert not torch.equal(first, second)
    mean, error = first.mean(0), first.std(0) / 40_000**0.5
    exact = folded(*tensors, num_heads=3)[0]
    assert ((mean - exact).abs() <= 6 * error).all()
    # Of a dropped weight sqrt(p / (1 - p)) of it is the spread: half of it would show.
    others = reference(*many, 3, 0.3)
    torch.testing.assert_close(first.std(0), others.std(0), rtol=0.05, atol=1e-4)


def test_under_compile_in_one_graph(rng: np.random.Generator) -> None:
    tensors = [each.float().requires_grad_() for each in case(rng, 3, 9, 8, 4)]
    compiled = torch.compile(partial(cross_attention, num_heads=2), fullgraph=True, backend="aot_eager")
    got, want = compiled(*tensors), plain(*tensors, num_heads=2)
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(each.sum(), tensors) for each in (got, want)]
    for mine, exact in zip(*grads, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-5)


def test_who_runs() -> None:
    assert OPERATOR.backends == ("folded", "reference")
    assert OPERATOR.resolve(Problem("cpu")).name == "folded"
    assert OPERATOR.resolve(Problem("cuda")).name == "reference"
