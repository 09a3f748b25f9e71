"""What there is to say about one object that was classified: bits of the column ``flag``."""

from __future__ import annotations

from enum import IntFlag


class Flag(IntFlag):
    """Bits of ``flag``; 0 is an object with everything, like those trained on.

    An object with any of them has probabilities for which no accuracy was measured; docs/models.md has what
    gaps cost one model.
    """

    FEATURE_MISSING = 1
    """At least one photometric feature is missing; the mean of the training set stands in for it."""

    BAND_MISSING = 2
    """At least one band of the stamp has no finite pixel; it was read as empty sky."""

    PIXEL_MISSING = 4
    """Some pixels of a band have no finite value; they were read as empty sky."""

    NO_FEATURES = 8
    """No photometric feature is there; the stamp alone was looked at, by a model trained on both."""

    NO_IMAGE = 16
    """No band has a finite pixel; the photometric features alone were looked at."""

    NOT_CLASSIFIED = 32
    """Neither features nor pixels are there, or the numbers overflowed; there is no probability."""

    OUT_OF_RANGE = 64
    """At least one feature lies far outside what the model was trained on."""

    UNCALIBRATED = 128
    """The model has no calibration: probabilities are as the network gave them, every class is in the set."""

    @property
    def in_words(self) -> str:
        """Names of the bits that are set, such as ``"FEATURE_MISSING+OUT_OF_RANGE"``; ``""`` for none."""
        return "+".join(bit.name or "" for bit in type(self) if bit in self)
