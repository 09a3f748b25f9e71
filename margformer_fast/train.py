"""``python -m margformer_fast.train``: train, test and report one of Experiments 1-3."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from . import cli
from .errors import ConfigError, OutputError

EXAMPLE = """
python -m margformer_fast.train --exp 1
python -m margformer_fast.train --exp 3 --task sgq --method supervised --runs 3
python -m margformer_fast.train --exp 1 --data field.store --population all --split sky
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
        choices=("simclr", "supervised"),
        default="simclr",
        help="pre-train without labels and fine-tune, or labels from the start (simclr)",
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
        choices=("object", "sky"),
        default="object",
        help="split a store by object, or into strips of sky (object)",
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
        choices=("hidden", "shared"),
        default="hidden",
        help="what SimCLR shows of the photometry: nothing, or the same with both views (hidden)",
    )
    p.add_argument(
        "--probe", choices=("linear", "mlp"), default="linear", help="probe of the frozen encoder (linear)"
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
        "--out", type=Path, metavar="DIR", help="where to write (runs/<time>-exp<N>-<task>-<method>)"
    )
    p.add_argument(
        "--resume", action="store_true", help="continue the run in --out, or the latest like it under runs/"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(arguments)
    # Threads that spin while they wait starve each other when a machine has other work. Must be set before
    # torch loads its thread library.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Imported here: --help and a mistyped option should not wait for torch.
    from .backends import use_backend
    from .evaluation.report import format_table
    from .experiments import PRESETS, make_sets
    from .learning.device import pick_device, pick_precision
    from .runner import RunSettings, open_directory, run_experiment

    device = pick_device(options.device)
    preset = options.preset if options.preset != "auto" else ("paper" if device.type == "cuda" else "quick")
    size = PRESETS[preset]
    with use_backend(options.backend):
        path = options.data or _simulated(size.num_compact, size.num_faint)
        sets = make_sets(
            path,
            options.exp,
            options.task,
            chosen_population=options.population,
            split=options.split,
            max_train=size.max_train if options.data is None else None,
        )
        settings = RunSettings(
            experiment=options.exp,
            task=options.task,
            method=options.method,
            model=options.model,
            preset=preset,
            runs=options.runs or size.runs,
            seed=options.seed,
            precision=pick_precision(options.precision, device),
            pretrain_photometry=options.pretrain_photometry,
            probe=options.probe,
            baselines=_baselines(options.baselines),
            data=sets.source,
            population=options.population or "experiment",
            split=options.split,
            init="" if options.init is None else str(options.init),
        )
        directory = _directory(options)
        open_directory(directory, settings, resume=options.resume)
        sizes = ", ".join(f"{len(s):,} {n}" for s, n in ((sets.train, "training"), (sets.val, "validation")))
        print(f"{sets.source}: {sizes}, {len(sets.test):,} test objects", file=sys.stderr)
        again = f"checkpoints are in {directory}; add `--out {directory} --resume` to the command to go on"
        with cli.on_interrupt(again):
            result = run_experiment(directory, settings, sets, device)
    print(format_table(result.header, result.test, result.outcomes))
    print(f"\nreport:  {result.paths.html}\nmetrics: {result.paths.metrics}")
    return cli.OK


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


def _simulated(num_compact: int, num_faint: int) -> Path:
    """Return the simulated survey of these sizes; it is made if it is not there yet."""
    from .data.simulated import cached_store, write_simulated
    from .data.store import is_store

    path = cached_store(num_compact, num_faint)
    if not is_store(path):
        print(
            f"making a simulated survey of {num_compact + num_faint:,} objects, once, in {path}",
            file=sys.stderr,
        )
        with cli.on_interrupt("the simulated survey was not finished and is not kept"):
            try:
                write_simulated(path, num_compact, num_faint, seed=0)
            except OutputError:
                if not is_store(path):  # another process may have made it meanwhile
                    raise
    return path


if __name__ == "__main__":
    sys.exit(cli.run(main))
