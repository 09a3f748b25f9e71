"""Populations: the published cuts, and the balanced test set of Experiment 3."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import toy_survey

from margformer_fast.data.populations import POPULATIONS, cut, experiment3, population
from margformer_fast.data.survey import CLASSES, SDSS, TASKS, Survey
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.ops.stamps import Stamps

GALAXY, QSO, STAR = range(3)


def survey_of(
    rng, n: int, magnitude=(18.0, 24.0), compactness=(0.0, 1.0), classes=(GALAXY, QSO, STAR)
) -> Survey:
    """Objects of which only labels and features matter; a band's ratio scatters about the mean asked for."""
    extinction = rng.uniform(0, 0.3, (n, 5))
    observed = rng.uniform(*magnitude, (n, 1)) + rng.normal(0, 0.3, (n, 5))
    width = rng.uniform(0.8, 1.6, (n, 5))
    ratio = rng.uniform(*compactness, (n, 1)) * rng.dirichlet(np.full(5, 4.0), n) * 5
    per_band = np.stack([observed - extinction, ratio * width, width, extinction], axis=2).reshape(n, 20)
    return Survey(
        profile=SDSS,
        objid=rng.choice(2**62, n, replace=False),
        ra=np.full(n, np.nan),
        dec=np.full(n, np.nan),
        label=rng.choice(classes, n).astype(np.int8),
        features=np.concatenate([per_band, -np.diff(observed, axis=1)], axis=1),
        stamps=Stamps((np.broadcast_to(np.float32(0), (n, 5, 32, 32)),)),
        simulated=True,
    )


def by_hand(survey: Survey) -> tuple[list[float], list[float], list[float]]:
    """Compactness, mean observed magnitude and r of each object, from the named features, one by one."""
    rows = [dict(zip(SDSS.feature_names, row, strict=True)) for row in survey.features.tolist()]
    compact = [sum(f[f"deVRad_{b}"] / f[f"psffwhm_{b}"] for b in "ugriz") / 5 for f in rows]
    mean = [sum(f[f"dered_{b}"] + f[f"extinction_{b}"] for b in "ugriz") / 5 for f in rows]
    return compact, mean, [f["dered_r"] + f["extinction_r"] for f in rows]


def test_cuts(rng):
    survey = survey_of(rng, 500)
    compact, mean, _ = by_hand(survey)
    assert population(survey, "all").tolist() == [True] * 500
    assert population(survey, "compact").tolist() == [c < 0.5 for c in compact]
    expected = [c < 0.5 and m > 20 for c, m in zip(compact, mean, strict=True)]
    assert population(survey, "faint-compact").tolist() == expected
    assert 0 < sum(expected) < 500


def test_a_sample_column_restricts(rng):
    survey = survey_of(rng, 500)
    sample = rng.integers(0, 3, 500)
    marked = replace(survey, columns={"sample": sample})
    assert population(marked, "all").all()
    for name, value in (("compact", 1), ("faint-compact", 2)):
        np.testing.assert_array_equal(population(marked, name), population(survey, name) & (sample == value))


def test_objects_with_unknown_features_belong_to_no_cut(rng):
    survey = survey_of(rng, 50, magnitude=(21, 23), compactness=(0.1, 0.3))
    survey.features[7, SDSS.feature_names.index("deVRad_g")] = np.nan
    assert np.flatnonzero(~population(survey, "compact")).tolist() == [7]
    assert np.flatnonzero(~population(survey, "faint-compact")).tolist() == [7]


def test_empty_populations_say_why(rng):
    bright = survey_of(rng, 30, magnitude=(15, 17), compactness=(0.1, 0.2))
    assert not cut(bright, "faint-compact").any()
    with pytest.raises(DataError) as caught:
        population(bright, "faint-compact")
    mean = bright.magnitudes.mean(axis=1)
    assert f"mean magnitude {mean.min():.2f} to {mean.max():.2f}" in str(caught.value)
    assert "population 'faint-compact' is empty: 30 objects" in str(caught.value)
    assert "mean magnitude > 20" in str(caught.value)
    wide = survey_of(rng, 30, compactness=(2, 3))
    with pytest.raises(DataError, match=r"population 'compact' is empty: 30 objects, compactness 2\.\d\d to"):
        population(wide, "compact")
    marked = replace(bright, columns={"sample": np.full(30, 2)})
    with pytest.raises(DataError, match="0 in sample 1"):
        population(marked, "compact")
    with pytest.raises(DataError, match="population 'all' is empty: 0 objects"):
        population(bright.select(np.arange(0)), "all")


def test_unknown_names_are_refused(rng):
    survey = toy_survey(5, rng)
    with pytest.raises(ConfigError, match="no population 'dim'") as caught:
        population(survey, "dim")
    assert all(name in str(caught.value) for name in POPULATIONS)
    with pytest.raises(ConfigError, match=r"no task 'gs'; expected sg \| sgq"):
        experiment3(survey, "gs", survey.objid[:0], 0)


@pytest.mark.parametrize("task", TASKS)
def test_experiment3_is_balanced_in_every_bin(rng, task):
    survey = survey_of(rng, 6000, magnitude=(19.5, 23.5), compactness=(0.0, 0.7))
    exclude = rng.choice(survey.objid, 1500, replace=False)
    rows = experiment3(survey, task, exclude, int(rng.integers(2**40)))
    compact, _, r = by_hand(survey)
    banned = set(exclude.tolist())
    candidates = [
        k for k in range(6000) if compact[k] < 0.5 and 20 < r[k] <= 23 and int(survey.objid[k]) not in banned
    ]
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(candidates)
    count = 0
    for low in range(200, 230):
        here = [k for k in candidates if low / 10 < r[k] <= (low + 1) / 10]
        wanted = min(sum(survey.label[k] == c for k in here) for c in (GALAXY, STAR))
        for label in (GALAXY, STAR):
            assert sum(survey.label[k] == label and k in here for k in rows.tolist()) == wanted
        # Blocks: the galaxies of the bin, then its stars.
        block = survey.label[rows[count : count + 2 * wanted]]
        assert block.tolist() == [GALAXY] * wanted + [STAR] * wanted
        count += 2 * wanted
    quasars = rows[count:]
    assert (survey.label[quasars] == QSO).all()
    there_are = sum(survey.label[k] == QSO for k in candidates)
    assert len(quasars) == (0 if task == "sg" else min(count // 2, there_are))


def test_experiment3_takes_all_quasars_where_there_are_few(rng):
    # Five deviations of the scatter away from either end, so that no quasar falls out.
    survey = survey_of(rng, 1000, magnitude=(21.4, 21.6), compactness=(0, 0.4), classes=(GALAXY, STAR))
    label = survey.label.copy()
    label[:7] = QSO
    survey = replace(survey, label=label)
    quasars = experiment3(survey, "sgq", survey.objid[:0], 0)[-7:]
    assert set(quasars.tolist()) == set(range(7))


def test_experiment3_chooses_objects_not_rows(rng):
    survey = survey_of(rng, 2000, magnitude=(20, 23), compactness=(0, 0.4))
    shuffled = survey.select(rng.permutation(2000))
    nobody = survey.objid[:0]
    chosen = survey.objid[experiment3(survey, "sgq", nobody, 5)]
    np.testing.assert_array_equal(chosen, shuffled.objid[experiment3(shuffled, "sgq", nobody, 5)])
    assert set(chosen.tolist()) != set(survey.objid[experiment3(survey, "sgq", nobody, 6)].tolist())


@pytest.mark.parametrize("missing", [GALAXY, QSO, STAR])
def test_experiment3_names_the_class_that_is_missing(rng, missing):
    survey = survey_of(rng, 300, magnitude=(20.5, 22.5), compactness=(0, 0.4))
    mine = survey.label == missing
    with pytest.raises(DataError) as caught:
        experiment3(survey, "sgq", survey.objid[mine], 0)
    message = str(caught.value)
    assert f"no {CLASSES[missing]} is left to test on" in message
    assert f"{mine.sum()} of 300 objects are of that class, 0 of them not trained on" in message
    bright = np.where(mine[:, None] & np.char.startswith(SDSS.feature_names, "dered"), -8.0, 0.0)
    with pytest.raises(
        DataError, match=rf"no {CLASSES[missing]} .* with observed r magnitude 1\d\.\d\d to 1"
    ):
        experiment3(replace(survey, features=survey.features + bright), "sgq", survey.objid[:0], 0)


def test_experiment3_without_a_common_magnitude(rng):
    survey = survey_of(rng, 300, magnitude=(20.5, 20.6), compactness=(0, 0.4), classes=(GALAXY, STAR))
    dered = np.char.startswith(SDSS.feature_names, "dered")
    survey = replace(survey, features=survey.features + 2.0 * dered * (survey.label == STAR)[:, None])
    r = survey.r_obs
    keep = np.where(survey.label == STAR, (r > 22) & (r < 23), (r > 20) & (r < 21))
    with pytest.raises(DataError, match=r"no 0\.1 mag bin holds both galaxies and stars"):
        experiment3(survey.select(keep), "sg", survey.objid[:0], 0)


def test_real_experiment3_features(real_data):
    """Half of the published test set satisfies the published cuts, as it was made by them."""
    folder = real_data / "margnet" / "exp3-half"
    features, objid = np.load(folder / "dnnx_sg_exp3.npy"), np.load(folder / "objlist_sg_exp3.npy")
    label = np.where(np.load(folder / "y_sg_exp3.npy").argmax(axis=1) == 0, GALAXY, STAR).astype(np.int8)
    n = len(objid)
    blank = np.broadcast_to(np.float32(0), (n, 5, 32, 32))
    survey = Survey(
        SDSS, objid, np.full(n, np.nan), np.full(n, np.nan), label, features, Stamps((blank,)), False
    )
    assert population(survey, "compact").all()
    assert (survey.r_obs > 20).all()
    chosen = survey.select(experiment3(survey, "sg", objid[:0], 0))
    galaxies, stars = (np.sort(chosen.r_obs[chosen.label == c]) for c in (GALAXY, STAR))
    assert len(galaxies) == len(stars) > 4500
    assert abs(galaxies - stars).max() < 0.1 + 1e-9
