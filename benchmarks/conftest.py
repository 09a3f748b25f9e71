"""Benchmarks run only by `pytest --benchmark-only`, and time only what was just found right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).parent
# Before anything is timed: what other work the machine had.
LOAD_AT_START = os.getloadavg()


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Keep this folder out of a plain `pytest`: not even imported."""
    return None if config.getoption("benchmark_only", default=False) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests out of `pytest --benchmark-only`, which would list each as skipped."""
    if config.getoption("benchmark_only", default=False):
        config.hook.pytest_deselected(items=[item for item in items if HERE not in item.path.parents])
        items[:] = [item for item in items if HERE in item.path.parents]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    """Store with the results what they depend on."""
    from margformer_fast.info import collect

    machine_info["margformer_fast"] = collect()
    machine_info["load_average"] = {"start": LOAD_AT_START, "end": os.getloadavg()}
    machine_info["num_cpus"] = os.cpu_count()


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh randomness: on zeros some machines run faster than on data."""
    return np.random.default_rng()


@pytest.fixture
def cuda() -> torch.device:
    """The GPU; benchmarks that need it are skipped where there is none."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device("cuda", torch.cuda.current_device())
