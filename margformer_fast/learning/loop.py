"""The one training loop: epochs, early stopping, best weights, checkpoints that resume exactly.

Several processes run it together (:mod:`.distributed`): all take every step, the first alone has the
checkpoint and shows progress.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import FitConfig
from ..errors import DataError
from ..progress import Progress
from ..reference.random import derive_seed
from .checkpoint import load_tensors, load_weights, pack_optimizer, save_tensors, unpack_optimizer
from .distributed import World, current

_log = logging.getLogger(__name__)

_SAVE_SECONDS = 5.0

# A step whose loss or gradient is not finite is left out. One extreme object makes one such step an epoch, so
# a few are no reason to lose a night's run; what goes on for five in a row, or concerns more than a tenth of
# the steps, has its cause in the weights or in all of the data, and would be trained around in silence.
_MOST_IN_A_ROW = 5
_MOST_SKIPPED = 0.1
_AFRESH = "Delete it to start afresh."


@dataclass(frozen=True)
class Stage:
    """What one stage of training does; :func:`run_stage` runs it.

    Parameters
    ----------
    name : str
        Names the checkpoint file and the progress line.
    number : int
        Tells the stages of a run apart where random numbers are keyed.
    model : nn.Module
        Its parameters that require a gradient are trained.
    num_objects : int
        Size of the training set.
    config : FitConfig
        How long and how fast.
    loss : callable
        ``loss(rows, epoch)`` gives the mean loss over the objects at `rows`, in training mode; if trained
        together, this rank's share of it.
    validate : callable
        ``validate(epoch)`` gives a dictionary with at least ``val_loss``, in evaluation mode.
    weights : {"best", "last"}
        Weights that the model is left with: those of the lowest validation loss, or of the last epoch. With
        "last" the checkpoint holds both.
    together : bool
        All ranks train: `loss` cuts its rows by :meth:`margformer_fast.learning.distributed.World.cut`, and
        all ranks take part in `validate`. If not, the first trains alone, and the others receive the model.
    """

    name: str
    number: int
    model: nn.Module
    num_objects: int
    config: FitConfig
    loss: Callable[[np.ndarray, int], torch.Tensor]
    validate: Callable[[int], dict[str, float]]
    weights: str = "best"
    together: bool = False


def batches(num_objects: int, batch_size: int, seed: int, *, ragged: bool = False) -> list[np.ndarray]:
    """Return a shuffled pass over all objects in batches of nearly equal size, at most `batch_size`.

    A small last batch would have fewer negatives and so a lower contrastive loss; there is none, unless
    `ragged` asks for full batches and what is left.
    """
    order = np.random.default_rng(seed).permutation(num_objects)
    if ragged:
        return np.split(order, range(batch_size, num_objects, batch_size))
    return np.array_split(order, math.ceil(num_objects / batch_size))


def _rate(config: FitConfig, progress: float) -> float:
    """Return the learning rate when `progress` of all steps are done."""
    if config.schedule == "constant":
        return config.learning_rate
    warm_up = 0.05
    if progress < warm_up:
        return config.learning_rate * progress / warm_up
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _is_history(value: Any) -> bool:
    """Return whether a checkpoint's history has an entry an epoch, with what is looked at later."""
    return isinstance(value, list) and all(
        isinstance(entry, dict) and type(entry.get("val_loss")) in (int, float) for entry in value
    )


class _State:
    """Everything that a checkpoint holds beside the model."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        trained = [p for p in stage.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=stage.config.learning_rate, weight_decay=stage.config.weight_decay
        )
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.last: dict[str, torch.Tensor] = {}  # of a finished stage that was loaded
        self.done = False

    def keep_best(self) -> None:
        # A copy: the state dict's tensors are the live weights, and would follow them.
        self.best = {name: value.detach().clone() for name, value in self.stage.model.state_dict().items()}

    @property
    def best_epoch(self) -> int:
        return min(range(len(self.history)), key=lambda i: self.history[i]["val_loss"]) + 1

    def pack(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return all of it as tensors and a JSON-able rest."""
        groups = {"best": self.best}
        if not self.done:
            groups |= {"model": self.stage.model.state_dict(), "optimizer": pack_optimizer(self.optimizer)}
        elif self.stage.weights == "last":
            groups["model"] = self.last or self.stage.model.state_dict()
        tensors = {
            f"{group}/{name}": value for group, items in groups.items() for name, value in items.items()
        }
        return tensors, {"history": self.history, "done": self.done}

    def unpack(self, tensors: dict[str, torch.Tensor], about: dict[str, Any], where: Path) -> None:
        """Put back what :meth:`pack` returned."""
        groups: dict[str, dict[str, torch.Tensor]] = {"best": {}, "model": {}, "optimizer": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            if group not in groups:
                raise DataError(f"holds {name!r:.60}", where=where, expected=" | ".join(groups), mend=_AFRESH)
            groups[group][rest] = value
        history: Any = about.get("history")
        if type(about.get("done")) is not bool or not _is_history(history):
            raise DataError("does not hold the state of a stage", where=where, mend=_AFRESH)
        self.history, self.done, self.best = history, about["done"], groups["best"]
        if self.done:
            self.last = groups["model"]
        else:
            load_weights(self.stage.model, groups["model"], where)
            unpack_optimizer(self.optimizer, groups["optimizer"], where)

    def save(self, path: Path, key: dict[str, Any]) -> None:
        tensors, about = self.pack()
        save_tensors(path, tensors, {"key": key, **about})

    def load(self, path: Path, key: dict[str, Any]) -> None:
        tensors, about = load_tensors(path)
        before = about.get("key")
        if not isinstance(before, dict):
            raise DataError("does not say of which stage it is", where=path, mend=_AFRESH)
        if before != key:
            changed = sorted(k for k in key | before if key.get(k) != before.get(k))
            raise DataError(
                f"was written with other settings ({', '.join(changed)})",
                where=path,
                mend="Resume with the settings of the first start, or choose another --out.",
            )
        self.unpack(tensors, about, path)

    def receive(self, world: World, where: Path) -> None:
        """Take over the state of the first rank: its checkpoint, or its fresh weights."""
        tensors, about = world.from_main(*self.pack())
        if not world.is_main:
            self.unpack(tensors, about, where)


def run_stage(stage: Stage, *, seed: int, directory: Path, label: str) -> list[dict[str, float]]:
    """Train until the validation loss stops falling, and leave the best (or last) weights in the model.

    A checkpoint in `directory` is taken up where it stopped. Shuffling, dropout and augmentation are keyed
    by (seed, stage, epoch), so the result is the same whether or not a run was interrupted.

    Parameters
    ----------
    stage : Stage
        What to train.
    seed : int
        Seed of the run.
    directory : Path
        Where ``<stage>.safetensors`` is kept.
    label : str
        Start of the progress line.

    Returns
    -------
    list of dict
        One entry an epoch: ``epoch``, ``train_loss``, what `validate` returned, ``seconds`` and ``rate``
        (objects a second); and ``skipped_steps`` where there were any. A step whose loss or gradient is not
        finite is left out as if its batch were not there: weights, optimizer and random state are as before.

    Raises
    ------
    DataError
        If too many steps are left out, the validation loss is not finite, or a checkpoint is damaged or was
        written with other settings.
    """
    path, world = directory / f"{stage.name}.safetensors", current()
    if stage.together:
        return _train(stage, world, seed, path, label)
    history = _train(stage, World(), seed, path, label) if world.is_main else []
    weights, history = world.from_main(stage.model.state_dict(), history)
    if not world.is_main:
        load_weights(stage.model, weights, path)
    return history


def _train(stage: Stage, world: World, seed: int, path: Path, label: str) -> list[dict[str, float]]:
    config, state = stage.config, _State(stage)
    key = {"stage": stage.name, "seed": seed, "num_objects": stage.num_objects, **config.to_dict()}
    if world.is_main and path.exists():
        state.load(path, key)
    state.receive(world, path)
    saved = time.monotonic()
    if state.done:
        kept = state.best if stage.weights == "best" else state.last
        if not kept:
            raise DataError("does not hold the weights of the last epoch", where=path, mend="Train it again.")
        load_weights(stage.model, kept, path)
        return state.history
    total, before = config.max_epochs * stage.num_objects, len(state.history) * stage.num_objects
    with Progress(total, label, "objects", initial=before, shown=world.is_main) as progress:
        while not state.done:
            epoch = len(state.history) + 1
            state.history.append(_run_epoch(state, world, epoch, seed, progress))
            if state.best_epoch == epoch:
                state.keep_best()
            state.done = epoch >= config.max_epochs or epoch - state.best_epoch >= config.patience
            if world.is_main and (state.done or time.monotonic() - saved > _SAVE_SECONDS):
                state.save(path, key)
                saved = time.monotonic()
    if stage.weights == "best":
        load_weights(stage.model, state.best, path)
    return state.history


def _most_skipped(steps: int) -> int:
    """Return how many steps of an epoch may be left out: one, or a tenth."""
    return max(1, math.ceil(_MOST_SKIPPED * steps))


def _random_state(parameters: list[nn.Parameter]) -> list[tuple[torch.device, torch.Tensor]]:
    """Return the states that dropout draws from; both lie in main memory, and no GPU is waited for."""
    devices = {p.device for p in parameters if p.device.type == "cuda"}
    return [
        (torch.device("cpu"), torch.get_rng_state()),
        *((device, torch.cuda.get_rng_state(device)) for device in devices),
    ]


def _restore(state: list[tuple[torch.device, torch.Tensor]]) -> None:
    for device, value in state:
        if device.type == "cuda":
            torch.cuda.set_rng_state(value, device)
        else:
            torch.set_rng_state(value)


def _run_epoch(state: _State, world: World, epoch: int, seed: int, progress: Progress) -> dict[str, float]:
    stage, config = state.stage, state.stage.config
    started = time.monotonic()
    epoch_seed = derive_seed(seed, stage.number, epoch)
    torch.manual_seed(epoch_seed)
    ragged = config.batches == "ragged"
    parts = batches(stage.num_objects, config.batch_size, epoch_seed, ragged=ragged)
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    total, weight, skipped, in_a_row = 0.0, 0, 0, 0
    stage.model.train()
    for k, rows in enumerate(parts):
        rate = _rate(config, (epoch - 1 + (k + 0.5) / len(parts)) / config.max_epochs)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        if world.parts > 1:
            # Of this step alone, for the parts of the batch: a rank draws for those that it does.
            torch.manual_seed(derive_seed(epoch_seed, k))
        random_state = _random_state(trained)
        state.optimizer.zero_grad(set_to_none=True)
        loss = stage.loss(rows, epoch) if world.works_on(rows) else None
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        # The same sum on every rank, so that all of them go on or none does.
        value = world.add_up(loss, trained)
        if not math.isfinite(value):
            _restore(random_state)
            skipped, in_a_row = skipped + 1, in_a_row + 1
            if in_a_row >= _MOST_IN_A_ROW or skipped > _most_skipped(len(parts)) or skipped == len(parts):
                raise DataError(
                    f"the loss or its gradient is {value} in epoch {epoch}, step {k + 1}: {skipped} of "
                    f"{len(parts)} steps were left out, the last {in_a_row} in a row",
                    where=stage.name,
                    expected=f"{_most_skipped(len(parts))} at most, and fewer than {_MOST_IN_A_ROW} in a row",
                    mend="Lower the learning rate, or check the data for extreme values.",
                )
            progress.update(len(rows), epoch=f"{epoch}/{config.max_epochs}", skipped=skipped)
            continue
        in_a_row = 0
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(stage.model.parameters(), config.clip_norm)
        state.optimizer.step()
        counts = 1 if ragged else len(rows)
        total, weight = total + value * counts, weight + counts
        progress.update(len(rows), epoch=f"{epoch}/{config.max_epochs}", loss=value)
    stage.model.eval()
    with torch.no_grad():
        # The first rank decides: the epoch to stop after must not hang on a last digit.
        _, checked = world.from_main({}, stage.validate(epoch))
    if not math.isfinite(checked["val_loss"]):
        # Weights are finite, as no step that would have spoilt them was taken.
        raise DataError(
            f"the validation loss is {checked['val_loss']} in epoch {epoch}",
            where=stage.name,
            mend="Lower the learning rate, or check the validation set for extreme values.",
        )
    if skipped and world.is_main:
        _log.warning(
            "%s: %d of %d steps of epoch %d were left out: their loss or gradient was not finite.",
            stage.name,
            skipped,
            len(parts),
            epoch,
        )
    seconds = time.monotonic() - started
    progress.update(0, val=checked["val_loss"])
    return {
        "epoch": epoch,
        "train_loss": total / weight,
        **({"skipped_steps": skipped} if skipped else {}),
        **checked,
        "seconds": seconds,
        "rate": stage.num_objects / seconds,
    }
