"""What every encoder offers, and how one is made from its settings."""

from __future__ import annotations

from typing import Protocol

import torch

from ..config import ModelConfig
from .lvit import LViT
from .margformer import MargFormer


class Encoder(Protocol):
    """An ``nn.Module`` that represents objects and classifies the representation."""

    def embed(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Map photometry (B, F) and stamps or tokens to embeddings (B, D)."""

    def head(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map embeddings (B, D) to logits (B, num_classes)."""


def make_encoder(config: ModelConfig, num_classes: int) -> MargFormer | LViT:
    """Make an encoder with fresh weights, drawn from torch's global generator."""
    return (MargFormer if config.form == "margformer" else LViT)(config, num_classes)
