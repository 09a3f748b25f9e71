"""Where and how precisely to compute."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from ..errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16")


def pick_device(name: str) -> torch.device:
    """Return the device that `name` means: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    ConfigError
        If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}", expected="auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not here: torch sees {torch.cuda.device_count()} GPUs",
            mend="Use --device cpu; `python -m margformer_fast.info` says why no GPU is seen.",
        )
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``; ``auto`` is bf16 on a GPU and fp32 on a CPU."""
    if name not in PRECISIONS:
        raise ConfigError(f"there is no precision {name!r}", expected=" | ".join(PRECISIONS))
    return {"auto": "bf16" if device.type == "cuda" else "fp32"}.get(name, name)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return a context in which products run in bf16 if `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
