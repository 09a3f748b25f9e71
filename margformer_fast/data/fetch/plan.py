"""How many files, bytes and hours a request is, before the first byte is asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..survey import SDSS
from .archive import FieldId

FRAME_BYTES = 3_523_471
"""A packed frame: the mean of the fifteen of fields 94-1-12, 1035-6-17 and 1043-5-25."""

CATALOGUE_BYTES = 3_041_280
"""A photoObj, not packed: that of field 94-1-12."""

PSFIELD_BYTES = 596_160
"""A psField, not packed: that of field 94-1-12."""

UNPACKING_SECONDS = 1.0
"""Of one core, a frame: what bzip2 takes."""


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Parameters
    ----------
    objects : int
        Wanted objects; 0 where whole fields are wanted.
    fields, runs : int
        Fields that they are in, and scans that those are of.
    done : int
        Fields that are here already.
    psfield, keep : bool
        Whether models of the PSF are fetched too; whether files are kept.
    connections : int
        Files that are fetched at the same time.
    rate : float
        Megabytes per second, all connections together: assumed.
    """

    objects: int
    fields: int
    runs: int
    done: int
    psfield: bool
    keep: bool
    connections: int
    rate: float

    @classmethod
    def of(
        cls,
        objects: int,
        fields: Collection[FieldId],
        *,
        done: int,
        psfield: bool,
        keep: bool,
        connections: int,
        rate: float,
    ) -> Plan:
        """Return the plan for fields, of which `done` are here already."""
        runs = len({field.run for field in fields})
        return cls(objects, len(fields), runs, done, psfield, keep, connections, rate)

    @property
    def files(self) -> int:
        """Files to fetch."""
        return (self.fields - self.done) * (len(SDSS.bands) + 1 + self.psfield)

    @property
    def field_bytes(self) -> int:
        """Bytes of one field."""
        return len(SDSS.bands) * FRAME_BYTES + CATALOGUE_BYTES + self.psfield * PSFIELD_BYTES

    @property
    def bytes(self) -> int:
        """Bytes to fetch."""
        return (self.fields - self.done) * self.field_bytes

    @property
    def hours(self) -> float:
        """Hours on the line."""
        return self.bytes / (self.rate * 1e6) / 3600

    @property
    def core_hours(self) -> float:
        """Hours of one core for unpacking."""
        return (self.fields - self.done) * len(SDSS.bands) * UNPACKING_SECONDS / 3600

    def table(self) -> str:
        """Return the plan as text."""
        stamp = len(SDSS.bands) * SDSS.stamp_size**2 * 4
        rows = [
            ("objects", f"{self.objects:,}" if self.objects else "all of these fields"),
            ("fields", f"{self.fields:,} in {self.runs:,} runs, {self.done:,} of them here already"),
            ("files", f"{self.files:,} to fetch, {len(SDSS.bands) + 1 + self.psfield} a field"),
            ("bytes", f"{_size(self.bytes)}, by the sizes of files of three fields"),
            (
                "hours",
                f"{self.hours:,.1f} at {self.rate:g} MB/s over {self.connections} connections (--rate)",
            ),
            ("unpacking", f"{self.core_hours:,.1f} core-hours, at a second a frame"),
        ]
        if self.objects:
            rows.append(("stamps", f"up to {_size(self.objects * stamp)}, twice while the store is written"))
        here = self.fields if self.keep else min(self.connections, self.fields)
        note = "kept (--keep-frames)" if self.keep else "at a time: a field's files go when it is cut"
        rows.append(("disk", f"{_size(here * self.field_bytes)} of files, {note}"))
        return "\n".join(f"{name:<10} {value}" for name, value in rows)


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.3g} {unit}"
        number /= 1000
    return f"{number:,.2f} TB"
