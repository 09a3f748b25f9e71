"""The contrastive loss of SimCLR."""

from __future__ import annotations

import torch

from ..backends import Implementation, Operator, Problem
from ..errors import ConfigError
from ..reference.nt_xent import nt_xent as _reference

OPERATOR = Operator("nt_xent", (Implementation("reference", _reference),))


def nt_xent(
    z1_ND: torch.Tensor, z2_ND: torch.Tensor, *, temperature: float, backend: str = "auto"
) -> torch.Tensor:
    """NT-Xent loss of N positive pairs, shape ().

    Parameters
    ----------
    z1_ND, z2_ND : Tensor, shape (N, D)
        Projections of the two views of N objects; normalised inside.
    temperature : float
        Divides the cosine similarities.
    backend : str
        Which implementation to use; see :mod:`margformer_fast.backends`.

    Raises
    ------
    ConfigError
        If the views differ in shape, there is no other object to contrast with, or the temperature is not
        above zero.
    BackendUnavailable
        If a named backend cannot run this problem.

    Notes
    -----
    Chen et al. (2020), arXiv 2002.05709, equation 1; see the reference for the formula.
    """
    if z1_ND.shape != z2_ND.shape or z1_ND.ndim != 2:
        raise ConfigError(
            f"views have shapes {tuple(z1_ND.shape)} and {tuple(z2_ND.shape)}", expected="two of (N, D)"
        )
    if len(z1_ND) < 2:
        raise ConfigError(
            f"a contrastive batch has {len(z1_ND)} object(s)", expected="at least 2, to have a negative"
        )
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}", expected="above 0")
    chosen = OPERATOR.resolve(Problem.of(z1_ND), backend)
    return chosen.run(z1_ND, z2_ND, temperature)
