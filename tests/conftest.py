"""Fixtures of the whole suite: real data, fresh randomness, and what needs a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

# Before torch loads its thread library: threads that spin while they wait starve other tests and other work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none, and say so in the summary."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real SDSS data that MARGFORMER_TEST_DATA names; skipped when it is unset."""
    folder = os.environ.get("MARGFORMER_TEST_DATA")
    if not folder:
        pytest.skip("MARGFORMER_TEST_DATA is unset: no real data")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"MARGFORMER_TEST_DATA names {path}, which is no folder")
    return path


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator with a fresh seed each run; a failure shows it, MARGFORMER_TEST_SEED repeats it."""
    seed = int(os.environ.get("MARGFORMER_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
    request.node.add_report_section("setup", "rng", f"repeat with MARGFORMER_TEST_SEED={seed}")
    return np.random.default_rng(seed)
