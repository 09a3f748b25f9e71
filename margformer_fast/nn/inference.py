"""A trained model with all that stands around it, as one function of raw inputs: what is exported.

Shapes: N objects, C bands, S side, F features, K classes.
"""

from __future__ import annotations

import torch
from torch import nn

from ..ops.patchify import patchify
from .inputs import ScaledEncoder, measured


class Inference(nn.Module):
    """From stamps and features with gaps to probabilities, in PyTorch's own operations.

    Gaps are treated as :class:`margformer_fast.classifier.Classifier` treats them.

    Parameters
    ----------
    model : ScaledEncoder
        In evaluation mode.
    temperature : float
        Logits are divided by it.
    """

    def __init__(self, model: ScaledEncoder, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, images: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return class probabilities.

        Parameters
        ----------
        images : Tensor of float32, shape (N, C, S, S)
            Stamps in the survey's flux unit; a pixel that is not finite is read as empty sky.
        features : Tensor of float32, shape (N, F)
            In survey units; for one that is not finite or -9999 the training set's mean stands in.

        Returns
        -------
        Tensor of float32, shape (N, K)
            NaN for an object without a finite pixel and a feature.
        """
        known_N = images.isfinite().flatten(1).any(dim=1) | measured(features).any(dim=1)
        probability = (self.model.head(self.embed(images, features)) / self.temperature).softmax(dim=1)
        return torch.where(known_N[:, None], probability, torch.nan)

    def embed(self, images: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return what the head looks at, (N, D), with gaps filled as for the probabilities."""
        patch_NPL = patchify(torch.where(images.isfinite(), images, 0.0), self.model.config.patch_size)
        return self.model.embed(self.model.inputs.fill(features), patch_NPL)
