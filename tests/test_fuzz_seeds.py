"""What the fuzzers begin with, on both backends: the Python side of tests/fuzz.

Set MARGFORMER_FUZZ_CORPUS to where fuzzers have run (``build/fuzz``) to take the inputs that they found, too:
each reached code that none before it did.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from fuzz.seeds import MAX_BYTES, SEEDS
from test_fits_header import outcome

from margformer_fast.data.fits import FitsImage, image_from_bytes
from margformer_fast.errors import FitsFormatError


def inputs(target: str) -> dict[str, bytes]:
    """The seeds of a target, and what a fuzzer made of them where it is asked for."""
    found = dict(SEEDS[target]())
    folder = os.environ.get("MARGFORMER_FUZZ_CORPUS")
    if folder:
        grown = sorted((Path(folder) / target / "corpus").iterdir())
        assert grown, f"no fuzzer has run in {folder}"
        found |= {path.name: path.read_bytes() for path in grown}
    return found


def headers(raw: bytes) -> list[tuple[object, ...]]:
    """What parsing gives for every HDU, up to the first that is refused; both backends must agree."""
    outcomes, offset = [], 0
    while not outcomes or (outcomes[-1][0] != "error" and offset < len(raw)):
        compiled, reference = outcome(raw, offset, "cpp"), outcome(raw, offset, "reference")
        assert compiled == reference
        outcomes.append(compiled)
        offset = compiled[-1] if compiled[0] != "error" else offset
    return outcomes


def image(raw: bytes, hdu: int) -> FitsImage | FitsFormatError:
    try:
        return image_from_bytes(raw, hdu)
    except FitsFormatError as error:
        return error


@pytest.mark.parametrize("target", SEEDS)
def test_parsers_agree(target: str) -> None:
    for name, raw in inputs(target).items():
        try:
            headers(raw)
        except AssertionError as error:
            error.add_note(f"input {name}")
            raise


def test_pixels_agree() -> None:
    decoded = 0
    for name, raw in inputs("image").items():
        for hdu in range(len(headers(raw))):
            described = image(raw, hdu)
            if isinstance(described, FitsFormatError):
                continue
            with np.errstate(all="ignore"):  # values beyond float32 are infinite on both sides
                compiled, reference = (described.pixels(backend=backend) for backend in ("cpp", "reference"))
            assert compiled.tobytes() == reference.tobytes(), f"input {name}, HDU {hdu}"
            assert compiled.shape == described.array.shape
            decoded += compiled.size > 0
    assert decoded >= 20


def test_seeds_begin_everywhere() -> None:
    """All pixel types and numbers of axes are among what is read, and many kinds of damage among the rest."""
    assert max(len(raw) for make in SEEDS.values() for raw in make().values()) <= MAX_BYTES
    results = [result for raw in SEEDS["header"]().values() for result in headers(raw)]
    assert len({result[1] for result in results if result[0] == "error"}) >= 12
    images = [image(raw, hdu) for raw in SEEDS["image"]().values() for hdu in range(3)]
    read = [described for described in images if isinstance(described, FitsImage)]
    assert {described.header.bitpix for described in read} == {8, 16, 32, 64, -32, -64}
    assert {described.array.ndim for described in read} >= {1, 2, 3, 4, 5}
    assert len({error.what for error in images if isinstance(error, FitsFormatError)}) >= 5
