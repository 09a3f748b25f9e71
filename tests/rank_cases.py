"""What a rank does in tests of several processes; as a script this is one of them, imported it is alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from toy import toy_survey

from margformer_fast.config import AugmentConfig, FitConfig, ModelConfig
from margformer_fast.data.survey import TASKS
from margformer_fast.errors import DataError
from margformer_fast.learning import classify
from margformer_fast.learning.classify import predict, train_classifier
from margformer_fast.learning.distributed import World, current, cutting, joined
from margformer_fast.learning.loop import Stage, run_stage
from margformer_fast.learning.pretrain import pretrain
from margformer_fast.learning.probe import train_probe
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder
from margformer_fast.ops.nt_xent import nt_xent, nt_xent_of_rank

PARTS = 4
MODEL = ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8, dropout=0.2, photometry_dropout=0.3)
# Ragged batches of 9, 9 and 2 objects: ranks with unequal numbers, and a batch too small for four of them.
# The rate leaves float32 weights as they are, so that every step's gradient is one of the same weights.
STILL = FitConfig(1, 1, 9, 1e-12, batches="ragged")


@contextmanager
def steps_kept(name: str, found: dict[str, torch.Tensor]) -> Iterator[None]:
    """Keep the loss and the joint gradient of every step, those without a gradient as NaN."""
    add_up, count = World.add_up, 0

    def kept(world: World, loss: torch.Tensor | None, parameters: list[nn.Parameter]) -> float:
        nonlocal count
        value = add_up(world, loss, parameters)
        found[f"{name}.{count}.loss"] = torch.tensor(value)
        found[f"{name}.{count}.gradient"] = torch.cat(
            [
                torch.full((p.numel(),), torch.nan) if p.grad is None else p.grad.flatten().cpu()
                for p in parameters
            ]
        )
        count += 1
        return value

    with patch.object(World, "add_up", kept):
        yield


def of_objects(seed: int, device: torch.device, folder: Path, found: dict[str, torch.Tensor]) -> None:
    """SimCLR, labelled training with weights of objects, prediction and a probe, all in float32."""
    rng = np.random.default_rng(seed)
    train, val = (
        Samples(toy_survey(n, rng, objid_from=first), TASKS["sg"], device, name)
        for n, first, name in ((20, 1, "training"), (13, 1000, "validation"))
    )
    where: dict[str, Any] = {"precision": "fp32", "seed": seed, "directory": folder, "label": "test"}
    for photometry in ("hidden", "shared"):
        torch.manual_seed(seed)
        model = ScaledEncoder(MODEL, 2)
        model.inputs.fit(train.photometry.cpu(), torch.from_numpy(train.pixel_noise()))
        model.to(device)
        with steps_kept(f"simclr-{photometry}", found):
            (epoch,) = pretrain(model, train, val, STILL, AugmentConfig(), photometry=photometry, **where)
        found[f"simclr-{photometry}.val_loss"] = torch.tensor(epoch["val_loss"])
        (folder / "pretrain.safetensors").unlink(missing_ok=True)
    weights = rng.exponential(size=20), rng.exponential(size=13)
    with steps_kept("labels", found), patch.object(classify, "_PREDICT_BATCH", 4):
        (epoch,) = train_classifier(
            model, train, val, STILL, AugmentConfig(), object_weights=weights, name="labels", **where
        )
        found["labels.val_loss"] = torch.tensor(epoch["val_loss"])
        probability, embedding = predict(model, val)
    found["probability"], found["embedding"] = torch.from_numpy(probability), torch.from_numpy(embedding)
    probe, history = train_probe(
        (train.photometry, train.label), (val.photometry, val.label), 2, FitConfig(3, 3, 7, 1e-2),
        kind="mlp", name="probe", seed=seed, directory=folder, label="test",
    )  # fmt: skip
    found["probe.val_loss"] = torch.tensor([epoch["val_loss"] for epoch in history])
    found["probe.weights"] = nn.utils.parameters_to_vector(probe.parameters()).detach().cpu()


def exact_stage(seed: int, device: torch.device, *, max_epochs: int = 5, dropout: float = 0.4) -> Stage:
    """Make a stage in float64 with both kinds of loss and clipping."""
    torch.manual_seed(seed)
    x_NF, y_N = torch.randn(21, 5, dtype=torch.float64), torch.randn(21, dtype=torch.float64)
    x_NF, y_N = x_NF.to(device), y_N.to(device)
    torch.manual_seed(seed + current().rank)  # ranks start from the weights of the first, not from their own
    model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(dropout), nn.GELU(), nn.Linear(16, 8))
    model.double().to(device)

    def loss(rows: np.ndarray, _epoch: int) -> torch.Tensor:
        share = current().cut(rows)
        z_nD = share.in_parts(lambda part: model(x_NF[part]))
        z1_nD, z2_nD = z_nD.chunk(2, 1)
        contrast = (
            nt_xent(z1_nD, z2_nD, temperature=0.2)
            if share.is_whole
            else nt_xent_of_rank(z1_nD, z2_nD, temperature=0.2, first=share.first, gather=share.gather)
        )
        return contrast + share.mean((z_nD[:, 0] - y_N[share.rows]).square())

    def validate(_epoch: int) -> dict[str, float]:
        world, rows = current(), np.arange(21)
        return {"val_loss": world.total(loss(rows, 0) if world.works_on(rows) else None)}

    config = FitConfig(max_epochs, max_epochs, 6, 1e-2, weight_decay=0.1, clip_norm=1.0, batches="ragged")
    return Stage("exact", 8, model, 21, config, loss, validate, together=True)


def exact(name: str, stage: Stage, seed: int, folder: Path, found: dict[str, torch.Tensor]) -> None:
    """Five epochs in float64."""
    history = run_stage(stage, seed=seed, directory=folder, label="test")
    for curve in ("train_loss", "val_loss"):
        found[f"{name}.{curve}"] = torch.tensor([epoch[curve] for epoch in history], dtype=torch.float64)
    found[f"{name}.weights"] = nn.utils.parameters_to_vector(stage.model.parameters()).detach().cpu()
    (folder / "exact.safetensors").unlink(missing_ok=True)


def of_all(seed: int, device: torch.device, folder: Path) -> dict[str, torch.Tensor]:
    """Return what a rank finds in all cases."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, torch.Tensor] = {}
    with cutting(PARTS):
        of_objects(seed, device, folder, found)
        exact("exact, dropout", exact_stage(seed, device), seed, folder, found)
    # Cut into as many parts as there are ranks: one process does the joint batch in one go.
    exact("exact", exact_stage(seed, device, dropout=0.0), seed, folder, found)
    return found


def decisions(device: torch.device, folder: Path) -> dict[str, Any]:
    """Return how a rank fares when one of them sees something else than the others."""
    world, found = current(), {}
    stage = exact_stage(1, device, max_epochs=9)
    seen = iter([3.0, 2.0, 2.5, 2.5] if world.is_main else [9.0, 1.0, 0.5, 0.4])
    odd = Stage(
        "odd", 8, stage.model, 21, FitConfig(9, 2, 6, 1e-3), stage.loss, lambda _: {"val_loss": next(seen)},
        together=True,
    )  # fmt: skip
    found["val_loss"] = [
        epoch["val_loss"] for epoch in run_stage(odd, seed=1, directory=folder, label="test")
    ]

    def explodes(rows: np.ndarray, epoch: int) -> torch.Tensor:
        return stage.loss(rows, epoch) * (torch.inf if world.rank == world.size - 1 else 1.0)

    bad = Stage("bad", 8, stage.model, 21, stage.config, explodes, stage.validate, together=True)
    try:
        run_stage(bad, seed=1, directory=folder, label="test")
    except DataError as error:
        found["error"] = str(error)

    def stumbles(rows: np.ndarray, epoch: int) -> torch.Tensor:
        bad = epoch == 2 and 0 in rows and world.rank == world.size - 1
        return stage.loss(rows, epoch) * (torch.nan if bad else 1.0)

    once = Stage("once", 8, stage.model, 21, replace(stage.config, max_epochs=3), stumbles, stage.validate,
                 together=True)  # fmt: skip
    history = run_stage(once, seed=1, directory=folder, label="test")
    found["skipped"] = [epoch.get("skipped_steps") for epoch in history]
    found["weights"] = nn.utils.parameters_to_vector(stage.model.parameters()).detach().cpu()
    found["written"] = sorted(path.name for path in folder.iterdir())
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, seed = Path(sys.argv[1]), int(sys.argv[2])
    with joined(torch.device(sys.argv[3])) as world:
        # Each rank has a folder of its own, as on hosts without a common disk.
        own = where / str(world.rank)
        result = {"found": of_all(seed, world.device, own), "decisions": decisions(world.device, own)}
    left = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    torch.save({**result, "threads": left}, where / f"{world.rank}.pt")
