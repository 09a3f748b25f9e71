"""A stand-in for the published arrays: their names, dtypes, shapes and pickled labels, few objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy import toy_survey

from margformer_fast.data.survey import CLASSES, Survey


def write_published_arrays(folder: Path, rng: np.random.Generator, n: int = 240) -> None:
    """Write all files of the deposit for Experiments 1 to 3, `n` objects in each of the first two.

    As in the deposit: identifiers of Experiment 1 are not sorted, labels of Experiments 1 and 2 are pickled
    strings, those of Experiment 3 one-hot float32; half of the Experiment-3 objects are objects of
    Experiment 1, and the three-class set is the two-class set with quasars after it.
    """
    folder.mkdir()
    one = toy_survey(n, rng, classes=(0, 1, 2), objid_from=1_237_648_720_000_000_000)
    one = one.select(rng.permutation(n))
    two = toy_survey(n, rng, classes=(0, 1, 2), objid_from=1_237_648_730_000_000_000)
    new = toy_survey(n, rng, classes=(0, 1, 2), objid_from=1_237_648_740_000_000_000)
    for suffix, survey in (("exp1", one), ("exp2", two)):
        names = np.array(CLASSES, dtype=object)[survey.label]
        _save(folder, suffix, [survey], [np.arange(n)], names)
    picks = []
    for survey, count in ((one, n // 12), (new, n // 12)):
        picks.append(np.concatenate([np.flatnonzero(survey.label == k)[:count] for k in (0, 2)]))
    _save(folder, "sg_exp3", [one, new], picks, None)
    picks = [
        np.concatenate([rows, np.flatnonzero(survey.label == 1)[: n // 12]])
        for survey, rows in zip((one, new), picks, strict=True)
    ]
    _save(folder, "sgq_exp3", [one, new], picks, None)


def _save(
    folder: Path, suffix: str, surveys: list[Survey], picks: list[np.ndarray], names: np.ndarray | None
) -> None:
    pairs = list(zip(surveys, picks, strict=True))
    stamps = np.concatenate([survey.stamps.decode(rows) for survey, rows in pairs])
    label = np.concatenate([survey.label[rows] for survey, rows in pairs])
    order = np.argsort(label == 1, kind="stable")  # quasars last
    if names is not None:
        order = np.arange(len(label))
    np.save(folder / f"X_{suffix}.npy", stamps.transpose(0, 2, 3, 1)[order])
    features = np.concatenate([survey.features[rows] for survey, rows in pairs])
    np.save(folder / f"dnnx_{suffix}.npy", features[order])
    np.save(folder / f"objlist_{suffix}.npy", np.concatenate([s.objid[rows] for s, rows in pairs])[order])
    if names is not None:
        np.save(folder / f"y_{suffix}.npy", names, allow_pickle=True)
        return
    classes = (0, 2) if suffix.startswith("sg_") else (0, 1, 2)
    one_hot = (label[order][:, None] == np.array(classes)).astype(np.float32)
    np.save(folder / f"y_{suffix}.npy", one_hot)
