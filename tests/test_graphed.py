"""Recorded steps: when a shape is recorded, what is copied, and that the training is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from margformer_fast.config import ModelConfig
from margformer_fast.errors import ConfigError
from margformer_fast.learning.graphed import CudaRecorder, GraphedStep
from margformer_fast.nn.margformer import MargFormer
from margformer_fast.nn.simclr import SimCLR
from margformer_fast.ops.nt_xent import nt_xent


class Replayer:
    """Stands for CUDA graphs: a replay writes to the same loss and gradients, from the same buffers."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.log: list[str] = []

    def run(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        self.log.append("run")
        return work()

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.log.append("record")
        loss = torch.full((), torch.nan)
        made: list[torch.Tensor | None] = []
        for parameter in self.parameters:
            parameter.grad = torch.full_like(parameter, torch.nan)
            made.append(parameter.grad)

        def replay() -> None:
            self.log.append("replay")
            loss.copy_(work())
            for parameter, gradient in zip(self.parameters, made, strict=True):
                gradient.copy_(parameter.grad)
                parameter.grad = None

        return replay, loss


def small_model(device: str = "cpu", dropout: float = 0.0) -> SimCLR:
    torch.manual_seed(3)
    config = ModelConfig(
        depth=2, dim=16, num_heads=2, hidden=32, slots=8, size=8, dropout=dropout, photometry_dropout=dropout
    )
    model = SimCLR(MargFormer(config, 2), 16, hidden=16, out=8).to(device)
    model.backbone.mlp_head.requires_grad_(False)
    return model


def loss_of(model: SimCLR) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def loss(photometry: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        z1, z2 = model(photometry, tokens).chunk(2)
        return nt_xent(z1, z2, temperature=0.2)

    return loss


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def batches(sizes: list[int], device: str = "cpu") -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(torch.seed() % 2**31)
    return [
        (
            torch.randn(2 * n, 24, generator=generator).to(device),
            torch.randn(2 * n, 4, 80, generator=generator).to(device),
        )
        for n in sizes
    ]


def train_plainly(model: SimCLR, data: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    optimizer = torch.optim.AdamW(trained(model), lr=3e-3)
    losses = []
    for inputs in data:
        optimizer.zero_grad()
        loss = loss_of(model)(*inputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_is_the_same_and_each_shape_is_recorded_once() -> None:
    sizes = [6, 6, 5, 6, 6, 5, 5, 6, 3, 5, 6]
    data = batches(sizes)
    want = train_plainly(small_model(), data)
    model = small_model()
    replayer = Replayer(trained(model))
    step = GraphedStep(loss_of(model), trained(model), warm_up=2, recorder=replayer)
    optimizer = torch.optim.AdamW(trained(model), lr=3e-3)
    losses = []
    for inputs in data:
        optimizer.zero_grad()  # takes the gradients away: they must be there again after a replay
        losses.append(step(*inputs))
        optimizer.step()
    assert [loss.item() for loss in losses] == want, "losses of earlier steps must not be written over"
    # 6 6 5 as usual, 6 recorded, 6 replayed, 5 as usual, 5 recorded, 6, 3 as usual, 5, 6.
    told = "run run run record replay replay run record replay replay run replay replay"
    assert replayer.log == told.split()
    assert step.num_graphs == 2


def test_no_more_shapes_are_recorded_than_allowed() -> None:
    model = small_model()
    replayer = Replayer(trained(model))
    step = GraphedStep(loss_of(model), trained(model), warm_up=1, max_graphs=1, recorder=replayer)
    for inputs in batches([4, 5, 5, 4, 5, 4]):
        step(*inputs)
    assert replayer.log == ["run", "run", "record", "replay", "run", "replay", "run"]


def test_a_dtype_is_part_of_the_shape() -> None:
    weight = nn.Parameter(torch.ones(()))
    replayer = Replayer([weight])
    step = GraphedStep(lambda x: (weight * x).sum(), [weight], warm_up=1, recorder=replayer)
    for dtype in (torch.float32, torch.float64, torch.float32):
        step(torch.ones(2, dtype=dtype))
    assert replayer.log == ["run", "run", "record", "replay"]


def test_inputs_are_not_changed() -> None:
    weight = nn.Parameter(torch.ones(()))
    step = GraphedStep(lambda x: (weight * x).sum(), [weight], warm_up=1, recorder=Replayer([weight]))
    inputs = [torch.full((2,), float(k)) for k in range(4)]
    losses = [step(x).item() for x in inputs]
    assert losses == [0, 2, 4, 6]
    assert [x[0].item() for x in inputs] == [0, 1, 2, 3]
    assert weight.grad.item() == 6


def test_refusals() -> None:
    weight = nn.Parameter(torch.ones(()))
    with pytest.raises(
        ConfigError, match="a step on cpu cannot be recorded as a CUDA graph; expected a CUDA"
    ):
        GraphedStep(lambda x: x, [weight])
    for optimizer in (
        torch.optim.AdamW([weight], lr=1e-3),
        torch.optim.SGD([weight], lr=1e-3),
    ):
        with pytest.raises(
            ConfigError, match="optimizer's step cannot be recorded; expected capturable=True"
        ):
            GraphedStep(lambda x: x, [weight], optimizer=optimizer, recorder=Replayer([weight]))
    for options, message in (({"warm_up": 0}, "warm_up is 0"), ({"max_graphs": -1}, "max_graphs is -1")):
        with pytest.raises(ConfigError, match=message):
            GraphedStep(lambda x: x, [weight], recorder=Replayer([weight]), **options)
    with pytest.raises(ConfigError, match="no parameter"):
        GraphedStep(lambda x: x, [], recorder=Replayer([]))
    step = GraphedStep(lambda x: x.sum() * weight, [weight], recorder=Replayer([weight]))
    with pytest.raises(ConfigError, match="needs a gradient"):
        step(torch.ones(2, requires_grad=True))


@pytest.mark.gpu
def test_graphed_training_is_eager_training() -> None:
    data = batches([12] * 20, "cuda")
    want = train_plainly(small_model("cuda"), data)
    for whole in (False, True):
        model = small_model("cuda")
        rate = torch.tensor(3e-3, device="cuda") if whole else 3e-3
        optimizer = torch.optim.AdamW(trained(model), lr=rate, capturable=whole)
        step = GraphedStep(loss_of(model), trained(model), optimizer=optimizer if whole else None)
        losses = []
        for inputs in data:
            losses.append(step(*inputs))
            if not whole:
                optimizer.step()
        assert step.num_graphs == 1
        torch.testing.assert_close(
            torch.stack(losses).cpu(),
            torch.tensor(want),
            rtol=1e-3,
            atol=0,
            msg=f"optimizer recorded: {whole}",
        )


@pytest.mark.gpu
def test_each_replay_drops_other_units() -> None:
    model = small_model("cuda", dropout=0.3)
    step = GraphedStep(loss_of(model), trained(model), warm_up=1)
    (inputs,) = batches([12], "cuda")
    losses = {step(*inputs).item() for _ in range(6)}
    assert len(losses) == 6


@pytest.mark.gpu
def test_graphs_on_a_gpu_and_ragged_batches() -> None:
    data = batches([12, 12, 12, 12, 11, 12, 7, 11, 11, 11, 12], "cuda")
    want = train_plainly(small_model("cuda"), data)
    model = small_model("cuda")
    optimizer = torch.optim.AdamW(trained(model), lr=3e-3)
    step = GraphedStep(
        loss_of(model), trained(model), warm_up=2, recorder=CudaRecorder(torch.device("cuda", 0))
    )
    losses = []
    for inputs in data:
        losses.append(step(*inputs).item())
        optimizer.step()
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(want), rtol=1e-3, atol=0)
    assert step.num_graphs == 2
