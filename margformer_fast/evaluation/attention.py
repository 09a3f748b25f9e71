"""Which patches of a stamp a trained network used: by taking them away, and by what its attention reads.

Shapes: n objects, P patches, T = P + 1 tokens, L values of a patch, H heads, K slots, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError
from ..nn.inputs import ScaledEncoder
from ..nn.margformer import MargFormer
from ..ops.patchify import patchify
from ..reference.cross_attention import slot_weights
from ..reference.encoder_layer import encoder_layer
from .explained import Explained

_BATCH = 512


def _log_odds(logit_BC: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """Return log p / (1 - p) of one class of each object, (B,), which a shift of all logits leaves alone."""
    others_BC = logit_BC.scatter(1, k_B[:, None], -torch.inf)
    return logit_BC.gather(1, k_B[:, None])[:, 0] - others_BC.logsumexp(dim=1)


@torch.no_grad()
def occlusion(model: ScaledEncoder, photometry: torch.Tensor, token_nPL: torch.Tensor) -> torch.Tensor:
    """Return how much the log-odds of the predicted class fall when a patch is replaced by empty sky.

    Each patch in turn is set to zero flux, the level of the sky, in all bands; the photometry stays. It asks
    nothing of the model but its answer (Zeiler & Fergus 2014, arXiv 1311.2901), so that any encoder can be
    asked. Patches are taken away one at a time: two that say the same both look dispensable.

    Parameters
    ----------
    model : ScaledEncoder
        In evaluation mode.
    photometry : Tensor, shape (n, F)
        Features in survey units.
    token_nPL : Tensor, shape (n, P, L), n above 0
        Patch tokens in the survey's flux unit.

    Returns
    -------
    Tensor of float64, shape (n, P)
        Positive where the patch speaks for the predicted class.
    """
    P = token_nPL.shape[1]
    logit_nC = model(photometry, token_nPL).double()
    k_n = logit_nC.argmax(dim=1)
    empty_PP1 = torch.eye(P, dtype=torch.bool, device=token_nPL.device)[:, :, None]
    fall = []
    for one_PL, features, k, logit_C in zip(token_nPL, photometry, k_n, logit_nC, strict=True):
        seen_PPL = one_PL.masked_fill(empty_PP1, 0.0)
        without_PC = torch.cat(
            [model(features.expand(len(part), -1), part).double() for part in seen_PPL.split(_BATCH)]
        )
        fall.append(_log_odds(logit_C[None], k[None]) - _log_odds(without_PC, k.expand(P)))
    return torch.stack(fall)


@torch.no_grad()
def attention_shares(model: ScaledEncoder, photometry: torch.Tensor, token_nPL: torch.Tensor) -> torch.Tensor:
    """Return the share of each token in what the photometric token reads in the last layer.

    Attention weighs K slots, each a mixture of all tokens: head h takes a_hk of slot k, and slot k holds
    proj_v[t, k] of the value of token t. The share of token t is the mean over heads of
    sum_k a_hk |proj_v[t, k]|, scaled to sum to 1 over tokens. The magnitude is taken because a mixture may
    enter with either sign; a share says that a token is read, not what it says (Jain & Wallace 2019, arXiv
    1902.10186), and differs from object to object only through a. The last layer is the one whose reading
    goes straight to the classifier; earlier ones have mixed the photometry into every token.

    Parameters
    ----------
    model : ScaledEncoder
        Of a :class:`margformer_fast.nn.margformer.MargFormer`, in evaluation mode.
    photometry, token_nPL
        As for :func:`occlusion`.

    Returns
    -------
    Tensor, shape (n, T)
        The photometric token first.

    Raises
    ------
    DataError
        If the encoder is of another form.
    """
    encoder = model.encoder
    if not isinstance(encoder, MargFormer):
        raise DataError(f"a {type(encoder).__name__} has no photometric query", expected="a MargFormer")
    x_nTD = encoder.tokens(*model.inputs(photometry, token_nPL))
    *before, (last, _) = encoder.layers()
    for attention, hidden in before:
        x_nTD = encoder_layer(x_nTD, attention, hidden, encoder.num_heads, 0.0)
    y_nTD = F.layer_norm(x_nTD, x_nTD.shape[-1:], last.norm_weight, last.norm_bias)
    a_nHK = slot_weights(y_nTD, last.w_q, last.w_k, last.proj_k, encoder.num_heads)
    share_nHT = a_nHK @ last.proj_v.abs().T
    return (share_nHT / share_nHT.sum(dim=-1, keepdim=True)).mean(dim=1)


def explain(
    model: ScaledEncoder,
    photometry: torch.Tensor,
    stamps: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    method: str,
    seed: int,
) -> Explained:
    """Return what a model looked at in some objects.

    Parameters
    ----------
    model : ScaledEncoder
        Put into evaluation mode.
    photometry : Tensor, shape (n, F)
        Features of the objects in survey units, on the model's device.
    stamps : ndarray of float32, shape (n, bands, size, size)
        Their images in the survey's flux unit; pixels without a finite value count as zero, as in training.
    rows : sequence of int
        Which test objects they are.
    method, seed
        Of the run that trained the model.

    Returns
    -------
    Explained
        Without attention for an encoder that is no MargFormer.

    Raises
    ------
    DataError
        If there is no object.
    """
    if not len(rows):
        raise DataError("there is no object to ask the model about", expected="at least one row")
    model.eval()
    finite = np.where(np.isfinite(stamps), stamps, 0).astype(np.float32)
    token_nPL = patchify(torch.from_numpy(finite).to(photometry.device), model.config.patch_size)
    side = model.config.size // model.config.patch_size

    def as_map(value_nP: torch.Tensor) -> np.ndarray:
        return value_nP.double().cpu().numpy().reshape(-1, side, side)

    shares = None
    if isinstance(model.encoder, MargFormer):
        shares = as_map(attention_shares(model, photometry, token_nPL)[:, 1:])
    return Explained(
        method=method,
        seed=seed,
        rows=np.asarray(rows, np.int64),
        stamps=stamps,
        occlusion=as_map(occlusion(model, photometry, token_nPL)),
        attention=shares,
    )
