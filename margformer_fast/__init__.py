"""Stars, galaxies and quasars told apart from survey stamps and photometry: MargFormer and SimCLR, fast."""

import pkgutil

# Run from a source checkout, this folder shadows the installed package. Extending the path lets the
# checkout's Python files find the compiled module that `pip install .` put into site-packages.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
