"""GELU followed by dropout, in one pass over memory and back without a stored mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import _native
from ..backends import AUTO, Implementation, Operator, Problem, not_compiled
from ..errors import ConfigError
from .registration import register

_STEPS = 65536
"""Probabilities of dropout are rounded to a multiple of 1 / 65536."""


def threshold_of(dropout: float) -> int:
    """Return how many of 65536 elements are dropped on average."""
    return min(round(dropout * _STEPS), _STEPS - 1)


def _buffer(tensor: torch.Tensor) -> np.ndarray:
    """Return the elements as the compiled module takes them."""
    flat = tensor.detach().reshape(-1)
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()


def _fake(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@register("gelu_dropout", "(Tensor x, Tensor key, int threshold) -> Tensor", _fake)
def _forward(x: torch.Tensor, key: torch.Tensor, threshold: int) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    word = int(key) & (2**64 - 1)
    _native.compiled().gelu_dropout(_buffer(x), word, threshold, _buffer(out), _native.num_threads())
    return out


def _fake_backward(_grad: torch.Tensor, x: torch.Tensor, *_: Any) -> torch.Tensor:
    return _fake(x)


@register(
    "gelu_dropout_backward", "(Tensor grad, Tensor x, Tensor key, int threshold) -> Tensor", _fake_backward
)
def _backward(grad: torch.Tensor, x: torch.Tensor, key: torch.Tensor, threshold: int) -> torch.Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    out = torch.empty_like(x)
    word = int(key) & (2**64 - 1)
    buffers = (_buffer(grad), _buffer(x))
    _native.compiled().gelu_dropout_backward(*buffers, word, threshold, _buffer(out), _native.num_threads())
    return out


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001 - torch's
    x, key, ctx.threshold = inputs
    ctx.save_for_backward(x, key)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return _backward(grad, *ctx.saved_tensors, ctx.threshold), None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _cpp(x: torch.Tensor, dropout: float) -> torch.Tensor:
    threshold = threshold_of(dropout)
    # From torch's generator: a seeded run repeats, a resumed one goes on, and the mask need not be kept.
    key = torch.randint(2**63 - 1, ()) if threshold else torch.zeros((), dtype=torch.int64)
    return _forward(x, key, threshold)


def _reference(x: torch.Tensor, dropout: float) -> torch.Tensor:
    return F.dropout(F.gelu(x), dropout, training=dropout > 0)


def _why_not_cpp(problem: Problem) -> tuple[str, ...]:
    reasons = not_compiled(problem)
    if problem.dtype not in ("float32", "bfloat16"):
        reasons += (f"it computes no {problem.dtype}",)
    return reasons


OPERATOR = Operator(
    "gelu_dropout",
    (Implementation("cpp", _cpp, _why_not_cpp), Implementation("reference", _reference)),
)


def gelu_dropout(x: torch.Tensor, *, dropout: float = 0.0, backend: str = AUTO) -> torch.Tensor:
    """Apply the exact (erf) GELU, then drop elements at random and scale up the rest.

    Parameters
    ----------
    x : Tensor
        Of any shape, float32, bfloat16 or, by the reference, any floating-point type.
    dropout : float
        Probability of dropping an element, in [0, 1); 0 to keep all. ``cpp`` rounds it to a multiple of
        1 / 65536 and scales by the reciprocal of what is really kept.
    backend : str
        ``"auto"``, ``"cpp"`` or ``"reference"``. They drop different elements. What ``cpp`` drops is a
        function of one number from torch's generator and of an element's place.

    Raises
    ------
    ConfigError
        If the probability is outside [0, 1).
    BackendUnavailable
        If a named backend cannot run this problem.

    Notes
    -----
    Hendrycks & Gimpel (2016), arXiv 1606.08415; Srivastava et al. (2014), JMLR 15, 1929.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout}", expected="0 or more, less than 1")
    return OPERATOR.resolve(Problem.of(x), backend).run(x, dropout)
