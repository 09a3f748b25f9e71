"""What a saved model says of itself: its headline numbers, and a card that a stranger can use it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import __version__
from ..config import ModelConfig
from ..data.survey import SurveyProfile
from .metrics import Evaluation, evaluate, wilson_interval
from .results import Outcome, RunHeader, TestSet, method_name
from .summary import CLASS_QUANTITIES, QUANTITIES

_SCHEMA = 1


@dataclass(frozen=True)
class AboutModel:
    """What a card says beside numbers.

    Parameters
    ----------
    profile : SurveyProfile
        Bands and features.
    config : ModelConfig
        Form and size of the encoder.
    parameters : int
        Number of trained numbers.
    feature_range : ndarray of float64, shape (F, 2)
        Between which values nearly all features of the training set lay.
    """

    profile: SurveyProfile
    config: ModelConfig
    parameters: int
    feature_range: np.ndarray


def model_metrics(header: RunHeader, test: TestSet, outcome: Outcome, about: AboutModel) -> dict[str, Any]:
    """Return the headline numbers of one saved model, JSON-able: fractions, None where undefined.

    Parameters
    ----------
    header, test
        The run; of test objects those that count.
    outcome : Outcome
        What this model predicted for them.
    about : AboutModel
        The model.
    """
    found = _evaluated(test, outcome)
    low, high = wilson_interval(found.scores.accuracy * len(test), len(test))
    return {
        "schema": _SCHEMA,
        "version": __version__,
        "survey": about.profile.name,
        "simulated": header.simulated,
        "source": header.source,
        "tested_on": header.title,
        "method": outcome.method,
        "seed": outcome.seed,
        "protocol": header.protocol,
        "objects": {part: dict(counts) for part, counts in header.counts.items()},
        "accuracy_interval_95": [float(low), float(high)],
        **{name: _plain(measure(found)) for name, measure in QUANTITIES.items()},
        "temperature": outcome.temperature,
        "classes": {
            name: {quantity: _plain(measure(found)[k]) for quantity, measure in CLASS_QUANTITIES.items()}
            for k, name in enumerate(header.classes)
        },
    }


def model_card(header: RunHeader, test: TestSet, outcome: Outcome | None, about: AboutModel) -> str:
    """Return the card of a saved model as Markdown.

    Parameters
    ----------
    header, test, about
        As for :func:`model_metrics`.
    outcome : Outcome, optional
        None if its head was never trained, so that it classifies nothing.
    """
    profile, config = about.profile, about.config
    form = "MargFormer" if config.form == "margformer" else "LViT"
    warning = (
        "**Trained and tested on simulated objects.** How well it does on real ones was not measured.\n\n"
        if header.simulated
        else ""
    )
    what = (
        f"{form}, {config.depth} layers of width {config.dim}, {config.slots} slots, "
        f"{about.parameters:,} parameters. Made by margformer_fast {__version__}."
    )
    trained = (
        f"## Trained on\n\n{header.source} ({header.kind_of_data} objects).\n\n{_counts(header)}\n\n"
        f"Protocol {header.protocol}, preset {header.preset}."
    )
    if "command" in header.settings:
        trained += f"\n\n```\n{header.settings['command']}\n```"
    parts = [
        f"# {form} for {profile.name.upper()}: {', '.join(header.classes)}",
        warning + what,
        _inputs(about),
        trained,
        _numbers(header, test, outcome),
        _loading(header, outcome),
        "## Limits\n\n" + "\n".join(f"* {text}" for text in _limits(header, outcome)),
    ]
    return "\n\n".join(parts) + "\n"


def _evaluated(test: TestSet, outcome: Outcome) -> Evaluation:
    return evaluate(test.label, outcome.probability, temperature=outcome.temperature)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inputs(about: AboutModel) -> str:
    profile, config = about.profile, about.config
    rows = [
        [str(k), f"`{name}`", unit, f"{low:.2f} to {high:.2f}"]
        for k, (name, unit, (low, high)) in enumerate(
            zip(profile.feature_names, profile.feature_units, about.feature_range, strict=True)
        )
    ]
    return (
        f"## Takes\n\n**images** (N, {config.num_bands}, {config.size}, {config.size}), float32: bands "
        f"{', '.join(profile.bands)} in this order, {profile.pixel_scale_arcsec} arcsec a pixel, sky "
        f"subtracted, in {profile.flux_unit} (magnitude {profile.zero_point} is 1). The object is in the "
        f"middle.\n\n**features** (N, {config.num_features}) in this order; the last column is where 99.8 % "
        f"of the training set lay:\n\n{_table(('', 'feature', 'unit', 'trained on'), rows)}"
    )


def _counts(header: RunHeader) -> str:
    rows = [
        [part, *(f"{counts.get(name, 0):,}" for name in header.classes)]
        for part, counts in header.counts.items()
    ]
    return _table(("objects", *header.classes), rows)


def _numbers(header: RunHeader, test: TestSet, outcome: Outcome | None) -> str:
    if outcome is None:
        return "## Accuracy\n\nNone: the head was never trained. The model embeds, and classifies nothing."
    found = _evaluated(test, outcome)
    low, high = wilson_interval(found.scores.accuracy * len(test), len(test))
    of_class = (found.scores.precision, found.scores.recall, found.scores.f1)
    rows = [[name, *(_percent(values[k]) for values in of_class)] for k, name in enumerate(header.classes)]
    text = (
        f"## Accuracy\n\n{header.title}: {method_name(outcome.method)} (seed {outcome.seed}) is right on "
        f"**{_percent(found.scores.accuracy)} %** of {len(test):,} {header.kind_of_data} test objects "
        f"({100 * float(low):.2f} to {100 * float(high):.2f} % by their number).\n\n"
        + _table(("percent", "precision (purity)", "recall (completeness)", "F1"), rows)
    )
    if outcome.temperature is None:
        return text + "\n\nNot calibrated: a run with few labels has too few objects for it."
    return text + (
        f"\n\nLogits are divided by a temperature of {outcome.temperature:.3f} before softmax; that takes "
        f"the calibration error (ECE) on the test objects from {found.ece:.4f} to {found.ece_scaled:.4f}."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if np.isfinite(value) else "-"


def _loading(header: RunHeader, outcome: Outcome | None) -> str:
    call = (
        "found = model.predict(images, features, level=0.9)     # probability, label, in_set, flag"
        if outcome is not None
        else "vectors = model.embed(images, features)"
    )
    return (
        "## Load\n\n```python\nfrom margformer_fast import Classifier\n\n"
        f'model = Classifier.load("this/directory")              # {", ".join(header.classes)}\n{call}\n```'
    )


def _limits(header: RunHeader, outcome: Outcome | None) -> list[str]:
    found = []
    if header.simulated:
        found.append("Simulated objects are as their makers thought the sky is.")
    if "QSO" not in header.classes:
        found.append("It knows no quasars: it calls them one of its classes.")
    found.append(
        "Numbers hold for objects drawn as the test objects were. Other magnitudes, seeing or extinction are "
        "other objects; features far outside the column above are flagged OUT_OF_RANGE."
    )
    if outcome is not None and outcome.temperature is not None:
        found.append(
            "Temperature and prediction sets come from validation objects, which also chose the epoch."
        )
        if header.experiment == 3 and header.population is None:
            found.append(
                "Validation objects have all magnitudes, test objects are faint: sets promise nothing there."
            )
    found += [f"Repeats an error of the published recipe: {text}" for text in header.deviations.values()]
    return found + list(header.warnings)
