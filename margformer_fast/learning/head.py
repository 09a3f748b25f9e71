"""A classification head that fits the embeddings of a pre-trained encoder before anything is fine-tuned."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import nn

from ..nn.inputs import ScaledEncoder
from .classify import predict
from .samples import Samples

_FOLDS = 5
_STRENGTHS = np.logspace(-3, 2, 6)  # inverse, of the penalty


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
    _, embedding = predict(model, labelled, precision=precision)
    hook = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach().double()))
    try:
        with torch.no_grad():
            model.head(torch.from_numpy(embedding).to(labelled.device))
    finally:
        hook.remove()
    x_ND, y_N = seen[0].cpu().numpy(), labelled.label.cpu().numpy()
    weight_N = np.ones(len(y_N)) if object_weights is None else object_weights
    mean_D, std_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-6
    regression = _regression((x_ND - mean_D) / std_D, y_N, weight_N)
    weight_CD, bias_C = regression.coef_, regression.intercept_
    if len(weight_CD) == 1:  # two classes: one row for the second against the first
        weight_CD, bias_C = (np.concatenate([-each, each]) / 2 for each in (weight_CD, bias_C))
    weight_CD = weight_CD / std_D
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight_CD))
        last.bias.copy_(torch.from_numpy(bias_C - weight_CD @ mean_D))


def _regression(x_ND: np.ndarray, y_N: np.ndarray, weight_N: np.ndarray) -> LogisticRegression:
    """Fit a logistic regression with the penalty of the lowest cross-entropy of objects left out."""

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        regression = LogisticRegression(C=strength, max_iter=500)
        with warnings.catch_warnings():
            # The weakest penalties need not converge; they do not win.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return regression.fit(x_ND[rows], y_N[rows], sample_weight=weight_N[rows])

    def loss(strength: float, learned: np.ndarray, left_out: np.ndarray) -> float:
        score = torch.from_numpy(fitted(strength, learned).decision_function(x_ND[left_out]))
        if score.ndim == 1:  # two classes: the score of the second against the first
            score = torch.stack([torch.zeros_like(score), score], dim=1)
        # Of the scores themselves: the logarithm of a probability is that of zero where an object is far off.
        log_p = torch.log_softmax(score, dim=1).numpy()
        return float(-(weight_N[left_out] * log_p[np.arange(len(left_out)), y_N[left_out]]).sum())

    folds = min(_FOLDS, int(np.bincount(y_N).min()))
    if folds < 2:  # a class with one object cannot be left out
        return fitted(1.0, np.arange(len(y_N)))
    parts = list(StratifiedKFold(folds).split(x_ND, y_N))
    return fitted(min(_STRENGTHS, key=lambda c: sum(loss(c, *part) for part in parts)), np.arange(len(y_N)))
