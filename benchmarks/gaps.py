"""What a missing value costs: a run's test objects again, with features, bands or whole stamps taken away.

``python benchmarks/gaps.py RUN``, with the directory of a run, and ``--data`` if it was made with that. The
model is that of its first seed. Columns: share classified correctly, share whose 90 % set holds the true
class, and mean number of classes in a set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from margformer_fast import Classifier, cli
from margformer_fast.data.simulated import made_once
from margformer_fast.data.survey import TASKS
from margformer_fast.experiments import PRESETS, make_sets
from margformer_fast.files import read_json
from margformer_fast.learning.samples import Samples


def without_features(features: np.ndarray, names: tuple[str, ...], *gone: str) -> np.ndarray:
    """Return features with those that start or end with one of `gone` missing."""
    out = features.copy()
    for k, name in enumerate(names):
        if any(name.startswith(each) or name.endswith(each) for each in gone):
            out[:, k] = np.nan
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    made = read_json(options.run / "run.json")["settings"]
    size = PRESETS[made["preset"]]
    sets = make_sets(
        options.data or made_once(size.num_compact, size.num_faint),
        made["experiment"],
        made["task"],
        chosen_population=None if made["population"] == "experiment" else made["population"],
        split=made["split"],
        max_train=size.max_train if options.data is None else None,
    )
    label = Samples(sets.test, TASKS[made["task"]], torch.device("cpu"), "test").label.numpy()
    model = Classifier.load(options.run / f"seed-{made['seed']}" / "model")
    images, features = sets.test.stamps.decode(), sets.test.features
    names, bands = model.profile.feature_names, model.profile.bands
    blue, red = bands[0], model.profile.reference_band
    no_blue, middle = images.copy(), images.copy()
    no_blue[:, 0] = np.nan
    middle[:, :, 14:18, 14:18] = np.nan
    cases = {
        "nothing": (images, features),
        "all stamps": (None, features),
        f"band {blue} of stamps": (no_blue, features),
        "middle 4 x 4 pixels": (middle, features),
        f"band {blue} of stamps and features": (
            no_blue,
            without_features(features, names, f"_{blue}", f"{blue}_"),
        ),
        "radii": (images, without_features(features, names, "deVRad_")),
        f"radius in {red}": (images, without_features(features, names, f"deVRad_{red}")),
        "seeing": (images, without_features(features, names, "psffwhm_")),
        "extinction": (images, without_features(features, names, "extinction_")),
        "all features": (images, None),
    }
    rows = []
    for name, given in cases.items():
        found = model.predict(*given)
        held = found.in_set[np.arange(len(label)), label]
        right = found.label == label
        rows.append((name, 100 * right.mean(), 100 * held.mean(), found.in_set.sum(axis=1).mean()))
    kind = "simulated" if sets.test.simulated else "real"
    print(f"{len(label):,} {kind} test objects\n")
    print(cli.table(("missing", "accuracy, %", "in set, %", "set size"), rows, decimals=2))
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(main())
