"""Checkpoints and models on disk: safetensors and JSON, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from .. import __version__
from ..config import ModelConfig
from ..data.survey import CLASSES, PROFILES, SurveyProfile
from ..errors import ConfigError, DataError, OutputError
from ..files import atomic_directory, atomic_file, parse_json, read_json, write_json
from ..nn.inputs import ScaledEncoder

CALIBRATION = "calibration.json"
"""File of a model directory with its calibration; :mod:`margformer_fast.evaluation.calibration` reads it."""


_DIGEST = "sha256"
"""Entry of a file's metadata: :func:`_digest` of what is in it. Files from before have none."""


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON-able description as one safetensors file, atomically.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, allow_nan=False)
    with atomic_file(path) as temporary:
        try:
            safetensors.torch.save_file(
                ready, temporary, metadata={"about": text, _DIGEST: _digest(ready, text)}
            )
        except SafetensorError as error:  # wraps the operating system's error into words of its own
            raise OutputError(
                f"cannot be written: {str(error).removeprefix('Error while serializing: ')}",
                where=path,
                mend="Free some space; what was complete before is kept.",
            ) from error


def load_tensors(
    path: Path, *, mend: str = "Delete it to start afresh."
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote; `mend` is what a message about damage advises.

    Raises
    ------
    DataError
        If the file is missing, damaged in any bit, or not ours.
    """
    if path.exists() and not path.is_file():  # a device has no end
        raise DataError("is no regular file", where=path)
    try:
        raw = path.read_bytes()
        # Not safe_open: with safetensors 0.8 it leaves two Python numbers behind for every tensor it gives.
        tensors = safetensors.torch.load(raw)
        metadata = _metadata(raw)
        about = parse_json(metadata["about"])
        if not isinstance(about, dict) or not {"about"} <= set(metadata) <= {"about", _DIGEST}:
            raise ValueError(f"its metadata are {', '.join(sorted(metadata))[:80]}")
        if metadata.get(_DIGEST) not in (None, _digest(tensors, metadata["about"])):
            raise ValueError("its content is not what was written: the checksum differs")
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    # torch refuses sizes and types in its own ways.
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise DataError(f"is not a whole checkpoint ({error})", where=path, mend=mend) from error
    return tensors, about


def _metadata(raw: bytes) -> dict[str, str]:
    """Return the texts in the header of a safetensors file that was read without complaint."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return parse_json(raw[8:end]).get("__metadata__") or {}


def _digest(tensors: Mapping[str, torch.Tensor], about: str) -> str:
    """Return the SHA-256 of names, types, shapes, bytes and description."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\n{tensor.dtype}{tuple(tensor.shape)}\n".encode())
        # One axis of at least one entry, whose bytes can then be seen whatever the type.
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{k}.{name}": torch.as_tensor(value) for k, group in state.items() for name, value in group.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], where: Path) -> None:
    """Put back what :func:`pack_optimizer` returned.

    Raises
    ------
    DataError
        If it is not the state of this optimizer: torch would find out at the next step, or never.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        known = number.isdecimal() and number.isascii() and int(number) < len(parameters)
        if not known or value.shape not in ((), parameters[int(number)].shape):
            raise DataError(
                f"its optimizer state {key!r:.60} fits no parameter",
                where=where,
                mend="Delete it to start afresh.",
            )
        state.setdefault(int(number), {})[name] = value
    if len({frozenset(names) for names in state.values()}) > 1:
        raise DataError("its optimizer state is not whole", where=where, mend="Delete it to start afresh.")
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
        raise DataError(
            f"has schema {found!r:.60}",
            where=where,
            expected="1",
            mend="Read it with the version of margformer_fast that wrote it.",
        )
    for key in ("model", "classes", "survey", "bands", "features"):
        if key not in config:
            raise DataError(f"has no {key!r}", where=where, mend="Save the model again.")
    survey, classes = config["survey"], config["classes"]
    profile = PROFILES.get(survey) if isinstance(survey, str) else None
    if profile is None:
        raise DataError(f"survey is {survey!r:.60}", where=where, expected=" | ".join(PROFILES))
    for key, names in (("bands", profile.bands), ("features", profile.feature_names)):
        if config[key] != list(names):
            raise DataError(f"{key} are {config[key]!r:.300}", where=where, expected=", ".join(names))
    if not isinstance(classes, list) or len(classes) < 2 or not _distinct(classes, CLASSES):
        raise DataError(
            f"classes are {classes!r:.60}", where=where, expected=f"two or more of {', '.join(CLASSES)}"
        )
    try:
        form = ModelConfig.from_dict(config["model"])
    except ConfigError as error:
        raise DataError(error.what, where=where, expected=error.expected) from error
    for name, takes, known in (
        ("num_bands", form.num_bands, len(profile.bands)),
        ("num_features", form.num_features, profile.num_features),
    ):
        if takes != known:
            raise DataError(f"{name} is {takes}", where=where, expected=f"{known}, as the survey has")
    tensors, _ = load_tensors(path / "model.safetensors", mend="Copy or save the model again.")
    _check_size(form, tensors, where)
    model = ScaledEncoder(form, len(classes))
    load_weights(model, tensors, path / "model.safetensors")
    return SavedModel(
        model.eval(),
        tuple(classes),
        profile,
        bool(config.get("trained_on_simulated_data", False)),
        bool(config.get("classifies", True)),
        _feature_range(config.get("feature_range"), profile, where),
        read_json(path / CALIBRATION) if (path / CALIBRATION).exists() else None,
    )


def _distinct(names: list[Any], known: Sequence[str]) -> bool:
    return all(names.count(name) == 1 and name in known for name in names)


def _check_size(form: ModelConfig, tensors: Mapping[str, torch.Tensor], where: Path) -> None:
    """Refuse a model that its weights cannot fill, before it is made: its size is the author's word."""
    there = sum(tensor.numel() for tensor in tensors.values())
    # A part of what every form has: embeddings of patches and places; two square and two wide products and
    # two projections of places in a layer.
    layer = 2 * form.dim * (form.dim + form.hidden) + 2 * form.slots * form.num_patches
    least = form.dim * (form.patch_values + form.num_patches) + form.depth * layer
    if least > there:
        raise DataError(
            f"describes a model of {least:,} weights or more",
            where=where,
            expected=f"at most {there:,}, which model.safetensors holds",
            mend="Save the model again.",
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
