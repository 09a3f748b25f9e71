"""Whether Triton is here, without importing it before it is needed."""

from __future__ import annotations

import importlib.util
import os

# Triton reads it when it is imported: kernels then run as NumPy code, on tensors in main memory.
INTERPRETER_VARIABLE = "TRITON_INTERPRET"


def is_interpreting() -> bool:
    """Return whether kernels are interpreted instead of compiled."""
    return os.environ.get(INTERPRETER_VARIABLE) == "1"


def why_no_triton(device: str) -> tuple[str, ...]:
    """Say why kernels cannot run on data on `device`."""
    reasons = []
    if importlib.util.find_spec("triton") is None:
        reasons.append("triton is not installed")
    if device != "cuda" and not is_interpreting():
        reasons.append(f"the data are on {device}")
    return tuple(reasons)
