"""The layers of the encoder: attention, the feed-forward half, both, and the network; C++ against float64.

Everything is run as each kind of processor that this one can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from encoder_cases import (
    NUM_ATTENTION,
    check_accuracy,
    differentiate,
    masked_attention,
    masked_feed_forward,
    random_layer,
    relative_errors,
)

from margformer_fast import _native
from margformer_fast.backends import Problem
from margformer_fast.errors import BackendUnavailable, ConfigError
from margformer_fast.kernels import encoder_cpp
from margformer_fast.ops import cross_attention, encoder, encoder_layer, feed_forward
from margformer_fast.ops.layers import Layer
from margformer_fast.reference.cross_attention import cross_attention as plain_attention
from margformer_fast.reference.encoder_layer import encoder_layer as plain_layer
from margformer_fast.reference.feed_forward import feed_forward as plain_feed_forward
from margformer_fast.reference.weights import AttentionWeights, FeedForwardWeights

TARGETS = _native.compiled().targets() if not _native.why_not() else []
# B, T, D, H, K, M
SIZES = [
    (3, 65, 64, 8, 64, 256),
    (1, 65, 64, 8, 128, 256),
    (5, 17, 24, 3, 7, 33),
    (2, 2, 6, 6, 1, 3),
    (4, 1, 5, 1, 3, 16),
    (33, 9, 8, 2, 4, 40),
    (2, 13, 70, 2, 5, 70),
]
DROPOUT = 0.3


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_cpp, "TARGET", request.param)


def whole(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let an operator on two bundles of weights take their tensors one by one."""

    def run(x: torch.Tensor, *tensors: torch.Tensor, **settings: Any) -> torch.Tensor:
        halves = AttentionWeights(*tensors[:NUM_ATTENTION]), FeedForwardWeights(*tensors[NUM_ATTENTION:])
        return op(x, *halves, **settings)

    return run


class Half:
    """An operator: what it is applied to, itself, plain PyTorch, and the formula with dropout's masks."""

    def __init__(self, name: str, size: tuple[int, ...], rng: np.random.Generator) -> None:
        B, T, D, H, K, M = size
        x, attention, hidden = random_layer(rng, B, T, D, K, M)
        shape = (B, T, D)
        self.op: Callable[..., torch.Tensor]
        if name == "cross_attention":
            self.tensors = [x, *attention]
            self.op = partial(cross_attention.cross_attention, num_heads=H, backend="cpp")
            self.plain = partial(plain_attention, num_heads=H, dropout=0.0)
            self.masked = lambda seed, x, *w: masked_attention(x, AttentionWeights(*w), H, seed, DROPOUT)
            shape = (B, 1, D)
        elif name == "feed_forward":
            self.tensors = [x, *hidden]
            self.op = partial(feed_forward.feed_forward, backend="cpp")
            self.plain = partial(plain_feed_forward, dropout=0.0)
            self.masked = lambda seed, x, *w: masked_feed_forward(x, FeedForwardWeights(*w), seed, DROPOUT)
        else:
            self.tensors = [x, *attention, *hidden]
            self.op = partial(whole(encoder_layer.encoder_layer), num_heads=H, backend="cpp")
            self.plain = partial(whole(plain_layer), num_heads=H, dropout=0.0)
            self.masked = partial(self._masked_layer, H)
        self.grad = torch.from_numpy(rng.normal(size=shape))

    @staticmethod
    def _masked_layer(H: int, seed: int, x: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        x = x + masked_attention(x, AttentionWeights(*w[:NUM_ATTENTION]), H, seed, DROPOUT)
        return x + masked_feed_forward(x, FeedForwardWeights(*w[NUM_ATTENTION:]), seed, DROPOUT)


NAMES = ["cross_attention", "feed_forward", "encoder_layer"]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_same_formula_in_float64(
    rng: np.random.Generator, target: None, name: str, size: tuple[int, ...]
) -> None:
    half = Half(name, size, rng)
    got, want = (differentiate(op, half.tensors, half.grad) for op in (half.op, half.plain))
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_under_dropout_in_float64(
    rng: np.random.Generator, target: None, name: str, size: tuple[int, ...]
) -> None:
    """Values and gradients are those of the masks that the seed stands for, the same in both passes."""
    half = Half(name, size, rng)
    torch.manual_seed(int(rng.integers(2**31)))
    state = torch.get_rng_state()
    seed = int(torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64))
    torch.set_rng_state(state)
    got = differentiate(partial(half.op, dropout=DROPOUT), half.tensors, half.grad)
    want = differentiate(partial(half.masked, seed), half.tensors, half.grad)
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-12)


# With one slot the gradients of queries and keys are zero, with one token few roundings make up an error.
@pytest.mark.parametrize("size", [size for size in SIZES if min(size[1], size[4]) > 1], ids=str)
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(
    rng: np.random.Generator, target: None, name: str, kind: str, size: tuple[int, ...]
) -> None:
    halves = [Half(name, size, rng) for _ in range(3)]
    check_accuracy([(half.op, half.plain, half.tensors, half.grad) for half in halves], kind)


@pytest.mark.parametrize("name", NAMES)
def test_threads_share_the_work(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Any number of them; the same number gives the same bits."""
    half = Half(name, (9, 65, 16, 2, 8, 32), rng)
    want = differentiate(half.plain, half.tensors, half.grad)
    for threads in (1, 2, 3, 7, 64):
        monkeypatch.setenv(_native.THREADS_VARIABLE, str(threads))
        runs = []
        for _ in range(2):
            torch.manual_seed(4)
            runs.append(differentiate(half.op, half.tensors, half.grad, torch.float32))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        assert max(relative_errors(runs[0], want)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_no_objects(rng: np.random.Generator, name: str) -> None:
    half = Half(name, (3, 5, 8, 2, 3, 16), rng)
    got = differentiate(half.op, [half.tensors[0][:0], *half.tensors[1:]], half.grad[:0])
    assert got[0].shape == half.grad[:0].shape
    assert all((each == 0).all() for each in got[2:])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e30, -1e30])
def test_what_is_not_finite_is_seen(rng: np.random.Generator, target: None, value: float) -> None:
    """In the object it is in, and only there; numbers that are merely large do as in the reference."""
    half = Half("encoder_layer", (3, 5, 8, 2, 3, 16), rng)
    x, *weights = (each.float() for each in half.tensors)
    x[1, 2, 3] = value
    got, want = (op(x, *weights) for op in (half.op, half.plain))
    assert torch.equal(got.isnan(), want.isnan())
    torch.testing.assert_close(got, want, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_leaves_nothing_behind(rng: np.random.Generator, target: None, name: str) -> None:
    """Objects later in the batch are done in the same memory, padded where a size fills no vector."""
    half = Half(name, (40, 5, 6, 2, 3, 10), rng)
    half.tensors[0][1] = math.nan
    got, want = (
        differentiate(op, half.tensors, half.grad, torch.float32)[:2] for op in (half.op, half.plain)
    )
    others = torch.arange(40) != 1
    for ours, theirs in zip(got, want, strict=True):
        assert theirs[others].isfinite().all()
        assert ours[1].isnan().all()
        torch.testing.assert_close(ours[others], theirs[others], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_strides_do_not_matter(rng: np.random.Generator, name: str) -> None:
    """Cut from wider tensors, transposed, and expanded over the batch; the gradient expanded too."""
    half = Half(name, (4, 9, 12, 3, 5, 20), rng)
    x, *weights = half.tensors
    wide = torch.zeros(8, 9, 36, dtype=torch.float64)
    wide[::2, :, 3:27:2] = x
    strided = [weight.T.contiguous().T if weight.ndim == 2 else weight for weight in weights]
    for tokens in (wide[::2, :, 3:27:2], x[:1].expand(4, -1, -1)):
        answers = []
        for op in (half.op, half.plain):
            leaves = [each.detach().requires_grad_() for each in (tokens, *strided)]
            value = op(*leaves)
            value.sum().backward()
            answers.append([value.detach(), *(leaf.grad for leaf in leaves)])
        assert max(relative_errors(*answers)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_types_of_results(rng: np.random.Generator, name: str, dtype: torch.dtype) -> None:
    half = Half(name, (2, 5, 8, 2, 3, 12), rng)
    tensors = [each.to(dtype).requires_grad_() for each in half.tensors]
    value = half.op(*tensors, dropout=0.1)
    value.sum().backward()
    assert {value.dtype, *(each.grad.dtype for each in tensors)} == {dtype}
    with torch.autocast("cpu", torch.bfloat16):
        assert half.op(*tensors).dtype == dtype


def test_autocast_multiplies_in_its_type(rng: np.random.Generator) -> None:
    half = Half("feed_forward", SIZES[0], rng)
    exact = half.plain(*half.tensors)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = half.op(*(each.float() for each in half.tensors))
    assert 1e-4 < relative_errors([coarse.double()], [exact])[0] < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_everything_dropped(rng: np.random.Generator, name: str) -> None:
    """What is left are the biases, and of the layer the residual."""
    half = Half(name, (2, 3, 4, 2, 3, 5), rng)
    leaves = [each.requires_grad_() for each in half.tensors]
    value = half.op(*leaves, dropout=1.0)
    biases = leaves[-1] if name != "encoder_layer" else leaves[-1] + leaves[9] + leaves[0]
    torch.testing.assert_close(value, biases.expand(value.shape))
    value.sum().backward()
    touched = {"encoder_layer": (0, 9, 15)}.get(name, (len(leaves) - 1,))
    assert all((leaf.grad == 0).all() == (i not in touched) for i, leaf in enumerate(leaves))


def test_dropout_of_the_reference_is_statistically_the_same(rng: np.random.Generator) -> None:
    """Attention is linear in the weights that dropout acts on: means and spreads over masks agree."""
    half = Half("cross_attention", (1, 7, 12, 3, 5, 1), rng)
    x, *weights = (each.float() for each in half.tensors)
    many = [x.expand(40_000, -1, -1), *weights]
    torch.manual_seed(int(rng.integers(2**31)))
    first = half.op(*many, dropout=DROPOUT)
    mean, error = first.mean(0), first.std(0) / 40_000**0.5
    assert ((mean - half.op(x, *weights)[0]).abs() <= 6 * error).all()
    others = plain_attention(*many, 3, DROPOUT)
    torch.testing.assert_close(first.std(0), others.std(0), rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_global_generator_decides(rng: np.random.Generator, name: str) -> None:
    half = Half(name, (4, 9, 8, 2, 3, 16), rng)
    torch.manual_seed(int(rng.integers(2**31)))
    state = torch.get_rng_state()
    first = half.op(*half.tensors, dropout=0.2)
    assert not torch.equal(half.op(*half.tensors, dropout=0.2), first)
    torch.set_rng_state(state)
    assert torch.equal(half.op(*half.tensors, dropout=0.2), first)
    # Without dropout nothing is drawn.
    before = torch.get_rng_state()
    half.op(*half.tensors)
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_by_loops(rng: np.random.Generator) -> None:
    """One object, one head, one slot at a time, straight from the definition."""
    B, T, D, H, K = 2, 5, 6, 2, 3
    x, w, _ = random_layer(rng, B, T, D, K, 1)
    for backend in ("cpp", "reference"):
        got = cross_attention.cross_attention(x, *w, num_heads=H, backend=backend)
        for i in range(B):
            mean, var = x[i].mean(1, keepdim=True), x[i].var(1, correction=0, keepdim=True)
            y = (x[i] - mean) / torch.sqrt(var + 1e-5) * w.norm_weight + w.norm_bias
            o = torch.zeros(D, dtype=torch.float64)
            for h in range(H):
                part = slice(h * D // H, (h + 1) * D // H)
                q, keys, values = (
                    w.w_q[part] @ y[0],
                    w.proj_k.T @ (y @ w.w_k[part].T),
                    w.proj_v.T @ (y @ w.w_v[part].T),
                )
                weight = [math.exp(q @ keys[k] / math.sqrt(D / H)) for k in range(K)]
                o[part] = sum(weight[k] * values[k] for k in range(K)) / sum(weight)
            torch.testing.assert_close(got[i, 0], w.w_out @ o + w.b_out)


def network(rng: np.random.Generator) -> tuple[torch.Tensor, list[Layer]]:
    (x, *first), *rest = (random_layer(rng, 6, 65, 32, 8, 64) for _ in range(4))
    return x, [tuple(first), *((attention, hidden) for _, attention, hidden in rest)]


def test_network_at_once_and_layer_by_layer(rng: np.random.Generator, target: None) -> None:
    """Without gradients an object goes through all layers at once; with them, layer after layer."""
    x, layers = network(rng)
    op = partial(encoder.encoder, layers=layers, num_heads=4)
    with torch.no_grad():
        want = op(x, backend="reference")
        torch.testing.assert_close(op(x, backend="cpp"), want, rtol=1e-11, atol=1e-12)
    leaf = x.clone().requires_grad_()
    grads = []
    for backend in ("cpp", "reference"):
        value = op(leaf, backend=backend)
        torch.testing.assert_close(value, want, rtol=1e-11, atol=1e-12)
        grads.append(torch.autograd.grad(value.square().sum(), leaf)[0])
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-11)
    single = [[type(half)(*(each.float() for each in half)) for half in layer] for layer in layers]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        coarse = encoder.encoder(x.float(), single, num_heads=4, backend="cpp").double()
    assert 1e-4 < relative_errors([coarse], [want])[0] < 3e-2


def test_network_of_an_object_that_is_no_number(rng: np.random.Generator, target: None) -> None:
    x, layers = network(rng)
    with torch.no_grad():
        want = encoder.encoder(x, layers, num_heads=4, backend="cpp")
        x[1] = math.nan
        got = encoder.encoder(x, layers, num_heads=4, backend="cpp")
    others = torch.arange(len(x)) != 1
    assert torch.equal(got[others], want[others])


def test_network_under_dropout_draws_for_each_layer(rng: np.random.Generator) -> None:
    x, layers = network(rng)
    with torch.no_grad():
        torch.manual_seed(3)
        got = encoder.encoder(x, layers[:1] * 2, num_heads=4, dropout=0.5, backend="cpp")
        torch.manual_seed(3)
        again = encoder.encoder(x, layers[:1] * 2, num_heads=4, dropout=0.5, backend="cpp")
        calm = encoder.encoder(x, layers[:1] * 2, num_heads=4, backend="cpp")
    assert torch.equal(got, again)
    assert not torch.allclose(got, calm)


def test_registered_operators(rng: np.random.Generator) -> None:
    x, attention, hidden = random_layer(rng, 3, 5, 8, 6, 12)
    x = x.float().requires_grad_()
    attention, hidden = ([each.float().requires_grad_() for each in half] for half in (attention, hidden))
    ops = torch.ops.margformer_fast
    seed = torch.tensor(int(rng.integers(2**62)))
    for halves in ((attention, hidden), (attention, []), ([], hidden)):
        for arguments in ((None, 2, 0.0, "fp32", "cpp"), (seed, 2, 0.3, "bf16", "cpp")):
            torch.library.opcheck(ops.encode.default, (x, *halves, *arguments))
            with torch.no_grad():
                grad = torch.randn_like(ops.encode(x, *halves, *arguments))
            detached = [[each.detach() for each in half] for half in halves]
            torch.library.opcheck(ops.encode_back.default, (grad, x.detach(), *detached, *arguments))
    tensors = [each.detach() for each in (*attention, *hidden)] * 2
    torch.library.opcheck(ops.encode_network.default, (x.detach(), tensors, 2, "fp32", "cpp"))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", NAMES)
def test_under_compile_in_one_graph(rng: np.random.Generator, name: str, dropout: float) -> None:
    half = Half(name, (3, 9, 8, 2, 4, 16), rng)
    tensors = [each.float().requires_grad_() for each in half.tensors]
    op = partial(half.op, dropout=dropout)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    answers = []
    for each in (op, compiled):
        torch.manual_seed(3)
        value = each(*tensors)
        answers.append([value, *torch.autograd.grad(value.sum(), tensors)])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    # A graph draws anew whenever it runs.
    assert torch.equal(compiled(*tensors), compiled(*tensors)) == (dropout == 0)


def test_gradients_by_differences(rng: np.random.Generator) -> None:
    half = Half("encoder_layer", (2, 3, 4, 2, 2, 3), rng)
    assert torch.autograd.gradcheck(half.op, [each.requires_grad_() for each in half.tensors])


def test_who_runs() -> None:
    for module in (cross_attention, feed_forward, encoder_layer, encoder):
        assert module.OPERATOR.resolve(Problem("cpu")).name == "cpp"
        assert module.OPERATOR.resolve(Problem("cuda", "float64")).name == "reference"
    with pytest.raises(BackendUnavailable, match="cpp: the data are on meta"):
        feed_forward.feed_forward(*[torch.empty(1, 1, 1, device="meta")] * 7, backend="cpp")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_heads": 3}, "heads that divide"),
        ({"layers": []}, "there is a layer"),
        ({"layers": [(None, None)]}, "a half is missing"),
        ({"out": np.zeros((2, 4, 8), np.float32)}, "out has the wrong size"),
        ({"target": "abacus"}, "of no such kind"),
        ({"first_token": True, "seed": 1}, "no dropout"),
    ],
    ids=str,
)
def test_the_compiled_module_checks_what_it_is_given(
    rng: np.random.Generator, wrong: dict[str, Any], told: str
) -> None:
    """It would otherwise read or write out of bounds."""
    x, attention, hidden = random_layer(rng, 2, 5, 8, 3, 12)
    layer = tuple([each.float().numpy() for each in half] for half in (attention, hidden))
    out = np.empty((2, 8) if wrong.get("first_token") else (2, 5, 8), np.float32)
    given: dict[str, Any] = {
        "layers": [layer], "out": out, "first_token": out.ndim == 2, "num_heads": 2, "seed": None,
        "dropped_levels": 0, "halves": False, "threads": 1, "target": "",
    }  # fmt: skip
    encode = _native.compiled().encode
    encode(x.float().numpy(), **given)
    with pytest.raises(ValueError, match=told):
        encode(x.float().numpy(), **(given | wrong))
    for half in layer:
        for place, tensor in enumerate(half):
            half[place] = np.zeros((*tensor.shape[:-1], tensor.shape[-1] + 1), np.float32)
            with pytest.raises(ValueError, match=r"wrong shape|has the wrong|differ"):
                encode(x.float().numpy(), **given)
            half[place] = tensor
    with pytest.raises(TypeError):
        encode(x.numpy(), **given)


@pytest.mark.parametrize("place", range(15))
def test_a_weight_of_the_wrong_shape_is_named(rng: np.random.Generator, place: int) -> None:
    x, *bundles = random_layer(rng, 2, 5, 8, 3, 12)
    names = [name for half in bundles for name in half._fields]
    tensors = [each for half in bundles for each in half]
    tensors[place] = torch.cat([tensors[place]] * 2)
    halves = AttentionWeights(*tensors[:NUM_ATTENTION]), FeedForwardWeights(*tensors[NUM_ATTENTION:])
    # A bias of hidden units says how many there are, so that the weight before it is the one that is off.
    told = "w1" if names[place] == "b1" else names[place]
    with pytest.raises(ConfigError, match=rf"encoder layer: {told} has the shape"):
        encoder_layer.encoder_layer(x, *halves, num_heads=2, backend="cpp")
    with pytest.raises(ConfigError, match="3 heads share a dim of 8"):
        encoder_layer.encoder_layer(x, *bundles, num_heads=3, backend="cpp")


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [SIZES[0], SIZES[2]], ids=str)
def test_on_a_gpu_under_dropout(rng: np.random.Generator, name: str, size: tuple[int, ...]) -> None:
    """The masks are those of the seed that the device's generator draws, also from strided weights."""
    half = Half(name, size, rng)
    torch.cuda.manual_seed(int(rng.integers(2**31)))
    state = torch.cuda.get_rng_state()
    seed = int(torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64, device="cuda"))
    torch.cuda.set_rng_state(state)
    leaves = [
        (each.float().cuda().T.contiguous().T if each.ndim == 2 else each.float().cuda()).requires_grad_()
        for each in half.tensors
    ]
    value = partial(half.op, dropout=DROPOUT, backend="triton")(*leaves)
    value.backward(half.grad.float().cuda())
    got = [each.detach().double().cpu() for each in (value, *(leaf.grad for leaf in leaves))]
    want = differentiate(partial(half.masked, seed), half.tensors, half.grad)
    assert max(relative_errors(got, want)) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_what_is_no_number_stays_in_its_object(rng: np.random.Generator, dtype: torch.dtype) -> None:
    """Objects share a tile, some of them a matrix product."""
    x, *halves = random_layer(rng, 20, 65, 64, 64, 256)
    weights = [each.to("cuda", dtype) for half in halves for each in half]
    found = []
    for value in (0.5, math.nan):
        x[1] = value
        leaf = x.to("cuda", dtype).requires_grad_()
        out = whole(encoder_layer.encoder_layer)(leaf, *weights, num_heads=8, backend="triton")
        (grad,) = torch.autograd.grad(out.sum(), leaf)
        found.append((out.detach(), grad))
    others = torch.arange(20) != 1
    for sound, spoilt in zip(*found, strict=True):
        assert spoilt[1].isnan().all()
        torch.testing.assert_close(spoilt[others], sound[others])
