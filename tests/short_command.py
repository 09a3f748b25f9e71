"""The training command with stages of four epochs and, on request, a misfortune; for torchrun in tests."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from typing import Any

import pytest
from short_runs import shorten

from margformer_fast import cli, runner, train
from margformer_fast.config import FitConfig
from margformer_fast.errors import DataError
from margformer_fast.experiments import PRESETS
from margformer_fast.learning import loop

shorten(pytest.MonkeyPatch())
# So slow that rounding stays rounding: Adam takes full steps along gradients of zero but for the last digit.
four = FitConfig(4, 4, 32, 1e-5)
PRESETS["quick"] = replace(PRESETS["quick"], pretrain=four, finetune=four)
loop._SAVE_SECONDS = -1.0  # a checkpoint after every epoch
rank, misfortune = int(os.environ.get("RANK", "0")), os.environ.get("MISFORTUNE", "")
run_epoch, pretrain = loop._run_epoch, runner.pretrain


def killed(state: Any, world: Any, epoch: int, *rest: Any) -> dict[str, float]:
    """Be killed by the system in the third epoch."""
    if (state.stage.name, epoch) == ("pretrain", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_epoch(state, world, epoch, *rest)


def failing(*_: Any, **__: Any) -> None:
    """Fail on this rank alone."""
    raise DataError("tea was spilt on this disk")


if rank == 1 and misfortune == "killed":
    loop._run_epoch = killed
if rank == 1 and misfortune == "failing":
    runner.pretrain = failing  # type: ignore[assignment]
sys.exit(cli.run(train.main))
