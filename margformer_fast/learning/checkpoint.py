"""Checkpoints and models on disk: safetensors and JSON, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .. import __version__
from ..config import ModelConfig
from ..data.survey import PROFILES, SurveyProfile
from ..errors import DataError, OutputError
from ..files import atomic_directory, atomic_file, read_json, write_json
from ..nn.inputs import ScaledEncoder


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON-able description as one safetensors file, atomically.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        try:
            save_file(ready, temporary, metadata={"about": json.dumps(about, allow_nan=False)})
        except SafetensorError as error:  # wraps the operating system's error into words of its own
            raise OutputError(
                f"cannot be written: {str(error).removeprefix('Error while serializing: ')}",
                where=path,
                mend="Free some space; what was complete before is kept.",
            ) from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises
    ------
    DataError
        If the file is missing, damaged, or not ours.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"is not a whole checkpoint ({error})", where=path, mend="Delete it to start afresh."
        ) from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{k}.{name}": torch.as_tensor(value) for k, group in state.items() for name, value in group.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what :func:`pack_optimizer` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        k, name = key.split(".", 1)
        state.setdefault(int(k), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_weights(module: nn.Module, tensors: dict[str, torch.Tensor], where: Path) -> None:
    """Load a state dict strictly.

    Raises
    ------
    DataError
        If a tensor is missing, unexpected, or of another shape.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise DataError(f"its weights do not fit the model: {' '.join(lines)}", where=where) from error


def save_model(
    path: Path, model: ScaledEncoder, classes: tuple[str, ...], profile: SurveyProfile, simulated: bool
) -> None:
    """Write a trained model as a directory: ``config.json`` and ``model.safetensors``.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    config = {
        "schema": 1,
        "version": __version__,
        "model": model.config.to_dict(),
        "classes": list(classes),
        "survey": profile.name,
        "bands": list(profile.bands),
        "features": list(profile.feature_names),
        "trained_on_simulated_data": simulated,
    }
    with atomic_directory(path, overwrite=True) as temporary:
        save_tensors(temporary / "model.safetensors", model.state_dict(), {})
        write_json(temporary / "config.json", config)


def load_model(path: Path) -> tuple[ScaledEncoder, tuple[str, ...], SurveyProfile]:
    """Read a model directory.

    Returns
    -------
    model : ScaledEncoder
        In evaluation mode, on the CPU.
    classes : tuple of str
        Names of its outputs.
    profile : SurveyProfile
        The survey whose bands and features it takes.

    Raises
    ------
    DataError
        If a file is missing or damaged, or of another schema.
    """
    config = read_json(path / "config.json")
    if config.get("schema") != 1:
        raise DataError(f"has schema {config.get('schema')!r}", where=path / "config.json", expected="1")
    settings = ModelConfig.from_dict(config["model"])
    model = ScaledEncoder(settings, len(config["classes"]))
    tensors, _ = load_tensors(path / "model.safetensors")
    load_weights(model, tensors, path / "model.safetensors")
    return model.eval(), tuple(config["classes"]), PROFILES[config["survey"]]
