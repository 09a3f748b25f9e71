"""A trained model as a classifier of what people have: stamps and features in, probabilities and sets out.

Shapes: N objects, C bands, S side, F features, K classes, D width of the embedding.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from . import __version__
from .data.measurements import Blocks, read_features, read_images, read_table
from .errors import ConfigError, DataError
from .evaluation.calibration import Calibration, checked_level
from .evaluation.temperature import temperature_scaled
from .flags import Flag
from .learning.checkpoint import CALIBRATION, SavedModel, load_model_directory
from .learning.device import autocast, pick_device, pick_precision
from .nn.inputs import UNMEASURED
from .ops.decode_patchify import decode_patchify
from .ops.stamps import Stamps

if TYPE_CHECKING:
    from astropy.table import Table

BATCH = 512
"""Objects that go through the network together."""

_SMALLEST_RANGE = 0.1  # magnitudes or arcseconds; a feature that was constant in training has no width
_ORDER = ("STAR", "GALAXY", "QSO")  # of columns and of names within a set

_log = logging.getLogger(__name__)


SHIPPED = Path(__file__).parent / "models"
"""Models that come with the package, each a directory; they are small and trained on simulated objects."""


def model_directory(name: str | Path) -> Path:
    """Return a model's directory: `name` itself, or that of a model that comes with the package.

    Raises
    ------
    DataError
        If there is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    shipped = sorted(each.name for each in SHIPPED.iterdir() if each.is_dir())
    if str(name) in shipped:
        return SHIPPED / str(name)
    raise DataError(
        "is no model directory", where=path, expected=f"RUN/seed-0/model, or {', '.join(shipped)}"
    )


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about N objects, in their order.

    Parameters
    ----------
    probability : ndarray of float32, shape (N, K)
        Of each class, after temperature scaling; NaN where not classified.
    label : ndarray of int64, shape (N,)
        Index of the most probable class; -1 where not classified.
    in_set : ndarray of bool, shape (N, K)
        Which classes are in the prediction set; all where not classified, not calibrated, or without
        features.
    flag : ndarray of int32, shape (N,)
        Bits of :class:`margformer_fast.flags.Flag`.
    """

    probability: np.ndarray
    label: np.ndarray
    in_set: np.ndarray
    flag: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


class Classifier:
    """A trained model.

    Parameters
    ----------
    saved : SavedModel
        From :func:`margformer_fast.learning.checkpoint.load_model_directory`; :meth:`load` does both.
    calibration : Calibration, optional
        Without one, probabilities are as the network gave them and every class is in every set.
    device : torch.device
        Where to compute.
    precision : {"fp32", "bf16"}
        Of the encoder's products.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, in the order of probabilities.
    profile : SurveyProfile
        Bands, flux unit, features and their units.
    config : ModelConfig
        Form and size of the encoder.
    simulated : bool
        Whether it was trained on simulated objects.
    calibration : Calibration or None
        Temperature and scores.
    classifies : bool
        Whether its head was trained; without, it only embeds.
    model : ScaledEncoder
        The network, on `device`.
    """

    def __init__(
        self,
        saved: SavedModel,
        calibration: Calibration | None,
        device: torch.device,
        precision: str,
    ) -> None:
        self.model = saved.model.to(device)
        self.classes, self.profile, self.config = saved.classes, saved.profile, saved.model.config
        self.simulated, self.calibration = saved.simulated, calibration
        self.device, self.precision = device, precision
        self.classifies, self._range = saved.classifies, _allowed(saved.feature_range)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "fp32") -> Self:
        """Read a model directory, ``RUN/seed-0/model`` of a run.

        Parameters
        ----------
        path : str or Path
            The directory, or ``"simulated-sg"``, which comes with the package: stars and galaxies of SDSS,
            trained on simulated objects.
        device : str
            ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision : {"fp32", "bf16", "auto"}
            Of the encoder's products; ``auto`` is bf16 on a GPU.

        Raises
        ------
        DataError
            If a file is missing or damaged.
        ConfigError
            If there is no such device or precision.
        """
        where = pick_device(device)
        path = model_directory(path)
        saved = load_model_directory(path)
        calibration = None
        if saved.calibration is not None:
            calibration = Calibration.from_dict(saved.calibration, saved.classes, path / CALIBRATION)
        elif saved.classifies:
            _log.warning(
                "%s has no %s: probabilities are as the network gave them, and every class is in every set.",
                path,
                CALIBRATION,
            )
        return cls(saved, calibration, where, pick_precision(precision, where))

    @property
    def temperature(self) -> float:
        """What logits are divided by; 1 without calibration."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def predict(
        self, images: Any, features: Any, *, level: float = 0.9, batch_size: int = BATCH
    ) -> Predictions:
        """Classify objects.

        Parameters
        ----------
        images : array-like, shape (N, C, S, S), or None
            Stamps in the survey's flux unit, bands in the order of ``profile.bands``: NumPy or masked array
            in any byte order, torch tensor, astropy Quantity (converted), or a sequence of N of them. A pixel
            without a finite value is read as empty sky, and flagged. None: there are no stamps.
        features : array-like, shape (N, F), or None
            In the order and the units of ``profile.feature_names`` and ``profile.feature_units``. For one
            that is masked, not finite or -9999 the training set's mean stands in, and it is flagged. None:
            there are no features.
        level : float
            Share of objects whose set is to hold the true class, 0.5 to 0.999.
        batch_size : int
            Objects that go through the network together; it changes time and memory, and nothing else.

        Returns
        -------
        Predictions

        Raises
        ------
        DataError
            If shapes, types or units do not fit, with the row where one row is the culprit.
        ConfigError
            If both are None, the level or the batch size is out of range, or the model's head was never
            trained.
        """
        level = checked_level(level)
        if not self.classifies:
            raise ConfigError(
                "the model's head was never trained: it only embeds",
                mend="Use embed(), or a run with --method simclr or supervised.",
            )
        logit_NK, _, flag_N = self._run(images, features, batch_size)
        known = np.isfinite(logit_NK).all(axis=1)
        probability = np.full(logit_NK.shape, np.nan, np.float32)
        probability[known] = temperature_scaled(logit_NK[known], self.temperature)
        in_set = np.ones(logit_NK.shape, bool)
        if self.calibration is None:
            flag_N |= Flag.UNCALIBRATED
        else:
            # No calibration object lacked its features: nothing is ruled out without them.
            alike = known & ((flag_N & Flag.NO_FEATURES) == 0)
            in_set[alike] = self.calibration.sets(temperature_scaled(logit_NK[alike], 1.0), level)
        label = np.where(known, np.argmax(logit_NK, axis=1), -1)
        return Predictions(probability, label.astype(np.int64), in_set, flag_N)

    def predict_proba(self, images: Any, features: Any) -> np.ndarray:
        """Return the probabilities of :meth:`predict`, float32 (N, K)."""
        return self.predict(images, features).probability

    def embed(self, images: Any, features: Any, *, batch_size: int = BATCH) -> np.ndarray:
        """Represent objects by what the head looks at.

        Parameters
        ----------
        images, features, batch_size
            As for :meth:`predict`.

        Returns
        -------
        ndarray of float32, shape (N, D)
            NaN where there is neither a feature nor a pixel.

        Raises
        ------
        DataError, ConfigError
            As :meth:`predict`, but for what concerns head and level.
        """
        return self._run(images, features, batch_size)[1]

    def classify(self, table: Any, *, level: float = 0.9, batch_size: int = BATCH) -> Table:
        """Classify the rows of a table.

        Parameters
        ----------
        table : astropy Table, pandas DataFrame or mapping of str to column
            A column for each of ``profile.feature_names`` (all or none of them), and ``stamp`` with stamps,
            as for :meth:`predict`; a column with a unit is converted. ``objid``, ``ra`` and ``dec`` are
            passed on.
        level, batch_size
            As for :meth:`predict`.

        Returns
        -------
        astropy.table.Table
            A row an object, in their order: ``objid``, ``ra``, ``dec`` (deg) if given; ``p_star``,
            ``p_galaxy``, ``p_qso``, those the model has; ``label``, the name of the class, ``""`` where not
            classified; ``prediction_set``, such as ``"STAR+GALAXY"``, ``""`` if empty; ``flag``. ``meta``
            tells the level, the flags and whether the model was trained on simulated objects.

        Raises
        ------
        DataError, ConfigError
            As :meth:`predict`; or if the table is none, or has some columns of features and lacks others.
        """
        from astropy.table import Table

        images, features, identity = read_table(table, self.profile)
        found = self.predict(images, features, level=level, batch_size=batch_size)
        order = [(name, self.classes.index(name)) for name in _ORDER if name in self.classes]
        out = Table(identity)
        for name in {"ra", "dec"} & set(out.colnames):
            out[name].unit = "deg"
        for name, k in order:
            out[f"p_{name.lower()}"] = found.probability[:, k]
        names = np.array([*self.classes, ""])
        out["label"] = names[found.label]  # -1 is the last
        sets = np.array(
            ["+".join(name for name, k in order if bits >> k & 1) for bits in range(1 << len(self.classes))]
        )
        out["prediction_set"] = sets[found.in_set @ (1 << np.arange(len(self.classes)))]
        out["flag"] = found.flag
        out.meta = {
            "LEVEL": level,
            "SIMTRAIN": self.simulated,
            "SOFTWARE": f"margformer_fast {__version__}",
            "FLAGS": ", ".join(f"{bit.value} {bit.name}" for bit in Flag),
        }
        return out

    def _run(self, images: Any, features: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return logits float64 (N, K), embeddings float32 (N, D) and flags; NaN where nothing is known."""
        if images is None and features is None:
            raise ConfigError("there are neither images nor features", expected="one of them at least")
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size!r}", expected="a whole number, 1 or more")
        pixels = None if images is None else read_images(images, self.profile, self.config.size)
        numbers = None if features is None else read_features(features, self.profile)
        if pixels is not None and numbers is not None and len(pixels) != len(numbers):
            raise DataError(
                f"{len(pixels)} images come with {len(numbers)} rows of features",
                expected="a row of features for each image, in their order",
            )
        count = len(pixels if pixels is not None else numbers or ())
        logit_NK = np.full((count, len(self.classes)), np.nan)
        embedding_ND = np.full((count, self.config.dim), np.nan, np.float32)
        flag_N = np.zeros(count, np.int32)
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            token_nPL, photometry_nF, flag = self._batch(pixels, numbers, start, stop)
            with torch.inference_mode():
                with autocast(self.device, self.precision):
                    h_nD = self.model.embed(photometry_nF, token_nPL)
                    logit_nK = self.model.head(h_nD)
                logit, h = logit_nK.double().cpu().numpy(), h_nD.float().cpu().numpy()
            # Numbers near the largest of float32 overflow within the network.
            flag[~(np.isfinite(logit).all(axis=1) & np.isfinite(h).all(axis=1))] |= Flag.NOT_CLASSIFIED
            known = (flag & Flag.NOT_CLASSIFIED) == 0
            logit_NK[start:stop][known], embedding_ND[start:stop][known] = logit[known], h[known]
            flag_N[start:stop] = flag
        return logit_NK, embedding_ND, flag_N

    def _batch(
        self, pixels: Blocks | None, numbers: Blocks | None, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Return patch tokens, features with nothing missing, and flags of rows `start` to `stop`."""
        count = stop - start
        shape = (count, len(self.profile.bands), self.config.size, self.config.size)
        pixel = np.zeros(shape, np.float32) if pixels is None else pixels.read(start, stop)
        value = (
            np.full((count, self.profile.num_features), np.nan)
            if numbers is None
            else numbers.read(start, stop, np.float64)
        )
        flag = np.zeros(count, np.int32)
        self._flag_features(value, flag)
        if pixels is None:
            flag |= Flag.NO_IMAGE | Flag.BAND_MISSING
        else:
            _flag_pixels(pixel, flag)
        nothing = Flag.NO_FEATURES | Flag.NO_IMAGE
        flag[(flag & nothing) == nothing] |= Flag.NOT_CLASSIFIED
        with np.errstate(over="ignore"):
            photometry = torch.from_numpy(value.astype(np.float32)).to(self.device)
        # Pixels without a finite value become zero here.
        token = decode_patchify(Stamps((pixel,)), patch_size=self.config.patch_size)
        return token.to(self.device), self.model.inputs.fill(photometry), flag

    def _flag_features(self, value: np.ndarray, flag: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot hold is missing to the network
            there = np.isfinite(value.astype(np.float32)) & (value != UNMEASURED)
        flag[~there.all(axis=1)] |= Flag.FEATURE_MISSING
        flag[~there.any(axis=1)] |= Flag.NO_FEATURES
        if self._range is not None:
            low, high = self._range
            outside = np.isfinite(value) & (value != UNMEASURED) & ((value < low) | (value > high))
            flag[outside.any(axis=1)] |= Flag.OUT_OF_RANGE


def _flag_pixels(pixel: np.ndarray, flag: np.ndarray) -> None:
    finite = np.isfinite(pixel)
    if finite.all():
        return
    some, whole = finite.any(axis=(2, 3)), finite.all(axis=(2, 3))
    flag[(some & ~whole).any(axis=1)] |= Flag.PIXEL_MISSING
    flag[~some.all(axis=1)] |= Flag.BAND_MISSING
    flag[~some.any(axis=1)] |= Flag.NO_IMAGE


def _allowed(feature_range: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return below and above what a feature is far outside the range (F, 2) of the training set.

    Half the width of the range beyond its ends.
    """
    if feature_range is None:
        return None
    low, high = feature_range.T
    margin = np.maximum(high - low, _SMALLEST_RANGE) / 2
    return low - margin, high + margin
