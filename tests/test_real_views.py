"""Real frames, cut into a grid of stamps where they lie, go through every way to tokens."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest
import torch

from margformer_fast.config import AugmentConfig
from margformer_fast.data.fits import image_from_bytes
from margformer_fast.ops.augment_patchify import augment_patchify
from margformer_fast.ops.decode_patchify import decode_patchify
from margformer_fast.ops.patchify import patchify
from margformer_fast.ops.stamps import Stamps

SIDE = 32


def grid_of(folder: Path) -> tuple[Stamps, np.ndarray]:
    """All whole 32 x 32 squares of a field, described in its five stacked frames; and the same cut out."""
    frames = []
    for band in "ugriz":
        (path,) = folder.glob(f"frame-{band}-*.fits.bz2")
        frames.append(image_from_bytes(bz2.decompress(path.read_bytes()), name=path).array)
    stack = np.stack(frames)  # big-endian, as in the files
    lines, columns = stack.shape[1] // SIDE, stack.shape[2] // SIDE
    band, row, pixel = stack.strides
    # A part for each line of squares: within one, squares follow at equal distance.
    parts = tuple(
        np.lib.stride_tricks.as_strided(
            stack[:, line * SIDE :],
            (columns, 5, SIDE, SIDE),
            (SIDE * pixel, band, row, pixel),
            writeable=False,
        )
        for line in range(lines)
    )
    whole = stack[:, : lines * SIDE, : columns * SIDE].astype(np.float32)
    cut = whole.reshape(5, lines, SIDE, columns, SIDE).transpose(1, 3, 0, 2, 4).reshape(-1, 5, SIDE, SIDE)
    return Stamps(parts), cut


@pytest.mark.parametrize("field", ["94-1-12", "1035-6-17", "1043-5-25"])
def test_real_fields(field: str, real_data: Path, rng: np.random.Generator) -> None:
    stamps, cut = grid_of(real_data / "sdss" / field)
    assert len(stamps) == len(cut) == 46 * 64
    assert np.abs(cut).max() > 10  # there are stars
    tokens = decode_patchify(stamps, patch_size=4, backend="cpp")
    assert torch.equal(tokens, patchify(torch.from_numpy(cut), 4))
    rows = rng.permutation(len(stamps))[:300]
    objid = rng.integers(0, 2**62, 300)
    for config in (AugmentConfig(), AugmentConfig(mode="composed", interpolation="bilinear", border="edge")):
        views = {
            backend: augment_patchify(
                stamps,
                rows,
                objid,
                config,
                seed=1,
                epoch=2,
                num_views=2,
                patch_size=4,
                backend=backend,
            )
            for backend in ("cpp", "reference")
        }
        if config.interpolation == "nearest":
            assert torch.equal(views["cpp"], views["reference"])
        else:
            scale = views["reference"].abs().amax(dim=(2, 3), keepdim=True)
            assert ((views["cpp"] - views["reference"]).abs() <= 2e-6 * scale).all()
