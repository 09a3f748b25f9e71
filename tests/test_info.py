"""What the info command tells, as text and as JSON."""

from __future__ import annotations

import json

import pytest

import margformer_fast
from margformer_fast import _native, cli, info
from margformer_fast.backends import operators


def test_everything_is_told() -> None:
    told = info.collect()
    json.dumps(told, allow_nan=False)
    assert told["package"]["version"] == margformer_fast.__version__
    assert told["compiled_module"] == {
        "why_not": [],
        "cuda_why_not": list(_native.cuda_why_not()),
        "build": _native.build_info(),
    }
    assert set(told["operators"]) == set(operators())
    assert told["operators"]["decode"]["cpu"] == {"cpp": [], "reference": []}
    assert told["operators"]["decode"]["cuda"]["cpp"] == ["the data are on cuda"]
    assert told["machine"]["threads"] >= 1


def test_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(info.main, []) == 0
    text = capsys.readouterr().out
    assert f"margformer_fast {margformer_fast.__version__} in " in text
    assert "compiled module  usable\n" in text
    assert "\n  decode             cpp (or reference)\n" in text
    for name in operators():
        assert name in text
    assert cli.run(info.main, ["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info.collect()


def test_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(info.main, ["--jsn"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "_why_not", "the compiled module is not installed. Run `pip install .`")
    monkeypatch.setattr(_native, "_module", None)
    _native.cuda_why_not.cache_clear()
    try:
        told = info.collect()
    finally:
        _native.cuda_why_not.cache_clear()
    told["libraries"]["fitsio"] = None
    text = info.text(told)
    assert "compiled module  not usable: the compiled module is not installed. Run `pip install .`" in text
    assert "CUDA functions   not usable: the compiled module is not installed" in text
    assert (
        "  decode             reference\n" + " " * 21 + "not cpp: the compiled module is not installed"
        in text
    )
    assert "fitsio         not installed  (reads Rice-compressed frames (.fz); pip install" in text


def test_gpus_are_shown_with_what_runs_on_them() -> None:
    told = info.collect()
    told["gpus"] = ["NVIDIA Test"]
    told["operators"] = {"toy": {"cpu": {"cpp": []}, "cuda": {"cuda": [], "cpp": ["the data are on cuda"]}}}
    text = info.text(told)
    assert "GPUs             NVIDIA Test" in text
    assert text.endswith(
        "what runs on data on a GPU\n  toy                cuda\n" + " " * 21 + "not cpp: the data are on cuda"
    )


def test_operator_that_nothing_runs() -> None:
    assert info._operator_lines("toy", {"cpp": ["no"]}) == [
        "  toy                nothing",
        " " * 21 + "not cpp: no",
    ]
