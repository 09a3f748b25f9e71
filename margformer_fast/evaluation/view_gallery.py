"""Stamps beside the random views that training would see of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config import AugmentConfig
from ..data.survey import CLASSES, UNKNOWN, Survey
from ..errors import DataError
from ..ops.augment_patchify import augment_patchify
from .colour_image import colour_image

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

VIEWS = {
    "reference": AugmentConfig(),
    "composed, bilinear": AugmentConfig(mode="composed", interpolation="bilinear"),
    "composed, to the edge": AugmentConfig(mode="composed", interpolation="bilinear", border="edge"),
}
"""Which views are shown, by the heading of their column."""


def view_gallery(survey: Survey, rows: np.ndarray, *, seed: int = 0) -> Figure:
    """Show objects, one a line: the stamp, two views in the reference mode, one in each other mode.

    Parameters
    ----------
    survey : Survey
        Where the objects are.
    rows : ndarray of int64, shape (n,)
        Which of them.
    seed : int
        Seed of the views.

    Raises
    ------
    DataError
        If no object is asked for, or a row is outside.
    """
    from matplotlib.figure import Figure

    if not len(rows):
        raise DataError("there is no object to show")
    panels: list[tuple[str, np.ndarray]] = [("stamp", survey.stamps.decode(rows))]
    for name, config in VIEWS.items():
        # One patch as large as the stamp: the token is the whole view.
        token_VNPL = augment_patchify(
            survey.stamps,
            rows,
            survey.objid[rows],
            config,
            seed=seed,
            epoch=0,
            num_views=2,
            patch_size=survey.stamps.size,
        )
        panels += [
            (name, _images(token_VNPL[view], survey)) for view in range(2 if name == "reference" else 1)
        ]

    figure = Figure(figsize=(1.55 * len(panels), 1.65 * len(rows) + 0.5), layout="constrained")
    figure.suptitle("Simulated data" if survey.simulated else "Stamps and their views", fontsize=11)
    grid = figure.subplots(len(rows), len(panels), squeeze=False)
    for line, row in enumerate(rows):
        label = survey.label[row]
        name = CLASSES[label] if label != UNKNOWN else "unknown class"
        grid[line, 0].set_ylabel(f"{name}\nr = {survey.r_obs[row]:.2f}", fontsize=8)
        for axes, (title, images) in zip(grid[line], panels, strict=True):
            axes.imshow(
                colour_image(images[line], survey.profile.bands), origin="lower", interpolation="nearest"
            )
            axes.set(xticks=[], yticks=[])
            if line == 0:
                axes.set_title(title, fontsize=8.5)
    return figure


def _images(token_NPL: torch.Tensor, survey: Survey) -> np.ndarray:
    """Turn tokens that are whole stamps into images (n, C, S, S)."""
    size, bands = survey.stamps.size, survey.stamps.num_bands
    return token_NPL.reshape(-1, size, size, bands).permute(0, 3, 1, 2).numpy()
