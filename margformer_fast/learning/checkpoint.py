"""Checkpoints and models on disk: safetensors and JSON, never a pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

CALIBRATION = "calibration.json"
"""File of a model directory with its calibration; :mod:`margformer_fast.evaluation.calibration` reads it."""


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


@dataclass(frozen=True)
class SavedModel:
    """A model directory.

    Parameters
    ----------
    model : ScaledEncoder
        In evaluation mode, on the CPU.
    classes : tuple of str
        Names of its outputs.
    profile : SurveyProfile
        The survey whose bands and features it takes.
    simulated : bool
        Whether it was trained on simulated objects.
    classifies : bool
        Whether its head was trained; without, it only embeds.
    feature_range : ndarray of float64, shape (F, 2), or None
        Between which values nearly all features of the training set lay, in survey units; None if that was
        not kept, as in older directories.
    calibration : dict or None
        What ``calibration.json`` holds; None if there is none.
    """

    model: ScaledEncoder
    classes: tuple[str, ...]
    profile: SurveyProfile
    simulated: bool
    classifies: bool
    feature_range: np.ndarray | None
    calibration: Any


def save_model(
    path: Path,
    model: ScaledEncoder,
    classes: tuple[str, ...],
    profile: SurveyProfile,
    simulated: bool,
    *,
    classifies: bool = True,
    feature_range: np.ndarray | None = None,
    calibration: dict[str, Any] | None = None,
) -> None:
    """Write a trained model as a directory: ``config.json``, ``model.safetensors``, ``calibration.json``.

    Parameters
    ----------
    path : Path
        The directory; one that is there is replaced.
    model, classes, profile, simulated, classifies, feature_range, calibration
        As of :class:`SavedModel`. Without a calibration its file is left out.

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
        "feature_units": list(profile.feature_units),
        "feature_range": None if feature_range is None else feature_range.tolist(),
        "classifies": classifies,
        "trained_on_simulated_data": simulated,
    }
    with atomic_directory(path, overwrite=True) as temporary:
        save_tensors(temporary / "model.safetensors", model.state_dict(), {})
        write_json(temporary / "config.json", config)
        # safetensors lets nobody else read what it writes; a model is for others.
        (temporary / "model.safetensors").chmod((temporary / "config.json").stat().st_mode)
        if calibration is not None:
            write_json(temporary / CALIBRATION, calibration)


def load_model(path: Path) -> tuple[ScaledEncoder, tuple[str, ...], SurveyProfile]:
    """Read the model of a model directory, its classes and its survey: see :func:`load_model_directory`."""
    saved = load_model_directory(path)
    return saved.model, saved.classes, saved.profile


def load_model_directory(path: Path) -> SavedModel:
    """Read a model directory.

    Raises
    ------
    DataError
        If a file is missing or damaged, of another schema, or of a survey that is not known.
    """
    where = path / "config.json"
    if not where.exists():
        raise DataError(
            "is no model directory",
            where=path,
            expected="a directory with config.json and model.safetensors",
            mend="A run keeps its models as RUN/seed-0/model.",
        )
    config = read_json(where)
    if not isinstance(config, dict) or config.get("schema") != 1:
        found = config.get("schema") if isinstance(config, dict) else config
        raise DataError(f"has schema {found!r}", where=where, expected="1")
    for key in ("model", "classes", "survey", "bands", "features"):
        if key not in config:
            raise DataError(f"has no {key!r}", where=where, mend="Save the model again.")
    profile = PROFILES.get(config["survey"])
    if profile is None:
        raise DataError(f"survey is {config['survey']!r}", where=where, expected=" | ".join(PROFILES))
    for key, known in (("bands", profile.bands), ("features", profile.feature_names)):
        if tuple(config[key]) != known:
            raise DataError(f"{key} are {config[key]}", where=where, expected=", ".join(known))
    model = ScaledEncoder(ModelConfig.from_dict(config["model"]), len(config["classes"]))
    tensors, _ = load_tensors(path / "model.safetensors")
    load_weights(model, tensors, path / "model.safetensors")
    return SavedModel(
        model.eval(),
        tuple(config["classes"]),
        profile,
        bool(config.get("trained_on_simulated_data", False)),
        bool(config.get("classifies", True)),
        _feature_range(config.get("feature_range"), profile, where),
        read_json(path / CALIBRATION) if (path / CALIBRATION).exists() else None,
    )


def _feature_range(values: Any, profile: SurveyProfile, where: Path) -> np.ndarray | None:
    if values is None:
        return None
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (profile.num_features, 2) or not np.all(found[:, 0] <= found[:, 1]):
        raise DataError(
            "feature_range is not usable",
            where=where,
            expected=f"{profile.num_features} pairs of rising numbers",
        )
    return found
