"""Objects as a learner sees them: checked once, then read batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..config import AugmentConfig
from ..data.survey import CLASSES, Survey
from ..errors import DataError
from ..ops.augment_patchify import augment_patchify
from ..ops.decode_patchify import decode_patchify
from .device import near

_CHECK_CHUNK = 2048


class Samples:
    """Labels, photometry and stamps of a set of objects on one device.

    Parameters
    ----------
    survey : Survey
        The objects.
    classes : sequence of str
        Classes of the task, in label order.
    device : torch.device
        Where batches are wanted.
    name : str
        What the set is for ("training"); used in messages.

    Attributes
    ----------
    label : Tensor of int64, shape (N,)
        Index into `classes`; -1 for an object of another or unknown class.
    photometry : Tensor of float32, shape (N, F)
        Features in survey units.
    stamps : Stamps or ResidentStamps
        Raw pixels: in the memory of the device if they fit there, else where the survey has them.
    missing_pixels : int
        Pixels without a finite value, which are read as zero.

    Raises
    ------
    DataError
        If there is no object, a feature is not finite, or a stamp has a band without one finite pixel.
    """

    def __init__(self, survey: Survey, classes: Sequence[str], device: torch.device, name: str) -> None:
        if len(survey) == 0:
            raise DataError(f"the {name} set is empty")
        self.survey, self.classes, self.device, self.name = survey, tuple(classes), device, name
        task_label = np.array([classes.index(c) if c in classes else -1 for c in CLASSES] + [-1])
        self.label = torch.from_numpy(task_label[survey.label]).to(device)
        self._check_features()
        self.photometry = torch.from_numpy(survey.features.astype(np.float32)).to(device)
        self.missing_pixels = self._check_stamps()
        self.stamps = near(survey.stamps, device)

    def __len__(self) -> int:
        return len(self.survey)

    def tokens(self, rows: np.ndarray, patch_size: int) -> torch.Tensor:
        """Return stamps at `rows` as patch tokens (n, P, p*p*C), as they are.

        As in views, pixels without a finite value are zero.
        """
        return decode_patchify(self.stamps, rows, patch_size=patch_size).to(self.device)

    def views(
        self,
        rows: np.ndarray,
        augmentation: AugmentConfig,
        *,
        seed: int,
        epoch: int,
        num_views: int,
        patch_size: int,
    ) -> torch.Tensor:
        """Return random views of stamps at `rows` as patch tokens (V, n, P, p*p*C)."""
        token_VNPL = augment_patchify(
            self.stamps,
            rows,
            self.survey.objid[rows],
            augmentation,
            seed=seed,
            epoch=epoch,
            num_views=num_views,
            patch_size=patch_size,
        )
        return token_VNPL.to(self.device)

    def counts(self, rows: np.ndarray | None = None) -> dict[str, int]:
        """Return the number of objects (at `rows`) of each class, and of others under ``other``."""
        label = self.label if rows is None else self.label[rows]
        count = {c: int((label == k).sum()) for k, c in enumerate(self.classes)}
        other = int((label < 0).sum())
        return {**count, "other": other} if other else count

    def require_classes(self) -> None:
        """Insist that every object has a class of the task and every class has an object.

        Raises
        ------
        DataError
            Otherwise, naming the class.
        """
        for name, count in self.counts().items():
            if name == "other":
                raise DataError(
                    f"{count} objects of the {self.name} set have a label outside the task",
                    expected=" | ".join(self.classes),
                )
            if count == 0:
                raise DataError(
                    f"the {self.name} set has no {name} among its {len(self)} objects",
                    mend="Use more objects, another population, or --task sg if quasars are missing.",
                )

    def pixel_noise(self, limit: int = 2048) -> np.ndarray:
        """Estimate the pixel noise of each band, shape (C,), from up to `limit` stamps spread over the set.

        1.4826 times the median absolute deviation of all pixels: stamps are mostly sky.
        """
        rows = np.linspace(0, len(self) - 1, min(limit, len(self))).astype(np.int64)
        pixels = self.survey.stamps.decode(rows)
        value = np.where(np.isfinite(pixels), pixels, 0).swapaxes(0, 1).reshape(pixels.shape[1], -1)
        deviation = np.abs(value - np.median(value, axis=1, keepdims=True))
        return 1.4826 * np.median(deviation, axis=1)

    def feature_range(self) -> np.ndarray:
        """Return between which values 99.8 % of each feature lie, float64 (F, 2), in survey units."""
        return np.quantile(self.survey.features, (0.001, 0.999), axis=0).T

    def _check_features(self) -> None:
        bad = np.argwhere(~np.isfinite(self.survey.features))
        if len(bad):
            row, column = bad[0]
            raise DataError(
                f"{len(np.unique(bad[:, 0]))} of {len(self)} objects have a feature that is not finite; "
                f"the first is objid {self.survey.objid[row]}, {self.survey.profile.feature_names[column]} = "
                f"{self.survey.features[row, column]}",
                where=f"{self.name} set",
                mend="Leave these objects out; `python -m margformer_fast.data verify` lists them.",
            )

    def _check_stamps(self) -> int:
        missing, blank = 0, []
        for start in range(0, len(self), _CHECK_CHUNK):
            rows = np.arange(start, min(start + _CHECK_CHUNK, len(self)))
            bad = ~np.isfinite(self.survey.stamps.decode(rows))
            missing += int(bad.sum())
            blank += [(rows[n], band) for n, band in np.argwhere(bad.all(axis=(2, 3)))]
        if blank:
            row, band = blank[0]
            count = len({n for n, _ in blank})
            raise DataError(
                f"{count} of {len(self)} stamps have a band without one finite pixel; "
                f"the first is objid {self.survey.objid[row]}, band {self.survey.profile.bands[band]}",
                where=f"{self.name} set",
                mend="Leave these objects out; `python -m margformer_fast.data verify` lists them.",
            )
        return missing
