"""One experiment from data to report: runs, methods, baselines, and a directory that explains itself."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .backends import operators
from .config import AugmentConfig
from .data.survey import TASKS
from .errors import ConfigError, DataError, OutputError
from .evaluation.attention import explain
from .evaluation.baselines import decisions, features_only, survey_separator
from .evaluation.explained import Explained, objects_to_explain
from .evaluation.metrics import confident_mistakes
from .evaluation.report import ReportPaths, write_report
from .evaluation.results import CalibrationSet, Outcome, RunHeader, TestSet
from .experiments import PRESETS, Sets
from .files import read_json, write_json
from .learning.checkpoint import load_model, save_model
from .learning.classify import predict, train_classifier
from .learning.margnet import CNN, DNN, ENSEMBLE, MargNetFit, predict_margnet, train_margnet
from .learning.pretrain import pretrain
from .learning.probe import probabilities, train_probe
from .learning.samples import Samples
from .nn.inputs import ScaledEncoder
from .reference.random import derive_seed

_PREVIEWS = 24


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
        ``simclr`` or ``supervised``.
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


def open_directory(path: Path, settings: RunSettings, *, resume: bool) -> None:
    """Make a run directory, or check that an existing one was made with the same settings.

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
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise OutputError(
                f"cannot be made: {error.strerror}", where=path, mend="Choose another --out."
            ) from error
        write_json(record, {"version": __version__, "settings": asdict(settings)})
        return
    before = read_json(record)["settings"]
    now = asdict(settings) | {"baselines": list(settings.baselines)}
    changed = sorted(key for key in now if before.get(key) != now[key])
    if changed:
        raise DataError(
            "was started with other settings: "
            + ", ".join(f"{k} {before.get(k)!r}, now {now[k]!r}" for k in changed),
            where=path,
            mend="Resume with the settings of the first start, or choose another --out.",
        )


def run_experiment(directory: Path, settings: RunSettings, sets: Sets, device: torch.device) -> Result:
    """Train, test and report; a stage whose checkpoint is complete is not trained again.

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

    Returns
    -------
    Result

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
    outcomes: list[Outcome] = []
    for run in range(settings.runs):
        seed = settings.seed + run
        place = directory / f"seed-{seed}"
        place.mkdir(exist_ok=True)
        outcomes += _learn(place, settings, train, val, test, seed, f"run {run + 1}/{settings.runs}")
    warnings = list(sets.warnings)
    warnings += [
        f"{each.missing_pixels:,} pixels without a value in the {each.name} set were read as zero"
        for each in (train, val, test)
        if each.missing_pixels
    ]
    config = PRESETS[settings.preset].model(settings.model, sets.train)
    header = RunHeader(
        experiment=settings.experiment,
        task=settings.task,
        classes=classes,
        preset=settings.preset,
        protocol="clean",
        simulated=sets.test.simulated,
        source=sets.source,
        counts={"train": train.counts(), "val": val.counts(), "test": test.counts()},
        settings={
            "command": shlex.join(["python", "-m", "margformer_fast.train", *sys.argv[1:]]),
            **asdict(settings),
            "encoder": config.to_dict(),
        },
        versions=versions(),
        backends=_backends(),
        seconds=time.monotonic() - started,
        warnings=warnings,
        population=None if settings.population == "experiment" else settings.population,
    )
    tested = replace(_test_set(test, outcomes[0]), explained=_explained(directory, test, outcomes[0]))
    calibration = CalibrationSet(sets.val.objid, val.label.cpu().numpy(), sets.val.r_obs)
    paths = write_report(directory, header, tested, outcomes, calibration)
    return Result(header, tested, outcomes, paths)


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


def _encoder(settings: RunSettings, train: Samples, seed: int) -> ScaledEncoder:
    """Load the encoder to start from, or make one: weights by the seed, input scales by the training set."""
    if settings.init:
        return _saved_encoder(Path(settings.init), train).to(train.device)
    config = PRESETS[settings.preset].model(settings.model, train.survey)
    torch.manual_seed(derive_seed(seed, 0))
    encoder = ScaledEncoder(config, len(train.classes))
    encoder.inputs.fit(train.photometry.cpu(), torch.from_numpy(train.pixel_noise()))
    return encoder.to(train.device)


def _saved_encoder(path: Path, train: Samples) -> ScaledEncoder:
    """Load a saved model; its bands, features and classes must be those of the training set."""
    model, classes, profile = load_model(path)
    for what, saved, wanted in (
        ("classes", classes, train.classes),
        ("bands", profile.bands, train.survey.profile.bands),
        ("stamp size", model.config.size, train.survey.stamps.size),
    ):
        if saved != wanted:
            raise ConfigError(
                f"was trained with {what} {saved}", where=path, expected=f"{wanted}, as in the data"
            )
    return model


def _learn(
    place: Path, settings: RunSettings, train: Samples, val: Samples, test: Samples, seed: int, label: str
) -> list[Outcome]:
    """Run every method once."""
    preset = PRESETS[settings.preset]
    common: dict[str, Any] = {"precision": settings.precision, "seed": seed, "directory": place}
    views = AugmentConfig()
    outcomes = []
    model = _encoder(settings, train, seed)
    if settings.method == "simclr":
        shown = settings.pretrain_photometry == "shared"
        history = {
            "pretrain": pretrain(
                model,
                train,
                val,
                preset.fit("pretrain", len(train)),
                views,
                photometry=settings.pretrain_photometry,
                label=f"{label} pre-training",
                **common,
            )
        }
        x_train, x_val, x_test = (
            _embedding(model, samples, use_photometry=shown, precision=settings.precision)
            for samples in (train, val, test)
        )
        probe, history["probe"] = train_probe(
            (x_train, train.label),
            (x_val, val.label),
            len(train.classes),
            preset.fit("probe", len(train)),
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
            probabilities(probe, x_val),
        )
        stage = preset.fit("finetune", len(train))
    else:
        probed, stage = None, preset.fit("supervised", len(train))
    name = "finetune" if settings.method == "simclr" else "supervised"
    doing = "fine-tuning" if settings.method == "simclr" else "training"
    curve = train_classifier(model, train, val, stage, views, name=name, label=f"{label} {doing}", **common)
    save_model(place / "model", model, train.classes, train.survey.profile, train.survey.simulated)
    probability, embedding = predict(model, test, precision=settings.precision)
    calibration, _ = predict(model, val, precision=settings.precision)
    outcomes.append(Outcome(settings.method, seed, probability, {name: curve}, embedding, calibration))
    if probed is not None:
        outcomes.append(probed)
    if "images" in settings.baselines:
        blind = _encoder(settings, train, seed)
        curve = train_classifier(
            blind,
            train,
            val,
            preset.fit("supervised", len(train)),
            views,
            use_photometry=False,
            name="images-only",
            label=f"{label} images only",
            **common,
        )
        probability, calibration = (
            predict(blind, samples, use_photometry=False, precision=settings.precision)[0]
            for samples in (test, val)
        )
        history = {"images-only": curve}
        outcomes.append(Outcome("images-only", seed, probability, history, calibration=calibration))
    if "features" in settings.baselines:
        outcomes.append(_photometry_only(place, settings, train, val, test, seed, label))
        outcomes.append(_features_only(train, val, test, seed))
    if "margnet" in settings.baselines:
        outcomes += _margnet(place, settings, train, val, test, seed, label)
    columns = test.survey.columns
    # The separator learns nothing: one run says all.
    if seed == settings.seed and settings.task == "sg" and {"psfmag_r", "modelmag_r"} <= set(columns):
        galaxy = survey_separator(columns["psfmag_r"], columns["modelmag_r"])
        outcomes.append(Outcome("survey-separator", seed, decisions(np.where(galaxy, 0, 1), 2)))
    return outcomes


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
    model, history = train_margnet(
        preset.margnet(train.survey),
        train,
        val,
        MargNetFit(dnn, cnn, preset.margnet_head),
        precision=settings.precision,
        seed=seed,
        directory=place,
        label=label,
    )
    found, calibration = (
        predict_margnet(model, samples, precision=settings.precision) for samples in (test, val)
    )
    return [
        Outcome(method, seed, found[stage], {stage: history[stage]}, calibration=calibration[stage])
        for method, stage in (("margnet-dnn", DNN), ("margnet-cnn", CNN), ("margnet", ENSEMBLE))
    ]


def _features_only(train: Samples, val: Samples, test: Samples, seed: int) -> Outcome:
    label = train.label.cpu().numpy()
    asked = np.concatenate([test.survey.features, val.survey.features])
    probability = features_only(train.survey.features, label, asked, len(train.classes), seed)
    return Outcome("features-only", seed, probability[: len(test)], calibration=probability[len(test) :])


def _test_set(test: Samples, first: Outcome) -> TestSet:
    survey, label = test.survey, test.label.cpu().numpy()
    shown = confident_mistakes(label, first.probability, _PREVIEWS)
    return TestSet(
        objid=survey.objid,
        ra=survey.ra,
        dec=survey.dec,
        label=label,
        r_obs=survey.r_obs,
        compactness=survey.compactness,
        stamps_preview=survey.stamps.decode(shown),
        preview_rows=shown,
        bands=survey.profile.bands,
        pixel_scale_arcsec=survey.profile.pixel_scale_arcsec,
    )


def _explained(directory: Path, test: Samples, first: Outcome) -> Explained:
    """Ask the model of the first run, as it was saved, what it looked at in a few test objects."""
    model, _, _ = load_model(directory / f"seed-{first.seed}" / "model")
    rows = objects_to_explain(test.label.cpu().numpy(), first.probability)
    stamps = test.survey.stamps.decode(rows)
    photometry = test.photometry[torch.from_numpy(rows).to(test.device)]
    return explain(model.to(test.device), photometry, stamps, rows, method=first.method, seed=first.seed)
