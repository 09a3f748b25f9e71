"""A run stopped at any step of any stage and resumed is, to the last bit, the run that nobody stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from same_output import differences, run_content
from short_runs import shorten
from toy import toy_survey

from margformer_fast import cli, train
from margformer_fast.config import FitConfig
from margformer_fast.data.store import write_store
from margformer_fast.experiments import PRESETS
from margformer_fast.learning import loop

OBJECTS, BATCH = 72, 16
RUNS = {
    "simclr": ("pretrain", "probe", "finetune", "images-only", "photometry-only"),
    "supervised": ("supervised", "margnet-dnn", "margnet-cnn", "margnet-ensemble"),
    "simclr-probe": ("pretrain", "probe"),
}
OPTIONS = {
    "simclr": ["--baselines", "images,features"],
    "supervised": ["--baselines", "margnet"],
    "simclr-probe": ["--baselines", "none", "--protocol", "published", "--precision", "bf16"],
}


class Stopped:
    """An optimizer's step that ends the run after a number of steps; what runs out begins anew."""

    def __init__(self) -> None:
        self.left, self.real = 1 << 30, torch.optim.AdamW.step

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        def step(optimizer: torch.optim.AdamW, *arguments: object) -> object:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.real(optimizer, *arguments)

        patch.setattr(torch.optim.AdamW, "step", step)


@pytest.mark.parametrize("method", RUNS)
def test_every_stage_resumes_to_the_last_bit(
    method: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    short = FitConfig(2, 2, BATCH, 1e-3)
    quick = PRESETS["quick"]
    small = {name: short for name, value in vars(quick).items() if isinstance(value, FitConfig)}
    monkeypatch.setitem(PRESETS, "quick", replace(quick, **small, dropout=True))
    monkeypatch.setattr(loop, "_SAVE_SECONDS", -1.0)
    write_store(tmp_path / "store", toy_survey(OBJECTS, rng))
    base = ["--exp", "1", "--method", method, "--data", str(tmp_path / "store"), "--runs", "1"]
    base += [*OPTIONS[method], "--seed", str(rng.integers(1000)), "--out"]
    stopped = Stopped()
    stopped.patch(monkeypatch)
    assert cli.run(train.main, [*base, str(tmp_path / "whole")]) == 0
    an_epoch = -(-OBJECTS // BATCH)
    again, stops = [], 0
    while True:
        # An epoch is always finished, so that the run gets on; then it stops within the next.
        stopped.left = an_epoch + int(rng.integers(0, an_epoch))
        code = cli.run(train.main, [*base, str(tmp_path / "stopped"), *again])
        if code == cli.OK:
            break
        assert code == cli.INTERRUPTED
        stops, again = stops + 1, ["--resume"]
    assert stops >= len(RUNS[method]) // 2
    whole, resumed = (run_content(tmp_path / name) for name in ("whole", "stopped"))
    stages = {Path(name).stem for name in whole if name.endswith(".safetensors")} - {"model"}
    assert stages == set(RUNS[method])
    assert not differences(resumed, whole)
