"""The published arrays: read in place, aligned, labelled, and split as published to the last object."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from margformer_fast.data.margnet import RECIPES, is_margnet, published_experiment_split, read_margnet
from margformer_fast.data.pickles import load_string_array
from margformer_fast.data.splits import fingerprint
from margformer_fast.data.survey import CLASSES, SDSS, TASKS, UNKNOWN, Survey
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.ops.stamps import Stamps

SUFFIXES = {
    (1, "sg"): "exp1",
    (1, "sgq"): "exp1",
    (2, "sgq"): "exp2",
    (3, "sg"): "sg_exp3",
    (3, "sgq"): "sgq_exp3",
}


def write_arrays(
    folder: Path, suffix: str, rng: np.random.Generator, n: int = 23, dtype: str = "<f4"
) -> dict[str, np.ndarray]:
    """Write one experiment's files and return what was written, labels as indices into CLASSES."""
    folder.mkdir(parents=True, exist_ok=True)
    task = "sg" if suffix.startswith("sg_") else "sgq"
    names = np.array(TASKS[task])
    picks = np.concatenate([np.arange(len(names)), rng.integers(len(names), size=n - len(names))])
    arrays = {
        "X": rng.normal(size=(n, 32, 32, 5)).astype(dtype),
        "dnnx": rng.normal(20, 1, (n, 24)),
        "objlist": rng.permutation(10**18 + np.arange(n)),
        "y": names[picks].astype(object)
        if suffix.startswith("exp")
        else np.eye(len(names), dtype="f4")[picks],
    }
    for kind, array in arrays.items():
        np.save(folder / f"{kind}_{suffix}.npy", array, allow_pickle=True)
    return arrays | {"label": np.array([CLASSES.index(name) for name in names[picks]])}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize(("experiment", "task"), SUFFIXES)
def test_arrays_come_back(tmp_path, rng, experiment, task, dtype):
    arrays = write_arrays(tmp_path, SUFFIXES[experiment, task], rng, dtype=dtype)
    survey = read_margnet(tmp_path, experiment, task)
    kept = np.isin(arrays["label"], [CLASSES.index(name) for name in TASKS[task]])
    np.testing.assert_array_equal(survey.objid, arrays["objlist"][kept])
    np.testing.assert_array_equal(survey.label, arrays["label"][kept])
    np.testing.assert_array_equal(survey.features, arrays["dnnx"][kept])
    expected = arrays["X"][kept].transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(survey.stamps.decode(), expected)
    assert (survey.objid.dtype, survey.label.dtype, survey.features.dtype) == (np.int64, np.int8, np.float64)
    assert np.isnan(survey.ra).all()
    assert survey.profile is SDSS
    assert not survey.simulated
    # In place: the images are a view of the mapped file.
    assert isinstance(survey.stamps.parts[0].base, np.memmap)
    assert not survey.stamps.parts[0].flags.writeable


def test_half_precision_images_are_refused_by_name(tmp_path, rng):
    write_arrays(tmp_path, "exp1", rng, dtype="<f2")
    with pytest.raises(DataError, match=r"X_exp1\.npy: images are float16"):
        read_margnet(tmp_path, 1, "sgq")


def test_subfolders(tmp_path, rng):
    assert not is_margnet(tmp_path)
    assert not is_margnet(tmp_path / "nowhere")
    one = write_arrays(tmp_path / "exp1", "exp1", rng)
    write_arrays(tmp_path / "exp3", "sg_exp3", rng)
    assert is_margnet(tmp_path)
    assert is_margnet(str(tmp_path / "exp3"))
    np.testing.assert_array_equal(read_margnet(tmp_path, 1, "sgq").objid, one["objlist"])
    assert len(read_margnet(str(tmp_path), 3, "sg")) == 23
    write_arrays(tmp_path / "copy", "exp1", rng)
    with pytest.raises(DataError, match=r"objlist_exp1\.npy is in 2 places \(copy, exp1\)"):
        read_margnet(tmp_path, 1, "sgq")


def test_labels_in_other_forms(tmp_path, rng):
    arrays = write_arrays(tmp_path, "exp2", rng)
    path = tmp_path / "y_exp2.npy"
    np.save(path, arrays["y"].astype(str))
    np.testing.assert_array_equal(read_margnet(tmp_path, 2, "sgq").label, arrays["label"])
    np.save(path, np.eye(3, dtype=np.uint8)[arrays["label"]])
    np.testing.assert_array_equal(read_margnet(tmp_path, 2, "sgq").label, arrays["label"])


def test_missing_files_are_all_named(tmp_path, rng):
    write_arrays(tmp_path, "exp1", rng)
    (tmp_path / "dnnx_exp1.npy").unlink()
    (tmp_path / "y_exp1.npy").unlink()
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path}: dnnx_exp1.npy, y_exp1.npy are missing; expected")
    ):
        read_margnet(tmp_path, 1, "sg")
    with pytest.raises(
        DataError, match=r"X_exp2\.npy, dnnx_exp2\.npy, objlist_exp2\.npy, y_exp2\.npy are missing"
    ):
        read_margnet(tmp_path, 2, "sg")
    with pytest.raises(DataError, match="is not a folder"):
        read_margnet(tmp_path / "nowhere", 1, "sg")


def test_images_may_be_missing_on_request(tmp_path, rng):
    arrays = write_arrays(tmp_path, "exp1", rng)
    (tmp_path / "X_exp1.npy").unlink()
    with pytest.raises(DataError, match=r"X_exp1\.npy is missing; expected the files of DOI"):
        read_margnet(tmp_path, 1, "sgq")
    survey = read_margnet(tmp_path, 1, "sgq", require_images=False)
    np.testing.assert_array_equal(survey.features, arrays["dnnx"])
    assert survey.provenance["images"] is False
    pixels = survey.select(np.array([3, 1])).stamps.decode()
    assert pixels.shape == (2, 5, 32, 32)
    assert np.isnan(pixels).all()


def test_rows_must_align(tmp_path, rng):
    arrays = write_arrays(tmp_path, "exp1", rng)
    for kind in ("X", "dnnx", "objlist", "y"):
        path = tmp_path / f"{kind}_exp1.npy"
        whole = path.read_bytes()
        np.save(path, arrays[kind][:-2], allow_pickle=True)
        with pytest.raises(
            DataError, match=r"different numbers of rows \(.*\); expected row-aligned"
        ) as caught:
            read_margnet(tmp_path, 1, "sgq")
        assert f"{kind}_exp1.npy 21" in str(caught.value)
        assert str(caught.value).count("_exp1.npy 23") == 3
        path.write_bytes(whole)


def test_wrong_contents(tmp_path, rng):
    arrays = write_arrays(tmp_path, "sg_exp3", rng)
    twice = arrays["objlist"].copy()
    twice[7] = twice[2]
    soft = arrays["y"].copy()
    soft[5] = 0.5
    both = arrays["y"].copy()
    both[6] = 1
    cases = [
        ("objlist", twice, f"objID {twice[2]} comes 2 times"),
        ("objlist", arrays["objlist"].astype(float), "identifiers are float64"),
        ("objlist", arrays["objlist"][:, None], r"identifiers are int64 of shape \(23, 1\)"),
        (
            "dnnx",
            arrays["dnnx"][:, :23],
            r"features are float64 of shape \(23, 23\); expected floats of shape",
        ),
        ("dnnx", np.zeros((23, 24), int), "features are int64"),
        ("X", arrays["X"].transpose(0, 3, 1, 2), r"shape \(23, 5, 32, 32\); expected .* channel last"),
        ("X", arrays["X"][:, :31], r"images are float32 of shape \(23, 31, 32, 5\)"),
        ("y", soft, "row 5 is not one-hot"),
        ("y", both, "row 6 is not one-hot"),
        (
            "y",
            np.eye(3)[np.zeros(23, int)],
            r"classes have shape \(23, 3\); expected strings, or one-hot rows",
        ),
        (
            "y",
            np.array(["STAR"] * 22 + ["star"]),
            "row 22 has the class 'star'; expected GALAXY | QSO | STAR",
        ),
    ]
    for kind, array, message in cases:
        path = tmp_path / f"{kind}_sg_exp3.npy"
        whole = path.read_bytes()
        np.save(path, array)
        with pytest.raises(DataError, match=rf"{re.escape(str(path))}: .*{message.replace('|', '[|]')}"):
            read_margnet(tmp_path, 3, "sg")
        path.write_bytes(whole)
    assert len(read_margnet(tmp_path, 3, "sg")) == 23


@pytest.mark.parametrize("kind", ["X", "dnnx", "objlist", "y"])
@pytest.mark.parametrize("suffix", ["exp1", "sg_exp3"])
def test_truncated_files(tmp_path, rng, kind, suffix):
    write_arrays(tmp_path, suffix, rng)
    path = tmp_path / f"{kind}_{suffix}.npy"
    whole = path.read_bytes()
    for length in (0, 4, 60, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=re.escape(str(path))) as caught:
            read_margnet(tmp_path, 1 if suffix == "exp1" else 3, "sg")
        assert "\n" not in str(caught.value)


def test_hostile_arrays_are_not_run(tmp_path, rng):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/pwned",)

    arrays = write_arrays(tmp_path, "exp1", rng)
    for kind in ("X", "dnnx", "objlist", "y"):
        path = tmp_path / f"{kind}_exp1.npy"
        whole = path.read_bytes()
        array = np.empty(len(arrays["y"]), object)
        array[:] = [Bomb()] * len(array)
        np.save(path, array, allow_pickle=True)
        for content in (path.read_bytes(), pickle.dumps(Bomb())):
            path.write_bytes(content)
            with pytest.raises(DataError, match=re.escape(str(path))):
                read_margnet(tmp_path, 1, "sg")
        path.write_bytes(whole)
    assert not (tmp_path / "pwned").exists()


def test_choices_are_checked(tmp_path):
    survey = bare_survey(np.arange(40), np.zeros(40, np.int8))
    for call in (
        lambda e, t: read_margnet(tmp_path, e, t),
        lambda e, t: published_experiment_split(survey, e, t),
    ):
        with pytest.raises(ConfigError, match="no experiment 4; expected 1, 2 or 3"):
            call(4, "sg")
        with pytest.raises(ConfigError, match="no task 'sq'"):
            call(1, "sq")
    with pytest.raises(ConfigError, match="experiment 3 is not split"):
        published_experiment_split(survey, 3, "sg")
    with pytest.raises(ConfigError, match=r"no recipe 'other'; expected margformer \| margnet"):
        published_experiment_split(survey, 1, "sg", "other")


# ---- splits ----


def bare_survey(objid: np.ndarray, label: np.ndarray) -> Survey:
    """A survey of identifiers and labels alone: features and pixels are NaN and take no memory."""
    n = len(objid)
    return Survey(
        profile=SDSS,
        objid=objid,
        ra=np.zeros(n),
        dec=np.zeros(n),
        label=label,
        features=np.broadcast_to(np.nan, (n, 24)),
        stamps=Stamps((np.broadcast_to(np.float32(np.nan), (n, 5, 32, 32)),)),
        simulated=False,
    )


def test_split_is_the_same_before_and_after_the_deletion(rng):
    label = rng.integers(-1, 3, 500).astype(np.int8)
    survey = bare_survey(rng.permutation(500), label)
    in_task = label != CLASSES.index("QSO")
    in_task &= label != UNKNOWN
    whole = published_experiment_split(survey, 2, "sg", "margnet")
    deleted = survey.select(in_task)
    part = published_experiment_split(deleted, 2, "sg", "margnet")
    for side in ("train", "val", "test"):
        np.testing.assert_array_equal(survey.objid[getattr(whole, side)], deleted.objid[getattr(part, side)])
    together = np.concatenate([whole.train, whole.val, whole.test])
    assert sorted(together) == np.flatnonzero(in_task).tolist()


def test_split_equals_scikit_learn(rng):
    """Two successive calls, as the published notebooks make them."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    survey = bare_survey(np.arange(777), np.zeros(777, np.int8))
    for recipe, fractions in RECIPES.items():
        for experiment, (test, val) in fractions.items():
            rest, expected_test = model_selection.train_test_split(
                np.arange(777), test_size=test, random_state=42
            )
            expected_train, expected_val = model_selection.train_test_split(
                rest, test_size=val, random_state=42
            )
            split = published_experiment_split(survey, experiment, "sgq", recipe)
            np.testing.assert_array_equal(split.train, expected_train)
            np.testing.assert_array_equal(split.val, expected_val)
            np.testing.assert_array_equal(split.test, expected_test)


# Fingerprints of train, val and test, then their class counts (GALAXY, QSO, STAR).
PUBLISHED = {
    (1, "sg", "margformer"): (
        ("69e52fc258de2020", "c9cae13b530fe394", "4b8b1c7f682a94e4"),
        ((60_090, 0, 59_917), (9_961, 0, 10_031), (9_948, 0, 10_052)),
    ),
    (1, "sgq", "margformer"): (
        ("e9df742ea2a8c40b", "6729cd233d11bdae", "80a5a4c3bb7ae713"),
        ((60_061, 59_962, 59_988), (9_918, 10_037, 10_033), (10_020, 10_001, 9_979)),
    ),
    (2, "sg", "margformer"): (
        ("fbee096f12f50e9e", "2d9a37b74c7c893a", "f8475d97557a4a06"),
        ((37_573, 0, 37_428), (6_211, 0, 6_284), (6_216, 0, 6_284)),
    ),
    (2, "sgq", "margformer"): (
        ("f9020d274fc435c4", "5ebcb7811090dec2", "ee9f8f5286380724"),
        ((37_583, 37_515, 37_406), (6_239, 6_213, 6_290), (6_178, 6_272, 6_300)),
    ),
    (2, "sg", "margnet"): (
        ("5585e39541a73b7a", "8b2d73ecaa5ccc79", "48bba1e18cc08c79"),
        ((39_940, 0, 40_056), (5_066, 0, 4_934), (4_994, 0, 5_006)),
    ),
    (2, "sgq", "margnet"): (
        ("2861c581bd25a82c", "36edc3f17b3947b5", "5fb7987d882c85d3"),
        ((40_134, 39_992, 39_870), (4_956, 4_949, 5_095), (4_910, 5_059, 5_031)),
    ),
}


@pytest.fixture(scope="module")
def published(real_data):
    """The real identifiers and labels of Experiments 1 and 2."""
    surveys = {}
    for experiment in (1, 2):
        objid = np.load(real_data / "margnet" / f"objlist_exp{experiment}.npy")
        names = load_string_array(real_data / "margnet" / f"y_exp{experiment}.npy")
        surveys[experiment] = bare_survey(objid, np.searchsorted(CLASSES, names).astype(np.int8))
    return surveys


@pytest.mark.parametrize(("experiment", "task", "recipe"), PUBLISHED)
def test_published_splits(published, experiment, task, recipe):
    survey = published[experiment]
    split = published_experiment_split(survey, experiment, task, recipe)
    rows = (split.train, split.val, split.test)
    hashes, counts = PUBLISHED[experiment, task, recipe]
    assert tuple(fingerprint(survey.objid[side]) for side in rows) == hashes
    assert tuple(tuple(np.bincount(survey.label[side], minlength=3).tolist()) for side in rows) == counts


def test_published_identifiers_are_unique(published):
    for survey in published.values():
        assert len(np.unique(survey.objid)) == len(survey)


def test_real_experiment_3_features(real_data):
    """Half of the published two-class test set: features, classes and the cuts that made it."""
    folder = real_data / "margnet" / "exp3-half"
    with pytest.raises(DataError, match=r"X_sg_exp3\.npy is missing"):
        read_margnet(folder, 3, "sg")
    survey = read_margnet(real_data / "margnet", 3, "sg", require_images=False)
    assert len(survey) == 9511
    assert set(np.unique(survey.label)) == {CLASSES.index("GALAXY"), CLASSES.index("STAR")}
    assert survey.r_obs.min() > 20
    assert survey.compactness.max() < 0.5
    assert np.isfinite(survey.features).all()
    # One-hot columns are in label order: read the other way round, compact objects would be the galaxies.
    star = survey.label == CLASSES.index("STAR")
    assert np.median(survey.compactness[star]) < 0.2 < np.median(survey.compactness[~star])


def test_real_experiment_3_labels(real_data, tmp_path, rng):
    """The three-class one-hot labels, beside stand-ins for the arrays that are not at hand."""
    folder = real_data / "margnet"
    for kind in ("objlist", "y"):
        (tmp_path / f"{kind}_sgq_exp3.npy").symlink_to((folder / f"{kind}_sgq_exp3.npy").resolve())
    np.save(tmp_path / "dnnx_sgq_exp3.npy", rng.normal(size=(28_532, 24)))
    survey = read_margnet(tmp_path, 3, "sgq", require_images=False)
    assert np.bincount(survey.label).tolist() == [9_511, 9_510, 9_511]
