"""The picture of stamps and their views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import toy_survey

from margformer_fast.data.__main__ import main
from margformer_fast.data.store import write_store
from margformer_fast.errors import DataError
from margformer_fast.evaluation.colour_image import colour_image
from margformer_fast.evaluation.view_gallery import view_gallery


def test_stamps_and_views_are_drawn(rng: np.random.Generator) -> None:
    survey = replace(toy_survey(5, rng), simulated=True)
    figure = view_gallery(survey, np.array([4, 1]))
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert len(pictures) == 2 * 5
    np.testing.assert_array_equal(pictures[0], colour_image(survey.stamps.decode()[4], survey.profile.bands))
    assert len({np.asarray(picture).tobytes() for picture in pictures}) == 10, "no two views are alike"
    assert figure.get_suptitle() == "Simulated data"
    with pytest.raises(DataError, match="no object to show"):
        view_gallery(survey, np.arange(0))


def test_show_command(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "store", toy_survey(5, rng))
    assert (
        main(["show", str(tmp_path / "store"), "--out", str(tmp_path / "views.png"), "--objects", "9"]) == 0
    )
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    assert "5 objects" in capsys.readouterr().out
