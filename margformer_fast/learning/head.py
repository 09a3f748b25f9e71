"""A classification head that fits the embeddings of a pre-trained encoder before anything is fine-tuned."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from torch import nn

from ..nn.inputs import ScaledEncoder
from .classify import predict
from .samples import Samples

_FOLDS = 5
_PENALTIES = np.logspace(-3, 4, 10)


def fit_head(
    model: ScaledEncoder, labelled: Samples, object_weights: np.ndarray | None = None, *, precision: str
) -> None:
    """Give a model the linear head that a penalised logistic regression on its embeddings finds.

    A fresh head sends random gradients into an encoder that pre-training has put in order; with few labels
    it never recovers (Kumar et al. 2022, arXiv 2202.10054: probe first, then fine-tune). The penalty is that
    of the lowest cross-entropy in five folds of the labelled objects.

    Parameters
    ----------
    model : ScaledEncoder
        Changed in place: the last linear map of its head. Its other weights are left alone.
    labelled : Samples
        Objects of every class.
    object_weights : ndarray of float, shape (N,), optional
        What each object counts.
    precision : {"fp32", "bf16"}
        Of the encoder's products.
    """
    last = [module for module in model.encoder.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach().double()))
    try:
        predict(model, labelled, precision=precision)
    finally:
        hook.remove()
    x_ND, y_N = torch.cat(seen).cpu().numpy(), labelled.label.cpu().numpy()
    mean_D, std_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-6
    folds = min(_FOLDS, int(np.bincount(y_N).min()))
    regression = (
        LogisticRegressionCV(Cs=_PENALTIES, cv=folds, scoring="neg_log_loss", max_iter=500)
        if folds > 1
        else LogisticRegression(max_iter=500)
    )
    with warnings.catch_warnings():
        # The weakest penalties need not converge; they do not win.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit((x_ND - mean_D) / std_D, y_N, sample_weight=object_weights)
    weight_CD, bias_C = regression.coef_, regression.intercept_
    if len(weight_CD) == 1:  # two classes: one row for the second against the first
        weight_CD, bias_C = (np.concatenate([-each, each]) / 2 for each in (weight_CD, bias_C))
    weight_CD = weight_CD / std_D
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight_CD))
        last.bias.copy_(torch.from_numpy(bias_C - weight_CD @ mean_D))
