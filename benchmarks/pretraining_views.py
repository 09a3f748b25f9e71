"""What the views of pre-training are worth: how well few labels do with what each kind of them taught.

    python benchmarks/pretraining_views.py [--only KIND ...]

Simulated objects (those of `python -m margformer_fast.train --exp 1`), preset "quick". For each kind of
views an encoder is pre-trained without labels, then a linear head is fitted to the embeddings of 1 % and 10 %
of the training objects, six times with other ones, and the encoder is left as it is. Printed are the accuracy
on validation objects, by which views were chosen, and on the test objects of Experiments 1 and 3.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from margformer_fast.config import AugmentConfig, PhotometryViewConfig
from margformer_fast.data.simulated import made_once
from margformer_fast.data.survey import TASKS, Survey
from margformer_fast.experiments import PRESETS, make_sets
from margformer_fast.learning.classify import predict
from margformer_fast.learning.head import fit_head
from margformer_fast.learning.pretrain import pretrain
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder

DRAWS = 6
ALL = PhotometryViewConfig()
KINDS = {
    "no pre-training": None,
    "hidden": ("hidden", ALL),
    "shared": ("shared", ALL),
    "noise alone": ("varied", PhotometryViewConfig(fainter=0, conditions=False, radius_noise=0)),
    "own seeing and dust": ("varied", replace(ALL, conditions=False)),
    "radii without noise": ("varied", replace(ALL, radius_noise=0)),
    "not fainter": ("varied", replace(ALL, fainter=0)),
    "stamps not fainter": ("varied", replace(ALL, stamps=False)),
    "varied": ("varied", ALL),
    "varied, training objects alone": ("varied", ALL),
}


def main() -> None:
    """Pre-train with each kind of views and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    preset, classes, device = PRESETS["quick"], TASKS["sg"], torch.device("cpu")
    first, third = (
        make_sets(
            made_once(preset.num_compact, preset.num_faint),
            number,
            "sg",
            max_train=preset.max_train,
            max_pretrain=preset.max_pretrain,
        )
        for number in (1, 3)
    )
    pool = first.train if first.pretrain is None else first.pretrain

    def samples(survey: Survey) -> Samples:
        return Samples(survey, classes, device, "views")

    train, val, everything = samples(first.train), samples(first.val), samples(pool)
    tests = (val, samples(first.test), samples(third.test))
    print(f"simulated: {len(pool):,} without labels, some of {len(train):,} with one; seed {options.seed}")
    print(f"{'views':32s} labels  validation      Exp 1 test      Exp 3 test      seconds")
    for kind in options.only:
        torch.manual_seed(options.seed)
        model = ScaledEncoder(preset.model("margformer-64", first.train), len(classes))
        model.inputs.fit(train.photometry, torch.from_numpy(train.pixel_noise()))
        seen = train if "alone" in kind and "training" in kind else everything
        started = time.monotonic()
        if KINDS[kind] is not None:
            photometry, views = KINDS[kind]
            with tempfile.TemporaryDirectory() as folder:
                pretrain(
                    model,
                    seen,
                    val,
                    preset.fit("pretrain", len(seen)),
                    AugmentConfig(),
                    photometry=photometry,
                    photometry_views=views,
                    precision="fp32",
                    seed=options.seed,
                    directory=Path(folder),
                    label=kind,
                )
        seconds = time.monotonic() - started
        for share in (0.01, 0.1):
            found = np.array([_accuracies(model, train, tests, share, draw) for draw in range(DRAWS)])
            cells = [
                f"{m:5.2f} +- {s:4.2f} %" for m, s in zip(found.mean(0), found.std(0, ddof=1), strict=True)
            ]
            print(f"{kind:32s} {share:5.0%}   {'  '.join(cells)}  {seconds:6.0f}", flush=True)


def _accuracies(
    model: ScaledEncoder, train: Samples, tests: tuple[Samples, ...], share: float, draw: int
) -> list[float]:
    """Fit a head to a share of each class and return what it is right on, in per cent."""
    rng, label = np.random.default_rng(draw), train.label.numpy()
    rows = [rng.permutation(np.flatnonzero(label == k)) for k in range(len(train.classes))]
    few = np.sort(np.concatenate([each[: int(np.ceil(share * len(each)))] for each in rows]))
    fit_head(
        model,
        Samples(train.survey.select(few), train.classes, train.device, "labelled"),
        precision="fp32",
    )
    return [100 * (predict(model, each)[0].argmax(1) == each.label.numpy()).mean() for each in tests]


if __name__ == "__main__":
    main()
