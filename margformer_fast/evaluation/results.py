"""What a run hands over to be judged: its test objects, its predictions and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError
from .explained import Explained

METHOD_NAMES = {
    "simclr": "SimCLR, fine-tuned",
    "simclr-probe": "SimCLR, frozen + probe",
    "supervised": "MargFormer, supervised",
    "images-only": "Images only",
    "photometry-only": "Photometric branch only",
    "features-only": "Boosted trees on features",
    "margnet-dnn": "MargNet DNN (features)",
    "margnet-cnn": "MargNet CNN (images)",
    "margnet": "MargNet ensemble",
    "survey-separator": "Survey separator",
}
"""How known methods are called in tables and figures; any other method is called what its run calls it."""

EXPERIMENT_NAMES = {1: "compact sources", 2: "faint and compact sources", 3: "compact sources with r > 20"}
"""What each experiment tests on."""

PROBABILITY_SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of an object may sum: float32 softmax is well inside, logits are not."""


@dataclass(frozen=True)
class TestSet:
    """The objects every run was tested on.

    Parameters
    ----------
    objid : ndarray of int64, shape (N,)
        Identifiers, in the row order of every `Outcome`.
    ra, dec : ndarray of float64, shape (N,)
        Position in degrees; NaN where unknown.
    label : ndarray of int64, shape (N,)
        True class: an index into ``RunHeader.classes``.
    r_obs : ndarray of float64, shape (N,)
        Observed r magnitude (not corrected for extinction); NaN where unknown.
    compactness : ndarray of float64, shape (N,)
        Mean over bands of deVRad / psffwhm.
    stamps_preview : ndarray of float32, shape (k, bands, size, size), optional
        Images of some of the objects, for the gallery of mistakes.
    preview_rows : ndarray of int64, shape (k,), optional
        Which objects (rows of this set) the images show; the first k if not given.
        :func:`margformer_fast.evaluation.metrics.confident_mistakes` picks the ones worth showing.
    seen : ndarray of bool, shape (N,), optional
        Which objects were trained or validated on; not given, none was.
    bands : tuple of str
        Bands of the images, in order.
    pixel_scale_arcsec : float
        Size of a pixel of the images.
    explained : Explained, optional
        What a network looked at in some of the objects.

    Raises
    ------
    DataError
        If the set is empty, columns differ in length, or images and rows do not fit together.
    """

    # Keeps pytest, which collects classes called Test*, away.
    __test__: ClassVar[bool] = False

    objid: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    label: np.ndarray
    r_obs: np.ndarray
    compactness: np.ndarray
    stamps_preview: np.ndarray | None = None
    preview_rows: np.ndarray | None = None
    seen: np.ndarray | None = None
    bands: tuple[str, ...] = ("u", "g", "r", "i", "z")
    pixel_scale_arcsec: float = 0.396
    explained: Explained | None = None

    def __post_init__(self) -> None:
        n = len(self.objid)
        if n == 0:
            raise DataError("the test set is empty", expected="at least one object")
        for name in ("ra", "dec", "label", "r_obs", "compactness"):
            shape = np.shape(getattr(self, name))
            if shape != (n,):
                raise DataError(
                    f"test column {name!r} has shape {shape}", expected=f"({n},), as many as objids"
                )
        if self.seen is not None and (np.shape(self.seen) != (n,) or np.asarray(self.seen).dtype != bool):
            raise DataError(
                f"test column 'seen' has shape {np.shape(self.seen)}", expected=f"booleans, ({n},)"
            )
        if not np.issubdtype(np.asarray(self.label).dtype, np.integer):
            raise DataError(f"test labels are {np.asarray(self.label).dtype}", expected="integers")
        if self.explained is not None and np.any((self.explained.rows < 0) | (self.explained.rows >= n)):
            raise DataError("an explained row points outside the test set", expected=f"0 to {n - 1}")
        if self.stamps_preview is None:
            return
        if self.stamps_preview.ndim != 4 or self.stamps_preview.shape[1] != len(self.bands):
            raise DataError(
                f"preview stamps have shape {self.stamps_preview.shape}",
                expected=f"(k, {len(self.bands)}, size, size), one plane for each of {', '.join(self.bands)}",
            )
        rows = self.shown_rows
        if len(rows) != len(self.stamps_preview):
            raise DataError(f"{len(self.stamps_preview)} preview stamps come with {len(rows)} rows")
        if len(rows) and (rows.min() < 0 or rows.max() >= n):
            raise DataError("a preview row points outside the test set", expected=f"0 to {n - 1}")

    def __len__(self) -> int:
        return len(self.objid)

    @property
    def shown_rows(self) -> np.ndarray:
        """Rows of the objects whose images are there, shape (k,); empty without images."""
        if self.stamps_preview is None:
            return np.empty(0, np.int64)
        if self.preview_rows is None:
            return np.arange(len(self.stamps_preview), dtype=np.int64)
        return np.asarray(self.preview_rows, np.int64)


@dataclass(frozen=True)
class CalibrationSet:
    """The objects that prediction sets are calibrated on: the validation objects of the runs.

    Parameters
    ----------
    objid : ndarray of int64, shape (M,)
        Identifiers, in the row order of ``Outcome.calibration``.
    label : ndarray of int64, shape (M,)
        True class: an index into ``RunHeader.classes``.
    r_obs : ndarray of float64, shape (M,)
        Observed r magnitude (not corrected for extinction); NaN where unknown.

    Raises
    ------
    DataError
        If the set is empty, or columns differ in length or type.
    """

    objid: np.ndarray
    label: np.ndarray
    r_obs: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.objid)
        if n == 0:
            raise DataError("the calibration set is empty", expected="at least one object")
        for name in ("label", "r_obs"):
            shape = np.shape(getattr(self, name))
            if shape != (n,):
                raise DataError(f"calibration column {name!r} has shape {shape}", expected=f"({n},)")
        if not np.issubdtype(np.asarray(self.label).dtype, np.integer):
            raise DataError(f"calibration labels are {np.asarray(self.label).dtype}", expected="integers")

    def __len__(self) -> int:
        return len(self.objid)


@dataclass(frozen=True)
class Outcome:
    """What one method predicted in one run, and how its training went.

    Parameters
    ----------
    method : str
        Name of the method: a key of `METHOD_NAMES`, or any other text.
    seed : int
        Seed of the run.
    probability : ndarray of float64, shape (N, C)
        Probability of each class for each test object, in the row order of the `TestSet`.
        A method that only decides gives 0 and 1.
    history : mapping of str to sequence of mapping
        Stage (such as ``"pretrain"`` or ``"finetune"``) to one entry an epoch with ``epoch``,
        ``train_loss``, ``val_loss``, ``seconds``, ``rate`` (objects a second) and, where it means
        something, ``val_accuracy``. A key that is missing or None is left out of the plots.
    embedding : ndarray of float32, shape (N, D), optional
        Representation of each test object.
    calibration : ndarray of float64, shape (M, C), optional
        Probability of each class for each object of the `CalibrationSet`, in its row order.
    temperature : float, optional
        From these, by :mod:`margformer_fast.evaluation.temperature`. `probability` and `calibration` are
        without it.

    Raises
    ------
    DataError
        If probabilities are not finite, not between 0 and 1, or do not sum to 1, the embedding is not
        finite or not as long, or the temperature is not above 0.
    """

    method: str
    seed: int
    probability: np.ndarray
    history: Mapping[str, Sequence[Mapping[str, float | None]]] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    calibration: np.ndarray | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        p = np.asarray(self.probability)
        where = f"method {self.method!r}, seed {self.seed}"
        _check_probabilities(p, where)
        if self.calibration is not None:
            _check_probabilities(np.asarray(self.calibration), f"{where}, calibration objects")
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise DataError(f"the temperature is {self.temperature}", where=where, expected="above 0, finite")
        if self.embedding is None:
            return
        if self.embedding.ndim != 2 or len(self.embedding) != len(p):
            raise DataError(
                f"the embedding has shape {self.embedding.shape}", where=where, expected=f"({len(p)}, D)"
            )
        if not np.isfinite(self.embedding).all():
            raise DataError("the embedding is not finite", where=where, mend="Training has diverged.")

    @property
    def decides_only(self) -> bool:
        """Whether every probability is 0 or 1, so that ranking and calibration mean nothing."""
        return bool(np.isin(self.probability, (0.0, 1.0)).all())


@dataclass(frozen=True)
class RunHeader:
    """What was trained and tested, on what, with what.

    Parameters
    ----------
    experiment : int
        1, 2 or 3.
    task : str
        ``"sg"`` or ``"sgq"``.
    classes : tuple of str
        Class names in label order.
    preset : str
        Size of the run (``"quick"``, ``"paper"``).
    protocol : str
        ``"clean"``, ``"published"`` or ``"published without ..."``.
    simulated : bool
        Whether the objects are simulated; every table and figure then says so.
    source : str
        Where the data came from, in words.
    counts : mapping of str to mapping of str to int
        Objects of each class in ``"train"``, ``"val"`` and ``"test"``.
    settings : mapping
        Resolved settings. ``"command"``, if there, is the command line that repeats the run.
    versions : mapping of str to str
        Versions of the software used.
    backends : mapping of str to str
        Operator to the implementation that ran.
    seconds : float
        Wall time of the whole run.
    warnings : sequence of str
        What the reader must know before using the numbers.
    population : str, optional
        Population trained and tested on, if it is not the experiment's own. Nothing published compares then.
    deviations : mapping of str to str
        Errors of the published recipe that the run repeats, by name, and what each is.
    """

    experiment: int
    task: str
    classes: tuple[str, ...]
    preset: str
    protocol: str
    simulated: bool
    source: str
    counts: Mapping[str, Mapping[str, int]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    backends: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: Sequence[str] = ()
    population: str | None = None
    deviations: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Experiment and task in words."""
        kind = EXPERIMENT_NAMES.get(self.experiment)
        name = f"Experiment {self.experiment}" + (f" ({kind})" if kind else "")
        if self.population is not None:
            name = f"Objects of population {self.population!r}"
        return f"{name}, {' / '.join(c.lower() if c != 'QSO' else c for c in self.classes)}"

    @property
    def kind_of_data(self) -> str:
        """``"simulated"`` or ``"real"``."""
        return "simulated" if self.simulated else "real"


def _check_probabilities(p: np.ndarray, where: str) -> None:
    """Insist on rows of probabilities, shape (N, C)."""
    if p.ndim != 2 or p.shape[1] < 2:
        raise DataError(f"probabilities have shape {p.shape}", where=where, expected="(N, classes)")
    bad = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(p)} probabilities are not finite, the first in row {bad[0]}",
            where=where,
            mend="Training has diverged or an input holds NaN.",
        )
    if p.size and (p.min() < 0 or p.max() > 1 or np.abs(p.sum(axis=1) - 1).max() > PROBABILITY_SUM_TOLERANCE):
        raise DataError(
            "the numbers given are not probabilities",
            where=where,
            expected="values from 0 to 1 that sum to 1 in each row",
            mend="Apply softmax to logits first.",
        )


def method_name(method: str) -> str:
    """Return how a method is called in tables and figures."""
    return METHOD_NAMES.get(method, method)


def slug(text: str) -> str:
    """Return `text` as part of a file name: ASCII letters, digits, dots and dashes."""
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in text).strip("-.") or "run"
    )


def by_method(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Group runs by method, methods in the order of their first run.

    Raises
    ------
    DataError
        If a method has two runs with one seed, which would count one result twice.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        runs = groups.setdefault(outcome.method, [])
        if any(run.seed == outcome.seed for run in runs):
            raise DataError(
                f"two runs have seed {outcome.seed}",
                where=f"method {outcome.method!r}",
                expected="one run a seed",
            )
        runs.append(outcome)
    return groups


def check_results(
    header: RunHeader,
    test: TestSet,
    outcomes: Sequence[Outcome],
    calibration: CalibrationSet | None = None,
) -> None:
    """Check that header, test set, outcomes and calibration set describe the same objects and classes.

    Raises
    ------
    DataError
        If there is no outcome, a label is outside the classes, numbers of rows or classes differ, two
        runs or methods cannot be told apart, or there is a calibration set and no outcome for it.
    """
    if not outcomes:
        raise DataError("there is nothing to report", expected="at least one outcome")
    _check_labels(header, test.label, "test")
    if calibration is not None:
        _check_calibration(header, outcomes, calibration)
    for outcome in outcomes:
        if outcome.probability.shape != (len(test), len(header.classes)):
            raise DataError(
                f"probabilities have shape {outcome.probability.shape}",
                where=f"method {outcome.method!r}, seed {outcome.seed}",
                expected=f"{(len(test), len(header.classes))}: test objects, classes",
            )
    names: dict[str, str] = {}
    for method in by_method(outcomes):
        other = names.setdefault(slug(method), method)
        if other != method:
            raise DataError(
                f"methods {other!r} and {method!r} would have the same file names", mend="Rename one of them."
            )


def _check_labels(header: RunHeader, label: np.ndarray, what: str) -> None:
    label = np.asarray(label)
    bad = np.flatnonzero((label < 0) | (label >= len(header.classes)))
    if len(bad):
        raise DataError(
            f"{len(bad)} {what} labels are outside the task, the first {label[bad[0]]} in row {bad[0]}",
            expected=f"0 to {len(header.classes) - 1} ({', '.join(header.classes)})",
        )


def _check_calibration(header: RunHeader, outcomes: Sequence[Outcome], calibration: CalibrationSet) -> None:
    _check_labels(header, calibration.label, "calibration")
    expected = (len(calibration), len(header.classes))
    there = [(outcome, outcome.calibration) for outcome in outcomes if outcome.calibration is not None]
    if not there:
        raise DataError(
            "there is a calibration set, but no outcome has its probabilities",
            mend="Give at least one Outcome its `calibration`, or leave the set out.",
        )
    for outcome, probability in there:
        if probability.shape != expected:
            raise DataError(
                f"calibration probabilities have shape {probability.shape}",
                where=f"method {outcome.method!r}, seed {outcome.seed}",
                expected=f"{expected}: calibration objects, classes",
            )
