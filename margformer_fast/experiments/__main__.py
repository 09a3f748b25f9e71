"""``python -m margformer_fast.experiments``: every experiment, both protocols, one table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from .. import cli
from ..errors import ConfigError

EXAMPLE = """
python -m margformer_fast.experiments --all --runs 3
python -m margformer_fast.experiments --protocols --data DEPOSIT --preset paper --out runs/protocols
python -m margformer_fast.experiments --all --only exp3-sgq --list
python -m margformer_fast.experiments report runs/protocols
"""


def parser() -> cli.Parser:
    """Return the command's parser."""
    p = cli.Parser(
        prog="python -m margformer_fast.experiments",
        description="Run all published experiments under both protocols, each as a run of the training "
        "command in a directory of its own, and put every number into one table. `report DIR` writes the "
        "table again from the runs that are there.",
        example=EXAMPLE,
    )
    p.add_argument("--all", action="store_true", help="every experiment, task, method and protocol")
    p.add_argument(
        "--protocols",
        action="store_true",
        help="published runs beside themselves with each error of the recipe mended, and all of them",
    )
    p.add_argument(
        "--only",
        default="",
        metavar="PATTERN",
        help="cells with this in their name; * and ? stand for any text",
    )
    p.add_argument("--list", action="store_true", help="print the names of the cells and stop")
    p.add_argument("--runs", type=cli.positive, metavar="N", help="runs of each cell (quick 2, paper 3)")
    p.add_argument(
        "--preset", choices=("auto", "quick", "paper"), default="auto", help="size of the runs (auto)"
    )
    p.add_argument("--data", type=Path, metavar="DIR", help="survey store or directory of published arrays")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of products (auto)")
    p.add_argument("--backend", default="auto", metavar="NAME", help="as for the training command (auto)")
    cli.add_seed(p)
    p.add_argument("--out", type=Path, metavar="DIR", help="where to write (runs/<time>-table)")
    p.add_argument(
        "--resume", action="store_true", help="go on with the table in --out; failed cells are run again"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a cell failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "report":
        return _report(arguments[1:])
    options = parser().parse_args(arguments)
    groups = [g for g, asked in (("table", options.all), ("protocols", options.protocols)) if asked]
    if not groups:
        raise ConfigError("nothing to run", expected="--all, --protocols or both; or `report DIR`")
    if options.resume and options.out is None:
        raise ConfigError("--resume needs --out, the directory of the table")
    from .cells import cells

    chosen = cells(groups, options.only)
    if options.list:
        print("\n".join(cell.name for cell in chosen))
        return cli.OK
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the training command, before torch is loaded
    from ..learning.distributed import require_one_process
    from .table import TableSettings, open_table, run_cells, write_table
    from .table_page import format_text

    require_one_process("python -m margformer_fast.experiments")
    settings = TableSettings(
        preset=options.preset,
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        seed=options.seed,
        runs=options.runs,
        data="" if options.data is None else str(options.data),
    )
    directory = options.out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-table"
    open_table(directory, chosen, settings, resume=options.resume)
    again = f"finished cells are in {directory}; add `--out {directory} --resume` to the command to go on"
    with cli.on_interrupt(again):
        failed = run_cells(directory, chosen, settings)
    print(format_text(write_table(directory)))
    print(f"\ntable: {directory / 'index.html'}\nnumbers: {directory / 'table.json'}")
    return cli.FAILURE if failed else cli.OK


def _report(arguments: Sequence[str]) -> int:
    p = cli.Parser(
        prog="python -m margformer_fast.experiments report",
        description="Write the table again from the runs that are there.",
    )
    p.add_argument("directory", type=Path, metavar="DIR", help="directory of a table")
    directory = p.parse_args(arguments).directory
    from .table import write_table
    from .table_page import format_text

    print(format_text(write_table(directory)))
    print(f"\ntable: {directory / 'index.html'}")
    return cli.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
