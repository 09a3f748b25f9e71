"""Tiny SDSS fields for tests: five frames with coordinates of their own, and a photoObj."""

from __future__ import annotations

import bz2
import functools
import gzip
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from margformer_fast.data.sdss import objid as objids
from margformer_fast.data.sdss.ingest import IngestReport, ingest
from margformer_fast.data.survey import Survey

BANDS = "ugriz"
RUN, CAMCOL, FIELD = 94, 1, 12
ROWS, COLUMNS = 90, 110
SCALE = 0.396 / 3600  # degrees a pixel

# Where each frame's reference pixel is, from 0: the bands are shifted by other fractions of a pixel.
CENTRES = {"u": (54.0, 44.0), "g": (50.25, 46.5), "r": (55.3, 45.9), "i": (57.75, 41.2), "z": (53.5, 47.49)}
RA0, DEC0 = 336.6, -0.93


def frame_name(band: str, run: int = RUN, camcol: int = CAMCOL, field: int = FIELD) -> str:
    return f"frame-{band}-{run:06d}-{camcol}-{field:04d}.fits"


def catalogue_name(run: int = RUN, camcol: int = CAMCOL, field: int = FIELD) -> str:
    return f"photoObj-{run:06d}-{camcol}-{field:04d}.fits"


def frame_header(band: str, run: int = RUN, camcol: int = CAMCOL) -> fits.Header:
    """The cards that matter, in the survey's spelling; rows run along right ascension."""
    x, y = CENTRES[band]
    header = fits.Header()
    header["BUNIT"], header["FILTER"], header["RUN"], header["CAMCOL"] = "nanomaggy", band, run, camcol
    header["RADECSYS"], header["EQUINOX"], header["DATE-OBS"] = "ICRS", 2000.0, "19/09/98"
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["CRPIX1"], header["CRPIX2"] = x + 1, y + 1
    header["CRVAL1"], header["CRVAL2"] = RA0, DEC0
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = 0.0, SCALE, SCALE, 0.0
    return header


def frame_image(band: str) -> np.ndarray:
    """Every pixel says which it is: 1e6 x band + 1000 x row + column, exact in float32."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return (1e6 * BANDS.index(band) + 1000 * rows + columns).astype(np.float32)


def write_frame(
    folder: Path, band: str, image: np.ndarray | None = None, header: fits.Header | None = None
) -> Path:
    """Write one frame as plain FITS, with a table after the image as the survey has."""
    path = folder / frame_name(band)
    image = frame_image(band) if image is None else image
    primary = fits.PrimaryHDU(image, frame_header(band) if header is None else header)
    sky = fits.BinTableHDU.from_columns([fits.Column("ALLSKY", "4E", array=np.ones((1, 4), np.float32))])
    fits.HDUList([primary, sky]).writeto(path)
    return path


def packed(path: Path, suffix: str) -> Path:
    """Write a compressed copy of a frame beside it and return its path."""
    other = path.with_name(path.name + suffix)
    if suffix == ".fz":
        with fits.open(path) as hdus:
            # No quantisation: the pixels come back bit for bit.
            tiles = fits.CompImageHDU(
                hdus[0].data, hdus[0].header, compression_type="GZIP_1", quantize_level=0
            )
            fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(other)
    else:
        other.write_bytes({".bz2": bz2, ".gz": gzip}[suffix].compress(path.read_bytes()))
    return other


def sky_of(x: np.ndarray, y: np.ndarray, band: str = "r") -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension and declination of pixels of one band's frame, by astropy."""
    header = frame_header(band)
    header.rename_keyword("RADECSYS", "RADESYS")
    return tuple(np.asarray(v) for v in WCS(header, fix=False).wcs_pix2world(x, y, 0))


def catalogue_columns(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of a photoObj with sound objects at pixels of the r frame; alter them at will."""
    n = len(x)
    ra, dec = sky_of(np.asarray(x, float), np.asarray(y, float))
    ids = objids.encode(RUN, CAMCOL, FIELD, np.arange(1, n + 1))
    row = np.arange(n, dtype=np.float32)[:, None]
    band = np.arange(5, dtype=np.float32)
    return {
        "OBJID": np.array([str(i) for i in ids], "S19"),
        "MODE": np.ones(n, np.uint8),
        "CLEAN": np.ones(n, np.uint8),
        "NCHILD": np.zeros(n, np.int16),
        "OBJC_TYPE": np.where(np.arange(n) % 2, 6, 3).astype(np.int32),
        "OBJC_FLAGS": np.zeros(n, np.int32),
        "RA": ra,
        "DEC": dec,
        "MODELMAG": 22 - band + 0.01 * row,
        "PSFMAG": 22.1 - band + 0.01 * row,
        "CMODELMAG": 22.2 - band + 0.01 * row,
        "EXTINCTION": np.broadcast_to(0.3 - 0.05 * band, (n, 5)),
        "THETA_DEV": 0.1 + 0.1 * band + 0.01 * row,
        "PSF_FWHM": np.broadcast_to(1.6 - 0.1 * band, (n, 5)),
        "APERFLUX": np.arange(40, dtype=np.float32) + 100 * row,
    }


def write_catalogue(folder: Path, columns: dict[str, np.ndarray], name: str | None = None) -> Path:
    """Write columns as a photoObj, compressed where its name ends in ``.gz``."""
    kinds = {"S": "{}A", "f4": "{}E", "f8": "{}D", "u1": "{}B", "i2": "{}I", "i4": "{}J", "i8": "{}K"}
    table = []
    for key, values in columns.items():
        values = np.asarray(values)
        kind = kinds["S" if values.dtype.kind == "S" else values.dtype.str[1:]]
        repeat = values.dtype.itemsize if values.dtype.kind == "S" else int(np.prod(values.shape[1:]))
        table.append(fits.Column(key, kind.format(repeat), array=values))
    primary = fits.PrimaryHDU()
    primary.header["POBJ_VER"] = "v1_10_20"
    path = folder / (name or catalogue_name())
    fits.HDUList([primary, fits.BinTableHDU.from_columns(table)]).writeto(path)
    return path


def write_field(folder: Path, x: np.ndarray, y: np.ndarray, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Write a whole field with objects at (x, y) of the r frame and return its catalogue's columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for band in BANDS:
        write_frame(folder, band)
    columns = catalogue_columns(x, y) | changes
    write_catalogue(folder, columns)
    return columns


@functools.cache
def real_field(real_data: Path) -> tuple[Survey, IngestReport]:
    """Ingest field 94-1-12 once a session; a later scan superseded it, so none of it is primary or clean."""
    return ingest(real_data / "sdss" / "94-1-12", modes=(1, 2, 4), require_clean=False)
