"""The compiled module: the only place that imports it, and what keeps it from being used.

Nothing here raises at import. Who needs the module calls :func:`compiled`, which raises with the reason; who
has a choice asks :func:`why_not` first.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import __version__
from .errors import BackendUnavailable, ConfigError

if TYPE_CHECKING:
    from types import ModuleType

THREADS_VARIABLE = "MARGFORMER_NUM_THREADS"
_INSTALL = "Run `pip install .` in the source folder"

_log = logging.getLogger(__name__)


def source_hash(root: Path) -> str | None:
    """Return the hash of the C++ sources under `root`, as in CMakeLists.txt; None if there are none."""
    if not (root / "csrc/bindings/module.cpp").is_file():
        return None
    suffixes = {".hpp", ".cpp", ".cuh", ".cu"}
    sources = sorted(
        path.relative_to(root).as_posix() for path in (root / "csrc").rglob("*") if path.suffix in suffixes
    )
    manifest = "".join(
        f"{hashlib.sha256((root / source).read_bytes()).hexdigest()}  {source}\n"
        for source in [*sources, "CMakeLists.txt"]
    )
    return hashlib.sha256(manifest.encode()).hexdigest()


def _load() -> tuple[ModuleType | None, str]:
    """Return the compiled module, or None and the reason."""
    name = f"{__package__}._C"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None, f"the compiled module is not installed. {_INSTALL}"
    except ImportError as error:
        return None, f"the compiled module does not load ({error}). {_INSTALL} to build it anew"
    return module, why_stale(module.build_info(), Path(__file__).parent.parent)


def why_stale(build_info: dict[str, Any], root: Path) -> str:
    """Say why a module does not belong to the Python files beside `root`, or return an empty string."""
    if build_info["version"] != __version__:
        versions = f"version {build_info['version']}, the package {__version__}"
        return f"the compiled module is of {versions}. {_INSTALL}"
    # An installed package has no sources beside it and came with its module; a checkout can move on.
    if source_hash(root) not in (None, build_info["source_hash"]):
        return f"the compiled module was built from other C++ sources than those in {root}. {_INSTALL}"
    return ""


_module, _why_not = _load()
if _why_not:
    _log.warning("%s; slower paths stand in for it.", _why_not)


def why_not() -> tuple[str, ...]:
    """Return the reasons why the compiled module cannot be used; none if it can."""
    return (_why_not,) if _why_not else ()


def compiled() -> Any:
    """Return the compiled module.

    Raises
    ------
    BackendUnavailable
        If it is missing, does not load, or belongs to other sources.
    """
    if _why_not:
        raise BackendUnavailable(_why_not)
    return _module


def build_info() -> dict[str, Any]:
    """Return how the module was built (version, compiler, CUDA), even if stale; empty if there is none."""
    return cast("dict[str, Any]", _module.build_info()) if _module is not None else {}


@lru_cache(maxsize=1)
def cuda_why_not() -> tuple[str, ...]:
    """Return the reasons why the module's CUDA functions cannot be used; none if they can."""
    if _why_not:
        return why_not()
    info = build_info()
    if not info["cuda"]:
        return (f"the compiled module was built without CUDA: {info['cuda_why_not']}",)
    count, reason = compiled().cuda_devices()
    return () if count else (f"no CUDA device: {reason or 'none was found'}",)


def num_threads() -> int:
    """Return how many threads the compiled module may use.

    MARGFORMER_NUM_THREADS if it is set; else as many as torch uses, if torch is there to be asked; else as
    many as cores are given to us.

    Raises
    ------
    ConfigError
        If the variable is no positive integer.
    """
    wanted = os.environ.get(THREADS_VARIABLE)
    if wanted is None and "torch" in sys.modules:
        return cast("int", sys.modules["torch"].get_num_threads())
    if wanted is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not (wanted.isdecimal() and int(wanted) > 0):
        raise ConfigError(f"{THREADS_VARIABLE} is {wanted!r}", expected="a positive integer")
    return int(wanted)
