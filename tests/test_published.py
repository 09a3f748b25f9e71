"""Published numbers agree with the confusion matrices published beside them."""

from __future__ import annotations

import numpy as np
import pytest

from margformer_fast.data.survey import TASKS
from margformer_fast.evaluation.metrics import scores
from margformer_fast.evaluation.published import published

ALL = [result for experiment in (1, 2, 3) for task in TASKS for result in published(experiment, task)]
WITH_MATRIX = [result for result in ALL if result.confusion]
TEST_OBJECTS = {
    (1, "sg"): {20_000}, (1, "sgq"): {30_000}, (2, "sg"): {10_000, 12_500}, (2, "sgq"): {15_000, 18_750},
    (3, "sg"): {19_022}, (3, "sgq"): {28_532},
}  # fmt: skip


def name(result):
    return f"{result.experiment}-{result.task}-{result.model}"


@pytest.mark.parametrize("result", WITH_MATRIX, ids=name)
def test_numbers_follow_from_the_matrix(result):
    ours = scores(np.array(result.confusion))
    expected = (result.accuracy, result.precision, result.recall, result.f1)
    # To half a unit of the third decimal printed; 1e-9 for the rounding of the comparison itself.
    found = 100 * np.array([ours.accuracy, ours.macro_precision, ours.macro_recall, ours.macro_f1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-4 + 1e-9)


@pytest.mark.parametrize("result", WITH_MATRIX, ids=name)
def test_matrices_count_the_test_objects(result):
    assert np.shape(result.confusion) == (len(TASKS[result.task]),) * 2
    assert np.sum(result.confusion) in TEST_OBJECTS[result.experiment, result.task]


def test_matrices_of_one_test_set_have_one_truth():
    for key, totals in TEST_OBJECTS.items():
        for total in totals:
            rows = {
                tuple(np.sum(result.confusion, axis=1))
                for result in WITH_MATRIX
                if (result.experiment, result.task) == key and np.sum(result.confusion) == total
            }
            assert len(rows) == 1


@pytest.mark.parametrize("experiment", [1, 2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_every_experiment_has_what_its_authors_quote(experiment, task):
    results = published(experiment, task)
    headlines = [result.headline for result in results]
    assert {result.model for result in results if result.headline} >= {
        "MargNet",
        "Multimodal ViT",
        "MargFormer",
    }
    assert headlines == sorted(headlines, reverse=True)
    assert len({result.model for result in results}) == len(results)
    for result in results:
        assert (result.experiment, result.task) == (experiment, task)
        assert result.source
        assert 50 < min(result.accuracy, result.precision, result.recall) <= 100


def test_quoted_numbers_agree_with_a_run_of_the_same_model():
    # The quoted number has one decimal and a spread over runs; the run with a matrix is one of these.
    for result in ALL:
        if result.headline and result.model == "MargFormer":
            run = next(r for r in published(result.experiment, result.task) if r.model == "MargFormer K=128")
            assert abs(result.accuracy - run.accuracy) < 0.05 + result.spread


def test_the_number_to_beat():
    simclr = [r for r in published(1, "sg") if r.model == "SimCLR MargFormer"]
    assert [(r.accuracy, r.spread) for r in simclr] == [(97.725, 0.1)]
    assert "last fine-tuning epoch" in simclr[0].note


def test_nothing_is_published_for_other_experiments():
    assert published(4, "sg") == ()
    assert published(1, "qso") == ()
