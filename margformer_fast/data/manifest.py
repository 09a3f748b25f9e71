"""What ``survey.json`` of a survey store says."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import read_json
from .survey import SurveyProfile

SCHEMA = "margformer_fast survey store"
SCHEMA_VERSION = 1
MANIFEST = "survey.json"
CATALOG = "catalog.fits"

UNKNOWN_NAME = "UNKNOWN"
"""What the column ``class`` holds where the class is not known."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a store, as its manifest has it.

    Parameters
    ----------
    file : str
        Name in the store's directory.
    count : int
        Number of objects in it.
    bytes : int
        Size.
    sha256 : str
        Hash, 64 hexadecimal digits.
    """

    file: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What ``survey.json`` says.

    Parameters
    ----------
    name : str
        Name of the survey.
    created : str
        When it was written, UTC.
    software : str
        What wrote it.
    simulated : bool
        Whether the objects are simulated.
    profile : SurveyProfile
        Bands and features.
    counts : dict of str to int
        Objects of each class, and those of unknown class.
    stamps : tuple of StoredFile
        Image cubes, in the order of the catalogue's rows.
    catalog : StoredFile
        The table.
    provenance : dict
        How the survey was made.
    """

    name: str
    created: str
    software: str
    simulated: bool
    profile: SurveyProfile
    counts: dict[str, int]
    stamps: tuple[StoredFile, ...]
    catalog: StoredFile
    provenance: dict[str, Any]

    @property
    def count(self) -> int:
        """Number of objects."""
        return self.catalog.count

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file but the manifest itself."""
        return (*self.stamps, self.catalog)

    def to_json(self) -> str:
        """Return the content of ``survey.json``."""
        units = {"pixel": self.profile.flux_unit, "position": "deg", "magnitude": "mag", "radius": "arcsec"}
        # The total and the units are for who reads the file; they follow from the rest.
        head = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "count": self.count, "units": units}
        return json.dumps({**head, **asdict(self)}, indent=2, allow_nan=False) + "\n"


def shard_name(index: int) -> str:
    """Return the name of an image file of a store."""
    return f"stamps-{index:05d}.fits"


def is_store(path: str | Path) -> bool:
    """Return whether `path` is a directory that says it is a survey store, sound or not."""
    try:
        manifest = read_json(Path(path) / MANIFEST)
    except DataError:
        return False
    return isinstance(manifest, dict) and manifest.get("schema") == SCHEMA


def read_manifest(path: str | Path) -> Manifest:
    """Read and check ``survey.json`` of the store at `path`.

    Raises
    ------
    DataError
        If it is missing, is not that of a store, is of another version, or lacks something.
    """
    path = Path(path) / MANIFEST
    if not path.parent.is_dir():
        raise DataError("is no directory", where=path.parent, expected="a survey store")
    if not path.is_file():
        raise DataError(f"is no survey store: {MANIFEST} is missing", where=path.parent)
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise DataError("does not describe a survey store", where=path, expected=f'"schema": "{SCHEMA}"')
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"the store has schema version {raw.get('schema_version')!r}",
            where=path,
            expected=f"{SCHEMA_VERSION}",
            mend="Read it with the version of margformer_fast that wrote it, or make it anew.",
        )
    try:
        manifest = Manifest(
            name=str(raw["name"]),
            created=str(raw["created"]),
            software=str(raw["software"]),
            simulated=_of_type(raw["simulated"], bool),
            profile=_profile(raw["profile"]),
            counts={str(name): _of_type(count, int) for name, count in raw["counts"].items()},
            stamps=tuple(_stored_file(entry) for entry in raw["stamps"]),
            catalog=_stored_file(raw["catalog"]),
            provenance=_of_type(raw["provenance"], dict),
        )
    except KeyError as error:
        raise DataError(f"entry {error} is missing", where=path) from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"an entry is of the wrong kind ({error})", where=path) from error
    names = [entry.file for entry in manifest.files]
    # Names are not free: a store reaches no file outside its directory.
    if names != [*(shard_name(k) for k in range(len(manifest.stamps))), CATALOG]:
        raise DataError(
            f"the store lists files {names}", where=path, expected=f"{shard_name(0)}, ..., {CATALOG}"
        )
    if sum(entry.count for entry in manifest.stamps) != manifest.count:
        raise DataError(
            f"the store lists {sum(entry.count for entry in manifest.stamps)} stamps",
            where=path,
            expected=f"{manifest.count}, as many as rows of the catalogue",
        )
    return manifest


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise TypeError(f"{value!r:.60} is no number of things")
    return value


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise TypeError(f"{value!r:.60} is not above 0")
    return number


def _stored_file(raw: Any) -> StoredFile:
    return StoredFile(
        file=_of_type(raw["file"], str),
        count=_natural(raw["count"]),
        bytes=_natural(raw["bytes"]),
        sha256=_of_type(raw["sha256"], str),
    )


def _profile(raw: Any) -> SurveyProfile:
    profile = SurveyProfile(
        name=_of_type(raw["name"], str),
        bands=tuple(_of_type(band, str) for band in raw["bands"]),
        reference_band=_of_type(raw["reference_band"], str),
        pixel_scale_arcsec=_positive(raw["pixel_scale_arcsec"]),
        stamp_size=_natural(raw["stamp_size"]),
        zero_point=_positive(raw["zero_point"]),
        flux_unit=_of_type(raw["flux_unit"], str),
        extinction_ratios=tuple(_positive(ratio) for ratio in raw["extinction_ratios"]),
    )
    if len(profile.extinction_ratios) != len(profile.bands):
        raise TypeError(f"{len(profile.extinction_ratios)} extinction ratios for {len(profile.bands)} bands")
    if profile.reference_band not in profile.bands:
        raise TypeError(f"reference band {profile.reference_band!r} is none of {''.join(profile.bands)}")
    return profile
