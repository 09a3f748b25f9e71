"""The cells of the table of all experiments, as data: each is one run of the training command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import ConfigError
from ..protocol import PUBLISHED, deviations

STAGES = (
    "pretrain",
    "probe",
    "finetune",
    "supervised",
    "images-only",
    "photometry-only",
    "margnet-dnn",
    "margnet-cnn",
    "margnet-ensemble",
)
"""Names of all stages of training that a run may keep."""

_MARGNET = ("margnet-dnn", "margnet-cnn", "margnet-ensemble")
_UNTOUCHED = {
    "last_weights": ("pretrain", *_MARGNET),
    "augmented_validation": ("pretrain", "probe", "photometry-only", *_MARGNET),
    "raw_inputs": (),
    "ragged_batches": ("photometry-only", *_MARGNET),
    "standardised_stamps": (),
    "shared_photometry": (),
    "probe_on_validation": tuple(stage for stage in STAGES if stage != "probe"),
    "head_on_validation": tuple(stage for stage in STAGES if stage != "margnet-ensemble"),
    "leaked_objects": STAGES,
}
"""Stages that come out the same with and without an error, and need not be trained twice."""


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Parameters
    ----------
    experiment, task, method, model, protocol, split
        As the options of the training command.
    without, baselines : tuple of str
    balance : str
    labels : float
        As its options too.
    measured : str
        Method whose accuracy stands for the cell where protocols are compared; `method` if empty.
    source : str
        Name of a cell whose finished stages are taken over, if it is there.
    stages : tuple of str
        Which of them.
    """

    experiment: int
    task: str
    method: str
    model: str
    protocol: str = "clean"
    split: str = "object"
    without: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    balance: str = "none"
    labels: float = 1.0
    measured: str = ""
    source: str = ""
    stages: tuple[str, ...] = STAGES

    @property
    def name(self) -> str:
        """Name of the cell and of its run directory."""
        parts = [f"exp{self.experiment}", self.task, self.method, self.model, self.protocol]
        parts += ["margnet-split"] if self.split == "margnet" else []
        parts += [f"without-{error}" for error in self.without]
        parts += ["balanced"] if self.balance == "magnitude" else []
        parts += [f"labels-{self.labels:g}"] if self.labels < 1 else []
        return "-".join(parts)

    @property
    def shown(self) -> str:
        """The method whose accuracy stands for the cell."""
        return self.measured or self.method

    def arguments(self) -> list[str]:
        """Return the cell as arguments of the training command."""
        found = ["--exp", str(self.experiment), "--task", self.task, "--method", self.method]
        found += ["--model", self.model, "--baselines", ",".join(self.baselines) or "none"]
        found += ["--protocol", self.protocol, "--split", self.split, "--balance", self.balance]
        found += ["--labels", f"{self.labels:g}"]
        # The published kind of probe under both protocols: it is a choice, not an error.
        found += ["--probe", "mlp"] if self.method == "simclr-probe" else []
        return found + (["--without", ",".join(self.without)] if self.without else [])


def _by_transfer(cells: Iterable[Cell]) -> list[Cell]:
    """Return Experiment 3 of cells of Experiment 1, with their models."""
    return [replace(cell, experiment=3, source=cell.name) for cell in cells]


def _of_protocol(protocol: str) -> list[Cell]:
    simclr = Cell(1, "sg", "simclr", "margformer-64", protocol)
    probe = Cell(1, "sgq", "simclr-probe", "lvit", protocol)
    baselines = ("features", "images", "margnet") if protocol == "clean" else ("margnet",)
    supervised = [
        Cell(1, task, "supervised", model, protocol, baselines=baselines if model == "margformer-64" else ())
        for model in ("margformer-64", "margformer-128")
        for task in ("sg", "sgq")
    ]
    # Experiment 2 on both published splits; MargNet itself on its own.
    faint = [
        replace(cell, experiment=2, split=split, baselines=cell.baselines if split == "margnet" else ())
        for cell in supervised
        for split in ("object", "margnet")
    ]
    pre_trained = [simclr, probe]
    if protocol == "clean":  # nothing is published of these
        pre_trained += [replace(simclr, task="sgq"), replace(simclr, experiment=2)]
    firsts = [cell for cell in (*pre_trained, *supervised) if cell.experiment == 1]
    return [*pre_trained, *supervised, *faint, *_by_transfer(firsts)]


def _balanced() -> list[Cell]:
    """Return Experiment 3 trained for it: classes weighed alike at every magnitude, from the same views."""
    cells = [
        Cell(1, task, method, "margformer-64")
        for task in ("sg", "sgq")
        for method in ("simclr", "supervised")
    ]
    return [
        replace(
            cell,
            experiment=3,
            balance="magnitude",
            source=cell.name if cell.method == "simclr" else "",
            stages=("pretrain", "probe"),
        )
        for cell in cells
    ]


def _of_few_labels() -> list[Cell]:
    """Return Experiment 1 with a part of the labels, after pre-training without any."""
    simclr = Cell(1, "sg", "simclr", "margformer-64")
    return [
        replace(cell, labels=labels, source=simclr.name if cell == simclr else "", stages=("pretrain",))
        for labels in (0.01, 0.1)
        for cell in (simclr, replace(simclr, method="supervised", baselines=("features",)))
    ]


TABLE = (*_of_protocol("published"), *_of_protocol("clean"), *_balanced(), *_of_few_labels())
"""All published runs under both protocols, and what else is measured."""

COMPARED = (
    Cell(1, "sg", "simclr", "margformer-64", "published"),
    Cell(1, "sgq", "simclr-probe", "lvit", "published"),
    next(cell for cell in TABLE if cell.name == "exp3-sgq-supervised-margformer-64-published"),
)
"""Published runs whose errors are switched off one by one; between them they have every error."""


def comparisons(base: Cell) -> list[Cell]:
    """Return what a published run is compared with: itself without each of its errors, then the clean run."""
    found = deviations(
        PUBLISHED,
        experiment=base.experiment,
        method=base.method,
        model=base.model,
        baselines=base.baselines,
    )
    # The probe of a run that also fine-tunes, and MargNet's head, show in methods of their own.
    own = {"head_on_validation": "margnet"}
    own |= {"probe_on_validation": "simclr-probe"} if base.method != "supervised" else {}
    without = [
        replace(
            base, without=(error,), measured=own.get(error, ""), source=base.name, stages=_UNTOUCHED[error]
        )
        for error in found
    ]
    name = replace(base, protocol="clean").name
    return [*without, next(cell for cell in TABLE if cell.name == name)]


def cells(groups: Iterable[str], only: str = "") -> list[Cell]:
    """Return the cells of some groups, each once, Experiment 1 before what takes over its models.

    Parameters
    ----------
    groups : iterable of str
        ``table`` and ``protocols``.
    only : str
        Keep the cells whose name has this in it; ``*`` and ``?`` stand for any text and any letter.

    Raises
    ------
    ConfigError
        If no cell is left.
    """
    chosen: dict[str, Cell] = {}
    for group in groups:
        several = TABLE if group == "table" else tuple(c for b in COMPARED for c in (b, *comparisons(b)))
        for cell in several:
            chosen.setdefault(cell.name, cell)
    found = [cell for cell in chosen.values() if fnmatchcase(cell.name, f"*{only}*")]
    if not found:
        raise ConfigError(f"no cell has {only!r} in its name", where="--only", mend="--list shows all names.")
    return found


def by_name() -> dict[str, Cell]:
    """Return every cell by its name."""
    return {cell.name: cell for cell in cells(("table", "protocols"))}


def published_model(method: str, model: str, task: str, experiment: int, split: str) -> str:
    """Return what the published results call a method; empty if nothing comparable is published.

    MargNet and MargFormer with K = 64 were tested on the tenth of Experiment 2 that MargNet's split sets
    apart, MargFormer with K = 128 on the eighth.
    """
    on_eighth = experiment != 2 or split == "object"
    on_tenth = experiment != 2 or split == "margnet"
    names = {
        ("simclr", "margformer-64", "sg"): ("SimCLR MargFormer", on_eighth),
        ("simclr-probe", "lvit", "sgq"): ("SimCLR LViT, frozen + probe", on_eighth),
        ("supervised", "margformer-64", task): ("MargFormer K=64", on_tenth),
        ("supervised", "margformer-128", task): ("MargFormer K=128", on_eighth),
        ("margnet-dnn", model, task): ("MargNet DNN (features)", on_tenth),
        ("margnet-cnn", model, task): ("MargNet CNN (images)", on_tenth),
        ("margnet", model, task): ("MargNet ensemble", on_tenth),
    }
    name, fits = names.get((method, model, task), ("", False))
    return name if fits else ""
