"""MargFormer: photometry queries image patches.

Shapes: B batch, C bands, S side, P patches, T = P + 1 tokens, D dim, F features.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn

from ..config import ModelConfig
from ..ops.encoder import encoder
from ..ops.patchify import patchify
from ..reference.weights import AttentionWeights, FeedForwardWeights

# Attribute names in this file (to_patch_embedding, to_dnn, transformer.net.layers, fn, w1, ...) spell the
# keys of published checkpoints, and the order of definition spells their order.


class _CrossAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, T, K = config.dim, config.num_patches + 1, config.slots
        bound = K**-0.5
        self.proj_k = nn.Parameter(torch.empty(T, K).uniform_(-bound, bound))
        self.proj_v = nn.Parameter(torch.empty(T, K).uniform_(-bound, bound))
        self.to_q = nn.Linear(D, D, bias=False)
        self.to_k = nn.Linear(D, D, bias=False)
        self.to_v = nn.Linear(D, D, bias=False)
        self.to_out = nn.Linear(D, D)

    def weights(self, norm: nn.LayerNorm) -> AttentionWeights:
        return AttentionWeights(
            norm.weight,
            norm.bias,
            self.to_q.weight,
            self.to_k.weight,
            self.to_v.weight,
            self.proj_k,
            self.proj_v,
            self.to_out.weight,
            self.to_out.bias,
        )


class _FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden)
        self.w2 = nn.Linear(config.hidden, config.dim)

    def weights(self, norm: nn.LayerNorm) -> FeedForwardWeights:
        return FeedForwardWeights(
            norm.weight, norm.bias, self.w1.weight, self.w1.bias, self.w2.weight, self.w2.bias
        )


class _PreNorm(nn.Module):
    def __init__(self, fn: _CrossAttention | _FeedForward, dim: int) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def weights(self) -> Any:
        return cast(Any, self.fn).weights(self.norm)


class _Patchify(nn.Module):
    """Takes images or tokens that were cut before, so that an augmentation may hand over tokens."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return patchify(image, self.patch_size) if image.ndim == 4 else image


class MargFormer(nn.Module):
    """The published MargFormer; its ``state_dict`` has the keys of published checkpoints, in their order.

    Parameters
    ----------
    config : ModelConfig
        Form and size; K = 64 and K = 128 slots are published.
    num_classes : int
        Number of classes of the head.

    Notes
    -----
    Bhavanam et al., AstroFormer repository (https://github.com/srinadh99/AstroFormer). 1,405,410 parameters
    with K = 64 and two classes, 1,505,250 with K = 128.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        D = config.dim
        self.pos_embedding = nn.Parameter(torch.randn(1, config.num_patches + 1, D))
        self.to_patch_embedding = nn.Sequential(
            _Patchify(config.patch_size),
            nn.LayerNorm(config.patch_values),
            nn.Linear(config.patch_values, D),
            nn.LayerNorm(D),
        )
        widths = (config.num_features, 1024, 512, 256)
        hidden = [
            layer
            for fan_in, fan_out in pairwise(widths)
            for layer in (nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(config.photometry_dropout))
        ]
        self.to_dnn = nn.Sequential(*hidden, nn.Linear(widths[-1], D))
        blocks = [
            nn.ModuleList([_PreNorm(_CrossAttention(config), D), _PreNorm(_FeedForward(config), D)])
            for _ in range(config.depth)
        ]
        self.transformer = nn.ModuleDict({"net": nn.ModuleDict({"layers": nn.ModuleList(blocks)})})
        self.mlp_head = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, num_classes))
        self.num_heads, self.dropout = config.num_heads, config.dropout

    def embed(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Represent objects by the final photometric token.

        Parameters
        ----------
        photometry : Tensor, shape (B, F)
            Photometric features.
        image : Tensor, shape (B, C, S, S) or (B, P, p*p*C)
            Stamps, or their patch tokens.

        Returns
        -------
        Tensor, shape (B, D)
        """
        dropout = self.dropout if self.training else 0.0
        return encoder(
            self.tokens(photometry, image), self.layers(), num_heads=self.num_heads, dropout=dropout
        )

    def tokens(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return what the first layer is given, (B, T, D): the photometric token, then the patches."""
        patch_BPD = self.to_patch_embedding(image)
        cls_B1D = self.to_dnn(photometry)[:, None]
        return torch.cat([cls_B1D, patch_BPD], dim=1) + self.pos_embedding

    def layers(self) -> list[tuple[AttentionWeights, FeedForwardWeights]]:
        """Return the weights of the layers, as :func:`margformer_fast.ops.encoder.encoder` takes them."""
        blocks = cast(nn.ModuleDict, self.transformer["net"])["layers"]
        return [
            (attention.weights(), hidden.weights())
            for attention, hidden in cast(Iterable[tuple[_PreNorm, _PreNorm]], blocks)
        ]

    def head(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map embeddings (B, D) to logits (B, num_classes)."""
        return self.mlp_head(embedding)

    def forward(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, num_classes); arguments as for :meth:`embed`."""
        return self.head(self.embed(photometry, image))
