"""Stars, galaxies and quasars of the simulated sky, and the selection among them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from margformer_fast.data.galaxies import comoving_distance, draw_galaxies
from margformer_fast.data.quasars import draw_quasars
from margformer_fast.data.selection import Factor, Selection, from_json, read_selection, to_json
from margformer_fast.data.skymodel import draw_sources, selected_by
from margformer_fast.data.stars import absolute_magnitude, draw_stars, to_survey
from margformer_fast.data.survey import CLASSES, LSST, SDSS
from margformer_fast.data.survey_tables import (
    EXTINCTION_R,
    PROBABILITIES,
    PSF_CORRELATION,
    PSF_FWHM,
    draw_extinction,
    draw_fwhm,
)
from margformer_fast.data.templates import (
    calzetti,
    make_tables,
    quasar_spectrum,
    read_templates,
    small_magellanic,
    transmission,
)


def colours(magnitudes: np.ndarray) -> np.ndarray:
    return magnitudes[:, :-1] - magnitudes[:, 1:]


# Spectra


def test_tables_have_every_band_of_the_surveys() -> None:
    for profile in (SDSS, LSST):
        tables = read_templates(profile.name)
        z, q, bands = len(tables.galaxy_redshift), len(tables.quasar_redshift), len(profile.bands)
        assert tables.galaxy.shape == (z, 6, bands)
        for name in ("continuum", "lines", "slope", "quasar_dust", "forest"):
            assert getattr(tables, name).shape == (q, bands), name
        assert (tables.galaxy >= 0).all()
        # At redshift 0 the k-correction in the reference band is none.
        np.testing.assert_allclose(tables.galaxy[0, :, profile.bands.index("r")], 1, rtol=1e-3)


def test_a_red_galaxy_has_the_colours_of_one() -> None:
    tables = read_templates("sdss")
    passive = -2.5 * np.log10(tables.galaxy[:, 5])
    at = [np.argmin(np.abs(tables.galaxy_redshift - z)) for z in (0.1, 0.3, 0.5)]
    # The 4000 Angstrom break passes g: Eisenstein et al. (2001, AJ 122, 2267) see g - r of 1.0, 1.6 and 1.8.
    np.testing.assert_allclose(colours(passive)[at, 1], [1.0, 1.6, 1.75], atol=0.12)


def test_quasars_have_the_colours_of_the_sdss_ones() -> None:
    tables = read_templates("sdss")
    seen = colours(-2.5 * np.log10(tables.continuum + tables.lines))
    # Medians of Richards et al. (2001, AJ 121, 2308), read off its figures to 0.1 mag.
    for z, ug, gr in ((0.5, 0.25, 0.0), (1.5, 0.2, 0.15), (2.0, 0.1, 0.05), (3.0, 1.5, 0.2)):
        found = seen[np.argmin(np.abs(tables.quasar_redshift - z))]
        assert abs(found[0] - ug) < 0.35
        assert abs(found[1] - gr) < 0.2


def test_the_forest_is_that_of_madau() -> None:
    z = 3.5
    wave = np.array([0.95, 1.05, 800 / 1215.67]) * 1215.67 * (1 + z)
    through = transmission(wave, z)
    assert through[1] == 1
    assert through[0] == pytest.approx(np.exp(-0.0036 * (0.95 * (1 + z)) ** 3.46))
    assert through[2] < 0.2 < through[0]
    assert (transmission(np.linspace(3000, 9000, 50), 0.1) == 1).all()


def test_lines_have_their_equivalent_width() -> None:
    wave = np.linspace(6200, 6950, 4000)
    continuum, lines = quasar_spectrum(wave)
    assert np.trapezoid(lines / continuum, wave) == pytest.approx(194.5, rel=0.03)
    blue, red = quasar_spectrum(np.array([2000.0, 3000.0]))[0]
    assert np.log(red / blue) / np.log(1.5) == pytest.approx(-1.68)


def test_dust_laws_at_their_zero_points() -> None:
    # R_V = 4.05 and A_V = R_V E(B-V) at 5500; between B and V the difference is 1.
    b, v = calzetti(np.array([4400.0, 5500.0]))
    assert v == pytest.approx(4.05, abs=0.1)
    assert b - v == pytest.approx(1, abs=0.15)
    assert small_magellanic(np.array([1e4]))[0] == pytest.approx(1.39)


def test_the_tables_are_those_that_the_script_makes() -> None:
    pytest.importorskip("speclite", reason="speclite is not installed: the extra `sim`")
    pytest.importorskip("kcorrect", reason="kcorrect is not installed: the extra `sim`")
    made = make_tables(redshifts=slice(None, None, 40))
    for survey in ("sdss", "lsst"):
        tables, fresh = read_templates(survey), made["survey"][survey]
        for name, values in fresh.items():
            np.testing.assert_allclose(np.array(values), getattr(tables, name)[::40], rtol=2e-3, atol=1e-6)


# Populations


@pytest.mark.parametrize("r", [16.0, 20.0, 22.5])
def test_every_population_has_the_magnitude_asked_for(rng: np.random.Generator, r: float) -> None:
    asked = np.full(300, r)
    for sdss in (
        draw_stars(rng, asked),
        draw_galaxies(rng, asked, SDSS).sdss,
        draw_quasars(rng, asked, SDSS).sdss,
    ):
        np.testing.assert_allclose(sdss[:, 2], r)
        assert np.isfinite(sdss).all()


def test_stars_lie_on_the_locus(rng: np.random.Generator) -> None:
    ug, gr, ri, iz = colours(draw_stars(rng, np.full(4000, 18.0))).T
    # Main-sequence stars bluer than the M dwarfs: Covey et al. (2007), table 3, r - i at g - r.
    turn = (gr > 0.55) & (gr < 0.65)
    assert np.median(ri[turn]) == pytest.approx(0.23, abs=0.04)
    assert np.median(iz[turn]) == pytest.approx(0.11, abs=0.04)
    # M dwarfs pile up at one g - r while r - i runs on.
    red = (ri > 0.9) & (ri < 1.9)
    assert red.sum() > 100
    assert np.ptp(np.percentile(gr[red], (5, 95))) < 0.3
    assert np.percentile(ri[red], 95) > 1.3
    # White dwarfs: as blue in u - g as no metal-poor star.
    assert 0.01 < (ug < 0.55).mean() < 0.1


def test_faint_stars_are_of_the_halo_and_the_lower_main_sequence(rng: np.random.Generator) -> None:
    bright, faint = (colours(draw_stars(rng, np.full(4000, r))) for r in (15.5, 20.5))
    gi = [c[:, 1] + c[:, 2] for c in (bright, faint)]
    assert np.mean(gi[1] > 2) > 1.5 * np.mean(gi[0] > 2)
    # Both colours of one turn-off: the halo's is bluer than the disc's.
    assert np.percentile(gi[1], 10) < np.percentile(gi[0], 10)
    # The sun, of g - i = 0.6 and M_r = 4.6, and a dwarf of type M4.
    np.testing.assert_allclose(absolute_magnitude(np.array([0.6, 2.9]), 0.0), [4.7, 11.3], atol=0.6)


def test_distances_are_those_of_astropy() -> None:
    from astropy.cosmology import FlatLambdaCDM

    z = np.array([0.05, 0.3, 1.0, 1.9])
    truth = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0).comoving_distance(z).value
    np.testing.assert_allclose(comoving_distance(z), truth, rtol=1e-3)


def test_galaxies_recede_and_shrink_with_magnitude(rng: np.random.Generator) -> None:
    bright, faint = (draw_galaxies(rng, np.full(2000, r), SDSS) for r in (17.5, 21.0))
    # Medians of magnitude-limited surveys: 0.1 at 17.5 (Strauss et al. 2002), 0.4 to 0.5 at 21.
    assert np.median(bright.redshift) == pytest.approx(0.11, abs=0.04)
    assert np.median(faint.redshift) == pytest.approx(0.42, abs=0.1)
    assert np.median(faint.radius) < 0.5 * np.median(bright.radius)
    assert faint.red.any()
    assert np.mean(bright.red) > np.mean(faint.red)
    gr = colours(bright.sdss)[:, 1]
    assert np.median(gr[bright.red]) > np.median(gr[~bright.red]) + 0.25
    assert ((bright.spheroid >= 0) & (bright.spheroid <= 1)).all()


def test_hosts_show_in_near_quasars_alone(rng: np.random.Generator) -> None:
    quasars = draw_quasars(rng, np.full(2000, 19.0), SDSS)
    near = quasars.redshift < 0.4
    assert np.mean(quasars.point[near]) < 0.7
    assert (quasars.point[quasars.redshift > 1.5] > 0.8).mean() > 0.99  # of thousands, a host may be bright
    high = colours(quasars.sdss)[(quasars.redshift > 2.9)]
    assert np.median(high[:, 0]) > 1


def test_lsst_colours_follow_those_of_sdss(rng: np.random.Generator) -> None:
    stars = draw_stars(rng, np.full(500, 19.0))
    lsst = to_survey(stars, LSST)
    assert lsst.shape == (500, 6)
    assert np.abs(lsst[:, 2] - stars[:, 2]).max() < 0.1
    galaxies = draw_galaxies(rng, np.full(500, 20.0), LSST)
    assert galaxies.magnitudes.shape == (500, 6)
    assert np.corrcoef(colours(galaxies.sdss)[:, 1], colours(galaxies.magnitudes)[:, 1])[0, 1] > 0.98
    assert np.median(np.abs(galaxies.magnitudes[:, 2] - 20)) < 0.1


# Selection


def toy_selection() -> Selection:
    table = np.array([[1.0, 0.25], [0.5, 0.5]])
    return Selection(
        np.array([18.0, 20.0, 22.0]),
        np.array([1.0, 3.0]),
        (Factor(("r", "g_r"), (np.array([20.0]), np.array([0.6])), table),),
    )


def test_magnitudes_follow_their_shares(rng: np.random.Generator) -> None:
    r = toy_selection().draw_r(rng, 4000, 14.0)
    assert np.mean(r > 20) == pytest.approx(0.75, abs=0.035)
    # Of the first bin half is left beyond 19.
    assert np.mean(toy_selection().draw_r(rng, 4000, 19.0) > 20) == pytest.approx(3 / 3.5, abs=0.03)


def test_objects_are_kept_by_the_table(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = Selection(np.array([18.0, 20.0]), np.array([1.0]), ())
    toy = toy_selection()
    toy = Selection(flat.magnitude_edges, flat.magnitude_share, toy.factors)
    monkeypatch.setattr("margformer_fast.data.skymodel.read_selection", lambda: {"STAR": flat})
    before = np.mean(colours(draw_sources(rng, "STAR", 4000, 18.0, SDSS).magnitudes)[:, 1] > 0.6)
    monkeypatch.setattr("margformer_fast.data.skymodel.read_selection", lambda: {"STAR": toy})
    after = np.mean(colours(draw_sources(rng, "STAR", 4000, 18.0, SDSS).magnitudes)[:, 1] > 0.6)
    # Odds of red over blue fall to a quarter.
    assert after / (1 - after) == pytest.approx(0.25 * before / (1 - before), rel=0.2)


def test_what_lies_outside_is_in_the_outermost_bin() -> None:
    (factor,) = toy_selection().factors
    at = {"r": np.array([3.0, 99.0, 20.0]), "g_r": np.array([-9.0, 9.0, 0.6])}
    np.testing.assert_array_equal(factor(at), [1.0, 0.5, 0.5])


def test_selections_survive_json() -> None:
    again = from_json(json.loads(json.dumps(to_json({"STAR": toy_selection()}))))["STAR"]
    np.testing.assert_array_equal(again.factors[0].accept, toy_selection().factors[0].accept)
    assert again.factors[0].axes == ("r", "g_r")


def test_the_selection_that_ships_is_sound() -> None:
    names = set(selected_by(np.zeros((1, 5)), np.zeros(1), np.ones(1)))
    for kind in CLASSES:
        one = read_selection()[kind]
        assert (one.magnitude_share >= 0).all()
        for factor in one.factors:
            assert set(factor.axes) <= names
            assert (factor.accept > 0).all()
            assert np.isfinite(factor.accept).all()


@pytest.mark.parametrize("kind", CLASSES)
def test_sources_of_every_class_and_survey(kind: str) -> None:
    for profile in (SDSS, LSST):
        one, again = (draw_sources(np.random.default_rng(3), kind, 200, 18.8, profile) for _ in range(2))
        assert one.magnitudes.shape == (200, len(profile.bands))
        np.testing.assert_array_equal(one.magnitudes, again.magnitudes)
        reference = one.magnitudes[:, profile.bands.index("r")]
        assert reference.min() > 18.4
        assert ((one.axis_ratio > 0.15) & (one.axis_ratio <= 1)).all()
        assert ((one.point >= 0) & (one.point <= 1)).all()


# Conditions


def test_conditions_follow_their_tables(rng: np.random.Generator) -> None:
    fwhm = draw_fwhm(rng, 6000)
    found = np.quantile(fwhm, PROBABILITIES[2:-2], axis=0).T
    np.testing.assert_allclose(found, np.array(PSF_FWHM)[:, 2:-2], rtol=0.025)
    assert np.abs(np.corrcoef(np.log(fwhm).T) - PSF_CORRELATION).max() < 0.06
    extinction = draw_extinction(rng, 6000)
    assert EXTINCTION_R[0] <= extinction.min()
    assert np.median(extinction) == pytest.approx(EXTINCTION_R[6], rel=0.06)
