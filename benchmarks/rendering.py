"""How fast simulated stamps are drawn, without measuring them: ``python benchmarks/rendering.py``.

Prints objects a second of one core by class, processor time and time by the clock, for the survey as it is
drawn (galaxies of two components, neighbours, noise, blemishes). Both agree on an idle machine.
"""

from __future__ import annotations

import time

import numpy as np

from margformer_fast.cli import table
from margformer_fast.data import simulate
from margformer_fast.data.photometry import Measurement
from margformer_fast.data.survey import CLASSES, SDSS


def nothing(image: np.ndarray, *_: object, **__: object) -> Measurement:
    """Stand in for the measurement."""
    n = len(image)
    each = np.zeros((n, len(SDSS.bands)))
    return Measurement(
        features=np.zeros((n, SDSS.num_features)),
        flags=np.zeros(n, np.uint8),
        centre=np.zeros((n, 2)),
        flux=each,
        is_disc=np.zeros(n, bool),
        axis_ratio=each,
        has_light=each > 0,
    )


def main() -> None:
    """Time four blocks of each class and print the best."""
    simulate.measure = nothing  # type: ignore[assignment]
    rows = []
    for label, kind in enumerate(CLASSES):
        best = [np.inf, np.inf]
        for block in range(5):  # the first fills tables
            clocks = time.process_time(), time.perf_counter()
            image = simulate._draw_block(1, simulate.COMPACT, label, block, SDSS).stamps.decode()  # noqa: SLF001
            spent = time.process_time() - clocks[0], time.perf_counter() - clocks[1]
            if not np.isfinite(image).all():
                raise SystemExit(f"{kind}: a pixel is not finite")
            best = [min(pair) for pair in zip(best, spent, strict=True)]
        rows.append([kind, *(round(simulate.BLOCK / seconds) for seconds in best)])
    print(table(["class", "objects/s of processor time", "by the clock"], rows))


if __name__ == "__main__":
    main()
