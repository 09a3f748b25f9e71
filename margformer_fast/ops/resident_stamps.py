"""Stamps whose raw pixels lie in the memory of a device, where operators read them in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import DataError
from .decode import Scaling, checked_rows
from .decode_on_device import RawLayout, decode_on_device

if TYPE_CHECKING:
    from .stamps import Stamps

_CHUNK_BYTES = 1 << 28


@dataclass(frozen=True)
class ResidentStamps:
    """N multi-band images as raw bytes on a device: as stored, only densely packed.

    Parameters
    ----------
    raw : Tensor of uint8, shape (bytes,)
        Stored pixels.
    layout : RawLayout
        Where they lie in `raw`, with shape (N, bands, size, size).
    scaling : Scaling
        BSCALE, BZERO and BLANK.

    Raises
    ------
    DataError
        If the layout is of another shape or reaches outside `raw`.
    """

    raw: torch.Tensor
    layout: RawLayout
    scaling: Scaling = Scaling()

    def __post_init__(self) -> None:
        shape = self.layout.shape
        if len(shape) != 4 or shape[2] != shape[3]:
            raise DataError(f"stamps have shape {shape}", expected="(N, bands, size, size)")
        self.layout.check_inside(self.raw.numel())

    @classmethod
    def upload(cls, stamps: Stamps, device: torch.device) -> ResidentStamps:
        """Copy stamps to a device, stored bytes as they are, a quarter of a gigabyte at a time.

        Stamps whose parts are stored in different types are decoded to float32 on the way.
        """
        dtype = _dtype(stamps)
        is_stored = stamps.is_uniform
        shape = (len(stamps), *stamps.parts[0].shape[1:])
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        raw = torch.empty(cls.bytes_needed(stamps), dtype=torch.uint8, device=device)
        step = max(1, _CHUNK_BYTES // max(1, row_bytes))
        for start in range(0, len(stamps), step):
            rows = np.arange(start, min(start + step, len(stamps)))
            chunk = stamps.stored(rows) if is_stored else stamps.decode(rows)
            where = slice(start * row_bytes, (start + len(rows)) * row_bytes)
            raw[where] = torch.from_numpy(chunk.reshape(-1).view(np.uint8)).to(device)
        strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(4))
        return cls(raw, RawLayout(dtype.str, shape, strides), stamps.scaling if is_stored else Scaling())

    @staticmethod
    def bytes_needed(stamps: Stamps) -> int:
        """Return how much memory of a device :meth:`upload` would take."""
        return len(stamps) * math.prod(stamps.parts[0].shape[1:]) * _dtype(stamps).itemsize

    @classmethod
    def of_tensor(cls, image_NCSS: torch.Tensor) -> ResidentStamps:
        """Describe images that lie on a device, of any strides; nothing is copied."""
        storage = image_NCSS.untyped_storage()
        raw = torch.empty(0, dtype=torch.uint8, device=image_NCSS.device).set_(storage)
        size = image_NCSS.element_size()
        layout = RawLayout(
            _numpy_dtype(image_NCSS).str,
            tuple(image_NCSS.shape),
            tuple(int(stride) * size for stride in image_NCSS.stride()),
            int(image_NCSS.storage_offset()) * size,
        )
        return cls(raw, layout)

    def __len__(self) -> int:
        return self.layout.shape[0]

    @property
    def num_bands(self) -> int:
        """Number of bands."""
        return self.layout.shape[1]

    @property
    def size(self) -> int:
        """Side of a stamp in pixels."""
        return self.layout.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the pixels lie."""
        return self.raw.device

    def rows(self, indices: np.ndarray | torch.Tensor | None) -> torch.Tensor:
        """Return indices as an int64 tensor on the device.

        Those that come from the host are checked; to check those of a device would mean to wait for it.

        Raises
        ------
        DataError
            If an index of the host is not in 0 .. N - 1.
        """
        if isinstance(indices, torch.Tensor):
            return indices.to(self.device, torch.int64)
        return torch.from_numpy(checked_rows(indices, len(self))).to(self.device, non_blocking=True)

    def decode(
        self, indices: np.ndarray | torch.Tensor | None = None, *, backend: str = "auto"
    ) -> torch.Tensor:
        """Return pixels as float32, shape (n, bands, size, size), on the device; BLANK is NaN.

        Raises
        ------
        DataError
            As :meth:`rows`.
        """
        rows = self.rows(indices)
        return decode_on_device(self.raw, rows, self.layout, self.scaling, check_rows=False, backend=backend)


def _dtype(stamps: Stamps) -> np.dtype:
    """Return the type that stamps have on a device."""
    return stamps.parts[0].dtype if stamps.is_uniform else np.dtype(np.float32)


def _numpy_dtype(tensor: torch.Tensor) -> np.dtype:
    """Return NumPy's type of a tensor's elements."""
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype
