"""The classifier: as learning predicts, whatever the input looks like, and plain about what is missing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from short_runs import shorten
from toy import toy_survey

import margformer_fast
from margformer_fast import Classifier, cli, train
from margformer_fast.config import LVIT, ModelConfig
from margformer_fast.data.store import write_store
from margformer_fast.data.survey import SDSS, TASKS, Survey
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation import conformal
from margformer_fast.evaluation.calibration import Calibration
from margformer_fast.evaluation.temperature import logits_of, temperature_scaled
from margformer_fast.flags import Flag
from margformer_fast.learning.checkpoint import load_model_directory, save_model
from margformer_fast.learning.classify import predict
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder
from margformer_fast.ops.stamps import Stamps

CPU = torch.device("cpu")
TINY = ModelConfig(depth=2, dim=16, num_heads=2, hidden=32, slots=8)
N = 41


def spread_logits(model: ScaledEncoder, samples: Samples) -> None:
    """Let a fresh head, which is nearly undecided, tell objects apart: logits of mean 0 and spread 2."""
    head = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        logits = model(samples.photometry, samples.tokens(np.arange(len(samples)), model.config.patch_size))
        std, mean = torch.std_mean(logits, dim=0)
        head.bias.copy_((head.bias - mean) * 2 / std)
        head.weight.mul_(2 / std[:, None])


class Made:
    """A survey, a model directory calibrated on a second one, and what learning says of the first."""

    def __init__(
        self, path: Path, rng: np.random.Generator, config: ModelConfig = TINY, task: str = "sg"
    ) -> None:
        labels = (0, 2) if task == "sg" else (0, 1, 2)
        classes = TASKS[task]
        self.survey = toy_survey(N, rng, classes=labels)
        self.samples = Samples(self.survey, classes, CPU, "test")
        self.val = Samples(toy_survey(60, rng, classes=labels, objid_from=1000), classes, CPU, "validation")
        torch.manual_seed(int(rng.integers(2**31)))
        self.model = ScaledEncoder(config, len(classes)).eval()
        self.model.inputs.fit(self.val.photometry, torch.from_numpy(self.val.pixel_noise()))
        spread_logits(self.model, self.val)
        self.calibrated, _ = predict(self.model, self.val)
        self.path = path
        save_model(
            path,
            self.model,
            classes,
            SDSS,
            simulated=True,
            feature_range=self.val.feature_range(),
            calibration=Calibration.fit(self.val.label.numpy(), self.calibrated).to_dict(classes),
        )
        self.images, self.features = self.survey.stamps.decode(), self.survey.features
        self.classifier = Classifier.load(path, device="cpu")

    def found(self, **changes: object) -> np.ndarray:
        """Probabilities of changed inputs."""
        given = {"images": self.images, "features": self.features} | changes
        return self.classifier.predict(**given).probability


@pytest.fixture
def made(tmp_path: Path, rng: np.random.Generator) -> Made:
    return Made(tmp_path / "model", rng)


@pytest.mark.parametrize("task", ["sg", "sgq"])
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, scale_inputs=False),
        replace(LVIT, depth=1, dim=32, hidden=32, num_heads=4),
        replace(LVIT, depth=1, dim=32, hidden=32, num_heads=4, standardise_stamps=True),
    ],
)
def test_it_predicts_as_learning_does(
    tmp_path: Path, rng: np.random.Generator, config: ModelConfig, task: str
) -> None:
    made = Made(tmp_path / "model", rng, config, task)
    probability, embedding = predict(made.model, made.samples)
    for level in (0.5, 0.9, 0.999):
        found = made.classifier.predict(made.images, made.features, level=level)
        scaled = temperature_scaled(logits_of(probability), made.classifier.temperature)
        np.testing.assert_allclose(found.probability, scaled, atol=1e-6)
        assert found.probability.dtype == np.float32
        assert np.array_equal(found.label, probability.argmax(axis=1))
        sets = conformal.by_class(made.val.label.numpy(), made.calibrated, probability).sets(level)
        assert np.array_equal(found.in_set, sets)
    assert len(found) == N
    assert (found.flag.dtype, found.label.dtype) == (np.int32, np.int64)
    np.testing.assert_allclose(made.classifier.embed(made.images, made.features), embedding, atol=1e-5)
    np.testing.assert_array_equal(
        made.classifier.predict_proba(made.images, made.features), found.probability
    )
    blind, _ = predict(made.model, made.samples, use_photometry=False)
    without = made.classifier.predict(made.images, None)
    expected = temperature_scaled(logits_of(blind), made.classifier.temperature)
    np.testing.assert_allclose(without.probability, expected, atol=1e-6)
    assert (without.flag == Flag.NO_FEATURES | Flag.FEATURE_MISSING).all()
    assert without.in_set.all()


@pytest.mark.parametrize("batch_size", [1, 7, N, 1000])
def test_batches_do_not_matter(made: Made, batch_size: int) -> None:
    images, features = made.images.copy(), made.features.copy()
    images[3, 1], features[5] = np.nan, np.nan
    whole = made.classifier.predict(images, features)
    parts = made.classifier.predict(images, features, batch_size=np.int64(batch_size))
    np.testing.assert_allclose(parts.probability, whole.probability, atol=1e-6)
    assert np.array_equal(parts.flag, whole.flag)
    assert np.array_equal(parts.label, whole.label)


def test_no_objects(made: Made) -> None:
    found = made.classifier.predict(made.images[:0], made.features[:0])
    assert found.probability.shape == found.in_set.shape == (0, 2)
    assert found.label.shape == found.flag.shape == (0,)
    assert made.classifier.embed(made.images[:0], None).shape == (0, 16)
    empty = made.classifier.classify(
        pd.DataFrame(columns=[*SDSS.feature_names, "objid"], dtype=float).astype({"objid": int})
    )
    assert len(empty) == 0
    assert {"objid", "p_star", "p_galaxy", "label", "flag"} <= set(empty.colnames)


def test_what_is_missing_is_filled_and_flagged(made: Made) -> None:
    images, features = made.images.copy(), made.features.copy()
    features[0, 3] = np.nan
    features[1, 4] = -9999
    features[2] = np.inf
    images[3, 2] = np.nan
    images[4, 0, 5:9] = np.inf
    images[5] = np.nan
    images[6], features[6] = np.nan, np.nan
    found = made.classifier.predict(images, features)
    expected = np.zeros(N, int)
    expected[:2] = Flag.FEATURE_MISSING
    expected[2] = Flag.FEATURE_MISSING | Flag.NO_FEATURES
    expected[3] = Flag.BAND_MISSING
    expected[4] = Flag.PIXEL_MISSING
    expected[5] = Flag.BAND_MISSING | Flag.NO_IMAGE
    expected[6] = expected[2] | expected[5] | Flag.NOT_CLASSIFIED
    assert np.array_equal(found.flag & ~Flag.OUT_OF_RANGE, expected)
    assert np.array_equal(
        found.flag[8:] & Flag.OUT_OF_RANGE, made.classifier.predict(made.images, made.features).flag[8:]
    )
    assert found.label[6] == -1
    assert np.isnan(found.probability[6]).all()
    assert found.in_set[6].all()
    assert found.in_set[2].all(), "no calibration object lacked its features"
    assert np.isnan(made.classifier.embed(images, features)[6]).all()

    filled_images, filled = np.nan_to_num(images, nan=0, posinf=0), features.copy()
    mean = made.model.inputs.mean.numpy()
    filled[0, 3], filled[1, 4], filled[2] = mean[3], mean[4], mean
    plain = made.found(images=filled_images[:6], features=filled[:6])
    np.testing.assert_allclose(found.probability[:6], plain, atol=1e-6)
    assert np.abs(plain - made.found()[:6])[[0, 1, 2, 3, 5]].max(axis=1).min() > 1e-5, "what is lost matters"
    zeros = made.found(images=np.zeros_like(images))
    np.testing.assert_allclose(made.found(images=None), zeros, atol=1e-6)
    assert (made.classifier.predict(None, made.features).flag & Flag.NO_IMAGE).all()


def test_without_any_feature_a_model_of_raw_inputs_sees_zeros(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    made = Made(tmp_path / "model", rng, replace(TINY, scale_inputs=False))
    features = made.features.copy()
    features[1] = np.nan
    blind, _ = predict(made.model, made.samples, use_photometry=False)
    expected = temperature_scaled(logits_of(blind), made.classifier.temperature)
    np.testing.assert_allclose(made.found(features=features)[1], expected[1], atol=1e-6)


def test_features_far_from_those_of_training(made: Made) -> None:
    low, high = made.val.feature_range().T
    middle = np.tile((low + high) / 2, (5, 1))
    middle[1, 0] = high[0] + 0.4 * (high[0] - low[0])
    middle[2, 0] = high[0] + 0.6 * (high[0] - low[0])
    middle[3, 2] = low[2] - 0.06  # the seeing was constant: 0.05 arcsec beyond it is far
    middle[4, 2] = low[2] - 0.04
    flag = made.classifier.predict(made.images[:5], middle).flag
    assert flag.tolist() == [0, 0, Flag.OUT_OF_RANGE, Flag.OUT_OF_RANGE, 0]


def test_numbers_that_overflow_are_not_classified(made: Made) -> None:
    images, features = made.images.astype(np.float64), made.features.copy()
    images[0] = 1e300
    images[1] = 3e38
    features[2] = 1e300
    found = made.classifier.predict(images, features)
    assert found.flag[0] == Flag.NO_IMAGE | Flag.BAND_MISSING | (found.flag[0] & Flag.OUT_OF_RANGE)
    assert found.flag[1] & Flag.NOT_CLASSIFIED
    assert found.label[1] == -1
    assert found.flag[2] & Flag.NO_FEATURES
    assert found.flag[2] & Flag.OUT_OF_RANGE
    assert (np.isfinite(found.probability).all(axis=1) == (found.label >= 0)).all()


def test_every_kind_of_array_is_the_same(made: Made) -> None:
    expected = made.found()
    images, features = made.images, made.features
    same = {
        "big-endian": (images.astype(">f4"), features.astype(">f8")),
        "strides": (np.ascontiguousarray(images[..., ::-1])[..., ::-1], np.asfortranarray(features)),
        "float64": (images.astype(np.float64), features),
        "lists": (list(images), features.tolist()),
        "torch": (torch.from_numpy(images).requires_grad_(), torch.from_numpy(features)),
        "masked": (np.ma.MaskedArray(images), np.ma.MaskedArray(features, mask=False)),
        "nanomaggies": (images * u.nmgy, features),
        "flux densities": ((images * 3.630780547701014e-6) * u.Jy, features),
        "lists of quantities": ([(image / 1000) * u.Unit("1000 nmgy") for image in images], features),
        "series": (pd.Series(list(images)), features),
        "masked quantities": (Masked(images * u.nmgy), features),
    }
    for name, (of_images, of_features) in same.items():
        np.testing.assert_allclose(
            made.found(images=of_images, features=of_features), expected, atol=2e-6, err_msg=name
        )
    whole = np.round(images * 100).astype(np.int16)
    np.testing.assert_array_equal(made.found(images=whole), made.found(images=whole.astype(np.float32)))
    half = torch.from_numpy(images).bfloat16()
    np.testing.assert_array_equal(made.found(images=half), made.found(images=half.float()))


def test_what_is_masked_is_missing(made: Made) -> None:
    nan_images, nan_features = made.images.copy(), made.features.copy()
    nan_images[0, 1], nan_images[1, 2, 4], nan_features[2, 7] = np.nan, np.nan, np.nan
    expected = made.classifier.predict(nan_images, nan_features)
    fills = made.images.copy()
    fills[np.isnan(nan_images)] = 1e6
    for masked in (
        np.ma.MaskedArray(fills, np.isnan(nan_images)),
        Masked(fills * u.nmgy, np.isnan(nan_images)),
        [np.ma.MaskedArray(a, np.isnan(b)) for a, b in zip(fills, nan_images, strict=True)],
    ):
        found = made.classifier.predict(masked, np.ma.masked_invalid(nan_features))
        np.testing.assert_array_equal(found.probability, expected.probability)
        np.testing.assert_array_equal(found.flag, expected.flag)


HOSTILE = {
    "channel-last": (
        {"images": lambda m: m.images.transpose(0, 2, 3, 1)},
        r"images have shape \(41, 32, 32, 5\); expected \(N, 5, 32, 32\).* bands ugriz.*Move the bands",
    ),
    "one image": ({"images": lambda m: m.images[0]}, r"shape \(5, 32, 32\).*One object is images\[None\]"),
    "bands": ({"images": lambda m: m.images[:, :4]}, r"images have shape \(41, 4, 32, 32\)"),
    "size": ({"images": lambda m: np.zeros((N, 5, 64, 64))}, "Cut out the middle 32 x 32 pixels"),
    "small": ({"images": lambda m: m.images[..., :16]}, r"images have shape \(41, 5, 32, 16\)"),
    "scalar": ({"images": lambda m: np.float32(3)}, r"images have shape \(\)"),
    "text": ({"images": lambda m: np.full(m.images.shape, "a")}, "images: type <U1; expected real"),
    "complex": ({"images": lambda m: m.images * 1j}, "images: type complex"),
    "truth": ({"images": lambda m: m.images > 0}, "images: type bool"),
    "true tensor": ({"images": lambda m: torch.from_numpy(m.images > 0)}, r"images: type torch\.bool"),
    "ragged": (
        {"images": lambda m: [*m.images[:6], m.images[6, :4], *m.images[7:]]},
        r"row 6 of images has shape \(4, 32, 32\); expected \(5, 32, 32\) in every row",
    ),
    "row type": (
        {"images": lambda m: [*m.images[:2], np.full((5, 32, 32), "x"), *m.images[3:]]},
        "row 2 of images: type <U1",
    ),
    "row unit": (
        {"images": lambda m: [*m.images[:2], m.images[2] * u.m, *m.images[3:]]},
        "row 2 of images: unit m; expected a flux such as nanomaggy",
    ),
    "unit": ({"images": lambda m: m.images * u.arcsec}, "images: unit arcsec; expected a flux"),
    "magnitudes": ({"images": lambda m: m.images * u.mag}, "images: unit mag; expected a flux"),
    "one row": ({"features": lambda m: m.features[0]}, r"shape \(24,\).*One object is features\[None\]"),
    "too few": ({"features": lambda m: m.features[:, :23]}, r"shape \(41, 23\); expected \(N, 24\): dered_u"),
    "rows": ({"features": lambda m: m.features[:40]}, "41 images come with 40 rows of features"),
    "frame": (
        {"features": lambda m: pd.DataFrame(m.features)},
        r"features are a DataFrame.*Use classify\(\)",
    ),
    "table": ({"features": lambda m: Table(m.features)}, r"features are a Table.*Use classify\(\)"),
    "one unit": ({"features": lambda m: m.features * u.mag}, "one unit, mag, for magnitudes and radii"),
    "ragged row": (
        {"features": lambda m: [*m.features[:9].tolist(), [1.0, 2.0], *m.features[10:].tolist()]},
        r"row 9 of features has shape \(2,\)",
    ),
    "nested": ({"features": lambda m: [[1.0, [2.0, 3.0]]] * N}, "row 0 of features: no array of numbers"),
    "words": ({"features": lambda m: [["a"] * 24] * N}, "row 0 of features: type <U1"),
}


@pytest.mark.parametrize(("changes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays(made: Made, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made.found(**{name: change(made) for name, change in changes.items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.2}, "level is 0.2"),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number, 1 or more"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5"),
        ({"images": None, "features": None}, "neither images nor features"),
    ],
)
def test_hostile_options(made: Made, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made.classifier.predict(**{"images": made.images, "features": made.features, **options})


def columns(survey: Survey) -> dict[str, object]:
    names = survey.profile.feature_names
    return {
        "objid": survey.objid + 1_237_648_720_693_755_918,
        "ra": survey.ra,
        "dec": survey.dec,
        **{name: survey.features[:, k] for k, name in enumerate(names)},
        "stamp": survey.stamps.decode(),
        "remark": np.full(len(survey), "x"),
    }


@pytest.mark.parametrize("kind", ["dict", "Table", "QTable", "DataFrame"])
def test_tables(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    made = Made(tmp_path / "model", rng, task="sgq")
    given = columns(made.survey)
    if kind == "DataFrame":
        table = pd.DataFrame({**given, "stamp": list(given["stamp"])})
    else:
        table = {"dict": dict, "Table": Table, "QTable": QTable}[kind](given)
    if kind == "QTable":
        for name in table.colnames:
            if name.startswith(("deVRad", "psffwhm")):
                table[name] = (given[name] * u.arcsec).to(u.deg)
            elif name.startswith("dered"):
                table[name] = given[name] * u.ABmag
        table["stamp"] = table["stamp"] * u.nmgy
        table["ra"] = table["ra"] * u.deg
    elif kind == "Table":
        table["psffwhm_r"].unit = "arcsec"
        table["u_g"].unit = "mag"
    found = made.classifier.classify(table, level=0.8, batch_size=16)
    expected = made.classifier.predict(made.images, made.features, level=0.8)
    assert found.colnames == [
        "objid", "ra", "dec", "p_star", "p_galaxy", "p_qso", "label", "prediction_set", "flag",
    ]  # fmt: skip
    assert found["objid"].dtype == np.int64
    assert np.array_equal(found["objid"], given["objid"])
    for name, k in (("p_galaxy", 0), ("p_qso", 1), ("p_star", 2)):
        np.testing.assert_allclose(found[name], expected.probability[:, k], atol=1e-5)
    assert np.array_equal(found["label"], np.array(["GALAXY", "QSO", "STAR"])[expected.label])
    for row, member in zip(found, expected.in_set, strict=True):
        names = [name for name, k in (("STAR", 2), ("GALAXY", 0), ("QSO", 1)) if member[k]]
        assert row["prediction_set"] == "+".join(names)
    assert np.array_equal(found["flag"], expected.flag)
    assert found.meta["SIMTRAIN"] is True
    assert "1 FEATURE_MISSING" in found.meta["FLAGS"]
    found.write(tmp_path / "out.fits")
    assert len(Table.read(tmp_path / "out.fits")) == N


def test_tables_as_they_come_from_files(made: Made, tmp_path: Path) -> None:
    given = columns(made.survey)
    table = Table(given)
    table["g_r"].unit = ""
    table.write(tmp_path / "in.fits")
    expected = made.classifier.classify(given)
    read = Table.read(tmp_path / "in.fits")
    found = made.classifier.classify(read)
    np.testing.assert_array_equal(found["p_star"], expected["p_star"])
    assert found["objid"].dtype == np.dtype("=i8")
    named = made.classifier.classify(pd.DataFrame({"objid": ["a", "bc"], "stamp": list(made.images[:2])}))
    assert list(named["objid"]) == ["a", "bc"]
    assert named["objid"].dtype.kind == "U"


def test_tables_with_gaps(made: Made) -> None:
    given = columns(made.survey)
    table = Table(given)
    table["dered_r"] = MaskedColumn(given["dered_r"], mask=np.arange(N) == 4)
    frame = pd.DataFrame({**given, "stamp": list(given["stamp"])})
    frame["dered_r"] = frame["dered_r"].astype("Float64").mask(np.arange(N) == 4)
    frame.at[5, "stamp"] = None
    for found in (made.classifier.classify(table), made.classifier.classify(frame)):
        assert found["flag"][4] & Flag.FEATURE_MISSING
        assert not found["flag"][3] & Flag.FEATURE_MISSING
    assert found["flag"][5] & Flag.NO_IMAGE
    nothing = {name: np.full(2, np.nan) for name in SDSS.feature_names}
    found = made.classifier.classify(nothing)
    assert list(found["label"]) == ["", ""]
    assert list(found["prediction_set"]) == ["STAR+GALAXY"] * 2
    stamps = made.classifier.classify({"stamp": made.images})
    assert (stamps["flag"] & Flag.NO_FEATURES).all()
    without = made.classifier.classify({name: given[name] for name in SDSS.feature_names})
    assert (without["flag"] & Flag.NO_IMAGE).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dered_g": None}, r"the table has no column dered_g \(1 of 24 features are missing\)"),
        ({"dered_g": np.zeros(3)}, "column 'dered_g' has 3 rows; expected 41"),
        ({"dered_g": np.zeros(N) * u.arcsec}, "column 'dered_g': unit arcsec; expected mag"),
        ({"deVRad_g": np.ones(N) * u.pix}, "column 'deVRad_g': unit pix; expected arcsec"),
        ({"dered_g": np.full(N, "x")}, "column 'dered_g': type <U1"),
        ({"dered_g": np.zeros((N, 2))}, r"column 'dered_g' has shape \(41, 2\)"),
        ({"dered_g": [1.0, "x", *[0.0] * (N - 2)]}, "row 1 of column 'dered_g': type <U1"),
        ({"stamp": np.zeros((3, 5, 32, 32))}, "column 'stamp' has 3 rows"),
        ({"objid": np.ones(N)}, "column 'objid' holds floats"),
    ],
)
def test_hostile_tables(made: Made, change: dict, message: str) -> None:
    table = {name: value for name, value in {**columns(made.survey), **change}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        made.classifier.classify(table)


def test_tables_that_are_none(made: Made) -> None:
    with pytest.raises(DataError, match="ndarray is no table"):
        made.classifier.classify(made.features)
    with pytest.raises(DataError, match="neither features nor stamps"):
        made.classifier.classify({"objid": np.arange(3)})
    with pytest.raises(DataError, match="holds what is no number"):
        made.classifier.classify(pd.DataFrame({name: ["a", "b"] for name in SDSS.feature_names}))


def test_old_directories_are_read_and_say_what_they_lack(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (made.path / "calibration.json").unlink()
    config = json.loads((made.path / "config.json").read_text())
    for key in ("feature_units", "feature_range", "classifies"):
        del config[key]
    (made.path / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        old = Classifier.load(made.path, device="cpu")
    assert "has no calibration.json" in caplog.text
    assert (old.calibration, old.temperature, old.simulated) == (None, 1.0, True)
    found = old.predict(made.images, made.features)
    assert (found.flag == Flag.UNCALIBRATED).all()
    assert found.in_set.all()
    np.testing.assert_allclose(found.probability, predict(made.model, made.samples)[0], atol=1e-6)


def test_others_can_read_a_model(made: Made) -> None:
    modes = {(file.name, oct(file.stat().st_mode & 0o777)) for file in made.path.iterdir()}
    assert len({mode for _, mode in modes}) == 1, modes


def test_a_model_without_a_trained_head_only_embeds(made: Made) -> None:
    save_model(made.path, made.model, TASKS["sg"], SDSS, simulated=False, classifies=False)
    model = Classifier.load(made.path, device="cpu")
    assert not model.simulated
    assert np.isfinite(model.embed(made.images, made.features)).all()
    with pytest.raises(ConfigError, match="head was never trained"):
        model.predict(made.images, made.features)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"survey": "des"}, "survey is 'des'; expected sdss | lsst"),
        ("config.json", {"bands": ["g"]}, r"bands are \['g'\]; expected u, g, r, i, z"),
        ("config.json", {"schema": 9}, "has schema 9"),
        ("config.json", {"feature_range": [[0, 1]]}, "feature_range is not usable; expected 24 pairs"),
        ("config.json", {"feature_range": "x"}, "feature_range is not usable"),
        ("calibration.json", {"schema": 9}, r"calibration\.json: has schema 9"),
    ],
)
def test_damaged_directories(made: Made, file: str, change: dict, message: str) -> None:
    values = json.loads((made.path / file).read_text())
    (made.path / file).write_text(json.dumps({**values, **change}))
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        Classifier.load(made.path)


def test_what_is_no_directory(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no model directory.*RUN/seed-0/model"):
        Classifier.load(tmp_path / "nothing")
    values = json.loads((made.path / "config.json").read_text())
    del values["classes"]
    (made.path / "config.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="has no 'classes'"):
        Classifier.load(made.path)
    with pytest.raises(ConfigError, match="there is no device 'tpu'"):
        Classifier.load(made.path, device="tpu")


def test_bfloat16_is_close(made: Made) -> None:
    low = Classifier.load(made.path, device="cpu", precision="bf16").predict_proba(made.images, made.features)
    assert np.abs(low - made.found()).max() < 0.1


def test_flags_are_bits_with_words() -> None:
    values = [bit.value for bit in Flag]
    assert values == [1 << k for k in range(len(values))]
    assert Flag(65).in_words == "FEATURE_MISSING+OUT_OF_RANGE"
    assert Flag(0).in_words == ""
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    listed = [line.split(" | ")[:2] for line in page.splitlines() if line.endswith("|") and " `" in line]
    rows = [(int(bit.strip("| ")), name.strip("`")) for bit, name in listed if bit.strip("| ").isdigit()]
    assert rows == [(bit.value, bit.name) for bit in Flag]


def test_the_package_names_the_classifier_and_imports_no_torch() -> None:
    code = (
        "import sys, margformer_fast; assert 'Classifier' in dir(margformer_fast); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        margformer_fast.Clasifier  # noqa: B018


def test_a_run_leaves_a_model_that_knows_itself(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    survey = toy_survey(120, rng)
    write_store(tmp_path / "store", survey)
    out = tmp_path / "run"
    arguments = ["--exp", "1", "--data", str(tmp_path / "store"), "--runs", "1", "--out", str(out)]
    assert cli.run(train.main, [*arguments, "--method", "supervised", "--baselines", "none"]) == 0
    place = out / "seed-0" / "model"
    names = {file.name for file in place.iterdir()}
    assert names == {"config.json", "model.safetensors", "calibration.json", "metrics.json", "README.md"}
    report = json.loads((out / "metrics.json").read_text())["methods"]["supervised"]["runs"][0]
    mine = json.loads((place / "metrics.json").read_text())
    assert (mine["survey"], mine["simulated"], mine["seed"]) == ("sdss", True, 0)
    for name in ("accuracy", "ece", "ece_scaled", "temperature", "brier"):
        assert mine[name] == report[name] is not None
    assert mine["classes"]["STAR"]["precision"] == report["classes"]["STAR"]["precision"]
    card = (place / "README.md").read_text()
    for expected in (
        "Trained and tested on simulated objects",
        "| 23 | `i_z` | mag |",
        "bands u, g, r, i, z",
        f"**{100 * mine['accuracy']:.2f} %**",
        "Classifier.load",
        "OUT_OF_RANGE",
        "knows no quasars",
    ):
        assert expected in card
    model = Classifier.load(place)
    assert model.temperature == mine["temperature"]
    assert sum(map(len, model.calibration.scores)) == sum(mine["objects"]["val"].values())
    low, high = load_model_directory(place).feature_range.T
    inside = (survey.features >= low) & (survey.features <= high)
    assert inside.mean() > 0.95
    found = model.predict(survey.stamps.decode(), survey.features)
    assert not (found.flag & ~Flag.OUT_OF_RANGE).any()


def test_stamps_of_a_memory_map_are_not_copied_whole(made: Made, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", made.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(made.found(images=mapped), made.found())
    assert isinstance(Stamps((mapped,)).parts[0], np.memmap)


def test_the_model_that_comes_with_the_package(rng: np.random.Generator) -> None:
    model = Classifier.load("simulated-sg", device="cpu")
    assert model.simulated
    assert model.calibration is not None
    survey = toy_survey(20, rng)
    found = model.predict(survey.stamps.decode(), survey.features)
    np.testing.assert_allclose(found.probability.sum(axis=1), 1, atol=1e-5)
    card = Path(margformer_fast.__file__).parent / "models" / "simulated-sg" / "README.md"
    assert "simulated objects" in card.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="is no model directory") as caught:
        Classifier.load("no-such-model")
    assert "simulated-sg" in str(caught.value)


@pytest.mark.gpu
def test_a_gpu_says_the_same(made: Made) -> None:
    there = Classifier.load(made.path, device="cuda").predict(made.images, made.features)
    here = made.classifier.predict(made.images, made.features)
    np.testing.assert_allclose(there.probability, here.probability, atol=1e-4)
    np.testing.assert_array_equal(there.flag, here.flag)
