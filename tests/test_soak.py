"""The soak of ``benchmarks/soak.py``: it runs, tells growth from rest, and notices what is left open."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import soak
import torch

from margformer_fast.learning.checkpoint import load_tensors, save_tensors


def table(hours: float, count: int, rng: np.random.Generator, *, leak: float = 0.0) -> np.ndarray:
    """Rounds of a process whose memory wanders by a few MiB, and grows by `leak` MiB an hour."""
    at = np.linspace(0.01, hours, count)
    wander = 500 + rng.normal(0, 3, count) + 20 * (1 - np.exp(-at / 0.05)) + leak * at
    return np.column_stack([np.arange(1, count + 1), at, wander, np.full(count, 6), np.ones(count)])


def test_growth_is_told_from_rest(rng):
    assert soak.judge(table(8, 2000, rng))[0]
    flat, words = soak.judge(table(8, 2000, rng, leak=6))
    assert not flat
    assert words.endswith("NOT FLAT")
    rate, half = soak.slope(*table(8, 2000, rng, leak=50)[500:, 1:3].T)
    assert abs(rate - 50) < 5 * half < 10


@pytest.mark.parametrize("column", [3, 4])
def test_one_handle_or_thread_more_is_seen(rng, column):
    rows = table(8, 2000, rng)
    rows[1500:, column] += 1
    assert not soak.judge(rows)[0]


def test_a_few_rounds(tmp_path: Path, monkeypatch):
    said: list[str] = []
    kept = []  # what a leak looks like
    whole_round = soak.one_round

    def leaking(number: int, *rest: object) -> None:
        whole_round(number, *rest)
        if number > 2:
            kept.append(open("/dev/null"))  # noqa: SIM115

    monkeypatch.setattr(soak, "one_round", leaking)
    small = soak.Size(objects=24, files=20, passes=1, stores=2)
    try:
        rows = soak.soak(0, tmp_path, share=1.0, size=small, at_least=3, told=said.append)
    finally:
        for each in kept:
            each.close()
    assert len(rows) == len(said) == 3
    assert rows[2, 3] == rows[1, 3] + 1, "an open file more"
    assert rows[1, 4] == rows[0, 4]
    lines = (tmp_path / "soak.csv").read_text().splitlines()
    assert lines[0] == ",".join(soak.COLUMNS)
    assert len(lines) == len(rows) + 1
    soak.draw(rows, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000


def test_reading_weights_leaves_nothing_behind(tmp_path: Path):
    """What the soak found: the library's lazy reader kept two numbers of every tensor's shape."""
    save_tensors(tmp_path / "a.safetensors", {f"t{k}": torch.zeros(3, 400) for k in range(50)}, {})
    for _ in range(3):
        load_tensors(tmp_path / "a.safetensors")
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(40):
        load_tensors(tmp_path / "a.safetensors")
    gc.collect()
    assert sys.getallocatedblocks() - before < 400  # of 2,000 tensors
