"""One page of what was measured: ``python benchmarks/report.py RESULT.json [...] --out DIR``.

Takes files of ``pytest --benchmark-json`` and of ``gpu_suite.py``, and writes ``DIR/benchmarks.html``, which
needs no other file. What was not measured is left out, not guessed.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from margformer_fast.cli import run
from margformer_fast.errors import DataError
from margformer_fast.evaluation.html_parts import document, pairs, picture, table
from margformer_fast.evaluation.style import DPI, GREY, INK, METHOD_COLOURS, NamedFigure, styled
from margformer_fast.files import atomic_file, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = {"pairs": "pairs/s", "images": "images/s", "gflop": "GFLOP/s", "gigabytes": "GB/s"}
"""Counts that a benchmark may give of one round, and the rate that each becomes."""

# Precisions that the fp32 units multiply in.
AS_FP32 = ("fp32", "ieee")
ROOF = "roof"
MOST_ON_A_LINEAR_AXIS = 200


@dataclass(frozen=True)
class Timing:
    """One benchmark: times in seconds (of rounds: median, quartiles, shortest), and whatever else it told."""

    group: str
    way: str
    median: float
    low: float
    high: float
    best: float
    rounds: int
    extra: dict[str, Any] = field(default_factory=dict)

    def rate(self, count: str) -> float | None:
        """Return a count a second, None if the benchmark does not give it."""
        return self.extra[count] / self.median if count in self.extra else None


@dataclass(frozen=True)
class Results:
    """The benchmarks of one file, and the machine they ran on."""

    name: str
    date: str
    info: dict[str, Any]
    load: dict[str, list[float]]
    num_cpus: int | None
    timings: tuple[Timing, ...]

    def roof(self, name: str) -> float | None:
        """Return the best rate that a roof benchmark of the same file reached in any round."""
        for timing in self.timings:
            if timing.extra.get("roof") == name:
                return timing.extra["gigabytes" if name == "gigabytes" else "gflop"] / timing.best
        return None

    def share(self, timing: Timing) -> float | None:
        """Return the share of the roof that a benchmark reached; None if either was not measured."""
        if "gigabytes" in timing.extra:
            rate, roof = timing.rate("gigabytes"), self.roof("gigabytes")
        else:
            precision = timing.extra.get("precision", "")
            kind = "fp32" if precision in AS_FP32 else precision
            rate, roof = timing.rate("gflop"), self.roof(f"gflop_{kind}")
        return rate / roof if rate is not None and roof is not None else None

    def groups(self) -> dict[str, list[Timing]]:
        """Return the benchmarks by group, the roof last."""
        found: dict[str, list[Timing]] = {}
        for timing in self.timings:
            found.setdefault(timing.group, []).append(timing)
        return dict(sorted(found.items(), key=lambda item: item[0] == ROOF))

    def told_load(self) -> str:
        """Return in a sentence whether the machine was quiet."""
        if "start" not in self.load or not self.num_cpus:
            return "Whether the machine was quiet was not recorded: read ratios with care."
        start, end = self.load["start"][0], self.load["end"][0]
        seen = f"load average {start:.1f} at the start, {end:.1f} at the end, {self.num_cpus} processors"
        if start <= 0.25 * self.num_cpus and end <= 1.25 * self.num_cpus:
            return f"The machine was quiet ({seen})."
        return f"The machine had other work ({seen}): absolute times are too long; read ratios, with care."

    @property
    def is_quiet(self) -> bool:
        return self.told_load().startswith("The machine was quiet")


def read(path: Path) -> Results:
    """Read a file of either kind.

    Raises
    ------
    DataError
        If it is neither, or holds no benchmark.
    """
    found = read_json(path)
    listed = found.get("benchmarks") if isinstance(found, dict) else None
    if not listed:
        raise DataError(
            "holds no benchmarks",
            where=path,
            expected="a file of `pytest --benchmark-only --benchmark-json` or of gpu_suite.py",
        )
    if "machine_info" in found:
        machine = found["machine_info"]
        timings = [
            (each, each["stats"], each["stats"]["q1"], each["stats"]["q3"], each["extra_info"])
            for each in listed
        ]
        ways = [_way(each["name"], each.get("params") or {}) for each in listed]
        return Results(
            path.name,
            found["datetime"][:10],
            machine.get("margformer_fast", {}),
            machine.get("load_average", {}),
            machine.get("num_cpus"),
            tuple(
                Timing(each["group"] or "others", way, s["median"], q1, q3, s["min"], s["rounds"], extra)
                for (each, s, q1, q3, extra), way in zip(timings, _shortened(listed, ways), strict=True)
            ),
        )
    ways = [_way(each["name"], {}) for each in listed]
    known = {"name", "group", "median_s", "iqr_s", "rounds"}
    return Results(
        path.name,
        found["date"],
        found["info"],
        {},
        None,
        tuple(
            Timing(
                each["group"] or "others",
                way,
                each["median_s"],
                each["median_s"] - each["iqr_s"] / 2,
                each["median_s"] + each["iqr_s"] / 2,
                each["median_s"],
                each["rounds"],
                {key: value for key, value in each.items() if key not in known},
            )
            for each, way in zip(listed, _shortened(listed, ways), strict=True)
        ),
    )


def _way(name: str, params: dict[str, Any]) -> dict[str, str]:
    """Return what a benchmark was run with, by name; all of it under one name where that is not known."""
    if params:
        return {key: str(value) for key, value in params.items()}
    inside = re.search(r"\[(.*)\]$", name)
    stem = name.partition("[")[0].removeprefix("bench_").replace("_", " ")
    return {"": inside[1] if inside else stem}


def _shortened(listed: list[dict[str, Any]], ways: list[dict[str, str]]) -> list[str]:
    """Return labels without what all benchmarks of the group have in common."""
    labels = []
    for each, way in zip(listed, ways, strict=True):
        beside = [w for e, w in zip(listed, ways, strict=True) if e["group"] == each["group"]]
        telling = [v for key, v in way.items() if len({w.get(key) for w in beside}) > 1]
        labels.append(", ".join(telling or way.values()))
    return labels


def baseline_of(timings: Sequence[Timing]) -> Timing:
    """Return what the others of a group are compared with: what says so of itself, or else the slowest."""
    flagged = [timing for timing in timings if timing.extra.get("baseline")]
    return flagged[0] if flagged else max(timings, key=lambda timing: timing.median)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return (
                f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
            )
    return f"{seconds / 1e-6:.3g} &micro;s"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def group_table(results: Results, timings: Sequence[Timing]) -> str:
    """Return the table of a group, fastest first, with the columns that it has numbers for."""
    base = baseline_of(timings)
    is_roof = timings[0].group == ROOF
    rates = [count for count in RATES if any(count in timing.extra for timing in timings)]
    has_share = not is_roof and any(results.share(timing) is not None for timing in timings)
    has_memory = any("kept_megabytes" in timing.extra for timing in timings)
    head = ["", "median", "IQR", "rounds", *["times as fast"] * (not is_roof)]
    head += [RATES[count] for count in rates]
    head += ["share of roof"] * has_share + ["kept for backward, MB"] * has_memory
    body = []
    for timing in sorted(timings, key=lambda timing: timing.median):
        is_base = timing is base and not is_roof
        share = results.share(timing)
        cells = [
            escape(timing.way) + (' <span class="small">(baseline)</span>' if is_base else ""),
            _time(timing.median),
            _time(timing.high - timing.low),
            str(timing.rounds),
            *[f"{base.median / timing.median:.3g}"] * (not is_roof),
            *(_number(timing.rate(count)) for count in rates),
            *["" if share is None else f"{100 * share:.0f}&nbsp;%"] * has_share,
            *[_number(timing.extra.get("kept_megabytes"))] * has_memory,
        ]
        body.append(("minor" if is_base else "", cells))
    return table(head, body)


@styled
def draw(timings: Sequence[Timing]) -> Figure:
    """Draw how many times as fast as the baseline each way is; whiskers are the quartiles of its times."""
    from matplotlib.figure import Figure

    base = baseline_of(timings)
    ordered = sorted(timings, key=lambda timing: -timing.median)
    figure = Figure(figsize=(9, 0.75 + 0.36 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    ratio = np.array([base.median / timing.median for timing in ordered])
    low = np.array([base.median / timing.high for timing in ordered])
    high = np.array([base.median / max(timing.low, 1e-12) for timing in ordered])
    colours = [GREY if timing is base else METHOD_COLOURS[0] for timing in ordered]
    axes.barh(range(len(ordered)), ratio, height=0.62, color=colours)
    # Whiskers of quartiles that miss the median of few rounds would have a negative length.
    whiskers = np.maximum([ratio - low, high - ratio], 0)
    axes.errorbar(
        ratio, range(len(ordered)), xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1.1, capsize=3
    )
    for y, (value, top) in enumerate(zip(ratio, np.maximum(high, ratio), strict=True)):
        axes.annotate(
            f"{value:.3g}x", (top, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.axvline(1, color=GREY, lw=0.8, ls=":")
    if ratio.max() / ratio.min() > MOST_ON_A_LINEAR_AXIS:
        axes.set_xscale("log")
        axes.set_xlim(ratio.min() / 2, ratio.max() * 3)
    else:
        axes.set_xlim(0, max(ratio.max(), high.max()) * 1.12)
    axes.set_yticks(range(len(ordered)), [timing.way for timing in ordered])
    axes.grid(False, axis="y")
    axes.set_xlabel(f"times as fast as: {base.way}")
    return figure


def _title(group: str) -> str:
    return group[:1].upper() + group[1:]


def _png(figure: Figure) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=DPI)
    return held.getvalue()


def _machine(results: Results) -> str:
    machine = results.info.get("machine", {})
    gpus = results.info.get("gpus") or ["none"]
    chosen = {
        name: next(
            (who for who, why in devices["cuda" if gpus != ["none"] else "cpu"].items() if not why), "-"
        )
        for name, devices in results.info.get("operators", {}).items()
    }
    shown = {name: machine[name] for name in ("processor", "threads", "python") if name in machine}
    versions = {"margformer_fast": results.info.get("package", {}).get("version", "unknown")}
    columns = [
        pairs("Machine", {**shown, "GPUs": ", ".join(gpus)}),
        pairs("Versions", {**versions, **results.info.get("libraries", {})}),
        pairs("What auto chooses", chosen),
    ]
    return f'<div class="columns">{"".join(columns)}</div>'


def _section(results: Results, number: int) -> list[str]:
    processor = results.info.get("machine", {}).get("processor", "an unknown processor")
    on = ", ".join(results.info.get("gpus") or [processor])
    quiet = "small" if results.is_quiet else "note"
    parts = [
        f"<h2>{escape(on)}, {escape(results.date)}</h2>",
        f'<p class="{quiet}">{escape(results.told_load())} From {escape(results.name)}.</p>',
    ]
    for k, (name, timings) in enumerate(results.groups().items()):
        parts += [f"<h3>{escape(_title(name))}</h3>", group_table(results, timings)]
        if name == ROOF or len(timings) < 2:
            continue
        figure = NamedFigure(
            f"group-{number}-{k}",
            _title(name),
            "Bars: median of the baseline over median of each way. Whiskers: quartiles of its rounds.",
            draw(timings),
        )
        parts.append(picture(figure, _png(figure.figure)))
    return [*parts, "<h3>How it was measured</h3>", _machine(results)]


def lead(every: Sequence[Results]) -> str:
    """Return what was found, in a line for each group with a baseline of its own."""
    found = []
    for results in every:
        for name, timings in results.groups().items():
            base = baseline_of(timings)
            best = min(timings, key=lambda timing: timing.median)
            if base.extra.get("baseline") and best is not base:
                found.append(
                    f"<li>{escape(_title(name))}: <b>{base.median / best.median:.3g} times</b> "
                    f"as fast as &ldquo;{escape(base.way)}&rdquo; ({escape(best.way)}; {_time(best.median)} "
                    f"against {_time(base.median)}).</li>"
                )
    return f"<ul>{''.join(found)}</ul>" if found else ""


def build(every: Sequence[Results]) -> str:
    """Return the page."""
    title = "Benchmarks"
    heading = (
        f'<header><div class="kicker">margformer_fast</div><h1>{title}</h1>'
        '<p class="lead">Each table compares ways to do one thing, timed in one run on one machine, after '
        "their results were found to agree. Read ratios; absolute times belong to the machine.</p></header>"
    )
    parts = [heading, lead(every)]
    for number, results in enumerate(every):
        parts += _section(results, number)
    parts.append(
        '<p class="foot">IQR: distance of the quartiles of the rounds. Share of roof: rate over the best of '
        "a large matrix product in the same precision (or of a plain copy), measured in the same run; "
        "operations are counted as the task needs them, whatever a way really does. Kept for backward: what "
        "autograd holds between forward and backward.</p>"
    )
    return document(title, parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the page (here)")
    options = parser.parse_args(arguments)
    page = build([read(path) for path in options.results])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "benchmarks.html"
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run(main))
