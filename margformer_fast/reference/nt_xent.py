"""The normalised temperature-scaled cross-entropy of SimCLR. Shapes: N pairs, D dim."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def nt_xent(z1_ND: torch.Tensor, z2_ND: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent loss of N positive pairs (Chen et al. 2020, arXiv 2002.05709, equation 1).

    Parameters
    ----------
    z1_ND, z2_ND : Tensor, shape (N, D)
        Projections of the two views; row i of one and row i of the other are a positive pair. They are
        L2-normalised here.
    temperature : float
        Divides the cosine similarities.

    Returns
    -------
    Tensor, shape ()
        Mean over the 2N anchors of logsumexp(similarity to all others) - similarity to the partner.
    """
    N = len(z1_ND)
    z_MD = F.normalize(torch.cat([z1_ND, z2_ND]), dim=1)
    s_MM = z_MD @ z_MD.T / temperature
    # -inf rather than a large constant: a constant overflows in half precision.
    s_MM = s_MM.masked_fill(torch.eye(2 * N, dtype=torch.bool, device=s_MM.device), -torch.inf)
    partner_M = torch.arange(2 * N, device=s_MM.device).roll(N)
    return F.cross_entropy(s_MM, partner_M)
