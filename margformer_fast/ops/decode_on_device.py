"""Decode raw pixels that lie in a tensor of bytes, on the device where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import _native
from ..backends import AUTO, Implementation, Operator, Problem, not_compiled
from ..errors import DataError
from ..reference.decode import Scaling
from ..reference.decode import decode as _reference
from .decode import MAX_DIMENSIONS, check_pixel_type, decode_compiled

if TYPE_CHECKING:
    import torch

_HostDecode = Callable[[np.ndarray, np.ndarray, Scaling], np.ndarray]
_DeviceDecode = Callable[["torch.Tensor", "torch.Tensor", "RawLayout", Scaling], "torch.Tensor"]


@dataclass(frozen=True)
class RawLayout:
    """Where raw pixels lie in a buffer of bytes.

    Parameters
    ----------
    dtype : str
        NumPy's name of a FITS pixel type with its byte order, such as ``">f4"``.
    shape : tuple of int
        (N, ...), one to four axes; usually (N, bands, rows, columns).
    strides : tuple of int
        Bytes from one pixel to the next along each axis, of any sign.
    offset : int
        Byte of the buffer at which pixel (0, ..., 0) begins.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        check_pixel_type(np.dtype(self.dtype))
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or len(self.strides) != len(self.shape):
            raise DataError(
                f"raw pixels have shape {self.shape} and strides {self.strides}",
                expected=f"1 to {MAX_DIMENSIONS} axes, as many strides",
            )

    @classmethod
    def describe(cls, array: np.ndarray) -> tuple[np.ndarray, RawLayout]:
        """Return the bytes that an array lies in, as they are, and where its pixels lie in them.

        The bytes, a read-only uint8 view, are what to copy: ``torch.from_numpy(raw.copy()).cuda()``.
        """
        low, high = np.lib.array_utils.byte_bounds(array)
        address = array.__array_interface__["data"][0]
        raw = np.asarray(_Bytes(array, low, high - low if array.size else 0))
        return raw, cls(array.dtype.str, array.shape, array.strides, address - low)

    def view(self, raw: np.ndarray) -> np.ndarray:
        """Return the pixels as a view of `raw`, a dense uint8 array on the host."""
        return np.ndarray(self.shape, self.dtype, raw, self.offset, self.strides)

    def check_inside(self, num_bytes: int) -> None:
        """Check that every pixel lies in a buffer of `num_bytes` bytes.

        Raises
        ------
        DataError
            If one does not.
        """
        if 0 in self.shape:
            return
        reaches = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        first = self.offset + sum(reach for reach in reaches if reach < 0)
        end = self.offset + sum(reach for reach in reaches if reach > 0) + np.dtype(self.dtype).itemsize
        if first < 0 or end > num_bytes:
            raise DataError(
                f"the pixels take bytes {first} to {end}",
                expected=f"0 to {num_bytes}, the size of the buffer",
            )


class _Bytes:
    """Memory of an array seen as bytes; NumPy's array interface keeps the array alive with it."""

    def __init__(self, owner: np.ndarray, address: int, size: int) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, True)}


def _on_host(decode: _HostDecode) -> _DeviceDecode:
    """Turn a decoder of host arrays into one of tensors; rows outside give NaN, as on a device."""

    def run(raw: torch.Tensor, rows: torch.Tensor, layout: RawLayout, scaling: Scaling) -> torch.Tensor:
        import torch

        pixels, wanted = layout.view(raw.cpu().numpy()), rows.cpu().numpy()
        inside = (wanted >= 0) & (wanted < len(pixels))
        out = np.full((len(wanted), *layout.shape[1:]), np.nan, np.float32)
        out[inside] = decode(pixels, wanted[inside], scaling)
        return torch.from_numpy(out).to(raw.device)

    return run


def _cuda(raw: torch.Tensor, rows: torch.Tensor, layout: RawLayout, scaling: Scaling) -> torch.Tensor:
    import torch

    dtype = np.dtype(layout.dtype)
    missing = MAX_DIMENSIONS - len(layout.shape)
    # Axes after the rows stand at the end, so that the last one is the line.
    shape = (layout.shape[0], *(1,) * missing, *layout.shape[1:])
    strides = (layout.strides[0], *(0,) * missing, *layout.strides[1:])
    out = torch.empty((len(rows), *layout.shape[1:]), dtype=torch.float32, device=raw.device)
    _native.compiled().decode_cuda(
        first=raw.data_ptr() + layout.offset,
        kind=dtype.kind,
        item_size=dtype.itemsize,
        swapped=not dtype.isnative,
        shape=shape,
        strides=strides,
        rows=rows.data_ptr(),
        num_rows=len(rows),
        out=out.data_ptr(),
        bscale=scaling.bscale,
        bzero=scaling.bzero,
        blank=scaling.blank,
        device=raw.device.index,
        # The stream on which the caller works: out is allocated on it, raw and rows are ready on it.
        stream=torch.cuda.current_stream(raw.device).cuda_stream,
    )
    return out


def _why_not_cuda(problem: Problem) -> tuple[str, ...]:
    return _native.cuda_why_not() if problem.device == "cuda" else (f"the data are on {problem.device}",)


OPERATOR = Operator(
    "decode_on_device",
    (
        Implementation("cuda", _cuda, _why_not_cuda),
        Implementation("cpp", _on_host(decode_compiled), not_compiled),
        Implementation("reference", _on_host(_reference)),
    ),
)


def decode_on_device(
    raw: torch.Tensor,
    rows: torch.Tensor,
    layout: RawLayout,
    scaling: Scaling = Scaling(),
    *,
    check_rows: bool = True,
    backend: str = AUTO,
) -> torch.Tensor:
    """Return rows of raw pixels as physical values in float32, on the device where they lie.

    Parameters
    ----------
    raw : Tensor of uint8, shape (bytes,), contiguous
        The bytes of a file or array, as :meth:`RawLayout.describe` gives them.
    rows : Tensor of int64, shape (n,), on the same device
        Which of the N rows to return, in order, repeats allowed.
    layout : RawLayout
        Where the pixels lie in `raw`.
    scaling : Scaling
        BSCALE, BZERO and BLANK.
    check_rows : bool
        Refuse rows outside 0 .. N - 1, which waits for the device. If false nothing waits, and such a row
        is NaN.
    backend : str
        ``"auto"``, ``"cuda"``, ``"cpp"`` or ``"reference"``.

    Returns
    -------
    Tensor of float32, shape (n, ...)
        As :func:`margformer_fast.ops.decode.decode`, bit for bit. On a GPU the work is queued on the current
        stream.

    Raises
    ------
    DataError
        If a tensor is of the wrong kind, the layout reaches outside `raw`, or a row is outside.
    BackendUnavailable
        If a named backend cannot run.
    """
    for name, tensor, dtype in (("raw", raw, "torch.uint8"), ("rows", rows, "torch.int64")):
        if str(tensor.dtype) != dtype or tensor.ndim != 1 or not tensor.is_contiguous():
            raise DataError(
                f"{name} is a tensor of {tensor.dtype} and shape {tuple(tensor.shape)}",
                expected=f"a contiguous one of {dtype} with one axis",
            )
    if raw.device != rows.device:
        raise DataError(f"raw is on {raw.device}, rows are on {rows.device}", expected="one device")
    layout.check_inside(raw.numel())
    if check_rows and len(rows):
        low, high = (int(bound) for bound in rows.aminmax())
        if low < 0 or high >= layout.shape[0]:
            raise DataError(f"rows reach from {low} to {high}", expected=f"0 to {layout.shape[0] - 1}")
    problem = Problem(raw.device.type, layout.dtype, (layout.shape, tuple(rows.shape)))
    return OPERATOR.resolve(problem, backend).run(raw, rows, layout, scaling)
