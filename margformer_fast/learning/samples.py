"""Objects as a learner sees them: checked once, then read batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.survey import CLASSES, Survey
from ..errors import DataError

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

    def __len__(self) -> int:
        return len(self.survey)

    def images(self, rows: np.ndarray) -> torch.Tensor:
        """Return stamps at `rows` as float32 (n, C, S, S); pixels without a finite value are zero."""
        image = torch.from_numpy(self.survey.stamps.decode(rows))
        return torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0).to(self.device)

    def counts(self) -> dict[str, int]:
        """Return the number of objects of each class of the task, and of any other under ``other``."""
        count = {c: int((self.label == k).sum()) for k, c in enumerate(self.classes)}
        other = int((self.label < 0).sum())
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
        value = self.images(rows).transpose(0, 1).flatten(1).cpu().numpy()
        deviation = np.abs(value - np.median(value, axis=1, keepdims=True))
        return 1.4826 * np.median(deviation, axis=1)

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
