"""Where the Sloan Digital Sky Survey keeps a field's files, Data Releases 8 to 17.

Under ``https://data.sdss.org/sas``, with RELEASE as ``dr16`` and TREE as in `TREES`:

==========  ==============================================================================================
file        address
==========  ==============================================================================================
frame       ``RELEASE/TREE/photoObj/frames/RERUN/RUN/CAMCOL/frame-BAND-RUN6-CAMCOL-FIELD4.fits.bz2``
photoObj    ``RELEASE/TREE/photoObj/RERUN/RUN/CAMCOL/photoObj-RUN6-CAMCOL-FIELD4.fits``
psField     ``RELEASE/TREE/photo/redux/RERUN/RUN/objcs/CAMCOL/psField-RUN6-CAMCOL-FIELD4.fit``
==========  ==============================================================================================

RUN6 and FIELD4 are filled with zeros to six and four digits. The layout of DR16's frames is that of the
survey's data model; the trees of the other releases are those under which public programs fetch them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import ConfigError
from ..survey import SDSS

ARCHIVE = "https://data.sdss.org/sas"
"""Root of the Science Archive Server."""

RELEASES = tuple(range(8, 18))
"""Data releases whose layout is known."""

TREES = {8: "groups/boss", **dict.fromkeys(range(9, 13), "boss"), **dict.fromkeys(range(13, 18), "eboss")}
"""Folder of the imaging by data release."""

_SKYSERVER = "https://skyserver.sdss.org"


@dataclass(frozen=True, order=True)
class FieldId:
    """One field of the survey.

    Parameters
    ----------
    run, camcol, field : int
        The scan, the camera column and the field within the scan.
    rerun : int
        The reprocessing; 301 in all of these releases.
    """

    run: int
    camcol: int
    field: int
    rerun: int = 301

    @property
    def name(self) -> str:
        """The field as ``run-camcol-field``."""
        return f"{self.run}-{self.camcol}-{self.field}"

    @property
    def stem(self) -> str:
        """The field as the archive's file names have it."""
        return f"{self.run:06d}-{self.camcol}-{self.field:04d}"


@dataclass(frozen=True)
class Remote:
    """A file of the archive.

    Parameters
    ----------
    name : str
        Its name, the same here as there.
    url : str
        Its address.
    limit : int
        Bytes that no such file can exceed.
    """

    name: str
    url: str
    limit: int


_FRAME_LIMIT = 64 << 20  # a packed frame has 3 to 5 MB
_CATALOGUE_LIMIT = 256 << 20  # a catalogue has a few MB; crowded fields more
_PSFIELD_LIMIT = 32 << 20  # half a MB


@dataclass(frozen=True)
class Archive:
    """Addresses of one data release.

    Parameters
    ----------
    release : int
        8 to 17.
    base_url : str
        Root of the archive or of a mirror of it.
    sql_url : str
        Where queries are sent; empty for the survey's own.

    Raises
    ------
    ConfigError
        If the release is not known or an address is not ``http`` or ``https``.
    """

    release: int = 16
    base_url: str = ARCHIVE
    sql_url: str = ""
    _root: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        if self.release not in TREES:
            raise ConfigError(
                f"data release {self.release} is not known", expected=f"{RELEASES[0]} to {RELEASES[-1]}"
            )
        for name, url in (("--base-url", self.base_url), ("--sql-url", self.sql_endpoint)):
            if not url.lower().startswith(("http://", "https://")):
                raise ConfigError(f"{url!r} is no address", where=name, expected="http://... or https://...")
        root = f"{self.base_url.rstrip('/')}/dr{self.release}/{TREES[self.release]}"
        object.__setattr__(self, "_root", root)

    @property
    def sql_endpoint(self) -> str:
        """Where queries are sent."""
        if self.sql_url:
            return self.sql_url
        if self.release >= 12:
            return f"{_SKYSERVER}/dr{self.release}/SkyServerWS/SearchTools/SqlSearch"
        page = "x_sql.aspx" if self.release >= 10 else "x_sql.asp"
        return f"{_SKYSERVER}/dr{self.release}/en/tools/search/{page}"

    def frame(self, of: FieldId, band: str) -> Remote:
        """Return the calibrated frame of one band."""
        name = f"frame-{band}-{of.stem}.fits.bz2"
        return Remote(
            name, f"{self._root}/photoObj/frames/{of.rerun}/{of.run}/{of.camcol}/{name}", _FRAME_LIMIT
        )

    def catalogue(self, of: FieldId) -> Remote:
        """Return the photometric catalogue."""
        name = f"photoObj-{of.stem}.fits"
        return Remote(name, f"{self._root}/photoObj/{of.rerun}/{of.run}/{of.camcol}/{name}", _CATALOGUE_LIMIT)

    def psfield(self, of: FieldId) -> Remote:
        """Return the model of the point spread function."""
        name = f"psField-{of.stem}.fit"
        return Remote(
            name, f"{self._root}/photo/redux/{of.rerun}/{of.run}/objcs/{of.camcol}/{name}", _PSFIELD_LIMIT
        )

    def files(self, of: FieldId, *, psfield: bool) -> list[Remote]:
        """Return all files of a field: the catalogue, which may show that frames are not needed, first."""
        remotes = [self.catalogue(of), *(self.frame(of, band) for band in SDSS.bands)]
        return [*remotes, self.psfield(of)] if psfield else remotes
