"""How right is the photometric branch alone? Cross-validated on a folder of published features.

``python benchmarks/photometric_branch.py FOLDER``: the branch of MargFormer that sees the 24 features,
standardised or each mapped to a normal distribution by its rank, beside boosted trees, on the same folds. Of
the branch, three are trained, each with its epoch chosen by another tenth, and their probabilities averaged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import QuantileTransformer

from margformer_fast import cli
from margformer_fast.config import FitConfig
from margformer_fast.data.margnet import read_margnet
from margformer_fast.data.survey import CLASSES, TASKS
from margformer_fast.evaluation.baselines import features_only
from margformer_fast.learning.probe import probabilities, train_probe

FIT = FitConfig(30, 30, 256, 1e-3, "cosine", weight_decay=1e-2, clip_norm=1.0)
NUM_BRANCHES = 3
SMALLEST_SPREAD, LIMIT = 0.1, 6.0


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, spread = train.mean(0), np.maximum(train.std(0), SMALLEST_SPREAD)
    first, second = (np.clip((x - mean) / spread, -LIMIT, LIMIT) for x in (train, test))
    return first, second


def by_rank(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    to_normal = QuantileTransformer(output_distribution="normal", n_quantiles=500, random_state=0).fit(train)
    first, second = (np.clip(to_normal.transform(x), -3.5, 3.5) for x in (train, test))
    return first, second


def branch(train: np.ndarray, label: np.ndarray, test: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Train branches, each on all but its own tenth, which chooses its epoch; return mean probabilities."""
    x, y = torch.from_numpy(train).float(), torch.from_numpy(label).long()
    parts = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))).chunk(10)
    found = []
    for k in range(NUM_BRANCHES):
        val, rest = parts[k], torch.cat([part for i, part in enumerate(parts) if i != k])
        with tempfile.TemporaryDirectory() as folder:
            model, _ = train_probe(
                (x[rest], y[rest]), (x[val], y[val]), classes, FIT, kind="deep", seed=100 * seed + k,
                directory=Path(folder), name="branch", label=f"fold {seed + 1}, branch {k + 1}",
            )  # fmt: skip
        found.append(probabilities(model, torch.from_numpy(test).float()))
    return np.mean(found, axis=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="published arrays of Experiment 3; images are not needed")
    parser.add_argument("--task", choices=TASKS, default="sg")
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    survey = read_margnet(options.folder, 3, options.task, require_images=False)
    classes = TASKS[options.task]
    label = np.array([classes.index(name) if name in classes else -1 for name in CLASSES])[survey.label]
    x = survey.features
    right: dict[str, np.ndarray] = {
        name: np.zeros(len(x), bool) for name in ("standardised", "by rank", "boosted trees")
    }
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0).split(x, label)
    for fold, (rest, held) in enumerate(folds):
        for name, scale in (("standardised", standardised), ("by rank", by_rank)):
            inside, outside = scale(x[rest], x[held])
            found = branch(inside, label[rest], outside, len(classes), fold)
            right[name][held] = found.argmax(1) == label[held]
        trees = features_only(x[rest], label[rest], x[held], len(classes), fold)
        right["boosted trees"][held] = trees.argmax(1) == label[held]
    rows = [
        (name, f"{100 * hit.mean():.2f}", f"{100 * np.sqrt(hit.mean() * (1 - hit.mean()) / len(hit)):.2f}")
        for name, hit in right.items()
    ]
    print(f"{len(x):,} objects, {options.folds} folds, {' '.join(classes)}")
    print(cli.table(("24 features", "accuracy %", "+-"), rows))
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(main())
