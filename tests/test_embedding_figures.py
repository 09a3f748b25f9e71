"""Cosines of pairs are those of the embeddings, within classes and between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from toy_results import toy_results

from margformer_fast.errors import DataError
from margformer_fast.evaluation.embedding_figures import (
    cosine_histograms,
    cosines_of_pairs,
    embedding_figures,
)
from margformer_fast.evaluation.style import png


def all_cosines(embedding):
    """Return the cosine of every two objects, (N, N), by the angle's definition."""
    x = embedding - embedding.mean(axis=0)
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for a in x] for b in x])


def test_cosines_are_those_of_pairs_of_two_objects(rng):
    label = rng.permutation(np.repeat([0, 1, 2], (6, 5, 4)))
    embedding = rng.normal(size=(15, 4)) + 5
    within, between = cosines_of_pairs(embedding, label, 3, pairs=2000)
    table = all_cosines(embedding)
    same = label[:, None] == label
    for k, drawn in enumerate(within):
        pairs = np.triu(same & (label == k)[:, None], 1)
        # Every pair occurs among so many draws, and no object is paired with itself.
        np.testing.assert_allclose(unique(drawn), unique(table[pairs]), atol=1e-9)
    np.testing.assert_allclose(unique(between), unique(table[np.triu(~same, 1)]), atol=1e-9)


def unique(values):
    return np.unique(np.round(values, 10))


def test_pairs_between_classes_come_in_their_proportion(rng):
    """Classes at three corners: the cosine says which two were drawn."""
    corners = np.array([[1.0, 0], [0, 1], [-3, -3]])
    counts = np.array([60, 30, 10])
    label = np.repeat([0, 1, 2], counts)
    _, between = cosines_of_pairs(corners[label], label, 3, pairs=20_000, seed=int(rng.integers(1000)))
    x = corners - corners[label].mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = {(a, b): counts[a] * counts[b] for a in range(3) for b in range(a)}
    total = sum(expected.values())
    for (a, b), many in expected.items():
        share = np.mean(np.abs(between - x[a] @ x[b]) < 1e-9)
        assert abs(share - many / total) < 5 * np.sqrt(0.25 / 20_000)


def test_classes_that_are_apart_and_classes_that_are_not(rng):
    label = np.repeat([0, 1], 100)
    apart = 10 * np.eye(5)[label] + rng.normal(size=(200, 5)) / 10
    within, between = cosines_of_pairs(apart, label, 2)
    assert min(map(np.min, within)) > 0.9
    assert between.max() < -0.9
    within, between = cosines_of_pairs(rng.normal(size=(200, 50)), label, 2)
    assert abs(np.mean(np.concatenate(within)) - between.mean()) < 0.05


def test_classes_of_one_object_or_none():
    embedding = np.arange(6.0).reshape(3, 2) ** 2
    within, between = cosines_of_pairs(embedding, np.array([0, 0, 2]), 3, pairs=10)
    assert [len(cosine) for cosine in within] == [10, 0, 0]
    assert len(between) == 10
    assert len(cosines_of_pairs(embedding, np.zeros(3, int), 2, pairs=10)[1]) == 0
    flat, _ = cosines_of_pairs(np.ones((3, 2)), np.zeros(3, int), 1, pairs=10)
    assert (flat[0] == 0).all()
    with pytest.raises(DataError, match=r"embedding has shape \(3, 2\); expected \(4, D\)"):
        cosines_of_pairs(embedding, np.zeros(4, int), 1)


def test_the_figure_has_a_panel_a_method_and_says_how_alike(rng):
    header, test, outcomes = toy_results(rng, task="sgq", n=200, runs=2)
    probe = replace(outcomes[0], method="simclr-probe")
    figure = cosine_histograms(header, test, [*outcomes, probe])
    png(figure, dpi=40)
    text = [each.get_text() for each in figure.findobj(Text)]
    assert sum("seed 0" in line for line in text) == 2
    for name in header.classes:
        assert f"both {name}" in text
    with pytest.raises(DataError, match="no run has an embedding"):
        cosine_histograms(header, test, outcomes[1:2])


def test_figures_that_the_contents_allow(rng):
    header, test, outcomes = toy_results(rng, n=30, runs=1)
    assert [named.stem for named in embedding_figures(header, test, outcomes)] == ["embedding", "cosines"]
    assert list(embedding_figures(header, test, outcomes[1:])) == []
    thin = replace(outcomes[0], embedding=outcomes[0].embedding[:, :1])
    assert [named.stem for named in embedding_figures(header, test, [thin])] == ["cosines"]
