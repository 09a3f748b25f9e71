"""Triton kernels in Triton's interpreter: runs tests/interpreted in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from margformer_fast.kernels.toolchain import INTERPRETER_VARIABLE

HERE = Path(__file__).parent


def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "interpreted"],
        env=os.environ | {INTERPRETER_VARIABLE: "1"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert " passed" in told.stdout
