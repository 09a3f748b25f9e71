"""Made-up results for tests of figures and reports; nothing here was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from margformer_fast.data.survey import TASKS
from margformer_fast.evaluation.baselines import decisions
from margformer_fast.evaluation.explained import Explained, objects_to_explain
from margformer_fast.evaluation.results import CalibrationSet, Outcome, RunHeader, TestSet


def probabilities(
    rng: np.random.Generator, label: np.ndarray, classes: int, skill: float = 1.5
) -> np.ndarray:
    """Return probabilities that know the label the better, the higher the skill."""
    logit = rng.normal(size=(len(label), classes)) + skill * np.eye(classes)[label]
    p = np.exp(logit - logit.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def history(rng: np.random.Generator, epochs: int, *, accuracy: bool = True) -> list[dict[str, float | None]]:
    """Return falling losses."""
    rows = []
    for epoch in range(1, epochs + 1):
        loss = float(np.exp(-epoch / 5) + 0.05 * rng.random())
        row = {"epoch": epoch, "train_loss": loss, "val_loss": loss + 0.1, "seconds": 1.0, "rate": 100.0}
        rows.append(row | ({"val_accuracy": 1 - loss / 2} if accuracy else {}))
    return rows


def toy_results(
    rng: np.random.Generator,
    *,
    task: str = "sg",
    n: int = 160,
    runs: int = 2,
    simulated: bool = True,
    experiment: int = 1,
) -> tuple[RunHeader, TestSet, list[Outcome]]:
    """Return a header, a test set with images of its first 12 objects, and outcomes of three methods.

    The first object is always misclassified by the first method.
    """
    classes = TASKS[task]
    count = len(classes)
    label = rng.integers(0, count, n)
    label[:count] = np.arange(count)
    test = TestSet(
        objid=1_237_648_720_693_755_918 + rng.permutation(n),
        ra=rng.uniform(0, 360, n),
        dec=rng.uniform(-10, 60, n),
        label=label,
        r_obs=rng.uniform(19, 20.5, n),
        compactness=rng.uniform(0, 0.5, n),
        stamps_preview=rng.normal(size=(12, 5, 32, 32)).astype(np.float32),
    )
    outcomes = []
    mistake = np.eye(count)[(label[0] + 1) % count]
    for seed in range(runs):
        curves = {"pretrain": history(rng, 6, accuracy=False), "finetune": history(rng, 5)}
        embedding = rng.normal(size=(n, 8)).astype(np.float32) + 3 * np.eye(8, dtype=np.float32)[label]
        probability = probabilities(rng, label, count)
        probability[0] = 0.98 * mistake + 0.02 / count
        outcomes.append(Outcome("simclr", seed, probability, curves, embedding))
        outcomes.append(Outcome("features-only", seed, probabilities(rng, label, count, 1.0)))
    outcomes.append(Outcome("survey-separator", 0, decisions(np.where(rng.random(n) < 0.8, label, 0), count)))
    header = RunHeader(
        experiment=experiment,
        task=task,
        classes=classes,
        preset="quick",
        protocol="clean",
        simulated=simulated,
        source="numbers made up for a test",
        counts={part: dict.fromkeys(classes, 10) for part in ("train", "val", "test")},
        settings={
            "command": "python -m margformer_fast.train --exp 1",
            "batch": 8,
            "finetune": {"epochs": 5},
        },
        versions={"numpy": np.__version__},
        backends={"decode": "reference"},
        seconds=12.5,
    )
    return header, test, outcomes


def without_images(test: TestSet) -> TestSet:
    """Return the test set without its images."""
    return replace(test, stamps_preview=None, preview_rows=None)


def with_explained(rng: np.random.Generator, test: TestSet, outcome: Outcome) -> TestSet:
    """Return the test set with maps of what a run looked at: noise, and weight on the middle."""
    rows = objects_to_explain(test.label, outcome.probability)
    occlusion = rng.normal(size=(len(rows), 8, 8))
    occlusion[:, 3:5, 3:5] += 4
    share = rng.gamma(5, size=(len(rows), 8, 8))
    share *= 0.9 / share.sum(axis=(1, 2), keepdims=True)
    stamps = rng.normal(size=(len(rows), 5, 32, 32)).astype(np.float32)
    stamps[:, :, 12:20, 12:20] += 20
    explained = Explained(outcome.method, outcome.seed, rows, stamps, occlusion, share)
    return replace(test, explained=explained)


def with_calibration(
    rng: np.random.Generator, header: RunHeader, outcomes: list[Outcome], m: int = 300
) -> tuple[CalibrationSet, list[Outcome]]:
    """Return a calibration set, and the outcomes with its probabilities; the separator stays without."""
    count = len(header.classes)
    label = rng.integers(0, count, m)
    calibration = CalibrationSet(rng.permutation(m), label, rng.uniform(18, 20.5, m))
    return calibration, [
        outcome
        if outcome.decides_only
        else replace(outcome, calibration=probabilities(rng, label, count, 1.5))
        for outcome in outcomes
    ]
