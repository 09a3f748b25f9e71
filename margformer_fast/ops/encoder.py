"""MargFormer's encoder: all layers, down to the token that is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ..backends import Implementation, Operator, Problem, not_compiled
from ..reference.encoder import encoder as _reference
from .layers import Layer, encode_network, not_triton

OPERATOR = Operator(
    "encoder",
    (
        Implementation("triton", partial(encode_network, backend="triton"), not_triton),
        Implementation("cpp", partial(encode_network, backend="cpp"), not_compiled),
        Implementation("reference", _reference),
    ),
)


def encoder(
    x_BTD: torch.Tensor,
    layers: Sequence[Layer],
    *,
    num_heads: int,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Token 0 after all layers, shape (B, D).

    See :func:`margformer_fast.reference.encoder.encoder` for the arguments and the formula. ``backend`` is
    ``"triton"``, ``"cpp"``, ``"reference"`` or ``"auto"``. The first two run layer by layer, each as
    :func:`margformer_fast.ops.encoder_layer.encoder_layer` does; where there is nothing to differentiate and
    no dropout, on the CPU each object goes through all layers at once.

    Raises
    ------
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    chosen = OPERATOR.resolve(Problem.of(x_BTD), backend)
    return chosen.run(x_BTD, layers, num_heads, dropout)
