"""What a network looked at in some test objects, as arrays, and which objects are worth asking about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .metrics import predict

EXPLAINED_OBJECTS = 6


@dataclass(frozen=True)
class Explained:
    """Maps over the patches of some test objects, for one run of one method.

    Parameters
    ----------
    method : str
        As in `Outcome`.
    seed : int
        Seed of the run.
    rows : ndarray of int64, shape (k,)
        Which test objects.
    stamps : ndarray of float32, shape (k, bands, size, size)
        Their images, in the survey's flux unit.
    occlusion : ndarray of float64, shape (k, side, side)
        How much the log-odds of the predicted class fall when a patch is empty sky; `side` patches a side,
        first axis y. Below zero where the patch spoke against the class.
    attention : ndarray of float64, shape (k, side, side), or None
        Share of each patch in what the photometric token read in the last layer; None for an encoder that
        has no such token. The shares of an object sum to 1 less that of the photometry itself.

    Raises
    ------
    DataError
        If shapes do not fit together.
    """

    method: str
    seed: int
    rows: np.ndarray
    stamps: np.ndarray
    occlusion: np.ndarray
    attention: np.ndarray | None = None

    def __post_init__(self) -> None:
        k, side = len(self.rows), self.occlusion.shape[-1]
        maps = [self.occlusion] + ([] if self.attention is None else [self.attention])
        if self.stamps.ndim != 4 or len(self.stamps) != k or any(m.shape != (k, side, side) for m in maps):
            shapes = ", ".join(str(array.shape) for array in (self.stamps, *maps))
            raise DataError(
                f"stamps and maps of {k} objects have shapes {shapes}",
                expected=f"({k}, bands, size, size) and ({k}, side, side)",
            )


def objects_to_explain(
    label: np.ndarray, probability: np.ndarray, count: int = EXPLAINED_OBJECTS
) -> np.ndarray:
    """Choose objects of each class, some right and one wrong, by rule rather than by eye.

    Of each class as many as there is room for: the most confident mistake, and of the objects that are right
    those at evenly spaced quantiles of confidence (the median, if it is one).

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        True class indices.
    probability : ndarray of float, shape (N, C)
        Predicted probabilities.
    count : int
        At most so many objects.

    Returns
    -------
    ndarray of int64, shape (at most count,)
        Rows, class by class, the wrong one last.
    """
    called, confidence = predict(probability), probability.max(axis=1)
    there = [k for k in range(probability.shape[1]) if np.any(label == k)]
    chosen: list[int] = []
    for k in there:
        room = count // len(there)
        wrong = np.flatnonzero((label == k) & (called != k))
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][: min(1, max(room - 1, 0))]
        right = np.flatnonzero((label == k) & (called == k))
        right = right[np.argsort(confidence[right], kind="stable")]
        wanted = min(room - len(wrong), len(right))
        at = (np.arange(wanted) + 0.5) / max(wanted, 1) * len(right)
        chosen += [*right[at.astype(np.int64)], *wrong]
    return np.array(chosen, np.int64)
