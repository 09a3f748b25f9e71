"""Do stamps tell more than the features measured from them? ``python benchmarks/two_inputs.py``.

Boosted trees on the 24 features, on numbers taken from the stamps (light within weights of growing width,
second moments against the seeing), on both together, and a logistic regression of the first two's
log-probabilities: on simulated objects, each beside features alone, with the error of the difference.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from margformer_fast import cli
from margformer_fast.data.simulate import simulate
from margformer_fast.data.survey import CLASSES, SDSS, TASKS

TRAIN, VAL = 0.6, 0.15
SEEDS = 3
WIDTHS = (0.7, 1.0, 1.6, 2.5)
"""Of the weights, in standard deviations of the seeing."""

Parts = tuple[np.ndarray, np.ndarray]


def of_stamps(pixels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return numbers of stamps (N, 5, S, S), around a common centre of the three middle bands."""
    side = np.arange(pixels.shape[-1]) - (pixels.shape[-1] - 1) / 2
    y, x = np.meshgrid(side, side, indexing="ij")
    sigma_NC = features[:, 2:20:4] / SDSS.pixel_scale_arcsec / 2.3548
    middle = pixels[:, 1:4].sum(1)
    near = np.exp(-(x**2 + y**2) / 18)
    light = (middle * near).sum((1, 2))
    light = np.where(light > 0, light, 1)
    centre_x, centre_y = (np.clip((middle * near * a).sum((1, 2)) / light, -1.5, 1.5) for a in (x, y))
    r2 = (x - centre_x[:, None, None]) ** 2 + (y - centre_y[:, None, None]) ** 2
    sky = np.median(pixels, (2, 3), keepdims=True)
    noise_NC = 1.4826 * np.median(np.abs(pixels - sky), (2, 3))
    columns = []
    excess = power = variance = 0.0
    for band in range(pixels.shape[1]):
        image, s2, noise = pixels[:, band], sigma_NC[:, band] ** 2, noise_NC[:, band]
        for width in WIDTHS:
            weight = np.exp(-r2 / (2 * width**2 * s2[:, None, None]))
            columns.append((image * weight).sum((1, 2)) / np.sqrt((weight**2).sum((1, 2))) / noise)
        weight = np.exp(-r2 / (2 * s2[:, None, None]))
        flux, second = (image * weight).sum((1, 2)), (image * weight * r2).sum((1, 2))
        columns.append(second / np.where(flux == 0, 1, flux) / s2)
        bright = np.maximum(flux, 0)
        excess = excess + (second - s2 * flux) / s2 / noise**2 * bright
        power = power + bright**2 / noise**2
        variance = variance + bright**2 * ((weight * r2) ** 2).sum((1, 2)) / s2**2 / noise**2
    columns += [excess / np.maximum(power, 1e-9), excess / np.sqrt(np.maximum(variance, 1e-9))]
    return np.stack(columns, 1)


def trees(x: np.ndarray, label: np.ndarray, train: np.ndarray, *asked: np.ndarray) -> list[np.ndarray]:
    """Return mean probabilities of `SEEDS` boosted classifiers for each set of rows asked for."""
    found = []
    for seed in range(SEEDS):
        model = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=400, l2_regularization=1.0, max_features=0.5, random_state=seed,
            early_stopping=True, n_iter_no_change=30,
        ).fit(x[train], label[train])  # fmt: skip
        found.append([model.predict_proba(x[rows]) for rows in asked])
    return [np.mean(part, axis=0) for part in zip(*found, strict=True)]


def compare(features: np.ndarray, images: np.ndarray, label: np.ndarray) -> list[tuple[str, ...]]:
    """Return a row for each kind of input: accuracy, and difference from features alone with its error."""
    order = np.random.default_rng(0).permutation(len(label))
    train, val, test = np.split(order, [round(TRAIN * len(order)), round((TRAIN + VAL) * len(order))])
    inputs = {"features": features, "stamps": images, "both as one input": np.hstack([features, images])}
    found = {name: trees(x, label, train, val, test) for name, x in inputs.items()}
    logs = [
        np.hstack([np.log(np.clip(found[name][part], 1e-4, 1)) for name in ("features", "stamps")])
        for part in (0, 1)
    ]
    joint = LogisticRegression(max_iter=1000).fit(logs[0], label[val]).predict(logs[1])
    classes = np.unique(label)
    right = {name: classes[each[1].argmax(1)] == label[test] for name, each in found.items()}
    right["both, joined by a regression"] = joint == label[test]
    rows = []
    for name, hit in right.items():
        gain = hit.astype(float) - right["features"]
        error = gain.std() / np.sqrt(len(gain))
        rows.append(
            (
                name,
                f"{100 * hit.mean():.2f}",
                "" if name == "features" else f"{100 * gain.mean():+.2f} +- {100 * error:.2f}",
            )
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", choices=("compact", "faint"), default="faint")
    parser.add_argument("--objects", type=int, default=30_000)
    cli.add_seed(parser)
    options = parser.parse_args()
    compact = options.sample == "compact"
    features, images, label = [], [], []
    sizes = (options.objects, 0) if compact else (0, options.objects)
    for chunk in simulate(*sizes, seed=options.seed):
        pixels = np.nan_to_num(chunk.stamps.decode(np.arange(len(chunk))).astype(np.float64))
        features.append(chunk.features)
        images.append(of_stamps(pixels, chunk.features))
        label.append(chunk.label)
    x, i, y = (np.concatenate(part) for part in (features, images, label))
    for names in TASKS.values():
        kept = np.isin(y, [CLASSES.index(name) for name in names])
        count = kept.sum() - round((TRAIN + VAL) * kept.sum())
        print(f"\n{options.sample}, {' '.join(names)}, {count:,} simulated test objects")
        header = ("boosted trees on", "accuracy %", "less features")
        print(cli.table(header, compare(x[kept], i[kept], y[kept])), flush=True)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(main())
