"""Which refusals does the suite meet? ``python tests/raised.py`` runs it and says, place by place.

    python tests/raised.py                                # the whole suite
    python tests/raised.py --numprocesses 2 tests/test_store.py

What follows is pytest's. Every error of ours that is made while the tests run is counted for the place in the
package that raised it; commands that tests start as processes of their own are not looked into, nor is what a
GPU alone meets. tests/refusals.py has what the messages say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = "MARGFORMER_RAISED"
"""Name of the variable with the folder where each process of pytest leaves what it met."""


def pytest_configure() -> None:
    """Have every error of ours note who made it (this module is a plugin of pytest)."""
    import margformer_fast
    from margformer_fast.errors import MargformerError

    package, made = f"{Path(margformer_fast.__file__).parent}/", MargformerError.__init__

    def noted(self: MargformerError, *args: object, **named: object) -> None:
        frame = sys._getframe(1)
        file = frame.f_code.co_filename
        if file.startswith(package):
            _met.add((file.removeprefix(package).removesuffix(".py"), frame.f_lineno))
        made(self, *args, **named)

    MargformerError.__init__ = noted


def pytest_unconfigure() -> None:
    """Leave what this process met."""
    Path(os.environ[FOLDER], f"{os.getpid()}.json").write_text(json.dumps(sorted(_met)))


_met: set[tuple[str, int]] = set()


def met_in(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield module and line of all that was met."""
    for path in folder.glob("*.json"):
        yield from map(tuple, json.loads(path.read_text()))


def main() -> int:
    """Run the suite, print what it never met, and how much that is."""
    import refusals

    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, FOLDER: folder, "PYTHONPATH": path}
        command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, *sys.argv[1:]]
        code = subprocess.run(command, env=environment).returncode
        met = set(met_in(Path(folder)))
    everything = refusals.sites()
    raised = {
        (site.module, site.line)
        for site in everything
        if any((site.module, line) in met for line in range(site.line, site.end + 1))
    }
    print("\nnever raised:")
    for site in everything:
        if (site.module, site.line) not in raised:
            print(f"  {site.module}:{site.line}: {site.template}")
    print(f"{len(everything)} places raise an error of ours: the tests that ran met {len(raised)} of them")
    return code


if __name__ == "__main__":
    sys.exit(main())
