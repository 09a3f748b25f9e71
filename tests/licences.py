"""Licences of what the package needs, and of what that needs: ``python tests/licences.py``.

From the metadata of what is installed here: an extra that is not installed is not listed. Builds of torch for
GPUs bring packages of NVIDIA, under NVIDIA's own terms.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

PACKAGE = "margformer-fast"


def needed(name: str, *, optional: bool = False) -> Iterator[str]:
    """Yield what a distribution requires: without extras, or of extras alone."""
    for requirement in importlib.metadata.requires(name) or []:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        if found and ("extra ==" in requirement) == optional:
            yield found[0]


def licence(name: str) -> str:
    """Return what a distribution says of its licence, in few words."""
    about = importlib.metadata.metadata(name)
    # Not by index, which raises where the backport of importlib.metadata has been imported.
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [
        c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License ::")
    ]
    said = [c for c in classifiers if c != "OSI Approved"] or [
        (about.get("License") or "").strip().partition("\n")[0]
    ]
    return ", ".join(said)[:60] or "not said"


def closure() -> dict[str, tuple[str, str]]:
    """Return version and licence of everything that is needed and installed, by name."""
    found: dict[str, tuple[str, str]] = {}
    waiting = list(needed(PACKAGE))
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.version(name), licence(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
        waiting += needed(name)
    return found


def main() -> None:
    """Print the table."""
    direct = {re.sub(r"[-_.]+", "-", name).lower() for name in needed(PACKAGE)}
    print("| package | version here | licence |\n|---|---|---|")
    rows = closure()
    for name in sorted(rows, key=lambda name: (name not in direct, name)):
        version, said = rows[name]
        print(f"| {'**' + name + '**' if name in direct else name} | {version} | {said} |")


if __name__ == "__main__":
    main()
