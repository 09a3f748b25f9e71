"""Runs from data to report that are over in a second."""

from __future__ import annotations

from dataclasses import replace

import pytest

from margformer_fast import experiments
from margformer_fast.config import FitConfig
from margformer_fast.evaluation import report
from margformer_fast.experiments import PRESETS


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs of preset "quick" take a second: two epochs of one layer, and no figures."""
    short = FitConfig(2, 2, 64, 1e-3)
    quick = replace(
        PRESETS["quick"],
        depth=1,
        pretrain=short,
        finetune=short,
        refine=short,
        supervised=short,
        probe=short,
        photometry=short,
        margnet_dnn=short,
        margnet_cnn=short,
        margnet_head=short,
        margnet_width=0.05,
        lvit={"pretrain": replace(short, temperature=0.5)},
    )
    monkeypatch.setitem(PRESETS, "quick", quick)
    monkeypatch.setattr(experiments.plan, "_FEWEST_SEEN", 1)
    # Figures have tests of their own, and take longer than these runs.
    for drawn in ("report_figures", "conformal_figures"):
        monkeypatch.setattr(report, drawn, lambda *_: [])
