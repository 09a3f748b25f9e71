"""A simulated SDSS-like survey: stamps are drawn, and everything else is measured from their pixels.

Objects come in blocks of `BLOCK` of one class and sample. Each block has its own counter-based random
stream, keyed by the seed and the block, and so have the fields: the survey depends on the seed alone, not
on how it is cut into chunks, and a smaller survey is the beginning of a larger one. What fails the cuts on
measured values is dropped and more is drawn, until the counts are met.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ..errors import ConfigError
from ..ops.stamps import Stamps
from .photometry import measure
from .profiles import DoubleGaussian, draw_elliptical, draw_round, profile_weights
from .skymodel import Fields, Neighbours, Sources, draw_fields, draw_neighbours, draw_sky, draw_sources
from .survey import CLASSES, SDSS, Survey, SurveyProfile

BLOCK = 1024
"""Objects drawn from one random stream. Part of what a seed means: changing it changes every survey."""

CHUNK = 3 * 512
"""Objects in a chunk that is handed out; it changes nothing but the memory needed."""

COMPACT, FAINT = 1, 2
"""Values of the column ``sample``: drawn for Experiment 1 (compact) or 2 (faint and compact)."""

MAX_COMPACTNESS = 0.5
MIN_FAINT_MAGNITUDE = 20.0
SIMULATED_SKY_VERSION = 15

_BRIGHTEST = {COMPACT: 14.0, FAINT: 18.8}  # no object of r < 18.8 has a mean magnitude beyond 20
_FIELDS_PER_BLOCK = 64
_MIDDLE_SCATTER = 0.10  # pixels: error of the position at which all bands are cut
_ASTROMETRY_SCATTER = 0.03  # pixels: error of the registration of a band
_FIELD_STREAM = 1 << 60
_MAX_BLOCKS = 1 << 31

# Gaussians of a galaxy of unit half-light radius: sigma from 0.1 to 2.7.
_VARIANCES = 0.01 * 3.0 ** np.arange(7)
_SPHEROID, _DISC = (
    (weights / weights.sum(axis=1))[0]
    for weights in (
        profile_weights(name, np.ones(1), _VARIANCES) for name in ("de Vaucouleurs", "exponential")
    )
)


class Reporter(Protocol):
    """What is told how far the work is."""

    def update(self, n: int) -> None:
        """Count `n` more objects."""


def object_id(sample: int, label: int, block: int, index: np.ndarray) -> np.ndarray:
    """Return identifiers of simulated objects, int64, unique within a seed.

    The layout is that of an SDSS objID with a sky version no real object has: bits 59-62 hold 15, bits
    44-45 the sample, 42-43 the class, 10-41 the block and 0-9 the place in the block.
    """
    head = SIMULATED_SKY_VERSION << 59 | sample << 44 | label << 42 | block * BLOCK
    return np.asarray(index, np.int64) + head


def _stream(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


def _flux(magnitudes: np.ndarray, extinction: np.ndarray, profile: SurveyProfile) -> np.ndarray:
    """Observed flux of sources whose r is observed and whose colours are dereddened, shape (..., N, B)."""
    reference = profile.bands.index(profile.reference_band)
    observed = magnitudes + extinction - extinction[:, reference, None]
    return 10 ** (0.4 * (profile.zero_point - observed))


def _draw_objects(
    sources: Sources, flux: np.ndarray, position: np.ndarray, psf: DoubleGaussian, profile: SurveyProfile
) -> np.ndarray:
    """Draw the objects themselves, shape (N, B, S, S); `position` (N, B, 2) is row and column in pixels."""
    size, scale = profile.stamp_size, profile.pixel_scale_arcsec
    n, bands = flux.shape
    image = np.zeros((n, bands, size, size), np.float32)
    point, extended = np.flatnonzero(sources.point > 0), np.flatnonzero(sources.point < 1)
    light = sources.spheroid[:, None] * _SPHEROID + (1 - sources.spheroid[:, None]) * _DISC
    stretch = ((sources.radius[:, None] / scale) ** 2 * _VARIANCES).astype(np.float32)
    for band in range(bands):
        blur = ((psf.sigma[:, band] / scale) ** 2).astype(np.float32)
        y, x = position[:, band].T.astype(np.float32)
        k = point
        weight = (psf.share[k, band] * (flux[k, band] * sources.point[k])[:, None]).astype(np.float32)
        image[k, band] = draw_round(size, x[k], y[k], blur[k], weight)
        k = extended
        weight = (light[k] * (flux[k, band] * (1 - sources.point[k]))[:, None]).astype(np.float32)
        core, wing = psf.share[k, band, :, None].astype(np.float32).swapaxes(0, 1)
        shape = sources.axis_ratio[k].astype(np.float32), sources.angle[k].astype(np.float32)
        image[k, band] += draw_elliptical(size, x[k], y[k], blur[k, :1], stretch[k], core * weight, *shape)
        # Under the wing of the PSF, twice as wide as its core, the shape of a compact galaxy does not show.
        image[k, band] += draw_round(size, x[k], y[k], blur[k, 1:] + stretch[k], wing * weight)
    return image


def _add_neighbours(
    image: np.ndarray,
    neighbours: Neighbours,
    flux: np.ndarray,
    position: np.ndarray,
    psf: DoubleGaussian,
    profile: SurveyProfile,
) -> None:
    """Add the neighbours to `image` in place; arguments as for `_draw_objects`."""
    size, scale = profile.stamp_size, profile.pixel_scale_arcsec
    for slot, present in enumerate(neighbours.present):
        k = np.flatnonzero(present)
        # Half the light of a round Gaussian lies within sqrt(2 ln 2) sigma.
        extent = (neighbours.radius[slot, k, None] / scale) ** 2 / (2 * np.log(2))
        for band in range(image.shape[1]):
            y, x = (position[k, band] + neighbours.offset[slot, k] / scale).T.astype(np.float32)
            variance = (psf.sigma[k, band] / scale) ** 2 + extent
            weight = psf.share[k, band] * flux[slot, k, band, None]
            image[k, band] += draw_round(size, x, y, variance.astype(np.float32), weight.astype(np.float32))


def _draw_block(seed: int, sample: int, label: int, block: int, profile: SurveyProfile) -> Survey:
    """Draw and measure one block of objects, cuts not yet applied."""
    kind = CLASSES[label]
    fields: Fields = draw_fields(
        _stream(seed, _FIELD_STREAM | block), block * _FIELDS_PER_BLOCK, _FIELDS_PER_BLOCK
    )
    rng = _stream(seed, sample << 44 | label << 42 | block)
    sources = draw_sources(rng, kind, BLOCK, _BRIGHTEST[sample])
    neighbours = draw_neighbours(rng, BLOCK)
    at = np.arange(BLOCK) % _FIELDS_PER_BLOCK
    bands = len(profile.bands)

    extinction = fields.extinction_r[at, None] * np.array(profile.extinction_ratios)
    # A stamp is whole pixels of a frame, and frames are not aligned: each band has its own offset.
    registration = rng.uniform(-0.5, 0.5, (BLOCK, bands, 2))
    position = (profile.stamp_size - 1) / 2 + registration
    position += _MIDDLE_SCATTER * rng.standard_normal((BLOCK, 1, 2))
    position += _ASTROMETRY_SCATTER * rng.standard_normal((BLOCK, bands, 2))
    true_psf = fields.true_psf[at]
    image = _draw_objects(
        sources, _flux(sources.magnitudes, extinction, profile), position, true_psf, profile
    )
    around = _flux(neighbours.magnitudes, extinction, profile)
    _add_neighbours(image, neighbours, around, position, true_psf, profile)
    # Photon noise of the objects on top of that of the sky; counts are large enough to be Gaussian.
    noise = np.sqrt(image / fields.gain[at, :, None, None] + fields.noise[at, :, None, None] ** 2)
    image += draw_sky(rng, BLOCK)[:, :, None, None]
    image += noise.astype(np.float32) * rng.standard_normal(image.shape, np.float32)

    found = measure(image, fields.psf[at], fields.noise[at], extinction, profile, registration=registration)
    side = rng.random((BLOCK, 2))
    reference = profile.bands.index(profile.reference_band)
    return Survey(
        profile=profile,
        objid=object_id(sample, label, block, np.arange(BLOCK)),
        ra=fields.ra[at] + 0.2 * side[:, 0],
        dec=fields.dec[at] + 0.14 * side[:, 1],
        label=np.full(BLOCK, label, np.int8),
        features=found.features,
        stamps=Stamps((image,)),
        simulated=True,
        columns={
            "sample": np.full(BLOCK, sample, np.int16),
            "field": (block * _FIELDS_PER_BLOCK + at).astype(np.int32),
            "z": sources.redshift.astype(np.float32),
            "flags": found.flags.astype(np.int16),
            "true_r": sources.magnitudes[:, reference].astype(np.float32),
            "true_radius": sources.radius.astype(np.float32),
            "true_point": sources.point.astype(np.float32),
            "true_neighbours": neighbours.present.sum(axis=0).astype(np.int16),
        },
    )


def _passes(survey: Survey, sample: int) -> np.ndarray:
    """Apply the published cuts to measured values."""
    compact = survey.compactness < MAX_COMPACTNESS
    return compact & (survey.magnitudes.mean(axis=1) > MIN_FAINT_MAGNITUDE) if sample == FAINT else compact


class _Supply:
    """Objects of one class and sample in order, as many as are asked for."""

    def __init__(self, seed: int, sample: int, label: int, profile: SurveyProfile) -> None:
        self._seed, self._sample, self._label, self._profile = seed, sample, label, profile
        self._block = 0
        self._waiting: Survey | None = None
        self.kept = 0
        self._last = -1

    @property
    def drawn(self) -> int:
        """Objects drawn up to the last one kept."""
        return self._last + 1

    def take(self, count: int) -> list[Survey]:
        """Return the next `count` objects as parts of blocks."""
        parts = []
        while count:
            if self._waiting is None:
                block = _draw_block(self._seed, self._sample, self._label, self._block, self._profile)
                self._waiting = block.select(_passes(block, self._sample))
                self._block += 1
                if self._block >= _MAX_BLOCKS:
                    raise ConfigError("the survey is too large for its identifiers", expected="fewer objects")
            here = min(count, len(self._waiting))
            if here:
                parts.append(self._waiting.select(np.arange(here)))
                self._last = int(parts[-1].objid[-1]) & ((1 << 42) - 1)
            rest = np.arange(here, len(self._waiting))
            self._waiting = self._waiting.select(rest) if len(rest) else None
            self.kept += here
            count -= here
        return parts


def _interleave(parts: list[Survey], order: np.ndarray, provenance: dict[str, object]) -> Survey:
    """Join parts into one survey with its own stamps, rows in `order`."""
    size = parts[0].profile.stamp_size
    stamps = np.empty((len(order), len(parts[0].profile.bands), size, size), np.float32)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    start = 0
    for part in parts:
        stamps[place[start : start + len(part)]] = part.stamps.decode()
        start += len(part)

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    return Survey(
        profile=parts[0].profile,
        objid=join("objid"),
        ra=join("ra"),
        dec=join("dec"),
        label=join("label"),
        features=join("features"),
        stamps=Stamps((stamps,)),
        simulated=True,
        provenance=provenance,
        columns={
            name: np.concatenate([part.columns[name] for part in parts])[order] for name in parts[0].columns
        },
    )


def simulate(
    num_compact: int,
    num_faint: int,
    *,
    seed: int,
    profile: SurveyProfile = SDSS,
    progress: Reporter | None = None,
) -> Iterator[Survey]:
    """Simulate a survey of stars, galaxies and quasars, a third each, chunk by chunk.

    Stamps are sky-subtracted float32 images in nanomaggy. All features but extinction and PSF width, which a
    survey knows from elsewhere, are measured from them (:mod:`.photometry`), and the cuts apply to the
    measured values: compactness below 0.5, and in the faint sample a mean observed magnitude beyond 20.
    What is simulated, and what is not, is told in ``docs/simulation.md``.

    Parameters
    ----------
    num_compact, num_faint : int
        Objects with ``sample`` 1 (compact) and 2 (faint and compact).
    seed : int
        From 0 to 2^64 - 1. The survey is a function of the seed; a smaller one is the beginning of a larger
        one.
    profile : SurveyProfile
        Only `SDSS` has a sky model.
    progress : object with ``update(n)``, optional
        Told of each chunk.

    Yields
    ------
    Survey
        Up to 1,536 objects of one sample, classes taking turns. Columns: ``sample``, ``field``, ``z``
        (redshift), ``flags`` of the measurement, and under names that begin with ``true_`` what was put in.
        Provenance holds the counts drawn and kept so far, by class.

    Raises
    ------
    ConfigError
        If a count or the seed is out of range or the profile has no sky model.
    """
    if profile != SDSS:
        raise ConfigError(
            f"survey {profile.name!r} cannot be simulated", expected="sdss, which has a sky model"
        )
    for name, count in {"num_compact": num_compact, "num_faint": num_faint}.items():
        if count < 0:
            raise ConfigError(f"{name} is {count}", expected="zero or more")
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed is {seed}", expected="0 to 2^64 - 1")
    return _simulate({COMPACT: num_compact, FAINT: num_faint}, seed, profile, progress)


def _simulate(
    counts: dict[int, int], seed: int, profile: SurveyProfile, progress: Reporter | None
) -> Iterator[Survey]:
    tally: dict[str, dict[str, dict[str, int]]] = {}
    for sample, count in counts.items():
        supplies = [_Supply(seed, sample, label, profile) for label in range(len(CLASSES))]
        for start in range(0, count, CHUNK):
            turns = np.arange(start, min(start + CHUNK, count)) % len(CLASSES)
            parts = [
                part
                for label, supply in enumerate(supplies)
                for part in supply.take(int((turns == label).sum()))
            ]
            tally[str(sample)] = {
                kind: {"drawn": supply.drawn, "kept": supply.kept}
                for kind, supply in zip(CLASSES, supplies, strict=True)
            }
            provenance = {
                "made_by": "margformer_fast.data.simulate",
                "seed": seed,
                "counts_by_sample": {key: dict(value) for key, value in tally.items()},
            }
            # Parts come class by class; a stable sort of the turns says where each belongs.
            order = np.empty(len(turns), np.int64)
            order[np.argsort(turns, kind="stable")] = np.arange(len(turns))
            chunk = _interleave(parts, order, provenance)
            if progress is not None:
                progress.update(len(chunk))
            yield chunk
