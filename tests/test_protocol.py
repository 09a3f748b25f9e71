"""The published recipe: every error by name, what each does, and the whole of it on the published layout."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table
from published_arrays import write_published_arrays
from short_runs import shorten
from torch import nn
from toy import toy_survey
from toy_results import toy_results

from margformer_fast import cli, runner, train
from margformer_fast.config import LVIT, AugmentConfig, FitConfig, MargNetConfig, ModelConfig
from margformer_fast.data.splits import object_hash
from margformer_fast.data.store import write_store
from margformer_fast.data.survey import TASKS
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation import seen
from margformer_fast.evaluation.metrics import predict as predicted_class
from margformer_fast.evaluation.report import format_table, write_report
from margformer_fast.experiments import PRESETS, make_sets
from margformer_fast.learning import classify
from margformer_fast.learning.classify import train_classifier
from margformer_fast.learning.loop import Stage, batches, run_stage
from margformer_fast.learning.probe import Probe
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import InputScaling, ScaledEncoder
from margformer_fast.nn.margnet import MargNet
from margformer_fast.ops.patchify import patchify
from margformer_fast.protocol import (
    CLEAN,
    ERRORS,
    PUBLISHED,
    Protocol,
    deviations,
    differences,
    make_protocol,
)
from margformer_fast.runner import RunSettings, adopt, open_directory

CPU = torch.device("cpu")
TINY = ModelConfig(depth=1, dim=16, num_heads=2, hidden=32, slots=8)


def run(*arguments: object) -> int:
    return cli.run(train.main, [str(a) for a in arguments])


def errors_on(**options: object) -> set[str]:
    common = {"experiment": 1, "method": "simclr", "model": "margformer-64", "baselines": ()}
    return set(deviations(PUBLISHED, **{**common, **options}))


def test_every_error_is_a_switch() -> None:
    assert [field.name for field in fields(Protocol)] == list(ERRORS)
    assert make_protocol("published") == PUBLISHED
    assert make_protocol("clean") == CLEAN
    for name in ERRORS:
        assert make_protocol("published", (name,)) == replace(PUBLISHED, **{name: False})
    assert not any(asdict(CLEAN).values())
    assert not deviations(CLEAN, experiment=3, method="simclr", model="lvit", baselines=("margnet",))


def test_errors_are_named_where_they_matter() -> None:
    assert errors_on() == {
        "last_weights",
        "augmented_validation",
        "raw_inputs",
        "ragged_batches",
        "probe_on_validation",
    }
    # In Experiment 3 the classifier comes from the file of the best epoch.
    assert "last_weights" not in errors_on(experiment=3, method="supervised")
    assert "last_weights" in errors_on(experiment=3)
    assert errors_on(method="simclr-probe", model="lvit") == {
        "last_weights",
        "standardised_stamps",
        "shared_photometry",
        "probe_on_validation",
    }
    assert "leaked_objects" in errors_on(experiment=3)
    assert {"head_on_validation", "raw_inputs"} <= errors_on(model="lvit", baselines=("margnet",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protocol", "published", "--without", "bugs"), "has no error 'bugs'; expected last_weights, "),
        (("--without", "raw_inputs"), "--without: the clean protocol has no errors to leave out"),
        (("--protocol", "dirty"), "invalid choice: 'dirty'"),
        (("--transfer", "somewhere"), "--transfer goes with --exp 3 alone"),
    ],
)
def test_bad_names_give_one_line(
    capsys: pytest.CaptureFixture, options: tuple[str, ...], message: str
) -> None:
    assert run("--exp", 1, *options) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_help_says_what_each_error_is(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: {text}" in shown for name, text in ERRORS.items())


def stage(losses: list[float], weights: str, patience: int = 9) -> tuple[Stage, nn.Linear]:
    """Train one number, which grows by a step an epoch."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return Stage(
        "stage",
        1,
        model,
        4,
        FitConfig(len(losses), patience, 4, 0.1),
        lambda rows, _: -model.weight.sum(),
        lambda epoch: {"val_loss": losses[epoch - 1]},
        weights,
    ), model


@pytest.mark.parametrize("weights", ["best", "last"])
def test_last_weights(tmp_path: Path, weights: str) -> None:
    losses = [3.0, 1.0, 2.0, 2.5]
    trained, model = stage(losses, weights)
    history = run_stage(trained, seed=0, directory=tmp_path, label="test")
    steps = {"best": 2, "last": 4}[weights]
    assert model.weight.item() == pytest.approx(0.1 * steps, rel=1e-3)
    # Taken up again the finished stage gives the same; last weights leave the best ones in the file as well.
    again, model_again = stage(losses, weights)
    assert run_stage(again, seed=0, directory=tmp_path, label="test") == history
    assert torch.equal(model_again.weight, model.weight)
    other, other_model = stage(losses, "best" if weights == "last" else "last")
    if weights == "last":
        run_stage(other, seed=0, directory=tmp_path, label="test")
        assert other_model.weight.item() == pytest.approx(0.2, rel=1e-3)
    else:
        with pytest.raises(DataError, match="does not hold the weights of the last epoch"):
            run_stage(other, seed=0, directory=tmp_path, label="test")


def test_ragged_batches(rng: np.random.Generator) -> None:
    sizes = [len(rows) for rows in batches(10, 4, 3, ragged=True)]
    assert sizes == [4, 4, 2]
    assert [len(rows) for rows in batches(10, 4, 3)] == [4, 3, 3]
    assert sorted(np.concatenate(batches(10, 4, 3, ragged=True))) == list(range(10))
    assert [len(rows) for rows in batches(3, 4, 3, ragged=True)] == [3]
    assert [len(rows) for rows in batches(8, 4, 3, ragged=True)] == [4, 4]


def test_ragged_losses_are_means_of_batch_means(tmp_path: Path) -> None:
    found = {}
    for kind in ("even", "ragged"):
        model = nn.Linear(1, 1)
        made = Stage(
            kind,
            1,
            model,
            10,
            FitConfig(1, 1, 8, 1e-9, batches=kind),
            lambda rows, _, model=model: model.weight.sum() * 0 + len(rows),
            lambda epoch: {"val_loss": 0.0},
        )
        found[kind] = run_stage(made, seed=0, directory=tmp_path, label=kind)[0]["train_loss"]
    assert found == {"even": 5.0, "ragged": pytest.approx((8 + 2) / 2)}


def samples(n: int, rng: np.random.Generator, name: str, **toy: Any) -> Samples:
    return Samples(toy_survey(n, rng, **toy), TASKS["sg"], CPU, name)


@pytest.mark.parametrize("augmented", [False, True])
def test_augmented_validation(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, augmented: bool
) -> None:
    train_set, val = samples(40, rng, "training"), samples(30, rng, "validation", objid_from=10_000)
    config = FitConfig(3, 3, 20, 1e-12)  # hardly trained, so that only the stamps looked at can differ

    def fit(folder: str, kind: str = "even") -> list[float]:
        torch.manual_seed(0)
        model = ScaledEncoder(TINY, 2)
        (tmp_path / folder).mkdir()
        history = train_classifier(
            model,
            train_set,
            val,
            replace(config, batches=kind),
            AugmentConfig(),
            augment_validation=augmented,
            precision="fp32",
            seed=1,
            directory=tmp_path / folder,
            name="supervised",
            label="test",
        )
        return [entry["val_loss"] for entry in history]

    losses = fit("one")
    assert losses == fit("two"), "the same seed must see the same views"
    spread = max(losses) - min(losses)
    assert spread > 1e-6 if augmented else spread < 1e-6
    # Batches of 20 and 10: the unweighted mean is another one.
    ragged = fit("three", "ragged")
    assert abs(ragged[0] - losses[0]) > 1e-7
    original = classify.predict
    monkeypatch.setattr(classify, "predict", lambda *a, **k: original(*a, **{**k, "tokens": None}))
    plain = fit("four")
    assert (plain == losses) is not augmented


def test_inputs_as_published(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(3, 2, (4, 5, 32, 32)) * np.array([1, 5, 9, 2, 3])[:, None, None])
    photometry = torch.from_numpy(rng.normal(20, 1, (4, 24)))
    patch = patchify(image, 4)
    raw = InputScaling(ModelConfig(scale_inputs=False)).double()
    same = raw(photometry, patch)
    assert same[0] is photometry
    assert same[1] is patch
    standard = InputScaling(replace(LVIT, standardise_stamps=True)).double()
    standard.fit(photometry, torch.ones(5))
    scaled, token = standard(photometry, patch)
    std, mean = torch.std_mean(image, dim=(2, 3), keepdim=True)
    torch.testing.assert_close(token, patchify((image - mean) / (std + 1e-6), 4))
    assert scaled.mean(dim=0).abs().max() < 1e-6
    # Flux and colour are gone from the image, and stay in the photometry.
    brighter = standard(photometry, patchify(7 * image + 11, 4))[1]
    torch.testing.assert_close(brighter, token, rtol=1e-5, atol=1e-5)


def settings(**changes: object) -> RunSettings:
    known: dict[str, Any] = {
        "experiment": 1,
        "task": "sg",
        "method": "supervised",
        "model": "margformer-64",
        "preset": "quick",
        "runs": 1,
        "seed": 0,
        "precision": "fp32",
        "pretrain_photometry": "hidden",
        "probe": "linear",
        "baselines": (),
        "data": "made up",
        "population": "experiment",
        "split": "object",
        "init": "",
        "protocol": "published",
    }
    return RunSettings(**{**known, **changes})


def test_settings_follow_the_protocol(rng: np.random.Generator) -> None:
    survey = toy_survey(5, rng)
    for without, expected in (((), False), (("raw_inputs",), True)):
        assert runner._model_config(settings(without=without), survey).scale_inputs is expected
    assert runner._model_config(settings(protocol="clean"), survey).scale_inputs
    lvit = settings(model="lvit")
    assert runner._model_config(lvit, survey).standardise_stamps
    assert not runner._model_config(
        replace(lvit, without=("standardised_stamps",)), survey
    ).standardise_stamps
    assert not runner._model_config(replace(lvit, protocol="clean"), survey).standardise_stamps
    assert runner._fit(settings(), "supervised", 10**6).batches == "ragged"
    assert runner._fit(settings(without=("ragged_batches",)), "supervised", 10**6).batches == "even"
    assert runner._fit(lvit, "pretrain", 10**6).batches == "even"
    assert runner._fit(lvit, "pretrain", 10**6).temperature == 0.5


def test_quick_runs_narrow_the_published_lvit_and_say_so(rng: np.random.Generator) -> None:
    survey = toy_survey(5, rng)
    assert PRESETS["paper"].model("lvit", survey) == LVIT
    quick = PRESETS["quick"].model("lvit", survey)
    assert quick == replace(LVIT, depth=4, dim=64, hidden=256)
    assert PRESETS["quick"].model("margformer-64", survey).dim == ModelConfig().dim
    (told,) = differences("published", model="lvit", preset="quick")
    assert "size" in told
    assert "size" not in differences("published", model="lvit", preset="paper")[0]


def test_the_published_probe_learns_from_nine_tenths_of_the_validation_set(rng: np.random.Generator) -> None:
    val = samples(57, rng, "validation", objid_from=500)
    learned, held_out = runner._validation_parts(val)
    assert len(held_out) == 5
    assert sorted([*learned, *held_out]) == list(range(57))
    hashes = object_hash(val.survey.objid, 69)
    assert hashes[held_out].max() < hashes[learned].min()
    assert [len(part) for part in runner._validation_parts(samples(2, rng, "validation"))] == [1, 1]


def asked_for(monkeypatch: pytest.MonkeyPatch, place: Path, wanted: RunSettings, sets: list[Samples]) -> dict:
    """Return what a run asks of its learners, none of which is let run."""
    asked: dict[str, object] = {}

    def pretrain(model: Any, *rest: Any, **options: Any) -> list:
        asked.update(pretrain_weights=options["weights"], photometry=options["photometry"])
        asked["pretrain_batches"] = rest[2].batches
        return []

    def train_classifier(model: Any, *rest: Any, **options: Any) -> list:
        asked.update(weights=options["weights"], augmented=options["augment_validation"])
        asked.update(batches=rest[2].batches, scaled=model.config.scale_inputs)
        asked["standardised"] = model.config.standardise_stamps
        return []

    def train_probe(learned: Any, checked: Any, classes: int, *rest: Any, **options: Any) -> Any:
        asked["probe_learns"] = (len(learned[1]), len(checked[1]))
        return Probe(options["kind"], learned[0], classes), []

    def train_margnet(config: MargNetConfig, *rest: Any, **options: Any) -> Any:
        asked.update(head=options["protocol"], margnet_scaled=config.scale_inputs)
        return MargNet(config, 2), {s: [] for s in ("margnet-dnn", "margnet-cnn", "margnet-ensemble")}

    for stand_in in (pretrain, train_classifier, train_probe, train_margnet):
        monkeypatch.setattr(runner, stand_in.__name__, stand_in)
    outcomes = runner._learn(place, wanted, sets[0], *sets, 0, "test")
    asked["calibrated"] = {outcome.method for outcome in outcomes if outcome.calibration is not None}
    return asked


@pytest.mark.parametrize(
    ("model", "error", "changed"),
    [
        ("margformer-64", "last_weights", {"pretrain_weights": "best", "weights": "best"}),
        ("margformer-64", "augmented_validation", {"augmented": False}),
        ("margformer-64", "raw_inputs", {"scaled": True, "margnet_scaled": True}),
        ("margformer-64", "ragged_batches", {"batches": "even", "pretrain_batches": "even"}),
        ("margformer-64", "standardised_stamps", {}),
        ("margformer-64", "shared_photometry", {}),
        ("margformer-64", "leaked_objects", {}),
        ("lvit", "standardised_stamps", {"standardised": False}),
        ("lvit", "ragged_batches", {}),
        ("margformer-64", "probe_on_validation", {"probe_learns": (40, 30)}),
        ("margformer-64", "head_on_validation", {"head": "clean"}),
    ],
)
def test_each_error_changes_its_own_part(
    tmp_path: Path,
    rng: np.random.Generator,
    tiny: None,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    error: str,
    changed: dict[str, object],
) -> None:
    sets = [samples(n, rng, name) for n, name in ((40, "training"), (30, "validation"), (20, "test"))]
    wanted = settings(method="simclr", model=model, baselines=("margnet",))
    published = asked_for(monkeypatch, tmp_path, wanted, sets)
    assert published["probe_learns"] == (27, 3)
    assert published["calibrated"] == {"simclr", "margnet-dnn", "margnet-cnn"}
    assert all(published[key] != value for key, value in changed.items())
    mended = asked_for(monkeypatch, tmp_path, replace(wanted, without=(error,)), sets)
    calibrated = {"probe_on_validation": {"simclr-probe"}, "head_on_validation": {"margnet"}}.get(
        error, set()
    )
    assert mended == {**published, **changed, "calibrated": published["calibrated"] | calibrated}
    if error == "last_weights":
        three = asked_for(monkeypatch, tmp_path, replace(wanted, experiment=3), sets)
        assert three == {**published, "weights": "best"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


@pytest.fixture(scope="module")
def deposit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deposit") / "arrays"
    write_published_arrays(folder, np.random.default_rng(8))  # shared by tests that compare runs
    return folder


def metrics(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())


def test_published_simclr_on_the_published_layout(deposit: Path, tmp_path: Path, tiny: None) -> None:
    """Pre-train, fine-tune, then Experiment 3 by transfer; star-galaxy, as printed by the notebook."""
    common = ("--data", deposit, "--runs", 1, "--preset", "quick", "--protocol", "published")
    common = (*common, "--baselines", "none")
    one, three = tmp_path / "one", tmp_path / "three"
    assert run("--exp", 1, *common, "--out", one) == 0
    found = metrics(one)
    assert found["protocol"] == "published"
    assert set(found["deviations"]) == errors_on()
    assert found["simulated"] is False
    assert found["settings"]["probe"] == "mlp"
    assert found["settings"]["pretrain_photometry"] == "hidden"
    assert found["settings"]["encoder"]["scale_inputs"] is False
    page = (one / "report.html").read_text()
    assert "Errors of the published recipe that this run repeats" in page
    assert all(text.replace("'", "&#x27;") in page for text in found["deviations"].values())
    # The probe learned from the validation set, so no prediction set of its can be calibrated on it.
    assert found["methods"]["simclr-probe"]["runs"][0]["conformal"] is None
    assert found["methods"]["simclr"]["runs"][0]["conformal"] is not None
    times = {file: file.stat().st_mtime_ns for file in one.rglob("*.safetensors")}
    assert run("--exp", 3, *common, "--transfer", one, "--out", three) == 0
    stages = {"pretrain", "finetune", "probe"}
    for name in stages:
        assert (one / f"seed-0/{name}.safetensors").read_bytes() == (
            three / f"seed-0/{name}.safetensors"
        ).read_bytes(), "nothing is to be trained again"
    assert times == {file: file.stat().st_mtime_ns for file in one.rglob("*.safetensors")}
    assert metrics(three)["seen_in_training"] is None or metrics(three)["seen_in_training"]["of"] > 0
    # The same from scratch: what is taken over changes no number.
    assert run("--exp", 3, *common, "--out", tmp_path / "scratch") == 0
    first, second = (metrics(each)["methods"]["simclr"]["summary"] for each in (three, tmp_path / "scratch"))
    assert first == second


@pytest.mark.parametrize("without", ["", "shared_photometry", "standardised_stamps", "probe_on_validation"])
def test_published_lvit_on_the_published_layout(
    deposit: Path, tmp_path: Path, tiny: None, without: str
) -> None:
    out = tmp_path / "run"
    options = (
        "--task",
        "sgq",
        "--method",
        "simclr-probe",
        "--model",
        "lvit",
        "--runs",
        1,
        "--baselines",
        "none",
    )
    protocol = ("--protocol", "published", *(("--without", without) if without else ()))
    assert run("--exp", 1, "--data", deposit, "--preset", "quick", *options, *protocol, "--out", out) == 0
    found = metrics(out)
    on = errors_on(method="simclr-probe", model="lvit")
    assert set(found["deviations"]) == on - {without}
    assert found["settings"]["pretrain_photometry"] == (
        "hidden" if without == "shared_photometry" else "shared"
    )
    assert found["settings"]["encoder"]["standardise_stamps"] is (without != "standardised_stamps")
    assert set(found["methods"]) == {"simclr-probe"}
    calibrated = found["methods"]["simclr-probe"]["runs"][0]["conformal"] is not None
    assert calibrated is (without == "probe_on_validation")
    assert not (out / "seed-0/finetune.safetensors").exists()


def test_experiment_3_with_and_without_objects_seen(deposit: Path, tmp_path: Path, tiny: None) -> None:
    common = ("--task", "sgq", "--method", "supervised", "--data", deposit, "--runs", 1, "--preset", "quick")
    common = (*common, "--protocol", "published", "--baselines", "margnet")
    one, with_seen, clean = (tmp_path / name for name in ("one", "with", "without"))
    assert run("--exp", 1, *common, "--out", one) == 0
    assert run("--exp", 3, *common, "--transfer", one, "--out", with_seen) == 0
    mended = ("--without", "leaked_objects", "--transfer", one)
    assert run("--exp", 3, *common, *mended, "--out", clean) == 0
    tables = [Table.read(out / "predictions" / "supervised-seed0.fits") for out in (with_seen, clean)]
    objects = set(np.load(deposit / "objlist_exp1.npy"))
    for table in tables:
        assert len(table) == len(np.load(deposit / "objlist_sgq_exp3.npy"))
        assert table["seen"].sum() > 0
        assert objects.issuperset(table["objid"][table["seen"]])
    right = np.array(tables[0]["class"] == tables[0]["predicted"])
    mask = np.array(tables[0]["seen"])
    for out, part in ((with_seen, np.ones(len(mask), bool)), (clean, ~mask)):
        found = metrics(out)
        assert found["test_objects"] == part.sum()
        assert sum(found["counts"]["test"].values()) == part.sum()
        assert found["methods"]["supervised"]["summary"]["accuracy"]["mean"] == right[part].mean()
        both = found["seen_in_training"]
        assert (both["objects"], both["of"]) == (mask.sum(), len(mask))
        assert both["counted"] is (out == with_seen)
        accuracy = both["accuracy"]["supervised"]
        assert accuracy["all"]["mean"] == right.mean()
        assert accuracy["unseen"]["mean"] == right[~mask].mean()
        assert accuracy["seen"]["mean"] == right[mask].mean()
        assert "With and without objects seen in training" in (out / "report.html").read_text()
    # The head of MargNet's ensemble learned from the validation set; its networks did not.
    kinds = {m: v["runs"][0]["conformal"] is None for m, v in metrics(one)["methods"].items()}
    assert kinds == {"supervised": False, "margnet-dnn": False, "margnet-cnn": False, "margnet": True}


def test_a_published_store_leaks_as_the_published_set_does(tmp_path: Path, rng: np.random.Generator) -> None:
    survey = toy_survey(1500, rng, classes=(0, 1, 2))
    features = survey.features.copy()
    features[:, 0:20:4] += 3.5  # between magnitudes 20 and 23
    write_store(tmp_path / "store", replace(survey, features=features))
    clean = make_sets(tmp_path / "store", 3, "sgq")
    assert "seen" not in clean.test.columns
    leaky = make_sets(tmp_path / "store", 3, "sgq", keep_seen=True)
    known = np.concatenate([leaky.train.objid, leaky.val.objid])
    np.testing.assert_array_equal(leaky.test.columns["seen"], np.isin(leaky.test.objid, known))
    assert leaky.test.columns["seen"].sum() > 0
    assert "seen" not in make_sets(tmp_path / "store", 3, "sg", keep_seen=True).test.columns
    # Objects that a smaller training set leaves out were not seen.
    small = make_sets(tmp_path / "store", 3, "sgq", keep_seen=True, max_train=50)
    assert small.test.columns["seen"].sum() < leaky.test.columns["seen"].sum()


def test_margnet_split_tests_on_a_tenth_of_experiment_2(deposit: Path) -> None:
    sizes = {s: len(make_sets(deposit, 2, "sgq", split=s).test) for s in ("object", "margnet")}
    assert sizes == {"object": 30, "margnet": 24}
    one = [make_sets(deposit, 1, "sgq", split=s).test.objid for s in ("object", "margnet")]
    np.testing.assert_array_equal(*one)
    with pytest.raises(ConfigError, match="populations and splits of their own"):
        make_sets(deposit, 2, "sgq", split="sky")


def with_seen(rng: np.random.Generator, **kind: Any) -> Any:
    header, test, outcomes = toy_results(rng, experiment=3, task="sgq", **kind)
    return header, replace(test, seen=rng.random(len(test)) < 0.4), outcomes


def test_counted_objects(rng: np.random.Generator) -> None:
    header, test, outcomes = with_seen(rng)
    part, kept = seen.counted(header, test, outcomes)
    np.testing.assert_array_equal(part.objid, test.objid[~test.seen])
    np.testing.assert_array_equal(kept[0].probability, outcomes[0].probability[~test.seen])
    # Pictures go with their objects.
    np.testing.assert_array_equal(part.objid[part.shown_rows], test.objid[:12][~test.seen[:12]])
    np.testing.assert_array_equal(part.stamps_preview, test.stamps_preview[~test.seen[:12]])
    leaky = replace(header, deviations={"leaked_objects": "as published"})
    assert seen.counted(leaky, test, outcomes)[0] is test
    none = replace(test, seen=None)
    assert seen.counted(header, none, outcomes)[0] is none
    assert seen.with_and_without(none, outcomes) == []
    with pytest.raises(DataError, match="test column 'seen' has shape"):
        replace(test, seen=test.seen[1:])


def test_a_report_shows_both(tmp_path: Path, rng: np.random.Generator, tiny: None) -> None:
    header, test, outcomes = with_seen(rng)
    paths = write_report(tmp_path, header, test, outcomes)
    right = predicted_class(outcomes[-1].probability) == test.label
    accuracy = json.loads(paths.metrics.read_text())["seen_in_training"]["accuracy"]["survey-separator"]
    assert accuracy["seen"]["mean"] == pytest.approx(right[test.seen].mean())
    assert accuracy["all"]["spread"] is None
    text = format_table(header, test, outcomes)
    assert f"{(~test.seen).sum()} simulated test objects" in text
    assert "objects seen in training" in text
    assert f"the {test.seen.sum()} seen in training" in paths.html.read_text()
    plain = format_table(header, replace(test, seen=None), outcomes)
    assert "seen in training" not in plain


def test_models_of_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    open_directory(source, settings(), resume=False)
    (source / "seed-0").mkdir()
    for name in ("supervised", "margnet-head"):
        (source / f"seed-0/{name}.safetensors").write_bytes(name.encode())
    three = settings(experiment=3, without=("leaked_objects",))
    open_directory(target, three, resume=False)
    adopt(target, three, source, {"supervised"})
    assert [file.name for file in (target / "seed-0").iterdir()] == ["supervised.safetensors"]
    (source / "seed-0/supervised.safetensors").write_bytes(b"changed")
    adopt(target, three, source)
    assert (target / "seed-0/supervised.safetensors").read_bytes() == b"supervised"
    assert (target / "seed-0/margnet-head.safetensors").exists()
    other = {
        "model": settings(experiment=3, model="margformer-128"),
        "without": settings(experiment=3, without=("raw_inputs",)),
        "experiment": settings(experiment=2),
    }
    for key, wanted in other.items():
        with pytest.raises(DataError, match=f"made with other settings: {key} "):
            adopt(target, wanted, source)
    with pytest.raises(DataError, match=r"run\.json: is missing"):
        adopt(target, three, tmp_path)
