"""A toy survey for tests of training: round sources of two or three widths, easy to tell apart."""

from __future__ import annotations

import numpy as np

from margformer_fast.data.survey import SDSS, Survey
from margformer_fast.ops.stamps import Stamps


def toy_survey(
    n: int, rng: np.random.Generator, *, classes: tuple[int, ...] = (0, 2), objid_from: int = 1
) -> Survey:
    """Make `n` objects whose class (index into CLASSES) shows in their width and their magnitude."""
    label = rng.choice(classes, n).astype(np.int8)
    label[: len(classes)] = classes
    width = np.array([3.0, 2.2, 1.5])[label] * rng.uniform(0.9, 1.1, n)
    y, x = np.mgrid[:32, :32] - 15.5
    dx, dy = rng.uniform(-1, 1, (2, n, 1, 1))
    r2 = (x - dx) ** 2 + (y - dy) ** 2
    flux = rng.uniform(5, 50, (n, 5))
    shape = np.exp(-r2 / (2 * width[:, None, None] ** 2)) / (2 * np.pi * width[:, None, None] ** 2)
    stamps = flux[:, :, None, None] * shape[:, None] + rng.normal(0, 0.01, (n, 5, 32, 32))
    magnitude = 22.5 - 2.5 * np.log10(flux) + rng.normal(0, 0.05, (n, 5)) + 0.3 * label[:, None]
    extinction = rng.uniform(0.05, 0.2, (n, 1)) * np.array(SDSS.extinction_ratios)
    radius = np.array([0.45, 0.28, 0.1])[label][:, None] * rng.uniform(0.8, 1.2, (n, 5))
    per_band = np.stack([magnitude - extinction, radius, np.full((n, 5), 1.2), extinction], axis=2)
    features = np.concatenate([per_band.reshape(n, 20), -np.diff(magnitude, axis=1)], axis=1)
    return Survey(
        profile=SDSS,
        objid=np.arange(objid_from, objid_from + n, dtype=np.int64),
        ra=rng.uniform(10, 10.2, n),
        dec=rng.uniform(0, 0.15, n),
        label=label,
        features=features,
        stamps=Stamps((stamps.astype(np.float32),)),
        simulated=True,
        provenance={"made by": "a test"},
    )
