"""What was classified, drawn over the image that it was found on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.sdss.files import find_fields
from ..data.sdss.frames import read_frame
from ..errors import DataError
from ..evaluation.style import CLASS_COLOURS, DPI
from ..files import atomic_file
from .outputs import Rows

_RADIUS = 9.0  # pixels


def draw_field(path: Path, folder: Path, rows: Rows, *, title: str) -> None:
    """Draw classes over the r frame of a field.

    Parameters
    ----------
    path : Path
        Image file to write (PNG, PDF, ...).
    folder : Path
        With the frames of one field.
    rows : dict of str to ndarray
        Results, with ``ra``, ``dec``, ``label`` and probabilities. A ring is solid where the most probable
        class has more than 90 %, else dashed.
    title : str
        Heading.

    Raises
    ------
    DataError
        If the folder holds more than one field.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    fields = find_fields(folder)
    if len(fields) != 1:
        raise DataError(f"holds {len(fields)} fields", where=folder, expected="one, to draw it")
    frame = read_frame(fields[0].frames["r"])
    x, y = frame.pixel(rows["ra"], rows["dec"])
    probability = np.max([values for name, values in rows.items() if name.startswith("p_")], axis=0)
    height, width = frame.image.shape
    figure = Figure(figsize=(11, 11 * height / width + 0.9), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    known = frame.image[np.isfinite(frame.image)]
    noise = 1.4826 * float(np.median(np.abs(known - np.median(known))))
    shown = np.arcsinh(np.nan_to_num(frame.image) / (3 * noise))
    axes.imshow(shown, cmap="gray_r", origin="lower", vmin=-0.5, vmax=np.arcsinh(60), interpolation="nearest")
    handles = []
    for name, colour in CLASS_COLOURS.items():
        chosen = np.flatnonzero(rows["label"] == name)
        for k in chosen:
            style = "-" if probability[k] > 0.9 else (0, (2, 1.5))
            axes.add_patch(Circle((x[k], y[k]), _RADIUS, fill=False, ec=colour, lw=1.2, ls=style))
        if len(chosen):
            handles.append(
                Line2D(
                    [], [], marker="o", mfc="none", mec=colour, ls="", label=f"{name.lower()} ({len(chosen)})"
                )
            )
    axes.set(xlim=(0, width), ylim=(0, height), xlabel="column (pixels)", ylabel="row (pixels)")
    axes.set_title(
        f"{title}\nfield {fields[0].name}, r; dashed: most probable class has less than 90 %", fontsize=11
    )
    axes.legend(handles=handles, loc="upper right", framealpha=0.9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png")
