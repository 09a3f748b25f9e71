"""Do the fast backends train as the reference does? ``python benchmarks/loss_curves.py``.

SimCLR pre-training of the three published model forms on simulated objects, step by step, on the backends
"reference" and "auto", from the same weights and views. Writes ``loss_curves.png`` and ``loss_curves.json``.

Without dropout both compute the same function, and differ by rounding alone. That is looked at in two ways:

* at the same weights: along the reference's path, loss and gradient of both are compared at every step;
* in free flight: each backend follows its own gradients. Training makes rounding grow, exponentially while a
  representation forms, until two runs of one and the same code differ as well.

So both differences stand beside a yardstick: how far the reference is from itself when every pixel of its
inputs, and every first weight, is changed by one rounding. With dropout each backend drops other units, and
curves are compared as two groups, by a permutation test over streams of random numbers. A third group, the
reference with more dropout, shows what the test can see.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch loads its thread library, in this process and in those it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from margformer_fast.backends import operators, use_backend
from margformer_fast.cli import table
from margformer_fast.config import LVIT, AugmentConfig, ModelConfig
from margformer_fast.data.simulate import simulate
from margformer_fast.data.survey import CLASSES, Survey
from margformer_fast.evaluation.style import DPI, GREY, METHOD_COLOURS, headed, styled
from margformer_fast.files import atomic_file, write_json
from margformer_fast.info import collect
from margformer_fast.learning.loop import batches
from margformer_fast.learning.samples import Samples
from margformer_fast.nn.inputs import ScaledEncoder
from margformer_fast.nn.simclr import SimCLR
from margformer_fast.ops.nt_xent import nt_xent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE, FAST = "reference", "auto"
WEIGHTS_SEED, VIEWS_SEED = 1, 2
NUM_OBJECTS = 768
ONE_ROUNDING = 2.0**-23
NUM_WINDOWS = 4
MORE_DROPOUT = 1.5


@dataclass(frozen=True)
class Form:
    """A model form, and how it is pre-trained: as published, but for the size of the batch.

    The photometry is hidden, as it is by default: else the task can be solved without a look at the images.
    """

    name: str
    model: ModelConfig
    projector: int
    temperature: float
    learning_rate: float


FORMS = (
    Form("MargFormer, K = 64", ModelConfig(slots=64), 128, 0.1, 3e-3),
    Form("MargFormer, K = 128", ModelConfig(slots=128), 128, 0.1, 3e-3),
    Form("LViT", LVIT, 1024, 0.5, 2e-4),
)


@dataclass(frozen=True)
class Run:
    """One training run.

    Parameters
    ----------
    backend : str
        What :func:`use_backend` is asked for, from the views to the loss.
    dropout : float
        Factor on the dropout of the form; 0 trains without.
    stream : int
        Seed of the dropout, and of the perturbation. Weights and views do not depend on it.
    perturbed : bool
        Whether pixels of the views, and the first weights, are multiplied by 1 +- 2^-23, signs at random.
    watched : bool
        Whether the other backends are asked for their loss and gradient at the same weights, at every step.
    """

    backend: str
    dropout: float = 0.0
    stream: int = 0
    perturbed: bool = False
    watched: bool = False


@lru_cache(maxsize=1)
def simulated_survey(num_objects: int = NUM_OBJECTS) -> Survey:
    """Return simulated compact objects, all classes."""
    (survey,) = simulate(num_objects, 0, seed=0)
    return survey


def _perturb(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    up = torch.rand(tensor.shape, generator=generator) < 0.5
    return tensor * torch.where(up, 1 + ONE_ROUNDING, 1 - ONE_ROUNDING)


def _views(samples: Samples, num_steps: int, num_pairs: int, patch_size: int) -> Iterator[torch.Tensor]:
    """Yield the tokens of both views for each step; they depend on the step alone."""
    step = 0
    while step < num_steps:
        epoch = step
        for rows in batches(len(samples), num_pairs, VIEWS_SEED + epoch)[: num_steps - step]:
            yield samples.views(
                rows, AugmentConfig(), seed=VIEWS_SEED, epoch=epoch, num_views=2, patch_size=patch_size
            ).flatten(0, 1)
            step += 1


def _gradient(model: SimCLR, tokens: torch.Tensor, temperature: float) -> tuple[float, torch.Tensor]:
    """Leave gradients in the model; return the loss, and all gradients as one vector."""
    z1_ND, z2_ND = model(None, tokens).chunk(2)
    loss = nt_xent(z1_ND, z2_ND, temperature=temperature)
    model.zero_grad(set_to_none=True)
    loss.backward()
    every = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(every)


def train(form: Form, run: Run, samples: Samples, num_steps: int, num_pairs: int) -> dict[str, np.ndarray]:
    """Pre-train from fresh weights.

    Returns
    -------
    dict
        ``loss``: before each step, float64 of shape (num_steps,). If the run is watched also ``loss, fast``,
        ``loss, perturbed``, ``gradient, fast`` and ``gradient, perturbed``: relative differences of the loss
        and of the gradient at the weights of each step.
    """
    config = replace(
        form.model,
        dropout=form.model.dropout * run.dropout,
        photometry_dropout=form.model.photometry_dropout * run.dropout,
    )
    torch.manual_seed(WEIGHTS_SEED)
    encoder = ScaledEncoder(config, len(CLASSES))
    encoder.inputs.fit(samples.photometry, torch.from_numpy(samples.pixel_noise()))
    model = SimCLR(encoder, config.dim, hidden=form.projector).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=form.learning_rate)
    generator = torch.Generator().manual_seed(run.stream)
    torch.manual_seed(run.stream)
    if run.perturbed:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(_perturb(p, generator))
    found: dict[str, list[float]] = {"loss": []}
    with use_backend(run.backend):
        for tokens in _views(samples, num_steps, num_pairs, config.patch_size):
            if run.perturbed:
                tokens = _perturb(tokens, generator)
            others = {}
            if run.watched:
                with use_backend(FAST):
                    others["fast"] = _gradient(model, tokens, form.temperature)
                others["perturbed"] = _gradient(model, _perturb(tokens, generator), form.temperature)
            loss, gradient = _gradient(model, tokens, form.temperature)
            found["loss"].append(loss)
            for name, (its_loss, its_gradient) in others.items():
                off = (its_gradient - gradient).norm() / gradient.norm()
                found.setdefault(f"loss, {name}", []).append(abs(its_loss - loss) / loss)
                found.setdefault(f"gradient, {name}", []).append(off.item())
            optimizer.step()
    return {name: np.array(values) for name, values in found.items()}


def relative_difference(curve: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the largest and the root mean square relative difference of a curve to the reference."""
    off = np.abs(curve - reference) / np.abs(reference)
    return {"largest": float(off.max()), "rms": float(np.sqrt(np.mean(off**2)))}


def window_means(curves: np.ndarray) -> np.ndarray:
    """Return the mean loss in each of four windows of steps: (runs, steps) to (runs, windows)."""
    return np.stack([part.mean(axis=1) for part in np.array_split(curves, NUM_WINDOWS, axis=1)], axis=1)


def permutation_test(first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray]:
    """Test whether two groups of runs have the same mean loss in every window.

    Exact: all ways of dealing the runs into two groups are tried. The statistic of a window is the
    difference of the groups' means in units of the spread of all runs. The joint p-value takes the largest
    over windows, and so allows for there being several.

    Parameters
    ----------
    first, second : ndarray, shapes (n, W) and (m, W)
        Mean losses of independent runs in W windows.

    Returns
    -------
    joint : float
        Probability of a difference at least as large in any window if the groups do not differ.
    each : ndarray, shape (W,)
        The same of each window by itself.
    """
    every = np.concatenate([first, second])
    every = every - every.mean(axis=0)
    spread = every.std(axis=0)
    every = np.divide(every, spread, out=np.zeros_like(every), where=spread > 0)
    n, total = len(first), len(every)
    dealt = np.array([np.isin(np.arange(total), chosen) for chosen in combinations(range(total), n)])
    off = np.abs(dealt @ every * (1 / n + 1 / (total - n)))  # the deal as it was comes first
    # Equal deals differ by rounding.
    reached = off >= off[0] * (1 - 1e-9) - 1e-12
    joint = off.max(axis=1) >= off[0].max() * (1 - 1e-9) - 1e-12
    return float(joint.mean()), reached.mean(axis=0)


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Parameters
    ----------
    steps, dropout_steps : int
        Steps of a run without and with dropout.
    pairs : int
        Pairs a step.
    perturbed : int
        Runs that make the yardstick.
    streams : int
        Runs of each group with dropout.
    """

    steps: int
    dropout_steps: int
    pairs: int
    perturbed: int
    streams: int

    def runs(self, form: Form) -> dict[str, list[Run]]:
        """Return the runs of a form by the group they belong to."""
        groups = {
            "reference": [Run(REFERENCE, watched=True)],
            "fast": [Run(FAST)],
            "perturbed": [Run(REFERENCE, stream=k, perturbed=True) for k in range(self.perturbed)],
        }
        if form.model.dropout:
            # Streams of their own, so that all runs are independent also if backends shared their streams.
            for k, (group, backend, factor) in enumerate(
                (
                    ("reference, dropout", REFERENCE, 1.0),
                    ("fast, dropout", FAST, 1.0),
                    ("more dropout", REFERENCE, MORE_DROPOUT),
                )
            ):
                first = 1 + k * self.streams
                groups[group] = [Run(backend, factor, first + i) for i in range(self.streams)]
        return groups

    def num_steps(self, run: Run) -> int:
        """Return how many steps a run has."""
        return self.dropout_steps if run.dropout else self.steps


Curves = dict[str, list[dict[str, np.ndarray]]]
"""What the runs of each group gave."""


def _in_process(form: Form, run: Run, plan: Plan) -> tuple[dict[str, np.ndarray], float, dict[str, str]]:
    """Run in a worker of one thread; return also the seconds and the backends that ran."""
    torch.set_num_threads(1)
    samples = Samples(simulated_survey(), CLASSES, torch.device("cpu"), "training")
    start = time.monotonic()
    found = train(form, run, samples, plan.num_steps(run), plan.pairs)
    used = {name: "/".join(operator.used) for name, operator in operators().items() if operator.used}
    return found, time.monotonic() - start, used


def run_all(forms: Sequence[Form], plan: Plan, workers: int) -> tuple[dict[str, Curves], dict[str, str]]:
    """Return what each run of each form gave, and the backends that "auto" chose.

    Runs go to processes of one thread each; a fresh process for each, whose account of backends is the run's.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        jobs: dict[str, dict[str, list[Future[Any]]]] = {
            form.name: {
                group: [pool.submit(_in_process, form, run, plan) for run in runs]
                for group, runs in plan.runs(form).items()
            }
            for form in forms
        }
        curves: dict[str, Curves] = {}
        backends: dict[str, str] = {}
        for name, groups in jobs.items():
            curves[name] = {}
            for group, futures in groups.items():
                got = [future.result() for future in futures]
                curves[name][group] = [found for found, _, _ in got]
                if group.startswith("fast"):
                    backends |= got[0][2]
                print(f"{name}: {group}, {' '.join(f'{each:.0f}' for _, each, _ in got)} s", flush=True)
    return curves, backends


def losses(runs: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Return the curves of a group, shape (runs, steps)."""
    return np.stack([run["loss"] for run in runs])


def judge(groups: Curves) -> dict[str, Any]:
    """Return the numbers of one form, JSON-able."""
    (watched,) = groups["reference"]
    summary: dict[str, Any] = {
        "same weights": {
            f"{what}, {who}": {"largest": float(off.max()), "rms": float(np.sqrt(np.mean(off**2)))}
            for what in ("loss", "gradient")
            for who in ("fast", "perturbed")
            for off in [watched[f"{what}, {who}"]]
        },
        "free flight": {
            "fast": relative_difference(losses(groups["fast"])[0], watched["loss"]),
            "perturbed": [relative_difference(c, watched["loss"]) for c in losses(groups["perturbed"])],
        },
    }
    if "fast, dropout" in groups:
        base, fast, more = (
            window_means(losses(groups[name]))
            for name in ("reference, dropout", "fast, dropout", "more dropout")
        )
        summary["dropout"] = {
            "reference": {
                "mean loss by window": base.mean(axis=0).tolist(),
                "spread by window": base.std(axis=0, ddof=1).tolist(),
            },
            "smallest p possible": 2 / math.comb(2 * len(base), len(base)),
        }
        for name, means in (("fast", fast), ("more dropout", more)):
            joint, each = permutation_test(base, means)
            summary["dropout"][name] = {
                "p": joint,
                "p by window": each.tolist(),
                "difference by window": (means.mean(axis=0) - base.mean(axis=0)).tolist(),
            }
    return summary


def told(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the numbers of all forms as tables."""

    def row(*names: str, of: dict[str, float]) -> tuple[str, ...]:
        return (*names, f"{of['largest']:.1e}", f"{of['rms']:.1e}")

    same = [
        row(name, what, of=off)
        for name, summary in numbers.items()
        for what, off in summary["same weights"].items()
    ]
    free = [
        row(name, who, of=off)
        for name, summary in numbers.items()
        for who, off in [
            ("fast", summary["free flight"]["fast"]),
            *(("perturbed", each) for each in summary["free flight"]["perturbed"]),
        ]
    ]
    tested = [
        (
            name,
            group,
            f"{summary['dropout'][group]['p']:.3f}",
            " ".join(f"{p:.2f}" for p in summary["dropout"][group]["p by window"]),
            " ".join(f"{d:+.4f}" for d in summary["dropout"][group]["difference by window"]),
            " ".join(f"{s:.4f}" for s in summary["dropout"]["reference"]["spread by window"]),
        )
        for name, summary in numbers.items()
        if "dropout" in summary
        for group in ("fast", "more dropout")
    ]
    head = ("model", "of", "largest", "rms")
    return "\n".join(
        [
            "simulated objects; without dropout, relative differences to the reference",
            "at the same weights, all steps",
            table(head, same),
            "\nin free flight",
            table(head, free),
            "\nwith dropout, permutation test against the reference",
            table(("model", "group", "p", "p by window", "difference of means", "spread of runs"), tested),
        ]
    )


@styled
def draw(curves: dict[str, Curves], numbers: dict[str, dict[str, Any]], plan: Plan) -> Figure:
    """Draw curves overlaid, their differences, and the groups with dropout; a row a form."""
    figure = headed(
        "Loss curves: fast backends over the reference",
        f"SimCLR pre-training, {plan.pairs} pairs a step, the same weights and views; fp32.",
        13,
        1.1 + 2.9 * len(curves),
        simulated=True,
    )
    fast, other = METHOD_COLOURS[1], METHOD_COLOURS[4]
    for (name, groups), axes in zip(
        curves.items(), figure.subplots(len(curves), 3, squeeze=False), strict=True
    ):
        (watched,) = groups["reference"]
        left, middle, right = axes
        left.plot(watched["loss"], color=GREY, lw=3.2, alpha=0.45, label="reference")
        left.plot(losses(groups["fast"])[0], color=fast, lw=1.1, label="fast")
        left.set(title=f"{name}, no dropout", xlabel="step", ylabel="loss")
        left.legend()
        floor = 2e-8  # below one rounding: where equal losses are drawn
        for k, curve in enumerate(losses(groups["perturbed"])):
            off = np.abs(curve / watched["loss"] - 1)
            label = "one rounding, free flight" if k == 0 else None
            middle.semilogy(np.maximum(off, floor), color=GREY, lw=0.9, alpha=0.6, label=label)
        off = np.abs(losses(groups["fast"])[0] / watched["loss"] - 1)
        middle.semilogy(np.maximum(off, floor), color=fast, lw=1.1, label="fast, free flight")
        middle.semilogy(
            np.maximum(watched["loss, perturbed"], floor), ":", color=GREY, label="one rounding, same weights"
        )
        middle.semilogy(
            np.maximum(watched["loss, fast"], floor), ":", color=other, label="fast, same weights"
        )
        middle.set(title="relative difference of the loss", xlabel="step", ylim=(1e-8, 10))
        middle.legend(fontsize=7.5, loc="upper left", ncols=2)
        if "dropout" not in numbers[name]:
            right.set_axis_off()
            right.text(0.5, 0.5, "published without dropout", ha="center", color=GREY)
            continue
        for group, colour, label in (
            ("reference, dropout", GREY, "reference"),
            ("fast, dropout", fast, f"fast, p = {numbers[name]['dropout']['fast']['p']:.2g}"),
            (
                "more dropout",
                other,
                f"{MORE_DROPOUT:g}x dropout, p = {numbers[name]['dropout']['more dropout']['p']:.2g}",
            ),
        ):
            many = losses(groups[group])
            steps, mean, spread = np.arange(many.shape[1]), many.mean(axis=0), many.std(axis=0, ddof=1)
            right.plot(mean, color=colour, lw=1.3, label=label)
            right.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0)
        right.set(title=f"with dropout, {plan.streams} runs a group", xlabel="step", ylabel="loss")
        right.legend()
    return figure


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dropout-steps", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=16, help="pairs a step (16)")
    parser.add_argument("--perturbed", type=int, default=2, help="runs of the yardstick (2)")
    parser.add_argument("--streams", type=int, default=6, help="runs a group with dropout (6)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=Path("loss_curves"), help="folder of the results")
    options = parser.parse_args()
    plan = Plan(options.steps, options.dropout_steps, options.pairs, options.perturbed, options.streams)
    start = time.monotonic()
    curves, backends = run_all(FORMS, plan, options.workers)
    numbers = {name: judge(groups) for name, groups in curves.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(
        options.out / "loss_curves.json",
        {
            "simulated": True,
            "plan": asdict(plan),
            "seconds": round(time.monotonic() - start),
            "fast": backends,
            "results": numbers,
            "curves": {
                name: {group: losses(runs).tolist() for group, runs in groups.items()}
                for name, groups in curves.items()
            },
            "info": collect(),
        },
    )
    with atomic_file(options.out / "loss_curves.png") as temporary:
        draw(curves, numbers, plan).savefig(temporary, format="png", dpi=DPI)
    print(told(numbers))
    print(f"fast: {', '.join(f'{name} {who}' for name, who in backends.items())}")
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
