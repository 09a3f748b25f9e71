"""How like the real sky the simulated survey is, and how hard: ``python benchmarks/simulated_survey.py``.

Prints the numbers of ``docs/simulation.md``. The selection of the survey was fitted to real objects of
even objID; what is compared here are those of odd objID. Boosted trees on the 24 features stand for any
classifier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_predict

from margformer_fast.cli import table
from margformer_fast.config import ModelConfig
from margformer_fast.data.margnet import read_margnet
from margformer_fast.data.populations import experiment3
from margformer_fast.data.simulate import COMPACT, FAINT, simulate
from margformer_fast.data.survey import CLASSES, SDSS, TASKS, Survey
from margformer_fast.evaluation import likeness
from margformer_fast.evaluation.likeness_page import text, write_page
from margformer_fast.nn.margformer import MargFormer
from margformer_fast.ops.stamps import Stamps

LISTED_TO = {"u": 19.6}
"""The table of ten thousand labelled magnitudes ends there, in the midst of rising counts."""


def make(num_compact: int, num_faint: int, seed: int) -> Survey:
    """Simulate and keep everything but the pixels."""
    chunks = list(simulate(num_compact, num_faint, seed=seed))
    n = sum(len(chunk) for chunk in chunks)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    return Survey(
        profile=SDSS,
        objid=joined("objid"),
        ra=joined("ra"),
        dec=joined("dec"),
        label=joined("label"),
        features=joined("features"),
        stamps=Stamps((np.broadcast_to(np.float32(0), (n, 5, 32, 32)),)),
        simulated=True,
        columns={"sample": np.concatenate([chunk.columns["sample"] for chunk in chunks])},
    )


def boosting() -> HistGradientBoostingClassifier:
    """Return the classifier that stands for any."""
    return HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.06, l2_regularization=1.0, random_state=0
    )


def trees(features: np.ndarray, label: np.ndarray) -> HistGradientBoostingClassifier:
    """Fit it."""
    return boosting().fit(features, label)


def difficulty(survey: Survey) -> list[tuple[str, float, float, float, float, float]]:
    """Return the accuracy of each experiment by task, and in the third of galaxies and stars, in percent."""
    held_out = np.arange(len(survey)) // 3 % 4 == 0
    sample = survey.columns["sample"]
    rows = []
    for task, names in TASKS.items():
        known = np.isin(survey.label, [CLASSES.index(name) for name in names])
        scores, fitted = [], {}
        for k in (COMPACT, FAINT):
            train, test = (known & (sample == k) & side for side in (~held_out, held_out))
            fitted[k] = trees(survey.features[train], survey.label[train])
            scores.append(100 * fitted[k].score(survey.features[test], survey.label[test]))
        third = experiment3(survey, task, survey.objid[sample == COMPACT], seed=0)
        right = fitted[COMPACT].predict(survey.features[third]) == survey.label[third]
        scores += [100 * right.mean(), *(100 * right[survey.label[third] == k].mean() for k in (0, 2))]
        rows.append((task, *scores))
    return rows


def network(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, epochs: int = 20, seed: int = 0
) -> np.ndarray:
    """Train the photometric branch of MargFormer with its head on standardised features, and predict."""
    torch.manual_seed(seed)
    mean, scale = train_x.mean(axis=0), train_x.std(axis=0)
    x, test = (torch.tensor((a - mean) / scale, dtype=torch.float32).clamp(-6, 6) for a in (train_x, test_x))
    y = torch.tensor(train_y)
    whole = MargFormer(ModelConfig(), 2)
    model = torch.nn.Sequential(whole.to_dnn, whole.mlp_head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        rate.step()
    model.eval()
    with torch.no_grad():
        return model(test).argmax(1).numpy()


def transfer(survey: Survey, real: Survey) -> None:
    """Print how a star / galaxy classifier trained on simulated objects does on real ones."""
    print("\nstar / galaxy, tested on the real Experiment-3 objects; percent")
    truth = (real.label == 2).astype(int)
    rows = []
    for k, name in ((COMPACT, "simulated Experiment 1"), (FAINT, "simulated Experiment 2")):
        train = (survey.columns["sample"] == k) & (survey.label != 1)
        x, y = survey.features[train], (survey.label[train] == 2).astype(int)
        for method, predicted in (
            ("trees", trees(x, y).predict(real.features)),
            ("network", network(x, y, real.features)),
        ):
            right = predicted == truth
            rows.append(
                (name, method, *(100 * right[s].mean() for s in (truth >= 0, truth == 0, truth == 1)))
            )
    right = cross_val_predict(boosting(), real.features, truth, cv=5) == truth
    rows.append(
        ("real, five folds", "trees", *(100 * right[s].mean() for s in (truth >= 0, truth == 0, truth == 1)))
    )
    print(table(("trained on", "by", "accuracy", "of galaxies", "of stars"), rows, decimals=1))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 11, 12])
    parser.add_argument("--compact", type=int, default=18_000, help="objects of sample 1 (18000)")
    parser.add_argument("--faint", type=int, default=12_000, help="objects of sample 2 (12000)")
    parser.add_argument(
        "--real", type=Path, metavar="DIR", help="folder with dnnx_sg_exp3.npy and companions"
    )
    parser.add_argument("--magnitudes", type=Path, metavar="CSV", help="table of u, g, r, i, z and class")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the comparison as a page")
    parser.add_argument("--each-feature", action="store_true", help="also train on each feature alone")
    parser.add_argument("--skip-difficulty", action="store_true", help="compare only")
    options = parser.parse_args()
    surveys = {seed: make(options.compact, options.faint, seed) for seed in options.seeds}
    if not options.skip_difficulty:
        print("simulated: accuracy of boosted trees on features, percent")
        rows = [(seed, *row) for seed, survey in surveys.items() for row in difficulty(survey)]
        head = ("seed", "task", "experiment 1", "experiment 2", "experiment 3", "3: galaxies", "3: stars")
        print(table(head, rows, decimals=1))
    survey = surveys[options.seeds[0]]
    if options.real is not None:
        real = read_margnet(options.real, 3, "sg", require_images=False)
        held_out = real.select(real.objid % 2 == 1)
        faint = survey.select(survey.columns["sample"] == FAINT)
        found = likeness.compare(
            likeness.of_survey(faint, "simulated"),
            likeness.of_survey(held_out, "Experiment 3, odd objID"),
            each_feature=options.each_feature,
        )
        print(f"\n{text(found)}")
        if options.page is not None:
            write_page(found, options.page, "python benchmarks/simulated_survey.py --page")
        transfer(survey, real)
    if options.magnitudes is not None:
        compact = survey.select(survey.columns["sample"] == COMPACT)
        listed = likeness.read_magnitudes(options.magnitudes)
        both = (sample.within(LISTED_TO) for sample in (likeness.of_survey(compact, "simulated"), listed))
        print(f"\n{text(likeness.compare(*both))}")


if __name__ == "__main__":
    main()
