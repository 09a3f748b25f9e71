"""Where and how precisely to compute."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import torch

from ..errors import ConfigError
from ..ops.resident_stamps import ResidentStamps
from ..ops.stamps import Stamps

PRECISIONS = ("auto", "fp32", "bf16")

_SHARE_FOR_STAMPS = 0.5  # of a GPU's free memory; the model and its activations need the rest
_log = logging.getLogger(__name__)


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
    """Return ``fp32`` or ``bf16``; ``auto`` is bf16 on a GPU and fp32 on a CPU.

    Warns where bf16 is asked for and is no faster.

    Raises
    ------
    ConfigError
        If there is no such precision.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"there is no precision {name!r}", expected=" | ".join(PRECISIONS))
    if name == "bf16" and device.type == "cpu" and not multiplies_bf16():
        _log.warning("PyTorch has no fast bfloat16 products for this processor: --precision fp32 is faster.")
    return {"auto": "bf16" if device.type == "cuda" else "fp32"}.get(name, name)


def multiplies_bf16() -> bool:
    """Return whether PyTorch has fast bfloat16 products for this processor; else they are very slow."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return a context in which products run in bf16 if `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def near(stamps: Stamps, device: torch.device) -> Stamps | ResidentStamps:
    """Return stamps as a batch is best made for a device.

    On a GPU that is its own memory, from which views are made without a transfer; stamps that would take more
    than half of what is free there stay on the host, which then makes the views.
    """
    if device.type != "cuda":
        return stamps
    num_bytes = ResidentStamps.bytes_needed(stamps)
    free, _ = torch.cuda.mem_get_info(device)
    if num_bytes > _SHARE_FOR_STAMPS * free:
        _log.warning(
            "%.1f GB of stamps stay in main memory: %s has %.1f GB free.", num_bytes / 1e9, device, free / 1e9
        )
        return stamps
    return ResidentStamps.upload(stamps, device)
