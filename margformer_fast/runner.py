"""One experiment from data to report: runs, methods, baselines, and a directory that explains itself."""

from __future__ import annotations

import math
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .backends import operators
from .config import AugmentConfig, FitConfig, ModelConfig
from .data.splits import object_hash
from .data.survey import TASKS, Survey
from .errors import ConfigError, DataError, OutputError
from .evaluation import seen
from .evaluation.attention import explain
from .evaluation.baselines import decisions, features_only, survey_separator
from .evaluation.calibration import Calibration
from .evaluation.explained import Explained, objects_to_explain
from .evaluation.metrics import confident_mistakes
from .evaluation.model_card import AboutModel, model_card, model_metrics
from .evaluation.report import ReportPaths, write_report
from .evaluation.results import CalibrationSet, Outcome, RunHeader, TestSet
from .evaluation.temperature import fit_temperature, logits_of
from .experiments import PRESETS, Sets
from .files import atomic_directory, atomic_file, read_record, write_json
from .learning.balance import MagnitudeBalance
from .learning.checkpoint import load_model, save_model
from .learning.classify import predict, train_classifier
from .learning.distributed import current
from .learning.head import fit_head
from .learning.margnet import CNN, DNN, ENSEMBLE, MargNetFit, predict_margnet, train_margnet
from .learning.pretrain import pretrain
from .learning.probe import probabilities, train_probe
from .learning.samples import Samples
from .nn.inputs import ScaledEncoder
from .protocol import (
    SEED_OF_VALIDATION_PART,
    Protocol,
    deviations,
    differences,
    make_protocol,
    protocol_title,
)
from .reference.random import derive_seed

_PREVIEWS = 24
_FEWEST_JUDGED = 25
"""Validation objects of each class at least, where few labels are used: an epoch is chosen by them."""


@dataclass(frozen=True)
class RunSettings:
    """What is run; written to ``run.json`` and compared when a run is resumed.

    Parameters
    ----------
    experiment : int
        1, 2 or 3.
    task : str
        ``sg`` or ``sgq``.
    method : str
        ``simclr``, ``simclr-probe`` or ``supervised``.
    model : str
        A key of :data:`margformer_fast.experiments.MODELS`.
    preset : str
        A key of :data:`margformer_fast.experiments.PRESETS`.
    runs, seed : int
        Seeds are ``seed``, ``seed + 1``, ...
    precision : str
        ``fp32`` or ``bf16``.
    pretrain_photometry : str
        See :data:`margformer_fast.learning.pretrain.PHOTOMETRY`.
    probe : str
        Kind of the probe after SimCLR.
    baselines : tuple of str
        From ``features``, ``images`` and ``margnet``.
    data : str
        Source of the objects, in words.
    population, split : str
        As for :func:`margformer_fast.experiments.make_sets`; the experiment's own population is "experiment".
    init : str
        Directory of the saved model to start from; empty for fresh weights.
    protocol : str
        ``clean`` or ``published``.
    without : tuple of str
        Errors of the published recipe that are mended; see :data:`margformer_fast.protocol.ERRORS`.
    balance : str
        ``magnitude``: labelled training weighs classes alike at every magnitude, see
        :class:`margformer_fast.learning.balance.MagnitudeBalance`; or ``none``.
    unlabelled : tuple of str
        Survey stores whose objects are pre-trained on too.
    labels : float
        Share of the training and validation objects whose labels are used, above 0 and at most 1; SimCLR
        pre-trains on all.
    """

    experiment: int
    task: str
    method: str
    model: str
    preset: str
    runs: int
    seed: int
    precision: str
    pretrain_photometry: str
    probe: str
    baselines: tuple[str, ...]
    data: str
    population: str
    split: str
    init: str
    protocol: str = "clean"
    without: tuple[str, ...] = ()
    balance: str = "none"
    labels: float = 1.0
    unlabelled: tuple[str, ...] = ()

    @property
    def errors(self) -> Protocol:
        """The errors of the published recipe that are repeated."""
        return make_protocol(self.protocol, self.without)

    @property
    def deviations(self) -> dict[str, str]:
        """Those of them that can change a number of this run, and what they are."""
        return deviations(
            self.errors,
            experiment=self.experiment,
            method=self.method,
            model=self.model,
            baselines=self.baselines,
        )


@dataclass(frozen=True)
class Result:
    """What a run found, and where its report is.

    Parameters
    ----------
    header : RunHeader
        What was run on what.
    test : TestSet
        The objects tested on.
    outcomes : list of Outcome
        One for each method and run.
    paths : ReportPaths
        The report's files.
    """

    header: RunHeader
    test: TestSet
    outcomes: list[Outcome]
    paths: ReportPaths


def open_directory(path: Path, settings: RunSettings, *, resume: bool, parts: int | None = None) -> int:
    """Make a run directory, or check that an existing one was made with the same settings.

    Parameters
    ----------
    path : Path
        The directory.
    settings : RunSettings
        What is to be run there.
    resume : bool
        Whether it is there already.
    parts : int, optional
        Into how many parts batches are to be cut (:class:`margformer_fast.learning.distributed.World`); as at
        the first start, and then one for each rank, by default.

    Returns
    -------
    int
        Into how many they are to be cut.

    Raises
    ------
    OutputError
        If `path` exists and is not to be resumed, or is there but not a run.
    DataError
        If it was made with other settings.
    """
    record = path / "run.json"
    if not resume:
        if path.exists():
            raise OutputError(
                "already exists", where=path, mend="Continue it with --resume, or choose another --out."
            )
        parts = parts or current().size
        # Made whole: a directory without its record could be neither begun nor resumed.
        with atomic_directory(path) as temporary:
            write_json(
                temporary / record.name,
                {"version": __version__, "settings": asdict(settings), "parts": parts},
            )
        return parts
    found = read_record(record, "settings", mend="Choose another --out.")
    before = found["settings"]
    now = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    changed = sorted(key for key in now if before.get(key) != now[key])
    if changed:
        raise DataError(
            "was started with other settings: "
            + ", ".join(f"{k} {before.get(k)!r}, now {now[k]!r}" for k in changed),
            where=path,
            mend="Resume with the settings of the first start, or choose another --out.",
        )
    first = found.get("parts", 1)
    if type(first) is not int or first < 1:
        raise DataError(
            f"parts is {first!r}", where=record, expected="1 or more", mend="Choose another --out."
        )
    if parts not in (None, first):
        raise DataError(
            f"was started with batches cut into {first} parts, now {parts}",
            where=path,
            mend="Resume without --parts, or choose another --out.",
        )
    return first


def adopt(
    directory: Path, settings: RunSettings, source: Path, stages: Collection[str] | None = None
) -> None:
    """Take over the finished stages of another run, so that what it trained is not trained again.

    Stages are a function of the training set, the seed and the settings, so this changes no result. An
    Experiment 3 takes over all of an Experiment 1, whose training set it shares.

    Parameters
    ----------
    directory : Path
        Of this run, made by :func:`open_directory`. What it has already is left as it is.
    settings : RunSettings
        Of this run.
    source : Path
        The directory of the other run.
    stages : collection of str, optional
        Names of the stages to take over; all by default.

    Raises
    ------
    DataError
        If the other run has no record, or was made with settings by which its stages differ.
    OutputError
        If a checkpoint cannot be copied.
    """
    before = read_record(source / "run.json", "settings", mend="Make that run again.")["settings"]
    ignored = {"experiment"} if settings.experiment == 3 and before.get("experiment") == 1 else set()
    if stages is not None:
        ignored |= {"without", "balance", "labels"}
    now = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    # What is counted in Experiment 3 changes no stage.
    for values in (before, now):
        values["without"] = [name for name in values.get("without", []) if name != "leaked_objects"]
    changed = sorted(key for key in now if key not in ignored and before.get(key) != now[key])
    if changed:
        raise DataError(
            "its models cannot be taken over, it was made with other settings: "
            + ", ".join(f"{k} {before.get(k)!r}, here {now[k]!r}" for k in changed),
            where=source,
            mend="Make both runs with the same options.",
        )
    for run in range(settings.runs):
        place = directory / f"seed-{settings.seed + run}"
        for file in sorted((source / place.name).glob("*.safetensors")):
            if (stages is None or file.stem in stages) and not (place / file.name).exists():
                place.mkdir(exist_ok=True)
                with atomic_file(place / file.name) as temporary:
                    shutil.copyfile(file, temporary)


def run_experiment(
    directory: Path,
    settings: RunSettings,
    sets: Sets,
    device: torch.device,
    arguments: Sequence[str] | None = None,
) -> Result | None:
    """Train, test and report; a stage whose checkpoint is complete is not trained again.

    Of several ranks (:mod:`margformer_fast.learning.distributed`) all call this; the first alone writes, runs
    what is not trained together, and reports.

    Parameters
    ----------
    directory : Path
        Made by :func:`open_directory`.
    settings : RunSettings
        What to run.
    sets : Sets
        On what.
    device : torch.device
        Where.
    arguments : sequence of str, optional
        Arguments of the training command that repeats the run, for the report; by default those of the
        process.

    Returns
    -------
    Result or None
        None on all ranks but the first.

    Raises
    ------
    DataError
        If a set cannot be learned from, or training diverges.
    OutputError
        If a result cannot be written; what was complete before is kept.
    """
    started = time.monotonic()
    classes = TASKS[settings.task]
    train, val, test = (
        Samples(survey, classes, device, name)
        for survey, name in ((sets.train, "training"), (sets.val, "validation"), (sets.test, "test"))
    )
    for samples in (train, val, test):
        samples.require_classes()
    pool = train
    if sets.pretrain is not None and settings.method != "supervised" and settings.protocol == "clean":
        pool = Samples(sets.pretrain, classes, device, "pre-training")
    outcomes: list[Outcome] = []
    for run in range(settings.runs):
        seed = settings.seed + run
        place = directory / f"seed-{seed}"
        if current().is_main:
            place.mkdir(exist_ok=True)
        outcomes += _learn(place, settings, pool, train, val, test, seed, f"run {run + 1}/{settings.runs}")
    if not current().is_main:
        return None
    warnings = list(sets.warnings)
    if settings.balance == "magnitude":
        warnings.append("training weighed classes alike at every magnitude (--balance none does not)")
    if pool is not train:
        warnings.append(
            f"pre-training saw {len(pool):,} objects without their labels, training objects among them"
        )
    if settings.labels < 1:
        warnings.append(f"labels of {100 * settings.labels:g} % of the training objects were used")
    warnings += differences(settings.protocol, model=settings.model, preset=settings.preset)
    warnings += [
        f"{each.missing_pixels:,} pixels without a value in the {each.name} set were read as zero"
        for each in (train, val, test)
        if each.missing_pixels
    ]
    config = _model_config(settings, sets.train)
    rows = _counted_rows(settings, test)
    header = RunHeader(
        experiment=settings.experiment,
        task=settings.task,
        classes=classes,
        preset=settings.preset,
        protocol=protocol_title(settings.protocol, settings.without),
        deviations={
            name: text
            for name, text in settings.deviations.items()
            if name != "leaked_objects" or "seen" in sets.test.columns
        },
        simulated=sets.test.simulated,
        source=sets.source,
        counts={"train": train.counts(), "val": val.counts(), "test": test.counts(rows)},
        settings={
            "command": shlex.join(["python", "-m", "margformer_fast.train", *(arguments or sys.argv[1:])]),
            **asdict(settings),
            "encoder": config.to_dict(),
        },
        versions=versions(),
        backends=_backends(),
        seconds=time.monotonic() - started,
        warnings=warnings,
        population=None if settings.population == "experiment" else settings.population,
    )
    tested = _test_set(test, outcomes[0], rows)
    if settings.method != "simclr-probe":  # whose saved model has no head that was trained
        tested = replace(tested, explained=_explained(directory, test, outcomes[0], rows))
    calibration = CalibrationSet(sets.val.objid, val.label.cpu().numpy(), sets.val.r_obs)
    # A method that learned from the validation set cannot be calibrated on it: there may be none that can.
    calibrated = any(outcome.calibration is not None for outcome in outcomes)
    paths = write_report(directory, header, tested, outcomes, calibration if calibrated else None)
    _describe_models(directory, settings, header, tested, outcomes, train)
    return Result(header, tested, outcomes, paths)


def _describe_models(
    directory: Path,
    settings: RunSettings,
    header: RunHeader,
    every: TestSet,
    every_outcome: Sequence[Outcome],
    train: Samples,
) -> None:
    """Put its headline numbers and its card into the directory of each saved model."""
    test, outcomes = seen.counted(header, every, every_outcome)
    for run in range(settings.runs):
        seed = settings.seed + run
        place = directory / f"seed-{seed}" / "model"
        model, _, profile = load_model(place)
        about = AboutModel(
            profile, model.config, sum(p.numel() for p in model.parameters()), train.feature_range()
        )
        own = [o for o in outcomes if (o.method, o.seed) == (settings.method, seed)]
        # Of simclr-probe the encoder is saved, not the probe: those numbers are not the model's.
        classified = own[0] if settings.method != "simclr-probe" else None
        if classified is not None:
            write_json(place / "metrics.json", model_metrics(header, test, classified, about))
        with atomic_file(place / "README.md") as temporary:
            temporary.write_text(model_card(header, test, classified, about), encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "margformer_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def _backends() -> dict[str, str]:
    """Return what each operator ran on in this process."""
    return {name: ", ".join(operator.used) for name, operator in operators().items() if operator.used}


def _model_config(settings: RunSettings, survey: Survey) -> ModelConfig:
    """Return the settings of the encoder; the protocol decides what it does to its inputs."""
    config = PRESETS[settings.preset].model(settings.model, survey)
    if settings.model == "lvit":
        return replace(config, standardise_stamps=settings.errors.standardised_stamps)
    return replace(config, scale_inputs=not settings.errors.raw_inputs)


def _fit(settings: RunSettings, stage: str, num_objects: int) -> FitConfig:
    """Return how long and how fast a stage of the encoder is trained."""
    config = PRESETS[settings.preset].fit(stage, num_objects, settings.model)
    ragged = settings.errors.ragged_batches and settings.model != "lvit"  # LViT's loader drops the last batch
    return replace(config, batches="ragged") if ragged else config


def _encoder(settings: RunSettings, train: Samples, seed: int) -> ScaledEncoder:
    """Load the encoder to start from, or make one: weights by the seed, input scales by the training set."""
    config = _model_config(settings, train.survey)
    if settings.init:
        return _saved_encoder(Path(settings.init), train, config).to(train.device)
    torch.manual_seed(derive_seed(seed, 0))
    encoder = ScaledEncoder(config, len(train.classes))
    encoder.inputs.fit(train.photometry.cpu(), torch.from_numpy(train.pixel_noise()))
    return encoder.to(train.device)


def _saved_encoder(path: Path, train: Samples, wanted_config: ModelConfig) -> ScaledEncoder:
    """Load a saved model; its bands, features and classes must be those of the training set."""
    model, classes, profile = load_model(path)
    for what, saved, wanted in (
        ("classes", classes, train.classes),
        ("bands", profile.bands, train.survey.profile.bands),
        ("stamp size", model.config.size, train.survey.stamps.size),
        ("scale_inputs", model.config.scale_inputs, wanted_config.scale_inputs),
        ("standardise_stamps", model.config.standardise_stamps, wanted_config.standardise_stamps),
    ):
        if saved != wanted:
            raise ConfigError(
                f"was trained with {what} {saved}",
                where=path,
                expected=f"{wanted}, as in the data and the protocol",
            )
    return model


def _learn(
    place: Path,
    settings: RunSettings,
    pool: Samples,
    train: Samples,
    val: Samples,
    test: Samples,
    seed: int,
    label: str,
) -> list[Outcome]:
    """Run every method once; `pool` is what pre-training sees."""
    preset = PRESETS[settings.preset]
    common: dict[str, Any] = {"precision": settings.precision, "seed": seed, "directory": place}
    errors, views = settings.errors, AugmentConfig()
    # The published notebooks read Experiment 3's classifier from the file of the best epoch.
    of_classifier: dict[str, Any] = {
        "weights": "last" if errors.last_weights and settings.experiment != 3 else "best",
        "augment_validation": errors.augmented_validation,
        **common,
    }
    outcomes = []
    model = _encoder(settings, train, seed)
    # All labels that this run knows; pre-training needs none.
    labelled = _labelled(train, settings.labels, seed, 1)
    judged = _labelled(val, settings.labels, seed, _FEWEST_JUDGED)
    of_classifier["object_weights"] = _object_weights(settings, labelled, judged)
    if settings.method != "supervised":
        shown = settings.pretrain_photometry != "hidden"
        history = {
            "pretrain": pretrain(
                model,
                pool,
                val,
                _fit(settings, "pretrain", len(pool)),
                views,
                photometry=settings.pretrain_photometry,
                weights="last" if errors.last_weights else "best",
                label=f"{label} pre-training",
                **common,
            )
        }
        x_train, x_val, x_test = (
            _embedding(model, samples, use_photometry=shown, precision=settings.precision)
            for samples in (labelled, judged, test)
        )
        learned, checked = (x_train, labelled.label), (x_val, judged.label)
        if errors.probe_on_validation:
            first, second = _validation_parts(judged)
            learned, checked = (x_val[first], judged.label[first]), (x_val[second], judged.label[second])
        probe, history["probe"] = train_probe(
            learned,
            checked,
            len(train.classes),
            preset.fit("probe", len(learned[1]), settings.model),
            kind=settings.probe,
            name="probe",
            label=f"{label} probe",
            seed=seed,
            directory=place,
        )
        probed = Outcome(
            "simclr-probe",
            seed,
            probabilities(probe, x_test),
            history,
            x_test.cpu().numpy(),
            None if errors.probe_on_validation else probabilities(probe, x_val),
        )
        stage = _fit(settings, "finetune", len(labelled))
        if settings.pretrain_photometry == "varied":  # whose embeddings a linear map can read
            stage = _fit(settings, "refine", len(labelled))
            weights = of_classifier["object_weights"]
            fit_head(model, labelled, None if weights is None else weights[0], precision=settings.precision)
    else:
        probed, stage = None, _fit(settings, "supervised", len(labelled))
    name = "finetune" if settings.method == "simclr" else "supervised"
    doing = "fine-tuning" if settings.method == "simclr" else "training"
    if settings.method != "simclr-probe":
        curve = train_classifier(
            model, labelled, judged, stage, views, name=name, label=f"{label} {doing}", **of_classifier
        )
        probability, embedding = predict(model, test, precision=settings.precision)
        calibration, _ = predict(model, judged, precision=settings.precision)
        outcomes.append(Outcome(settings.method, seed, probability, {name: curve}, embedding, calibration))
    calibrates = bool(outcomes) and settings.labels == 1  # else too few labels for prediction sets
    if current().is_main:
        save_model(
            place / "model",
            model,
            train.classes,
            train.survey.profile,
            train.survey.simulated,
            classifies=bool(outcomes),
            feature_range=train.feature_range(),
            calibration=Calibration.fit(val.label.cpu().numpy(), calibration).to_dict(train.classes)
            if calibrates
            else None,
        )
    if probed is not None:
        outcomes.append(probed)
    if "images" in settings.baselines:
        blind = _encoder(settings, train, seed)
        curve = train_classifier(
            blind,
            labelled,
            judged,
            _fit(settings, "supervised", len(labelled)),
            views,
            use_photometry=False,
            name="images-only",
            label=f"{label} images only",
            **of_classifier,
        )
        probability, calibration = (
            predict(blind, samples, use_photometry=False, precision=settings.precision)[0]
            for samples in (test, judged)
        )
        history = {"images-only": curve}
        outcomes.append(Outcome("images-only", seed, probability, history, calibration=calibration))
    if "features" in settings.baselines:
        outcomes.append(_photometry_only(place, settings, labelled, judged, test, seed, label))
        if current().is_main:
            outcomes.append(_features_only(labelled, judged, test, seed))
    if "margnet" in settings.baselines:
        outcomes += _margnet(place, settings, labelled, judged, test, seed, label)
    outcomes = [
        replace(outcome, calibration=None) if settings.labels < 1 else _with_temperature(outcome, judged)
        for outcome in outcomes
    ]
    columns = test.survey.columns
    # The separator learns nothing: one run says all.
    if seed == settings.seed and settings.task == "sg" and {"psfmag_r", "modelmag_r"} <= set(columns):
        galaxy = survey_separator(columns["psfmag_r"], columns["modelmag_r"])
        outcomes.append(Outcome("survey-separator", seed, decisions(np.where(galaxy, 0, 1), 2)))
    return outcomes


def _with_temperature(outcome: Outcome, judged: Samples) -> Outcome:
    """Return an outcome with the temperature that its probabilities of validation objects ask for."""
    if outcome.calibration is None:
        return outcome
    label = judged.label.cpu().numpy()
    return replace(outcome, temperature=fit_temperature(label, logits_of(outcome.calibration)))


def _labelled(samples: Samples, share: float, seed: int, fewest: int) -> Samples:
    """Return the objects whose labels a run knows: a share of each class, drawn by the run's seed."""
    if share == 1:
        return samples
    label = samples.label.cpu().numpy()
    order = np.argsort(object_hash(samples.survey.objid, seed), kind="stable")
    rows = [
        of_class[: max(fewest, math.ceil(share * len(of_class)))]
        for of_class in (order[label[order] == k] for k in range(len(samples.classes)))
    ]
    chosen = samples.survey.select(np.sort(np.concatenate(rows)))
    return Samples(chosen, samples.classes, samples.device, f"labelled {samples.name}")


def _object_weights(
    settings: RunSettings, train: Samples, val: Samples
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what each labelled object counts in training and in validation."""
    if settings.balance == "none":
        return None
    balance = MagnitudeBalance(train.label.cpu().numpy(), train.survey.r_obs)
    first, second = (balance.weights(s.label.cpu().numpy(), s.survey.r_obs) for s in (train, val))
    return first, second


def _validation_parts(val: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Cut the validation set into the nine tenths that the published probe learns from, and the rest."""
    order = np.argsort(object_hash(val.survey.objid, SEED_OF_VALIDATION_PART), kind="stable")
    held_out = max(1, len(val) // 10)
    return order[held_out:], order[:held_out]


def _embedding(
    model: ScaledEncoder, samples: Samples, *, use_photometry: bool, precision: str
) -> torch.Tensor:
    _, embedding = predict(model, samples, use_photometry=use_photometry, precision=precision)
    return torch.from_numpy(embedding).to(samples.device)


def _photometry_only(
    place: Path, settings: RunSettings, train: Samples, val: Samples, test: Samples, seed: int, label: str
) -> Outcome:
    """Train the photometric branch by itself: what the encoder would be without images."""
    scaling = _encoder(settings, train, seed).inputs
    x_train, x_val, x_test = (scaling.scale_photometry(each.photometry) for each in (train, val, test))
    probe, curve = train_probe(
        (x_train, train.label),
        (x_val, val.label),
        len(train.classes),
        PRESETS[settings.preset].fit("photometry", len(train)),
        kind="deep",
        name="photometry-only",
        label=f"{label} photometry only",
        seed=seed,
        directory=place,
    )
    return Outcome(
        "photometry-only",
        seed,
        probabilities(probe, x_test),
        {"photometry-only": curve},
        calibration=probabilities(probe, x_val),
    )


def _margnet(
    place: Path, settings: RunSettings, train: Samples, val: Samples, test: Samples, seed: int, label: str
) -> list[Outcome]:
    """Train MargNet and test its two networks and their ensemble."""
    preset = PRESETS[settings.preset]
    dnn, cnn = (preset.fit(stage, len(train)) for stage in ("margnet_dnn", "margnet_cnn"))
    errors = settings.errors
    model, history = train_margnet(
        replace(preset.margnet(train.survey), scale_inputs=not errors.raw_inputs),
        train,
        val,
        MargNetFit(dnn, cnn, preset.margnet_head),
        protocol="published" if errors.head_on_validation else "clean",
        precision=settings.precision,
        seed=seed,
        directory=place,
        label=label,
    )
    found, calibration = (
        predict_margnet(model, samples, precision=settings.precision) for samples in (test, val)
    )
    return [
        Outcome(
            method,
            seed,
            found[stage],
            {stage: history[stage]},
            calibration=None if stage == ENSEMBLE and errors.head_on_validation else calibration[stage],
        )
        for method, stage in (("margnet-dnn", DNN), ("margnet-cnn", CNN), ("margnet", ENSEMBLE))
    ]


def _features_only(train: Samples, val: Samples, test: Samples, seed: int) -> Outcome:
    label = train.label.cpu().numpy()
    asked = np.concatenate([test.survey.features, val.survey.features])
    probability = features_only(train.survey.features, label, asked, len(train.classes), seed)
    return Outcome("features-only", seed, probability[: len(test)], calibration=probability[len(test) :])


def _counted_rows(settings: RunSettings, test: Samples) -> np.ndarray:
    """Return the test objects that results are about: without those seen in training, if not as published."""
    seen = test.survey.columns.get("seen")
    if seen is None or settings.errors.leaked_objects:
        return np.arange(len(test))
    return np.flatnonzero(~seen)


def _test_set(test: Samples, first: Outcome, rows: np.ndarray) -> TestSet:
    survey, label = test.survey, test.label.cpu().numpy()
    shown = rows[confident_mistakes(label[rows], first.probability[rows], _PREVIEWS)]
    return TestSet(
        objid=survey.objid,
        ra=survey.ra,
        dec=survey.dec,
        label=label,
        r_obs=survey.r_obs,
        compactness=survey.compactness,
        stamps_preview=survey.stamps.decode(shown),
        preview_rows=shown,
        seen=survey.columns.get("seen"),
        bands=survey.profile.bands,
        pixel_scale_arcsec=survey.profile.pixel_scale_arcsec,
    )


def _explained(directory: Path, test: Samples, first: Outcome, counted: np.ndarray) -> Explained:
    """Ask the model of the first run, as it was saved, what it looked at in a few of the objects counted."""
    model, _, _ = load_model(directory / f"seed-{first.seed}" / "model")
    label = test.label.cpu().numpy()
    rows = counted[objects_to_explain(label[counted], first.probability[counted])]
    stamps = test.survey.stamps.decode(rows)
    photometry = test.photometry[torch.from_numpy(rows).to(test.device)]
    return explain(model.to(test.device), photometry, stamps, rows, method=first.method, seed=first.seed)
