"""The survey's database for tests: its tables, views and columns in SQLite, and its dialect translated."""

from __future__ import annotations

import re
import sqlite3
import threading

import numpy as np

from margformer_fast.data.fetch.sample import separation_arcsec
from margformer_fast.data.sdss.objid import encode

BANDS = "ugriz"
PER_BAND = ("deVRad", "psffwhm", "modelMag", "extinction")
CLASSES = ("GALAXY", "QSO", "STAR")

SCHEMA = f"""
CREATE TABLE PhotoObjAll (objID INTEGER PRIMARY KEY, ra REAL, dec REAL, mode INTEGER, clean INTEGER,
    {", ".join(f"{kind}_{band} REAL" for kind in PER_BAND for band in BANDS)});
CREATE TABLE SpecObjAll (specObjID TEXT, bestObjID INTEGER, class TEXT, z REAL, zErr REAL, zWarning INTEGER,
    sciencePrimary INTEGER);
CREATE VIEW PhotoPrimary AS SELECT * FROM PhotoObjAll WHERE mode = 1;
CREATE VIEW SpecObj AS SELECT * FROM SpecObjAll WHERE sciencePrimary = 1;
"""


class Database:
    """Objects and spectra, behind the dialect of the survey's own.

    ``most_rows`` is what the server gives at most, whatever it is asked for.
    """

    def __init__(self, photo: dict[str, np.ndarray], spectra: list[tuple], most_rows: int = 1 << 30) -> None:
        self._sqlite = sqlite3.connect(":memory:", check_same_thread=False)
        self._lock = threading.Lock()
        self._sqlite.executescript(SCHEMA)
        self._sqlite.create_function("separation", 4, separation_arcsec)
        rows = zip(*(column.tolist() for column in photo.values()), strict=True)
        marks = ", ".join("?" * len(photo))
        self._sqlite.executemany(f"INSERT INTO PhotoObjAll ({', '.join(photo)}) VALUES ({marks})", rows)
        self._sqlite.executemany("INSERT INTO SpecObjAll VALUES (?, ?, ?, ?, ?, ?, ?)", spectra)
        self.most_rows = most_rows
        self.asked: list[str] = []

    def answer(self, sql: str) -> bytes | int:
        """Answer a query as CSV, as SkyServer does: a title, the names, the rows."""
        self.asked.append(sql)
        try:
            with self._lock:
                cursor = self._sqlite.execute(translated(sql))
                rows = cursor.fetchmany(self.most_rows)
        except sqlite3.Error:
            return 400
        names = [column[0] for column in cursor.description]
        lines = ["#Table1", ",".join(names), *(",".join(map(_cell, row)) for row in rows)]
        return ("\n".join(lines) + "\n").encode()


def _cell(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def translated(sql: str) -> str:
    """Turn the two words of SQL Server's that are used into SQLite's; everything else must be understood."""
    top = re.match(r"SELECT TOP (\d+) ", sql)
    if top:
        sql = f"SELECT {sql[top.end() :]} LIMIT {top[1]}"
    return re.sub(
        r"dbo\.fGetNearbyObjEq\(([-\d.]+),([-\d.]+),([\d.]+)\)",
        r"(SELECT objID FROM PhotoPrimary WHERE separation(ra, dec, \1, \2) < 60 * \3)",
        sql,
    )


def random_photo(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Draw objects around the cuts, as float32 holds them; some not measured, some exactly on a cut."""
    ids = encode(
        rng.choice([94, 752, 1043, 8162], count),
        rng.integers(1, 7, count),
        rng.integers(11, 40, count),
        np.arange(count),
    )
    photo = {
        "objID": ids,
        "ra": rng.uniform(0, 360, count),
        "dec": rng.uniform(-10, 60, count),
        "mode": rng.choice([1, 1, 1, 1, 2], count),
        "clean": rng.choice([1, 1, 1, 0], count),
    }
    for band in BANDS:
        photo[f"deVRad_{band}"] = rng.gamma(2.0, 0.35, count).astype(np.float32)
        photo[f"psffwhm_{band}"] = rng.uniform(0.8, 1.8, count).astype(np.float32)
        photo[f"modelMag_{band}"] = rng.normal(20, 1.5, count).astype(np.float32)
        photo[f"extinction_{band}"] = rng.uniform(0, 0.3, count).astype(np.float32)
    tie = rng.choice(count, count // 10, replace=False)
    for band in BANDS:  # ratios of exactly 0.5, magnitudes of exactly 20
        photo[f"psffwhm_{band}"][tie] = 1.5
        photo[f"deVRad_{band}"][tie] = 0.75
        photo[f"modelMag_{band}"][tie] = 20.0
    # A hair to either side of them.
    photo["deVRad_z"][tie[::3]] = np.nextafter(np.float32(0.75), np.float32(0))
    photo["modelMag_u"][tie[::2]] = np.nextafter(np.float32(20), np.float32(30))
    for column in ("deVRad_u", "psffwhm_i", "modelMag_g"):
        photo[column][rng.choice(count, count // 30)] = -9999
    photo["psffwhm_g"][rng.choice(count, count // 30)] = 0
    return photo


def random_spectra(rng: np.random.Generator, objid: np.ndarray) -> list[tuple]:
    """Draw spectra of most objects: some bad, some not the best, two of some, one of an odd class."""
    spectra = []
    for identifier in objid.tolist():
        for _ in range(int(rng.choice([0, 1, 1, 1, 1, 2]))):
            plate = int(rng.integers(266, 14_000))
            spectra.append(
                (
                    str((plate << 50) + int(rng.integers(1 << 40))),  # beyond 63 bits for late plates
                    identifier,
                    str(rng.choice(CLASSES)),
                    float(rng.gamma(1.0)),
                    float(rng.uniform(0, 1e-3)),
                    int(rng.choice([0, 0, 0, 4])),
                    int(rng.choice([1, 1, 1, 0])),
                )
            )
    spectra.append(("0", int(objid[0]), "", 0.0, 0.0, 0, 1))
    return spectra
