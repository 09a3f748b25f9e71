"""What a survey is: its bands and features, and a set of its objects."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DataError
from ..ops.stamps import Stamps

CLASSES = ("GALAXY", "QSO", "STAR")
"""Class names; labels are indices into this tuple, in the alphabetical order of the published work."""

UNKNOWN = -1
"""Label of an object whose class is not known."""

TASKS = {"sg": ("GALAXY", "STAR"), "sgq": ("GALAXY", "QSO", "STAR")}
"""Classes of each task, in label order."""


@dataclass(frozen=True)
class SurveyProfile:
    """Bands, scales and feature names of one survey.

    Parameters
    ----------
    name : str
        Short name, written into stores.
    bands : tuple of str
        Bands from blue to red; the order of planes in a stamp.
    reference_band : str
        The band whose magnitude stands for brightness.
    pixel_scale_arcsec : float
        Size of a pixel.
    stamp_size : int
        Side of a stamp in pixels.
    zero_point : float
        Magnitude of one flux unit.
    flux_unit : str
        Unit of a pixel, as FITS BUNIT.
    extinction_ratios : tuple of float
        Extinction in each band relative to the reference band.
    """

    name: str
    bands: tuple[str, ...]
    reference_band: str
    pixel_scale_arcsec: float
    stamp_size: int
    zero_point: float
    flux_unit: str
    extinction_ratios: tuple[float, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the photometric features: four per band, then the colours of neighbouring bands."""
        per_band = [
            f"{kind}_{b}" for b in self.bands for kind in ("dered", "deVRad", "psffwhm", "extinction")
        ]
        colours = [f"{a}_{b}" for a, b in zip(self.bands, self.bands[1:], strict=False)]
        return (*per_band, *colours)

    @property
    def feature_units(self) -> tuple[str, ...]:
        """Their units, as FITS TUNIT: ``"mag"``, and ``"arcsec"`` of radii and seeing."""
        return tuple(
            "arcsec" if name.startswith(("deVRad_", "psffwhm_")) else "mag" for name in self.feature_names
        )

    @property
    def num_features(self) -> int:
        """Number of photometric features: 24 for five bands."""
        return 5 * len(self.bands) - 1


# Extinction for E(B-V) = 1 of both surveys: Schlafly & Finkbeiner (2011, ApJ 737, 103), R_V = 3.1. The ratios
# in the published Experiment-3 features are those of SDSS to six digits.
_SDSS_EXTINCTION = (4.239, 3.303, 2.285, 1.698, 1.263)
SDSS = SurveyProfile(
    "sdss",
    tuple("ugriz"),
    "r",
    0.396,
    32,
    22.5,
    "nanomaggy",
    tuple(k / _SDSS_EXTINCTION[2] for k in _SDSS_EXTINCTION),
)
LSST = SurveyProfile(
    "lsst", tuple("ugrizy"), "r", 0.2, 32, 31.4, "nJy", (1.812, 1.415, 1.0, 0.718, 0.556, 0.479)
)
PROFILES = {profile.name: profile for profile in (SDSS, LSST)}


@dataclass(frozen=True)
class Survey:
    """Objects of a survey: what every reader returns and every learner takes.

    Parameters
    ----------
    profile : SurveyProfile
        Bands and features.
    objid : ndarray of int64, shape (N,)
        Identifiers, unique.
    ra, dec : ndarray of float64, shape (N,)
        Position in degrees (ICRS); NaN where unknown.
    label : ndarray of int8, shape (N,)
        Index into `CLASSES`, or `UNKNOWN`.
    features : ndarray of float64, shape (N, F)
        Photometric features in the order of ``profile.feature_names`` (magnitudes, arcseconds).
    stamps : Stamps
        The N images.
    simulated : bool
        Whether the objects are simulated. Every number made from them says so.
    provenance : mapping
        How the set was made; JSON-able.
    columns : mapping of str to ndarray of shape (N,)
        Further per-object columns, such as ``sample`` or ``field``.
    """

    profile: SurveyProfile
    objid: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    label: np.ndarray
    features: np.ndarray
    stamps: Stamps
    simulated: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.objid)
        rows: dict[str, Sized] = {
            "ra": self.ra,
            "dec": self.dec,
            "label": self.label,
            "features": self.features,
            "stamps": self.stamps,
        }
        for name, column in {**rows, **self.columns}.items():
            if len(column) != n:
                raise DataError(f"column {name!r} has {len(column)} rows", expected=f"{n}, as many as objids")
        if self.features.shape != (n, self.profile.num_features):
            raise DataError(
                f"features have shape {self.features.shape}", expected=f"{(n, self.profile.num_features)}"
            )
        if self.stamps.num_bands != len(self.profile.bands):
            raise DataError(
                f"stamps have {self.stamps.num_bands} bands",
                expected=f"{len(self.profile.bands)} ({''.join(self.profile.bands)})",
            )

    def __len__(self) -> int:
        return len(self.objid)

    def select(self, which: np.ndarray) -> Survey:
        """Return the objects at `which` (indices or a mask), in that order; no pixel is copied."""
        which = np.asarray(which)
        rows = np.flatnonzero(which) if which.dtype == bool else which.astype(np.int64)
        return replace(
            self,
            objid=self.objid[rows],
            ra=self.ra[rows],
            dec=self.dec[rows],
            label=self.label[rows],
            features=self.features[rows],
            stamps=self.stamps.select(rows),
            columns={name: column[rows] for name, column in self.columns.items()},
        )

    def joined(self, other: Survey) -> Survey:
        """Return these objects and then others of the same survey; no pixel is copied.

        Columns that only one side has are left out.

        Raises
        ------
        DataError
            If the other survey has other bands, other stamps, or an object of this one.
        """
        if other.profile != self.profile:
            raise DataError(f"a survey {other.profile.name} is to be joined", expected=self.profile.name)
        if (other.stamps.size, other.stamps.scaling) != (self.stamps.size, self.stamps.scaling):
            raise DataError(
                f"stamps of side {other.stamps.size} with {other.stamps.scaling} are to be joined",
                expected=f"side {self.stamps.size} with {self.stamps.scaling}",
            )
        twice = np.intersect1d(self.objid, other.objid)
        if len(twice):
            raise DataError(f"{len(twice)} objects are on both sides, the first has objid {twice[0]}")
        return replace(
            self,
            objid=np.concatenate([self.objid, other.objid]),
            ra=np.concatenate([self.ra, other.ra]),
            dec=np.concatenate([self.dec, other.dec]),
            label=np.concatenate([self.label, other.label]),
            features=np.concatenate([self.features, other.features]),
            stamps=self.stamps.joined(other.stamps),
            simulated=self.simulated or other.simulated,
            columns={
                name: np.concatenate([column, other.columns[name]])
                for name, column in self.columns.items()
                if name in other.columns
            },
        )

    def feature(self, kind: str, band: str) -> np.ndarray:
        """Return one per-band feature (``dered``, ``deVRad``, ``psffwhm`` or ``extinction``), shape (N,)."""
        return self.features[:, self.profile.feature_names.index(f"{kind}_{band}")]

    def _per_band(self, kind: str) -> np.ndarray:
        return np.stack([self.feature(kind, band) for band in self.profile.bands], axis=1)

    @property
    def magnitudes(self) -> np.ndarray:
        """Model magnitudes as observed, not dereddened, shape (N, bands)."""
        return self._per_band("dered") + self._per_band("extinction")

    @property
    def r_obs(self) -> np.ndarray:
        """Observed model magnitude in the reference band, shape (N,)."""
        band = self.profile.reference_band
        return self.feature("dered", band) + self.feature("extinction", band)

    @property
    def compactness(self) -> np.ndarray:
        """Mean over bands of deVRad / psffwhm, shape (N,); below 0.5 is compact in the published cuts."""
        return (self._per_band("deVRad") / self._per_band("psffwhm")).mean(axis=1)
