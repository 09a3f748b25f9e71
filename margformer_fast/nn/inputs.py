"""Scaling of raw inputs, kept inside the model so that a saved model takes survey units."""

from __future__ import annotations

import torch
from torch import nn

from ..config import MargNetConfig, ModelConfig
from ..ops.patchify import patchify
from .encoder import make_encoder

_FEATURE_LIMIT = 10.0
_SMALLEST_SPREAD = 0.1  # magnitudes or arcseconds

UNMEASURED = -9999.0
"""What SDSS writes for a quantity that it could not measure."""


class InputScaling(nn.Module):
    """Standardise photometry and compress the range of pixels.

    Photometry becomes (x - mean) / std, limited to +-10 so that a rare outlier (a radius of 30 arcsec, five
    magnitudes of extinction) cannot saturate the network. Pixels become asinh(x / noise), linear in the
    noise and logarithmic in bright cores (Lupton, Gunn & Szalay 1999, AJ 118, 1406). The published recipe
    scales nothing: ``config.scale_inputs = False``. With ``config.standardise_stamps`` each band of each
    stamp is brought to zero mean and unit spread instead, whatever its flux.

    Parameters
    ----------
    config : ModelConfig or MargNetConfig
        Number of features and bands, and whether inputs are scaled at all.
    """

    mean: torch.Tensor
    std: torch.Tensor
    noise: torch.Tensor

    def __init__(self, config: ModelConfig | MargNetConfig) -> None:
        super().__init__()
        self.active = config.scale_inputs
        self.standardises = isinstance(config, ModelConfig) and config.standardise_stamps
        self.register_buffer("mean", torch.zeros(config.num_features))
        self.register_buffer("std", torch.ones(config.num_features))
        self.register_buffer("noise", torch.ones(config.num_bands))

    def fit(self, photometry: torch.Tensor, noise: torch.Tensor) -> None:
        """Take the scales from a training set.

        Parameters
        ----------
        photometry : Tensor, shape (N, F)
            Features of the training set. One that hardly varies there is not blown up: its spread counts as
            at least 0.1 mag or arcsec. Within one field of sky the seeing and the extinction say little but
            where on the field an object is, and another field's lie far outside their range.
        noise : Tensor, shape (C,)
            Typical pixel noise in each band, in the survey's flux unit, above zero.
        """
        std, mean = torch.std_mean(photometry, dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=_SMALLEST_SPREAD))
        self.noise.copy_(noise)

    def forward(self, photometry: torch.Tensor, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale photometry (B, F) and patch tokens (B, P, p*p*C), whose bands run fastest."""
        if not (self.active or self.standardises):
            return photometry, patch
        value = patch.reshape(*patch.shape[:-1], -1, len(self.noise))
        if self.standardises:
            std, mean = torch.std_mean(value, dim=(1, 2), keepdim=True)
            value = (value - mean) / (std + 1e-6)
        else:
            value = self.scale_pixels(value)
        return self.scale_photometry(photometry), value.flatten(-2)

    def fill(self, photometry: torch.Tensor) -> torch.Tensor:
        """Let the training set's mean stand in for features that are missing.

        Parameters
        ----------
        photometry : Tensor, shape (B, F)
            Features; missing are those :func:`measured` says are.

        Returns
        -------
        Tensor, shape (B, F)
            The mean, which scales to 0, where one is missing. An object without any gets what
            ``ScaledEncoder.embed(None, ...)`` shows the encoder: zeros after scaling.
        """
        there = measured(photometry)
        nothing = self.mean if self.active else torch.zeros_like(self.mean)
        return torch.where(there, photometry, torch.where(there.any(dim=1, keepdim=True), self.mean, nothing))

    def scale_photometry(self, photometry: torch.Tensor) -> torch.Tensor:
        """Standardise photometry (B, F) alone."""
        if not self.active:
            return photometry
        return ((photometry - self.mean) / self.std).clamp(-_FEATURE_LIMIT, _FEATURE_LIMIT)

    def scale_pixels(self, value: torch.Tensor) -> torch.Tensor:
        """Compress pixels (..., C) alone, whose bands are the last axis."""
        return torch.asinh(value / self.noise) if self.active else value


def measured(photometry: torch.Tensor) -> torch.Tensor:
    """Return which features are there, bool, same shape: finite, and not `UNMEASURED`."""
    return photometry.isfinite() & (photometry != UNMEASURED)


class ScaledEncoder(nn.Module):
    """An encoder that takes photometry and stamps in survey units.

    Parameters
    ----------
    config : ModelConfig
        Form and size of the encoder.
    num_classes : int
        Number of classes of its head.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.inputs = InputScaling(config)
        self.encoder = make_encoder(config, num_classes)

    def embed(self, photometry: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor:
        """Represent objects.

        Parameters
        ----------
        photometry : Tensor, shape (B, F), or None
            Features in survey units. None hides the photometry: the encoder sees zeros, as in the
            published image-only pre-training.
        image : Tensor, shape (B, C, S, S) or (B, P, p*p*C)
            Stamps in the survey's flux unit, or their patch tokens.

        Returns
        -------
        Tensor, shape (B, D)
        """
        patch = patchify(image, self.config.patch_size) if image.ndim == 4 else image
        hidden = photometry is None
        if photometry is None:
            photometry = self.inputs.mean.expand(len(patch), -1)
        photometry, patch = self.inputs(photometry, patch)
        return self.encoder.embed(torch.zeros_like(photometry) if hidden else photometry, patch)

    def head(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map embeddings (B, D) to logits (B, num_classes)."""
        return self.encoder.head(embedding)

    def forward(self, photometry: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, num_classes); arguments as for :meth:`embed`."""
        return self.head(self.embed(photometry, image))
