"""A simulated SDSS-like survey: stamps are drawn, and everything else is measured from their pixels.

Objects come in blocks of `BLOCK` of one class and sample. Each block has its own counter-based random
stream, keyed by the seed and the block, and so have the fields: the survey depends on the seed alone, not
on how it is cut into chunks, and a smaller survey is the beginning of a larger one. What fails the cuts on
measured values is dropped and more is drawn, until the counts are met.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from ..errors import ConfigError
from ..ops.stamps import Stamps
from .conditions import (
    FIELD_ARCMIN,
    Neighbours,
    add_cosmic_rays,
    conditions,
    draw_fields,
    draw_neighbours,
    draw_sky,
    interpolate_columns,
)
from .photometry import GaussianPsf, measure
from .profiles import enclosed_light
from .psf import Psf
from .render import Ellipse, Seeing, draw_galaxies, draw_gaussians, ellipse
from .skymodel import Sources, draw_field_objects, draw_sources
from .survey import CLASSES, SDSS, Survey, SurveyProfile

BLOCK = 1024
"""Objects drawn from one random stream. Part of what a seed means: changing it changes every survey."""

CHUNK = 3 * 512
"""Objects in a chunk that is handed out; it changes nothing but the memory needed."""

COMPACT, FAINT = 1, 2
"""Values of the column ``sample``: drawn for Experiment 1 (compact) or 2 (faint and compact)."""

MAX_COMPACTNESS = 0.5
_LARGEST = 0.8  # half-light radius over PSF FWHM: of galaxies beyond it, 1 in 500 is measured as compact
MIN_FAINT_MAGNITUDE = 20.0
SIMULATED_SKY_VERSION = 15

_BRIGHTEST = {COMPACT: 14.0, FAINT: 18.8}  # no object of r < 18.8 has a mean magnitude beyond 20
_FIELDS_PER_BLOCK = BLOCK  # SDSS spectroscopic targets lie in a field of their own, nearly all of them
_MIDDLE_SCATTER = 0.10  # pixels: error of the position at which all bands are cut
_ASTROMETRY_SCATTER = 0.03  # pixels: error of the registration of a band
_FIELD_STREAM = 1 << 60
_MAX_BLOCKS = 1 << 31

# Of a galaxy of two components, chosen: bulges are half as wide as their discs, and rounder (the square root
# of their axis ratio).
_BULGE_OVER_DISC = 0.5
_SKY_MODELS = ("sdss", "lsst")  # surveys whose sources can be drawn


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


def _disc_radius(spheroid: np.ndarray) -> np.ndarray:
    """Return the half-light radius of the disc over that of the whole galaxy, by the bulge's share."""
    shares, radii = np.linspace(0, 1, 21), np.geomspace(0.2, 5, 200)  # of the whole over the disc's
    light = [
        share * enclosed_light("de Vaucouleurs", radii / _BULGE_OVER_DISC)
        + (1 - share) * enclosed_light("exponential", radii)
        for share in shares
    ]
    half = [np.interp(0.5, curve, radii) for curve in light]
    return 1 / np.interp(spheroid, shares, half)


class _Canvas:
    """Stamps of a block under its PSFs: one row for each object and band, lengths in pixels."""

    def __init__(
        self,
        position: np.ndarray,
        psf: Psf,
        axis_ratio: np.ndarray,
        angle: np.ndarray,
        profile: SurveyProfile,
    ) -> None:
        """Take positions (N, B, 2) as row and column in pixels, and PSFs with their shapes (N, B)."""
        self.size, self.scale = profile.stamp_size, profile.pixel_scale_arcsec
        self.shape = position.shape[:2]
        self.position = position.reshape(-1, 2)
        terms = psf.sigma.shape[-1]
        self.variance = ((psf.sigma / self.scale) ** 2).reshape(-1, terms).astype(np.float32)
        self.share = psf.share.reshape(-1, terms).astype(np.float32)
        self.psf_shape = ellipse(
            np.float32(1), *(array.ravel().astype(np.float32) for array in (axis_ratio, angle))
        )
        self.image = np.zeros((len(self.position), self.size, self.size), np.float32)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """Return a float32 for each row, from values of each object (N,), or object and band (N, B)."""
        values = values if values.ndim == 2 else values[:, None]
        return np.broadcast_to(values, self.shape).reshape(-1).astype(np.float32)

    def points(self, flux: np.ndarray, offset: np.ndarray, extent: np.ndarray) -> None:
        """Add P sources to each object, points or round Gaussians.

        `flux` (P, N, B), none where zero; `offset` (P, N, 2) row and column, and sigma `extent` (P, N), in
        arcsec.
        """
        slots, _, bands = flux.shape
        flux = flux.reshape(slots, -1).T.astype(np.float32)
        # What there is, first; then stamps with as many sources are drawn together.
        order = np.argsort(flux == 0, axis=1, kind="stable")
        number = (flux != 0).sum(axis=1)
        owner = np.arange(len(flux)) // bands
        terms = self.share.shape[1]
        for count in range(1, slots + 1):
            k = np.flatnonzero(number == count)
            slot, of = order[k, :count], owner[k, None]
            place = self.position[k, None] + offset[slot, of] / self.scale
            y, x = np.repeat(place, terms, axis=1).astype(np.float32).transpose(2, 0, 1)
            wider = np.repeat((extent[slot, of] / self.scale) ** 2, terms, axis=1).astype(np.float32)
            variance, share = (np.tile(array[k], count) for array in (self.variance, self.share))
            xx, xy, yy = (variance * part[k, None] for part in self.psf_shape)
            light = np.repeat(np.take_along_axis(flux[k], slot, 1), terms, axis=1) * share
            draw_gaussians(self.size, x, y, Ellipse(xx + wider, xy, yy + wider), light, self.image, k)

    def galaxies(
        self, name: str, flux: np.ndarray, radius: np.ndarray, axis_ratio: np.ndarray, angle: np.ndarray
    ) -> None:
        """Add galaxies of one profile: `flux` (N, B), half-light radius in arcsec, shape and angle (N,)."""
        flux = self._rows(flux)
        k = np.flatnonzero(flux)
        y, x = self.position[k].T.astype(np.float32)
        radius, axis_ratio, angle = (
            self._rows(values)[k] for values in (radius / self.scale, axis_ratio, angle)
        )
        psf = Seeing(self.variance[k], self.share[k], Ellipse(*(part[k] for part in self.psf_shape)))
        draw_galaxies(self.size, name, x, y, flux[k], radius, axis_ratio, angle, psf, self.image, k)


def _draw_points(
    canvas: _Canvas, sources: Sources, flux: np.ndarray, neighbours: Neighbours, around: np.ndarray
) -> None:
    """Draw the points of the objects, `flux` (N, B), and their neighbours, `around` (slots, N, B)."""
    own = (flux * sources.point[:, None])[None]
    others = around * neighbours.present[..., None]
    # Half the light of a round Gaussian lies within sqrt(2 ln 2) sigma.
    extent = neighbours.radius / np.sqrt(2 * np.log(2))
    canvas.points(
        np.concatenate([own, others]),
        np.pad(neighbours.offset, ((1, 0), (0, 0), (0, 0))),
        np.pad(extent, ((1, 0), (0, 0))),
    )


def _draw_galaxies(canvas: _Canvas, sources: Sources, flux: np.ndarray) -> None:
    """Draw what is extended of the objects: a bulge and a disc."""
    extended = flux * (1 - sources.point[:, None])
    disc = sources.radius * _disc_radius(sources.spheroid)
    bulge = disc * _BULGE_OVER_DISC
    q = sources.axis_ratio
    canvas.galaxies("de Vaucouleurs", extended * sources.spheroid[:, None], bulge, np.sqrt(q), sources.angle)
    canvas.galaxies("exponential", extended * (1 - sources.spheroid[:, None]), disc, q, sources.angle)


def _modelled(psf: Psf, ellipticity: np.ndarray) -> GaussianPsf:
    """Return PSFs (N, B) with the shapes that the survey models, (N, B, 2), their areas kept."""
    # Area goes as sigma^2 sqrt(1 - e^2) where sigma^2 is half the trace.
    larger = (1 - (ellipticity**2).sum(-1)) ** -0.25
    sigma = psf.sigma * larger[..., None]
    shape = np.broadcast_to(ellipticity[..., None, :], (*sigma.shape, 2))
    return GaussianPsf(sigma, psf.share, shape, psf.fwhm)


def _draw_block(seed: int, sample: int, label: int, block: int, profile: SurveyProfile) -> Survey:
    """Draw and measure the objects of one block that may be compact, cuts not yet applied."""
    kind, bands = CLASSES[label], len(profile.bands)
    seen = conditions(profile)
    fields = draw_fields(
        _stream(seed, _FIELD_STREAM | block), block * _FIELDS_PER_BLOCK, _FIELDS_PER_BLOCK, profile
    )
    rng = _stream(seed, sample << 44 | label << 42 | block)
    sources = draw_sources(rng, kind, BLOCK, _BRIGHTEST[sample], profile)
    at = np.arange(BLOCK) % _FIELDS_PER_BLOCK
    # Drawing and measuring take most of the time, and most galaxies are too large.
    seeing = np.exp(np.log(fields.psf[at].fwhm).mean(axis=1))
    index = np.flatnonzero((sources.radius < _LARGEST * seeing) | (sources.point > 0))
    sources, at, n = sources.select(index), at[index], len(index)
    neighbours = draw_neighbours(rng, n, profile, partial(draw_field_objects, rng, profile=profile))
    place = rng.random((n, 2))  # in the field, RA and Dec
    widening = np.exp((fields.gradient[at] * (place - 0.5)[:, None]).sum(-1))
    psf, true_psf = fields.psf[at].widened(widening), fields.true_psf[at].widened(widening)

    extinction = fields.extinction_r[at, None] * np.array(profile.extinction_ratios)
    # A stamp is whole pixels of a frame, and frames are not aligned: each band has its own offset.
    registration = rng.uniform(-0.5, 0.5, (n, bands, 2))
    position = (profile.stamp_size - 1) / 2 + registration
    position += _MIDDLE_SCATTER * rng.standard_normal((n, 1, 2))
    position += _ASTROMETRY_SCATTER * rng.standard_normal((n, bands, 2))
    canvas = _Canvas(position, true_psf, fields.axis_ratio[at], fields.angle[at], profile)
    flux = _flux(sources.magnitudes, extinction, profile)
    around = _flux(neighbours.magnitudes, extinction, profile)
    _draw_points(canvas, sources, flux, neighbours, around)
    _draw_galaxies(canvas, sources, flux)
    image = canvas.image.reshape(n, bands, canvas.size, canvas.size)
    # Photon noise of the objects on top of that of the sky; counts are large enough to be Gaussian. The
    # series that objects are drawn with may pass a little below zero where there is nothing.
    noise = np.maximum(image, 0) * (1 / fields.gain[at, :, None, None]).astype(np.float32)
    noise += (fields.noise[at, :, None, None] ** 2).astype(np.float32)
    np.sqrt(noise, out=noise)
    noise *= rng.standard_normal(image.shape, np.float32)
    image += noise
    image += draw_sky(rng, n, profile)[:, :, None, None]
    interpolate_columns(rng, image, seen.columns)
    add_cosmic_rays(rng, image, fields.noise[at], seen.cosmic_rays)

    found = measure(
        image,
        _modelled(psf, fields.ellipticity[at]),
        fields.noise[at],
        extinction,
        profile,
        gain=fields.gain[at],
        registration=registration,
    )
    features = found.features
    if seen.draw_no_light_radius is not None:
        drawn = seen.draw_no_light_radius(rng, (n, bands))
        columns = [profile.feature_names.index(f"deVRad_{band}") for band in profile.bands]
        features[:, columns] = np.where(found.has_light, features[:, columns], drawn)
    return Survey(
        profile=profile,
        objid=object_id(sample, label, block, index),
        ra=fields.ra[at] + FIELD_ARCMIN[0] / 60 * place[:, 0],
        dec=fields.dec[at] + FIELD_ARCMIN[1] / 60 * place[:, 1],
        label=np.full(n, label, np.int8),
        features=features,
        stamps=Stamps((image,)),
        simulated=True,
        columns={
            "sample": np.full(n, sample, np.int16),
            "field": (block * _FIELDS_PER_BLOCK + at).astype(np.int32),
            "z": sources.redshift.astype(np.float32),
            "flags": found.flags.astype(np.int16),
            **{
                f"true_{band}": sources.magnitudes[:, k].astype(np.float32)
                for k, band in enumerate(profile.bands)
            },
            "true_radius": sources.radius.astype(np.float32),
            "true_point": sources.point.astype(np.float32),
            "true_neighbours": neighbours.present.sum(axis=0).astype(np.int16),
        },
    )


def _passes(survey: Survey, sample: int) -> np.ndarray:
    """Apply the published cuts to measured values."""
    compact = survey.compactness < MAX_COMPACTNESS
    return compact & (survey.magnitudes.mean(axis=1) > MIN_FAINT_MAGNITUDE) if sample == FAINT else compact


def _draw_passing(seed: int, sample: int, label: int, profile: SurveyProfile, block: int) -> Survey:
    """Draw and measure one block and keep what passes the cuts."""
    drawn = _draw_block(seed, sample, label, block, profile)
    return drawn.select(_passes(drawn, sample))


class _Supply:
    """Objects of one class and sample in order, as many as are asked for."""

    def __init__(self, draw: Callable[[int], Survey], wanted: int, pool: Executor | None, ahead: int) -> None:
        """Take a function of the block's number, the number of objects wanted in all, and who draws ahead."""
        self._draw, self._pool, self._ahead = draw, pool, ahead
        self._wanted = wanted
        self._block = 0  # the next to be begun
        self._begun: deque[Future[Survey]] = deque()
        self._seen = 0  # objects of the blocks that came, cuts not applied
        self._passed = 0
        self._waiting: Survey | None = None
        self.kept = 0
        self._last = -1

    @property
    def drawn(self) -> int:
        """Objects drawn up to the last one kept."""
        return self._last + 1

    def begin(self) -> None:
        """Have blocks drawn that will be needed, by the share that passed; all, until one has come."""
        if self._pool is None:
            return
        per_block = BLOCK * self._passed / self._seen if self._passed else BLOCK
        while len(self._begun) < self._ahead and self._passed + per_block * len(self._begun) < self._wanted:
            self._begun.append(self._pool.submit(self._draw, self._number()))

    def _number(self) -> int:
        self._block += 1
        if self._block >= _MAX_BLOCKS:
            raise ConfigError("the survey is too large for its identifiers", expected="fewer objects")
        return self._block - 1

    def _next(self) -> Survey:
        self.begin()
        block = self._begun.popleft().result() if self._begun else self._draw(self._number())
        self._seen += BLOCK
        self._passed += len(block)
        self.begin()
        return block

    def take(self, count: int) -> list[Survey]:
        """Return the next `count` objects as parts of blocks."""
        parts = []
        while count:
            if self._waiting is None:
                self._waiting = self._next()
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
    workers: int | None = None,
    progress: Reporter | None = None,
) -> Iterator[Survey]:
    """Simulate a survey of stars, galaxies and quasars, a third each, chunk by chunk.

    Stamps are sky-subtracted float32 images in the profile's unit of flux. All features but extinction and
    PSF width, which a survey knows from elsewhere, are measured from them (:mod:`.photometry`), and the cuts
    apply to the measured values: compactness below 0.5, and in the faint sample a mean observed magnitude
    beyond 20. What is simulated, and what is not, is told in ``docs/simulation.md`` and
    ``docs/rendering.md``.

    Parameters
    ----------
    num_compact, num_faint : int
        Objects with ``sample`` 1 (compact) and 2 (faint and compact).
    seed : int
        From 0 to 2^64 - 1. The survey is a function of the seed; a smaller one is the beginning of a larger
        one.
    profile : SurveyProfile
        `SDSS`, or `LSST`, of which single visits are simulated.
    workers : int, optional
        Threads that draw and measure, by default as many as there are cores to use; they change nothing but
        the time. They end when the iterator does, at the latest after the blocks they are at.
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
        If a count, the seed or `workers` is out of range or the profile has no sky model.
    """
    if profile.name not in _SKY_MODELS:
        raise ConfigError(f"survey {profile.name!r} cannot be simulated", expected=" or ".join(_SKY_MODELS))
    for name, count in {"num_compact": num_compact, "num_faint": num_faint}.items():
        if count < 0:
            raise ConfigError(f"{name} is {count}", expected="zero or more")
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed is {seed}", expected="0 to 2^64 - 1")
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise ConfigError(f"workers is {workers}", expected="one or more")
    return _simulate({COMPACT: num_compact, FAINT: num_faint}, seed, profile, workers, progress)


def _simulate(
    counts: dict[int, int], seed: int, profile: SurveyProfile, workers: int, progress: Reporter | None
) -> Iterator[Survey]:
    # NumPy lets other threads run while it computes, so threads do; nothing has to be sent between processes.
    pool = ThreadPoolExecutor(workers, "simulate") if workers > 1 else None
    tally: dict[str, dict[str, dict[str, int]]] = {}
    try:
        for sample, count in counts.items():
            supplies = [
                _Supply(
                    partial(_draw_passing, seed, sample, label, profile),
                    len(range(label, count, len(CLASSES))),
                    pool,
                    workers,
                )
                for label in range(len(CLASSES))
            ]
            for start in range(0, count, CHUNK):
                turns = np.arange(start, min(start + CHUNK, count)) % len(CLASSES)
                for supply in supplies:
                    supply.begin()
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
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
