"""The four commands that write, made small, and what their outputs are but for the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

# Imported here, so that no child has to; PyTorch imports its compiler at the first operator.
from fetch_archive import put_down, synthetic_field
from killing import Command
from same_output import run_content, store_content, table_content, table_rows
from short_runs import shorten
from toy import toy_survey

import margformer_fast.catalogue.outputs
import margformer_fast.catalogue.work
import margformer_fast.data.sdss.ingest
import margformer_fast.evaluation.likeness
import margformer_fast.runner
from margformer_fast import Classifier, classify, train
from margformer_fast.catalogue import frames, inputs
from margformer_fast.config import FitConfig, ModelConfig
from margformer_fast.data import __main__ as data
from margformer_fast.data import simulate, simulated
from margformer_fast.data.store import read_store, write_store
from margformer_fast.data.survey import SDSS, TASKS
from margformer_fast.experiments import PRESETS
from margformer_fast.learning import loop
from margformer_fast.learning.checkpoint import save_model
from margformer_fast.nn.inputs import ScaledEncoder

assert all((margformer_fast.data.sdss.ingest, Classifier, frames, inputs, simulated))


def made_small(patch: pytest.MonkeyPatch) -> None:
    """Simulate in small blocks and chunks, train in a second, and keep every epoch's checkpoint."""
    patch.setattr(simulate, "BLOCK", 16)
    patch.setattr(simulate, "CHUNK", 6)
    shorten(patch)
    quick = PRESETS["quick"]
    three = FitConfig(3, 3, 32, 1e-3)
    patch.setitem(PRESETS, "quick", replace(quick, pretrain=three, refine=three, probe=three))
    patch.setattr(loop, "_SAVE_SECONDS", -1.0)


def make_commands(folder: Path, rng: np.random.Generator) -> dict[str, Command]:
    """Write the inputs of the commands into a folder, and return the commands."""
    fields = folder / "fields"
    for number in range(100, 108):
        put_down(synthetic_field(rng, number, count=5)[0], fields)
    write_store(folder / "toy", toy_survey(72, rng))
    write_store(folder / "many", toy_survey(600, rng))
    model = ScaledEncoder(ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8), 2).eval()
    save_model(folder / "model", model, TASKS["sg"], SDSS, simulated=True)

    def store_rows(out: Path) -> np.ndarray:
        return read_store(out).objid

    def training(out: Path) -> list[str]:
        given = ["--exp", "1", "--data", folder / "toy", "--runs", "1", "--baselines", "none", "--out", out]
        return [*map(str, given), *(["--resume"] if out.exists() else [])]

    def run_rows(out: Path) -> np.ndarray:
        return table_rows(out / "predictions" / "simclr-seed0.fits")

    def line(*given: object) -> Callable[[Path], list[str]]:
        return lambda out: [*map(str, given), "--out", str(out)]

    simulating = line("simulate", "--compact", 24, "--faint", 6, "--seed", int(rng.integers(1 << 30)))
    classifying = line(folder / "model", folder / "many", "--chunk", 40)
    fits.BinTableHDU.from_columns([fits.Column("objid", "K", array=np.arange(9))]).writeto(
        folder / "old.fits"
    )
    ingesting, toy, table = line("ingest", fields), folder / "toy", folder / "old.fits"
    commands = (
        Command("simulate", data.main, simulating, "survey", store_content, store_rows, toy),
        Command("ingest", data.main, ingesting, "field", store_content, store_rows, toy),
        Command("train", train.main, training, "run", run_content, run_rows),
        Command("classify", classify.main, classifying, "classes.fits", table_content, table_rows, table),
    )
    return {command.name: command for command in commands}
