"""GELU and dropout in one pass: against torch in float64, and the mask against the generator in Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from margformer_fast import _native
from margformer_fast.errors import BackendUnavailable, ConfigError, DataError
from margformer_fast.ops.gelu_dropout import _backward, _forward, gelu_dropout, threshold_of
from margformer_fast.reference.random import philox


def value_and_gradient(run, x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x.detach().requires_grad_()
    out = run(leaf)
    out.backward(grad)
    return out.detach(), leaf.grad


def kept(key: int, count: int, threshold: int) -> np.ndarray:
    """Which elements stay, from the words as csrc/cpu/gelu_dropout.cpp deals them out."""
    chunks = -(-count // 128)
    counter = np.zeros((chunks * 16, 4), np.uint32)
    counter[:, 0] = np.arange(len(counter))
    word = philox(counter, (key & 0xFFFFFFFF, key >> 32)).reshape(chunks, 16, 4)
    halves = np.stack([word & 0xFFFF, word >> 16], axis=-1)  # chunk, counter, word, half
    return (halves.transpose(0, 2, 3, 1).reshape(-1) >= threshold)[:count]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (127,), (128,), (3, 5, 129), (70_001,)])
def test_values_and_gradients(dtype: torch.dtype, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(0, 3, shape)).to(dtype)
    grad = torch.from_numpy(rng.normal(size=shape)).to(dtype)
    exact = value_and_gradient(F.gelu, x.double(), grad.double())
    plain = value_and_gradient(F.gelu, x, grad)
    got = value_and_gradient(lambda leaf: gelu_dropout(leaf, backend="cpp"), x, grad)
    for ours, theirs, truth in zip(got, plain, exact, strict=True):
        assert ours.dtype == dtype
        error, plain_error = ((each.double() - truth).norm() / truth.norm() for each in (ours, theirs))
        floor = 2e-7 if dtype == torch.float32 else 2e-3
        assert error <= 2 * plain_error + floor


def test_far_from_zero() -> None:
    x = torch.tensor([-1e30, -40.0, -13.0, -7.0, -0.0, 0.0, 7.0, 13.0, 40.0, 1e30, torch.nan])
    out = gelu_dropout(x, backend="cpp")
    assert torch.isnan(out[-1])
    torch.testing.assert_close(out[:-1].double(), F.gelu(x[:-1].double()), rtol=3e-7, atol=1e-9)
    leaf = x[:-1].clone().requires_grad_()
    gelu_dropout(leaf, backend="cpp").sum().backward()
    truth = x[:-1].double().requires_grad_()
    F.gelu(truth).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), truth.grad, rtol=3e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_is_that_of_the_generator(dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Forward and backward drop the same; what is kept is scaled by what is really kept."""
    count, key, threshold = 5000, int(rng.integers(2**63)), 20_000
    mask = torch.from_numpy(kept(key, count, threshold))
    scale = 65536 / (65536 - threshold)
    x = torch.from_numpy(rng.normal(size=count)).to(dtype)
    ones = torch.ones(count, dtype=dtype)
    words = torch.tensor(key)
    for got, whole in (
        (_forward(x, words, threshold), F.gelu(x.double())),
        (_backward(ones, x, words, threshold), value_and_gradient(F.gelu, x.double(), ones.double())[1]),
    ):
        assert torch.equal(got == 0, ~mask)
        rtol = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(got[mask].double(), scale * whole[mask], rtol=rtol, atol=rtol / 10)


def test_statistics() -> None:
    torch.manual_seed(5)
    x = torch.full((64, 10_000), 3.0)
    out = gelu_dropout(x, dropout=0.1, backend="cpp")
    dropped = out == 0
    assert abs(dropped.float().mean() - 0.1) < 6 * (0.09 / x.numel()) ** 0.5
    assert abs(out.mean() / F.gelu(x).mean() - 1) < 0.005
    # Neighbours, rows and calls are independent.
    again = gelu_dropout(x, dropout=0.1, backend="cpp") == 0
    for other in (dropped.roll(1, 1), dropped.roll(16, 1), dropped.roll(1, 0), again):
        assert abs((dropped & other).float().mean() - 0.01) < 0.001


def test_repeats_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(200_000)

    def run() -> torch.Tensor:
        torch.manual_seed(7)
        return gelu_dropout(x, dropout=0.3, backend="cpp")

    first = run()
    for threads in ("1", "3", "9"):
        monkeypatch.setenv(_native.THREADS_VARIABLE, threads)
        assert torch.equal(run(), first)
    state = torch.get_rng_state()
    gelu_dropout(x, backend="cpp")
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn where nothing is dropped"


def test_strides_do_not_matter(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(6, 200)).astype(np.float32))
    torch.testing.assert_close(gelu_dropout(x.T, backend="cpp"), gelu_dropout(x, backend="cpp").T)
    leaf = x.clone().requires_grad_()
    gelu_dropout(leaf, backend="cpp").sum().backward()  # the gradient that comes in is expanded
    torch.testing.assert_close(leaf.grad, value_and_gradient(F.gelu, x, torch.ones_like(x))[1])


def test_it_is_an_operator_of_torch() -> None:
    x, key = torch.randn(300, requires_grad=True), torch.tensor(3)
    torch.library.opcheck(_forward, (x, key, 6554))
    torch.library.opcheck(_forward, (torch.randn(30, 10).T, key, 6554))
    torch.library.opcheck(_backward, (torch.randn(300), x.detach(), key, 6554))
    compiled = torch.compile(
        lambda v: gelu_dropout(v, dropout=0.2, backend="cpp"), fullgraph=True, backend="aot_eager"
    )
    torch.manual_seed(1)
    out = compiled(x)
    torch.manual_seed(1)
    assert torch.equal(out, gelu_dropout(x, dropout=0.2, backend="cpp"))


def test_refusals() -> None:
    assert threshold_of(0.99999999) == 65535
    with pytest.raises(ConfigError, match="dropout is 1; expected 0 or more, less than 1"):
        gelu_dropout(torch.zeros(3), dropout=1)
    with pytest.raises(BackendUnavailable, match="it computes no float64"):
        gelu_dropout(torch.zeros(3, dtype=torch.float64), backend="cpp")
    assert gelu_dropout(torch.zeros(3, dtype=torch.float64), dropout=0.5).dtype == torch.float64
    module = _native.compiled()
    dense = np.zeros(4, np.float32)
    for out in (np.zeros(3, np.float32), np.zeros(4, np.uint16), np.zeros(8, np.float32)[::2]):
        with pytest.raises(DataError, match="the arrays are not alike"):
            module.gelu_dropout(dense, 1, 0, out, 1)
    with pytest.raises(DataError, match="threshold is 65536"):
        module.gelu_dropout(dense, 1, 65536, np.zeros(4, np.float32), 1)
