"""A SimCLR step compiled by inductor on the CPU, in one graph, against the same step run eagerly."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from margformer_fast.config import ModelConfig
from margformer_fast.nn.margformer import MargFormer
from margformer_fast.nn.simclr import SimCLR
from margformer_fast.ops.nt_xent import nt_xent


@pytest.mark.skipif(
    all(shutil.which(name) is None for name in ("c++", "g++", "clang++")),
    reason="inductor needs a C++ compiler",
)
def test_a_step_compiles_to_one_graph(
    rng: np.random.Generator, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiled afresh, also where an earlier run left its results.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    torch.compiler.reset()
    torch.manual_seed(int(rng.integers(2**31)))
    config = ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8, size=8)
    model = SimCLR(MargFormer(config, 2), config.dim, hidden=16, out=8).eval()
    photometry = torch.from_numpy(rng.normal(size=(10, 24))).float()
    tokens = torch.from_numpy(rng.normal(size=(10, 4, 80))).float()

    def loss(photometry: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        z1, z2 = model(photometry, tokens).chunk(2)
        return nt_xent(z1, z2, temperature=0.2)

    parameters = [p for name, p in model.named_parameters() if "mlp_head" not in name]

    def step(run: object) -> list[torch.Tensor]:
        value = run(photometry, tokens)
        return [value.detach(), *torch.autograd.grad(value, parameters)]

    want = step(loss)
    got = step(torch.compile(loss, backend="inductor", fullgraph=True))
    assert not torch._dynamo.utils.counters["graph_break"]
    scale = torch.cat([each.flatten() for each in want[1:]]).abs().max()
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=0)
    for mine, theirs in zip(got[1:], want[1:], strict=True):
        # Some gradients are small differences of large terms, which each way rounds in its own order.
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * scale.item())
