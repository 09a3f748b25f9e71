"""The trained tensors of the halves of an encoder layer, in the order of their operators' arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch


class AttentionWeights(NamedTuple):
    """Of :func:`.cross_attention.cross_attention`; T tokens, D dim, K slots."""

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    w_q: torch.Tensor
    """(D, D)"""
    w_k: torch.Tensor
    w_v: torch.Tensor
    proj_k: torch.Tensor
    """(T, K)"""
    proj_v: torch.Tensor
    w_out: torch.Tensor
    """(D, D)"""
    b_out: torch.Tensor


class FeedForwardWeights(NamedTuple):
    """Of :func:`.feed_forward.feed_forward`; D dim, M hidden."""

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    w1: torch.Tensor
    """(M, D)"""
    b1: torch.Tensor
    w2: torch.Tensor
    """(D, M)"""
    b2: torch.Tensor
