"""Objects of a pandas DataFrame: what LSDB, Dask and Spark call on each partition."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..classifier import Classifier
from ..data.measurements import STAMP
from .stamp_column import stamps_of

if TYPE_CHECKING:
    import pandas as pd

_IDENTITY = {"objid": np.int64, "ra": np.float64, "dec": np.float64}


def classify_frame(frame: pd.DataFrame, *, model: str | Path, level: float = 0.9) -> pd.DataFrame:
    """Classify the rows of a DataFrame.

    A function for ``catalog.map_partitions(classify_frame, model=..., meta=classify_meta(model))`` of LSDB
    and Dask, and for Spark's ``mapInPandas``. A worker process reads the model once, and runs on a GPU of its
    own if it sees several.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns as for :meth:`margformer_fast.classifier.Classifier.classify`; ``stamp`` may also hold flat
        lists or bytes, see :func:`margformer_fast.catalogue.stamp_column.stamps_of`.
    model : str or Path
        A model directory, at the same place for every worker.
    level : float
        Of the prediction sets.

    Returns
    -------
    pandas.DataFrame
        A row for each row, with the same index: ``objid`` int64, ``ra`` and ``dec`` float64, if they are
        there; ``p_star``, ``p_galaxy`` and ``p_qso`` float32, those the model has; ``label`` and
        ``prediction_set`` str; ``flag`` int32. An empty frame gives an empty one of the same types.

    Raises
    ------
    DataError, ConfigError
        As :meth:`margformer_fast.classifier.Classifier.classify`.
    """
    import pandas as pd

    classifier = _model(str(model), os.getpid())
    if len(frame) == 0:
        return _empty(classifier, frame.index, [name for name in _IDENTITY if name in frame.columns])
    wanted = [*_IDENTITY, *classifier.profile.feature_names]
    columns: dict[str, Any] = {name: frame[name] for name in wanted if name in frame.columns}
    if STAMP in frame.columns:
        shape = (len(classifier.profile.bands), *2 * (classifier.config.size,))
        columns[STAMP] = stamps_of(frame[STAMP].array, shape)
    found = classifier.classify(columns, level=level)
    out = pd.DataFrame({name: np.asarray(found[name]) for name in found.colnames}, index=frame.index)
    return out.astype({name: _types(classifier)[name] for name in out.columns})


def classify_meta(model: str | Path, *, identity: tuple[str, ...] = ("objid", "ra", "dec")) -> pd.DataFrame:
    """Return the empty DataFrame that tells Dask and LSDB what :func:`classify_frame` gives.

    Parameters
    ----------
    model : str or Path
        A model directory.
    identity : tuple of str
        Which of ``objid``, ``ra`` and ``dec`` the frames have.
    """
    import pandas as pd

    return _empty(_model(str(model), os.getpid()), pd.RangeIndex(0), list(identity))


def _types(classifier: Classifier) -> dict[str, Any]:
    probabilities = {
        f"p_{name.lower()}": np.float32 for name in ("STAR", "GALAXY", "QSO") if name in classifier.classes
    }
    return {**_IDENTITY, **probabilities, "label": "str", "prediction_set": "str", "flag": np.int32}


def _empty(classifier: Classifier, index: Any, identity: list[str]) -> pd.DataFrame:
    import pandas as pd

    types = {
        name: kind for name, kind in _types(classifier).items() if name not in _IDENTITY or name in identity
    }
    return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in types.items()}).set_index(
        index[:0]
    )


@lru_cache(maxsize=4)
def _model(path: str, process: int) -> Classifier:
    """Read a model once in a process; a forked child, whose number is another, reads its own."""
    import torch

    device = "auto"
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        device = f"cuda:{process % torch.cuda.device_count()}"
    return Classifier.load(path, device=device)
