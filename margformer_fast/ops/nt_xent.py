"""The contrastive loss of SimCLR, and its share on one of several ranks.

Shapes: N pairs, M = 2N anchors, D dim, n of the N pairs on one of several ranks. In here the views of one
object lie next to each other: rows 2i and 2i + 1 of M are pair i.

A backend computes two things over normalised rows: the log of each anchor's sum over its negatives, and the
gradient of those sums. What is linear in N stands here, once: normalisation, the positive pairs, the loss.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from ..backends import (
    AUTO,
    FULL_PRECISIONS,
    Implementation,
    Operator,
    Problem,
    no_triton,
    not_compiled,
    only_full_precision,
)
from ..errors import ConfigError
from ..kernels import nt_xent_compiled
from ..reference.nt_xent import nt_xent as _reference
from ..reference.nt_xent import nt_xent_of_rank as _reference_of_rank
from .registration import register, without_autocast

PRECISIONS = ("ieee", "fp32", "tf32", "bf16")
"""Of the matrix products, from the most exact to the fastest; sums are float32 in all of them."""

# As torch.nn.functional.normalize: shorter vectors are divided by this, so that zeros stay zeros.
SHORTEST_NORM = 1e-12


def _compute_dtype(z: torch.Tensor) -> torch.dtype:
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def _normalise(z1_ND: torch.Tensor, z2_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the unit rows of both views, pair by pair, and their lengths."""
    z_MD = torch.stack([z1_ND, z2_ND], 1).flatten(0, 1).to(_compute_dtype(z1_ND))
    norm_M = torch.linalg.vector_norm(z_MD, dim=1).clamp_min_(SHORTEST_NORM)
    return z_MD.div_(norm_M[:, None]), norm_M


def _similarity_to_partner(z_MD: torch.Tensor, temperature: float) -> torch.Tensor:
    similarity_N = (z_MD[0::2] * z_MD[1::2]).sum(1) / temperature
    return similarity_N.repeat_interleave(2)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    # Beyond 40 the difference to x is below the last digit of float64.
    return F.softplus(x, threshold=40)


def _kernels(backend: str) -> ModuleType:
    if backend == "triton":
        # Where it is chosen, Triton is there; elsewhere this import would fail.
        return importlib.import_module("..kernels.nt_xent", __package__)
    return nt_xent_compiled


def _fake_forward(
    z1_ND: torch.Tensor, _z2: torch.Tensor, _group: torch.Tensor | None, _first: int, count: int, *_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = _compute_dtype(z1_ND)
    return z1_ND.new_empty((), dtype=dtype), z1_ND.new_empty(2 * count, dtype=dtype)


@register(
    "nt_xent",
    "(Tensor z1, Tensor z2, Tensor? group, SymInt first, SymInt count, float temperature, str precision,"
    " str backend) -> (Tensor, Tensor)",
    _fake_forward,
)
def _forward(
    z1_ND: torch.Tensor,
    z2_ND: torch.Tensor,
    group_N: torch.Tensor | None,
    first: int,
    count: int,
    temperature: float,
    precision: str,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the share of `count` pairs from `first` on in the loss, and the logs of their anchors' sums."""
    z_MD, _ = _normalise(z1_ND, z2_ND)
    rows = range(2 * first, 2 * (first + count))
    log_negatives_R = _kernels(backend).log_sum_of_negatives(z_MD, group_N, rows, temperature, precision)
    positive_R = _similarity_to_partner(z_MD[rows.start : rows.stop], temperature)
    # log(1 + sum of exp(s_ij - s_positive)): a difference of two logs would lose the digits of a small loss.
    return _softplus(log_negatives_R - positive_R).sum() / len(z_MD), log_negatives_R


def _fake_backward(
    _grad: torch.Tensor,
    z1_ND: torch.Tensor,
    _z2: torch.Tensor,
    _group: torch.Tensor | None,
    _log_negatives: torch.Tensor,
    _first: int,
    count: int,
    *_: Any,
) -> torch.Tensor:
    return z1_ND.new_empty((count, 2, z1_ND.shape[1]), dtype=_compute_dtype(z1_ND))


@register(
    "nt_xent_backward",
    "(Tensor grad, Tensor z1, Tensor z2, Tensor? group, Tensor log_negatives, SymInt first, SymInt count,"
    " float temperature, str precision, str backend) -> Tensor",
    _fake_backward,
)
def _backward(
    grad: torch.Tensor,
    z1_ND: torch.Tensor,
    z2_ND: torch.Tensor,
    group_N: torch.Tensor | None,
    log_negatives_M: torch.Tensor,
    first: int,
    count: int,
    temperature: float,
    precision: str,
    backend: str,
) -> torch.Tensor:
    """Return the gradient of the joint loss with respect to both views of `count` pairs, shape (n, 2, D)."""
    z_MD, norm_M = _normalise(z1_ND, z2_ND)
    M, D = z_MD.shape
    rows = range(2 * first, 2 * (first + count))
    positive_M = _similarity_to_partner(z_MD, temperature)
    excess_M = log_negatives_M - positive_M
    dz_RD = _kernels(backend).gradient_of_negatives(
        z_MD, group_N, rows, temperature, precision, positive_M + _softplus(excess_M)
    )
    z_RD, norm_R = z_MD[rows.start : rows.stop], norm_M[rows.start : rows.stop]
    # Each of a pair is drawn to the other by 1 - p(partner), once as anchor and once as partner.
    pull_n1 = torch.sigmoid(excess_M[rows.start : rows.stop]).view(count, 2).sum(1, keepdim=True)
    dz_RD[0::2].addcmul_(pull_n1, z_RD[1::2], value=-1)
    dz_RD[1::2].addcmul_(pull_n1, z_RD[0::2], value=-1)
    # Through the normalisation. A vector that was too short for it was divided by a constant.
    along_R = torch.where(norm_R > SHORTEST_NORM, (z_RD * dz_RD).sum(1), 0)
    dz_RD.addcmul_(along_R[:, None], z_RD, value=-1)
    dz_RD.mul_((grad / (M * temperature)) / norm_R[:, None])
    return dz_RD.view(count, 2, D)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    z1_ND, z2_ND, group_N, *ctx.constants = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(z1_ND, z2_ND, group_N, output[1])


def _differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    z1_ND, z2_ND, group_N, log_negatives_M = ctx.saved_tensors
    dz_N2D = _backward(grad, z1_ND, z2_ND, group_N, log_negatives_M, *ctx.constants)
    return dz_N2D[:, 0].to(z1_ND.dtype), dz_N2D[:, 1].to(z2_ND.dtype), *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_save)


class _Share(torch.autograd.Function):
    """The share of one rank: its rows of the sums, and, of the joint loss, the gradient of its rows.

    The gradient of a row needs every anchor's sum, so these are gathered, M numbers, between the two.
    """

    @staticmethod
    def forward(
        ctx: Any,
        _z1_nD: torch.Tensor,
        _z2_nD: torch.Tensor,
        z1_ND: torch.Tensor,
        z2_ND: torch.Tensor,
        group_N: torch.Tensor | None,
        gather: Callable[[torch.Tensor], torch.Tensor],
        *constants: Any,
    ) -> torch.Tensor:
        share, log_negatives_R = _forward(z1_ND, z2_ND, group_N, *constants)
        log_negatives_M = gather(log_negatives_R.view(-1, 2)).reshape(-1)
        ctx.constants = constants
        ctx.save_for_backward(z1_ND, z2_ND, group_N, log_negatives_M)
        return share

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z1_ND, z2_ND, group_N, log_negatives_M = ctx.saved_tensors
        dz_n2D = _backward(grad, z1_ND, z2_ND, group_N, log_negatives_M, *ctx.constants)
        num_others = len(ctx.needs_input_grad) - 2
        return dz_n2D[:, 0].to(z1_ND.dtype), dz_n2D[:, 1].to(z2_ND.dtype), *[None] * num_others


def _run(
    backend: str,
    z1_ND: torch.Tensor,
    z2_ND: torch.Tensor,
    temperature: float,
    group_N: torch.Tensor | None,
    precision: str,
) -> torch.Tensor:
    return _forward(z1_ND, z2_ND, group_N, 0, len(z1_ND), temperature, precision, backend)[0]


def _run_of_rank(
    backend: str,
    z1_nD: torch.Tensor,
    z2_nD: torch.Tensor,
    temperature: float,
    group_n: torch.Tensor | None,
    precision: str,
    first: int,
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    gathered = _gather(z1_nD, z2_nD, group_n, first, gather)
    constants = (first, len(z1_nD), temperature, precision, backend)
    share: torch.Tensor = _Share.apply(  # type: ignore[no-untyped-call]
        z1_nD, z2_nD, *gathered, gather, *constants
    )
    return share


@without_autocast
def _run_reference(
    z1_ND: torch.Tensor,
    z2_ND: torch.Tensor,
    temperature: float,
    group_N: torch.Tensor | None,
    _precision: str,
) -> torch.Tensor:
    return _reference(z1_ND, z2_ND, temperature, group_N)


@without_autocast
def _run_reference_of_rank(
    z1_nD: torch.Tensor,
    z2_nD: torch.Tensor,
    temperature: float,
    group_n: torch.Tensor | None,
    _precision: str,
    first: int,
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    z1_ND, z2_ND, group_N = _gather(z1_nD, z2_nD, group_n, first, gather)
    return _reference_of_rank(z1_nD, z2_nD, z1_ND, z2_ND, first, temperature, group_N)


def _gather(
    z1_nD: torch.Tensor,
    z2_nD: torch.Tensor,
    group_n: torch.Tensor | None,
    first: int,
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return both views and the groups of all ranks.

    Raises
    ------
    ConfigError
        If what came back has no place for our own rows, or no negatives.
    """
    z1_ND, z2_ND = gather(z1_nD.detach()), gather(z2_nD.detach())
    _check_views(z1_ND, z2_ND)
    if not 0 <= first <= len(z1_ND) - len(z1_nD):
        raise ConfigError(
            f"{len(z1_nD)} pairs from {first} on are not among the {len(z1_ND)} gathered",
            expected="first to be how many pairs the ranks before this one hold",
        )
    return z1_ND, z2_ND, None if group_n is None else gather(group_n)


def _why_not_compiled(problem: Problem) -> tuple[str, ...]:
    reasons = not_compiled(problem)
    if problem.precision in FULL_PRECISIONS or (problem.precision == "bf16" and problem.dtype != "float64"):
        return reasons
    return (*reasons, f"it does not multiply {problem.dtype} in {problem.precision}")


def _why_not_triton(problem: Problem) -> tuple[str, ...]:
    reasons = no_triton(problem)
    if problem.dtype == "float64":
        reasons += ("it computes no float64",)
    if problem.precision not in PRECISIONS:
        reasons += (f"it does not multiply in {problem.precision}",)
    return reasons


def _implementations(
    run: Callable[..., torch.Tensor], reference: Callable[..., torch.Tensor]
) -> tuple[Implementation, ...]:
    return (
        Implementation("triton", partial(run, "triton"), _why_not_triton),
        Implementation("cpp", partial(run, "cpp"), _why_not_compiled),
        Implementation("reference", reference, only_full_precision),
    )


OPERATOR = Operator("nt_xent", _implementations(_run, _run_reference))
OPERATOR_OF_RANK = Operator("nt_xent_of_rank", _implementations(_run_of_rank, _run_reference_of_rank))


def _check_views(z1_ND: torch.Tensor, z2_ND: torch.Tensor) -> None:
    if z1_ND.shape != z2_ND.shape or z1_ND.ndim != 2:
        raise ConfigError(
            f"views have shapes {tuple(z1_ND.shape)} and {tuple(z2_ND.shape)}", expected="two of (N, D)"
        )
    if z1_ND.dtype != z2_ND.dtype or not z1_ND.is_floating_point():
        raise ConfigError(
            f"views are of {z1_ND.dtype} and {z2_ND.dtype}", expected="one and the same floating-point type"
        )
    if len(z1_ND) < 2:
        raise ConfigError(
            f"a contrastive batch has {len(z1_ND)} object(s)", expected="at least 2, to have a negative"
        )


def _check_rest(z1_ND: torch.Tensor, group_N: torch.Tensor | None, temperature: float) -> None:
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}", expected="above 0")
    if group_N is not None and (group_N.shape != z1_ND.shape[:1] or group_N.dtype != torch.int64):
        raise ConfigError(
            f"groups are of {group_N.dtype} and shape {tuple(group_N.shape)}",
            expected=f"torch.int64 and shape {tuple(z1_ND.shape[:1])}",
        )


def nt_xent(
    z1_ND: torch.Tensor,
    z2_ND: torch.Tensor,
    *,
    temperature: float,
    group_N: torch.Tensor | None = None,
    precision: str = "fp32",
    backend: str = AUTO,
) -> torch.Tensor:
    """NT-Xent loss of N positive pairs, shape ().

    The loss and sums are float32, float64 if the inputs are; autocast has no say. Except by the reference,
    no M x M matrix is formed, and two runs on one machine agree bit for bit.

    Parameters
    ----------
    z1_ND, z2_ND : Tensor, shape (N, D)
        Projections of the two views of N objects, of any floating-point type and strides; normalised inside.
    temperature : float
        Divides the cosine similarities.
    group_N : Tensor of int64, shape (N,), optional
        Objects with the same number are not negatives of each other, such as repeats of one source.
    precision : str
        Of the matrix products. ``"ieee"``: in float32 units; ``"fp32"``: as exact, by three products in tf32
        where that is faster; ``"tf32"``; ``"bf16"``. Not every backend has all; float64 has the first two.
    backend : str
        Which implementation to use: ``"triton"``, ``"cpp"`` or ``"reference"``.

    Raises
    ------
    ConfigError
        If the views differ in shape or type, there is no other object to contrast with, the temperature is
        not above zero, or the groups do not fit.
    BackendUnavailable
        If a named backend cannot run this problem.

    Notes
    -----
    Chen et al. (2020), arXiv 2002.05709, equation 1; see the reference for the formula. It can be
    differentiated once; twice with ``backend="reference"``.
    """
    _check_views(z1_ND, z2_ND)
    _check_rest(z1_ND, group_N, temperature)
    chosen = OPERATOR.resolve(Problem.of(z1_ND, z2_ND, precision=precision), backend)
    return chosen.run(z1_ND, z2_ND, temperature, group_N, precision)


def nt_xent_of_rank(
    z1_nD: torch.Tensor,
    z2_nD: torch.Tensor,
    *,
    temperature: float,
    first: int,
    gather: Callable[[torch.Tensor], torch.Tensor],
    group_n: torch.Tensor | None = None,
    precision: str = "fp32",
    backend: str = AUTO,
) -> torch.Tensor:
    """Share of this rank in the NT-Xent loss of the pairs of all ranks, shape ().

    The shares of all ranks add up to the joint loss, and each rank receives the gradient of the joint loss
    with respect to its own rows, so no gradients of projections are exchanged. It assumes that all ranks call
    backward with the same upstream gradient. Where gradients of weights are averaged over ranks afterwards,
    as ``DistributedDataParallel`` does, multiply the share by the number of ranks.

    Parameters
    ----------
    z1_nD, z2_nD : Tensor, shape (n, D)
        Projections of the two views of this rank's objects.
    temperature : float
        Divides the cosine similarities.
    first : int
        How many pairs the ranks before this one hold.
    gather : callable
        Takes a tensor and returns those of all ranks, joined along the first axis in the order of the ranks.
        It is called on every rank in the same order, and not differentiated.
    group_n, precision, backend
        As in :func:`nt_xent`; with groups on one rank there must be groups on all.

    Raises
    ------
    ConfigError
        As :func:`nt_xent`; also if this rank's pairs do not lie within what was gathered.
    BackendUnavailable
        If a named backend cannot run this problem.
    """
    _check_rest(z1_nD, group_n, temperature)
    chosen = OPERATOR_OF_RANK.resolve(Problem.of(z1_nD, z2_nD, precision=precision), backend)
    return chosen.run(z1_nD, z2_nD, temperature, group_n, precision, first, gather)
