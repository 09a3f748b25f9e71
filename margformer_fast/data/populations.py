"""The populations of the three experiments, by the published cuts."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, DataError
from .splits import object_hash
from .survey import CLASSES, TASKS, Survey

POPULATIONS = ("all", "compact", "faint-compact")
"""Populations that :func:`population` knows."""

COMPACT_BELOW = 0.5
"""Mean over bands of deVRad / psffwhm below which an object is compact."""

FAINT_ABOVE = 20.0
"""Magnitude above which an object is faint."""

EXPERIMENT3_EDGES = np.linspace(20.0, 23.0, 31)
"""Edges of the bins of observed reference-band magnitude that Experiment 3 balances."""

_SAMPLES = {"compact": 1, "faint-compact": 2}


def cut(survey: Survey, name: str) -> np.ndarray:
    """Return which objects belong to a population; there may be none.

    Parameters
    ----------
    survey : Survey
        The objects.
    name : str
        ``all``; ``compact``: mean over bands of deVRad / psffwhm below 0.5 (Experiment 1); ``faint-compact``:
        compact, and mean over bands of the magnitude, not dereddened, above 20 (Experiment 2). If the
        survey has a column ``sample``, compact objects are those of sample 1, and faint-compact of sample 2.

    Returns
    -------
    ndarray of bool, shape (N,)

    Raises
    ------
    ConfigError
        If the name is not known.
    """
    if name not in POPULATIONS:
        raise ConfigError(f"there is no population {name!r}", expected=" | ".join(POPULATIONS))
    if name == "all":
        return np.ones(len(survey), bool)
    mask = survey.compactness < COMPACT_BELOW
    if name == "faint-compact":
        mask &= _mean_magnitude(survey) > FAINT_ABOVE
    if "sample" in survey.columns:
        mask &= survey.columns["sample"] == _SAMPLES[name]
    return mask


def population(survey: Survey, name: str) -> np.ndarray:
    """Return which objects belong to a population, as :func:`cut` does, and insist that there are some.

    Returns
    -------
    ndarray of bool, shape (N,)

    Raises
    ------
    ConfigError
        If the name is not known.
    DataError
        If no object belongs to it: says how many there are and what was cut on.
    """
    mask = cut(survey, name)
    if not mask.any():
        ranges = [f"compactness {_range(survey.compactness)}"]
        if name == "faint-compact":
            ranges.append(f"mean magnitude {_range(_mean_magnitude(survey))}")
        if name != "all" and "sample" in survey.columns:
            in_sample = np.count_nonzero(survey.columns["sample"] == _SAMPLES[name])
            ranges.append(f"{in_sample} in sample {_SAMPLES[name]}")
        wanted = {
            "all": "at least one object",
            "compact": f"compactness < {COMPACT_BELOW}",
            "faint-compact": f"compactness < {COMPACT_BELOW} and mean magnitude > {FAINT_ABOVE:g}",
        }
        raise DataError(
            f"population {name!r} is empty: {len(survey)} objects, {', '.join(ranges)}", expected=wanted[name]
        )
    return mask


def experiment3(survey: Survey, task: str, exclude: np.ndarray, seed: int) -> np.ndarray:
    """Choose the test set of Experiment 3: compact, faint in the reference band, balanced in magnitude.

    Candidates are compact, have an observed reference-band magnitude in (20, 23] and are not excluded. In
    each bin of 0.1 mag as many galaxies as stars are taken, as many as the scarcer class has. For ``sgq``
    as many quasars follow as there are galaxies, or all there are.

    Parameters
    ----------
    survey : Survey
        Objects to choose from.
    task : str
        ``sg`` or ``sgq``.
    exclude : ndarray of int64
        Identifiers that must not be tested on: those trained and validated on.
    seed : int
        Decides which objects of the more numerous class are taken.

    Returns
    -------
    ndarray of int64
        Rows: bin by bin galaxies, then stars; quasars last, as in the published list.

    Raises
    ------
    ConfigError
        If the task is not known.
    DataError
        If a class has no candidate, or no bin has both galaxies and stars.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}", expected=" | ".join(TASKS))
    bins = np.searchsorted(EXPERIMENT3_EDGES, survey.r_obs) - 1  # bin k is (edge k, edge k + 1]
    num_bins = len(EXPERIMENT3_EDGES) - 1
    allowed = ~np.isin(survey.objid, exclude)
    candidate = allowed & (survey.compactness < COMPACT_BELOW) & (bins >= 0) & (bins < num_bins)
    # Ranked by a hash of the identifier, so that the choice does not hang on the order of the rows.
    ranked = np.argsort(object_hash(survey.objid, seed), kind="stable")
    by_class = {name: _candidates(survey, name, candidate, allowed, ranked) for name in TASKS[task]}
    galaxies, stars = by_class["GALAXY"], by_class["STAR"]
    chosen: list[np.ndarray] = []
    for k in range(num_bins):
        in_bin = [rows[bins[rows] == k] for rows in (galaxies, stars)]
        count = min(len(rows) for rows in in_bin)
        chosen += [rows[:count] for rows in in_bin]
    per_class = sum(len(rows) for rows in chosen) // 2
    if per_class == 0:
        raise DataError(
            f"no 0.1 mag bin holds both galaxies and stars: {len(galaxies)} galaxies at observed magnitude"
            f" {_range(survey.r_obs[galaxies])}, {len(stars)} stars at {_range(survey.r_obs[stars])}",
            where="Experiment 3",
        )
    if "QSO" in by_class:
        chosen.append(by_class["QSO"][:per_class])
    return np.concatenate(chosen)


def _candidates(
    survey: Survey, name: str, candidate: np.ndarray, allowed: np.ndarray, ranked: np.ndarray
) -> np.ndarray:
    """Return the candidates of one class, best ranked first; there must be some."""
    of_class = survey.label == CLASSES.index(name)
    rows: np.ndarray = ranked[(candidate & of_class)[ranked]]
    if len(rows) == 0:
        left = of_class & allowed
        band, low, high = survey.profile.reference_band, EXPERIMENT3_EDGES[0], EXPERIMENT3_EDGES[-1]
        raise DataError(
            f"no {name} is left to test on: {np.count_nonzero(of_class)} of {len(survey)} objects are of that"
            f" class, {np.count_nonzero(left)} of them not trained on, with observed {band} magnitude"
            f" {_range(survey.r_obs[left])} and compactness {_range(survey.compactness[left])}",
            where="Experiment 3",
            expected=f"magnitude {low:g} to {high:g} and compactness < {COMPACT_BELOW}",
        )
    return rows


def _mean_magnitude(survey: Survey) -> np.ndarray:
    mean: np.ndarray = survey.magnitudes.mean(axis=1)
    return mean


def _range(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.min():.2f} to {finite.max():.2f}" if len(finite) else "unknown"
