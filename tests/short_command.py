"""The training command with stages of four epochs and, on request, a misfortune; for torchrun in tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from short_runs import shorten

from margformer_fast import cli, runner, train
from margformer_fast.config import FitConfig
from margformer_fast.data import simulated
from margformer_fast.errors import DataError
from margformer_fast.experiments import PRESETS
from margformer_fast.learning import loop


def four_epochs(patch: pytest.MonkeyPatch) -> None:
    """Shorten the stages, drop units as the published model does, and keep every epoch's checkpoint."""
    shorten(patch)
    # So slow that rounding stays rounding: Adam takes full steps along gradients that are zero but for it.
    four = FitConfig(4, 4, 32, 1e-5)
    quick = replace(PRESETS["quick"], dropout=True, pretrain=four, finetune=four)
    patch.setitem(PRESETS, "quick", quick)
    patch.setattr(loop, "_SAVE_SECONDS", -1.0)


run_epoch = loop._run_epoch


def killed(state: Any, world: Any, epoch: int, *rest: Any) -> dict[str, float]:
    """Be killed by the system in the third epoch."""
    if (state.stage.name, epoch) == ("pretrain", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_epoch(state, world, epoch, *rest)


def made_once(*_: Any) -> Path:
    """Return a survey that only the first process of the host may find unmade."""
    store = Path(os.environ["STORE"])
    made = store.with_name("made")
    if os.environ["LOCAL_RANK"] == "0":
        time.sleep(0.3)
        made.touch()
    elif not made.exists():
        raise DataError("the first process should have made the survey")
    return store


def failing(*_: Any, **__: Any) -> None:
    """Fail on this rank alone."""
    raise DataError("tea was spilt on this disk")


if __name__ == "__main__":
    four_epochs(pytest.MonkeyPatch())
    simulated.made_once = made_once
    misfortune = os.environ.get("MISFORTUNE") if os.environ["RANK"] == "1" else None
    if misfortune == "killed":
        loop._run_epoch = killed
    elif misfortune == "failing":
        runner.pretrain = failing  # type: ignore[assignment]
    sys.exit(cli.run(train.main))
