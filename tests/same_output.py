"""What outputs hold but for the clock: two that were made alike are alike to the last byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from fetch_archive import store_bytes

from margformer_fast.data.store import verify_store

CLOCK = {"seconds", "rate", "created", "sha256", "bytes", "date"}
"""Keys of JSON that tell of the clock, or of a file with a date in it."""

_DATE = re.compile(rb"(DATE    ?= ?)'[^']*'")


def without_clock(value: Any) -> Any:
    """Return JSON without what tells of the clock."""
    if isinstance(value, dict):
        return {key: without_clock(each) for key, each in value.items() if key not in CLOCK}
    return [without_clock(each) for each in value] if isinstance(value, list) else value


def store_content(out: Path) -> dict[str, object]:
    """A store that is sound: every byte of its FITS files but the date, and its manifest."""
    assert verify_store(out).ok
    listed = {path.name for path in out.iterdir()}
    manifest = without_clock(json.loads((out / "survey.json").read_text()))
    return {**store_bytes(out), "survey.json": {**manifest, "name": ""}, "files": listed}


def run_content(out: Path) -> dict[str, object]:
    """A run: every tensor, number, prediction and picture."""
    # Here, for those who compare other outputs and do without PyTorch.
    from margformer_fast.learning.checkpoint import load_tensors

    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".safetensors":
            tensors, about = load_tensors(path)
            found[name] = {key: value.numpy().tobytes() for key, value in tensors.items()}
            found[f"{name} history"] = without_clock(about)
        elif path.suffix == ".json":
            value = without_clock(json.loads(path.read_text()))
            if "settings" in value:
                value["settings"].pop("command", None)  # the first has no --resume
            if "backends" in value:
                value.pop("backends")  # of what the last process still had to do
            found[name] = value
        elif path.suffix in (".html", ".md"):
            found[name] = "there"  # the numbers of which are in metrics.json
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


def table_content(out: Path) -> dict[str, object]:
    """A table of classes, every byte but the date."""
    return {out.name: _DATE.sub(rb"\1", out.read_bytes())}


def table_rows(path: Path) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus[1].data["objid"], np.int64)


def differences(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """Return the names under which two outputs differ."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
