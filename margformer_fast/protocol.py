"""The errors of the published recipe by name: a run repeats all of them, none, or all but some.

Read from the notebooks of srinadh99/Contrastive-Learning-for-Astronomy- (3320716), srinadh99/AstroFormer
(74fffb8) and sidchaini/MargNet (fe1b64d), and from the published lists of objects.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

from .errors import ConfigError

PROTOCOLS = ("clean", "published")

ERRORS = {
    "last_weights": "the 'best' weights are a reference to the live ones, so those of the last epoch are "
    "used (in Experiment 3 of the pre-training alone: its classifier is read from the best epoch's file)",
    "augmented_validation": "early stopping looks at randomly augmented validation stamps, new ones each "
    "epoch",
    "raw_inputs": "neither photometry nor pixels are scaled: magnitudes near 20 stand beside radii near 0.3",
    "ragged_batches": "the last batch of an epoch is smaller, so it has fewer negatives, and epoch losses "
    "are unweighted means over batches",
    "standardised_stamps": "each band of each stamp is brought to zero mean and unit spread, which takes "
    "flux and colour out of LViT's images",
    "shared_photometry": "both views of LViT's pre-training carry the same photometry, so the task can be "
    "solved without a look at the images",
    "probe_on_validation": "the probe of the frozen encoder is trained on nine tenths of the validation "
    "labels instead of the training labels",
    "head_on_validation": "MargNet's head is trained on the validation set, which chose its networks' "
    "epochs, and its own epoch is chosen by the same objects",
    "leaked_objects": "test objects of Experiment 3 that were trained or validated on count in its results "
    "(the three-class test set was built around the split of the two-class task)",
}
"""Name of each error, and what it is in one line."""

SEED_OF_VALIDATION_PART = 69
"""The seed by which the published notebook cuts its validation set in two for the probe."""


@dataclass(frozen=True)
class Protocol:
    """Which errors of the published recipe a run repeats; `ERRORS` says what each is.

    Parameters
    ----------
    last_weights, augmented_validation, raw_inputs, ragged_batches, standardised_stamps : bool
    shared_photometry, probe_on_validation, head_on_validation, leaked_objects : bool
        True is as published.
    """

    last_weights: bool
    augmented_validation: bool
    raw_inputs: bool
    ragged_batches: bool
    standardised_stamps: bool
    shared_photometry: bool
    probe_on_validation: bool
    head_on_validation: bool
    leaked_objects: bool


PUBLISHED = Protocol(**dict.fromkeys(ERRORS, True))
CLEAN = Protocol(**dict.fromkeys(ERRORS, False))


def make_protocol(name: str, without: Collection[str] = ()) -> Protocol:
    """Return a protocol by its name, with single errors switched off.

    Parameters
    ----------
    name : {"clean", "published"}
        None or all of the errors.
    without : collection of str
        Errors to mend, keys of `ERRORS`; with "published" only.

    Returns
    -------
    Protocol

    Raises
    ------
    ConfigError
        If the protocol or an error is not known, or an error is to be taken out of "clean", which has none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}", expected=" | ".join(PROTOCOLS))
    for error in without:
        if error not in ERRORS:
            raise ConfigError(
                f"the published recipe has no error {error!r}", where="--without", expected=", ".join(ERRORS)
            )
    if without and name == "clean":
        raise ConfigError(
            "the clean protocol has no errors to leave out",
            where="--without",
            mend="Add --protocol published, or leave out --without.",
        )
    return Protocol(
        **{
            e: kept and e not in without
            for e, kept in asdict(PUBLISHED if name != "clean" else CLEAN).items()
        }
    )


def protocol_title(name: str, without: Collection[str]) -> str:
    """Return how a protocol is called in reports: ``"published without last_weights"``."""
    return f"{name} without {', '.join(sorted(without))}" if without else name


def deviations(
    protocol: Protocol, *, experiment: int, method: str, model: str, baselines: Collection[str]
) -> dict[str, str]:
    """Return the errors that are on and can change a number of a run, with what each is.

    Parameters
    ----------
    protocol : Protocol
        The errors that are on.
    experiment, method, model, baselines
        As in :class:`margformer_fast.runner.RunSettings`.

    Returns
    -------
    dict of str to str
        A part of `ERRORS`, in its order.
    """
    is_lvit, pretrains = model == "lvit", method != "supervised"
    concerns = {
        "last_weights": pretrains or experiment != 3,
        "augmented_validation": method != "simclr-probe" or "images" in baselines,
        "raw_inputs": not is_lvit or "margnet" in baselines,
        "ragged_batches": not is_lvit,
        "standardised_stamps": is_lvit,
        "shared_photometry": is_lvit and pretrains,
        "probe_on_validation": pretrains,
        "head_on_validation": "margnet" in baselines,
        "leaked_objects": experiment == 3,
    }
    return {name: text for name, text in ERRORS.items() if getattr(protocol, name) and concerns[name]}


def differences(name: str, *, model: str, preset: str) -> list[str]:
    """Return in what a run of protocol "published" still differs from the published one, in words."""
    if name != "published":
        return []
    found = ["every random draw is seeded, where the published notebooks leave PyTorch unseeded"]
    if model == "lvit":
        found = [
            "training pixels are not clipped to their 0.1 and 99.9 percentiles",
            "shifts of the views take the nearest pixel, not a bilinear mean",
            "weight decay is decoupled",
            "the probe's learning rate is constant, not lowered on a plateau",
            "standardised photometry is limited to +-10",
        ]
    if preset != "paper":
        found.append(f"size, dropout, epochs and learning rates are those of preset {preset}")
    return [f"Published protocol, but: {'; '.join(found)}."]
