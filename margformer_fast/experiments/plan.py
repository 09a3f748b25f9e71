"""Experiments 1-3 as data: their populations, the sizes of a run, and how a source becomes three sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..config import LVIT, FitConfig, MargNetConfig, ModelConfig
from ..data.margnet import RECIPES, is_margnet, published_experiment_split, read_margnet
from ..data.populations import experiment3, population
from ..data.splits import Split, hashed_split, object_hash, spatial_split
from ..data.store import is_store, read_store
from ..data.survey import CLASSES, TASKS, Survey
from ..errors import ConfigError, DataError

SPLITS = ("object", "margnet", "sky")
"""By object with the shares of MargFormer, or with those of MargNet, which tested on fewer objects of
Experiment 2; or into strips of sky."""

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
_FEWEST_STEPS, _SMALLEST_BATCH = 8, 16


@dataclass(frozen=True)
class Preset:
    """The size of a run.

    Parameters
    ----------
    depth : int or None
        Layers of the encoder; None for the published depth.
    dropout : bool
        Whether to drop out as published; a run of few epochs underfits and is better without.
    pretrain, finetune, refine, supervised, probe, photometry : FitConfig
        The stages; `refine` fine-tunes an encoder whose head fits it already, and `photometry` is the
        baseline that sees no image.
    runs : int
        Runs over which results are averaged.
    num_compact, num_faint : int
        Objects of the simulated survey's two samples, all classes together.
    max_train : int or None
        Training objects at most, of a simulated survey.
    max_pretrain : int or None
        Objects at most, of a simulated survey, that pre-training sees.
    margnet_dnn, margnet_cnn, margnet_head : FitConfig
        The parts of the baseline MargNet.
    margnet_width : float
        Share of the published filters of its image network.
    lvit : mapping of str to FitConfig
        Stages whose settings are others for LViT.
    lvit_dim : int or None
        Token width of LViT, a quarter of the width of its feed-forward part; None for the published one.
    """

    depth: int | None
    dropout: bool
    pretrain: FitConfig
    finetune: FitConfig
    refine: FitConfig
    supervised: FitConfig
    probe: FitConfig
    photometry: FitConfig
    runs: int
    num_compact: int
    num_faint: int
    max_train: int | None
    max_pretrain: int | None
    margnet_dnn: FitConfig
    margnet_cnn: FitConfig
    margnet_head: FitConfig
    margnet_width: float
    lvit: Mapping[str, FitConfig] = field(default_factory=dict)
    lvit_dim: int | None = None

    def fit(self, stage: str, num_objects: int, model: str = "") -> FitConfig:
        """Return the settings of a stage, of `model`, for a training set of this size.

        A stage of few epochs passes more often over a small set, until it has seen `_FEWEST_SEEN` objects,
        and cuts it into `_FEWEST_STEPS` batches at least: not in pre-training, where batches are negatives.
        """
        config: FitConfig = getattr(self, stage)
        if model == "lvit":
            config = self.lvit.get(stage, config)
        if stage != "pretrain":
            smaller = max(_SMALLEST_BATCH, num_objects // _FEWEST_STEPS)
            config = replace(config, batch_size=min(config.batch_size, smaller))
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
        if name == "lvit" and self.lvit_dim is not None:
            config = replace(config, dim=self.lvit_dim, hidden=4 * self.lvit_dim)
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
        refine=FitConfig(6, 6, 128, 5e-4, "cosine", weight_decay=1e-2, clip_norm=1.0),
        supervised=FitConfig(6, 6, 128, 2e-3, "cosine", weight_decay=1e-2, clip_norm=1.0),
        probe=FitConfig(60, 10, 256, 1e-2, "cosine"),
        photometry=FitConfig(10, 10, 128, 2e-3, "cosine", weight_decay=1e-2),
        runs=2,
        num_compact=18_000,
        num_faint=9_000,
        max_train=7_000,
        max_pretrain=18_000,
        # An eighth of the filters, or a step of the image network would take a core thirty times as long:
        # `pytest benchmarks/bench_margnet.py --benchmark-only`. Five epochs still leave it undertrained.
        # Small batches: five layers of sigmoids stay at chance for the first hundred steps.
        margnet_dnn=FitConfig(20, 20, 32, 1e-2, "cosine"),
        margnet_cnn=FitConfig(5, 5, 64, 2e-3, "cosine", clip_norm=1.0),
        margnet_head=FitConfig(200, 200, 64, 1e-2, "cosine"),
        margnet_width=0.125,
        lvit={"pretrain": FitConfig(4, 4, 256, 1e-3, "cosine", clip_norm=1.0, temperature=0.5)},
        # A quarter of the width, which is MargFormer's: the published one takes a core fifteen times as long.
        lvit_dim=64,
    ),
    # The published sizes and durations.
    "paper": Preset(
        depth=None,
        dropout=True,
        pretrain=FitConfig(300, 20, 1024, 3e-3),
        finetune=FitConfig(100, 30, 512, 1e-3),
        refine=FitConfig(100, 30, 512, 5e-4, "cosine", weight_decay=1e-2, clip_norm=1.0),
        supervised=FitConfig(300, 30, 512, 1e-3),
        probe=FitConfig(100, 10, 512, 3e-4, weight_decay=1e-4),
        photometry=FitConfig(300, 30, 512, 1e-3),
        runs=3,
        num_compact=240_000,
        num_faint=150_000,
        max_train=None,
        max_pretrain=None,
        margnet_dnn=FitConfig(4000, 100, 2048, 1e-3),
        margnet_cnn=FitConfig(300, 30, 512, 1e-3),
        margnet_head=FitConfig(100, 100, 512, 1e-3),
        margnet_width=1.0,
        lvit={
            "pretrain": FitConfig(40, 40, 256, 2e-4, "cosine", 1e-6, 1.0, temperature=0.5),
            "probe": FitConfig(30, 10, 512, 3e-4, weight_decay=1e-4),
        },
    ),
}


@dataclass(frozen=True)
class Sets:
    """The three sets of an experiment.

    Parameters
    ----------
    train, val, test : Survey
        Sets of objects, of the classes of the task alone. They are disjoint, but for test objects whose
        column ``seen`` says that they were trained or validated on; no column, no such object.
    source : str
        Where they came from, in words.
    warnings : tuple of str
        What a reader of the results must know.
    pretrain : Survey, optional
        What pre-training sees, which needs no label: the training set and all that is in no other set, faint
        and extended objects too. None is the training set alone.
    """

    train: Survey
    val: Survey
    test: Survey
    source: str
    warnings: tuple[str, ...] = ()
    pretrain: Survey | None = None


def make_sets(
    path: Path,
    experiment: int,
    task: str,
    *,
    chosen_population: str | None = None,
    split: str = "object",
    max_train: int | None = None,
    max_pretrain: int | None = None,
    unlabelled: Sequence[Path] = (),
    keep_seen: bool = False,
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
    split : {"object", "margnet", "sky"}
        The published split of the arrays, and for a store one by a hash of the object's identifier, in the
        shares of MargFormer or of MargNet; or, for a store, into strips of sky a stamp apart.
    max_train : int, optional
        Keep at most this many training objects.
    max_pretrain : int, optional
        Keep at most this many objects for pre-training, training objects first.
    unlabelled : sequence of Path
        Survey stores whose objects are pre-trained on too.
    keep_seen : bool
        For a store: build the test set of Experiment 3 of the three-class task as published, without regard
        to what was trained on. Of published arrays, whose test set is given, nothing is ever left out.

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
        sets = _from_store(path, experiment, task, chosen_population, split, keep_seen)
    elif is_margnet(path):
        if chosen_population is not None or split == "sky":
            raise ConfigError(
                "published arrays have populations and splits of their own",
                mend="Leave out --population and --split sky.",
            )
        sets = _from_margnet(path, experiment, task, split)
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
    for store in unlabelled:
        sets = _with_unlabelled(sets, store)
    if sets.pretrain is not None:
        sets = replace(sets, pretrain=_for_pretraining(sets.pretrain, sets.train, max_pretrain))
    return _mark_seen(sets)


def _for_pretraining(survey: Survey, train: Survey, most: int | None) -> Survey:
    """Keep the training set and as many of the others as are wanted, of which only a hash decides."""
    labelled = np.isin(survey.objid, train.objid)
    first = np.lexsort((object_hash(survey.objid, SPLIT_SEED), ~labelled))
    return survey.select(np.sort(first[: len(survey) if most is None else max(most, len(train))]))


def _with_unlabelled(sets: Sets, path: Path) -> Sets:
    """Pre-train on the objects of another store too, but for those that are validated or tested on."""
    survey = read_store(path)
    other_sets = np.concatenate([sets.val.objid, sets.test.objid])
    pool = sets.train if sets.pretrain is None else sets.pretrain
    wanted = ~np.isin(survey.objid, np.concatenate([pool.objid, other_sets]))
    if not wanted.any():
        raise DataError(
            f"has no object to pre-train on: its {len(survey)} objects are in the sets already",
            where=path,
        )
    warning = f"pre-training saw {wanted.sum():,} objects of {path.name}"
    return replace(sets, pretrain=pool.joined(survey.select(wanted)), warnings=(*sets.warnings, warning))


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


def _from_store(
    path: Path, experiment: int, task: str, chosen: str | None, split: str, keep_seen: bool
) -> Sets:
    survey = read_store(path)
    plan = EXPERIMENTS[experiment]
    trained_on = chosen or plan.trained_on
    base = survey.select(population(survey, trained_on))
    base = base.select(_of_task(base, task, path))
    sides = _split(base, split, experiment)
    train, val = base.select(sides.train), base.select(sides.val)
    if plan.tested_on == "experiment-3" and chosen is None:
        if split == "sky":
            raise ConfigError("--split sky does not go with --exp 3, whose test set is chosen by magnitude")
        seen = np.concatenate([train.objid, val.objid])
        # As published the set of the two-class task leaves out what that task trains on; the three-class
        # task, whose split is another, got the same set with quasars added.
        excluded = seen[:0] if keep_seen and task == "sgq" else seen
        test = survey.select(experiment3(survey, task, excluded, SPLIT_SEED))
    else:
        test = base.select(sides.test)
    kind = "simulated survey" if survey.simulated else "survey store"
    source = f"{kind} {path.name} ({len(survey):,} objects)"
    pretrain = _unlabelled_too(survey, [train, val, test, base.select(sides.test)], task, plan, chosen, split)
    return Sets(train, val, test, source, pretrain=pretrain)


def _unlabelled_too(
    survey: Survey, sets: Sequence[Survey], task: str, plan: Experiment, chosen: str | None, split: str
) -> Survey | None:
    """Return the objects of a store that are trained on, or neither validated nor tested on.

    Experiments 1 and 3 share what they train, so the test objects of both are left out of either.
    """
    train, *others = sets
    if split == "sky":  # whose strips keep a distance: what lies between them is left alone
        return None
    held_out = np.concatenate([each.objid for each in others])
    held_out = held_out[~np.isin(held_out, train.objid)]
    if plan.number == 1 and chosen is None:
        seen = np.concatenate([train.objid, others[0].objid])
        try:
            tested = survey.objid[experiment3(survey, task, seen, SPLIT_SEED)]
        except DataError:  # the store has no Experiment 3
            tested = held_out[:0]
        held_out = np.concatenate([held_out, tested])
    return survey.select(~np.isin(survey.objid, held_out))


def _mark_seen(sets: Sets) -> Sets:
    """Give the test set the column ``seen``, if one of its objects was trained or validated on."""
    test = sets.test
    seen = np.isin(test.objid, np.concatenate([sets.train.objid, sets.val.objid]))
    return replace(sets, test=replace(test, columns={**test.columns, "seen": seen})) if seen.any() else sets


def _recipe(split: str) -> str:
    return "margnet" if split == "margnet" else "margformer"


def _split(survey: Survey, split: str, experiment: int) -> Split:
    if split == "sky":
        gap = survey.stamps.size * survey.profile.pixel_scale_arcsec
        return spatial_split(survey.ra, survey.dec, 0.25, 0.15, gap_arcsec=gap)
    fractions = RECIPES[_recipe(split)][1 if experiment == 3 else experiment]
    return hashed_split(survey.objid, *fractions, SPLIT_SEED)


def _from_margnet(path: Path, experiment: int, task: str, split: str) -> Sets:
    learned = 1 if experiment == 3 else experiment
    trained = read_margnet(path, learned, task)
    sides = published_experiment_split(trained, learned, task, _recipe(split))
    train, val = trained.select(sides.train), trained.select(sides.val)
    source = f"published arrays in {path.name}"
    if experiment != 3:
        return Sets(train, val, trained.select(sides.test), source)
    return Sets(train, val, read_margnet(path, 3, task), source)
