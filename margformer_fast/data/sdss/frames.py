"""Calibrated frames: one band of one field, sky subtracted, in nanomaggies, with its own world coordinates.

The image is the first HDU, or in a ``.fz`` file the first compressed one. Decompressing bzip2 takes about a
second a frame and everything else milliseconds: where a field is read often, keep it uncompressed.

Pixel coordinates here count from 0 and are integers at pixel centres. The catalogue's ROWC and COLC are
larger by 0.5: they count from the corner of the first pixel.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError, FitsFormatError
from ..fits import FitsImage, image_from_bytes, map_image
from ..survey import SDSS
from .files import FRAME_NAME, MAX_BYTES, find_hdu, one_line, read_bytes

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS


@dataclass(frozen=True)
class Frame:
    """One band of one field.

    Parameters
    ----------
    path : Path
        Where it was read.
    band : str
        u, g, r, i or z.
    run, camcol, field : int
        The scan, the camera column and the field within the scan.
    image : ndarray of float32, shape (rows, columns)
        Nanomaggies per pixel, sky subtracted, native byte order; NaN where there is no value.
    wcs : astropy.wcs.WCS
        World coordinates (ICRS) of the pixels.
    """

    path: Path
    band: str
    run: int
    camcol: int
    field: int
    image: np.ndarray
    wcs: WCS

    def pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where positions fall on this frame.

        Parameters
        ----------
        ra, dec : ndarray of float64, shape (N,)
            Degrees (ICRS).

        Returns
        -------
        x, y : ndarray of float64, shape (N,)
            Column and row, from 0, integers at pixel centres; NaN where a position has no image.
        """
        x, y = self.wcs.wcs_world2pix(ra, dec, 0)
        return x, y


def read_frame(path: str | Path, content: bytes | None = None) -> Frame:
    """Read one frame.

    Parameters
    ----------
    path : str or Path
        ``frame-*.fits``, ``.fits.bz2``, ``.fits.gz`` or ``.fits.fz``. The last is read by fitsio where it is
        installed and by astropy, more slowly, where it is not.
    content : bytes, optional
        The file's decompressed content where it has been read already; of no use for ``.fz``.

    Returns
    -------
    Frame

    Raises
    ------
    DataError
        If the file is missing, is not named like a frame, is of another band or run than its name says, or
        is not in nanomaggies.
    FitsFormatError
        If it is cut short or damaged, or has no image or no world coordinates.
    """
    path = Path(path)
    name = FRAME_NAME.fullmatch(path.name)
    if name is None:
        raise DataError(
            "is not named like a frame",
            where=path,
            expected="frame-{band}-{run}-{camcol}-{field}.fits[.bz2|.gz|.fz]",
        )
    if name["packed"] == ".fz":
        image, header, where = _tiles(path)
    elif name["packed"] is None and content is None:
        image, header, where = _plain(map_image(path), path)
    else:
        content = read_bytes(path) if content is None else content
        image, header, where = _plain(image_from_bytes(content, name=path), path)
    if image.ndim != 2:
        raise FitsFormatError(f"the image has {image.ndim} axes", where=where, expected="2")
    _check(header, name, where)
    run, camcol, field = int(name["run"]), int(name["camcol"]), int(name["field"])
    return Frame(path, name["band"], run, camcol, field, image, _wcs(header, where))


def _plain(stored: FitsImage, path: Path) -> tuple[np.ndarray, Header, str]:
    from astropy.io import fits

    return stored.pixels(), fits.Header.fromstring(stored.header.text), f"{path}, HDU 0"


def _tiles(path: Path) -> tuple[np.ndarray, Header, str]:
    """Read the first tile-compressed image of a file: pixels, header and which HDU it was."""
    from astropy.io import fits

    index = find_hdu(read_bytes(path), "ZIMAGE", True, path)
    where = f"{path}, HDU {index}"
    try:
        with fits.open(path, memmap=False) as hdus:
            size = math.prod(hdus[index].shape) * abs(hdus[index].header["BITPIX"]) // 8
            if size > MAX_BYTES:
                raise ValueError(f"it unpacks to {size:,} bytes, more than {MAX_BYTES:,}")
            header = hdus[index].header.copy()
            pixels = None if find_spec("fitsio") else hdus[index].data
        if pixels is None:
            import fitsio

            pixels = fitsio.read(str(path), ext=index)
    except Exception as error:  # the decompressors raise whatever a damaged tile makes them trip over
        raise FitsFormatError(
            f"the compressed image is damaged ({one_line(error)})", where=where, mend="Fetch it again."
        ) from error
    return np.ascontiguousarray(pixels, np.float32), header, where


def _check(header: Header, name: re.Match[str], where: str) -> None:
    """Refuse a frame that is not what its name says: it would be cut at the wrong places, silently.

    The field is not in the header: FRAME counts from another row in each band, by the camera's geometry.
    """
    wanted = {"FILTER": name["band"], "RUN": int(name["run"]), "CAMCOL": int(name["camcol"])}
    for key, value in wanted.items():
        found = header.get(key)
        found = found.strip() if isinstance(found, str) else found
        if found != value:
            raise DataError(f"{key} is {found!r}", where=where, expected=f"{value!r}, as in the file's name")
    # Cut-down frames may have lost their unit; raw ones, in counts, have another.
    unit = header.get("BUNIT", SDSS.flux_unit)
    if unit != SDSS.flux_unit:
        raise DataError(
            f"BUNIT is {unit!r}", where=where, expected=f"{SDSS.flux_unit!r}, as calibrated frames have"
        )


def _wcs(header: Header, where: str) -> WCS:
    from astropy.wcs import WCS

    # The survey's name for the keyword is older than the standard's; astropy would warn of every frame.
    if "RADECSYS" in header and "RADESYS" not in header:
        header.rename_keyword("RADECSYS", "RADESYS")
    try:
        # fix=False: the dates of SDSS headers are not of the standard's form, and no position needs them.
        wcs = WCS(header, naxis=2, fix=False)
        celestial = wcs.has_celestial
    except Exception as error:  # wcslib's errors share no base class
        raise FitsFormatError(
            f"the world coordinates cannot be used ({one_line(error)})", where=where
        ) from error
    if not celestial:
        raise FitsFormatError(
            "has no celestial coordinates", where=where, expected="CTYPE1, CRVAL1, CD1_1, ..."
        )
    return wcs
