"""What became of every object of an ingested field, in numbers that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

REASONS = {
    "not asked for": "objID not in the list of wanted objects",
    "duplicate": "objID listed before",
    "not a source": "OBJC_TYPE neither star (6) nor galaxy (3)",
    "blended parent": "NCHILD > 0: its children are listed",
    "not selected": "MODE not among those asked for",
    "not clean": "CLEAN is 0",
    "missing band": "the field lacks a frame",
    "unreadable frame": "a frame of the field is damaged",
    "off the edge": "the stamp leaves the frame in a band",
    "not measured": "a magnitude, radius, width or extinction is -9999, not finite or impossible",
    "bad pixels": "a pixel of the stamp is not finite",
}
"""Why an object is not kept, in the order in which reasons are tried."""

MODES = {1: "primary", 2: "secondary", 4: "outside"}
"""Values of MODE that can be kept; 3, family, are the blended parents."""


@dataclass(frozen=True)
class IngestReport:
    """What became of the objects of one or more fields.

    Parameters
    ----------
    num_fields : int
        Fields visited.
    total : int
        Objects listed in their catalogues; the sum of `kept` and of all of `dropped`.
    kept : int
        Objects with stamps, features and class.
    classes : mapping of str to int
        Objects kept by class.
    dropped : mapping of str to int
        Objects left out, by each reason of `REASONS`.
    unselected_modes : mapping of int to int
        Those "not selected" by their MODE.
    failures : tuple of str
        Files that could not be used, where such fields are passed over.
    """

    num_fields: int = 0
    total: int = 0
    kept: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    unselected_modes: Mapping[int, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    def __add__(self, other: IngestReport) -> IngestReport:
        def both(a: Any, b: Any) -> Any:
            return {**a, **{k: a.get(k, 0) + n for k, n in b.items()}} if isinstance(a, Mapping) else a + b

        return IngestReport(*(both(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    @property
    def advice(self) -> str | None:
        """What to do if nothing was kept; None if something was."""
        if self.kept or not self.total:
            return None
        if self.unselected_modes:
            found = ", ".join(
                f"{n} of MODE {mode} ({MODES[mode]})" for mode, n in self.unselected_modes.items()
            )
            modes = "1 2" if 2 in self.unselected_modes else "1 4"
            return (
                f"No object was kept: {found} not selected. A later scan may have superseded this one: pass "
                f"modes=({modes.replace(' ', ', ')}), require_clean=False (--modes {modes} --keep-unclean)."
            )
        if self.dropped.get("not clean"):
            return (
                "No object was kept: none is clean. Pass require_clean=False (--keep-unclean) to keep them."
            )
        return "No object was kept."

    def table(self) -> str:
        """Return the account as text, one line a reason, zeros left out."""
        rows = [("objects listed", self.total, f"in {self.num_fields} field{'s' * (self.num_fields != 1)}")]
        rows += [(f"- {name}", n, REASONS[name]) for name in REASONS if (n := self.dropped.get(name, 0))]
        rows += [("kept", self.kept, ", ".join(f"{n} {name}" for name, n in self.classes.items() if n))]
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{name:<{width}}  {n:>9,}  {note}".rstrip() for name, n, note in rows]
        lines += [f"not used: {failure}" for failure in self.failures]
        return "\n".join(lines + ([self.advice] if self.advice else []))

    def to_dict(self) -> dict[str, Any]:
        """Return the account as a JSON-able dictionary."""
        return {
            "num_fields": self.num_fields,
            "total": self.total,
            "kept": self.kept,
            "classes": dict(self.classes),
            "dropped": {name: self.dropped.get(name, 0) for name in REASONS},
            "unselected_modes": {str(mode): n for mode, n in self.unselected_modes.items()},
            "failures": list(self.failures),
        }
