"""Read the images of many small FITS files into one array: stored pixels, or float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import _native
from ..backends import AUTO, Implementation, Operator, Problem, not_compiled, not_in_memory
from ..errors import ConfigError, FitsFormatError
from ..reference.decode import Scaling
from ..reference.fits_image import DTYPES, find_image
from ..reference.read_cutouts import MAX_FILE_BYTES, ImageLayout, read_file
from ..reference.read_cutouts import read_cutouts as _reference

__all__ = ["MAX_FILE_BYTES", "Loader", "read_cutouts", "read_file"]

Loader = Callable[[str], bytes]
"""Returns the bytes of a FITS file."""


def _compiled(
    paths: Sequence[str], hdus: Sequence[int], layout: ImageLayout, decode_each: bool, out: np.ndarray
) -> None:
    flat = out.reshape(-1).view(np.uint8)
    done = 0
    while True:
        done = _native.compiled().read_cutouts(
            list(paths),
            begin=done,
            hdus=hdus,
            bitpix=layout.bitpix,
            shape=layout.shape,
            bscale=layout.scaling.bscale,
            bzero=layout.scaling.bzero,
            blank=layout.scaling.blank,
            decode=decode_each,
            max_file_size=MAX_FILE_BYTES,
            out=flat,
            threads=_native.num_threads(),
        )
        if done == len(paths):
            return
        # The reference says what is wrong with this file. Should it be read all the same, because it has been
        # mended meanwhile, then it is read.
        _reference(paths[done : done + 1], hdus, layout, decode_each, out[done : done + 1])
        done += 1


OPERATOR = Operator(
    "read_cutouts",
    (
        Implementation("cpp", _compiled, not_compiled),
        Implementation("reference", _reference, not_in_memory),
    ),
)


def read_cutouts(
    paths: Sequence[str],
    hdus: Sequence[int],
    *,
    decode: bool = False,
    load: Loader | None = None,
    backend: str = AUTO,
) -> tuple[np.ndarray, Scaling]:
    """Read the same HDUs of many FITS files, on as many threads as we may use.

    Parameters
    ----------
    paths : sequence of str, length F
        Uncompressed files of at most `MAX_FILE_BYTES`. Each is open only while it is read.
    hdus : sequence of int, length H
        Which HDUs to take of each file, 0 for the first: images of one shape, square, of one or several
        planes.
    decode : bool
        Scale each image by itself to float32. By default pixels stay as they are stored, and BITPIX, BSCALE,
        BZERO and BLANK must be the same in all.
    load : callable, optional
        Returns the bytes of a file in place of reading it, so that it may be compressed. It is called file by
        file, by the reference alone.
    backend : str
        ``"auto"``, ``"cpp"`` or ``"reference"``.

    Returns
    -------
    images : ndarray, shape (F, H, size, size) or (F, H, bands, size, size)
        Stored pixels, big-endian; or native float32, BLANK as NaN, if `decode`.
    scaling : Scaling
        What makes them physical values.

    Raises
    ------
    DataError
        For the first file, in the order given, that is missing, cannot be read, is too large, or differs in
        shape, pixel type or scaling from the first image.
    FitsFormatError
        ... or is damaged, or has no such image.
    ConfigError
        If no file or no HDU is given, or one before the first.
    BackendUnavailable
        If a named backend cannot run.
    """
    if not paths:
        raise ConfigError("there are no files to read", expected="at least one")
    if not hdus or min(hdus) < 0:
        raise ConfigError(f"HDUs are {list(hdus)}", expected="numbers from 0 on, at least one")
    layout = _layout_of(paths[0], hdus[0], load or read_file)
    dtype = np.dtype(np.float32 if decode else DTYPES[layout.bitpix])
    out = np.empty((len(paths), len(hdus), *layout.shape), dtype)
    if load is not None:
        _reference(paths, hdus, layout, decode, out, load=load)
    else:
        problem = Problem("cpu", dtype.str, (out.shape,))
        OPERATOR.resolve(problem, backend).run(paths, hdus, layout, decode, out)
    return out, Scaling() if decode else layout.scaling


def _layout_of(path: str, hdu: int, load: Loader) -> ImageLayout:
    """Return how an image is stored, which the others must follow."""
    where = f"{path}, HDU {hdu}"
    header, scaling = find_image(memoryview(load(path)), hdu, path)
    shape = header.shape
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or 0 in shape:
        raise FitsFormatError(
            f"the image has shape {shape}", where=where, expected="(size, size) or (bands, size, size)"
        )
    return ImageLayout(header.bitpix, shape, scaling, where)
