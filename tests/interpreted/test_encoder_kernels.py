"""Whole layers by Triton's kernels in the interpreter: both halves as one operator, and the network."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from encoder_cases import (
    NUM_ATTENTION,
    differentiate,
    masked_attention,
    masked_feed_forward,
    random_layer,
    relative_errors,
)

from margformer_fast.ops.encoder import encoder
from margformer_fast.ops.encoder_layer import encoder_layer
from margformer_fast.reference.encoder import encoder as plain_encoder
from margformer_fast.reference.encoder_layer import encoder_layer as plain_layer
from margformer_fast.reference.weights import AttentionWeights, FeedForwardWeights

SIZE = (3, 5, 16, 4, 32)  # B, T, D, K, M
NUM_HEADS = 2


def halves(tensors: tuple[torch.Tensor, ...]) -> tuple[AttentionWeights, FeedForwardWeights]:
    return AttentionWeights(*tensors[:NUM_ATTENTION]), FeedForwardWeights(*tensors[NUM_ATTENTION:])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layer(rng: np.random.Generator, dropout: float) -> None:
    x, attention, hidden = random_layer(rng, *SIZE)
    tensors = [x, *attention, *hidden]
    grad = torch.from_numpy(rng.normal(size=x.shape))
    torch.manual_seed(int(rng.integers(2**31)))
    state = torch.get_rng_state()
    seed = int(torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64))
    torch.set_rng_state(state)

    def fused(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return encoder_layer(x, *halves(weights), num_heads=NUM_HEADS, dropout=dropout, backend="triton")

    def exact(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        if not dropout:
            return plain_layer(x, *halves(weights), NUM_HEADS, 0.0)
        attention, hidden = halves(weights)
        x = x + masked_attention(x, attention, NUM_HEADS, seed, dropout)
        return x + masked_feed_forward(x, hidden, seed, dropout)

    got = differentiate(fused, tensors, grad, torch.float32)
    assert max(relative_errors(got, differentiate(exact, tensors, grad))) < 1e-5


def test_network(rng: np.random.Generator) -> None:
    (x, *first), (_, *second) = (random_layer(rng, *SIZE) for _ in range(2))
    layers = [tuple(first), tuple(second)]
    single = [tuple(type(half)(*(each.float() for each in half)) for half in layer) for layer in layers]
    want = plain_encoder(x, layers, NUM_HEADS, 0.0)
    run = partial(encoder, x.float(), single, num_heads=NUM_HEADS, backend="triton")
    with torch.no_grad():
        assert relative_errors([run().double()], [want])[0] < 1e-5
    leaf = single[0][0].w_q.requires_grad_()
    value = run()
    assert relative_errors([value.detach().double()], [want])[0] < 1e-5
    value.sum().backward()
    assert leaf.grad is not None


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_no_number_stays_in_its_object(rng: np.random.Generator) -> None:
    """On a GPU tiles hold several: tests/test_encoder_layers.py."""
    x, attention, hidden = random_layer(rng, *SIZE)
    x[1] = torch.nan
    tensors, grad = [x, *attention, *hidden], torch.from_numpy(rng.normal(size=x.shape))
    fused, exact = (
        lambda x, *weights, op=op: op(x, *halves(weights), num_heads=NUM_HEADS, dropout=0.0)
        for op in (partial(encoder_layer, backend="triton"), plain_layer)
    )
    got = differentiate(fused, tensors, grad, torch.float32)[:2]
    for ours, theirs in zip(got, differentiate(exact, tensors, grad)[:2], strict=True):
        assert ours[1].isnan().all()
        torch.testing.assert_close(ours[::2], theirs[::2], rtol=1e-4, atol=1e-4)


def test_strides_do_not_matter(rng: np.random.Generator) -> None:
    """Tokens cut from wider ones, weights turned, and a gradient that is expanded."""
    x, attention, hidden = random_layer(rng, *SIZE)
    weights = [each.T.contiguous().T if each.ndim == 2 else each for each in (*attention, *hidden)]
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], dtype=torch.float64)
    wide[..., ::2] = x
    answers = []
    for dtype, op in (
        (torch.float32, partial(encoder_layer, backend="triton")),
        (torch.float64, plain_layer),
    ):
        tokens = wide.to(dtype)[..., ::2]
        leaves = [each.to(dtype).detach().requires_grad_() for each in (tokens, *weights)]
        assert not leaves[0].is_contiguous()
        assert not leaves[3].is_contiguous()
        value = op(leaves[0], *halves(tuple(leaves[1:])), num_heads=NUM_HEADS, dropout=0.0)
        value.sum().backward()
        answers.append([value.detach().double(), *(leaf.grad.double() for leaf in leaves)])
    errors = [float((g - w).norm() / (w.norm() + 1e-3)) for g, w in zip(*answers, strict=True)]
    assert max(errors) < 1e-5, errors
