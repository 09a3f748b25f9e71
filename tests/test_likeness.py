"""The comparison of simulated with real objects: its numbers, its page and its command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import toy_survey

from margformer_fast.data.__main__ import main
from margformer_fast.data.store import write_store
from margformer_fast.data.survey import SDSS
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation import likeness
from margformer_fast.evaluation.likeness import (
    Sample,
    compare,
    group_of,
    match,
    percentiles,
    read_magnitudes,
    read_real,
    telling_apart,
    wasserstein,
)
from margformer_fast.evaluation.likeness_page import text, worst, write_page


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small classifiers, where their answer does not matter."""
    monkeypatch.setattr(likeness, "_BOOSTING", {"max_iter": 12, "learning_rate": 0.2, "max_leaf_nodes": 6})
    monkeypatch.setattr(likeness, "_FOLDS", 2)


def gauss(rng: np.random.Generator, n: int, shift: float = 0.0) -> Sample:
    """Two classes with one colour and one size, both standard normal."""
    columns = {"g_r": rng.standard_normal(n) + shift, "deVRad_r": rng.standard_normal(n)}
    return Sample("normal", columns, np.arange(n) % 2 * 2, rng.uniform(20, 21, n))


def test_wasserstein_is_the_shift_of_a_shifted_sample(rng: np.random.Generator) -> None:
    x = rng.standard_normal(300)
    assert wasserstein(x + 0.7, x) == pytest.approx(0.7)
    # A weight of two is an object twice.
    weight = rng.integers(1, 4, 300)
    assert wasserstein(x, np.zeros(5), weight.astype(float)) == pytest.approx(
        wasserstein(np.repeat(x, weight), np.zeros(5))
    )


def test_percentiles_take_weights(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal(999), rng.integers(0, 4, 999)
    twice = np.repeat(x, weight)
    np.testing.assert_allclose(
        percentiles(x, weight.astype(float)), np.percentile(twice, (16, 50, 84)), atol=0.02
    )


def test_magnitudes_are_matched_class_by_class(rng: np.random.Generator) -> None:
    simulated, real = gauss(rng, 4000), gauss(rng, 600)
    real = Sample("real", real.columns, real.label, 20 + rng.beta(2, 5, 600))
    weight, unmatched = match(simulated, real)
    assert unmatched < 0.01
    for label in (0, 2):
        mine, those = simulated.label == label, real.label == label
        ours = np.histogram(simulated.magnitude[mine], 10, (20, 21), weights=weight[mine])[0]
        np.testing.assert_allclose(ours, np.histogram(real.magnitude[those], 10, (20, 21))[0], atol=0.1)
    far = Sample("far", real.columns, real.label, real.magnitude + 5)
    assert match(simulated, far) == (pytest.approx(np.zeros(4000)), 1.0)


def test_a_shift_is_found_and_none_is_not(quick: None, rng: np.random.Generator) -> None:
    real, near, far = (gauss(rng, 2000, shift=shift).select(slice(0, None, 2)) for shift in (0, 0, 1))
    same, other = compare(near, real), compare(far, real)
    assert list(same.auc) == ["GALAXY"]
    assert abs(same.auc["GALAXY"] - 0.5) < 0.09
    # Two normal distributions one apart are told apart with an AUC of Phi(1 / sqrt 2) = 0.760.
    assert abs(other.auc["GALAXY"] - 0.760) < 0.07
    assert abs(other.group_auc["GALAXY"]["radii"] - 0.5) < 0.09
    assert worst(other).feature == "g_r"
    assert abs(worst(other).distance - 1.0) < 0.15
    assert worst(same).distance < 0.15
    assert "1,000 simulated and 1,000 real GALAXY" in text(other)


def test_weights_count_in_the_area_under_the_curve(quick: None, rng: np.random.Generator) -> None:
    real, half = rng.standard_normal((800, 1)), rng.standard_normal((800, 1))
    both = np.concatenate([half, rng.standard_normal((800, 1)) + 3])
    assert telling_apart(both, real, np.ones(1600)) > 0.7
    assert telling_apart(both, real, np.repeat([1.0, 1e-6], 800)) < 0.57


def test_features_fall_into_groups() -> None:
    groups = [group_of(name) for name in SDSS.feature_names]
    assert groups.count("magnitudes and colours") == 9
    assert groups.count("radii") == groups.count("PSF widths") == groups.count("extinction") == 5


def test_what_cannot_be_compared_is_said(rng: np.random.Generator, tmp_path: Path) -> None:
    few = gauss(rng, 60)
    with pytest.raises(DataError, match="no class has 50 simulated and 50 real objects"):
        compare(few, few)
    with pytest.raises(DataError, match="no feature in common"):
        compare(few, Sample("other", {"u_g": few.magnitude}, few.label, few.magnitude))
    with pytest.raises(DataError, match="holds no objects to compare with"):
        read_real(tmp_path)
    table = tmp_path / "m.csv"
    table.write_text("u,g,r,i,class\n1,2,3,4,STAR\n")
    with pytest.raises(DataError, match="column z is missing"):
        read_real(table)
    table.write_text("u,g,r,i,z,class\n1,2,3,4,5,COMET\n")
    with pytest.raises(DataError, match="COMET"):
        read_real(table)
    table.write_bytes(b"u,g,r,i,z,class\n1,2,3,4,\xff,STAR\n")
    with pytest.raises(DataError, match=r"m\.csv: cannot be read as a table"):
        read_real(table)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("", "m.csv: has no rows"),
        ("1,2,3", "cannot be read as a table|class '' is not known"),
        ("1,2,3,4,,STAR", "m.csv, column z, row 0: is no magnitude; expected a finite number"),
        ("1,2,3,4,5,STAR\n1,nan,3,4,5,STAR", "m.csv, column g, row 1: is no magnitude"),
        ("1,2,x,4,5,STAR", "m.csv, column r: holds something else than numbers"),
        ("1,2,3,4,5,", "class '(nan)?' is not known"),
    ],
)
def test_a_table_with_a_bad_row(tmp_path: Path, row: str, said: str) -> None:
    table = tmp_path / "m.csv"
    table.write_text(f"u,g,r,i,z,class\n{row}\n")
    with pytest.raises(DataError, match=said) as caught:
        read_magnitudes(table)
    assert str(caught.value).isprintable()


def test_a_table_of_magnitudes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("objid,u,g,r,i,z,class\n1,19.0,18.5,18.0,17.8,17.7,QSO\n2,20,19,18,17,16,STAR\n")
    sample = read_magnitudes(path)
    assert sample.label.tolist() == [1, 2]
    assert list(sample.columns) == ["u_g", "g_r", "r_i", "i_z"]
    np.testing.assert_allclose(sample.matrix(["u_g", "i_z"]), [[0.5, 0.1], [1, 1]])
    np.testing.assert_allclose(sample.magnitude, 18)


def test_observed_magnitudes_come_from_the_colours_between(rng: np.random.Generator, tmp_path: Path) -> None:
    listed = rng.uniform(17, 22, (20, 5)).round(6)
    path = tmp_path / "m.csv"
    rows = [",".join(str(m) for m in row) + ",STAR" for row in listed]
    path.write_text("\n".join(["u,g,r,i,z,class", *rows]))
    sample = read_magnitudes(path)
    for k, band in enumerate("ugriz"):
        np.testing.assert_allclose(sample.observed(band), listed[:, k], atol=1e-9)
    cut = sample.within({"u": 20.0, "z": 21.0})
    kept = (listed[:, 0] < 20) & (listed[:, 4] < 21)
    assert 0 < kept.sum() < 20
    np.testing.assert_array_equal(cut.magnitude, sample.magnitude[kept])
    assert len(sample.within({})) == 20


def test_both_sides_are_cut_at_the_limit_of_a_table(
    quick: None, rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, page = tmp_path / "store", tmp_path / "likeness.html"
    survey = toy_survey(400, rng, classes=(2,))
    write_store(store, survey)
    u = likeness.of_survey(survey, "toy").observed("u")
    limit = float(np.median(u).round(3))
    command = ["compare", str(store), str(store), "--out", str(page), "--brighter-than", f"u={limit}"]
    assert main(command) == 0
    kept = int((u < limit).sum())
    assert f"{kept} simulated and {kept} real STAR" in capsys.readouterr().out
    assert f"--brighter-than u={limit:g}" in page.read_text()
    for wrong in ("y=20", "u=faint", "u", "u=nan"):
        with pytest.raises(ConfigError, match=r"no limit such as u=19\.6"):
            main([*command[:-1], wrong])


def test_compare_command_writes_one_page(
    quick: None, rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, page = tmp_path / "store", tmp_path / "likeness.html"
    write_store(store, toy_survey(120, rng, classes=(2,)))
    assert main(["compare", str(store), str(store), "--out", str(page)]) == 0
    out = capsys.readouterr().out
    assert "SIMULATED objects beside store" in out
    assert "deVRad_z" in out
    html = page.read_text()
    assert html.count('src="data:image/png;base64,') == 2
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<td>psffwhm_i</td>") == 1
    write_store(tmp_path / "real", replace(toy_survey(10, rng), simulated=False))
    with pytest.raises(DataError, match="is not simulated"):
        main(["compare", str(tmp_path / "real"), str(store), "--out", str(page)])


def test_the_page_escapes_what_others_wrote(quick: None, rng: np.random.Generator, tmp_path: Path) -> None:
    survey = gauss(rng, 240).select(slice(0, None, 2))
    found = compare(survey, replace(survey, name="a<b>"))
    write_page(found, tmp_path / "p.html", "make <it>")
    html = (tmp_path / "p.html").read_text()
    assert "a&lt;b&gt;" in html
    assert "make &lt;it&gt;" in html
    assert "a<b>" not in html


def test_simulate_compares_when_asked(
    quick: None,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(likeness, "FEWEST", 5)
    real = tmp_path / "real.csv"
    r = rng.uniform(20, 22, 200)
    rows = [f"{m + 2.5},{m + 1},{m},{m - 0.4},{m - 0.6},STAR" for m in r]
    real.write_text("\n".join(["u,g,r,i,z,class", *rows]))
    command = ["simulate", "--out", str(tmp_path / "s"), "--compact", "0", "--faint", "90"]
    with pytest.raises(DataError, match=r"nothing\.csv"):
        main([*command, "--compare", str(tmp_path / "nothing.csv")])
    assert not (tmp_path / "s").exists(), "what cannot be read is found out before the work"
    assert main([*command, "--compare", str(real)]) == 0
    assert "real STAR" in capsys.readouterr().out
    html = (tmp_path / "s.html").read_text()
    assert "simulate --out" in html
    assert html.count('src="data:image/png;base64,') == 2
