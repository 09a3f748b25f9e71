"""What the compiled module offers. `_native.py` alone imports it."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

class BuildInfo(TypedDict):
    version: str
    source_hash: str
    compiler: str
    build_type: str
    cuda: bool
    cuda_why_not: str
    cuda_compiler: str
    cuda_architectures: str

_Value = bool | int | float | str | tuple[str, str] | None

def build_info() -> BuildInfo: ...
def decode(
    array: np.ndarray,
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
    bscale: float,
    bzero: float,
    blank: int | None,
    threads: int,
) -> None: ...

class ViewSettings:
    def __init__(
        self,
        *,
        mode: str,
        interpolation: str,
        border: str,
        max_angle_deg: float,
        max_shift: float,
        flips: bool,
        jitter: float,
        has_noise: bool,
        standardise: bool,
    ) -> None: ...

def views(
    *,
    parts: list[np.ndarray],
    rows: NDArray[np.int64],
    objid: NDArray[np.int64] | None,
    out: NDArray[np.float32],
    bscale: float,
    bzero: float,
    blank: int | None,
    settings: ViewSettings,
    noise: NDArray[np.float32],
    seed: int,
    epoch: int,
    num_views: int,
    patch: int,
    threads: int,
) -> None: ...

# values (a pair is why one cannot be read, and where), text, bitpix, shape, data offset and size, next offset
def parse_header(
    buffer: memoryview, offset: int
) -> tuple[dict[str, _Value], str, int, tuple[int, ...], int, int, int]: ...

# the first path, from `begin` on, that cannot be read as planned; the number of paths if there is none
def read_cutouts(
    paths: list[str],
    *,
    begin: int,
    hdus: Sequence[int],
    bitpix: int,
    shape: Sequence[int],
    bscale: float,
    bzero: float,
    blank: int | None,
    decode: bool,
    max_file_size: int,
    out: NDArray[np.uint8],
    threads: int,
) -> int: ...

# The rest is there only if build_info()["cuda"].
def cuda_devices() -> tuple[int, str]: ...
def decode_cuda(
    *,
    first: int,
    kind: str,
    item_size: int,
    swapped: bool,
    shape: tuple[int, int, int, int],
    strides: tuple[int, int, int, int],
    rows: int,
    num_rows: int,
    out: int,
    bscale: float,
    bzero: float,
    blank: int | None,
    device: int,
    stream: int,
) -> None: ...
