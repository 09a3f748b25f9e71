"""Random views of stamps as they would be of a fainter source, with the noise that it would have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..config import AugmentConfig
from .samples import Samples


def dimmed_views(
    samples: Samples,
    rows: np.ndarray,
    augmentation: AugmentConfig,
    fainter: np.ndarray,
    pixel_noise: np.ndarray,
    *,
    seed: int,
    epoch: int,
    patch_size: int,
) -> torch.Tensor:
    """Return views of stamps whose source is fainter by given magnitudes, as patch tokens.

    Pixels are multiplied by ``k = 10^(-0.4 fainter)``, and Gaussian noise of standard deviation
    ``sqrt(1 - k^2) pixel_noise`` brings that of the sky back to what it was. The noise is that which the
    augmentation draws, a function of (seed, epoch, object, view), on any device.

    Parameters
    ----------
    samples : Samples
        The objects.
    rows : ndarray of int, shape (n,)
        Which of them.
    augmentation : AugmentConfig
        Views, without noise of their own and not standardised.
    fainter : ndarray of float, shape (V, n)
        Magnitudes, 0 or more, of each view.
    pixel_noise : ndarray of float, shape (C,)
        Noise of a pixel in each band.
    seed, epoch, patch_size : int
        As for :meth:`margformer_fast.learning.samples.Samples.views`.

    Returns
    -------
    Tensor of float32, shape (V, n, P, p*p*C)
    """
    plain_VNPL, noisy_VNPL = (
        samples.views(
            rows,
            replace(augmentation, noise=noise),
            seed=seed,
            epoch=epoch,
            num_views=len(fainter),
            patch_size=patch_size,
        )
        for noise in (0.0, tuple(float(sigma) for sigma in pixel_noise))
    )
    k_VN11 = torch.from_numpy(10 ** (-0.4 * fainter)).float().to(plain_VNPL.device)[..., None, None]
    return k_VN11 * plain_VNPL + (1 - k_VN11**2).clamp(min=0).sqrt() * (noisy_VNPL - plain_VNPL)
