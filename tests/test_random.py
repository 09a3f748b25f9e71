"""Philox against its published known answers; draws depend on their key alone."""

from __future__ import annotations

import numpy as np
import pytest

from margformer_fast.reference.random import derive_seed, draw, philox, uniform


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Known-answer tests of the Random123 distribution for philox4x32 with ten rounds.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(philox(np.array(counter, np.uint32), key)) == words


def test_draws_do_not_depend_on_the_batch(rng: np.random.Generator) -> None:
    objid = rng.integers(-(2**62), 2**62, 50)
    seed, epoch, view = int(rng.integers(2**63)), int(rng.integers(2**32)), 1
    whole = draw(seed, epoch, objid, view)
    order = rng.permutation(50)
    assert np.array_equal(draw(seed, epoch, objid[order], view), whole[order])
    assert np.array_equal(draw(seed, epoch, objid[7:8], view)[0], whole[7])


def test_every_part_of_the_key_matters() -> None:
    objid = np.array([5, 5 + 2**40, -5])
    base = draw(1, 2, objid, 0)
    assert len(np.unique(base, axis=0)) == 3
    for other in (
        draw(2, 2, objid, 0),
        draw(1 + 2**40, 2, objid, 0),
        draw(1, 3, objid, 0),
        draw(1, 2, objid, 1),
    ):
        assert not np.any(np.all(other == base, axis=1))


def test_uniform_is_uniform() -> None:
    value = uniform(draw(3, 0, np.arange(20_000), 0))
    assert value.min() >= 0
    assert value.max() < 1
    assert np.abs(value.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / 20_000) ** 0.5
    counts = np.apply_along_axis(lambda v: np.histogram(v, 10, (0, 1))[0], 0, value)
    assert (np.abs(counts - 2000) < 6 * 1800**0.5).all()


def test_derived_seeds_differ() -> None:
    seeds = {derive_seed(s, a, b) for s in range(5) for a in range(5) for b in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
