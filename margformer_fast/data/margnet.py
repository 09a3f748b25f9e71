"""The published arrays of MargNet (Chaini et al. 2023, DOI 10.5281/zenodo.6659435), read where they lie.

Row-aligned ``.npy`` files, by experiment:

=================================  =================  ====================================================
Experiments 1 and 2 / 3            shape              what
=================================  =================  ====================================================
``X_exp1`` / ``X_sg_exp3``         (N, 32, 32, 5)     stamps, channel last, bands u g r i z
``dnnx_exp1`` / ``dnnx_sg_exp3``   (N, 24)            photometric features in the order of the SDSS profile
``objlist_exp1`` / ``..sg_exp3``   (N,) int64         object identifiers
``y_exp1`` / ``y_sg_exp3``         (N,) / (N, 2|3)    classes: pickled strings / one-hot in label order
=================================  =================  ====================================================

Experiments 1 and 2 hold all three classes, and the two-class task deletes the quasars. Experiment 3 has a
set of files for each task (``sg_exp3`` and ``sgq_exp3``). The band order of the stamps and their unit are
taken from the published description and notebooks; the arrays themselves do not say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from ..ops.stamps import Stamps
from .npy import map_npy
from .pickles import holds_strings, load_string_array
from .splits import Split, published_split
from .survey import CLASSES, SDSS, TASKS, Survey

EXPERIMENTS = (1, 2, 3)

RECIPES = {
    "margformer": {1: (0.125, 0.1428), 2: (0.125, 0.1428)},
    "margnet": {1: (0.125, 0.1428), 2: (0.1, 0.1111111)},
}
"""Test and validation fractions by recipe and experiment. For Experiment 2 the two papers differ: MargFormer
(K = 128) was tested on an eighth, MargNet and the conformal analysis (K = 64) on a tenth."""

_DEPOSIT = "the files of DOI 10.5281/zenodo.6659435"


def is_margnet(path: str | Path) -> bool:
    """Return whether a directory, or a subdirectory of it, holds published arrays of any experiment."""
    path = Path(path)
    return path.is_dir() and any(
        (folder / f"objlist_{_suffix(experiment, task)}.npy").is_file()
        for folder in _folders(path)
        for experiment in EXPERIMENTS
        for task in TASKS
    )


def read_margnet(path: str | Path, experiment: int, task: str, *, require_images: bool = True) -> Survey:
    """Read the published arrays of one experiment; the images stay in the file.

    Parameters
    ----------
    path : str or Path
        The directory that holds the files, or whose subdirectory does.
    experiment : int
        1 (compact), 2 (faint and compact) or 3 (the balanced test set).
    task : {"sg", "sgq"}
        Two or three classes.
    require_images : bool
        Whether the image file must be there. If it is not and need not be, every pixel is NaN: features and
        classes can be used, and whoever reads a pixel notices.

    Returns
    -------
    Survey
        In the order of the files, without the classes outside the task; positions are not published beside
        the arrays and are NaN. Real, not simulated.

    Raises
    ------
    ConfigError
        If there is no such experiment or task.
    DataError
        If files are missing (all are named) or in several subdirectories, their lengths differ, a class or
        shape is not as published, or an identifier comes twice.
    """
    _check_choice(experiment, task)
    suffix = _suffix(experiment, task)
    folder = _folder(Path(path), suffix)
    names = {kind: folder / f"{kind}_{suffix}.npy" for kind in ("X", "dnnx", "objlist", "y")}
    needed = [file for kind, file in names.items() if require_images or kind != "X"]
    missing = [file.name for file in needed if not file.is_file()]
    if missing:
        raise DataError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            where=folder,
            expected=_DEPOSIT,
            mend="Fetch the missing files into this folder.",
        )
    objid = map_npy(names["objlist"])
    features = map_npy(names["dnnx"])
    label = _labels(names["y"], TASKS["sgq"] if experiment != 3 else TASKS[task])
    has_images = names["X"].is_file()
    if has_images:
        stamps = _stamps(names["X"])
    else:
        shape = (len(objid), len(SDSS.bands), SDSS.stamp_size, SDSS.stamp_size)
        stamps = Stamps((np.broadcast_to(np.float32(np.nan), shape),))
    lengths = {"objlist": len(objid), "dnnx": len(features), "y": len(label), "X": len(stamps)}
    if len(set(lengths.values())) > 1:
        rows = ", ".join(f"{names[kind].name} {n:,}" for kind, n in lengths.items() if names[kind].is_file())
        raise DataError(
            f"the files have different numbers of rows ({rows})", where=folder, expected="row-aligned files"
        )
    if features.shape[1:] != (SDSS.num_features,) or features.dtype.kind != "f":
        raise DataError(
            f"features are {features.dtype} of shape {features.shape}",
            where=names["dnnx"],
            expected=f"floats of shape (N, {SDSS.num_features})",
        )
    _check_objid(objid, names["objlist"])
    unknown = np.full(len(objid), np.nan)
    survey = Survey(
        profile=SDSS,
        objid=objid.astype(np.int64),
        ra=unknown,
        dec=unknown,
        label=label,
        features=features.astype(np.float64),
        stamps=stamps,
        simulated=False,
        provenance={
            "source": "MargNet arrays, DOI 10.5281/zenodo.6659435",
            "experiment": experiment,
            "task": task,
            "images": has_images,
            "files": [
                {"name": file.name, "bytes": file.stat().st_size} for file in names.values() if file.is_file()
            ],
        },
    )
    in_task = _in_task(survey, task)
    return survey if in_task.all() else survey.select(in_task)


def published_experiment_split(
    survey: Survey, experiment: int, task: str, recipe: str = "margformer"
) -> Split:
    """Return the published training, validation and test rows of Experiment 1 or 2.

    Objects of classes outside the task are deleted first and the rest is split as
    :func:`~margformer_fast.data.splits.published_split` does, so the splits of the two tasks are unrelated.

    Parameters
    ----------
    survey : Survey
        All objects of the experiment, in published order, with or without the classes outside the task.
    experiment : int
        1 or 2; Experiment 3 is a test set.
    task : {"sg", "sgq"}
        Two or three classes.
    recipe : {"margformer", "margnet"}
        Whose fractions: see `RECIPES`.

    Returns
    -------
    Split
        Rows of `survey`, in published order.

    Raises
    ------
    ConfigError
        If there is no such experiment, task or recipe, or it is not split.
    DataError
        If a side would be empty.
    """
    _check_choice(experiment, task)
    if experiment == 3:
        raise ConfigError("experiment 3 is not split", expected="1 or 2", mend="All of it is tested on.")
    if recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}", expected=" | ".join(RECIPES))
    rows = np.flatnonzero(_in_task(survey, task))
    split = published_split(len(rows), *RECIPES[recipe][experiment])
    return Split(rows[split.train], rows[split.val], rows[split.test])


def _check_choice(experiment: int, task: str) -> None:
    if experiment not in EXPERIMENTS:
        raise ConfigError(f"there is no experiment {experiment!r}", expected="1, 2 or 3")
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}", expected=" | ".join(TASKS))


def _in_task(survey: Survey, task: str) -> np.ndarray:
    return np.isin(survey.label, [CLASSES.index(name) for name in TASKS[task]])


def _suffix(experiment: int, task: str) -> str:
    return f"{task}_exp3" if experiment == 3 else f"exp{experiment}"


def _folders(path: Path) -> list[Path]:
    return [path, *sorted(child for child in path.iterdir() if child.is_dir())]


def _folder(path: Path, suffix: str) -> Path:
    """Return the folder that holds one experiment's files: `path` or one of its subdirectories."""
    if not path.is_dir():
        raise DataError("is not a folder", where=path, expected=_DEPOSIT)
    found = [folder for folder in _folders(path) if (folder / f"objlist_{suffix}.npy").is_file()]
    if len(found) > 1:
        raise DataError(
            f"objlist_{suffix}.npy is in {len(found)} places ({', '.join(folder.name for folder in found)})",
            where=path,
            mend="Name one of them.",
        )
    return found[0] if found else path


def _stamps(path: Path) -> Stamps:
    images = map_npy(path)
    shape = (SDSS.stamp_size, SDSS.stamp_size, len(SDSS.bands))
    if images.shape[1:] != shape or images.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise DataError(
            f"images are {images.dtype} of shape {images.shape}",
            where=path,
            expected=f"float32 or float64 of shape (N, {', '.join(map(str, shape))}): channel last",
        )
    return Stamps.channel_last(images)


def _labels(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    """Return labels as int8 from strings, or from one-hot rows over `classes`."""
    if holds_strings(path):
        return _from_strings(load_string_array(path), path)
    one_hot = map_npy(path)
    if one_hot.ndim != 2 or one_hot.shape[1] != len(classes):
        raise DataError(
            f"classes have shape {one_hot.shape}",
            where=path,
            expected=f"strings, or one-hot rows of shape (N, {len(classes)}) for {', '.join(classes)}",
        )
    bad = np.flatnonzero(~((one_hot == 0) | (one_hot == 1)).all(axis=1) | (one_hot.sum(axis=1) != 1))
    if bad.size:
        raise DataError(f"row {bad[0]} is not one-hot", where=path, expected="a single 1 and zeros")
    index = np.array([CLASSES.index(name) for name in classes], np.int8)
    label: np.ndarray = index[one_hot.argmax(axis=1)]
    return label


def _from_strings(names: np.ndarray, path: Path) -> np.ndarray:
    label = np.full(len(names), -1, np.int8)
    for k, name in enumerate(CLASSES):
        label[names == name] = k
    bad = np.flatnonzero(label < 0)
    if bad.size:
        raise DataError(
            f"row {bad[0]} has the class {str(names[bad[0]])[:40]!r}",
            where=path,
            expected=" | ".join(CLASSES),
        )
    return label


def _check_objid(objid: np.ndarray, path: Path) -> None:
    if objid.ndim != 1 or objid.dtype.kind not in "iu":
        raise DataError(
            f"identifiers are {objid.dtype} of shape {objid.shape}",
            where=path,
            expected="integers of shape (N,)",
        )
    unique, counts = np.unique(objid, return_counts=True)
    if len(unique) < len(objid):
        repeated = unique[counts > 1]
        raise DataError(f"objID {repeated[0]} comes {counts.max()} times", where=path, expected="each once")
