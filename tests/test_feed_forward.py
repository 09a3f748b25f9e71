"""Feed-forward: tiles against float64, dropout by its seed and its statistics, odd inputs, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from encoder_cases import check_accuracy, differentiate, random_tensors, relative_errors

from margformer_fast.backends import Problem
from margformer_fast.errors import BackendUnavailable
from margformer_fast.kernels import feed_forward_tiled
from margformer_fast.kernels.dropout import KeepStream
from margformer_fast.ops.feed_forward import OPERATOR, feed_forward
from margformer_fast.reference.feed_forward import feed_forward as reference

# B, T, D, M
SIZES = [(1, 1, 8, 16), (3, 65, 64, 256), (5, 7, 24, 33), (2, 13, 5, 3)]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[feed_forward_tiled.TILE_ELEMENTS, 640, 1])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile, several that are cut at the end, and one a row."""
    monkeypatch.setattr(feed_forward_tiled, "TILE_ELEMENTS", request.param)


def case(rng: np.random.Generator, B: int, T: int, D: int, M: int) -> list[torch.Tensor]:
    return random_tensors(rng, (B, T, D), (D,), (D,), (M, D), (M,), (D, M), (D,))


def tiled(*tensors: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    return feed_forward(*tensors, dropout=dropout, backend="tiled")


def plain(*tensors: torch.Tensor) -> torch.Tensor:
    return reference(*tensors, 0.0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_same_formula_in_float64(rng: np.random.Generator, tiles: None, size: tuple[int, ...]) -> None:
    tensors = case(rng, *size)
    grad = torch.from_numpy(rng.normal(size=size[:3]))
    got, want = (differentiate(op, tensors, grad) for op in (tiled, plain))
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES[1:3], ids=str)
def test_accuracy(rng: np.random.Generator, tiles: None, size: tuple[int, ...], kind: str) -> None:
    check_accuracy(tiled, plain, case(rng, *size), torch.from_numpy(rng.normal(size=size[:3])), kind)


def test_accuracy_in_several_real_tiles(rng: np.random.Generator) -> None:
    grad = torch.from_numpy(rng.normal(size=(67, 65, 16)))
    for kind in ("fp32", "bf16"):
        check_accuracy(tiled, plain, case(rng, 67, 65, 16, 256), grad, kind)


def masks_of(hidden: int, rows: int, seed: int, dropout: float) -> torch.Tensor:
    """What dropout multiplies hidden units with, read off maps that pass hidden units through one by one."""
    x = torch.zeros(1, rows, 2, dtype=torch.float64)
    # A bias of 40 passes GELU unchanged; the second map is the identity.
    before = [torch.ones(2), torch.zeros(2), torch.zeros(hidden, 2), torch.full((hidden,), 40.0)]
    columns = []
    for pair in torch.eye(hidden).split(2):
        torch.manual_seed(seed)
        weights = [each.double() for each in (*before, pair, torch.zeros(2))]
        columns.append(tiled(x, *weights, dropout=dropout)[0] / 40)
    return torch.cat(columns, 1)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_values_and_gradients_under_dropout_are_those_of_its_masks(
    rng: np.random.Generator, tiles: None, dropout: float
) -> None:
    """The masks, found through outputs alone, put into the formula give the same values and gradients."""
    B, T, D, M = 3, 7, 2, 12
    seed = int(rng.integers(2**31))
    tensors = case(rng, B, T, D, M)
    mask = masks_of(M, B * T, seed, dropout).view(B, T, M)
    levels = round(dropout * 65536)
    assert {round(value, 9) for value in mask.unique().tolist()} == {0.0, round(65536 / (65536 - levels), 9)}
    grad = torch.from_numpy(rng.normal(size=(B, T, D)))

    def masked(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        g, b, w1, b1, w2, b2 = weights
        y = torch.nn.functional.layer_norm(x, (D,), g, b)
        return (torch.nn.functional.gelu(y @ w1.T + b1) * mask) @ w2.T + b2

    torch.manual_seed(seed)
    got = differentiate(partial(tiled, dropout=dropout), tensors, grad)
    for mine, exact in zip(got, differentiate(masked, tensors, grad), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_stream_drops_with_its_probability(rng: np.random.Generator, p: float, dtype: torch.dtype) -> None:
    stream = KeepStream(int(rng.integers(2**62)), p)
    n = 1_000_003
    keep = stream.draw(torch.empty(n, dtype=dtype)).double()
    assert set(keep.unique().tolist()) <= {0.0, 1.0}
    rounded = round(p * 65536) / 65536
    assert abs(rounded - p) <= 0.5 / 65536
    sigma = (rounded * (1 - rounded) / n) ** 0.5
    assert abs(1 - keep.mean().item() - rounded) <= 6 * sigma
    if p < 1:
        assert stream.scale * (1 - rounded) == pytest.approx(1, rel=1e-14)


def test_stream_is_independent(rng: np.random.Generator) -> None:
    """Of neighbours (the four decided by one word among them), of other seeds, and of the draw before."""
    seed, n, p = int(rng.integers(2**62)), 1 << 20, 0.3
    first, other = (KeepStream(seed + k, p) for k in range(2))
    a = first.draw(torch.empty(n, dtype=torch.float64)) - (1 - p)
    others = [
        first.draw(torch.empty(n, dtype=torch.float64)),
        other.draw(torch.empty(n, dtype=torch.float64)),
    ]
    pairs = [(a, each - (1 - p)) for each in others]
    pairs += [(a[:-lag], a[lag:]) for lag in (1, 2, 3, 4, 5, 64, 256, 4096)]
    for left, right in pairs:
        assert abs((left * right).mean().item()) / (p * (1 - p)) <= 6 * len(left) ** -0.5
    # Sums of groups of four spread as those of independent numbers do.
    spread = a.view(-1, 4).sum(1).var().item() / (4 * p * (1 - p))
    assert spread == pytest.approx(1, abs=0.02)


def test_stream_starts_anew_from_its_seed(rng: np.random.Generator) -> None:
    seed, shapes = int(rng.integers(2**62)), [(3, 5), (1,), (7, 4)]
    streams = [KeepStream(seed, 0.4) for _ in range(2)]
    for shape in shapes:
        a, b = (stream.draw(torch.empty(shape)) for stream in streams)
        assert torch.equal(a, b)


def test_only_the_global_generator_decides(rng: np.random.Generator) -> None:
    tensors = [each.float() for each in case(rng, 4, 9, 8, 16)]
    torch.manual_seed(int(rng.integers(2**31)))
    state = torch.get_rng_state()
    first = tiled(*tensors, dropout=0.2)
    assert not torch.equal(tiled(*tensors, dropout=0.2), first)
    torch.set_rng_state(state)
    assert torch.equal(tiled(*tensors, dropout=0.2), first)
    # Without dropout nothing is drawn.
    before = torch.get_rng_state()
    tiled(*tensors)
    assert torch.equal(torch.get_rng_state(), before)


def test_everything_dropped_leaves_the_bias(rng: np.random.Generator) -> None:
    tensors = [each.requires_grad_() for each in case(rng, 2, 3, 4, 5)]
    value = tiled(*tensors, dropout=1.0)
    torch.testing.assert_close(value, tensors[-1].expand(2, 3, 4))
    value.sum().backward()
    assert all((each.grad == 0).all() for each in tensors[:-1])


def test_strides_do_not_matter(rng: np.random.Generator) -> None:
    x, *weights = case(rng, 4, 9, 12, 20)
    wide = torch.zeros(8, 9, 36, dtype=torch.float64)
    wide[::2, :, 3:27:2] = x
    strided = [weight.T.contiguous().T if weight.ndim == 2 else weight for weight in weights]
    for tokens in (wide[::2, :, 3:27:2], x[:1].expand(4, -1, -1), x[:, :1]):
        answers = []
        for op in (tiled, plain):
            leaves = [each.detach().requires_grad_() for each in (tokens, *strided)]
            value = op(*leaves)
            value.sum().backward()
            answers.append([value.detach(), *(leaf.grad for leaf in leaves)])
        for got, want in zip(*answers, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_two_runs_agree_bit_for_bit(rng: np.random.Generator) -> None:
    tensors, grad = case(rng, 70, 65, 16, 256), torch.from_numpy(rng.normal(size=(70, 65, 16)))
    answers = []
    for _ in range(2):
        torch.manual_seed(5)
        answers.append(differentiate(partial(tiled, dropout=0.1), tensors, grad, torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_of_results(rng: np.random.Generator, dtype: torch.dtype) -> None:
    tensors = [each.to(dtype).requires_grad_() for each in case(rng, 2, 5, 8, 12)]
    value = tiled(*tensors, dropout=0.1)
    value.sum().backward()
    assert {value.dtype, *(each.grad.dtype for each in tensors)} == {dtype}
    with torch.autocast("cpu", torch.bfloat16):
        assert tiled(*tensors).dtype == dtype


def test_autocast_multiplies_in_its_type(rng: np.random.Generator) -> None:
    tensors = [each.float() for each in case(rng, 3, 65, 64, 256)]
    exact = plain(*(each.double() for each in tensors))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = tiled(*tensors)
    error = relative_errors([coarse.double()], [exact])[0]
    assert 1e-4 < error < 1e-2


def test_registered_operators(rng: np.random.Generator) -> None:
    tensors = [each.float().requires_grad_() for each in case(rng, 2, 5, 8, 12)]
    seed = torch.tensor(int(rng.integers(2**62)))
    ops = torch.ops.margformer_fast
    torch.library.opcheck(ops.feed_forward.default, (*tensors, None, 0.0, torch.float32))
    torch.library.opcheck(ops.feed_forward.default, (*tensors, seed, 0.3, torch.float32))
    plain_tensors = [each.detach() for each in tensors]
    torch.library.opcheck(
        ops.feed_forward_backward.default, (torch.randn(2, 5, 8), *plain_tensors, seed, 0.3, torch.bfloat16)
    )


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_under_compile_in_one_graph(rng: np.random.Generator, dropout: float) -> None:
    tensors = [each.float().requires_grad_() for each in case(rng, 3, 9, 8, 16)]
    op = partial(feed_forward, dropout=dropout)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    answers = []
    for each in (op, compiled):
        torch.manual_seed(3)
        value = each(*tensors)
        answers.append([value, *torch.autograd.grad(value.sum(), tensors)])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    # A graph draws anew whenever it runs.
    assert torch.equal(compiled(*tensors), compiled(*tensors)) == (dropout == 0)


def test_who_runs() -> None:
    assert OPERATOR.resolve(Problem("cpu")).name == "tiled"
    assert OPERATOR.resolve(Problem("cuda")).name == "reference"
    with pytest.raises(BackendUnavailable, match="tiled: the data are on meta"):
        feed_forward(*[torch.empty(1, 1, 1, device="meta")] * 7, backend="tiled")
