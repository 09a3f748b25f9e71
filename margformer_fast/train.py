"""``python -m margformer_fast.train``: train, test and report one of Experiments 1-3."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from . import cli
from .errors import ConfigError
from .files import held
from .protocol import ERRORS, PROTOCOLS, make_protocol

if TYPE_CHECKING:
    from .runner import Result

EXAMPLE = """
python -m margformer_fast.train --exp 1
python -m margformer_fast.train --exp 3 --task sgq --method supervised --runs 3
python -m margformer_fast.train --exp 1 --data field.store --population all --split sky
python -m margformer_fast.train --exp 1 --protocol published --without last_weights,raw_inputs
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    p = cli.Parser(
        prog="python -m margformer_fast.train",
        description="Train, test and report one of the three experiments. Without --data a simulated "
        "survey is made once and kept; its numbers are labelled as simulated.",
        example=EXAMPLE,
    )
    p.add_argument(
        "--exp",
        type=int,
        choices=(1, 2, 3),
        required=True,
        help="1 compact; 2 faint and compact; 3 trained as 1, tested faint",
    )
    p.add_argument("--task", choices=("sg", "sgq"), default="sg", help="star-galaxy, or with quasars (sg)")
    p.add_argument(
        "--method",
        choices=("simclr", "simclr-probe", "supervised"),
        default="simclr",
        help="pre-train without labels, then fine-tune and probe, or only probe; or labels from the start "
        "(simclr)",
    )
    p.add_argument(
        "--model",
        choices=("margformer-64", "margformer-128", "lvit"),
        default="margformer-64",
        help="form of the encoder (margformer-64)",
    )
    p.add_argument("--data", type=Path, metavar="DIR", help="survey store or directory of published arrays")
    p.add_argument(
        "--population",
        choices=("all", "compact", "faint-compact"),
        help="use this population of a store instead of the experiment's",
    )
    p.add_argument(
        "--split",
        choices=("object", "margnet", "sky"),
        default="object",
        help="split by object, in the shares of MargFormer or those of MargNet, which tested on fewer of "
        "Experiment 2; or split a store into strips of sky (object)",
    )
    p.add_argument(
        "--preset",
        choices=("auto", "quick", "paper"),
        default="auto",
        help="size of the run: quick on a CPU, paper (the published size) on a GPU (auto)",
    )
    p.add_argument("--runs", type=cli.positive, metavar="N", help="runs to average over (quick 2, paper 3)")
    p.add_argument(
        "--init", type=Path, metavar="DIR", help="start from this saved model (a run's seed-N/model)"
    )
    cli.add_seed(p)
    p.add_argument(
        "--baselines",
        default="features",
        metavar="LIST",
        help="any of features, images and margnet, with commas, or none (features)",
    )
    p.add_argument(
        "--pretrain-photometry",
        choices=("varied", "hidden", "shared"),
        help="what SimCLR shows of the photometry: with each view one of its own, nothing, or the same with "
        "both views (varied; with --protocol published hidden, and shared for lvit)",
    )
    p.add_argument(
        "--probe",
        choices=("linear", "mlp"),
        help="probe of the frozen encoder (linear; mlp with --protocol published)",
    )
    p.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="clean",
        help="mend the errors of the published recipe, or repeat them as listed below (clean)",
    )
    p.add_argument(
        "--without",
        default="",
        metavar="LIST",
        help="errors to mend all the same with --protocol published, with commas",
    )
    p.add_argument(
        "--balance",
        choices=("magnitude", "none"),
        help="weigh classes alike at every magnitude, or take them as they were selected (magnitude for "
        "--exp 3 trained by itself with the clean protocol, else none)",
    )
    p.add_argument(
        "--labels",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the objects whose labels training uses; SimCLR pre-trains on all objects (1)",
    )
    p.add_argument(
        "--unlabelled",
        type=Path,
        nargs="+",
        default=[],
        metavar="STORE",
        help="SimCLR pre-trains on the objects of these survey stores too, whose labels it does not look at",
    )
    p.add_argument(
        "--transfer",
        type=Path,
        metavar="RUN",
        help="with --exp 3: test the models of this run of --exp 1, made with the same options, instead of "
        "training them again",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    p.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of products: bf16 on a GPU, fp32 on a CPU (auto)",
    )
    p.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, reference, cpp, ... or operator=backend,... (auto)",
    )
    p.add_argument(
        "--parts",
        type=cli.positive,
        metavar="N",
        help="parts of a batch, each with a dropout of its own: a run goes on exactly with any number of "
        "processes that divides N (the number of processes at the first start)",
    )
    p.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (runs/<time>-exp<N>-<task>-<method>)"
    )
    p.add_argument(
        "--resume", action="store_true", help="continue the run in --out, or the latest like it under runs/"
    )
    listed = "\n".join(
        textwrap.fill(f"{name}: {text}", 100, initial_indent="  ", subsequent_indent="    ")
        for name, text in ERRORS.items()
    )
    p.epilog = f"errors of the published recipe:\n{listed}\n\n{p.epilog}"
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(arguments)
    # Threads that spin while they wait starve each other when a machine has other work. Must be set before
    # torch loads its thread library.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from .evaluation.report import format_table

    result = execute(options, arguments)
    if result is None:  # another process reports
        return cli.OK
    print(format_table(result.header, result.test, result.outcomes))
    print(f"\nreport:  {result.paths.html}\nmetrics: {result.paths.metrics}")
    return cli.OK


def execute(
    options: argparse.Namespace,
    arguments: Sequence[str] | None = None,
    *,
    source: Path | None = None,
    stages: Sequence[str] | None = None,
) -> Result | None:
    """Do what a parsed command line asks for, up to the report; with the other processes of ``torchrun``.

    Parameters
    ----------
    options : Namespace
        From :func:`parser`.
    arguments : sequence of str, optional
        The command line, which the report repeats; those of the process by default.
    source : Path, optional
        Run whose finished `stages` are taken over; that of ``--transfer``, with all its stages, by default.
    stages : sequence of str, optional
        See :func:`margformer_fast.runner.adopt`.

    Returns
    -------
    Result or None
        None in all processes but the first, which reports.

    Raises
    ------
    MargformerError
        If options contradict each other, data cannot be used, or results cannot be written.
    """
    without = _without(options)
    if options.transfer is not None and options.exp != 3:
        raise ConfigError("--transfer goes with --exp 3 alone, which tests models of Experiment 1")
    # Imported here: --help and a mistyped option should not wait for torch.
    from .backends import use_backend
    from .data.simulated import made_once
    from .experiments import PRESETS, make_sets
    from .learning.device import pick_device, pick_precision
    from .learning.distributed import cutting, joined
    from .runner import RunSettings, adopt, open_directory, run_experiment

    wanted = pick_device(options.device)
    preset = options.preset if options.preset != "auto" else ("paper" if wanted.type == "cuda" else "quick")
    size = PRESETS[preset]
    is_published = options.protocol == "published"
    if options.unlabelled and (is_published or options.method == "supervised"):
        raise ConfigError(
            "--unlabelled goes with SimCLR and the clean protocol, which pre-trains on what it is given",
            mend="Leave it out, or leave out --protocol published and --method supervised.",
        )
    if not 0 < options.labels <= 1:
        raise ConfigError(f"--labels is {options.labels:g}", expected="above 0 and at most 1")
    balances = options.exp == 3 and not is_published and options.transfer is None and source is None
    shares = is_published and options.model == "lvit" and "shared_photometry" not in without
    pretrain_photometry = ("shared" if shares else "hidden") if is_published else "varied"
    with use_backend(options.backend), joined(wanted) as world, ExitStack() as stack:
        if options.data is None and world.local_rank > 0:
            world.wait()  # the first process of each host makes the survey there
        path = options.data or made_once(size.num_compact, size.num_faint)
        if options.data is None and world.local_rank == 0:
            world.wait()
        sets = make_sets(
            path,
            options.exp,
            options.task,
            chosen_population=options.population,
            split=options.split,
            max_train=size.max_train if options.data is None else None,
            max_pretrain=size.max_pretrain if options.data is None else None,
            unlabelled=options.unlabelled,
            keep_seen=is_published,
        )
        settings = RunSettings(
            experiment=options.exp,
            task=options.task,
            method=options.method,
            model=options.model,
            preset=preset,
            runs=options.runs or size.runs,
            seed=options.seed,
            precision=pick_precision(options.precision, world.device),
            pretrain_photometry=options.pretrain_photometry or pretrain_photometry,
            probe=options.probe or ("mlp" if is_published else "linear"),
            baselines=_baselines(options.baselines),
            data=sets.source,
            population=options.population or "experiment",
            split=options.split,
            init="" if options.init is None else str(options.init),
            protocol=options.protocol,
            without=without,
            balance=options.balance or ("magnitude" if balances else "none"),
            labels=options.labels,
            unlabelled=tuple(str(store) for store in options.unlabelled),
        )
        if options.parts is not None and options.parts % world.size:
            raise ConfigError(
                f"--parts is {options.parts}", expected=f"a multiple of the {world.size} processes"
            )
        opened: tuple[str, int] | None = None
        if world.is_main:
            directory = _directory(options)
            if options.resume and directory.is_dir():
                stack.enter_context(held(directory))
            parts = open_directory(directory, settings, resume=options.resume, parts=options.parts)
            if not options.resume:
                stack.enter_context(held(directory))
            source = source or options.transfer
            if source is not None:
                adopt(directory, settings, source, stages)
            sizes = ", ".join(
                f"{len(s):,} {n}" for s, n in ((sets.train, "training"), (sets.val, "validation"))
            )
            print(f"{sets.source}: {sizes}, {len(sets.test):,} test objects", file=sys.stderr)
            opened = str(directory), parts
        _, (name, parts) = world.from_main({}, opened)
        directory = Path(name)
        again = f"checkpoints are in {directory}; add `--out {directory} --resume` to the command to go on"
        with cli.on_interrupt(again), cutting(parts):
            return run_experiment(directory, settings, sets, world.device, arguments)


def _without(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the errors to mend, each once; unknown ones are refused."""
    without = tuple(sorted({name.strip() for name in options.without.split(",") if name.strip()}))
    make_protocol(options.protocol, without)
    return without


def _baselines(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(sorted(set(text.split(","))))
    for name in names:
        if name not in ("features", "images", "margnet"):
            raise ConfigError(
                f"there is no baseline {name!r}",
                where="--baselines",
                expected="features, images, margnet or none",
            )
    return names


def _directory(options: argparse.Namespace) -> Path:
    """Return the run directory: named, new, or the latest that can be resumed."""
    if options.out is not None:
        return options.out
    name = f"exp{options.exp}-{options.task}-{options.method}"
    if not options.resume:
        return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    found = sorted(p.parent for p in Path("runs").glob(f"*-{name}/run.json"))
    if not found:
        raise ConfigError(f"there is no run runs/*-{name} to resume", mend="Name it with --out.")
    return found[-1]


if __name__ == "__main__":
    sys.exit(cli.run(main))
