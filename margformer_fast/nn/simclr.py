"""SimCLR: an encoder and the projector that its contrastive loss looks at."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from .encoder import Encoder


class SimCLR(nn.Module):
    """Encoder (``backbone``) and two-layer projector; keys as in the published pre-training checkpoint.

    Parameters
    ----------
    backbone : Encoder
        The encoder to pre-train.
    dim : int
        Width of the encoder's embedding.
    hidden, out : int
        Widths of the projector: 128 and 128 are published for MargFormer, 1024 and 128 for LViT.

    Notes
    -----
    Chen et al. (2020), arXiv 2002.05709.
    """

    def __init__(self, backbone: Encoder, dim: int, *, hidden: int = 128, out: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return unit-norm projections, shape (B, out)."""
        return normalize(self.projector(self.backbone.embed(photometry, image)), dim=1)
