"""Experiments 1-3 as data: their populations, the sizes of a run, and how a source becomes three sets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .config import LVIT, FitConfig, MargNetConfig, ModelConfig
from .data.margnet import is_margnet, published_experiment_split, read_margnet
from .data.populations import experiment3, population
from .data.splits import Split, hashed_split, object_hash, spatial_split
from .data.store import is_store, read_store
from .data.survey import CLASSES, TASKS, Survey
from .errors import ConfigError, DataError

TEST_FRACTION, VAL_FRACTION = 0.125, 0.1428
"""Shares of the published splits: of all objects, and of those that are left."""

SPLIT_SEED = 0
"""Splits do not follow the seed of a run, so that runs with different seeds share their test objects."""


@dataclass(frozen=True)
class Experiment:
    """One of the three published experiments.

    Parameters
    ----------
    number : int
        1, 2 or 3.
    question : str
        What it asks.
    trained_on : str
        Population of the training and validation objects.
    tested_on : str
        Population of the test objects; "experiment-3" is the published magnitude-balanced set.
    """

    number: int
    question: str
    trained_on: str
    tested_on: str


EXPERIMENTS = {
    1: Experiment(1, "How well are compact sources told apart?", "compact", "compact"),
    2: Experiment(2, "And compact sources that are faint as well?", "faint-compact", "faint-compact"),
    3: Experiment(
        3, "Does what was learned on compact sources hold for faint ones?", "compact", "experiment-3"
    ),
}

MODELS = {
    "margformer-64": ModelConfig(slots=64),
    "margformer-128": ModelConfig(slots=128),
    "lvit": LVIT,
}
"""The published forms of the encoder."""

_FEWEST_SEEN, _MOST_EXTRA_EPOCHS = 32_000, 60


@dataclass(frozen=True)
class Preset:
    """The size of a run.

    Parameters
    ----------
    depth : int or None
        Layers of the encoder; None for the published depth.
    dropout : bool
        Whether to drop out as published; a run of few epochs underfits and is better without.
    pretrain, finetune, supervised, probe, photometry : FitConfig
        The stages; the last is the baseline that sees no image.
    runs : int
        Runs over which results are averaged.
    num_compact, num_faint : int
        Objects of the simulated survey's two samples, all classes together.
    max_train : int or None
        Training objects at most, of a simulated survey.
    margnet_dnn, margnet_cnn, margnet_head : FitConfig
        The parts of the baseline MargNet.
    margnet_width : float
        Share of the published filters of its image network.
    """

    depth: int | None
    dropout: bool
    pretrain: FitConfig
    finetune: FitConfig
    supervised: FitConfig
    probe: FitConfig
    photometry: FitConfig
    runs: int
    num_compact: int
    num_faint: int
    max_train: int | None
    margnet_dnn: FitConfig
    margnet_cnn: FitConfig
    margnet_head: FitConfig
    margnet_width: float

    def fit(self, stage: str, num_objects: int) -> FitConfig:
        """Return the settings of a stage for a training set of this size.

        A stage of few epochs passes more often over a small set, until it has seen `_FEWEST_SEEN` objects.
        """
        config: FitConfig = getattr(self, stage)
        wanted = min(math.ceil(_FEWEST_SEEN / num_objects), _MOST_EXTRA_EPOCHS)
        if config.max_epochs >= wanted:
            return config
        return replace(config, max_epochs=wanted, patience=max(config.patience, wanted // 3))

    def model(self, name: str, survey: Survey) -> ModelConfig:
        """Return the settings of model `name` at this size, for the bands and features of `survey`."""
        config = replace(
            MODELS[name],
            size=survey.stamps.size,
            num_bands=len(survey.profile.bands),
            num_features=survey.profile.num_features,
        )
        if self.depth is not None:
            config = replace(config, depth=self.depth)
        return config if self.dropout else replace(config, dropout=0.0, photometry_dropout=0.0)

    def margnet(self, survey: Survey) -> MargNetConfig:
        """Return the settings of MargNet at this size, for the bands and features of `survey`."""
        config = MargNetConfig(
            size=survey.stamps.size,
            num_bands=len(survey.profile.bands),
            num_features=survey.profile.num_features,
            width=self.margnet_width,
        )
        return config if self.dropout else replace(config, dropout=0.0)


PRESETS = {
    # Sized so that two runs take minutes on two cores.
    "quick": Preset(
        depth=4,
        dropout=False,
        pretrain=FitConfig(4, 4, 256, 3e-3, "cosine", clip_norm=1.0),
        finetune=FitConfig(6, 6, 128, 2e-3, "cosine", weight_decay=1e-2, clip_norm=1.0),
        supervised=FitConfig(6, 6, 128, 2e-3, "cosine", weight_decay=1e-2, clip_norm=1.0),
        probe=FitConfig(60, 10, 256, 1e-2, "cosine"),
        photometry=FitConfig(10, 10, 128, 2e-3, "cosine", weight_decay=1e-2),
        runs=2,
        num_compact=18_000,
        num_faint=9_000,
        max_train=7_000,
        # An eighth of the filters, or a step of the image network would take a core thirty times as long:
        # `pytest benchmarks/bench_margnet.py --benchmark-only`. Five epochs still leave it undertrained.
        # Small batches: five layers of sigmoids stay at chance for the first hundred steps.
        margnet_dnn=FitConfig(20, 20, 32, 1e-2, "cosine"),
        margnet_cnn=FitConfig(5, 5, 64, 2e-3, "cosine", clip_norm=1.0),
        margnet_head=FitConfig(200, 200, 64, 1e-2, "cosine"),
        margnet_width=0.125,
    ),
    # The published sizes and durations.
    "paper": Preset(
        depth=None,
        dropout=True,
        pretrain=FitConfig(300, 20, 1024, 3e-3),
        finetune=FitConfig(100, 30, 512, 1e-3),
        supervised=FitConfig(300, 30, 512, 1e-3),
        probe=FitConfig(100, 10, 512, 3e-4, weight_decay=1e-4),
        photometry=FitConfig(300, 30, 512, 1e-3),
        runs=3,
        num_compact=240_000,
        num_faint=150_000,
        max_train=None,
        margnet_dnn=FitConfig(4000, 100, 2048, 1e-3),
        margnet_cnn=FitConfig(300, 30, 512, 1e-3),
        margnet_head=FitConfig(100, 100, 512, 1e-3),
        margnet_width=1.0,
    ),
}


@dataclass(frozen=True)
class Sets:
    """The three sets of an experiment.

    Parameters
    ----------
    train, val, test : Survey
        Disjoint sets of objects, of the classes of the task alone.
    source : str
        Where they came from, in words.
    warnings : tuple of str
        What a reader of the results must know.
    """

    train: Survey
    val: Survey
    test: Survey
    source: str
    warnings: tuple[str, ...] = ()


def make_sets(
    path: Path,
    experiment: int,
    task: str,
    *,
    chosen_population: str | None = None,
    split: str = "object",
    max_train: int | None = None,
) -> Sets:
    """Make the sets of an experiment from a survey store or a directory of published arrays.

    Parameters
    ----------
    path : Path
        A survey store, or a directory with MargNet's arrays, whose published split is then used.
    experiment : int
        1, 2 or 3.
    task : str
        ``sg`` or ``sgq``. Objects of other classes are left out.
    chosen_population : str, optional
        Train and test on this population instead of the experiment's own.
    split : {"object", "sky"}
        For a store: by a hash of the object's identifier, or into strips of sky a stamp apart.
    max_train : int, optional
        Keep at most this many training objects.

    Returns
    -------
    Sets

    Raises
    ------
    ConfigError
        If options contradict each other.
    DataError
        If the data cannot be read, or a set would be empty.
    """
    if is_store(path):
        sets = _from_store(path, experiment, task, chosen_population, split)
    elif is_margnet(path):
        if chosen_population is not None or split != "object":
            raise ConfigError(
                "published arrays have populations and splits of their own",
                mend="Leave out --population and --split.",
            )
        sets = _from_margnet(path, experiment, task)
    else:
        raise DataError(
            "is neither a survey store nor a directory of published arrays"
            if path.exists()
            else "does not exist",
            where=path,
            expected="survey.json, or X_exp1.npy and its companions",
            mend="Make a store with `python -m margformer_fast.data`.",
        )
    if max_train is not None and len(sets.train) > max_train:
        ranked = np.argsort(object_hash(sets.train.objid, SPLIT_SEED), kind="stable")
        warning = f"{max_train:,} of {len(sets.train):,} training objects were used"
        train = sets.train.select(np.sort(ranked[:max_train]))
        sets = replace(sets, train=train, warnings=(*sets.warnings, warning))
    return sets


def _of_task(survey: Survey, task: str, where: Path) -> np.ndarray:
    """Return which objects have a class of the task; there must be some."""
    mask = np.isin(survey.label, [CLASSES.index(name) for name in TASKS[task]])
    if not mask.any():
        raise DataError(
            f"none of the {len(survey):,} objects has a label of the task",
            where=where,
            expected=" | ".join(TASKS[task]),
        )
    return mask


def _from_store(path: Path, experiment: int, task: str, chosen: str | None, split: str) -> Sets:
    survey = read_store(path)
    plan = EXPERIMENTS[experiment]
    trained_on = chosen or plan.trained_on
    base = survey.select(population(survey, trained_on))
    base = base.select(_of_task(base, task, path))
    sides = _split(base, split)
    train, val = base.select(sides.train), base.select(sides.val)
    if plan.tested_on == "experiment-3" and chosen is None:
        if split == "sky":
            raise ConfigError("--split sky does not go with --exp 3, whose test set is chosen by magnitude")
        seen = np.concatenate([train.objid, val.objid])
        test = survey.select(experiment3(survey, task, seen, SPLIT_SEED))
    else:
        test = base.select(sides.test)
    kind = "simulated survey" if survey.simulated else "survey store"
    return Sets(train, val, test, f"{kind} {path.name} ({len(survey):,} objects)")


def _split(survey: Survey, split: str) -> Split:
    if split == "sky":
        gap = survey.stamps.size * survey.profile.pixel_scale_arcsec
        return spatial_split(survey.ra, survey.dec, 0.25, 0.15, gap_arcsec=gap)
    return hashed_split(survey.objid, TEST_FRACTION, VAL_FRACTION, SPLIT_SEED)


def _from_margnet(path: Path, experiment: int, task: str) -> Sets:
    trained = read_margnet(path, 1 if experiment == 3 else experiment, task)
    sides = published_experiment_split(trained, 1 if experiment == 3 else experiment, task)
    train, val = trained.select(sides.train), trained.select(sides.val)
    source, warnings = f"published arrays in {path.name}", []
    if experiment != 3:
        return Sets(train, val, trained.select(sides.test), source)
    tested = read_margnet(path, 3, task)
    leaked = np.isin(tested.objid, np.concatenate([train.objid, val.objid]))
    if leaked.any():
        warnings.append(
            f"{leaked.sum():,} of {len(tested):,} published test objects were trained or validated on, "
            "and are left out"
        )
    return Sets(train, val, tested.select(~leaked), source, tuple(warnings))
