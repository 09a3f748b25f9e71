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
_LARGEST_PIXEL = 1e30  # brighter than any source in any unit, and far enough from the end of float32


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
        If there is no object, a feature is not finite in float32, a stamp has a band without one finite
        pixel, or a pixel is beyond any brightness.
    """

    def __init__(self, survey: Survey, classes: Sequence[str], device: torch.device, name: str) -> None:
        if len(survey) == 0:
            raise DataError(f"the {name} set is empty", expected="at least one object")
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

        Raises
        ------
        DataError
            If a band has the same value everywhere: it cannot be scaled, and nothing can be learned from it.
        """
        rows = np.linspace(0, len(self) - 1, min(limit, len(self))).astype(np.int64)
        pixels = self.survey.stamps.decode(rows)
        value = np.where(np.isfinite(pixels), pixels, 0).swapaxes(0, 1).reshape(pixels.shape[1], -1)
        deviation = np.abs(value - np.median(value, axis=1, keepdims=True))
        # Where most pixels are alike, as where the sky was blanked out, the median says nothing.
        noise = np.where(
            (median := np.median(deviation, axis=1)) > 0, 1.4826 * median, value.std(axis=1, dtype=np.float64)
        )
        if not (noise > 0).all():
            band = self.survey.profile.bands[int(np.argmin(noise > 0))]
            raise DataError(
                f"all pixels of band {band} are the same",
                where=f"{self.name} set",
                expected="stamps with noise",
                mend="Look at a stamp: the band was not read, or is masked everywhere.",
            )
        return noise

    def feature_range(self) -> np.ndarray:
        """Return between which values 99.8 % of each feature lie, float64 (F, 2), in survey units."""
        return np.quantile(self.survey.features, (0.001, 0.999), axis=0).T

    def _check_features(self) -> None:
        # What float32 cannot hold is infinite to the network.
        bad = np.argwhere(~(np.abs(self.survey.features) <= np.finfo(np.float32).max))
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
            pixels = self.survey.stamps.decode(rows)
            bad = ~np.isfinite(pixels)
            huge = np.argwhere(np.where(bad, 0, np.abs(pixels)) > _LARGEST_PIXEL)
            if len(huge):
                n, band = huge[0][:2]
                raise DataError(
                    f"objid {self.survey.objid[rows[n]]} has a pixel of "
                    f"{pixels[tuple(huge[0])]:.3g} in band {self.survey.profile.bands[band]}",
                    where=f"{self.name} set",
                    expected=f"at most {_LARGEST_PIXEL:.0e}; more overflows when it is scaled",
                    mend="Mask such pixels with NaN, or leave the object out.",
                )
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
