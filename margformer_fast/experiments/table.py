"""Runs the cells of the table, one by one, each in a directory of its own, and writes what they found."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import train
from ..errors import DataError, MargformerError, OutputError
from ..files import atomic_file, read_record, write_json
from .cells import Cell, by_name
from .collect import collect
from .table_page import render


@dataclass(frozen=True)
class TableSettings:
    """What is common to all cells; kept in ``cells.json`` and compared when a table is resumed.

    Parameters
    ----------
    preset, device, precision, backend : str
        As the options of the training command.
    seed : int
        Seed of the first run of each cell.
    runs : int or None
        Runs of each cell; None for the preset's number.
    data : str
        Store or directory of published arrays; empty for the simulated survey.
    """

    preset: str
    device: str
    precision: str
    backend: str
    seed: int
    runs: int | None
    data: str

    def arguments(self) -> list[str]:
        """Return the settings as arguments of the training command."""
        found = ["--preset", self.preset, "--device", self.device, "--precision", self.precision]
        found += ["--backend", self.backend, "--seed", str(self.seed)]
        found += [] if self.runs is None else ["--runs", str(self.runs)]
        return found + (["--data", self.data] if self.data else [])


def open_table(directory: Path, cells: Sequence[Cell], settings: TableSettings, *, resume: bool) -> None:
    """Make the directory of a table, or add cells to one that is to be resumed.

    Raises
    ------
    OutputError
        If `directory` exists and is not to be resumed, or cannot be made.
    DataError
        If its cells were run with other settings.
    """
    record = directory / "cells.json"
    names: dict[str, str] = {}
    if directory.exists():
        if not resume:
            raise OutputError(
                "already exists", where=directory, mend="Continue it with --resume, or choose another --out."
            )
        before = read_record(record, "settings", "cells", mend="Choose another --out.")
        changed = sorted(k for k, v in asdict(settings).items() if before["settings"].get(k) != v)
        if changed:
            raise DataError(
                f"was started with other settings ({', '.join(changed)})",
                where=directory,
                mend="Resume with the settings of the first start, or choose another --out.",
            )
        names = before["cells"]
    else:
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise OutputError(
                f"cannot be made: {error.strerror}", where=directory, mend="Choose another --out."
            ) from error
    wanted = names.keys() | {cell.name for cell in cells}
    listed = {name: names.get(name, "") for name in by_name() if name in wanted}
    write_json(record, {"settings": asdict(settings), "cells": listed})


def run_cells(directory: Path, cells: Sequence[Cell], settings: TableSettings) -> list[str]:
    """Run the cells that have no result yet; one that fails is recorded, and the next goes on.

    Parameters
    ----------
    directory : Path
        Made by :func:`open_table`.
    cells : sequence of Cell
        A cell comes after the one whose models it takes over.
    settings : TableSettings
        As given to :func:`open_table`.

    Returns
    -------
    list of str
        Names of the cells that failed.
    """
    failed = []
    for k, cell in enumerate(cells, 1):
        place = directory / cell.name
        if (place / "metrics.json").exists():
            continue
        print(f"cell {k} of {len(cells)}: {cell.name}", file=sys.stderr)
        try:
            _run_cell(place, cell, settings)
            error = ""
        except MargformerError as found:
            error = str(found)
        except Exception as found:  # a bug in one cell must not take the night's other cells with it
            traceback.print_exc()
            error = f"{type(found).__name__}: {found}"
        if error:
            print(f"failed: {cell.name}: {error}", file=sys.stderr)
            failed.append(cell.name)
        record = read_record(directory / "cells.json", "settings", "cells", mend="Choose another --out.")
        record["cells"][cell.name] = error
        write_json(directory / "cells.json", record)
    return failed


def _run_cell(place: Path, cell: Cell, settings: TableSettings) -> None:
    arguments = [*cell.arguments(), *settings.arguments(), "--out", str(place)]
    resume = ["--resume"] if (place / "run.json").exists() else []
    source = place.parent / cell.source if cell.source else None
    if source is not None and not (cell.stages and (source / "metrics.json").exists()):
        source = None
    options = train.parser().parse_args([*arguments, *resume])
    train.execute(options, arguments, source=source, stages=cell.stages)


def write_table(directory: Path) -> dict[str, Any]:
    """Write ``table.json`` and ``index.html`` from the runs under `directory`, and return the numbers.

    Raises
    ------
    DataError
        If there is no table, or a file of it is damaged.
    OutputError
        If a file cannot be written.
    """
    found = collect(directory)
    write_json(directory / "table.json", found)
    with atomic_file(directory / "index.html") as temporary:
        temporary.write_text(render(found), encoding="utf-8")
    return found
