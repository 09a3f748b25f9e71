"""Simulated surveys as stores: written on request, or made once and kept for training runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..progress import Progress
from . import photometry, profiles, simulate, skymodel
from .store import StoreWriter
from .survey import SDSS


def write_simulated(
    path: Path, num_compact: int, num_faint: int, *, seed: int, overwrite: bool = False
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
            path, SDSS, name=path.resolve().name, simulated=True, provenance={}, overwrite=overwrite
        ) as writer,
        Progress(num_compact + num_faint, "simulating", "objects") as progress,
    ):
        for chunk in simulate.simulate(num_compact, num_faint, seed=seed):
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

    The name holds a hash of the simulator's source, so that a changed simulator makes a new survey.
    """
    sources = (simulate, skymodel, profiles, photometry)
    digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in sources))
    return cache_directory() / f"simulated-{digest.hexdigest()[:8]}-{num_compact}-{num_faint}-seed{seed}"
