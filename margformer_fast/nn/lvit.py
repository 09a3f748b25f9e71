"""LViT: the self-attention encoder of the published three-class SimCLR. Shapes as in :mod:`.margformer`."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..config import ModelConfig
from ..ops.feed_forward import feed_forward
from ..ops.patchify import patchify
from ..ops.self_attention import self_attention


class _SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, T, K = config.dim, config.num_patches + 1, config.slots
        self.E_k = nn.Parameter(torch.randn(T, K) * T**-0.5)
        self.E_v = nn.Parameter(torch.randn(T, K) * T**-0.5)
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.proj = nn.Linear(D, D)
        self.num_heads = config.num_heads

    def forward(
        self, x_BTD: torch.Tensor, norm: nn.LayerNorm, num_queries: int | None = None
    ) -> torch.Tensor:
        return self_attention(
            x_BTD,
            norm.weight,
            norm.bias,
            self.qkv.weight,
            self.E_k,
            self.E_v,
            self.proj.weight,
            self.proj.bias,
            num_heads=self.num_heads,
            num_queries=num_queries,
        )


class _Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = _SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.dim)
        # Indices 0 and 3 are the published keys of the two maps; GELU and dropout live in the operator.
        self.mlp = nn.ModuleDict(
            {"0": nn.Linear(config.dim, config.hidden), "3": nn.Linear(config.hidden, config.dim)}
        )
        self.dropout = config.dropout

    def forward(self, x_BTD: torch.Tensor, num_kept: int | None = None) -> torch.Tensor:
        """Return the first `num_kept` tokens after this layer, all if that is None."""
        x_BTD = x_BTD[:, :num_kept] + self.attn(x_BTD, self.norm1, num_kept)
        w1, w2 = cast(nn.Linear, self.mlp["0"]), cast(nn.Linear, self.mlp["3"])
        dropout = self.dropout if self.training else 0.0
        return x_BTD + feed_forward(
            x_BTD,
            self.norm2.weight,
            self.norm2.bias,
            w1.weight,
            w1.bias,
            w2.weight,
            w2.bias,
            dropout=dropout,
        )


class LViT(nn.Module):
    """Vision transformer with Linformer self-attention and a photometric class token.

    Parameters
    ----------
    config : ModelConfig
        Form and size; :data:`margformer_fast.config.LVIT` is the published one.
    num_classes : int
        Number of classes of the head, which the published encoder lacks; 0 leaves it out, with the
        published keys alone (6,390,016 parameters).
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        D, p = config.dim, config.patch_size
        self.pos_embed_patches = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, config.num_patches, D), std=0.02)
        )
        self.cls_pos = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, D), std=0.02))
        self.patch_embed = nn.Conv2d(config.num_bands, D, kernel_size=p, stride=p)
        self.pf_proj = nn.Sequential(nn.Linear(config.num_features, D), nn.GELU(), nn.LayerNorm(D))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(D)
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = nn.Linear(D, num_classes)
        self.patch_size = p

    def embed(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Represent objects by the final class token; as :meth:`MargFormer.embed`."""
        patch_BPL = patchify(image, self.patch_size) if image.ndim == 4 else image
        # The convolution's stride is its kernel: it is a linear map of patch tokens, whose bands run fastest.
        weight_DL = self.patch_embed.weight.permute(0, 2, 3, 1).flatten(1)
        patch_BPD = F.linear(patch_BPL, weight_DL, self.patch_embed.bias) + self.pos_embed_patches
        cls_B1D = self.pf_proj(photometry)[:, None] + self.cls_pos
        x_BTD = torch.cat([cls_B1D, patch_BPD], dim=1)
        *blocks, last = self.blocks
        for block in blocks:
            x_BTD = block(x_BTD)
        # Token 0 alone is read: of the last layer nothing else is computed but what it looks at.
        return self.norm(last(x_BTD, 1)[:, 0])

    def forward(self, photometry: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, num_classes); arguments as for :meth:`embed`."""
        return self.head(self.embed(photometry, image))
