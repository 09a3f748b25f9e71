"""Simulated surveys as stores: written on request, or made once and kept for training runs."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from .. import cli
from ..errors import OutputError, OutputInUse
from ..progress import Progress
from ..reference import profile_fit
from . import (
    conditions,
    galaxies,
    photometry,
    profiles,
    psf,
    quasars,
    render,
    selection,
    simulate,
    skymodel,
    stars,
    survey_tables,
    templates,
)
from .store import StoreWriter, is_store
from .survey import SDSS, SurveyProfile

_WAIT = 0.5  # seconds


def write_simulated(
    path: Path,
    num_compact: int,
    num_faint: int,
    *,
    seed: int,
    profile: SurveyProfile = SDSS,
    overwrite: bool = False,
) -> None:
    """Simulate a survey chunk by chunk into a store.

    Parameters
    ----------
    path : Path
        The store to write.
    num_compact, num_faint : int
        Objects of the compact, and of the faint and compact, sample; all classes together.
    seed : int
        Seed of every random choice.
    profile : SurveyProfile
        `SDSS` or `LSST`.
    overwrite : bool
        Replace a store that is already there.

    Raises
    ------
    OutputError
        If the store exists already or cannot be written; nothing is left half written.
    ConfigError
        If a count or the seed is out of range.
    """
    with (
        StoreWriter(
            path, profile, name=path.resolve().name, simulated=True, provenance={}, overwrite=overwrite
        ) as writer,
        Progress(num_compact + num_faint, "simulating", "objects") as progress,
    ):
        for chunk in simulate.simulate(num_compact, num_faint, seed=seed, profile=profile):
            writer.append(chunk)
            writer.provenance.update(chunk.provenance)
            progress.update(len(chunk))


def cache_directory() -> Path:
    """Return where simulated surveys are kept: ``MARGFORMER_CACHE``, or the user's cache directory."""
    if "MARGFORMER_CACHE" in os.environ:
        return Path(os.environ["MARGFORMER_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "margformer_fast"


def cached_store(num_compact: int, num_faint: int, *, seed: int = 0) -> Path:
    """Return where the simulated survey of these sizes is kept, whether or not it has been made.

    The name holds a hash of the simulator and its tables, so that a changed simulator makes a new survey.
    """
    drawing = (simulate, conditions, survey_tables, render, psf, profiles)
    sky = (skymodel, stars, galaxies, quasars, selection, templates)
    files = [Path(str(module.__file__)) for module in (*drawing, *sky)]
    files += sorted(Path(str(photometry.__file__)).parent.glob("*.py"))
    files += [Path(str(profile_fit.__file__)), templates.TEMPLATES, selection.SELECTION, survey_tables.TABLES]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    return cache_directory() / f"simulated-{digest.hexdigest()[:8]}-{num_compact}-{num_faint}-seed{seed}"


def made_once(num_compact: int, num_faint: int) -> Path:
    """Return the simulated survey of these sizes; it is made, which takes minutes, if it is not there yet.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = cached_store(num_compact, num_faint)
    told = False
    while not is_store(path):
        if not told:
            print(
                f"making a simulated survey of {num_compact + num_faint:,} objects, once, in {path}",
                file=sys.stderr,
            )
            told = True
        with cli.on_interrupt("the simulated survey was not finished and is not kept"):
            try:
                write_simulated(path, num_compact, num_faint, seed=0)
            except OutputInUse:  # another process makes it: what it makes is as good
                time.sleep(_WAIT)
            except OutputError:
                if not is_store(path):
                    raise
    return path
