"""The photometry of a real field against its catalogue, and what the check says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from margformer_fast.data.__main__ import main
from margformer_fast.data.sdss.files import FieldFiles, find_fields
from margformer_fast.data.sdss.photometry_check import Comparison, PhotometryCheck, check_photometry
from margformer_fast.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def check(real_data: Path) -> PhotometryCheck:
    (files,) = find_fields(real_data / "sdss" / "94-1-12")
    return check_photometry(files)


def test_a_real_field_agrees_with_its_catalogue(check: PhotometryCheck) -> None:
    """The goal holds in g, r and i; in u and z most objects are near the noise."""
    print(f"\n{check.table()}")
    assert len(check.comparisons) == 10
    for each in check.comparisons:
        assert each.count > 20
        if each.quantity.startswith("magnitude"):
            assert np.abs(each.median[1:4]).max() < 0.03
            assert np.abs(each.median[[0, 4]]).max() < 0.12
            assert (each.scatter < 1.5 * each.quoted).all()
        if each.quantity.startswith("colour"):
            assert np.abs(each.median[1:]).max() < 0.03
            assert (each.scatter < 1.5 * each.quoted).all()
        if each.quantity.startswith("deVRad"):
            assert np.abs(each.median[[2, 3]]).max() < 0.06
            assert (each.scatter[1:4] < 1.5 * each.quoted[1:4]).all()
    assert np.abs(check.fwhm[0]).max() < 0.01
    assert check.fwhm[1].max() < 0.003


def test_the_goal_is_held_up_to(check: PhotometryCheck) -> None:
    off = Comparison(
        "star", "magnitude", ("r",), 100, np.array([0.1]), np.array([0.2]), np.array([0.1]), 0.03
    )
    assert off.misses == [
        "star, magnitude in r: median +0.100 +- 0.025",
        "star, magnitude in r: scatter 0.200, quoted 0.100",
    ]
    assert "goal: medians within 0.03 mag and 5% of the radius" in check.table()


def test_errors_are_said(real_data: Path) -> None:
    (files,) = find_fields(real_data / "sdss" / "94-1-12")
    with pytest.raises(ConfigError, match="sky is 'none'; expected catalogue or frame"):
        check_photometry(files, sky="none")
    with pytest.raises(DataError, match="field 1-2-3 is not complete"):
        check_photometry(FieldFiles(1, 2, 3))
    with pytest.raises(DataError, match="is not complete"):
        main(["photometry", str(real_data / "sdss" / "1043-5-25")])
