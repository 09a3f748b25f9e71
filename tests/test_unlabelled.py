"""Pre-training sees objects without labels, and never one that is validated or tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from short_runs import shorten
from toy import toy_survey

from margformer_fast import train
from margformer_fast.config import AugmentConfig
from margformer_fast.data.store import write_store
from margformer_fast.data.survey import LSST, UNKNOWN, Survey
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.experiments import make_sets
from margformer_fast.learning.dimmed_stamps import dimmed_views
from margformer_fast.learning.samples import Samples
from margformer_fast.ops.stamps import Stamps


def with_faint(rng: np.random.Generator, n: int = 900) -> Survey:
    """Compact objects of two classes, of which half are faint enough for Experiment 3; some are extended."""
    survey = toy_survey(n, rng)
    feature = survey.features.copy()
    names = survey.profile.feature_names
    shift = np.where(np.arange(n) % 2, 21.5, 19.0) + rng.uniform(-1, 1, n) - survey.r_obs
    for band in survey.profile.bands:
        feature[:, names.index(f"dered_{band}")] += shift
    feature[::10, [names.index(f"deVRad_{band}") for band in survey.profile.bands]] = 2.0
    return replace(survey, features=feature)


def test_the_pool_holds_no_object_of_another_set(rng: np.random.Generator, tmp_path: Path) -> None:
    survey = with_faint(rng)
    write_store(tmp_path / "store", survey)
    first, third = (make_sets(tmp_path / "store", number, "sg") for number in (1, 3))
    for sets in (first, third):
        assert sets.pretrain is not None
        held_out = np.concatenate([s.objid for s in (sets.val, first.test, third.test)])
        assert not np.isin(sets.pretrain.objid, held_out).any()
        assert np.isin(sets.train.objid, sets.pretrain.objid).all()
        assert len(sets.pretrain) > len(sets.train)
        assert len(np.unique(sets.pretrain.objid)) == len(sets.pretrain)
    # Experiment 3 takes over what Experiment 1 pre-trained.
    assert first.pretrain is not None
    assert third.pretrain is not None
    np.testing.assert_array_equal(first.pretrain.objid, third.pretrain.objid)
    # Extended objects are in no labelled set, and can be learned from all the same.
    assert (first.pretrain.compactness > 0.5).any()
    assert make_sets(tmp_path / "store", 1, "sg", split="sky").pretrain is None


def test_a_limited_pool_keeps_the_training_set(rng: np.random.Generator, tmp_path: Path) -> None:
    write_store(tmp_path / "store", with_faint(rng))
    sets = make_sets(tmp_path / "store", 1, "sg", max_train=100, max_pretrain=150)
    assert sets.pretrain is not None
    assert len(sets.pretrain) == 150
    assert np.isin(sets.train.objid, sets.pretrain.objid).all()
    sets = make_sets(tmp_path / "store", 1, "sg", max_train=100, max_pretrain=50)
    assert sets.pretrain is not None
    np.testing.assert_array_equal(np.sort(sets.pretrain.objid), np.sort(sets.train.objid))


def test_other_stores_join_the_pool(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    write_store(tmp_path / "store", with_faint(rng, 300))
    other = toy_survey(60, rng, objid_from=250)  # some of which the first store has
    other = replace(other, label=np.full(60, UNKNOWN, np.int8), simulated=False)
    write_store(tmp_path / "other", other)
    alone = make_sets(tmp_path / "store", 1, "sg")
    sets = make_sets(tmp_path / "store", 1, "sg", unlabelled=[tmp_path / "other"])
    assert alone.pretrain is not None
    assert sets.pretrain is not None
    added = np.setdiff1d(sets.pretrain.objid, alone.pretrain.objid)
    assert len(sets.pretrain) == len(alone.pretrain) + len(added)
    assert not np.isin(added, np.concatenate([sets.val.objid, sets.test.objid])).any()
    assert added.max() == 309
    arguments = ["--exp", "1", "--runs", "1", "--baselines", "none", "--data", str(tmp_path / "store")]
    arguments += ["--unlabelled", str(tmp_path / "other"), "--out", str(tmp_path / "run")]
    result = train.execute(train.parser().parse_args(arguments))
    pool = len(sets.pretrain)
    assert any(f"pre-training saw {pool} objects without" in note for note in result.header.warnings)
    with pytest.raises(ConfigError, match="--unlabelled goes with SimCLR"):
        train.execute(
            train.parser().parse_args([*arguments[:-1], str(tmp_path / "b"), "--method", "supervised"])
        )


def test_a_store_with_nothing_to_add(rng: np.random.Generator, tmp_path: Path) -> None:
    write_store(tmp_path / "store", with_faint(rng, 300))
    with pytest.raises(DataError, match="no object to pre-train on") as caught:
        make_sets(tmp_path / "store", 1, "sg", unlabelled=[tmp_path / "store"])
    assert "store" in str(caught.value)


def test_surveys_that_do_not_join(rng: np.random.Generator) -> None:
    survey = toy_survey(20, rng)
    other = toy_survey(20, rng, objid_from=100)
    both = survey.joined(other)
    np.testing.assert_array_equal(both.stamps.decode()[20:], other.stamps.decode())
    backwards = both.select(np.arange(40)[::-1]).joined(toy_survey(5, rng, objid_from=200))
    np.testing.assert_array_equal(backwards.stamps.decode()[:20], other.stamps.decode()[::-1])
    with pytest.raises(DataError, match="on both sides"):
        survey.joined(toy_survey(20, rng, objid_from=20))
    with pytest.raises(DataError, match="side 16"):
        survey.joined(replace(other, stamps=Stamps((np.zeros((20, 5, 16, 16), np.float32),))))
    lsst = replace(
        other, profile=LSST, features=np.zeros((20, 29)), stamps=Stamps((np.zeros((20, 6, 32, 32), "f4"),))
    )
    with pytest.raises(DataError, match="lsst"):
        survey.joined(lsst)


def test_dimmed_stamps_keep_their_noise(rng: np.random.Generator) -> None:
    survey = toy_survey(40, rng)
    sigma = rng.uniform(0.02, 0.1, 5)
    sky = rng.normal(0, 1, (40, 5, 32, 32)) * sigma[:, None, None]
    samples = Samples(
        replace(survey, stamps=Stamps((sky.astype(np.float32),))),
        ["GALAXY", "STAR"],
        torch.device("cpu"),
        "x",
    )
    rows, key = np.arange(40), {"seed": 1, "epoch": 2, "patch_size": 4}
    plain = samples.views(rows, AugmentConfig(max_shift=0, max_angle_deg=0), num_views=2, **key)
    fainter = np.stack([np.zeros(40), np.full(40, 1.5)])
    dimmed = dimmed_views(samples, rows, AugmentConfig(max_shift=0, max_angle_deg=0), fainter, sigma, **key)
    torch.testing.assert_close(dimmed[0], plain[0])
    pixel = dimmed[1].reshape(40, -1, 5)
    np.testing.assert_allclose(pixel.std(dim=(0, 1)).numpy(), sigma, rtol=0.03)  # 1024 * 40 pixels
    # What was there is there, fainter: the noise that was added has nothing to do with it.
    own = plain[1].reshape(40, -1, 5)
    slope = (pixel * own).sum(dim=(0, 1)) / (own**2).sum(dim=(0, 1))
    np.testing.assert_allclose(slope.numpy(), 10 ** (-0.4 * 1.5), atol=0.03)
    again = dimmed_views(
        samples, rows[7:9], AugmentConfig(max_shift=0, max_angle_deg=0), fainter[:, 7:9], sigma, **key
    )
    torch.testing.assert_close(again, dimmed[:, 7:9])


@pytest.mark.gpu
def test_dimmed_stamps_on_a_gpu(rng: np.random.Generator) -> None:
    survey, sigma = toy_survey(40, rng), rng.uniform(0.02, 0.1, 5)
    fainter, rows = rng.uniform(0, 2, (2, 40)), np.arange(40)
    here, there = (
        dimmed_views(
            Samples(survey, ["GALAXY", "STAR"], torch.device(name), "x"),
            rows,
            AugmentConfig(),
            fainter,
            sigma,
            seed=1,
            epoch=2,
            patch_size=4,
        ).cpu()
        for name in ("cpu", "cuda")
    )
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
