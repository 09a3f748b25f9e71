"""Which objects of the sky a spectroscopic survey has: magnitudes it reaches, and colours and sizes it picks.

Stars, galaxies and quasars of a flux-limited sky are drawn by :mod:`.stars`, :mod:`.galaxies` and
:mod:`.quasars`. A spectroscopic sample has other shares of them: fibres went to quasar candidates and
luminous red galaxies, and cuts keep what is compact. Those shares are a product of small tables, the
probability that a candidate is kept, in ``tables/selection.json``; ``benchmarks/calibrate_simulation.py``
fits and writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SELECTION = Path(__file__).parent / "tables" / "selection.json"


@dataclass(frozen=True)
class Factor:
    """One factor of the selection: a table over one or more quantities.

    Parameters
    ----------
    axes : tuple of str
        Names of the quantities.
    edges : tuple of ndarray
        Inner edges of the bins of each; what lies beyond the outermost is in the first or last bin.
    accept : ndarray
        Positive, with one bin more than edges along each axis.
    """

    axes: tuple[str, ...]
    edges: tuple[np.ndarray, ...]
    accept: np.ndarray

    def cells(self, quantities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the flat index of the cell of each object, shape (N,)."""
        places = [np.digitize(quantities[name], e) for name, e in zip(self.axes, self.edges, strict=True)]
        return np.ravel_multi_index(places, self.accept.shape)

    def __call__(self, quantities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the table at N objects, shape (N,)."""
        return self.accept.ravel()[self.cells(quantities)]


@dataclass(frozen=True)
class Selection:
    """What is kept of one class.

    Parameters
    ----------
    magnitude_edges : ndarray, shape (E,)
        Edges of bins of the observed r magnitude.
    magnitude_share : ndarray, shape (E - 1,)
        Share of the objects in each, before the cuts on measured values.
    factors : tuple of Factor
        Their product, but at most 1, is the probability to be kept, given the magnitude.
    """

    magnitude_edges: np.ndarray
    magnitude_share: np.ndarray
    factors: tuple[Factor, ...]

    def draw_r(self, rng: np.random.Generator, count: int, brightest: float) -> np.ndarray:
        """Draw observed r magnitudes fainter than `brightest`, shape (count,)."""
        edges = np.maximum(self.magnitude_edges, brightest)
        shares = self.magnitude_share * np.diff(edges) / np.diff(self.magnitude_edges)
        cumulative = np.concatenate([[0.0], np.cumsum(shares)])
        return np.interp(rng.random(count) * cumulative[-1], cumulative, edges)

    def accept(self, quantities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability to be kept, shape (N,)."""
        kept = np.ones(len(quantities["r"]))
        for factor in self.factors:
            kept *= factor(quantities)
        return np.minimum(kept, 1.0)


def to_json(selections: Mapping[str, Selection]) -> dict[str, Any]:
    """Return selections by class as JSON holds them, numbers to three digits."""

    def plain(values: np.ndarray) -> list[Any]:
        return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.3g}"))

    return {
        name: {
            "magnitude_edges": plain(one.magnitude_edges),
            "magnitude_share": plain(one.magnitude_share),
            "factors": [
                {"axes": list(f.axes), "edges": [plain(e) for e in f.edges], "accept": plain(f.accept)}
                for f in one.factors
            ],
        }
        for name, one in selections.items()
    }


def from_json(contents: Mapping[str, Any]) -> dict[str, Selection]:
    """Return selections by class from what :func:`to_json` made."""
    return {
        name: Selection(
            np.array(one["magnitude_edges"], float),
            np.array(one["magnitude_share"], float),
            tuple(
                Factor(tuple(f["axes"]), tuple(np.array(e, float) for e in f["edges"]), np.array(f["accept"]))
                for f in one["factors"]
            ),
        )
        for name, one in contents.items()
    }


@cache
def read_selection() -> dict[str, Selection]:
    """Return the selections of the SDSS spectroscopic sample that ship with the package, by class."""
    return from_json(json.loads(SELECTION.read_text(encoding="utf-8"))["classes"])
