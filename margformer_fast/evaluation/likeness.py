"""How like real objects simulated ones are: distances, and whether a classifier tells them apart.

Simulated objects are weighted to the counts of the real ones in bins of 0.1 mag of observed reference
magnitude, class by class, so that what is compared is not how many faint objects either set holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.survey import CLASSES, SDSS, Survey
from ..data.tables import read_table
from ..errors import DataError

if TYPE_CHECKING:
    from astropy.table import Column

BIN_MAG = 0.1
FEWEST = 50
"""Objects of a class in either set below which it is not compared."""

GROUPS = {
    "magnitudes and colours": ("dered", "_g", "_r", "_i", "_z", "_y"),
    "radii": ("deVRad",),
    "PSF widths": ("psffwhm",),
    "extinction": ("extinction",),
}
"""Kinds of features that are tried apart, by what their names begin or end with."""

_FOLDS = 5
_BOOSTING = {
    "max_iter": 100,
    "learning_rate": 0.08,
    "max_leaf_nodes": 16,
    "min_samples_leaf": 40,
    "l2_regularization": 1.0,
    "random_state": 0,
}


@dataclass(frozen=True)
class Sample:
    """Objects to compare, real or simulated.

    Parameters
    ----------
    name : str
        Where they come from.
    columns : mapping of str to ndarray of shape (N,)
        Features by name.
    label : ndarray of int, shape (N,)
        Index into `CLASSES`.
    magnitude : ndarray, shape (N,)
        Observed magnitude in the reference band.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    label: np.ndarray
    magnitude: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def select(self, which: np.ndarray) -> Sample:
        """Return the objects at `which`."""
        columns = {name: values[which] for name, values in self.columns.items()}
        return Sample(self.name, columns, self.label[which], self.magnitude[which])

    def observed(self, band: str) -> np.ndarray:
        """Return observed magnitudes in a band of SDSS, shape (N,): the one in r, and the colours between."""
        k, r = SDSS.bands.index(band), SDSS.bands.index("r")
        between = [f"{a}_{b}" for a, b in pairwise(SDSS.bands[min(k, r) : max(k, r) + 1])]
        sign = 1 if k < r else -1
        return self.magnitude + sign * sum((self.columns[name] for name in between), np.zeros(len(self)))

    def within(self, limits: Mapping[str, float]) -> Sample:
        """Return the objects brighter than a limit in each of some bands of SDSS.

        For a table that was cut so: its colours are to be compared with those of objects cut alike.
        """
        kept = np.ones(len(self), bool)
        for band, faintest in limits.items():
            kept &= self.observed(band) < faintest
        return self.select(kept)

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """Return columns side by side, shape (N, F)."""
        return np.stack([self.columns[name] for name in names], axis=1)


@dataclass(frozen=True)
class FeatureLikeness:
    """One feature of one class, or of all (``kind`` is then "all")."""

    kind: str
    feature: str
    distance: float
    """1-Wasserstein distance over the standard deviation of the real objects."""
    robust_distance: float
    """The same over half the distance of their percentiles 16 and 84."""
    simulated: tuple[float, float, float]
    """Percentiles 16, 50, 84."""
    real: tuple[float, float, float]
    auc: float
    """Of a classifier that sees this feature alone; NaN unless asked for."""


@dataclass(frozen=True)
class Likeness:
    """What :func:`compare` finds.

    Parameters
    ----------
    simulated, real : Sample
        The objects compared.
    weight : ndarray, shape (N,)
        Of the simulated objects.
    features : tuple of FeatureLikeness
        By class, then all together.
    auc : mapping of str to float
        Area under the curve of a classifier that tells simulated from real, by class and for "all".
    group_auc : mapping of str to mapping of str to float
        The same by class for each kind of features alone.
    unmatched : float
        Share of the real objects in whose bin there is no simulated one of the class.
    """

    simulated: Sample
    real: Sample
    weight: np.ndarray
    features: tuple[FeatureLikeness, ...]
    auc: Mapping[str, float]
    group_auc: Mapping[str, Mapping[str, float]]
    unmatched: float


def of_survey(survey: Survey, name: str) -> Sample:
    """Return all features of the labelled objects of a survey."""
    known = np.flatnonzero(survey.label >= 0)
    chosen = survey.select(known)
    columns = {f: chosen.features[:, k] for k, f in enumerate(survey.profile.feature_names)}
    return Sample(name, columns, chosen.label.astype(np.int64), chosen.r_obs)


def read_magnitudes(path: Path) -> Sample:
    """Read a table with columns u, g, r, i, z (magnitudes) and class.

    Raises
    ------
    DataError
        If it cannot be read, a column is missing, a class is not known, or a magnitude is no finite number.
    """
    table = read_table(path)
    missing = [name for name in (*SDSS.bands, "class") if name not in table.colnames]
    if missing:
        raise DataError(f"column {', '.join(missing)} is missing", where=path, expected="u g r i z class")
    if not len(table):
        raise DataError("has no rows", where=path)
    name = np.ma.filled(np.ma.asarray(table["class"]).astype(str), "")
    unknown = sorted(set(name.tolist()) - set(CLASSES))
    if unknown:
        raise DataError(f"class {unknown[0]!r} is not known", where=path, expected=" | ".join(CLASSES))
    magnitude = np.stack([_numbers(table[band], path) for band in SDSS.bands], axis=1)
    columns = {
        f"{a}_{b}": magnitude[:, k] - magnitude[:, k + 1] for k, (a, b) in enumerate(pairwise(SDSS.bands))
    }
    label = np.array([CLASSES.index(each) for each in name], np.int64)
    return Sample(path.name, columns, label, magnitude[:, SDSS.bands.index("r")])


def _numbers(column: Column, path: Path) -> np.ndarray:
    where = f"{path}, column {column.name}"
    try:
        values = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    except (TypeError, ValueError):
        raise DataError("holds something else than numbers", where=where) from None
    bad = np.flatnonzero(~np.isfinite(values))
    if values.ndim != 1 or len(bad):
        row = f", row {bad[0]}" if len(bad) else ""
        raise DataError("is no magnitude", where=where + row, expected="a finite number in each row")
    return values


def read_real(path: Path) -> Sample:
    """Read real objects: a survey store, a folder of the published Experiment-3 arrays, or a CSV file.

    Raises
    ------
    DataError
        If it is none of these.
    """
    from ..data.margnet import is_margnet, read_margnet
    from ..data.store import read_store

    if path.is_file():
        return read_magnitudes(path)
    if (path / "survey.json").is_file():
        return of_survey(read_store(path), path.name)
    if is_margnet(path) or (path / "dnnx_sg_exp3.npy").is_file():
        return of_survey(read_margnet(path, 3, "sg", require_images=False), "Experiment 3")
    raise DataError(
        "holds no objects to compare with",
        where=path,
        expected="a survey store, a folder with dnnx_sg_exp3.npy and companions, or a CSV file",
    )


def wasserstein(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the 1-Wasserstein distance of two samples, the first with weights."""
    ours, theirs = np.argsort(x, kind="stable"), np.sort(y)
    at = np.sort(np.concatenate([x, y]))
    share = np.concatenate([[0.0], np.cumsum(np.ones(len(x)) if weight is None else weight[ours])])
    below = share[np.searchsorted(x[ours], at[:-1], side="right")] / share[-1]
    return float(
        (np.abs(below - np.searchsorted(theirs, at[:-1], side="right") / len(y)) * np.diff(at)).sum()
    )


def percentiles(x: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float, float]:
    """Return percentiles 16, 50 and 84 of a weighted sample."""
    order = np.argsort(x, kind="stable")
    share = np.cumsum(np.ones(len(x)) if weight is None else weight[order])
    at = np.searchsorted(share, np.array([0.16, 0.5, 0.84]) * share[-1])
    low, middle, high = x[order][np.minimum(at, len(x) - 1)]
    return float(low), float(middle), float(high)


def match(simulated: Sample, real: Sample) -> tuple[np.ndarray, float]:
    """Return weights of the simulated objects, and the share of real ones unmatched."""
    weight = np.zeros(len(simulated))
    ours, theirs = (np.floor(s.magnitude / BIN_MAG).astype(np.int64) for s in (simulated, real))
    unmatched = 0
    for label in np.unique(real.label):
        mine, those = simulated.label == label, real.label == label
        bins, counts = np.unique(theirs[those], return_counts=True)
        for k, count in zip(bins, counts, strict=True):
            here = mine & (ours == k)
            if here.any():
                weight[here] = count / here.sum()
            else:
                unmatched += count
        if weight[mine].sum() > 0:
            weight[mine] *= those.sum() / weight[mine].sum()
    return weight, unmatched / max(len(real), 1)


def telling_apart(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return how well boosted trees tell N simulated objects from M real ones: area under the ROC curve.

    Cross-validated in five folds; 0.5 is not at all. Arguments have shapes (N, F), (M, F) and (N,).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    both, is_real = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    # Both sides weigh as much, whatever their counts.
    weights = np.concatenate([weight / weight.sum(), np.full(len(y), 1 / len(y))]) * len(y)
    score = np.empty(len(both))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):
        for train, test in folds.split(both, is_real):
            trees = HistGradientBoostingClassifier(**_BOOSTING)
            trees.fit(both[train], is_real[train], sample_weight=weights[train])
            score[test] = trees.predict_proba(both[test])[:, 1]
    return float(roc_auc_score(is_real, score, sample_weight=weights))


def group_of(feature: str) -> str:
    """Return the kind of features that one belongs to."""
    for group, marks in reversed(GROUPS.items()):
        if feature.startswith(marks) or feature.endswith(marks):
            if group == "magnitudes and colours" and feature.startswith(("psffwhm", "extinction", "deVRad")):
                continue
            return group
    raise KeyError(feature)


def compare(simulated: Sample, real: Sample, *, each_feature: bool = False) -> Likeness:
    """Compare simulated with real objects in the features and classes that both have.

    Parameters
    ----------
    simulated, real : Sample
        The objects.
    each_feature : bool
        Whether to train a classifier on each feature alone, too.

    Raises
    ------
    DataError
        If no class has at least 50 objects on both sides that overlap in magnitude, or no feature is common.
    """
    names = [name for name in real.columns if name in simulated.columns]
    if not names:
        raise DataError("the two sets have no feature in common", where=real.name)
    weight, unmatched = match(simulated, real)
    enough = [
        k
        for k in range(len(CLASSES))
        if min(((simulated.label == k) & (weight > 0)).sum(), (real.label == k).sum()) >= FEWEST
    ]
    if not enough:
        raise DataError(
            f"no class has {FEWEST} simulated and {FEWEST} real objects of like magnitude",
            where=real.name,
            mend="Simulate more objects, or compare with others.",
        )
    ours = np.flatnonzero(np.isin(simulated.label, enough) & (weight > 0))
    simulated, weight = simulated.select(ours), weight[ours]
    real = real.select(np.flatnonzero(np.isin(real.label, enough)))
    features: list[FeatureLikeness] = []
    auc: dict[str, float] = {}
    group_auc: dict[str, dict[str, float]] = {}
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)
    kinds = [(CLASSES[k], simulated.label == k, real.label == k) for k in enough]
    if len(enough) > 1:
        kinds.append(("all", np.ones(len(simulated), bool), np.ones(len(real), bool)))
    for kind, mine, those in kinds:
        x, y, w = simulated.select(mine), real.select(those), weight[mine]
        for name in names:
            a, b = x.columns[name], y.columns[name]
            low, middle, high = percentiles(b)
            distance = wasserstein(a, b, w)
            features.append(
                FeatureLikeness(
                    kind,
                    name,
                    distance / max(float(b.std()), 1e-12),
                    distance / max((high - low) / 2, 1e-12),
                    percentiles(a, w),
                    (low, middle, high),
                    telling_apart(a[:, None], b[:, None], w) if each_feature else float("nan"),
                )
            )
        auc[kind] = telling_apart(x.matrix(names), y.matrix(names), w)
        group_auc[kind] = {
            group: telling_apart(x.matrix(some), y.matrix(some), w)
            for group, some in groups.items()
            if len(groups) > 1
        }
    return Likeness(simulated, real, weight, tuple(features), auc, group_auc, unmatched)
