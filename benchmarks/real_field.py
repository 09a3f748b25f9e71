"""Do models of simulated objects agree with SDSS on a real field?

``python benchmarks/real_field.py STORE MODEL ...``, with a store of ``margformer_fast.data ingest`` and
models of two classes, each a run's ``seed-N/model``, or tables that ``margformer_fast.classify`` wrote.
SDSS's own type (``objc_type``) is only compared with, brighter than r = 20 and fainter, beside the r-band
separator. Saturated objects have no photometry to speak of: columns are with and without them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table

from margformer_fast import cli
from margformer_fast.data.store import read_store
from margformer_fast.data.survey import CLASSES, TASKS
from margformer_fast.evaluation.baselines import survey_separator
from margformer_fast.learning.checkpoint import load_model
from margformer_fast.learning.classify import predict
from margformer_fast.learning.samples import Samples

SATURATED = 0x40000
"""SATUR of objc_flags: the object has a saturated pixel in a band."""
RANGES = {"r < 20": (-np.inf, 20.0), "20 <= r < 22": (20.0, 22.0)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("model", type=Path, nargs="+")
    options = parser.parse_args()
    survey = read_store(options.store)
    survey = survey.select(np.isin(survey.label, [CLASSES.index(name) for name in TASKS["sg"]]))
    is_star = survey.label == CLASSES.index("STAR")
    clear = (survey.columns["objc_flags"].astype(np.int64) & SATURATED) == 0
    samples = Samples(survey, TASKS["sg"], torch.device("cpu"), "field")
    extended = survey_separator(survey.columns["psfmag_r"], survey.columns["modelmag_r"])
    found = {"psfMag - modelMag in r": ~extended}
    for path in options.model:
        if path.is_file():
            table = Table.read(path)
            label = dict(zip(table["objid"].tolist(), np.char.strip(table["label"].astype(str)), strict=True))
            found[str(path)] = np.array([label[objid] == "STAR" for objid in survey.objid.tolist()])
            continue
        probability, _ = predict(load_model(path)[0], samples)
        found[str(path)] = probability.argmax(1) == TASKS["sg"].index("STAR")
    rows = []
    for name, star in found.items():
        for place, (low, high) in RANGES.items():
            inside = (survey.r_obs >= low) & (survey.r_obs < high)
            agrees = ((star == is_star)[chosen] for chosen in (inside, inside & clear))
            cells = [f"{100 * each.mean():.1f} ({each.sum()} of {len(each)})" for each in agrees]
            rows.append((name, place, *cells))
    print(cli.table(("agreement with objc_type, %", "", "all", "not saturated"), rows))
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(main())
