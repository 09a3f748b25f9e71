"""Splits: the published recipe against scikit-learn, no leak between experiments, strips of sky."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from margformer_fast.data.splits import (
    Split,
    fingerprint,
    hashed_split,
    object_hash,
    published_split,
    spatial_split,
)
from margformer_fast.errors import ConfigError, DataError


def sides(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return split.train, split.val, split.test


@pytest.mark.parametrize("fractions", [(0.125, 0.1428), (0.1, 0.1111111), None])
def test_published_split_is_two_calls_of_train_test_split(rng, fractions):
    n, seed = int(rng.integers(50, 5000)), int(rng.integers(0, 1000))
    test_fraction, val_fraction = fractions or rng.uniform(0.05, 0.6, 2).tolist()
    rest, test = train_test_split(np.arange(n), test_size=test_fraction, random_state=seed)
    train, val = train_test_split(rest, test_size=val_fraction, random_state=seed)
    found = published_split(n, test_fraction, val_fraction, seed)
    for mine, theirs in zip(sides(found), (train, val, test), strict=True):
        assert mine.dtype == np.int64
        np.testing.assert_array_equal(mine, theirs)


def test_published_split_has_the_published_indices():
    """First rows of the split of the 159,999 stars and galaxies of Experiment 1."""
    split = published_split(159_999, 0.125, 0.1428)
    assert [len(rows) for rows in sides(split)] == [120_007, 19_992, 20_000]
    assert split.train[:3].tolist() == [149911, 147889, 147445]
    assert split.val[:3].tolist() == [138473, 46365, 98654]
    assert split.test[:3].tolist() == [49889, 32693, 79957]


def test_fingerprint_is_over_little_endian_int64_in_order(rng):
    objid = rng.integers(-(2**63), 2**63, 17)
    expected = hashlib.sha256(struct.pack("<17q", *objid.tolist())).hexdigest()[:16]
    assert fingerprint(objid) == fingerprint(objid.astype(">i8")) == expected
    assert fingerprint(objid[::-1]) != expected


def test_fingerprint_of_the_real_list(real_data):
    """The whole of the published Experiment 1, quasars included, by the published recipe."""
    objid = np.load(real_data / "margnet" / "objlist_exp1.npy")
    split = published_split(len(objid), 0.125, 0.1428)
    assert [fingerprint(objid[rows]) for rows in sides(split)] == [
        "e9df742ea2a8c40b",
        "6729cd233d11bdae",
        "80a5a4c3bb7ae713",
    ]


def test_object_hash_is_that_of_splitmix64():
    """SplitMix64 seeded with 0 begins with these numbers; the second is the hash of its increment."""
    first, second = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4
    increment = 0x9E3779B97F4A7C15
    # The key is itself the hash of the seed: seed 0 has key `first`, which is taken off again here.
    objid = np.array([0 ^ first, increment ^ first], np.uint64).view(np.int64)
    assert object_hash(objid, 0).tolist() == [first, second]


def test_hashed_split_follows_the_object(rng):
    """In any order and any company, an object is on the same side."""
    objid = rng.choice(2**62, 4000, replace=False) * rng.choice([-1, 1], 4000)
    seed = int(rng.integers(-5, 2**63))
    whole = hashed_split(objid, 0.2, 0.25, seed)
    side_of = {value: k for k, rows in enumerate(sides(whole)) for value in objid[rows].tolist()}
    assert len(side_of) == len(objid)
    some = rng.permutation(objid)[:1234]
    part = hashed_split(some, 0.2, 0.25, seed)
    assert sorted(np.concatenate(sides(part)).tolist()) == list(range(1234))
    for k, rows in enumerate(sides(part)):
        assert {side_of[value] for value in some[rows].tolist()} == {k}


def test_hashed_split_has_the_fractions_asked_for(rng):
    n = 40_000
    objid = np.arange(n) + int(rng.integers(2**61))  # consecutive, as identifiers of one field are
    split = hashed_split(objid, 0.125, 0.1428, int(rng.integers(1000)))
    for rows, share in zip(sides(split), (0.875 * (1 - 0.1428), 0.875 * 0.1428, 0.125), strict=True):
        assert abs(len(rows) - share * n) < 6 * np.sqrt(n * share * (1 - share))


def test_hashed_split_hangs_on_the_seed(rng):
    objid = rng.choice(2**62, 2000, replace=False)
    one, other = (hashed_split(objid, 0.5, 0.5, seed).test for seed in (1, 2))
    both = len(np.intersect1d(one, other))
    assert abs(both - 500) < 6 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("axis", ["ra", "dec"])
def test_strips_follow_the_longer_axis_and_do_not_overlap(rng, axis):
    n = int(rng.integers(100, 900))
    long, short = rng.uniform(0, 0.3, n), rng.uniform(0, 0.1, n)
    # Across right ascension 0, and so far north that a degree of right ascension is a quarter as wide.
    if axis == "ra":
        ra, dec, along = (359.8 + 4 * long) % 360, 75.5 + short, long
    else:
        ra, dec, along = (359.9 + 4 * short) % 360, 75.5 + long, long
    split = spatial_split(ra, dec, 0.2, 0.25)
    train, val, test = (along[rows] for rows in sides(split))
    assert train.max() < val.min() <= val.max() < test.min()
    assert len(train) + len(val) + len(test) == n
    assert len(test) == int(np.ceil(0.2 * n))
    assert len(val) == int(np.ceil(0.25 * (n - len(test))))


def test_strips_keep_their_distance(rng):
    n, gap = 3000, 12.0
    ra, dec = 150 + rng.uniform(0, 0.02, n), rng.uniform(-0.1, 0.1, n)
    split = spatial_split(ra, dec, 0.3, 0.3, gap_arcsec=gap)
    train, val, test = (3600 * dec[rows] for rows in sides(split))
    assert val.min() - train.max() >= gap
    assert test.min() - val.max() >= gap
    left_out = n - sum(map(len, (train, val, test)))
    assert 0 < left_out < n / 10


def test_objects_level_with_a_border_stay_together():
    dec = np.repeat([0.0, 0.1, 0.2, 0.3], 5)
    split = spatial_split(np.full(20, 10.0), dec, 0.3, 0.3)
    for value in np.unique(dec):
        level = np.flatnonzero(dec == value)
        assert sum(np.isin(level, rows).all() for rows in sides(split)) == 1


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, float("nan")])
def test_fractions_outside_0_to_1_are_refused(bad):
    objid = np.arange(100)
    position = np.linspace(0, 1, 100)
    for make in (
        lambda f: published_split(100, *f),
        lambda f: hashed_split(objid, *f, 0),
        lambda f: spatial_split(position, position, *f),
    ):
        with pytest.raises(ConfigError, match="the test fraction is"):
            make((bad, 0.5))
        with pytest.raises(ConfigError, match="the validation fraction is"):
            make((0.5, bad))


def test_too_few_objects_are_refused():
    with pytest.raises(DataError, match="the training side of a split of 2 objects is empty"):
        published_split(2, 0.5, 0.5)
    with pytest.raises(DataError, match="side of a split of 1 objects is empty"):
        hashed_split(np.array([7]), 0.2, 0.2, 0)
    for n in (0, 1, 2):
        with pytest.raises(DataError, match=f"{n} objects are too few"):
            spatial_split(np.zeros(n), np.zeros(n), 0.3, 0.3)
    with pytest.raises(DataError, match="the training side of a split of 9 objects is empty"):
        spatial_split(np.zeros(9), np.zeros(9), 0.3, 0.3)  # all in one place


def test_unknown_positions_are_refused():
    ra, dec = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.0, 0.0, np.inf, 0.0])
    with pytest.raises(DataError, match="2 of 4 objects have no position"):
        spatial_split(ra, dec, 0.3, 0.3)
    with pytest.raises(ConfigError, match="the gap between strips is -1 arcsec"):
        spatial_split(ra, dec, 0.3, 0.3, gap_arcsec=-1)
