"""How figures look: colours, headings, legends and files, the same in all of them.

Figures belong to no global state: nothing is left open, no backend is chosen, and matplotlib's settings are
as they were. Colours are safe for colour-blind readers (classes: Okabe & Ito 2008; methods: Tol 2021,
"muted"); methods also differ in marker and dash.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_file
from .results import RunHeader

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
CLASS_COLOURS = {"GALAXY": "#D55E00", "QSO": "#009E73", "STAR": "#0072B2"}
SPARE_CLASS_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9")
METHOD_COLOURS = (
    *("#332288", "#CC6677", "#999933", "#AA4499", "#44AA99"),
    *("#882255", "#117733", "#88CCEE", "#DDAA33", "#555555"),
)
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<")
METHOD_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (5, 1.5, 1.2, 1.5)),
    "-",
    "--",
    ":",
    "-.",
    "-",
    "--",
)
INK, GREY, PALE = "#222222", "#6b7280", "#d1d5db"
PM = "\u00b1"

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class NamedFigure:
    """A figure with its file name and its one-sentence caption."""

    stem: str
    title: str
    caption: str
    figure: Figure


def styled(make: Callable[..., Any]) -> Callable[..., Any]:
    """Run `make` with the style of this module, whatever the user's settings, and put those back."""

    @wraps(make)
    def run(*args: Any, **kwargs: Any) -> Any:
        from matplotlib import style

        with style.context(["default", _STYLE]):
            return make(*args, **kwargs)

    return run


def class_colour(name: str) -> str:
    """Return the colour of a class, the same in every figure."""
    return CLASS_COLOURS.get(name) or SPARE_CLASS_COLOURS[sum(name.encode()) % len(SPARE_CLASS_COLOURS)]


def method_look(index: int) -> dict[str, Any]:
    """Return colour, marker and dash of the method with this index."""
    return {
        "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
        "marker": METHOD_MARKERS[index % len(METHOD_MARKERS)],
        "linestyle": METHOD_DASHES[index % len(METHOD_DASHES)],
    }


def run_figure(header: RunHeader, title: str, detail: str, width: float, height: float) -> Figure:
    """Return an empty figure of a run: as :func:`headed`, with what was tested under the title."""
    return headed(title, f"{header.title}. {detail}", width, height, simulated=header.simulated)


def headed(title: str, detail: str, width: float, height: float, *, simulated: bool) -> Figure:
    """Return an empty figure of `width` x `height` inches with its heading, and a badge if simulated.

    To be called, and the figure filled, by a function that is :func:`styled`.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # The heading stands above the rectangle that the panels are laid out in.
    room = (0.006, 0.01, 0.988, 0.98 - 0.62 / height)
    figure = Figure(
        figsize=(width, height), layout=ConstrainedLayoutEngine(rect=room, w_pad=0.08, h_pad=0.06)
    )
    figure.text(0.012, 1 - 0.13 / height, title, va="top", fontsize=13, fontweight="bold")
    figure.text(0.012, 1 - 0.40 / height, detail, va="top", color=GREY, fontsize=9)
    if simulated:
        badge = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#fff7ed",
            "edgecolor": "#c2410c",
            "linewidth": 0.8,
        }
        figure.text(
            0.988,
            1 - 0.15 / height,
            "simulated data",
            ha="right",
            va="top",
            fontsize=9,
            color="#9a3412",
            bbox=badge,
        )
    return figure


def legend_below(figure: Figure, panels: Iterable[Axes], columns: int = 4) -> None:
    """Put one legend of everything labelled in `panels` under the figure."""
    labelled: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    if labelled:
        ncols = min(columns, len(labelled))
        figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=ncols)


def methods_below(figure: Figure, names: Sequence[str], columns: int = 4) -> None:
    """Put one legend of the methods under the figure, for panels whose own legends say something else."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **method_look(index), ms=5) for index in range(len(names))]
    ncols = min(columns, len(names))
    figure.legend(handles, list(names), loc="outside lower center", ncols=ncols)


def percent_axes(*axes: Any) -> None:
    """Label axes that run from 0 to 1 in percent, with as many digits as each tick needs."""
    from matplotlib.ticker import FuncFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


@styled
def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return a figure as PNG, the same bytes each time for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path, dpi: int = DPI) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    data = png(figure, dpi)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
