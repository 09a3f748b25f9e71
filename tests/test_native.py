"""The compiled module: when it is used, why not when it is not, and that it guards its own bounds."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import margformer_fast
from margformer_fast import _native
from margformer_fast.errors import BackendUnavailable, ConfigError, DataError, FitsFormatError

CHECKOUT = Path(__file__).parent.parent


def test_module_is_usable_and_of_these_sources() -> None:
    assert _native.why_not() == ()
    assert _native.compiled().build_info()["version"] == margformer_fast.__version__
    assert _native.build_info()["source_hash"] == _native.source_hash(CHECKOUT)


def test_module_of_another_version_is_stale(tmp_path: Path) -> None:
    info = _native.build_info() | {"version": "0.0.1"}
    told = f"the compiled module is of version 0.0.1, the package {margformer_fast.__version__}. Run `pip"
    assert _native.why_stale(info, tmp_path).startswith(told)


def test_module_of_other_sources_is_stale(tmp_path: Path) -> None:
    info = _native.build_info()
    assert _native.source_hash(tmp_path) is None
    assert _native.why_stale(info, tmp_path) == ""  # installed: no sources to compare with
    (tmp_path / "csrc/bindings").mkdir(parents=True)
    (tmp_path / "csrc/bindings/module.cpp").write_text("int main() {}")
    (tmp_path / "CMakeLists.txt").write_text("project(x)")
    assert "was built from other C++ sources than those in" in _native.why_stale(info, tmp_path)


def test_every_source_counts(tmp_path: Path) -> None:
    for name in ("csrc/bindings/module.cpp", "csrc/core/a.hpp", "csrc/cuda/b.cu", "CMakeLists.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    hashes = {_native.source_hash(tmp_path)}
    for name in ("csrc/core/a.hpp", "csrc/cuda/b.cu", "CMakeLists.txt"):
        (tmp_path / name).write_text("changed")
        hashes.add(_native.source_hash(tmp_path))
    (tmp_path / "csrc/core/a.hpp").rename(tmp_path / "csrc/core/c.hpp")
    hashes.add(_native.source_hash(tmp_path))
    assert len(hashes) == 5
    (tmp_path / "csrc/notes.txt").write_text("not compiled")
    assert _native.source_hash(tmp_path) in hashes


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ModuleNotFoundError("x", name="margformer_fast._C"),
            "the compiled module is not installed. Run `pip",
        ),
        (
            ImportError("libgone.so: cannot open"),
            "the compiled module does not load (libgone.so: cannot open)",
        ),
    ],
)
def test_module_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, error: ImportError, reason: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    module, why_not = _native._load()
    assert module is None
    assert why_not.startswith(reason)


def test_another_missing_module_is_no_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="other"):
        _native._load()


def test_stale_module_is_said_at_import_and_never_used(caplog: pytest.LogCaptureFixture) -> None:
    real, why_stale = importlib.import_module("margformer_fast._C"), _native.why_stale
    try:
        _native.why_stale = lambda info, root: "it is stale"
        with caplog.at_level(logging.WARNING):
            _native._module, _native._why_not = _native._load()
        assert _native._module is real
        assert _native.why_not() == ("it is stale",)
        with pytest.raises(BackendUnavailable, match="it is stale"):
            _native.compiled()
        _native.cuda_why_not.cache_clear()
        assert _native.cuda_why_not() == ("it is stale",)
        assert _native.build_info()["version"] == margformer_fast.__version__
    finally:
        _native.why_stale = why_stale
        _native._module, _native._why_not = _native._load()
        _native.cuda_why_not.cache_clear()


@pytest.mark.parametrize(
    ("info", "devices", "reason"),
    [
        (
            {"cuda": False, "cuda_why_not": "no nvcc"},
            None,
            ("the compiled module was built without CUDA: no nvcc",),
        ),
        ({"cuda": True}, (0, "no driver"), ("no CUDA device: no driver",)),
        ({"cuda": True}, (0, ""), ("no CUDA device: none was found",)),
        ({"cuda": True}, (2, ""), ()),
    ],
)
def test_why_cuda_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
    info: dict[str, object],
    devices: tuple[int, str] | None,
    reason: tuple[str, ...],
) -> None:
    monkeypatch.setattr(
        _native, "_module", SimpleNamespace(build_info=lambda: info, cuda_devices=lambda: devices)
    )
    _native.cuda_why_not.cache_clear()
    try:
        assert _native.cuda_why_not() == reason
    finally:
        _native.cuda_why_not.cache_clear()


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARGFORMER_NUM_THREADS", raising=False)
    assert _native.num_threads() >= 1
    before = torch.get_num_threads()
    torch.set_num_threads(before + 4)
    try:
        assert _native.num_threads() == before + 4, "as many as torch uses"
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    assert _native.num_threads() >= 1, "without torch the cores given to us"
    monkeypatch.setenv("MARGFORMER_NUM_THREADS", "3")
    assert _native.num_threads() == 3
    for wrong in ("0", "-1", "two", ""):
        monkeypatch.setenv("MARGFORMER_NUM_THREADS", wrong)
        with pytest.raises(
            ConfigError, match=f"MARGFORMER_NUM_THREADS is '{wrong}'; expected a positive integer"
        ):
            _native.num_threads()


# --- called past the operators, which check first: the module still reads and writes only what it was given


def test_rows_outside_are_refused() -> None:
    out = np.zeros((2, 3), np.float32)
    for row in (-1, 5, 2**62):
        with pytest.raises(DataError, match=f"place 1: row {row} is outside; expected 0 to 4"):
            _native.compiled().decode(np.zeros((5, 3), ">f4"), np.array([0, row]), out, 1.0, 0.0, None, 1)
    assert not out.any()


def test_output_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(DataError, match="out has 5 pixels; expected 6"):
        _native.compiled().decode(
            np.zeros((5, 3), ">f4"), np.array([0, 1]), np.zeros(5, np.float32), 1.0, 0.0, None, 1
        )


def test_pixels_of_the_wrong_kind_are_refused() -> None:
    for array, message in (
        (np.zeros((1, 1), "f2"), "pixels of type f2 cannot be decoded; expected one of u1, i2"),
        (np.zeros((1,) * 5, "f4"), "pixels have 5 axes; expected 1 to 4"),
    ):
        with pytest.raises(DataError, match=message):
            _native.compiled().decode(array, np.array([0]), np.zeros(1, np.float32), 1.0, 0.0, None, 1)


@pytest.mark.parametrize(
    ("rows", "out"),
    [
        (np.array([0], np.int32), np.zeros(3, np.float32)),
        (np.array([0, 0])[::2], np.zeros(3, np.float64)),
        (np.array([0]), np.zeros(6, np.float32)[::2]),
        (np.array([0]).astype(">i8"), np.zeros(3, np.float32)),
    ],
)
def test_buffers_are_never_converted_behind_our_back(rows: np.ndarray, out: np.ndarray) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.compiled().decode(np.zeros((5, 3), ">f4"), rows, out, 1.0, 0.0, None, 1)


def test_output_that_must_not_be_written_is_not() -> None:
    out = np.zeros(3, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        _native.compiled().decode(np.ones((5, 3), ">f4"), np.array([0]), out, 1.0, 0.0, None, 1)
    assert not out.any()


def test_header_of_sparse_bytes_is_refused() -> None:
    with pytest.raises(DataError, match="the buffer is no dense row of bytes"):
        _native.compiled().parse_header(np.zeros(6000, np.uint8)[::2], 0)
    with pytest.raises(DataError, match="the buffer is no dense row of bytes"):
        _native.compiled().parse_header(np.zeros(6000, np.int16), 0)
    with pytest.raises(FitsFormatError) as caught:
        _native.compiled().parse_header(b"no", 0)
    assert caught.value.what == "this is no FITS header"
    assert caught.value.where == "byte 0, card 'no'"
    assert caught.value.expected == "SIMPLE = T or XTENSION = '...'"
