"""Stars, galaxies and quasars told apart from survey stamps and photometry: MargFormer and SimCLR, fast.

``Classifier`` is a trained model: see :mod:`margformer_fast.classifier`. ``classify_frame`` runs one over a
DataFrame, for LSDB, Dask and Spark: see :mod:`margformer_fast.catalogue.dataframes`.
"""

import importlib
import pkgutil
from typing import Any

# Run from a source checkout, this folder shadows the installed package. Extending the path lets the
# checkout's Python files find the compiled module that `pip install .` put into site-packages.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"

__all__ = ["Classifier", "__version__", "classify_frame", "classify_meta"]

_HOME = {
    "Classifier": "classifier",
    "classify_frame": "catalogue.dataframes",
    "classify_meta": "catalogue.dataframes",
}  # imported when asked for: torch takes seconds


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
