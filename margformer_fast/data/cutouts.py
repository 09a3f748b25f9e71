"""Stamps from many small FITS files: one file an object, or one an object and band, as cut-out services give.

Three forms are read:

* one file an object whose image has a plane a band (``NAXIS3``), as the Legacy Surveys' viewer serves them;
* one file an object with an extension a band;
* one file an object and band, as cut-outs of SDSS, Pan-STARRS or LSST images come.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import itertools
import logging
import math
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from ..errors import ConfigError, DataError, FitsFormatError
from ..ops import read_cutouts as images
from ..ops.stamps import Stamps
from ..reference.fits_image import DTYPES
from .fits import walk_hdus
from .fits_stream import BLOCK_BYTES

AnyPath = str | os.PathLike[str]

_NAME = re.compile(r"(?P<id>[^.].*?)\.(fits|fit|fts)(\.(fz|gz|bz2))?")
_UNPACKERS = {".fz": "astropy", ".gz": "gzip", ".bz2": "bz2"}

_log = logging.getLogger(__name__)


def find_cutouts(where: AnyPath, bands: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Find the files of each object.

    Parameters
    ----------
    where : str or Path
        A folder of ``ID.fits`` (also ``.fit`` or ``.fts``, and any of them followed by ``.fz``, ``.gz`` or
        ``.bz2``); or a pattern such as ``cutouts/{id}-{band}.fits``, ``{band}/{id}.fits`` or
        ``{id}/image.fits``.
    bands : sequence of str, optional
        Names that stand for ``{band}``, in the order in which they are wanted, such as ``"ugriz"``.

    Returns
    -------
    dict of str to tuple of str
        Paths by identifier, the identifiers sorted as text: one path, or one a band. The keys tell which
        object row *k* of the stamps is.

    Raises
    ------
    DataError
        If nothing is found, an object lacks a band, or a folder has two files of one object.
    ConfigError
        If `where` is neither a folder nor a pattern, or needs `bands`.
    """
    if "{id}" in str(where):
        return _find_by_pattern(str(PurePath(where)), bands)
    folder = Path(where)
    if not folder.is_dir():
        raise ConfigError(
            "is neither a folder nor a pattern",
            where=folder,
            expected="a folder of FITS files, or a path with {id} in it, such as 'cutouts/{id}-{band}.fits'",
        )
    names: dict[str, str] = {}
    paths: dict[str, tuple[str]] = {}
    with os.scandir(folder) as entries:  # a Path object costs a third of reading a file
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            other = names.setdefault(match["id"], entry.name)
            if other != entry.name:
                raise DataError(
                    f"holds both {min(entry.name, other)} and {max(entry.name, other)}",
                    where=folder,
                    expected="one file an object",
                )
            paths[match["id"]] = (entry.path,)
    if not paths:
        raise DataError("holds no FITS file", where=folder, expected="*.fits, also *.fits.fz, .gz or .bz2")
    return dict(sorted(paths.items()))


def _find_by_pattern(pattern: str, bands: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Find files by a path with ``{id}`` and, for several files an object, ``{band}`` in it."""
    if "{band}" in pattern and not bands:
        raise ConfigError(
            "the pattern has {band} in it", where=pattern, expected="bands as well, such as 'ugriz'"
        )
    patterns = [pattern.replace("{band}", band) for band in bands or ()] if "{band}" in pattern else [pattern]
    found = [_matches(each) for each in patterns]
    identifiers = sorted(set().union(*found))
    if not identifiers:
        raise DataError("no file has such a name", where=pattern)
    missing = [
        each.replace("{id}", identifier)
        for identifier in identifiers
        for each, paths in zip(patterns, found, strict=True)
        if identifier not in paths
    ]
    if missing:
        raise DataError(
            "is missing",
            where=missing[0],
            expected=f"{len(patterns)} files of each of {len(identifiers)} objects, one a band; "
            f"{len(missing)} are missing in all",
        )
    return {identifier: tuple(paths[identifier] for paths in found) for identifier in identifiers}


def _matches(pattern: str) -> dict[str, str]:
    """Return the paths that a pattern fits by what stands for ``{id}`` in them."""
    first, second, *others = pattern.split("{id}")
    regex = re.compile(
        re.escape(first) + "(?P<id>[^/]+)" + "(?P=id)".join(re.escape(piece) for piece in (second, *others))
    )
    # Path.glob() takes no pattern that is absolute.
    paths = glob.iglob("*".join(glob.escape(piece) for piece in (first, second, *others)))  # noqa: PTH207
    return {match["id"]: path for path in paths if (match := regex.fullmatch(path)) is not None}


def read_cutouts(
    paths: AnyPath | Iterable[AnyPath | Sequence[AnyPath]],
    *,
    bands: Sequence[str] | None = None,
    hdus: int | Sequence[int] | None = None,
    decode: bool = False,
    backend: str = "auto",
) -> Stamps:
    """Read many small FITS files into memory as stamps.

    Parameters
    ----------
    paths : path, iterable of paths, or iterable of sequences of paths
        A folder or a pattern (see :func:`find_cutouts`); or a list, in the order in which the stamps are
        wanted, of one file an object, or of one sequence an object with a file a band.
    bands : sequence of str, optional
        Names of the bands, for a pattern with ``{band}`` in it; where given, there must be as many planes.
    hdus : int or sequence of int, optional
        Which HDUs of each file are the bands, 0 for the first, in the order wanted. By default the primary
        image; where that is empty, all image extensions of a file that stands for an object, and the first
        one of a file that stands for a band. Which they are is read off the first file.
    decode : bool
        By default pixels stay as they are stored, and all images must share BITPIX, BSCALE, BZERO and BLANK.
        With ``decode=True`` each is scaled by itself to float32, so that they may differ.
    backend : str
        As for :func:`margformer_fast.ops.read_cutouts.read_cutouts`.

    Returns
    -------
    Stamps
        In one buffer, in the order of the files: big-endian as they are stored, or native float32.

    Notes
    -----
    Where files end in ``.fz`` (tiles, unpacked by astropy), ``.gz`` or ``.bz2``, all are read one after
    another in Python, many times slower than plain ones, and a warning is logged. A file, unpacked, may have
    up to 64 MiB.

    Raises
    ------
    DataError
        For the first file, in order, that is missing, cannot be read, is too large, or differs from the first
        image in shape, pixel type or scaling; if there are no files, or not as many of each object, or not
        as many planes as bands.
    FitsFormatError
        ... or that is damaged, or has no such image, or one that is not square.
    ConfigError
        If an argument cannot be used.
    """
    objects = _files_of_objects(paths, bands)
    files = [file for of_object in objects for file in of_object]
    packed = [file for file in files if file.endswith(tuple(_UNPACKERS))]
    if packed:
        _log.warning(
            "%d of %d files are compressed: read one by one with %s, many times slower than plain ones",
            len(packed),
            len(files),
            " and ".join(sorted({_UNPACKERS[PurePath(file).suffix] for file in packed})),
        )
    load = read_unpacked if packed else None
    if hdus is None:
        hdus = _image_hdus(files[0], read_unpacked(files[0]))
        hdus = hdus if len(objects[0]) == 1 else hdus[:1]
    elif isinstance(hdus, int):
        hdus = (hdus,)
    raw, scaling = images.read_cutouts(files, hdus, decode=decode, load=load, backend=backend)
    size = raw.shape[-1]
    raw = raw.reshape(len(objects), -1, size, size)
    if bands is not None and raw.shape[1] != len(bands):
        raise DataError(
            f"there are {raw.shape[1]} planes",
            where=", ".join(objects[0]),
            expected=f"{len(bands)}, one for each band of {', '.join(bands)}",
            mend="Name files of one band each by a pattern, such as 'cutouts/{id}-{band}.fits'.",
        )
    return Stamps((raw,), scaling)


def _files_of_objects(
    paths: AnyPath | Iterable[AnyPath | Sequence[AnyPath]], bands: Sequence[str] | None
) -> list[tuple[str, ...]]:
    """Return the files of each object, as many of each."""
    if isinstance(paths, str | os.PathLike):
        return list(find_cutouts(paths, bands).values())
    objects = [
        (of_object,) if isinstance(of_object, str) else _files_of_object(of_object) for of_object in paths
    ]
    if not objects or not objects[0]:
        raise DataError("there are no files to read", expected="at least one")
    for index, of_object in enumerate(objects):
        if len(of_object) != len(objects[0]):
            raise DataError(
                f"object {index} has {len(of_object)} files", expected=f"{len(objects[0])}, as object 0 has"
            )
    return objects


def _files_of_object(files: AnyPath | Sequence[AnyPath]) -> tuple[str, ...]:
    return tuple(os.fspath(file) for file in ([files] if isinstance(files, str | os.PathLike) else files))


def _image_hdus(path: str, content: bytes) -> tuple[int, ...]:
    """Return the primary HDU if it holds an image, or else every image extension."""
    found: list[int] = []
    for index, header in enumerate(walk_hdus(content, path)):
        if header.shape and header.get("XTENSION", "IMAGE") == "IMAGE":
            found.append(index)
            if index == 0:
                break
    if not found:
        raise FitsFormatError("holds no plain image", where=path)
    return tuple(found)


def read_unpacked(path: str) -> bytes:
    """Return the bytes of a FITS file of plain images: the file, or what it is when unpacked.

    Raises
    ------
    DataError
        If the file cannot be read or is too large.
    FitsFormatError
        If it is damaged, or unpacks to more than `MAX_FILE_BYTES`.
    """
    content = images.read_file(path)
    if path.endswith(".fz"):
        return _untile(path, content)
    if path.endswith((".gz", ".bz2")):
        return _decompress(path, content)
    return content


def _too_large(path: str) -> FitsFormatError:
    return FitsFormatError(
        "unpacks to more than a cut-out has", where=path, expected=f"at most {images.MAX_FILE_BYTES:,} bytes"
    )


def _decompress(path: str, content: bytes) -> bytes:
    """Unpack a file that was compressed as a whole."""
    packed = io.BytesIO(content)
    try:
        with gzip.open(packed) if path.endswith(".gz") else bz2.open(packed) as stream:
            plain: bytes = stream.read(images.MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FitsFormatError(
            f"the compressed file is cut short or damaged ({error})", where=path, mend="Fetch it again."
        ) from error
    if len(plain) > images.MAX_FILE_BYTES:
        raise _too_large(path)
    return plain


def _untile(path: str, content: bytes) -> bytes:
    """Unpack tile-compressed images into the places they have in the file."""
    from astropy.io import fits

    headers = list(walk_hdus(content, path))  # finds a file cut short, of which astropy only warns
    starts = [0, *(header.next_offset for header in headers)]
    parts = [content[start:end] for start, end in itertools.pairwise(starts)]
    tiled = [index for index, header in enumerate(headers) if header.get("ZIMAGE") is True]
    try:
        with fits.open(io.BytesIO(content), memmap=False, do_not_scale_image_data=True) as hdus:
            sizes = [math.prod(hdus[index].shape) * abs(hdus[index].header["BITPIX"]) // 8 for index in tiled]
            if sum(sizes) > images.MAX_FILE_BYTES:
                raise _too_large(path)
            for index in tiled:
                # The header first: asking for the pixels changes it.
                text = hdus[index].header.tostring().encode("ascii")
                dtype = DTYPES[hdus[index].header["BITPIX"]]
                stored = np.asarray(hdus[index].data, dtype).tobytes()
                parts[index] = text + stored + bytes(-len(stored) % BLOCK_BYTES)
    except FitsFormatError:
        raise
    except Exception as error:  # the decompressors raise whatever a damaged tile makes them trip over
        raise FitsFormatError(
            f"the compressed image is damaged ({' '.join(str(error).split())})", where=path
        ) from error
    return b"".join(parts)
