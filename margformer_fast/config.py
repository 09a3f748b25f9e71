"""Settings of models, augmentation and training: frozen, validated, JSON-able."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

from .errors import ConfigError


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}", expected=expected)


# What a setting may be in a file, by its annotation. True is no number.
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "float | tuple[float, ...]": (float, int, list, tuple),
}


class _Settings:
    """Conversion to and from plain dictionaries, for the dataclasses below."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-able dictionary."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make settings from a dictionary.

        Raises
        ------
        ConfigError
            If a key is not a setting of this class, or a value is out of range.
        """
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__} is {values!r:.60}", expected="settings by name")
        for key, value in values.items():
            if key not in known:
                raise ConfigError(
                    f"{cls.__name__} has no setting {key!r:.60}", expected=", ".join(sorted(known))
                )
            kinds = _KINDS[str(known[key].type)]
            if type(value) not in kinds:
                expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
                raise ConfigError(f"{key} is {value!r:.60}", expected=expected)
            if type(value) in (list, tuple):
                for each in value:
                    if type(each) not in (int, float):
                        raise ConfigError(f"{key} holds {each!r:.60}", expected="numbers")
        for name, f in known.items():
            if f.default is MISSING and name not in values:
                raise ConfigError(f"{cls.__name__} lacks {name!r}")
        return cls(**values)


@dataclass(frozen=True)
class ModelConfig(_Settings):
    """Form and size of an encoder.

    Parameters
    ----------
    form : {"margformer", "lvit"}
        MargFormer (one photometric query a layer) or the published LViT (self-attention).
    slots : int
        Linformer slots K that keys and values are compressed to: 64 and 128 are published for MargFormer,
        32 for LViT.
    depth, dim, num_heads : int
        Layers, token width, attention heads.
    hidden : int
        Width of the feed-forward part.
    size, patch_size, num_bands, num_features : int
        Stamp side and patch side in pixels, bands, photometric features.
    dropout : float
        Of attention weights and hidden units.
    photometry_dropout : float
        In the network that embeds the photometry.
    scale_inputs : bool
        Whether photometry is standardised and pixels compressed first; the published MargFormers take raw
        values.
    standardise_stamps : bool
        Bring each band of each stamp to zero mean and unit spread (unbiased, plus 1e-6), as the published
        LViT does, instead of compressing it.
    """

    form: str = "margformer"
    slots: int = 64
    depth: int = 12
    dim: int = 64
    num_heads: int = 8
    hidden: int = 256
    size: int = 32
    patch_size: int = 4
    num_bands: int = 5
    num_features: int = 24
    dropout: float = 0.1
    photometry_dropout: float = 0.25
    scale_inputs: bool = True
    standardise_stamps: bool = False

    def __post_init__(self) -> None:
        _require(self.form in ("margformer", "lvit"), "form", self.form, "'margformer' or 'lvit'")
        for name in (
            "slots",
            "depth",
            "dim",
            "num_heads",
            "hidden",
            "patch_size",
            "num_bands",
            "num_features",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(
            self.dim % self.num_heads == 0, "num_heads", self.num_heads, f"a divisor of dim = {self.dim}"
        )
        _require(
            self.size % self.patch_size == 0,
            "patch_size",
            self.patch_size,
            f"a divisor of size = {self.size}",
        )
        for name in ("dropout", "photometry_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")

    @property
    def num_patches(self) -> int:
        """Number of patches of a stamp."""
        return (self.size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        """Number of values in a patch."""
        return self.patch_size**2 * self.num_bands


LVIT = ModelConfig(form="lvit", slots=32, depth=8, dim=256, hidden=1024, dropout=0.0, photometry_dropout=0.0)
"""The encoder of the published three-class SimCLR notebook."""


@dataclass(frozen=True)
class MargNetConfig(_Settings):
    """Size of the baseline MargNet; the defaults are the published ones, but for the scaling of inputs.

    Parameters
    ----------
    size, num_bands, num_features : int
        Stamp side in pixels, bands, photometric features.
    width : float
        Share of the published filters and dense units of the image network, in (0, 1]. Below 1 it is a
        stand-in that a CPU can train, not the published network.
    dropout : float
        In the network of features.
    scale_inputs : bool
        Whether features are standardised and pixels compressed first; published: raw values.
    """

    size: int = 32
    num_bands: int = 5
    num_features: int = 24
    width: float = 1.0
    dropout: float = 0.25
    scale_inputs: bool = True

    def __post_init__(self) -> None:
        for name in ("num_bands", "num_features"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.size >= 4, "size", self.size, "at least 4: maps are halved twice")
        _require(0 < self.width <= 1, "width", self.width, "in (0, 1]")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True)
class AugmentConfig(_Settings):
    """Random views of a stamp: rotated, shifted, mirrored; if asked also dimmed, noisier, standardised.

    Parameters
    ----------
    mode : {"reference", "composed"}
        ``"reference"`` is the published recipe: rotate, then shift by whole pixels, each time taking the
        nearest pixel and zero outside, so that what leaves the frame in the first step is lost to the second.
        ``"composed"`` samples once, with shifts by fractions of a pixel.
    interpolation : {"nearest", "bilinear"}
        Of the composed mode.
    border : {"zero", "edge"}
        What the composed mode reads outside a stamp: zero, or the nearest pixel of its edge.
    max_angle_deg : float
        Rotation is uniform in +- this.
    max_shift : float
        Shifts are uniform in +- this fraction of the side.
    flips : bool
        Whether to mirror, in either direction with even odds.
    jitter : float
        Each band is multiplied by 1 + u, u uniform in +- this: an error of the photometric calibration.
    noise : float or tuple of float
        Standard deviation of Gaussian noise added to every pixel, in the unit of the pixels; one for all
        bands or one a band.
    standardise : bool
        Bring each band of each view to zero mean and unit spread (the published three-class recipe), last.
    """

    mode: str = "reference"
    interpolation: str = "nearest"
    border: str = "zero"
    max_angle_deg: float = 180.0
    max_shift: float = 0.1
    flips: bool = True
    jitter: float = 0.0
    noise: float | tuple[float, ...] = 0.0
    standardise: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.noise, list):  # from JSON
            object.__setattr__(self, "noise", tuple(self.noise))
        for name, choices in (
            ("mode", ("reference", "composed")),
            ("interpolation", ("nearest", "bilinear")),
            ("border", ("zero", "edge")),
        ):
            expected = " or ".join(repr(choice) for choice in choices)
            _require(getattr(self, name) in choices, name, getattr(self, name), expected)
        if self.mode == "reference":
            for name, only in (("interpolation", "nearest"), ("border", "zero")):
                expected = f"{only!r} in the reference mode; mode='composed' has others"
                _require(getattr(self, name) == only, name, getattr(self, name), expected)
        _require(0 <= self.max_angle_deg <= 180, "max_angle_deg", self.max_angle_deg, "in [0, 180]")
        _require(0 <= self.max_shift < 1, "max_shift", self.max_shift, "in [0, 1)")
        _require(0 <= self.jitter < 1, "jitter", self.jitter, "in [0, 1)")
        for each in self.noise if isinstance(self.noise, tuple) else (self.noise,):
            _require(0 <= each < math.inf, "noise", self.noise, "0 or more, finite")

    def noise_by_band(self, num_bands: int) -> tuple[float, ...]:
        """Return the standard deviation of the noise in each band.

        Raises
        ------
        ConfigError
            If `noise` is given for another number of bands.
        """
        if not isinstance(self.noise, tuple):
            return (float(self.noise),) * num_bands
        _require(
            len(self.noise) == num_bands,
            "noise",
            self.noise,
            f"one value, or one for each of {num_bands} bands",
        )
        return self.noise


@dataclass(frozen=True)
class PhotometryViewConfig(_Settings):
    """Random views of photometry; see :class:`margformer_fast.learning.photometry_views.PhotometryViews`.

    Parameters
    ----------
    fainter : float
        A view is fainter than the object by up to this many magnitudes, uniformly.
    conditions : bool
        Whether a view has the seeing and the extinction of another object.
    noise : float
        Noise added to fluxes beside what a fainter source lacks, in units of that of the conditions: 1 is a
        measurement that shares nothing but the object.
    radius_noise : float
        Scatter of radii in units of their estimated error.
    stamps : bool
        Whether the view of the stamp is as much fainter.
    """

    fainter: float = 2.0
    conditions: bool = True
    noise: float = 1.0
    radius_noise: float = 1.0
    stamps: bool = True

    def __post_init__(self) -> None:
        for name in ("fainter", "noise", "radius_noise"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more, finite")


@dataclass(frozen=True)
class FitConfig(_Settings):
    """One stage of training: how long, how fast, when to stop.

    Parameters
    ----------
    max_epochs : int
        Passes over the training set at most.
    patience : int
        Stop after this many epochs without a better validation loss.
    batch_size : int
        Objects a step.
    learning_rate : float
        Of Adam; the peak when `schedule` is "cosine".
    schedule : {"constant", "cosine"}
        Constant rate, or a linear rise over the first twentieth of all steps and a cosine fall to zero.
    weight_decay : float
        Decoupled (AdamW).
    clip_norm : float or None
        Largest norm of the gradient.
    temperature : float
        Of NT-Xent; unused by supervised stages.
    batches : {"even", "ragged"}
        Cut an epoch into batches of nearly equal size, or into full ones and a smaller last one. Losses of an
        epoch are means over objects, or, with ragged batches, unweighted means over batches as published.
    """

    max_epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    weight_decay: float = 0.0
    clip_norm: float | None = None
    temperature: float = 0.1
    batches: str = "even"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "batch_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(self.schedule in ("constant", "cosine"), "schedule", self.schedule, "'constant' or 'cosine'")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0")
        _require(self.batches in ("even", "ragged"), "batches", self.batches, "'even' or 'ragged'")
