"""The normalised temperature-scaled cross-entropy of SimCLR.

Shapes: N pairs, M = 2N anchors, D dim, n of the N pairs on one of several ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def nt_xent(
    z1_ND: torch.Tensor, z2_ND: torch.Tensor, temperature: float, group_N: torch.Tensor | None = None
) -> torch.Tensor:
    """NT-Xent loss of N positive pairs (Chen et al. 2020, arXiv 2002.05709, equation 1).

    Parameters
    ----------
    z1_ND, z2_ND : Tensor, shape (N, D)
        Projections of the two views; row i of one and row i of the other are a positive pair. They are
        L2-normalised here. Half precision is computed in float32.
    temperature : float
        Divides the cosine similarities.
    group_N : Tensor of int64, shape (N,), optional
        Objects with the same number are not negatives of each other, such as repeats of one source.

    Returns
    -------
    Tensor, shape ()
        Mean over the 2N anchors of logsumexp(similarity to the partner and all negatives) - similarity to the
        partner.
    """
    return _of_each_anchor(z1_ND, z2_ND, temperature, group_N).mean()


def nt_xent_of_rank(
    z1_nD: torch.Tensor,
    z2_nD: torch.Tensor,
    z1_ND: torch.Tensor,
    z2_ND: torch.Tensor,
    first: int,
    temperature: float,
    group_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Share of the n pairs from `first` on in the loss of all N, with the gradient of the loss of all N.

    Shares of all ranks add up to the joint loss. The gradient is that of the joint loss with respect to the n
    pairs alone, which is what a rank owes to its own rows: they are anchors here and negatives elsewhere.
    """
    N, n = len(z1_ND), len(z1_nD)
    z1_ND, z2_ND = (
        torch.cat([all_ND[:first].detach(), own_nD, all_ND[first + n :].detach()])
        for own_nD, all_ND in ((z1_nD, z1_ND), (z2_nD, z2_ND))
    )
    losses_M = _of_each_anchor(z1_ND, z2_ND, temperature, group_N)
    share = losses_M.view(2, N)[:, first : first + n].sum() / (2 * N)
    joint = losses_M.mean()
    return share.detach() + (joint - joint.detach())


def _of_each_anchor(
    z1_ND: torch.Tensor, z2_ND: torch.Tensor, temperature: float, group_N: torch.Tensor | None
) -> torch.Tensor:
    N = len(z1_ND)
    z_MD = torch.cat([z1_ND, z2_ND])
    z_MD = F.normalize(z_MD if z_MD.dtype == torch.float64 else z_MD.float(), dim=1)
    s_MM = z_MD @ z_MD.T / temperature
    itself_MM = torch.eye(2 * N, dtype=torch.bool, device=s_MM.device)
    excluded_MM, partner_M = itself_MM, torch.arange(2 * N, device=s_MM.device).roll(N)
    if group_N is not None:
        group_M = torch.cat([group_N, group_N])
        excluded_MM = (group_M[:, None] == group_M) & ~itself_MM.roll(N, dims=1)
    # -inf rather than a large constant: a constant overflows in half precision.
    return F.cross_entropy(s_MM.masked_fill(excluded_MM, -torch.inf), partner_M, reduction="none")
