"""Fit the selection of the simulated survey to real features: ``python benchmarks/calibrate_simulation.py``.

Writes ``margformer_fast/data/tables/selection.json`` and ``conditions.json`` beside it, of the package
that is imported: ``PYTHONPATH=.`` for that of a checkout. To be run
again whenever the photometry, the renderer or the conditions change, since measured radii and noise change
with them. Only real objects of even objID are used; ``benchmarks/simulated_survey.py`` evaluates on the
odd ones.

The probability to be kept is unfolded by the rule of Richardson and Lucy: a pool is drawn, rendered and
measured with the present table; the ratio of real to simulated counts in cells of measured magnitude,
colours and radius is averaged over the pool objects in each cell of the true ones, and multiplies the
table, factor by factor. Objects are weighted to the real counts in bins of 0.1 mag of r, so the magnitudes
themselves are not fitted: Experiment 3 balanced them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from margformer_fast.cli import table
from margformer_fast.data import simulate, skymodel
from margformer_fast.data.margnet import read_margnet
from margformer_fast.data.photometry import asinh_flux
from margformer_fast.data.populations import EXPERIMENT3_EDGES
from margformer_fast.data.selection import SELECTION, Factor, Selection, from_json, read_selection, to_json
from margformer_fast.data.survey import CLASSES, SDSS, Survey
from margformer_fast.data.survey_tables import PROBABILITIES, TABLES
from margformer_fast.evaluation.likeness import read_magnitudes
from margformer_fast.files import atomic_file

draw_block = simulate._draw_block  # noqa: SLF001 - one block with all that is drawn, cuts not yet applied
EFFICIENCY = 0.01  # mean probability to be kept
TYPICAL_EXTINCTION = 0.08  # in r: the median
LISTED_U = 19.6  # where the table of labelled magnitudes ends, in the midst of rising counts
PRIOR = 4.0  # objects' worth of belief in the present table in each cell
NO_LIGHT = -0.2  # nanomaggy: objects fainter than this in u have no positive light in it
SIZE_FLOOR = 0.05  # arcsec: below it measured radii are noise


def start() -> dict[str, Selection]:
    """Return a selection that picks nothing, with shares by magnitude: what a fit from nothing begins with.

    The shares are partly inferred: of the published Experiment-1 stars, 27 % are given r > 20, as the
    overlaps of the published object lists suggest. Galaxies that are too large to pass the cut on
    compactness are mostly not drawn, which saves time and no more.
    """
    edges = np.array([14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 20.5, 21.0, 21.5, 22.0, 22.5, 23.0])
    shares = {
        "GALAXY": (0, 0, 0.002, 0.016, 0.045, 0.17, 0.34, 0.86, 0.71, 1.08, 0.68, 0.15),
        "QSO": (0, 0, 0.005, 0.02, 0.12, 0.22, 0.17, 0.20, 0.23, 0.18, 0.06, 0.015),
        "STAR": (0.03, 0.10, 0.17, 0.18, 0.13, 0.13, 0.08, 0.104, 0.095, 0.086, 0.043, 0.030),
    }
    faint = np.array([20.0, 20.5, 21.0, 21.5, 22.0, 22.5])

    def steps(low: float, high: float, step: float) -> np.ndarray:
        return np.round(np.arange(low, high + step / 2, step), 3)

    def flat(**axes: np.ndarray) -> Factor:
        return Factor(tuple(axes), tuple(axes.values()), np.ones([len(e) + 1 for e in axes.values()]))

    size = flat(r=faint, log_radius=steps(-1.2, 0.2, 0.1))
    size.accept[:, size.edges[1].searchsorted(0.0) :] = 0.02
    hues = np.concatenate([steps(-0.6, 1.0, 0.2), [1.3, 1.6], steps(2.0, 4.2, 0.2)])
    factors = {
        "GALAXY": (
            flat(r=faint, g_r=steps(0, 2.2, 0.2), r_i=steps(0, 1.3, 0.1)),
            flat(g_r=steps(0.2, 1.8, 0.4), u_g=steps(0, 3, 0.5)),
            size,
            # Strong lines move one colour up and the next one down.
            flat(r_i=steps(-0.4, 1.2, 0.2), i_z=steps(-0.6, 0.6, 0.15)),
            # Luminous red galaxies were looked for down to i = 19.9 and, later, z = 19.95.
            flat(i=steps(19.0, 21.6, 0.1)),
            flat(z=steps(18.6, 21.4, 0.1)),
        ),
        "STAR": (
            flat(r=np.array([16.0, 18.0, 19.0, *faint]), g_i=hues),
            flat(
                r=np.array([20.0]),
                g_i=np.append(steps(-0.6, 1.0, 0.2), 1.3),
                u_g=np.append(steps(-0.2, 1.2, 0.2), [1.5, 2.0]),
            ),
            flat(i=steps(19.0, 21.6, 0.1)),
            flat(z=steps(18.6, 21.4, 0.1)),
        ),
        "QSO": (),
    }
    return {kind: Selection(edges, np.array(shares[kind], float), factors[kind]) for kind in CLASSES}


def calibration_half(survey: Survey) -> Survey:
    """Return the real objects that may be fitted to: those of even objID."""
    return survey.select(survey.objid % 2 == 0)


def draw_pool(kind: str, count: int, seed: int) -> tuple[Survey, float]:
    """Draw objects of one class that pass the cuts of Experiment 3; also the share that does."""
    label, parts, drawn, kept = CLASSES.index(kind), [], 0, 0
    while kept < count:
        block = draw_block(seed, simulate.FAINT, label, len(parts), SDSS)
        passed = (block.compactness < 0.5) & (block.r_obs > 20) & (block.r_obs <= 23)
        drawn, kept = drawn + len(block), kept + int(passed.sum())
        parts.append(block.select(passed))

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    empty = replace(parts[0], stamps=parts[0].stamps)
    stamps = type(empty.stamps)((np.broadcast_to(np.float32(0), (kept, 5, 32, 32)),))
    pool = replace(
        empty,
        **{name: joined(name) for name in ("objid", "ra", "dec", "label", "features")},
        stamps=stamps,
        columns=columns,
    )
    return pool, kept / drawn


def observed(survey: Survey) -> dict[str, np.ndarray]:
    """Return the measured counterparts of what the selection goes by, by name, shape (N,) each."""
    magnitudes = np.stack([survey.feature("dered", band) for band in SDSS.bands], axis=1)
    magnitudes += survey.feature("extinction", "r")[:, None]
    radius = np.median([survey.feature("deVRad", band) for band in "gri"], axis=0)
    return skymodel.selected_by(magnitudes, np.zeros(len(survey)), np.maximum(radius, SIZE_FLOOR))


def balance(
    weight: np.ndarray, r: np.ndarray, wanted: np.ndarray, edges: np.ndarray = EXPERIMENT3_EDGES
) -> np.ndarray:
    """Scale weights so that each bin of 0.1 mag has as much as there are wanted objects in it."""
    place = np.clip(np.digitize(r, edges) - 1, 0, len(edges) - 2)
    have = np.bincount(place, weight, len(edges) - 1)
    want = np.histogram(wanted, edges)[0]
    return weight * (want / np.maximum(have, 1e-9))[place]


def unfold(selection: Selection, pool: Survey, real: Survey, steps: int) -> Selection:
    """Return the selection with its tables multiplied by what makes the pool like the real objects."""
    true = np.stack([pool.columns[f"true_{band}"] for band in SDSS.bands], axis=1)
    quantities = skymodel.selected_by(true, pool.columns["z"], pool.columns["true_radius"])
    seen, wanted = observed(pool), observed(real)
    cells = [factor.cells(quantities) for factor in selection.factors]
    seen_cells = [factor.cells(seen) for factor in selection.factors]
    want = [np.bincount(f.cells(wanted), minlength=f.accept.size) for f in selection.factors]
    gains = [np.ones(factor.accept.size) for factor in selection.factors]
    for _ in range(steps):
        for k, gain in enumerate(gains):
            weight = np.prod([g[cell] for g, cell in zip(gains, cells, strict=True)], axis=0)
            weight = balance(weight, pool.r_obs, real.r_obs)
            have = np.bincount(seen_cells[k], weight, len(gain))
            odds = ((want[k] + PRIOR) / (have + PRIOR)).clip(0.2, 5.0)[seen_cells[k]]
            here = np.bincount(cells[k], weight, len(gain))
            gain *= (np.bincount(cells[k], weight * odds, len(gain)) + PRIOR) / (here + PRIOR)
    factors = [
        replace(factor, accept=factor.accept * gain.reshape(factor.accept.shape))
        for factor, gain in zip(selection.factors, gains, strict=True)
    ]
    return replace(selection, factors=tuple(factors))


def candidates(kind: str, r: float, count: int = 40_000) -> dict[str, np.ndarray]:
    """Return the quantities that selection goes by, of objects of the flux-limited sky at one r."""
    rng = np.random.default_rng(int(1000 * r))
    sdss, drawn = skymodel._candidates(rng, kind, np.full(count, r), SDSS)  # noqa: SLF001
    return skymodel.selected_by(sdss, drawn["redshift"], drawn["radius"])


def scaled(selection: Selection, kind: str) -> Selection:
    """Scale the rows in r of the first factor so that the mean probability is `EFFICIENCY` in each.

    Given r, only ratios count. A higher efficiency would cut off the rarest of the wanted objects, a lower
    one only costs time.
    """
    first, *others = selection.factors
    accept = first.accept.copy()
    edges = first.edges[0]
    middles = np.concatenate([[edges[0] - 0.5], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 0.25]])
    for row, r in enumerate(middles):
        weight = np.prod([factor(candidates(kind, r)) for factor in (first, *others)], axis=0)
        low, high = 1e-6, 1e6
        for _ in range(60):
            middle = np.sqrt(low * high)
            low, high = (
                (middle, high) if np.minimum(middle * weight, 1).mean() < EFFICIENCY else (low, middle)
            )
        accept[row] = np.clip(accept[row] * middle, 1e-4, 100)
    return replace(selection, factors=(replace(first, accept=accept), *others))


def bright_stars(selection: Selection, path: Path) -> Selection:
    """Fit what stars brighter than r = 20 are picked by to every second star of a table of magnitudes.

    That is the rows of r < 20 of the factors in (r, g - i) and (r, g - i, u - g). The table ends at
    u = 19.6, and so do the candidates that are compared with it. A cell that neither reaches stays.
    """
    listed = read_magnitudes(path).within({"u": LISTED_U})
    listed = listed.select((listed.label == CLASSES.index("STAR")) & (listed.magnitude < 20))
    listed = listed.select(np.arange(len(listed)) % 2 == 0)
    reddening = TYPICAL_EXTINCTION * np.array(SDSS.extinction_ratios)
    reddening -= reddening[2]  # colours are dereddened on the observed r magnitude
    observed = np.stack([listed.observed(band) for band in SDSS.bands], axis=1)
    wanted = skymodel.selected_by(observed - reddening, np.zeros(len(listed)), np.zeros(len(listed)))
    rng = np.random.default_rng(0)
    drawn, _ = skymodel._candidates(rng, "STAR", np.repeat(listed.magnitude, 100), SDSS)  # noqa: SLF001
    drawn = drawn[(drawn + reddening)[:, 0] < LISTED_U]
    offered = skymodel.selected_by(drawn, np.zeros(len(drawn)), np.zeros(len(drawn)))
    factors = list(selection.factors)
    for _ in range(20):
        for k, factor in enumerate(factors[:2]):
            weight = np.prod([other(offered) for other in factors], axis=0)
            weight = balance(weight, offered["r"], listed.magnitude, np.arange(12.0, 20.01, 0.1))
            have = np.bincount(factor.cells(offered), weight, factor.accept.size)
            want = np.bincount(factor.cells(wanted), minlength=factor.accept.size)
            gain = ((want + PRIOR) / (have + PRIOR)).reshape(factor.accept.shape)
            faint = np.digitize(20.0, factor.edges[0])
            gain[faint:] = 1.0
            factors[k] = replace(factor, accept=factor.accept * gain)
    return scaled(replace(selection, factors=tuple(factors)), "STAR")


def passing(selection: Selection, kind: str, seed: int, blocks: int = 4) -> np.ndarray:
    """Return the share that passes the compactness cut in each bin of true r magnitude."""
    kept, drawn = np.zeros((2, len(selection.magnitude_share)))
    for number in range(blocks):
        for sample in (simulate.COMPACT, simulate.FAINT):
            block = draw_block(seed + 1, sample, CLASSES.index(kind), number, SDSS)
            place = np.digitize(block.columns["true_r"], selection.magnitude_edges) - 1
            place = np.clip(place, 0, len(kept) - 1)
            kept += np.bincount(place, block.compactness < 0.5, len(kept))
            drawn += np.bincount(place, minlength=len(drawn))
    return (kept + 2) / (drawn + 4)


def galaxy_shares(real: Survey, experiment1: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of Experiment-1 galaxies by magnitude: real ones beyond r = 20, and 13 % brighter."""
    member = np.isin(real.objid, experiment1) & (real.label == 0)
    shares = np.histogram(real.r_obs[member], edges)[0].astype(float)
    bright = edges[1:] <= 20
    # Of the galaxies in the test part of Experiment 1, 8,682 of 9,948 are fainter than 20; the others as
    # today.
    shares[bright] = np.array([0, 0, 0.002, 0.016, 0.045, 0.17])
    shares[bright] *= shares[~bright].sum() * (1266 / 8682) / shares[bright].sum()
    return shares / shares.sum()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--real", type=Path, required=True, help="folder with dnnx_sg_exp3.npy and companions"
    )
    parser.add_argument("--lists", type=Path, help="folder with objlist_exp1.npy, for shares by magnitude")
    parser.add_argument(
        "--magnitudes", type=Path, help="CSV file of u, g, r, i, z and class, for bright stars"
    )
    parser.add_argument("--objects", type=int, default=5000, help="of a class in a pool (5000)")
    parser.add_argument("--rounds", type=int, default=2, help="pools drawn one after another (2)")
    parser.add_argument("--steps", type=int, default=6, help="of the unfolding of a pool (6)")
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument(
        "--fresh", action="store_true", help="begin with no selection, not with the present one"
    )
    parser.add_argument("--classes", nargs="+", default=["GALAXY", "STAR"])
    options = parser.parse_args()
    real = calibration_half(read_margnet(options.real, 3, "sg", require_images=False))
    print(f"{len(real)} real objects of even objID")
    with atomic_file(TABLES) as path:
        path.write_text(json.dumps(conditions(real), separators=(",", ":")).replace("],", "],\n") + "\n")
    if options.fresh:
        fresh = start()
        for kind in ("GALAXY", "STAR"):
            fresh[kind] = scaled(fresh[kind], kind)
        write(fresh)
    rows = []
    for kind in options.classes:
        mine = real.select(real.label == CLASSES.index(kind))
        for number in range(options.rounds):
            selections = dict(read_selection())
            pool, share = draw_pool(kind, options.objects, options.seed + number)
            rows.append((kind, number, len(pool), 100 * share))
            print(*rows[-1], flush=True)
            selections[kind] = scaled(unfold(selections[kind], pool, mine, options.steps), kind)
            write(selections)
        if kind == "STAR" and options.magnitudes is not None:
            selections = dict(read_selection())
            selections[kind] = bright_stars(selections[kind], options.magnitudes)
            write(selections)
        if kind == "GALAXY" and options.lists is not None:
            selections = dict(read_selection())
            one = selections[kind]
            target = galaxy_shares(real, np.load(options.lists / "objlist_exp1.npy"), one.magnitude_edges)
            shares = target / passing(one, kind, options.seed)
            selections[kind] = replace(one, magnitude_share=shares / shares.sum())
            write(selections)
    print(table(("class", "round", "objects", "pass the cuts, percent"), rows, decimals=1))


def conditions(real: Survey) -> dict[str, object]:
    """Return ``tables/conditions.json``: PSF widths, extinction, and radii where there is no light."""
    stars = real.select(real.label == CLASSES.index("STAR"))
    width = np.stack([stars.feature("psffwhm", band) for band in SDSS.bands], axis=1)
    rank = (width.argsort(axis=0).argsort(axis=0) + 0.5) / len(width)
    scores = torch.special.ndtri(torch.from_numpy(rank)).numpy()
    dark = asinh_flux(real.magnitudes, SDSS)[:, 0] < NO_LIGHT
    no_light = np.quantile(real.feature("deVRad", "u")[dark], PROBABILITIES)
    extinction = np.quantile(real.feature("extinction", "r"), (0.0, *PROBABILITIES, 1.0))
    return {
        "made_by": "benchmarks/calibrate_simulation.py",
        "objects": {"psf": len(stars), "extinction": len(real), "no_light": int(dark.sum())},
        "probabilities": PROBABILITIES,
        "psf_fwhm": np.quantile(width, PROBABILITIES, axis=0).T.round(3).tolist(),
        "psf_correlation": np.corrcoef(scores.T).round(3).tolist(),
        "extinction_r": extinction.round(4).tolist(),
        "no_light_radius": [float(f"{v:.2g}") for v in no_light],
    }


def write(selections: dict[str, Selection]) -> None:
    """Write the table that the package reads, and have it read again."""
    contents = {"made_by": "benchmarks/calibrate_simulation.py", "classes": to_json(selections)}
    from_json(contents["classes"])
    with atomic_file(SELECTION) as path:
        path.write_text(json.dumps(contents, separators=(",", ":")).replace("],", "],\n") + "\n")
    read_selection.cache_clear()


if __name__ == "__main__":
    main()
