"""How hard the simulated survey is, and how like the real one: ``python benchmarks/simulated_survey.py``.

Prints the numbers of ``docs/simulation.md``. Boosted trees on the 24 features stand for any classifier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_predict

from margformer_fast.cli import table
from margformer_fast.data.margnet import read_margnet
from margformer_fast.data.populations import EXPERIMENT3_EDGES, experiment3
from margformer_fast.data.simulate import simulate
from margformer_fast.data.survey import CLASSES, SDSS, TASKS, Survey
from margformer_fast.evaluation.metrics import roc_auc
from margformer_fast.ops.stamps import Stamps

SHOWN = ("dered_u", "dered_r", "dered_z", "deVRad_u", "deVRad_r", "deVRad_z", "u_g", "g_r", "r_i", "i_z")


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


def trees(features: np.ndarray, label: np.ndarray) -> HistGradientBoostingClassifier:
    """Fit the classifier that stands for any."""
    model = HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.06, l2_regularization=1.0, random_state=0
    )
    return model.fit(features, label)


def difficulty(survey: Survey) -> list[tuple[str, float, float, float]]:
    """Return the accuracy of each experiment by task, in percent."""
    held_out = np.arange(len(survey)) // 3 % 4 == 0
    sample = survey.columns["sample"]
    rows = []
    for task, names in TASKS.items():
        known = np.isin(survey.label, [CLASSES.index(name) for name in names])
        scores, fitted = [], {}
        for k in (1, 2):
            train, test = (known & (sample == k) & side for side in (~held_out, held_out))
            fitted[k] = trees(survey.features[train], survey.label[train])
            scores.append(100 * fitted[k].score(survey.features[test], survey.label[test]))
        third = experiment3(survey, task, survey.objid[sample == 1], seed=0)
        scores.append(100 * fitted[1].score(survey.features[third], survey.label[third]))
        rows.append((task, *scores))
    return rows


def weights(magnitude: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weight objects so that their magnitudes are spread as `wanted`."""
    ours, theirs = (np.histogram(m, EXPERIMENT3_EDGES)[0] for m in (magnitude, wanted))
    bins = np.clip(np.searchsorted(EXPERIMENT3_EDGES, magnitude) - 1, 0, len(ours) - 1)
    return (theirs / np.maximum(ours, 1))[bins]


def compare(survey: Survey, real: Survey) -> None:
    """Print features of faint simulated and real objects side by side, and transfer between them."""
    r = survey.r_obs
    faint = survey.select((survey.columns["sample"] == 2) & (r > 20) & (r < 23) & (survey.label != 1))
    cells: dict[str, list[object]] = {name: [name] for name in (*SHOWN, "compactness (median)")}
    for k in (0, 2):
        ours, theirs = faint.select(faint.label == k), real.select(real.label == k)
        weight = weights(ours.r_obs, theirs.r_obs)
        for name in SHOWN:
            column = SDSS.feature_names.index(name)
            x = ours.features[:, column]
            mean = np.average(x, weights=weight)
            spread = np.sqrt(np.average((x - mean) ** 2, weights=weight))
            y = theirs.features[:, column]
            cells[name] += [f"{mean:.2f}, {spread:.2f}", f"{y.mean():.2f}, {y.std():.2f}"]
        cells["compactness (median)"] += [f"{np.median(s.compactness):.2f}" for s in (ours, theirs)]
        both = np.concatenate([ours.features, theirs.features])
        is_real = np.repeat([0, 1], [len(ours), len(theirs)])
        fresh = HistGradientBoostingClassifier(max_iter=100, random_state=0)
        score = cross_val_predict(fresh, both, is_real, cv=3, method="predict_proba")[:, 1]
        print(f"{CLASSES[k]}: simulated or real? area under the curve {roc_auc(is_real == 1, score):.3f}")
    print("\nmean, standard deviation of faint objects")
    print(
        table(("feature", "galaxies, sim.", "galaxies, real", "stars, sim.", "stars, real"), cells.values())
    )
    print("\ntested on real Experiment-3 stars and galaxies")
    for k in (1, 2):
        train = (survey.columns["sample"] == k) & (survey.label != 1)
        model = trees(survey.features[train], survey.label[train])
        print(f"  trained on simulated sample {k}: {100 * model.score(real.features, real.label):.1f} %")
    unfitted = HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.06, l2_regularization=1.0, random_state=0
    )
    predicted = cross_val_predict(unfitted, real.features, real.label, cv=5)
    print(f"  trained on real ones, in five folds: {100 * (predicted == real.label).mean():.1f} %")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 11, 12])
    parser.add_argument(
        "--real", type=Path, metavar="DIR", help="folder with dnnx_sg_exp3.npy and companions"
    )
    options = parser.parse_args()
    surveys = {seed: make(18_000, 12_000, seed) for seed in options.seeds}
    print("simulated: accuracy of boosted trees on features, percent")
    rows = [(seed, *row) for seed, survey in surveys.items() for row in difficulty(survey)]
    print(table(("seed", "task", "experiment 1", "experiment 2", "experiment 3"), rows, decimals=1))
    if options.real is not None:
        print()
        compare(surveys[options.seeds[0]], read_margnet(options.real, 3, "sg", require_images=False))


if __name__ == "__main__":
    main()
